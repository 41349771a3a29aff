"""All that driver and worker say to each other: frozen records, picklable, no torch and no Optuna in them.

    driver                                   worker
      |  WorkerSetup  ---------------------->
      |  <---------------------------------  Waiting                    while its GPU is too full, or another
      |                                                                  process prepares its images
      |  <---------------------------------  Loading                    while it reads images for the first time
      |  <---------------------------------  Ready | SetupFailed        after importing torch and loading data
      |  TrialRun  ------------------------>
      |  <---------------------------------  TrialStarted               with its checkpoint's epochs, if any, and its
      |                                                                  footprint, if the study asks for it
      |  <---------------------------------  EpochResult                one per epoch
      |  <---------------------------------  Usage                      every few seconds
      |  Decision  ------------------------>                            CONTINUE, STOP or PREEMPT
      |  <---------------------------------  TrialEnd
      |  Shutdown  ------------------------>

A worker takes as many TrialRuns as its `Ready.capacity` says. Each trial waits for the decision on its last
epoch before it trains the next: a stopped trial never trains an epoch too many. So does one that is resumed:
the driver judges the checkpoint's last epoch anew (`TrialStarted.curve` is not empty), for the trial may have
ended before its record was written. One whose footprint is told (`TrialStarted.footprint`) waits for the decision on
epoch 0, for it may take more than the study allows.
The executor itself sends `WorkerExit` (the worker has gone), `Waiting` (it is queued), and
`PlaceAdded` and `PlaceRemoved` when places come and go.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from hpsearch.contracts.places import WorkerPlace
from hpsearch.contracts.trial import EndKind, EpochResult, TrialEnd, TrialRun, TrialStarted
from hpsearch.study.checks import DataFacts
from hpsearch.study.specification import StudySpec

__all__ = [
    "Action",
    "DataFacts",
    "Decision",
    "EndKind",
    "EpochResult",
    "FromWorker",
    "Loading",
    "PlaceAdded",
    "PlaceRemoved",
    "Ready",
    "SetupFailed",
    "Shutdown",
    "ToWorker",
    "TrialEnd",
    "TrialRun",
    "TrialStarted",
    "Usage",
    "Waiting",
    "WorkerExit",
    "WorkerSetup",
]


class Action(StrEnum):
    """What a worker does with a trial after an epoch."""

    CONTINUE = "continue"
    STOP = "stop"  # evict, keep the best weights
    PREEMPT = "preempt"  # checkpoint and give back


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker needs before its first trial.

    Attributes:
        device: "cpu", "cuda" (the first that the worker's CUDA_VISIBLE_DEVICES shows) or "auto".
        data_root: overrides `spec.data.root`.
        cache: folder of decoded images, shared by all workers and runs.
        import_paths: folders of the study's own modules, see `training.imports.look_in`.
        allow: what the study may name, see `training.imports.import_object`; None trusts all.
    """

    worker: int
    spec: StudySpec
    device: str = "auto"
    data_root: str | None = None
    cache: str = "runs/cache"
    import_paths: tuple[str, ...] = ()
    allow: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker can train.

    Attributes:
        data: as the worker found it; None for an own loop with its own data.
        code: digests of the sources of the user's modules, by what the study names of them.
        host: the machine that it runs on; two workers share a GPU only on the same host.
        capacity: how many trials it trains at once.
        pictures: some training images as trials see them, PNG files in base64; of the first worker alone.
    """

    worker: int
    pid: int
    device: str
    versions: Mapping[str, str]
    data: DataFacts | None
    seconds: float
    code: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
    capacity: int = 1
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a worker's process uses at the moment: its resident memory, in MiB."""

    worker: int
    memory_mb: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """A worker cannot train yet; `text` says why, now and then. It counts as a sign of life.

    Before it is Ready its executor may say that it is queued, and the worker that it waits for room on its
    GPU; then, and in a trial with images of a new size, that another process prepares the same images.
    """

    worker: int
    text: str


@dataclass(frozen=True, slots=True)
class Loading:
    """A worker reads images that are not in the cache yet: so many of `total` are done."""

    worker: int
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class SetupFailed:
    """A worker cannot train this study: a sentence for the user, or a traceback for a bug.

    `user_error` names the class in `hpsearch.errors` when the user can mend it.
    """

    worker: int
    message: str
    user_error: str | None = None
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to an EpochResult. A PREEMPT may also come unasked: it interrupts no epoch."""

    number: int
    epoch: int
    action: Action


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Leave after evicting (PREEMPTED) what is still in the slots."""


@dataclass(frozen=True, slots=True)
class WorkerExit:
    """A worker's pipe has closed: its process is gone, or the executor ended it.

    Attributes:
        reason: one sentence: exit status or signal name, the kernel's OOM kill when it can be seen.
        stderr: the last lines that it wrote.
        blameless: whether neither the worker nor its trials caused it: a job was preempted, a node has gone.
            Nothing counts as a failure, and the worker is started again at once.
    """

    worker: int
    reason: str
    stderr: str = ""
    blameless: bool = False


@dataclass(frozen=True, slots=True)
class PlaceAdded:
    """There is another place for a worker, or again the one of this number."""

    place: WorkerPlace


@dataclass(frozen=True, slots=True)
class PlaceRemoved:
    """A place has gone, and its worker is not started again; its WorkerExit has come or follows."""

    worker: int


ToWorker = WorkerSetup | TrialRun | Decision | Shutdown
FromWorker = (
    Waiting
    | Loading
    | Ready
    | SetupFailed
    | TrialStarted
    | EpochResult
    | Usage
    | TrialEnd
    | WorkerExit
    | PlaceAdded
    | PlaceRemoved
)
