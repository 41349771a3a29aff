"""Workers as processes of this machine, messages over socket pairs."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from hpsearch.service.executor import WorkerPlace
from hpsearch.service.messages import FromWorker, Shutdown, ToWorker, WorkerExit, WorkerSetup
from hpsearch.spec.folders import RunFolder

logger = logging.getLogger(__name__)

STDERR_LINES = 20
KILL_DEADLINE = 2.0  # seconds in which the kernel must have removed a process after SIGKILL


@dataclass(slots=True)
class _Process:
    process: subprocess.Popen[bytes]
    connection: Connection
    log: Path
    log_start: int
    oom_kills: int


class LocalExecutor:
    """Starts each worker as `python -m hpsearch.service.worker` in a session of its own.

    A session of its own keeps the terminal's Ctrl-C away from the workers (the driver decides what it means)
    and lets one signal end a worker with all that it started. The worker's stderr goes into a file of the run
    folder, so that its last lines can be told when it dies.
    """

    def __init__(self, folder: RunFolder, module: str = "hpsearch.service.worker") -> None:
        self._folder = folder
        self._module = module
        self._workers: dict[int, _Process] = {}

    def start(self, place: WorkerPlace, setup: WorkerSetup) -> None:
        log = self._folder.worker_log(place.worker)
        log.parent.mkdir(parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        with log.open("ab") as stderr, theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", self._module, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=(theirs.fileno(),),
                env=worker_environment(place, os.environ),
                start_new_session=True,
            )
            log_start = stderr.tell()
        connection = Connection(ours.detach())
        self._workers[place.worker] = _Process(process, connection, log, log_start, _oom_kills())
        self.send(place.worker, setup)

    def send(self, worker: int, message: ToWorker) -> None:
        entry = self._workers.get(worker)
        if entry is None:
            return
        try:
            entry.connection.send(message)
        except OSError:  # its end is closed: receive() will report the exit
            logger.debug("worker %d is gone, message %s not sent", worker, type(message).__name__)

    def receive(self, timeout: float) -> list[FromWorker]:
        connections = {entry.connection: worker for worker, entry in self._workers.items()}
        messages: list[FromWorker] = []
        if not connections:
            time.sleep(timeout)
            return messages
        for ready in wait(list(connections), timeout):
            if isinstance(ready, Connection):
                messages.extend(self._drain(connections[ready]))
        return messages

    def kill(self, worker: int) -> None:
        entry = self._workers.get(worker)
        if entry is not None:
            _signal_group(entry.process, signal.SIGKILL)

    def close(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        for worker in list(self._workers):
            self.send(worker, Shutdown())
        while self._workers and time.monotonic() < deadline:
            self.receive(0.1)
        for worker in list(self._workers):
            self.kill(worker)
        while self._workers and time.monotonic() < deadline + KILL_DEADLINE:
            self.receive(0.1)

    def pids(self) -> dict[int, int]:
        """Returns the process id of each worker."""
        return {worker: entry.process.pid for worker, entry in self._workers.items()}

    def _drain(self, worker: int) -> Iterable[FromWorker]:
        """Reads all that a worker has sent; at the end of the pipe, its exit."""
        connection = self._workers[worker].connection
        try:
            while connection.poll():
                yield connection.recv()
        except (EOFError, OSError):
            yield self._bury(worker)

    def _bury(self, worker: int) -> WorkerExit:
        entry = self._workers.pop(worker)
        entry.connection.close()
        try:
            status = entry.process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:  # it closed its pipe but lives on
            status = None
        # Also when the worker itself has ended: what it started may live on.
        _signal_group(entry.process, signal.SIGKILL)
        try:
            status = entry.process.wait(timeout=KILL_DEADLINE) if status is None else status
        except subprocess.TimeoutExpired:
            return WorkerExit(worker, "was killed, but the kernel cannot end its process yet")
        oom = _oom_kills() > entry.oom_kills
        return WorkerExit(worker, exit_reason(status, oom), _tail(entry.log, entry.log_start))


def worker_environment(place: WorkerPlace, environ: "os._Environ[str] | dict[str, str]") -> dict[str, str]:
    """Returns a worker's environment: the GPUs it sees, and as many CPU threads as it is given.

    The thread counts must stand before torch and NumPy are imported, so they cannot come in a message.
    """
    threads = str(place.threads)
    return {
        **environ,
        "CUDA_VISIBLE_DEVICES": ",".join(place.gpus),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "PYTHONUNBUFFERED": "1",
        **place.env,
    }


def exit_reason(status: int, oom_kill_seen: bool) -> str:
    """Returns one sentence about a process's exit status (negative: the signal, as subprocess has it)."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    if oom_kill_seen and -status == signal.SIGKILL:
        return f"killed by {name}: the kernel ran out of memory (OOM kill)"
    return f"killed by {name}"


def _signal_group(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # all gone already (macOS answers EPERM for zombies)
        return


def _oom_kills() -> int:
    """Returns how often the kernel has killed for lack of memory, in this control group or at all."""
    for file in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        try:
            text = Path(file).read_text(encoding="ascii")
        except OSError:
            continue
        counts = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
        if "oom_kill" in counts:
            return int(counts["oom_kill"])
    return 0


def _tail(log: Path, start: int) -> str:
    """Returns the last lines that a worker wrote since it was started."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - 20_000))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"(its log cannot be read: {error})"
    return "\n".join(text.splitlines()[-STDERR_LINES:])
