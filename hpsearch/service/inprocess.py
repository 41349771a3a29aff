"""Workers as threads of this process, over the same pipes and the same loop: for tests."""

import contextlib
import threading
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from hpsearch.service.executor import WorkerPlace
from hpsearch.service.messages import FromWorker, Shutdown, ToWorker, WorkerExit, WorkerSetup
from hpsearch.service.worker import serve


class InProcessExecutor:
    """Runs workers in threads. `kill` can only ask a thread to leave."""

    def __init__(self) -> None:
        self._threads: dict[int, threading.Thread] = {}
        self._connections: dict[int, Connection] = {}

    def start(self, place: WorkerPlace, setup: WorkerSetup) -> None:
        ours, theirs = Pipe()
        thread = threading.Thread(
            target=_serve, args=(theirs, setup), name=f"hpsearch-worker-{place.worker}", daemon=True
        )
        self._threads[place.worker], self._connections[place.worker] = thread, ours
        thread.start()

    def send(self, worker: int, message: ToWorker) -> None:
        connection = self._connections.get(worker)
        if connection is None:
            return
        try:
            connection.send(message)
        except OSError:  # the thread has ended: receive() tells so
            return

    def receive(self, timeout: float) -> list[FromWorker]:
        owners = {connection: worker for worker, connection in self._connections.items()}
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
        if worker in self._connections:
            self.send(worker, Shutdown())

    def close(self, timeout: float) -> None:
        for worker in list(self._connections):
            self.send(worker, Shutdown())
        deadline = time.monotonic() + timeout
        while self._connections and time.monotonic() < deadline:
            self.receive(0.05)

    def _bury(self, worker: int) -> WorkerExit:
        self._connections.pop(worker).close()
        self._threads.pop(worker).join(timeout=5.0)
        return WorkerExit(worker, "left")


def _serve(connection: Connection, setup: WorkerSetup) -> None:
    with connection, contextlib.suppress(EOFError, OSError):  # the driver has hung up
        serve(connection, setup)
