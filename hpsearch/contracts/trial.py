"""One trial in plain values: what it is told, what it reports, how it ends. Neither torch nor Optuna."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from hpsearch.study.specification import StudySpec

PIECES = "pieces"
"""User attribute of a trial: a list of [last epoch, order], one for each piece that it was trained in."""
PAUSED = "paused"
"""User attribute of a RUNNING trial that waits to be resumed: the epoch after which it was paused, else None."""
WHY = "why"
"""User attribute: for each time that a trial was begun or resumed, why it was chosen."""
PAUSES = "pauses"
"""User attribute: how often a trial was paused and resumed."""
BEST_AT = "best_at"
"""User attribute: when the score was reached, as the end of the training that stored it, in seconds since 1970."""
START_SECONDS = "start_seconds"
"""User attribute: wall time in which the trial was built, and its checkpoint read; what an interruption cut off is not
in it."""
DEVICE_SECONDS = "device_seconds"
"""User attribute: how long devices were busy with a trial; trials beside each other share the time."""
JOULES = "joules"
"""User attribute: the energy that devices took for a trial, its share where trials are beside each other."""
QUEUED = "fixed_params"
"""System attribute where Optuna keeps what a trial was given by `study.enqueue_trial`."""
IMPORTED = "imported"
"""User attribute of a trial that `hpsearch import` has taken: the Optuna study, its number there, when it began."""
TRIES = "attempt"
"""User attribute: attempts at a trial, of which those between two pauses are one."""


class EndKind(StrEnum):
    """How an attempt at a trial ended, as the engine saw it."""

    FINISHED = "finished"  # all its epochs
    STOPPED = "stopped"  # the driver decided so
    PRUNED = "pruned"  # the training function gave it up, by raising optuna.TrialPruned
    PREEMPTED = "preempted"  # checkpointed and given back, to be resumed
    OUT_OF_MEMORY = "out_of_memory"  # it cannot be built, or not even a micro-batch of one sample fits
    UNSAVED = "unsaved"  # a checkpoint could not be written: no fault of the trial, which can be resumed
    ERROR = "error"  # an exception in model, data or training function


class StopKind(StrEnum):
    """Why a trial ended."""

    FINISHED = "finished"
    EARLY_STOPPING = "early_stopping"
    PRUNER = "pruner"
    DIVERGED = "diverged"
    INFEASIBLE = "infeasible"  # it breaks a limit of the study
    OUT_OF_MEMORY = "out_of_memory"
    STUDY_END = "study_end"  # one of the study's own limits ended it
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Origin:
    """The trial that another one continues.

    Attributes:
        number: in the search.
        folder: of its checkpoint.
        stream: what its random numbers come from, see `TrialRun.stream`.
    """

    number: int
    folder: str
    stream: int


@dataclass(frozen=True, slots=True)
class TrialRun:
    """One attempt at a trial, with all that a worker needs to know.

    Attributes:
        study: name of the study.
        number: Optuna's trial number.
        attempt: from 1; one more for each time that the trial was begun or resumed.
        hparams: the sampled values by name, as Optuna stores them.
        spec: the study with these hparams in place; `spec.study.seed` is the study's seed.
        folder: the trial's own checkpoint folder; the attempt writes into a folder of its own below it.
        origin: the trial that it continues, if it does.
    """

    study: str
    number: int
    attempt: int
    hparams: Mapping[str, Any]
    spec: StudySpec
    folder: str
    origin: Origin | None = None

    @property
    def stream(self) -> int:
        """What its random numbers come from, beside the study's seed: the trial's number or repeat, and its fold."""
        repeat, split = self.spec.train.repeat, self.spec.data.split
        own = self.number if repeat is None else -1 - repeat
        if self.origin is not None:
            own = self.origin.stream
        return own if split.folds is None else own * split.folds + (split.fold or 0)


@dataclass(frozen=True, slots=True)
class EpochResult:
    """What one epoch of one trial gave.

    Attributes:
        epoch: from 1.
        metrics: by name; always `val_loss`, and `train_loss` where the loop reports it. NaN where it
            diverged.
        seconds: wall time of the epoch, of which `eval_seconds` for validation and `checkpoint_seconds` for
            saving.
        samples: training samples seen.
        joules: energy that its devices took meanwhile, for whatever; 0 where it cannot be read.
        last: whether it was the last of the trial's epochs.
        checkpointed: whether this epoch is in a whole checkpoint, so that a crash cannot cost it.
    """

    number: int
    attempt: int
    epoch: int
    metrics: Mapping[str, float]
    seconds: float = 0.0
    eval_seconds: float = 0.0
    checkpoint_seconds: float = 0.0
    samples: int = 0
    last: bool = False
    checkpointed: bool = False
    joules: float = 0.0


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """An attempt begins.

    Attributes:
        curve: the epochs of the checkpoint that it resumes, if any.
        seconds: wall time in which the trial was built, and its checkpoint read.
        footprint: what the model takes, by the names of `StudySpec.measured`.
    """

    number: int
    attempt: int
    curve: tuple[EpochResult, ...] = ()
    seconds: float = 0.0
    footprint: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrialEnd:
    """An attempt ends.

    Attributes:
        detail: one sentence for errors and out of memory.
        traceback: for errors.
        hopeless: whether another attempt would end alike, such as one whose model cannot be built.
        leaving: whether the worker ends with it, so that it must not be given another trial.
        weights: path of the best epoch's weights (safetensors, its metadata with that `epoch`), if any were kept.
        facts: user attributes for the dashboard: parameters, peak memory, device, micro-batch, precision ...
    """

    number: int
    attempt: int
    kind: EndKind
    detail: str = ""
    traceback: str = ""
    weights: str | None = None
    leaving: bool = False
    hopeless: bool = False
    facts: Mapping[str, str | int | float | list[float]] = field(default_factory=dict)
