"""What a continued trial is worth beside a fresh one of as many epochs.

    python -m tests.benchmarks.continuation [--pairs 20] [--epochs 20] [--cooldown 0.1]

Trains trials of the digits with `wsd`, continues each with `hpsearch continue` to twice its epochs, and trains two
fresh trials of that length beside each. The pairs share learning rates, those around the best one, and nothing
else: each trial has random numbers of its own, so that the pairs are independent. Printed are the epochs that were
trained after the checkpoint, as a share of the long trial's, and the difference of the best validation losses: its
mean over the pairs, the standard error and the worst pair, beside what the two fresh trials differ by.
"""

import argparse
import tempfile
from collections.abc import Sequence
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

RATES = [0.05, 0.1, 0.15, 0.2]
"""Around the one with the lowest loss after 40 epochs."""


def study(name: str, epochs: int, cooldown: float, repeats: range) -> StudySpec:
    """Returns a study with one trial for each repeat, the learning rates by turns."""
    tree: dict[str, Any] = {
        "study": {"name": name, "trials": len(repeats), "policy": "sampled"},
        "data": {"dataset": "digits"},
        "model": {"name": "mlp", "args": {"hidden": [32]}},
        "train": {"epochs": epochs, "schedule": "wsd", "cooldown": cooldown, "batch_size": 64},
        "search": {"learning_rate": RATES, "train.repeat": list(repeats)},
        "enqueue": [
            {"learning_rate": RATES[place % len(RATES)], "train.repeat": repeat}
            for place, repeat in enumerate(repeats)
        ],
        "sampler": {"name": "random"},
        "early_stopping": {"criterion": "none"},
        "checkpoint": {"keep": "all"},
    }
    return parse_study(tree)


def scores(trials: Sequence[TrialRecord]) -> list[float]:
    """Returns the best validation losses in the order of the trials' random numbers."""
    found = {trial.hparams["train.repeat"]: trial.score for trial in trials}
    return [score for _, score in sorted(found.items()) if score is not None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--cooldown", type=float, default=0.1)
    args = parser.parse_args()
    pairs = args.pairs
    with tempfile.TemporaryDirectory(prefix="continuation-") as name:
        options = RunOptions(storage=f"sqlite:///{name}/s.db", run_folder=Path(name) / "runs")
        run(study("short", args.epochs, args.cooldown, range(pairs)), options, executor=InProcessExecutor())
        for fresh in ("first", "second"):
            own = range(pairs, 2 * pairs) if fresh == "first" else range(2 * pairs, 3 * pairs)
            run(study(fresh, 2 * args.epochs, args.cooldown, own), options, executor=InProcessExecutor())
        for number in range(pairs):
            continue_trial("short", options, 2 * args.epochs, trial=number, executor=InProcessExecutor())
        short, *fresh_ones = (read_study(n, options.storage).trials for n in ("short", "first", "second"))
    longer = [trial for trial in short if "continues" in trial.attrs]
    share = mean(1 - trial.attrs["from_epoch"] / trial.epochs_run for trial in longer)
    print(f"trained after the checkpoint: {share:.1%} of {2 * args.epochs} epochs")
    continued, first, second = map(scores, (longer, *fresh_ones))
    for place, rate in enumerate(RATES):
        means = ", ".join(f"{mean(one[place :: len(RATES)]):.4f}" for one in (continued, first, second))
        print(f"learning rate {rate:g}, best loss of continued, fresh, fresh: {means}")
    print(f"continued - fresh: {_shown(continued, first)}")
    print(f"fresh - fresh:     {_shown(second, first)}")


def _shown(ones: Sequence[float], others: Sequence[float]) -> str:
    values = [one - other for one, other in zip(ones, others, strict=True)]
    error = stdev(values) / len(values) ** 0.5
    return (
        f"{mean(values):+.4f} (standard error {error:.4f}, deviation {stdev(values):.4f}, worst {max(values):+.4f}, "
        f"{len(values)} pairs)"
    )


if __name__ == "__main__":
    main()
