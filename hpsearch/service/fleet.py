"""The workers of one driver: started, watched, replaced when they die or hang."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from hpsearch.contracts.executor import Executor, WorkerPlace
from hpsearch.contracts.messages import (
    EpochResult,
    FromWorker,
    Loading,
    PlaceAdded,
    PlaceRemoved,
    Ready,
    Shutdown,
    ToWorker,
    TrialRun,
    TrialStarted,
    Usage,
    Waiting,
    WorkerExit,
    WorkerSetup,
)
from hpsearch.errors import WorkersFailed, lacks_memory, limit
from hpsearch.executors.places import memory_bytes

logger = logging.getLogger(__name__)

MOST_DEATHS = 3  # of one worker in a row, over two trials or none, after which it may be disabled
LEAST_LOOP = 4  # deaths in a row, of all workers, that make a crash loop
MOST_BACKOFF = 60.0  # seconds before a worker that keeps dying is started again
START_TIMEOUT = 600.0  # seconds without a word in which a worker may import torch and load data, at the least
LEAVE_TIMEOUT = 60.0  # seconds in which a worker that leaves must have gone


class Phase(StrEnum):
    """What a worker is doing."""

    STARTING = "starting"
    IDLE = "idle"
    TRAINING = "training"
    LEAVING = "leaving"  # it has said so, or is being ended: no trial for it
    DOWN = "down"


@dataclass(slots=True)
class Seat:
    """A trial that a worker has.

    Attributes:
        alone: whether the worker gets no other trial meanwhile.
        epoch: the last one reported.
        since: when the worker was given it, seconds since the epoch.
        company: the trials that have shared its memory since then.
    """

    attempt: int
    company: set[int]
    alone: bool = False
    epoch: int = 0
    since: float = field(default_factory=time.time)


@dataclass(slots=True)
class Worker:
    """One worker as its driver knows it.

    Attributes:
        trials: those that it has, by number.
        capacity: how many it can have.
        active: when it last gave a sign of progress (monotonic seconds).
        removed: whether its place has gone, so that it is not started again.
        leaves: whether it has said that it will take no trial any more.
        proven: whether it has finished an epoch since it was started.
        sound_at: when it last finished an epoch, or was first started (monotonic seconds).
        deaths: in a row without an epoch.
        victims: the trials that each of these deaths hit.
        waits: what it waits for before it is ready.
        start_at: when a worker that is DOWN is started again (monotonic seconds); never if it is infinite.
    """

    place: WorkerPlace
    phase: Phase = Phase.DOWN
    trials: dict[int, Seat] = field(default_factory=dict)
    capacity: int = 1
    active: float = 0.0
    removed: bool = False
    leaves: bool = False
    proven: bool = False
    sound_at: float = math.inf
    deaths: int = 0
    victims: list[frozenset[int]] = field(default_factory=list)
    start_at: float = 0.0
    device: str = ""
    host: str = ""
    pid: int | None = None
    memory_mb: float | None = None
    waits: str = ""


class Fleet:
    """Keeps all workers of a driver alive.

    Args:
        setup: makes the setup message for a worker.
        stall_timeout: seconds without an epoch after which a worker counts as hung.
        recovery_timeout: seconds without an epoch after which workers that keep dying are not started again,
            if any has trained before.

    Attributes:
        hit_several: whether the last series of deaths, which an epoch has ended, was over several trials.
    """

    def __init__(
        self,
        executor: Executor,
        places: Iterable[WorkerPlace],
        setup: Callable[[WorkerPlace], WorkerSetup],
        stall_timeout: float,
        recovery_timeout: float = 0.0,
    ) -> None:
        self._executor = executor
        self._setup = setup
        self._stall_timeout = stall_timeout
        self._recovery_timeout = recovery_timeout
        self._trained_at: float | None = None
        self.hit_several = False
        self._killed: dict[int, str] = {}
        self._spared: set[int] = set()
        # Workers, with their trials, in the order of their deaths since any finished an epoch.
        self._died: list[tuple[int, frozenset[int]]] = []
        self.workers = {place.worker: Worker(place, host=place.host) for place in places}

    def start_due(self) -> list[Worker]:
        """Starts every worker that is down and whose time has come; returns them."""
        now = time.monotonic()
        for worker in [w for w in self.workers.values() if w.removed and w.phase is Phase.DOWN]:
            del self.workers[worker.place.worker]
        due = [w for w in self.workers.values() if w.phase is Phase.DOWN and w.start_at <= now]
        for worker in due:
            self._executor.start(worker.place, self._setup(worker.place))
            worker.phase, worker.proven, worker.leaves = Phase.STARTING, False, False
            worker.active, worker.sound_at = now, min(worker.sound_at, now)
        return due

    def receive(self, timeout: float) -> list[FromWorker]:
        """Returns what has come from the workers; hand each message to `note` before acting on it."""
        return self._executor.receive(timeout)

    def send(self, worker: Worker, message: ToWorker) -> None:
        """Sends a message to a worker."""
        self._executor.send(worker.place.worker, message)

    def assign(self, worker: Worker, run: TrialRun, alone: bool = False) -> None:
        """Gives a worker that has room a trial, and no other one beside it if it is to be alone."""
        self.send(worker, run)
        worker.phase, worker.active = Phase.TRAINING, time.monotonic()
        seat = Seat(run.attempt, set(self.beside(worker)), alone)
        for other in self._sharing(worker):
            other.company.add(run.number)
        worker.trials[run.number] = seat

    def free(self, worker: Worker, number: int, leaving: bool = False) -> Seat:
        """Notes that a worker does not have a trial any more, and whether it takes others; returns the seat."""
        worker.active = time.monotonic()
        seat = worker.trials.pop(number)
        worker.leaves = worker.leaves or leaving
        if leaving or worker.place.worker in self._killed:
            worker.phase = Phase.LEAVING
        elif worker.phase is Phase.TRAINING and not worker.trials:
            worker.phase = Phase.IDLE
        return seat

    def with_room(self) -> list[Worker]:
        """Returns the workers that can take a trial, those with the fewest first."""
        able = [
            w
            for w in self.workers.values()
            if w.phase in (Phase.IDLE, Phase.TRAINING)
            and len(w.trials) < w.capacity
            and not any(seat.alone for seat in w.trials.values())
        ]
        return sorted(able, key=lambda worker: len(worker.trials))

    @property
    def is_sound(self) -> bool:
        """Whether a worker has finished an epoch since one last died without any."""
        return not self._died

    def has_others(self, worker: Worker) -> bool:
        """Says whether there is another worker that is not disabled."""
        return any(other is not worker and other.start_at < math.inf for other in self._staying())

    def _staying(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if not worker.removed]

    def training(self) -> list[Worker]:
        """Returns the workers that have trials."""
        return [w for w in self.workers.values() if w.trials]

    def with_trial(self, number: int) -> Worker | None:
        """Returns the worker that trains a trial, or None."""
        return next((w for w in self.workers.values() if number in w.trials), None)

    def beside(self, worker: Worker) -> frozenset[int]:
        """Returns the trials that share a worker's memory: its own, and those of its host's same GPUs or CPU.

        Other processes on a GPU, such as another study's workers, are not seen.
        """
        return frozenset(number for w in self._beside(worker) for number in w.trials)

    def _sharing(self, worker: Worker) -> Iterator[Seat]:
        for other in self._beside(worker):
            yield from other.trials.values()

    def _beside(self, worker: Worker) -> list[Worker]:
        where = (worker.host, worker.place.gpus)
        return [w for w in self.training() if w is worker or (w.host, w.place.gpus) == where]

    def kill(self, worker: Worker, reason: str, its_fault: bool = False) -> None:
        """Ends a worker at once; its WorkerExit will carry `reason`.

        Args:
            its_fault: whether it counts as one of the worker's deaths.
        """
        self._killed[worker.place.worker] = reason
        if not its_fault:
            self._spared.add(worker.place.worker)
        self._executor.kill(worker.place.worker)

    def withdraw(self, left: int) -> None:
        """Gives back places that are queued for, or not yet asked for, beyond one for each trial that is left."""
        if len(self.workers) <= left:
            return
        staying = self._staying()
        queued = [
            worker
            for worker in staying
            if (worker.phase is Phase.STARTING and worker.waits)
            or (worker.phase is Phase.DOWN and worker.sound_at == math.inf)
        ]
        surplus = len(staying) - max(1, left)
        for worker in queued[::-1][: max(0, surplus)]:
            worker.removed = True
            if worker.phase is Phase.STARTING:
                self.kill(worker, "is not needed: there are fewer trials left than workers")

    def kill_hung(self) -> None:
        """Ends the workers that have given no sign of progress for too long."""
        limits = {
            Phase.STARTING: ("start", max(self._stall_timeout, START_TIMEOUT)),
            Phase.TRAINING: ("epoch", self._stall_timeout),
            Phase.LEAVING: ("exit", LEAVE_TIMEOUT),
        }
        now = time.monotonic()
        for worker in self.workers.values():
            what, seconds = limits.get(worker.phase, ("", math.inf))
            if now - worker.active > seconds and worker.place.worker not in self._killed:
                name = "stall_timeout = " if what == "epoch" else ""
                self.kill(worker, f"no {what} within {name}{seconds:g} s", its_fault=True)

    def dismiss(self) -> None:
        """Tells all workers to leave, and waits for none; `close` does."""
        for worker in self.workers.values():
            self.send(worker, Shutdown())

    def close(self, timeout: float) -> None:
        """Ends all workers; those that have not yet begun have nothing to finish and end at once."""
        for worker in self.workers.values():
            if worker.phase is Phase.STARTING:
                self._executor.kill(worker.place.worker)
        self._executor.close(timeout)

    def note(self, message: FromWorker) -> None:
        """Notes what a message says of its worker."""
        match message:
            case Ready():
                worker = self.workers[message.worker]
                worker.phase, worker.device, worker.pid = Phase.IDLE, message.device, message.pid
                worker.host, worker.capacity = message.host or worker.place.host, message.capacity
                worker.active, worker.waits = time.monotonic(), ""
            case Usage():
                self.workers[message.worker].memory_mb = message.memory_mb
            case Waiting():
                self.workers[message.worker].active = time.monotonic()  # it waits, it does not hang
                self.workers[message.worker].waits = message.text
            case Loading():
                for other in self.workers.values():  # the others may wait for the same images
                    other.active = time.monotonic()
            case TrialStarted() | EpochResult():
                holder = self.with_trial(message.number)
                if holder is not None:
                    holder.active = time.monotonic()
                    if isinstance(message, EpochResult):
                        holder.trials[message.number].epoch = message.epoch
                        holder.proven, holder.deaths = True, 0
                        holder.sound_at = self._trained_at = holder.active
                        holder.victims.clear()
                        if self._died:
                            self.hit_several = _several(victims for _, victims in self._died)
                        self._died.clear()
            case PlaceAdded(place):
                known = self.workers.get(place.worker)
                if known is None or known.phase is Phase.DOWN:
                    self.workers[place.worker] = Worker(place, host=place.host)
                else:  # its worker has yet to go
                    known.place, known.removed = place, False
            case PlaceRemoved(number):
                if number in self.workers:
                    self.workers[number].removed = True
            case WorkerExit():
                self._note_exit(self.workers[message.worker], message.blameless)

    def _note_exit(self, worker: Worker, blameless: bool) -> None:
        worker.phase, worker.memory_mb = Phase.DOWN, None
        spared = worker.place.worker in self._spared or blameless
        self._spared.discard(worker.place.worker)
        if not worker.proven and not spared:
            worker.deaths += 1
            worker.victims.append(frozenset(worker.trials))
            self._died.append((worker.place.worker, worker.victims[-1]))
        now = time.monotonic()
        backoff = min(2.0 ** (worker.deaths - 2), MOST_BACKOFF) if worker.deaths > 1 else 0.0
        worker.start_at = now + (0.0 if blameless else backoff)
        is_late = now - worker.sound_at >= self._recovery_timeout
        if worker.deaths >= MOST_DEATHS and _several(worker.victims) and is_late:
            logger.error(
                "worker %d is disabled: it died %d times in a row", worker.place.worker, worker.deaths
            )
            worker.start_at = math.inf

    def explain(self, message: WorkerExit) -> str:
        """Returns why a worker has gone: what the driver did to it, or what its process says."""
        return self._killed.pop(message.worker, message.reason)

    def refuse_crash_loop(self, reason: str, stderr: str) -> None:
        """Stops the run when all workers die again and again before they have trained an epoch.

        Where one has trained, the machine is sound and something outside ends its workers, such as a lack of
        memory: they are started again for `recovery_timeout`.

        Raises:
            WorkersFailed: with the last worker's own words, and what may help.
        """
        staying = self._staying()
        alive = {worker.place.worker for worker in staying if worker.start_at < math.inf}
        died = [(number, victims) for number, victims in self._died if number in alive]
        loop = {number for number, _ in died} == alive and len(died) >= max(LEAST_LOOP, len(alive) + 1)
        since = self._trained_at
        is_over = since is None or time.monotonic() - since >= self._recovery_timeout
        if (staying and not alive) or (loop and _several(hit for _, hit in died) and is_over):
            until = "" if since is None else f" in study.recovery_timeout = {self._recovery_timeout:g} s"
            raise WorkersFailed(
                f"{len(died or self._died)} workers in a row ended before they had trained an epoch{until}, the last "
                f"one {reason}\n{stderr or 'its log says nothing'}\n{remedy(reason, stderr)}"
            )


def remedy(reason: str, stderr: str) -> str:
    """Returns what helps to find out why workers die; nothing is lost meanwhile."""
    resume = "what was trained is kept: run the study again to resume it"
    if lacks_memory(stderr):
        return f"{limit(MemoryError())}; {resume}"
    if "SIGKILL" not in reason or stderr:
        return resume
    return (
        f"SIGKILL comes from outside, most often from the kernel when memory runs out{_memory_in_use()}: look at "
        f"`dmesg`, use fewer --workers or a smaller batch; {resume}"
    )


def _memory_in_use() -> str:
    memory = memory_bytes()
    if memory is None:
        return ""
    total, free = memory
    return f" (now {(total - free) / 2**30:.1f} of {total / 2**30:.1f} GiB are in use)"


def _several(deaths: Iterable[frozenset[int]]) -> bool:
    """Says whether deaths are the workers' own; if one trial was in all of them, it has its own limit."""
    hit = list(deaths)
    return bool(hit) and not frozenset.intersection(*hit)
