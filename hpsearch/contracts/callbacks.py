"""How to follow a study while it runs: subclass `Callback`, override what you need, hand it to `run`.

Callbacks are called in the driver's own thread, between decisions: one that takes long delays every worker.
A callback that raises is reported in the log with its traceback and not called again; the study continues.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hpsearch.contracts.trial import EpochResult
from hpsearch.errors import limit
from hpsearch.study.specification import StudySpec
from hpsearch.text import in_html_table

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StudyInfo:
    """A study as the run begins.

    Attributes:
        total: finished trials that the study asks for.
        finished: trials that were finished already, by state.
        stop_reasons: the same by the reason why they ended.
        best: the best of them.
        storage: the URL without its password.
        folder: the study's run folder.
        workers: one description per worker, such as "worker 0: cuda:0".
        token: what tells the study from all others, of whatever database and name.
    """

    spec: StudySpec
    total: int
    finished: Mapping[str, int]
    storage: str
    folder: str
    workers: tuple[str, ...]
    stop_reasons: Mapping[str, int] = field(default_factory=dict)
    best: "FinishedTrial | None" = None
    token: str = ""


@dataclass(frozen=True, slots=True)
class RunningTrial:
    """A trial in training.

    Attributes:
        epochs: after which it ends by itself.
        since: when it began or was resumed (as `time.time`).
        curve: the epochs so far.
        why: why it was chosen, where the study's policy pauses trials.
    """

    number: int
    attempt: int
    worker: int
    hparams: Mapping[str, Any]
    epochs: int
    since: float
    curve: tuple[EpochResult, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class FinishedTrial:
    """A trial that has ended.

    Attributes:
        state: COMPLETE, PRUNED or FAIL.
        stop_reason: finished, early_stopping, pruner, diverged, infeasible, out_of_memory, study_end or
            error.
        score: the best value of the study's metric over its epochs; None if there was no finite one.
        detail: one readable sentence about why it stopped.
        is_best: whether it is now the study's best trial.
        weights: path of its kept weights, if any.
    """

    number: int
    state: str
    stop_reason: str
    score: float | None
    best_epoch: int | None
    epochs_run: int
    hparams: Mapping[str, Any]
    attrs: Mapping[str, Any]
    detail: str = ""
    is_best: bool = False
    weights: str | None = None

    def __repr__(self) -> str:
        score = (
            ""
            if self.score is None
            else f", {self.score:.4g} at epoch {self.best_epoch} of {self.epochs_run}"
        )
        return f"<FinishedTrial {self.number}: {self.state} ({self.stop_reason}){score}>"

    def _repr_html_(self) -> str:
        return in_html_table(repr(self), self.hparams)


FINISHED = ("COMPLETE", "PRUNED", "FAIL")
"""States of finished trials."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a study stands, with what its other drivers did.

    Attributes:
        finished: finished trials by state.
        stop_reasons: the same by the reason why they ended.
        best: the best of them.
        paused: trials that wait to be resumed.
    """

    finished: Mapping[str, int]
    stop_reasons: Mapping[str, int]
    best: FinishedTrial | None
    paused: int = 0


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What a worker does at the moment.

    Attributes:
        phase: starting, idle, training, leaving or down.
        device: the name of its GPU or "cpu", where it is known.
        memory_mb: resident memory of its process, in MiB.
    """

    worker: int
    phase: str
    host: str
    device: str
    memory_mb: float | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """How the driver itself does.

    Attributes:
        unwritten: results that wait to be written.
        latency: seconds that the last call to the database took.
        away_for: seconds since the database stopped answering; 0 while it answers.
    """

    workers: tuple[WorkerState, ...]
    unwritten: int
    latency: float
    away_for: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerNews:
    """Something about a worker.

    Attributes:
        kind: starting, waiting, loading, ready, exit or removed.
        text: a sentence.
        done, total: images read so far and in all, while it is loading.
    """

    worker: int
    kind: str
    text: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run leaves behind.

    Attributes:
        reason: why it ended: all trials finished, time is up, stopped by a signal ... An error's own words,
            of which the first line is a sentence, where it ended with one.
        counts: trials by state over the whole study, RUNNING and WAITING included.
        interrupted: of the RUNNING ones those that this run has left to be resumed; others are other drivers'.
        stop_reasons: finished trials by stop reason.
        can_go_on: whether the study has trials left that another run would train.
        cold: whether a second signal ended it at once.
        failed: whether it ended with an error, which the caller is given after this.
        lost: whether the database has lost the study, so that there is nothing to be read or written there.
        damaged: the database's file, if that is why, so that it must be moved away first.
        exit_status: 0 when the study has a best trial, 1 when none succeeded, 130 / 143 after a signal, the
            error's own after an error.
        driver_seconds: processor time of the driver's own work within `seconds` of wall time.
    """

    study: str
    reason: str
    counts: Mapping[str, int]
    stop_reasons: Mapping[str, int]
    best: FinishedTrial | None
    seconds: float
    exit_status: int
    epochs: int = 0
    driver_seconds: float = 0.0
    folder: str = ""
    storage: str = ""
    can_go_on: bool = False
    cold: bool = False
    failed: bool = False
    lost: bool = False
    damaged: str = ""
    interrupted: int = 0

    @property
    def any_finished(self) -> bool:
        """Whether the study has a finished trial, from this run or from an earlier one."""
        return any(self.counts.get(state) for state in FINISHED)


class Callback:
    """Follows a study; every method does nothing until overridden."""

    def on_study_start(self, info: StudyInfo) -> None:
        """The study is open, workers are starting."""

    def on_worker(self, news: WorkerNews) -> None:
        """A worker starts, is ready, waits or has gone."""

    def on_trial_start(self, trial: RunningTrial) -> None:
        """A trial begins, or continues from a checkpoint (its curve then holds the epochs before)."""

    def on_epoch(self, trial: RunningTrial, result: EpochResult) -> None:
        """A trial has trained an epoch; `trial.curve` includes it."""

    def on_trial_interrupted(self, number: int) -> None:
        """A trial has left its worker without an end: it waits for its next attempt, here or elsewhere."""

    def on_trial_paused(self, trial: RunningTrial) -> None:
        """A trial has left its worker for a more promising one; it may be resumed later, here or elsewhere."""

    def on_trial_end(self, trial: FinishedTrial) -> None:
        """A trial of this driver has ended."""

    def on_standing(self, standing: Standing) -> None:
        """The study's other drivers have been looked at, which happens every few seconds."""

    def on_health(self, health: Health) -> None:
        """The driver gives a sign of life, which happens every few seconds."""

    def on_message(self, text: str) -> None:
        """Something the user should know: the database is away, a trial is taken over ..."""

    def on_tick(self) -> None:
        """Called at least once a second, also when nothing happens."""

    def on_study_end(self, summary: RunSummary) -> None:
        """The run ends, by whatever cause; `run` then raises the error, if it was one."""


class Calls:
    """Calls one method of every callback; one that raises is reported and left out from then on."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._callbacks = list(callbacks)

    def __call__(self, name: str, *arguments: Any) -> None:
        for callback in list(self._callbacks):
            try:
                getattr(callback, name)(*arguments)
            except Exception as error:
                short = limit(error)
                logger.error(
                    "callback %s.%s failed; it is not called again%s",
                    type(callback).__name__,
                    name,
                    short and f": {short}",
                    exc_info=None if short else error,
                )
                self._callbacks.remove(callback)
