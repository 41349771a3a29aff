"""What a continued trial is worth beside a fresh one of as many epochs.

    python -m tests.benchmarks.continuation [--pairs 20] [--epochs 20] [--cooldown 0.1]

Trains trials of the digits with `wsd` at five learning rates, continues each with `hpsearch continue` to twice its
epochs, and trains as many fresh trials of that length with the same learning rates and other random numbers. Printed
are the epochs that were trained after the checkpoint, as a share of the long trial's, and the difference of the best
validation losses: its mean over the pairs, the standard error and the worst pair, beside what two fresh trials of the
same learning rate differ by.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from hpsearch.results.confirm.continuation import continue_trial
from hpsearch.results.stored.reading import read_study
from hpsearch.results.stored.study import TrialRecord
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.study import StudySpec, parse_study
from hpsearch.testing.in_process import InProcessExecutor

RATES = [0.02, 0.05, 0.1, 0.2, 0.4]


def study(name: str, epochs: int, cooldown: float, repeats: list[int]) -> StudySpec:
    tree: dict[str, Any] = {
        "study": {"name": name, "trials": len(RATES) * len(repeats)},
        "data": {"dataset": "digits"},
        "model": {"name": "mlp", "args": {"hidden": [32]}},
        "train": {"epochs": epochs, "schedule": "wsd", "cooldown": cooldown, "batch_size": 64},
        "search": {"learning_rate": RATES, "train.repeat": repeats},
        "sampler": {"name": "grid"},
        "early_stopping": {"criterion": "none"},
        "checkpoint": {"keep": "all"},
    }
    return parse_study(tree)


def by_rate(trials: list[TrialRecord]) -> dict[float, list[TrialRecord]]:
    """Returns trials by learning rate, in the order of their repeats."""
    ordered = sorted(trials, key=lambda trial: trial.hparams["train.repeat"])
    return {rate: [one for one in ordered if one.hparams["learning_rate"] == rate] for rate in RATES}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--cooldown", type=float, default=0.1)
    args = parser.parse_args()
    repeats = list(range(-(-args.pairs // len(RATES))))
    with tempfile.TemporaryDirectory(prefix="continuation-") as name:
        options = RunOptions(storage=f"sqlite:///{name}/s.db", run_folder=Path(name) / "runs")
        run(study("short", args.epochs, args.cooldown, repeats), options, executor=InProcessExecutor())
        others = [len(repeats) + repeat for repeat in range(2 * len(repeats))]
        run(study("long", 2 * args.epochs, args.cooldown, others), options, executor=InProcessExecutor())
        for number in range(len(RATES) * len(repeats)):
            continue_trial("short", options, 2 * args.epochs, trial=number, executor=InProcessExecutor())
        short, long = (read_study(one, options.storage).trials for one in ("short", "long"))
    longer = [trial for trial in short if "continues" in trial.attrs]
    share = mean(1 - trial.attrs["from_epoch"] / trial.epochs_run for trial in longer)
    print(f"trained after the checkpoint: {share:.1%} of {2 * args.epochs} epochs")
    gaps: list[float] = []
    noise: list[float] = []
    fresh = by_rate(list(long))
    for rate, own in by_rate(longer).items():
        first, second = fresh[rate][: len(own)], fresh[rate][len(own) :]
        gaps += [_gap(one, other) for one, other in zip(own, first, strict=True)]
        noise += [_gap(one, other) for one, other in zip(second, first, strict=True)]
    print(f"best loss of the fresh trials {mean(one.score or 0 for one in long):.4f}")
    print(f"continued - fresh: {_shown(gaps)}")
    print(f"fresh - fresh:     {_shown(noise)}")


def _gap(one: TrialRecord, other: TrialRecord) -> float:
    assert one.score is not None
    assert other.score is not None
    return one.score - other.score


def _shown(values: list[float]) -> str:
    error = stdev(values) / len(values) ** 0.5
    return (
        f"{mean(values):+.4f} (standard error {error:.4f}, deviation {stdev(values):.4f}, worst {max(values):+.4f}, "
        f"{len(values)} pairs)"
    )


if __name__ == "__main__":
    main()
