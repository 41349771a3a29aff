"""How quickly the driver decides, beside plain Optuna processes on the same kind of database.

    python -m tests.benchmarks.driver [--workers 32] [--trials 96] [--epochs 20] [--storage URL] [--json FILE]
    python -m tests.benchmarks.driver --scaling 1 8 32 64

32 worker processes report 10 epochs a second each (no training: only the driver is measured, with the display and the
publisher that `hpsearch run` gives it). Printed: median, p99 and worst time from result to decision as the workers
saw it, the same from result to its commit, errors, lost trials. Beside it as many plain Optuna processes that call
`report` and `should_prune` on one SQLite file with Optuna's defaults. `--scaling` measures numbers of workers one
after another and prints their throughput as a share of the ideal: what the workers spent in training (here: asleep)
of the time from each one's first trial to its last.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import optuna

from hpsearch.contracts.executor import Workers
from hpsearch.contracts.trial import EpochResult
from hpsearch.executors.local import LocalExecutor
from hpsearch.files.run_folder import RunFolder
from hpsearch.results.dashboard.publisher import Publisher
from hpsearch.results.terminal.display import PlainDisplay
from hpsearch.search.outcome import Verdict
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.service.study import Study
from hpsearch.study import parse_study

PEER = """
import json, sys, time, random, optuna
url, trials, epochs, pause, out = sys.argv[1], *map(float, sys.argv[2:5]), sys.argv[5]
optuna.logging.set_verbosity(optuna.logging.ERROR)
latencies, errors = [], 0
study = optuna.load_study(study_name="peer", storage=url, pruner=optuna.pruners.MedianPruner())
for _ in range(int(trials)):
    try:
        trial = study.ask()
        trial.suggest_float("learning_rate", 1e-4, 1, log=True)
        level = random.uniform(0.1, 2)
        for epoch in range(1, int(epochs) + 1):
            time.sleep(pause * random.uniform(0.9, 1.1))
            sent = time.perf_counter()
            trial.report(level + 1 / epoch, epoch)
            stop = trial.should_prune()
            latencies.append(time.perf_counter() - sent)
            if stop:
                break
        study.tell(trial, level, state=optuna.trial.TrialState.COMPLETE)
    except Exception as error:
        errors += 1
