"""A study whose workers dial through a line that is cut again and again: no epoch is lost or trained twice.

python -m tests.faults.network [--trials 8] [--cuts 100] [--workers 2] [--seed 0]
"""

import argparse
import json
import random
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.databases import Proxy
from tests.faults.bench import ROOT, Bench


def cut(bench: Bench, cuts: int, seed: int = 0) -> int:
    """Runs a study and cuts the line so often, as long as it runs; returns how often it was cut."""
    chance = random.Random(seed)
    driver = bench.start()
    out = bench.folder / "driver-0.out"
    shown = re.compile(r"start one with hpsearch (worker --dial (\S+) [^\"]+)")
    bench.wait_for(lambda: bool(shown.search(out.read_text())), "the command that starts a worker")
    found = shown.search(out.read_text())
    assert found is not None
    proxy = Proxy(f"postgresql://{found[2]}/x")
    with (bench.folder / "workers.out").open("wb") as log:
        words = shlex.split(found[1].replace(found[2], f"127.0.0.1:{proxy.port}"))
        start = [sys.executable, "-P", "-m", "hpsearch", *words]
        workers = [
            subprocess.Popen(start, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
            for _ in range(bench.workers)
        ]
    done = 0
    try:
        bench.wait_for(lambda: len(bench.lines()) > 1, "epochs")
        while done < cuts and driver.poll() is None:
            seen = len(bench.lines())
            pause = time.monotonic() + chance.uniform(0.0, 0.2)
            bench.wait_for(lambda: time.monotonic() > pause, "pause")  # noqa: B023
            proxy.cut()
            proxy.mend()
            done += 1
            bench.wait_for(lambda: len(bench.lines()) > seen or driver.poll() is not None, "an epoch")  # noqa: B023
        assert driver.wait(timeout=300) == 0, bench.output()
        for worker in workers:
            assert worker.wait(timeout=60) == 0
    finally:
        proxy.cut()
        for worker in workers:
            worker.kill()
            worker.wait()
    return done


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--trials", type=int, default=8)
    options.add_argument("--cuts", type=int, default=100)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        bench = Bench(Path(folder), trials=args.trials, workers=args.workers, flags=("--executor", "dial"))
        try:
            cuts = cut(bench, args.cuts, args.seed)
            counted = bench.check(faults=0)
        finally:
            bench.end()
        print(json.dumps({"cuts": cuts, **counted, "seconds": round(time.monotonic() - begun)}))


if __name__ == "__main__":
    main()
