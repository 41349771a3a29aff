"""Workers as processes of this machine, messages over socket pairs."""

import logging
import math
import os
import signal
import site
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import BinaryIO

from hpsearch.contracts.executor import WorkerPlace, Workers
from hpsearch.contracts.messages import FromWorker, Shutdown, ToWorker, WorkerExit, WorkerSetup
from hpsearch.errors import UserError
from hpsearch.executors.mps import shared
from hpsearch.executors.places import plan
from hpsearch.files.locks import try_lock
from hpsearch.files.run_folder import RunFolder

logger = logging.getLogger(__name__)

STDERR_LINES = 20
PATIENCE = 5.0  # seconds in which a process must have ended after it closed its pipe, or after SIGKILL
LOOK_AGAIN = 0.02  # seconds until one that is about to end is looked at again
MOST_LOG = 16 << 20  # bytes of a worker's log, over all runs, from which on it begins anew


@dataclass(slots=True)
class _Process:
    """A worker's process; `closed` and `killed` say when its pipe was closed and when it was killed."""

    process: subprocess.Popen[bytes]
    connection: Connection
    log: Path
    log_start: int
    oom_kills: int
    closed: float | None = None
    killed: float | None = None
    lingered: bool = False  # after it had closed its pipe


LINGERED = "closed its pipe and did not end, so that it was killed"


