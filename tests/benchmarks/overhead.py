"""What a study costs beside its training: the digits study with 1 and with 2 workers.

    python -m tests.benchmarks.overhead [--rounds 3] [--trials 32] [--json FILE]

The numbers of workers take turns, each round with a seed of its own. `not training` is the share of the workers'
time, from each one's first trial to its last, in which it did not train, validate or make checkpoints; the first
trial begins when the worker has imported torch and loaded the data. `driver` is the driver's processor time as a
share of the wall time of the whole study, which publishes its graphs as `hpsearch run` does. `throughput` is epochs
per second of that span, 2 workers over 1.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path

import optuna
import torch

from hpsearch.contracts.executor import Workers
from hpsearch.results.dashboard.publisher import Publisher
from hpsearch.results.terminal.display import PlainDisplay
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.study import load_study_file

STUDY = Path(__file__).parents[2] / "studies" / "digits.toml"


def main() -> None:
    """Runs the studies and prints medians over the rounds."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--trials", type=int, default=32)
    options.add_argument("--json", type=Path)
    args = options.parse_args()
    rows: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for seed in range(args.rounds):
        for workers, found in rows.items():
            with tempfile.TemporaryDirectory() as folder:
                found.append(measure(Path(folder), workers, args.trials, seed))
            print(workers, {name: round(value, 4) for name, value in found[-1].items()}, flush=True)
    facts = {"python": platform.python_version(), "torch": torch.__version__, "cores": os.cpu_count()}
    print(f"medians of {args.rounds} rounds, {facts}")
    for workers, found in rows.items():
        middle = {name: statistics.median(row[name] for row in found) for name in found[0]}
        print(
            f"{workers} workers: {middle['not training']:.1%} of the workers' time not training, driver "
            f"{middle['driver']:.1%} of the wall time, {middle['epochs per second']:.1f} epochs a second, "
            f"{middle['seconds']:.1f} s"
        )
    ratios = [
        two["epochs per second"] / one["epochs per second"] for one, two in zip(rows[1], rows[2], strict=True)
    ]
    print(f"throughput, 2 workers over 1: {statistics.median(ratios):.2f} times")
    if args.json:
        args.json.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1), encoding="utf-8")


def measure(folder: Path, workers: int, trials: int, seed: int) -> dict[str, float]:
    """Returns the figures of one study."""
    spec = load_study_file(STUDY)
    study = spec.study.model_copy(update={"name": "digits", "trials": trials, "seed": seed})
    spec = spec.model_copy(update={"study": study})
    url = f"sqlite:///{folder}/s.db"
    options = RunOptions(storage=url, run_folder=folder / "runs", workers=Workers("none", workers=workers))
    with Path(os.devnull).open("w") as nowhere:
        summary = run(spec, options, [PlainDisplay(nowhere), Publisher(url, folder / "runs")])
    ended = [trial for trial in optuna.load_study(study_name="digits", storage=url).trials if trial.duration]
    spans, trained, epochs = 0.0, 0.0, 0
    for worker in {trial.user_attrs["worker"] for trial in ended}:
        own = [trial for trial in ended if trial.user_attrs["worker"] == worker]
        last = max(trial.datetime_complete for trial in own if trial.datetime_complete)
        first = min(trial.datetime_start for trial in own if trial.datetime_start)
        spans += (last - first).total_seconds()
        trained += sum(sum(trial.user_attrs["epoch_seconds"]) for trial in own)  # with validation, checkpoint
        epochs += sum(trial.user_attrs["epochs_run"] for trial in own)
    return {
        "not training": 1 - trained / spans,
        "driver": summary.driver_seconds / summary.seconds,
        "epochs per second": epochs / spans * workers,
        "seconds": summary.seconds,
        "trials": float(len(ended)),
    }


if __name__ == "__main__":
    main()
