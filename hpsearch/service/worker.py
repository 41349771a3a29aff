"""The worker process: one device, trial after trial, told by the driver what to do.

    python -m hpsearch.service.worker FD      FD: file descriptor of the pipe to the driver, inherited

It imports torch once, after its environment stands, keeps the data set, and answers to nobody but its driver:
when the pipe closes it leaves at once, with all that it started. It never sees the database.
"""

import contextlib
import ctypes
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from hpsearch.contracts.engine import Engine
from hpsearch.contracts.messages import (
    Action,
    Decision,
    EndKind,
    EpochResult,
    Loading,
    Ready,
    SetupFailed,
    Shutdown,
    ToWorker,
    TrialEnd,
    TrialRun,
    TrialStarted,
    Usage,
    Waiting,
    WorkerSetup,
)
from hpsearch.errors import EngineError, HpsearchError, UserError
from hpsearch.service.signals import heeded
from hpsearch.text import LineFormatter

logger = logging.getLogger(__name__)

TERMINATED = 128 + signal.SIGTERM
LOOK_UP = 0.5  # seconds between two looks at whether SIGTERM has come while waiting for the driver
FLOOR_BYTES, FLOOR_SHARE = 1 << 30, 0.05
"""A worker begins on a GPU that has free the smaller of 1 GiB and 5 % of its memory: less is hardly enough
for CUDA itself, and every trial would end for lack of memory that another process will give back."""
_PR_SET_PDEATHSIG = 1
TELL_EVERY = 0.5  # seconds between two messages of a worker that reads images
SAY_AGAIN = 60.0  # seconds between two messages of a worker that waits for room
TELL_USAGE = 2.0  # seconds between two messages about the process's memory
TOGETHER = 0.02  # seconds that trials with a decision wait for those without: they train faster together


class Pipe(Protocol):
    """What a worker needs of a `multiprocessing.connection.Connection`."""

    def send(self, obj: Any, /) -> None: ...
    def recv(self) -> Any: ...
    def poll(self, timeout: float = 0.0, /) -> bool: ...


def main() -> int:
    """Serves the driver at the other end of the inherited file descriptor; returns the exit status."""
    from multiprocessing.connection import Connection

    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        print("hpsearch.service.worker is started by hpsearch run, not by hand", file=sys.stderr)
        return 2
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    parent = os.getppid()
    wake_with_drivers_end()
    # The terminal sends SIGINT to the whole group; what it means to the trials is the driver's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminated = threading.Event()
    for number in heeded():  # schedulers send their warning to all processes of a job
        if number != signal.SIGINT:
            signal.signal(number, lambda *_: terminated.set())
    fd = int(sys.argv[1])
    os.set_inheritable(fd, False)  # not for what a training function starts
    threading.Thread(target=leave_with_driver, args=(fd, parent), daemon=True).start()
    connection = Connection(fd)
    try:
        attend(connection, connection.recv(), terminated)
    except (EOFError, OSError) as error:
        if not isinstance(error, EOFError | BrokenPipeError | ConnectionResetError):
            raise
        leave_at_once()
    return TERMINATED if terminated.is_set() else 0


def attend(pipe: Pipe, setup: WorkerSetup, terminated: threading.Event) -> None:
    """Serves in a process of its own, see `serve`."""
    limit_threads(setup)
    serve(pipe, setup, terminated)


def serve(pipe: Pipe, setup: WorkerSetup, terminated: threading.Event | None = None) -> None:
    """Builds the engine, then trains what the driver sends until it says Shutdown.

    Changes nothing of the process but `sys.path`, so that it also runs in a thread of the driver's process.

    Args:
        terminated: when set, the trials are given back (PREEMPTED) at the next end of an epoch.

    Raises:
        EOFError, OSError: the driver is gone.
    """
    began = time.monotonic()
    terminated = terminated or threading.Event()
    try:
        if not wait_for_room(pipe, setup, terminated, probe_of(setup)):
            return
        engine, ready = prepare(
            setup, began, teller(pipe, setup.worker), lambda text: pipe.send(Waiting(setup.worker, text))
        )
    except BaseException as error:
        # Signals have handlers: what else comes was raised by code of the user's own.
        logger.exception("worker %d cannot begin", setup.worker)
        pipe.send(setup_failed(setup, error))
        return
    try:
        pipe.send(ready)
        Loop(pipe, engine, terminated, setup.worker, meter_of(setup)).run()
    finally:
        engine.close()