class LocalExecutor:
    """Starts each worker as `python -m hpsearch.service.worker` in a session of its own.

    A session of its own keeps the terminal's Ctrl-C away from the workers (the driver decides what it means)
    and lets one signal end a worker with all that it started. The worker's stderr goes into a file of the run
    folder, so that its last lines can be told when it dies; that of another driver's worker into another one.
    """

    def __init__(self, folder: RunFolder, module: str = "hpsearch.service.worker") -> None:
        self._folder = folder
        self._module = module
        self._workers: dict[int, _Process] = {}
        self._logs: dict[int, BinaryIO] = {}
        self._shared = ExitStack()

    def places(self, wanted: Workers, threads: int, share: str) -> list[WorkerPlace]:
        here = [replace(place, host=socket.gethostname()) for place in plan(wanted, threads)]
        return self._shared.enter_context(shared(share, here, self._folder.home / "mps"))

    def start(self, place: WorkerPlace, setup: WorkerSetup) -> None:
        log, log_start = self._log(place.worker)
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [*python_module(self._module), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                env=worker_environment(place, os.environ),
                start_new_session=True,
            )
        connection = Connection(ours.detach())
        self._workers[place.worker] = _Process(process, connection, Path(log.name), log_start, _oom_kills())
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
        talking = {
            entry.connection: worker for worker, entry in self._workers.items() if entry.closed is None
        }
        if len(talking) < len(self._workers):
            timeout = min(timeout, LOOK_AGAIN)  # one that has closed its pipe will be gone in a moment
        messages: list[FromWorker] = []
        if not talking:
            time.sleep(timeout)
        for ready in wait(list(talking), timeout) if talking else ():
            if isinstance(ready, Connection):
                messages.extend(self._drain(self._workers[talking[ready]]))
        for worker in list(self._workers):
            messages.extend(self._look_after(worker))
        return messages

    def kill(self, worker: int) -> None:
        entry = self._workers.get(worker)
        if entry is not None:
            entry.killed = entry.killed or time.monotonic()
            _signal_group(entry.process, signal.SIGKILL)

    def close(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        for worker in list(self._workers):
            self.send(worker, Shutdown())
        while self._workers and time.monotonic() < deadline:
            self.receive(0.1)
        for worker in list(self._workers):
            self.kill(worker)
        while self._workers and time.monotonic() < deadline + PATIENCE + LOOK_AGAIN:
            self.receive(0.1)
        while self._logs:
            self._logs.popitem()[1].close()
        self._shared.close()

    def _log(self, worker: int) -> tuple[BinaryIO, int]:
        """Returns a worker's log and where it ends, begun anew when it has grown too long.

        It stays open, and so this driver's own, for the worker that is started after this one.

        Raises:
            UserError: it cannot be made or written.
        """
        try:
            log = self._logs.get(worker) or _own_log(self._folder, worker)
            self._logs[worker] = log
            if log.seek(0, os.SEEK_END) > MOST_LOG:
                log.truncate(0)
            return log, log.seek(0, os.SEEK_END)
        except OSError as error:
            raise UserError(
                f"{self._folder.worker_log(worker).parent}: the workers' logs cannot be written there: "
                f"{error.strerror}; free some space, make it writable, or choose another --run-folder"
            ) from None

    def _drain(self, entry: _Process) -> Iterator[FromWorker]:
        """Yields all that a worker has sent so far."""
        try:
            while entry.closed is None and entry.connection.poll():
                yield entry.connection.recv()
        except (EOFError, OSError):
            entry.closed = time.monotonic()

    def _look_after(self, worker: int) -> Iterator[FromWorker]:
        """Yields the last messages and the exit of a worker whose process has ended.

        The pipe tells nothing of that where a process that the worker has forked still holds it.
        """
        entry = self._workers[worker]
        status = entry.process.poll()
        if status is None:
            since = entry.killed or entry.closed or math.inf
            if time.monotonic() - since < PATIENCE:
                return
            if entry.killed is None:
                entry.lingered = True
                self.kill(worker)
                return
            reason = "was killed, but the kernel cannot end its process yet"
        else:
            yield from self._drain(entry)
            oom = _oom_kills() > entry.oom_kills
            reason = LINGERED if entry.lingered else exit_reason(status, oom)
        _signal_group(entry.process, signal.SIGKILL)  # what it has started may live on
        entry.connection.close()
        del self._workers[worker]
        yield WorkerExit(worker, reason, tail(entry.log, entry.log_start))


def _own_log(folder: RunFolder, worker: int) -> BinaryIO:
    """Opens, for writing at its end, the first log of a worker that no other driver's worker writes.

    The lock ends with the last process that has the file open: the driver, or one of its workers.

    Raises:
        OSError: it cannot be made or written.
    """
    folder.worker_log(worker).parent.mkdir(parents=True, exist_ok=True)
    driver = 1
    while try_lock(file := folder.worker_log(worker, driver).open("ab")) is None:
        file.close()
        driver += 1
    return file


def worker_environment(place: WorkerPlace, environ: "os._Environ[str] | dict[str, str]") -> dict[str, str]:
    """Returns a worker's environment: the GPUs it sees, and as many CPU threads as it is given.

    The thread counts must stand before torch and NumPy are imported, so they cannot come in a message.
    """
    return {
        **own_paths(environ),
        "CUDA_VISIBLE_DEVICES": ",".join(place.gpus),
        **thread_counts(place.threads),
        "PYTHONUNBUFFERED": "1",
        **place.env,
    }


def thread_counts(threads: int) -> dict[str, str]:
    """Returns the environment variables by which libraries start so many threads."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def python_module(module: str) -> list[str]:
    """Returns the command of a process that runs one of our modules.

    -P: the current folder, where anything may lie, is no place to import from.
    """
    return [sys.executable, "-P", "-m", module]


def own_paths(environ: "os._Environ[str] | dict[str, str]") -> dict[str, str]:
    """Returns an environment in which hpsearch is found, and nothing in the current folder.

    PYTHONPATH may have an empty part, as in ":/somewhere", which would mean that folder.
    """
    paths = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    home = str(Path(__file__).parents[2])
    if home not in (sysconfig.get_path("purelib"), site.getusersitepackages(), *paths):
        paths.append(home)  # a clone of the sources: libraries' own folders must stay behind Python's
    others = {name: value for name, value in environ.items() if name != "PYTHONPATH"}
    return {**others, **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})}


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


def tail(log: Path, start: int) -> str:
    """Returns the last lines that a worker wrote since it was started."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - 20_000))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"(its log cannot be read: {error})"
    return "\n".join(text.splitlines()[-STDERR_LINES:])
