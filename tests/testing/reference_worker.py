"""A worker whose trials are formulas; trial 1 kills it in its second epoch, as `function.kills` says.

    python -m tests.testing.reference_worker FD

Its loop is the real one; it spares the import of torch, which takes seconds at each of its deaths.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from hpsearch.contracts.messages import Ready
from hpsearch.contracts.trial import TrialRun
from hpsearch.service.worker import Loop
from hpsearch.testing import ReferenceEngine


def before(run: TrialRun, epoch: int) -> None:
    if run.number == 1 and epoch == 2:
        killed = Path(run.folder).with_suffix(".killed")
        if run.spec.function["kills"] == "always" or not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    pipe, engine = Connection(int(sys.argv[1])), ReferenceEngine(before=before)
    setup = pipe.recv()
    host, capacity = socket.gethostname(), engine.capacity
    pipe.send(Ready(setup.worker, os.getpid(), "cpu", {}, None, 0.0, host=host, capacity=capacity))
    with contextlib.suppress(EOFError, OSError):  # the driver is gone
        Loop(pipe, engine, threading.Event(), setup.worker).run()


if __name__ == "__main__":
    main()