def meter_of(setup: WorkerSetup) -> Callable[[], float]:
    """Returns what tells how much energy the worker's device has taken since it was last asked."""
    from hpsearch.training import device, energy

    return energy.meter(device.choose(setup.device))


Memory = tuple[int, int]
"""A GPU's free bytes, and all it has."""


def probe_of(setup: WorkerSetup) -> Callable[[], Memory | None]:
    """Returns what tells how full the worker's device is; None on a CPU.

    Raises:
        DeviceError: the device is not there.
    """
    from hpsearch.training import device

    chosen = device.choose(setup.device)
    return lambda: device.memory(chosen)


def wait_for_room(
    pipe: Pipe, setup: WorkerSetup, terminated: threading.Event, probe: Callable[[], Memory | None]
) -> bool:
    """Waits until the device has room for a first trial, telling the driver now and then.

    There is no other place to go to: each worker has its own GPU, and which is free is seen when it starts.

    Returns:
        False when the worker is to leave: it was told to, or SIGTERM has come.
    """
    told = float("-inf")
    while (found := probe()) is not None and found[0] < min(FLOOR_BYTES, FLOOR_SHARE * found[1]):
        if time.monotonic() - told >= SAY_AGAIN:
            told = time.monotonic()
            text = (
                f"waits for memory: its GPU has {found[0] / 2**20:,.0f} of {found[1] / 2**20:,.0f} MiB free; "
                "other processes use the rest (see nvidia-smi)"
            )
            logger.warning("worker %d %s", setup.worker, text)
            pipe.send(Waiting(setup.worker, text))
        # Before it is ready, a worker is sent nothing but Shutdown.
        if pipe.poll(LOOK_UP) or terminated.is_set():
            return False
    return True


def teller(pipe: Pipe, worker: int) -> Callable[[int, int], None]:
    """Returns what tells the driver now and then how far the reading of images has come."""
    told = time.monotonic()  # what takes no time is not worth a word

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= TELL_EVERY:
            told = time.monotonic()
            pipe.send(Loading(worker, done, total))

    return tell


def prepare(
    setup: WorkerSetup,
    began: float,
    progress: Callable[[int, int], None] | None = None,
    waits: Callable[[str], None] | None = None,
) -> tuple[Engine, Ready]:
    """Imports torch, finds the device, loads the data and chooses the engine.

    Args:
        progress: called with the numbers of images read and of all, if they must be read.
        waits: called with a sentence, now and then, while another process prepares the same images.

    Raises:
        HpsearchError: the device is not there, the data cannot be loaded, or the model cannot be built.
    """
    from hpsearch.training import device, imports
    from hpsearch.training.build import build_corners, build_engine, sample_pictures

    # Only now, so that no file of a study's folder takes the place of what these import.
    imports.look_in(setup.import_paths, setup.spec.objects() if setup.allow is None else setup.allow)
    chosen = device.choose(setup.device)
    engine, facts = build_engine(
        setup.spec, chosen, setup.data_root, setup.cache, setup.allow, progress, waits
    )
    if setup.spec.train.function is None:
        build_corners(engine, setup.spec, lambda name: name == "model.name")
    ready = Ready(
        worker=setup.worker,
        pid=os.getpid(),
        device=str(chosen),
        versions=device.versions(),
        data=facts,
        seconds=time.monotonic() - began,
        code=imports.source_digests(setup.spec.objects()),
        host=socket.gethostname(),
        capacity=engine.capacity,
        pictures=sample_pictures(engine, setup.spec) if setup.worker == 0 else (),
    )
    return engine, ready


