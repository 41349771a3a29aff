"""An executor whose workers play prescribed curves: driver, search and database are the real ones."""

import math
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from hpsearch.contracts.executor import WorkerPlace, Workers
from hpsearch.contracts.messages import (
    Action,
    Decision,
    EndKind,
    EpochResult,
    FromWorker,
    Ready,
    SetupFailed,
    Shutdown,
    ToWorker,
    TrialEnd,
    TrialRun,
    TrialStarted,
    WorkerExit,
    WorkerSetup,
)
from hpsearch.executors.places import plan
from hpsearch.files.run_folder import attempt_folder
from hpsearch.study.checks import DataFacts

Ending = EndKind | str


@dataclass(frozen=True)
class Script:
    """What a trial does: its validation losses, and how it ends when they are used up.

    `end` is FINISHED, ERROR, OUT_OF_MEMORY, "hopeless" for an error that comes every time, "die" for a worker
    that dies or "hang" for one that says nothing more. `footprint` is what its model takes.
    """

    val: tuple[float, ...]
    end: Ending = EndKind.FINISHED
    train: tuple[float, ...] | None = None
    footprint: Mapping[str, float] = field(default_factory=dict)


@dataclass
class CurveExecutor:
    """Plays `script(run)` for every attempt; checkpoints are what it has played.

    `data` are the facts that its workers tell of the data. Workers in `sick` die of every trial, those in
    `unable` cannot be set up, those in `stillborn` die while they start, and those in `stuck` say that they
    leave after their first trial and do not. All of them write `last_words`.
    """

    script: Callable[[TrialRun], Script]
    data: DataFacts | None = None
    log: list[tuple[int, int, int, float]] = field(default_factory=list)
    messages: deque[FromWorker] = field(default_factory=deque)
    runs: dict[int, tuple[TrialRun, Script, int]] = field(default_factory=dict)
    saved: dict[int, list[EpochResult]] = field(default_factory=dict)
    alive: set[int] = field(default_factory=set)
    starts: Counter[int] = field(default_factory=Counter)
    sick: set[int] = field(default_factory=set)
    unable: set[int] = field(default_factory=set)
    stillborn: set[int] = field(default_factory=set)
    stuck: set[int] = field(default_factory=set)
    last_words: str = ""

    def places(self, wanted: Workers, threads: int, share: str) -> list[WorkerPlace]:
        return plan(wanted, threads)

    def start(self, place: WorkerPlace, setup: WorkerSetup) -> None:
        self.alive.add(place.worker)
        self.starts[place.worker] += 1
        if place.worker in self.stillborn:
            self._exit(place.worker, "killed by SIGKILL")
            return
        if place.worker in self.unable:
            self.messages.append(SetupFailed(place.worker, "no such device", "DeviceError"))
            self._exit(place.worker, "exited with status 0")
            return
        self.messages.append(Ready(place.worker, 1, "cpu", {}, self.data, 0.0))

    def send(self, worker: int, message: ToWorker) -> None:
        if worker not in self.alive:
            return
        if isinstance(message, TrialRun):
            self._begin(worker, message)
        elif isinstance(message, Decision):
            self._decided(worker, message)
        elif isinstance(message, Shutdown):
            self._exit(worker, "left")

    def receive(self, timeout: float) -> list[FromWorker]:
        out = list(self.messages)
        self.messages.clear()
        return out

    def kill(self, worker: int) -> None:
        self._exit(worker, "killed by SIGKILL")

    def leave(self, worker: int) -> None:
        self._exit(worker, "exited with status 143")

    def close(self, timeout: float) -> None:
        for worker in list(self.alive):
            self._exit(worker, "left")
        self.messages.clear()

    def _exit(self, worker: int, reason: str) -> None:
        self.alive.discard(worker)
        self.runs.pop(worker, None)
        self.messages.append(WorkerExit(worker, reason, self.last_words))

    def _begin(self, worker: int, run: TrialRun) -> None:
        if worker in self.sick:
            self._exit(worker, "killed by SIGSEGV")
            return
        script = self.script(run)
        curve = tuple(self.saved.get(run.number, ()))
        self.runs[worker] = (run, script, len(curve))
        started = TrialStarted(run.number, run.attempt, curve, seconds=0.25, footprint=script.footprint)
        self.messages.append(started)
        if not curve and not script.footprint:
            self._play(worker)

    def _decided(self, worker: int, decision: Decision) -> None:
        run, _, epoch = self.runs[worker]
        kinds = {Action.STOP: EndKind.STOPPED, Action.PREEMPT: EndKind.PREEMPTED}
        if decision.action in kinds:
            self._end(worker, TrialEnd(run.number, run.attempt, kinds[decision.action]))
        elif epoch >= run.spec.train.epochs:
            self._end(worker, TrialEnd(run.number, run.attempt, EndKind.FINISHED))
        else:
            self._play(worker)

    def _play(self, worker: int) -> None:
        run, script, epoch = self.runs[worker]
        if epoch >= len(script.val):
            self._run_out(worker, run, script)
            return
        value = script.val[epoch]
        train = script.train[epoch] if script.train else value
        last = epoch + 1 >= run.spec.train.epochs
        result = EpochResult(
            run.number,
            run.attempt,
            epoch + 1,
            {"train_loss": train, "val_loss": value},
            seconds=0.01,
            samples=10,
            last=last,
            checkpointed=True,
        )
        self.saved.setdefault(run.number, []).append(result)
        if run.spec.pauses:  # the driver looks at whether there is a checkpoint
            folder = attempt_folder(Path(run.folder), run.attempt)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "checkpoint.json").touch()
        self.log.append((run.number, run.attempt, epoch + 1, value))
        self.runs[worker] = (run, script, epoch + 1)
        self.messages.append(result)

    def _run_out(self, worker: int, run: TrialRun, script: Script) -> None:
        if script.end == "hang":
            return
        if script.end == "die":
            self._exit(worker, "killed by SIGSEGV")
            return
        if script.end == "hopeless":
            self._end(
                worker, TrialEnd(run.number, run.attempt, EndKind.ERROR, "no such model", hopeless=True)
            )
            return
        kind = EndKind(script.end)
        detail = "" if kind is EndKind.FINISHED else f"made to end with {kind}"
        self._end(worker, TrialEnd(run.number, run.attempt, kind, detail))

    def _end(self, worker: int, end: TrialEnd) -> None:
        del self.runs[worker]
        self.messages.append(replace(end, leaving=worker in self.stuck))


def falling(run: TrialRun) -> Script:
    """A smooth curve whose level depends on the learning rate alone, lowest at 0.1."""
    level = abs(math.log10(run.spec.train.learning_rate) + 1) + 0.1
    return Script(tuple(level + 1 / epoch for epoch in range(1, run.spec.train.epochs + 1)))
