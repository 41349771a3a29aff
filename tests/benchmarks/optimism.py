"""How much a search's best value promises too much: searches on the digits, each confirmed.

    python -m tests.benchmarks.optimism [searches] [trials] [repeats] [workers]

Each search has its own seed. Printed: the mean optimism (confirmed mean minus the search's best validation loss;
above 0, the search promised too much) with its 95 % interval over the searches, and how often the search's first
of three stays first.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch

from hpsearch.results.confirm.confirm import confirm
from hpsearch.results.confirm.statistics import summarize
from hpsearch.service.launch import RunOptions
from hpsearch.service.places import Workers
from hpsearch.service.run import run
from hpsearch.spec import StudySpec, parse_study

TOP = 3


def study(seed: int, trials: int) -> StudySpec:
    return parse_study(
        {
            "study": {"name": f"digits-{seed}", "trials": trials, "seed": seed},
            "data": {"dataset": "digits"},
            "model": {"name": "cnn", "args": {"width": 8, "hidden": 32}},
            "search": {
                "learning_rate": {"low": 1e-3, "high": 1.0, "log": True},
                "batch_size": [32, 64, 128],
                "epochs": {"low": 5, "high": 15},
            },
            "early_stopping": {"patience": 5},
        }
    )


def main() -> None:
    given = [int(text) for text in sys.argv[1:]]
    searches, trials, repeats, workers = [*given, *(10, 12, 5, 2)[len(given) :]]
    optimisms: list[float] = []
    stayed, began = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(
            storage=f"sqlite:///{folder}/h.db",
            run_folder=Path(folder) / "runs",
            workers=Workers(gpus="none", workers=workers),
        )
        for seed in range(searches):
            spec = study(seed, trials)
            run(spec, options)
            found = confirm(spec.study.name, options, top=TOP, seeds=repeats, test=False).confirmation
            if found is None:
                sys.exit(f"search {seed} was interrupted")
            optimism = found.optimisms()[found.search_first]
            optimisms.append(optimism.mean)
            stayed += found.first == found.search_first
            promised = next(
                r.candidate.promised for r in found.results if r.candidate.trial == found.search_first
            )
            print(
                f"search {seed}: best {promised:.4f}, confirmed {promised + optimism.mean:.4f}, optimism "
                f"{optimism.mean:+.4f}, first {'stays' if found.first == found.search_first else 'changes'}",
                flush=True,
            )
    total = summarize(optimisms)
    interval = f"{total.low:+.4f} to {total.high:+.4f}" if total.low is not None else "-"
    print(f"torch {torch.__version__}, CPU, {workers} workers, {time.perf_counter() - began:.0f} s")
    print(f"{searches} searches of {trials} trials, {TOP} configurations x {repeats} repeats each")
    print(f"mean optimism of val_loss {total.mean:+.4f}, std {total.std}, 95 % interval {interval}")
    print(f"the search's first stays first in {stayed} of {searches}")


if __name__ == "__main__":
    main()