def setup_failed(setup: WorkerSetup, error: BaseException) -> SetupFailed:
    """Returns what the driver is told of a worker that cannot begin."""
    if isinstance(error, HpsearchError):
        user_error = type(error).__name__ if isinstance(error, UserError) else None
        return SetupFailed(setup.worker, str(error), user_error)
    text = "".join(traceback.format_exception(error))
    return SetupFailed(setup.worker, f"{type(error).__name__}: {error}", traceback=text)


class Loop:
    """Admit, step, report, wait for the decision, apply it: the same for every engine.

    Between two steps every trial in a slot is either free to train or in `_undecided`: its last result is
    with the driver. Those that are free do not wait for the others.
    """

    def __init__(
        self,
        pipe: Pipe,
        engine: Engine,
        terminated: threading.Event,
        worker: int,
        meter: Callable[[], float] = float,
    ) -> None:
        self._worker = worker
        self._meter = meter
        self._told = time.monotonic()
        self._pipe = pipe
        self._engine = engine
        self._terminated = terminated
        self._waiting: deque[TrialRun] = deque()
        self._active: dict[int, TrialRun] = {}
        self._undecided: dict[int, EpochResult] = {}
        self._leaving = False

    def run(self) -> None:
        """Serves until the driver says Shutdown or SIGTERM has come.

        Raises:
            EOFError, OSError: the driver is gone.
        """
        while not self._leaving:
            while self._waiting and self._has_room(self._waiting[0]):
                self._admit(self._waiting.popleft())
            if self._free:
                self._step()
            self._take_messages()
        self._give_back()

    @property
    def _free(self) -> set[int]:
        return self._active.keys() - self._undecided.keys()

    def _has_room(self, run: TrialRun) -> bool:
        """Says whether the first trial in the queue can be admitted; none overtakes it, or it might never be."""
        return not self._active or (len(self._active) < self._engine.capacity and self._engine.fits(run))

    def _admit(self, run: TrialRun) -> None:
        began = time.perf_counter()
        try:
            started = self._engine.admit(run)
        except BaseException as error:
            from hpsearch.training import failures

            self._fail(run, error, hopeless=failures.comes_again(error, first=True))
            return
        self._active[run.number] = run
        self._pipe.send(replace(started, seconds=time.perf_counter() - began))
        self._await_judgement(started)

    def _await_judgement(self, started: TrialStarted) -> None:
        # The trial may have been stopped by its checkpoint's last epoch before its record was written, and a new
        # one may take more than the study allows.
        if started.curve:
            self._undecided[started.number] = started.curve[-1]
        elif started.footprint:
            self._undecided[started.number] = EpochResult(started.number, started.attempt, 0, {})

    def _step(self) -> None:
        self._meter()  # what was taken while nothing was trained is no trial's
        try:
            results = self._engine.step(self._free)
        except BaseException as error:
            # Engines end a trial that fails by themselves: whatever comes through is the engine's own end.
            self._break_off(error)
            return
        joules = self._meter() / max(1, sum(isinstance(result, EpochResult) for result in results))
        for result in results:
            if isinstance(result, EpochResult) and joules:
                result = replace(result, joules=joules)
            self._pipe.send(result)
            if isinstance(result, TrialEnd):
                self._active.pop(result.number, None)
            else:
                self._undecided[result.number] = result
        memory = resident_mb()
        if memory is not None and time.monotonic() - self._told >= TELL_USAGE:
            self._told = time.monotonic()
            self._pipe.send(Usage(self._worker, memory))

    def _break_off(self, error: BaseException) -> None:
        """Leaves after an engine's end: the trials fail whose fault it may be, the others can be resumed."""
        self._leaving = True
        victim = error.number if isinstance(error, EngineError) else None
        for run in list(self._active.values()):
            if victim in (None, run.number):
                cause = error.__cause__ if victim is not None else None
                self._fail(run, error if cause is None else cause)
            else:
                self._pipe.send(TrialEnd(run.number, run.attempt, EndKind.PREEMPTED, leaving=True))
        self._active.clear()
        self._undecided.clear()

    def _take_messages(self) -> None:
        """Handles all messages that are there; waits for one when nothing can be done without it."""
        while self._pipe.poll(self._patience()):
            self._handle(self._pipe.recv())
        if self._terminated.is_set():
            self._leaving = True

    def _patience(self) -> float:
        if self._leaving or (self._waiting and self._has_room(self._waiting[0])):
            return 0.0
        if not self._free:
            return LOOK_UP
        return TOGETHER if self._undecided else 0.0

    def _handle(self, message: ToWorker) -> None:
        match message:
            case TrialRun():
                self._waiting.append(message)
            case Decision():
                self._apply(message)
            case Shutdown():
                self._leaving = True
            case _:
                logger.error("unexpected message %s ignored", type(message).__name__)

    def _apply(self, decision: Decision) -> None:
        number = decision.number
        queued = next((run for run in self._waiting if run.number == number), None)
        if queued is not None and decision.action is not Action.CONTINUE:
            self._waiting.remove(queued)
            self._pipe.send(TrialEnd(number, queued.attempt, EndKind.PREEMPTED))
        elif number not in self._active:
            logger.debug("trial %d: decision %s came after its end", number, decision.action)
        elif decision.action is Action.PREEMPT:
            self._evict(number, EndKind.PREEMPTED)
        elif decision.action is Action.STOP:
            self._evict(number, EndKind.STOPPED)
        elif number in self._undecided and decision.epoch == self._undecided[number].epoch:
            judged = self._undecided.pop(number)
            if judged.last:
                self._evict(number, EndKind.FINISHED)

    def _evict(self, number: int, kind: EndKind) -> None:
        self._undecided.pop(number, None)
        run = self._active.pop(number)
        try:
            self._pipe.send(replace(self._engine.evict(number, kind), leaving=self._leaving))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except BaseException as error:
            self._fail(run, error)

    def _fail(self, run: TrialRun, error: BaseException, hopeless: bool = False) -> None:
        """Reports an error, and leaves when the process is of no use after it."""
        from hpsearch.training import failures

        logger.error("trial %d, attempt %d failed", run.number, run.attempt, exc_info=error)
        self._active.pop(run.number, None)
        self._undecided.pop(run.number, None)
        self._leaving = self._leaving or failures.spoils_process(error)
        end = failures.trial_end(run, error)
        self._pipe.send(replace(end, leaving=self._leaving, hopeless=hopeless))

    def _give_back(self) -> None:
        for number in list(self._active):
            self._evict(number, EndKind.PREEMPTED)
        for run in self._waiting:
            self._pipe.send(TrialEnd(run.number, run.attempt, EndKind.PREEMPTED, leaving=True))
        self._waiting.clear()


