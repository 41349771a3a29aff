"""`hpsearch check --executor`: does a worker on the cluster find what a run needs?"""

import time
from collections.abc import Callable

from hpsearch import errors
from hpsearch.contracts.executor import Executor
from hpsearch.contracts.messages import Ready, SetupFailed, Shutdown, Waiting, WorkerExit, WorkerSetup
from hpsearch.contracts.places import WorkerPlace
from hpsearch.errors import HpsearchError, UserError
from hpsearch.files.run_folder import RunFolder

LEAVE = 30.0  # seconds in which the worker must have left


def try_worker(
    executor: Executor, place: WorkerPlace, setup: WorkerSetup, folder: RunFolder, say: Callable[[str], None]
) -> str:
    """Starts one worker as a run would; returns a sentence on what it has found.

    It has read a file of the run folder that was written here (its token), and what it writes there (its log) is
    read here: so the folder is shared. It also imports what the study names, and loads the data.

    Args:
        say: called with what is waited for.

    Raises:
        UserError: it cannot be started, or does not find what it needs.
    """
    began = time.time()
    executor.start(place, setup)
    try:
        ready = _ready(executor, folder, say)
        executor.send(place.worker, Shutdown())
    finally:
        executor.close(LEAVE)
    logs = (folder.home / "logs").glob(f"worker-{place.worker}.*.log")
    if not any(log.stat().st_size and log.stat().st_mtime >= began - 1.0 for log in logs):
        raise UserError(
            f"--run-folder: a worker on {ready.host} reads {folder.home}, but what it writes to logs/ there does not "
            f"arrive here; {_REMEDY}"
        )
    return f"a worker on {ready.host} was ready on {ready.device} after {ready.seconds:.1f} s; it shares {folder.root}"


_REMEDY = "choose a --run-folder on a file system that the cluster's nodes share and may write to"


def _ready(executor: Executor, folder: RunFolder, say: Callable[[str], None]) -> Ready:
    while True:
        for message in executor.receive(0.5):
            match message:
                case Ready():
                    return message
                case Waiting(_, text):
                    say(text)
                case SetupFailed():
                    kind: type[HpsearchError] = getattr(errors, message.user_error or "", HpsearchError)
                    raise kind(
                        f"a worker elsewhere cannot train this study: {message.message}\n{message.traceback}"
                    )
                case WorkerExit():
                    raise UserError(
                        f"--run-folder: a worker elsewhere did not come to use {folder.root}: {message.reason}; if its "
                        f"last output does not say why, {_REMEDY}; or it does not reach this machine: see --listen\n"
                        f"{message.stderr}".rstrip()
                    )
