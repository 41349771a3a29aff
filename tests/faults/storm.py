"""A storm of faults over a study: whatever dies, whenever, nothing is lost.

    python -m tests.faults.storm [--trials 40] [--faults 100] [--workers 4] [--seed 0] [--storage URL]

SIGKILL of workers and of the driver, SIGTERM of both, SIGSTOP for a while, and a database that is away (an
SQLite file locked, a server whose connections are all cut and refused) hit a running study in a seeded order; a
driver that has ended is started again. Faults hit processes that train: never one that is still starting, for
the storm tests recovery and not patience.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.databases import Proxy, proxied
from tests.faults.bench import Bench, alive

KINDS = {
    "kill worker": 8,
    "end worker": 2,
    "stop worker": 3,
    "kill driver": 3,
    "end driver": 2,
    "stop driver": 2,
    "database away": 2,
}


def storm(bench: Bench, faults: int, seed: int, line: Proxy | None = None) -> Counter[str]:
    """Lets so many faults loose on a study and then lets it finish; returns the faults by kind.

    Args:
        line: to the study's database, if that is on a server.
    """
    chance = random.Random(seed)
    done: Counter[str] = Counter()
    driver = bench.start()
    while sum(done.values()) < faults:
        bench.wait_for_training(driver)
        if driver.poll() is not None:
            if driver.returncode == 0:
                break  # the study was finished before the storm was
            driver = bench.start()
            continue
        seen = len(bench.lines())
        pause = time.monotonic() + chance.uniform(0.05, 0.4)
        bench.wait_for(lambda: time.monotonic() > pause, "pause")  # noqa: B023
        kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
        if driver.poll() is None and hit(bench, kind, driver.pid, chance, line):
            done[kind] += 1
            if kind in ("kill driver", "end driver"):
                driver.wait(timeout=60)
            else:
                # The next fault waits for an epoch, so that a study cannot be kept from all progress.
                bench.wait_for(
                    lambda: len(bench.lines()) > seen + 1 or driver.poll() is not None,  # noqa: B023
                    f"an epoch after {kind}",
                )
    if driver.poll() is None:
        assert driver.wait(timeout=600) == 0, bench.output()
    elif driver.returncode != 0:
        bench.finish(600)
    return done


def hit(bench: Bench, kind: str, driver: int, chance: random.Random, line: Proxy | None) -> bool:
    """Strikes once; returns whether there was something to strike."""
    workers = sorted(
        {line["pid"] for line in bench.lines() if line["driver"] == driver and alive(line["pid"])}
    )
    match kind:
        case "kill driver":
            os.kill(driver, signal.SIGKILL)
        case "end driver":
            os.kill(driver, chance.choice([signal.SIGTERM, signal.SIGINT]))
        case "stop driver":
            pause(driver, chance.uniform(0.5, 1.5))
        case "database away" if line is not None:
            line.cut()
            time.sleep(chance.uniform(0.5, 2))
            line.mend()
        case "database away":
            lock(bench.storage.removeprefix("sqlite:///"), chance.uniform(0.5, 2))
        case "kill worker" if workers:
            os.kill(chance.choice(workers), signal.SIGKILL)
        case "end worker" if workers:
            os.kill(chance.choice(workers), signal.SIGTERM)
        case "stop worker" if workers:
            pause(chance.choice(workers), chance.uniform(0.3, 1))
        case _:
            return False
    return True


def pause(pid: int, seconds: float) -> None:
    """Suspends a process for a while."""
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):  # its driver, or a fault before, has ended it meanwhile
        os.kill(pid, signal.SIGCONT)


def lock(path: str, seconds: float) -> None:
    """Keeps everybody else from writing into a SQLite file for a while."""
    with sqlite3.connect(path, isolation_level=None, timeout=30) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(seconds)
        connection.execute("ROLLBACK")
    connection.close()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--trials", type=int, default=40)
    options.add_argument("--faults", type=int, default=100)
    options.add_argument("--workers", type=int, default=4)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--storage", default="")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        begun = time.monotonic()
        is_server = args.storage and not args.storage.startswith("sqlite")
        line = stack.enter_context(proxied(args.storage)) if is_server else None
        storage = line.url if line else args.storage
        bench = Bench(Path(folder), trials=args.trials, workers=args.workers, storage=storage)
        try:
            faults = storm(bench, args.faults, args.seed, line)
            counted = bench.check(sum(faults.values()))
        finally:
            bench.end()
        seconds = round(time.monotonic() - begun)
    print(json.dumps({"faults": sum(faults.values()), **faults, **counted, "seconds": seconds}))


if __name__ == "__main__":
    main()
