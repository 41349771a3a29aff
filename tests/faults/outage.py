"""The database away in the middle of a run: trials go on, none begins, nothing is lost or doubled.

    python -m tests.faults.outage STORAGE_URL [--seconds 60]

STORAGE_URL is a database on a server; the driver reaches it by a line that is cut for so long. The log that the
training function writes is the ground truth.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from tests.databases import proxied
from tests.faults.bench import Bench

EPOCH = 0.2  # seconds


def main() -> None:
    """Runs a study of six trials on two workers and prints what was counted."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("storage")
    options.add_argument("--seconds", type=float, default=60.0)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder, proxied(args.storage) as line:
        epochs = round(1.2 * args.seconds / EPOCH)  # those that run outlast the outage
        bench = Bench(
            Path(folder), name=f"outage-{time.time_ns()}", trials=6, epochs=epochs, seconds=EPOCH,
            storage=line.url,
        )  # fmt: skip
        try:
            driver = bench.start()
            bench.wait_for_training(driver, epochs=5)
            before = bench.lines()
            line.cut()
            back = time.monotonic() + args.seconds
            bench.wait_for(lambda: time.monotonic() >= back, "the end of the outage", args.seconds + 60)
            meanwhile = bench.lines()[len(before) :]
            line.mend()
            assert driver.wait(timeout=3600) == 0, bench.output()
            counted = bench.check(faults=0)
        finally:
            bench.end()
    begun = {entry["trial"] for entry in meanwhile} - {entry["trial"] for entry in before}
    print(json.dumps({"trained meanwhile": len(meanwhile), "trials begun meanwhile": len(begun), **counted}))


if __name__ == "__main__":
    main()
