"""Starts the workers of a run, before anything else of it: importing torch takes them seconds.

So nothing here needs Optuna, SQLAlchemy or pandas, which the driver imports meanwhile.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from hpsearch.contracts.executor import Executor, WorkerPlace, Workers
from hpsearch.contracts.messages import WorkerSetup
from hpsearch.contracts.places import Cluster
from hpsearch.errors import UserError
from hpsearch.executors.choose import CLUSTERS, make_executor
from hpsearch.files.run_folder import RunFolder
from hpsearch.service.fleet import Fleet
from hpsearch.store.url import DEFAULT_STORAGE
from hpsearch.study.specification import StudySpec
from hpsearch.training.imports import warn_of_hidden

LEAVE = 5.0  # seconds in which workers that train nothing any more must have left


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Where and how much; nothing of this changes what a trial is.

    Attributes:
        storage: URL of the database.
        data_root: overrides `data.root` of the study.
        share: how workers share a GPU: "time" (by turns) or "nvidia-mps" (see `executors.mps`).
        executor: what runs the workers: one of `executors.choose`, or the name of one that an installed package
            brings.
        cluster: how workers elsewhere are started and find this driver.
        allow: what the study may name, see `training.imports.import_object`; None trusts every name in it.
        import_paths: folders of the study's own modules, beside those of the current one that it names.
        storage_timeout: seconds that the database may be away.
        lease_seconds: seconds after which a silent driver's trials may be taken over.
    """

    storage: str = DEFAULT_STORAGE
    run_folder: Path = Path("runs")
    data_root: str | None = None
    workers: Workers = field(default_factory=Workers)
    share: str = "time"
    executor: str = "local"
    cluster: Cluster = field(default_factory=Cluster)
    allow: tuple[str, ...] | None = None
    import_paths: tuple[str, ...] = ()
    storage_timeout: float = 600.0
    lease_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Launch:
    """A run whose workers are starting.

    Attributes:
        begun: when (monotonic seconds).
    """

    spec: StudySpec
    options: RunOptions
    folder: RunFolder
    places: tuple[WorkerPlace, ...]
    fleet: Fleet
    begun: float

    @property
    def devices(self) -> list[str]:
        """What each worker trains on, for people."""
        return [self._device(place) for place in self.places]

    def _device(self, place: WorkerPlace) -> str:
        if place.gpus:
            return f"gpu {','.join(place.gpus)}"
        device = device_of(place, self.options)
        return f"cpu x{place.threads}" if device == "cpu" else device


@contextmanager
def launch(spec: StudySpec, options: RunOptions, executor: Executor | None = None) -> Iterator[Launch]:
    """Starts a study's workers, and ends those that are left at the end.

    Args:
        executor: by default the one that the options name.

    Raises:
        DeviceError: a GPU that is not there, or numbers of workers that do not fit together.
        UserError: the run folder cannot be made or written, or the executor is not installed.
    """
    begun = time.monotonic()
    for study_folder in options.import_paths:
        warn_of_hidden(study_folder)
    folder = RunFolder(options.run_folder.absolute(), spec.study.name)
    executor = executor or make_executor(
        options.executor, folder, replace(options.cluster, reconnect=options.storage_timeout)
    )
    try:
        places = executor.places(options.workers, spec.train.threads, options.share)
        if options.executor in CLUSTERS or options.workers.workers is None:
            places = places[: spec.total_trials]  # the others would find no trial
        make_folder(folder.home)
        fleet = Fleet(
            executor,
            places,
            lambda place: worker_setup(spec, options, folder, place),
            spec.study.stall_timeout,
            spec.study.recovery_timeout,
        )
        fleet.start_due()
        yield Launch(spec, options, folder, tuple(places), fleet, begun)
    except BaseException:
        executor.close(timeout=0.0)
        raise
    fleet.close(LEAVE)


def make_folder(folder: Path) -> None:
    """Makes a folder inside the run folder.

    Raises:
        UserError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass  # it can be written
    except OSError as error:
        raise UserError(
            f"--run-folder: {folder} cannot be made or written: {error.strerror}; choose another folder"
        ) from None


def device_of(place: WorkerPlace, options: RunOptions) -> str:
    """Returns what a worker is told to train on; one that is started by hand chooses where it runs."""
    if options.executor == "dial":
        return {"none": "cpu", "all": "cuda"}.get(options.workers.gpus, "auto")
    return "cuda" if place.gpus else "cpu"


def worker_setup(spec: StudySpec, options: RunOptions, folder: RunFolder, place: WorkerPlace) -> WorkerSetup:
    """Returns what a worker of a run is told before its first trial."""
    return WorkerSetup(
        worker=place.worker,
        spec=spec,
        device=device_of(place, options),
        data_root=options.data_root,
        cache=str(folder.cache),
        import_paths=options.import_paths,
        allow=options.allow,
    )
