"""How long 256 workers elsewhere wait for a decision, and what they cost their driver.

    python -m tests.benchmarks.dial [--workers 256] [--trials 512] [--epochs 10] [--seconds 2.0]

One real driver with SQLite; the workers speak the protocol over real sockets, from a few processes, and train
nothing: `tests.benchmarks.pulse` without a process for each. Their latencies include the waiting of their own threads
for the interpreter, so that they are upper bounds.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import threading
import time
from pathlib import Path

from hpsearch.contracts.messages import Ready, Shutdown
from hpsearch.contracts.places import Cluster, Workers
from hpsearch.executors.dial import DialExecutor
from hpsearch.executors.line import read_token
from hpsearch.files.run_folder import RunFolder
from hpsearch.service.dialing import Line, parse_address
from tests.benchmarks import pulse
from tests.faults.drivers import SPEC

PER_PROCESS = 64


def drive(
    folder: Path, workers: int, trials: int, epochs: int, told: "multiprocessing.Queue[object]"
) -> None:
    """Runs the study, and tells what it took."""
    from hpsearch.service.launch import RunOptions
    from hpsearch.service.run import run
    from hpsearch.study import parse_study

    spec = parse_study({**SPEC, "study": {"name": "shared", "trials": trials}, "train": {"epochs": epochs}})
    executor = DialExecutor(RunFolder(folder, "shared"), Cluster())
    told.put(executor.address)
    options = RunOptions(f"sqlite:///{folder}/s.db", folder, workers=Workers("none", workers))
    summary = run(spec, options, executor=executor)
    told.put(
        {
            "trials": summary.counts,
            "wall_s": round(summary.seconds, 1),
            "driver_cpu_s": round(summary.driver_seconds, 2),
            "driver_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }
    )


def generate(
    address: str, token: Path, workers: int, seconds: float, told: "multiprocessing.Queue[object]"
) -> None:
    """Plays so many workers, each in threads of its own; tells how long they waited for decisions."""
    latencies: list[float] = []

    def play() -> None:
        line = Line(parse_address(address), token, read_token(token), "", lambda: None)
        mine: list[float] = []
        with contextlib.suppress(EOFError):
            setup = line.recv()
            line.send(Ready(setup.worker, os.getpid(), "cpu", {}, None, 0.0))
            while not isinstance(message := line.recv(), Shutdown):
                if pulse.train(line, message, seconds, mine):
                    break
        latencies.extend(mine)
        line.close(False)

    threads = [threading.Thread(target=play) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told.put(latencies)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--workers", type=int, default=256)
    options.add_argument("--trials", type=int, default=512)
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--seconds", type=float, default=2.0)
    args = options.parse_args()
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["PULSE_LOG"] = name
        driver_says, workers_say = processes.Queue(), processes.Queue()
        driver = processes.Process(
            target=drive, args=(folder, args.workers, args.trials, args.epochs, driver_says)
        )
        driver.start()
        address = driver_says.get(timeout=120)
        (token,) = (folder / "shared" / "dial").glob("*.token")
        counts = [min(PER_PROCESS, args.workers - begun) for begun in range(0, args.workers, PER_PROCESS)]
        begun = time.monotonic()
        generators = [
            processes.Process(target=generate, args=(address, token, count, args.seconds, workers_say))
            for count in counts
        ]
        for generator in generators:
            generator.start()
        found = driver_says.get(timeout=600)
        latencies = sorted(one for _ in generators for one in workers_say.get(timeout=120))
        for process in (driver, *generators):
            process.join()
    shown = {
        "workers": args.workers,
        "decisions": len(latencies),
        "per_second": round(len(latencies) / (time.monotonic() - begun)),
        "median_ms": round(1000 * statistics.median(latencies), 1),
        "p99_ms": round(1000 * latencies[int(0.99 * len(latencies))], 1),
        "load": os.getloadavg()[0],
    }
    print(json.dumps(shown | dict(found)))


if __name__ == "__main__":
    main()
