"""The same study on this machine's own workers, on Slurm and on Ray, one after another and again.

    python -m tests.benchmarks.executors [--rounds 3] [--trials 12] [--epochs 20] [--seconds 0.1] [--workers 2]

The training function sleeps, so that the executors differ by what they cost themselves. Start-up, from the command
to the first trained epoch, and the work from there to the last one are told apart; so is what comes after it. Slurm
and Ray run before it begins and have room for all workers.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from tests.faults.bench import Bench
from tests.ray_cluster import ray_cluster
from tests.slurm import slurm

PARTS = ("start", "work", "end")


def measure(bench: Bench, environ: dict[str, str]) -> dict[str, float]:
    """Runs a study; returns the seconds of its parts."""
    begun = time.time()
    assert bench.start(**environ).wait(timeout=600) == 0, bench.output()
    ended = time.time()
    bench.check(faults=0)
    times = [line["time"] for line in bench.lines()]
    first = min(times) - bench.seconds  # its first epoch's beginning
    return dict(zip(PARTS, (first - begun, max(times) - first, ended - max(times)), strict=True))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--trials", type=int, default=12)
    options.add_argument("--epochs", type=int, default=20)
    options.add_argument("--seconds", type=float, default=0.1)
    options.add_argument("--workers", type=int, default=2)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder, slurm() as jobs, ray_cluster(nodes=1) as cluster:
        flags: dict[str, tuple[str, ...]] = {
            "local": (),
            "slurm": ("--executor", "slurm"),
            "ray": ("--executor", "ray", "--address", cluster.address, "--listen", "127.0.0.1"),
        }
        found: dict[str, list[dict[str, float]]] = {name: [] for name in flags}
        for number in range(args.rounds):
            for name in flags:
                bench = Bench(
                    Path(folder, f"{name}-{number}"), trials=args.trials, epochs=args.epochs,
                    seconds=args.seconds, workers=args.workers, flags=flags[name],
                )  # fmt: skip
                try:
                    found[name].append(measure(bench, jobs.environ))
                finally:
                    bench.end()
    ideal = args.trials * args.epochs * args.seconds / args.workers
    shown = {
        name: {part: [round(one[part], 1) for one in runs] for part in PARTS}
        | {"median_work": round(statistics.median(one["work"] for one in runs), 2)}
        for name, runs in found.items()
    }
    print(json.dumps({"ideal_work": ideal, "load": os.getloadavg()[0], **shown}))


if __name__ == "__main__":
    main()