json.dump([latencies, errors], open(out, "w"))
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--workers", type=int, default=32)
    options.add_argument("--trials", type=int, default=96)
    options.add_argument("--epochs", type=int, default=20)
    options.add_argument("--pause", type=float, default=0.1, help="seconds between two results of a worker")
    options.add_argument("--storage", help="URL; default: a new SQLite file")
    options.add_argument("--no-peer", action="store_true")
    options.add_argument("--scaling", type=int, nargs="+", metavar="WORKERS")
    options.add_argument("--json", type=Path)
    args = options.parse_args()
    if args.scaling:
        scaling(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = {"hpsearch": ours(args, Path(folder))}
        if not args.no_peer:
            rows["optuna"] = peer(args, Path(folder))
    facts = {"python": platform.python_version(), "optuna": optuna.__version__, "cores": os.cpu_count()}
    print(f"{args.workers} workers, a result each {args.pause:g} s, {facts}")
    for name, row in rows.items():
        print(f"{name:>9}: " + ", ".join(f"{key} {value}" for key, value in row.items()))
    if args.json:
        args.json.write_text(json.dumps({"facts": facts, **rows}, indent=1))


def scaling(args: argparse.Namespace) -> None:
    """Prints the throughput of several numbers of workers as shares of the ideal."""
    for workers in args.scaling:
        args.workers, args.trials = workers, 4 * workers
        with tempfile.TemporaryDirectory() as folder:
            row = ours(args, Path(folder))
        print(
            f"{workers:>3} workers: " + ", ".join(f"{key} {value}" for key, value in row.items()), flush=True
        )


@contextlib.contextmanager
def waits_until_written() -> Iterator[list[float]]:
    """Gives the seconds that each result waits until it is committed, by way of the driver's own calls."""
    waits: list[float] = []
    reported: list[float] = []
    report, flush = Study.report, Study.flush

    def reporting(study: Study, number: int, result: EpochResult) -> Verdict | None:
        reported.append(time.perf_counter())
        return report(study, number, result)

    def flushing(study: Study) -> bool:
        ended, now = flush(study), time.perf_counter()
        waits.extend(now - then for then in reported)
        reported.clear()
        return ended

    with mock.patch.multiple(Study, report=reporting, flush=flushing):
        yield waits


def ours(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Returns the figures of one run through the real driver, executor and database."""
    log = folder / "latencies"
    log.mkdir()
    os.environ.update(PULSE_SECONDS=str(args.pause), PULSE_LOG=str(log))
    spec = parse_study(
        {
            "study": {"name": "pulse", "trials": args.trials},
            "data": {"dataset": "digits"},
            "train": {"epochs": args.epochs},
            "search": {
                "learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
                "train.momentum": {"low": 0.0, "high": 0.99},
            },
            "pruner": {"name": "median"},
        }
    )
    url = args.storage or f"sqlite:///{folder}/s.db"
    options = RunOptions(storage=url, run_folder=folder, workers=Workers("none", workers=args.workers))
    executor = LocalExecutor(RunFolder(folder, "pulse"), module="tests.benchmarks.pulse")
    with waits_until_written() as waits, Path(os.devnull).open("w") as nowhere:
        summary = run(spec, options, [PlainDisplay(nowhere), Publisher(url, folder)], executor)
    latencies = [value for file in log.glob("*.json") for value in json.loads(file.read_text())]
    study = optuna.load_study(study_name="pulse", storage=url)
    finished = sum(trial.state.is_finished() for trial in study.trials)
    reported = sum(len(trial.intermediate_values) for trial in study.trials)
    spent = [json.loads(file.read_text()) for file in log.glob("*.spent")]
    share = sum(busy for busy, _ in spent) / sum(span for _, span in spent)
    written = figures(waits)
    return {
        **figures(latencies),
        "until written: median ms": written["median ms"],
        "p99": written["p99 ms"],
        "of the ideal throughput": f"{share:.1%}",
        "trials": finished,
        "lost trials": args.trials - finished,
        "lost results": len(latencies) - reported,
        "errors": summary.counts.get("FAIL", 0),
        "seconds": round(summary.seconds, 1),
        "driver's processor share": f"{summary.driver_seconds / summary.seconds:.0%}",
    }


def peer(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Returns the figures of as many plain Optuna processes."""
    url = f"sqlite:///{folder}/peer.db"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna.create_study(study_name="peer", storage=url)
    begun = time.monotonic()
    share = args.trials // args.workers
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                PEER,
                url,
                str(share),
                str(args.epochs),
                str(args.pause),
                f"{folder}/{n}.out",
            ]
        )
        for n in range(args.workers)
    ]
    for process in processes:
        process.wait()
    seconds = time.monotonic() - begun
    parts = [json.loads(file.read_text()) for file in folder.glob("*.out")]
    study = optuna.load_study(study_name="peer", storage=url)
    finished = sum(trial.state.is_finished() for trial in study.trials)
    return {
        **figures([value for latencies, _ in parts for value in latencies]),
        "trials": finished,
        "lost trials": args.trials - finished,
        "errors": sum(errors for _, errors in parts),
        "seconds": round(seconds, 1),
    }


def figures(latencies: list[float]) -> dict[str, object]:
    """Returns median, p99 and worst in milliseconds."""
    latencies = sorted(latencies)
    return {
        "results": len(latencies),
        "median ms": round(statistics.median(latencies) * 1e3, 1),
        "p99 ms": round(latencies[int(len(latencies) * 0.99)] * 1e3, 1),
        "worst ms": round(latencies[-1] * 1e3, 1),
    }


if __name__ == "__main__":
    main()