def resident_mb() -> float | None:
    """Returns this process's resident memory in MiB, None where it cannot be known."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def limit_threads(setup: WorkerSetup) -> None:
    """Gives torch the trial's number of CPU threads: sums in another order differ in their last bits."""
    import torch

    torch.set_num_threads(setup.spec.train.threads)
    with contextlib.suppress(RuntimeError):  # once set it cannot be set again, which is no harm
        torch.set_num_interop_threads(1)


def wake_with_drivers_end() -> None:
    """Asks Linux to wake this process, should it be suspended, when its driver dies: it has to leave then."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)


def leave_with_driver(fd: int, parent: int) -> None:
    """Watches the pipe without reading from it, and leaves when its other end is closed.

    In the middle of a long epoch nothing else would notice. The parent is looked at too, should another
    process have inherited the driver's end. Linux could kill this process by itself (PR_SET_PDEATHSIG), but
    then nobody would end what it has started.
    """
    hang_up = select.poll()
    hang_up.register(fd, 0)  # POLLHUP and POLLERR are always reported
    while not (events := hang_up.poll(1000)):
        if os.getppid() != parent:
            break
    if any(event & select.POLLNVAL for _, event in events):
        return  # this process has closed its own end, as it is about to leave
    leave_at_once()


def leave_at_once() -> None:
    """Ends this process and, where it leads a group of its own, all that it started."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
