"""Does an ensemble of kept models beat the confirmed one, at no further epoch?

    python -m tests.benchmarks.ensemble [--data-root FOLDER] [--seeds 5] [--trials 24]

Searches the digits, and with --data-root a twentieth of Fashion-MNIST, with several seeds; confirms the best with three
repeats, and joins up to five of what was kept. One line each: test loss and error of both.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import hpsearch
from hpsearch.results.commands import api

SPLIT = {"train": 0.5, "val": 0.1, "test": 0.4}  # many images to judge by: a model errs on 10 of 719
SETS: dict[str, dict[str, Any]] = {
    "digits": {"dataset": "digits", "split": SPLIT},
    "fashion": {"dataset": "FashionMNIST", "subset": 0.05, "augment": [{"name": "crop", "padding": 2}]},
}


def study(kind: str, seed: int, trials: int, data_root: str | None) -> dict[str, Any]:
    return {
        "study": {"name": f"{kind}-{seed}", "seed": seed, "trials": trials},
        "data": {**SETS[kind], "root": data_root},
        "model": {"name": "cnn", "args": {"width": 16}},
        "search": {
            "learning_rate": {"low": 1e-3, "high": 0.5, "log": True},
            "batch_size": [16, 32, 64],
            "epochs": {"low": 4, "high": 12},
        },
        "early_stopping": {"patience": 4},
        "checkpoint": {"keep": 10},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=24)
    arguments = parser.parse_args()
    won = played = 0
    for kind in ("digits", "fashion") if arguments.data_root else ("digits",):
        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as folder:
                made = study(kind, seed, arguments.trials, arguments.data_root if kind == "fashion" else None)
                place = {"run_folder": Path(folder), "gpus": "none"}
                hpsearch.run(made, progress=False, **place)
                hpsearch.confirm(made["study"]["name"], top=1, seeds=3, progress=False, **place)
                found = api.join(made["study"]["name"], ensemble=5, **place)
            joined, single = found.test["joined"], found.test["single"]
            won, played = won + (joined.loss < single.loss), played + 1
            print(
                f"{kind} seed {seed}: test loss {single.loss:.4f} -> {joined.loss:.4f}, test error "
                f"{single.error:.4f} -> {joined.error:.4f} ({len(found.members)} models)",
                flush=True,
            )
    print(f"the ensemble has the lower test loss in {won} of {played} searches")


if __name__ == "__main__":
    main()
