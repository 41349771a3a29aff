"""Several drivers on one study: the total is met exactly, whatever the database.

    python -m tests.faults.drivers STORAGE_URL [--drivers 2] [--workers 8] [--trials 500]

Each driver is a process with workers of `tests.benchmarks.pulse` (they report at once and train nothing); the
log that the workers write is the ground truth.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.databases import stored_trials

ROOT = Path(__file__).parents[2]

SPEC = {
    "study": {"name": "shared"},
    "data": {"dataset": "digits"},
    "train": {"epochs": 2},
    "search": {"learning_rate": {"low": 1e-4, "high": 1.0, "log": True}},
    "early_stopping": {"criterion": "none"},
    "sampler": {"name": "random"},
}

DRIVER = """
import sys
from pathlib import Path
from hpsearch.executors.local import LocalExecutor
from hpsearch.contracts.executor import Workers
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.study import parse_study
from hpsearch.files.run_folder import RunFolder
from tests.faults.drivers import SPEC
url, folder, workers, trials = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
spec = parse_study({**SPEC, "study": {**SPEC["study"], "trials": trials}})
options = RunOptions(storage=url, run_folder=folder, workers=Workers("none", workers=workers))
executor = LocalExecutor(RunFolder(folder, "shared"), module="tests.benchmarks.pulse")
raise SystemExit(run(spec, options, executor=executor).exit_status)
"""


def share(url: str, folder: Path, drivers: int, workers: int, trials: int) -> dict[str, object]:
    """Runs the drivers side by side and compares the workers' log with the database.

    Returns:
        What was counted: finished trials, how many each driver trained, seconds.
    """
    begun = time.monotonic()
    processes = []
    for number in range(drivers):
        home = folder / str(number)
        home.mkdir()
        environ = {**os.environ, "PULSE_SECONDS": "0.002", "PULSE_LOG": str(home)}
        command = [sys.executable, "-c", DRIVER, url, str(home), str(workers), str(trials)]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environ))
    statuses = [process.wait(timeout=600) for process in processes]
    assert statuses == [0] * drivers, statuses
    trained = Counter(
        line for file in folder.glob("*/trained-*.txt") for line in file.read_text().splitlines() if line
    )
    states = Counter(trial.state.name for trial in stored_trials(url, "shared"))
    assert states == {"COMPLETE": trials}, states
    assert trained == {str(number): 1 for number in range(trials)}, "a trial was trained twice or never"
    by_driver = [
        sum(len(file.read_text().splitlines()) for file in (folder / str(n)).glob("trained-*.txt"))
        for n in range(drivers)
    ]
    return {"trials": trials, "by driver": by_driver, "seconds": round(time.monotonic() - begun, 1)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("storage")
    options.add_argument("--drivers", type=int, default=2)
    options.add_argument("--workers", type=int, default=8)
    options.add_argument("--trials", type=int, default=500)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(share(args.storage, Path(folder), args.drivers, args.workers, args.trials)))


if __name__ == "__main__":
    main()
