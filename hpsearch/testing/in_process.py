"""Workers as threads of this process, over the same pipes and the same loop: for tests."""

import contextlib
import os
import socket
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

from hpsearch.contracts.executor import WorkerPlace, Workers
from hpsearch.contracts.messages import FromWorker, Shutdown, ToWorker, WorkerExit, WorkerSetup
from hpsearch.executors.places import plan
from hpsearch.service.worker import serve

PATIENCE = 1.0  # seconds in which a thread must have ended after its pipe was closed, from either side


@dataclass(slots=True)
class _Thread:
    thread: threading.Thread
    connection: Connection
    killed: bool = False


class InProcessExecutor:
    """Runs workers in threads, which see this process's environment: GPUs and threads of places mean nothing.

    No thread can be ended from outside. `kill` hangs up: the thread ends with the epoch that it is in, and
    nothing of that is heard.
    """

    def __init__(self) -> None:
        self._workers: dict[int, _Thread] = {}

    def places(self, wanted: Workers, threads: int, share: str) -> list[WorkerPlace]:
        return plan(wanted, threads)

    def start(self, place: WorkerPlace, setup: WorkerSetup) -> None:
        ours, theirs = (Connection(end.detach()) for end in socket.socketpair())
        name = f"hpsearch-worker-{place.worker}"
        thread = threading.Thread(target=_serve, args=(theirs, setup), name=name, daemon=True)
        self._workers[place.worker] = _Thread(thread, ours)
        thread.start()

    def send(self, worker: int, message: ToWorker) -> None:
        entry = self._workers.get(worker)
        if entry is None:
            return
        with contextlib.suppress(OSError):  # the thread has ended: receive() tells so
            entry.connection.send(message)

    def receive(self, timeout: float) -> list[FromWorker]:
        owners = {entry.connection: worker for worker, entry in self._workers.items()}
        messages: list[FromWorker] = []
        if not owners:
            time.sleep(timeout)
            return messages
        for ready in wait(list(owners), timeout):
            if not isinstance(ready, Connection):
                continue
            try:
                while ready.poll():
                    messages.append(ready.recv())
            except (EOFError, OSError):
                messages.append(self._bury(owners[ready]))
        return messages

    def kill(self, worker: int) -> None:
        entry = self._workers.get(worker)
        if entry is not None and not entry.killed:
            entry.killed = True
            pipe = socket.socket(fileno=os.dup(entry.connection.fileno()))
            with pipe, contextlib.suppress(OSError):  # the thread has ended
                pipe.shutdown(socket.SHUT_RDWR)  # what has been sent can still be read

    def close(self, timeout: float) -> None:
        for worker in list(self._workers):
            self.send(worker, Shutdown())
        deadline = time.monotonic() + timeout
        while self._workers and time.monotonic() < deadline:
            self.receive(0.05)
        for worker in list(self._workers):
            self.kill(worker)
        while self._workers:
            self.receive(0.05)

    def _bury(self, worker: int) -> WorkerExit:
        entry = self._workers.pop(worker)
        entry.connection.close()
        entry.thread.join(PATIENCE)
        if not entry.killed:
            return WorkerExit(worker, "left")
        lives = ", but its thread has not ended yet" if entry.thread.is_alive() else ""
        return WorkerExit(worker, f"was killed{lives}")


def _serve(connection: Connection, setup: WorkerSetup) -> None:
    with connection, contextlib.suppress(EOFError, OSError):  # the driver has hung up
        serve(connection, setup)
