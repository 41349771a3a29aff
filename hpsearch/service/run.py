"""One run of a study on this machine: opens the study, starts the workers, drives, and cleans up."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna

from hpsearch.errors import HpsearchError, LeaseLost
from hpsearch.search.opening import open_study
from hpsearch.search.storage import redact
from hpsearch.search.study import Study
from hpsearch.service.callbacks import Callback, FinishedTrial, RunSummary, StudyInfo
from hpsearch.service.driver import Driver
from hpsearch.service.executor import Executor, WorkerPlace
from hpsearch.service.fleet import Fleet
from hpsearch.service.keeper import WeightsKeeper
from hpsearch.service.local import LocalExecutor
from hpsearch.service.messages import WorkerSetup
from hpsearch.service.mps import shared
from hpsearch.service.places import Workers, plan
from hpsearch.service.records import finished
from hpsearch.service.watch import Stops
from hpsearch.spec.folders import RunFolder
from hpsearch.spec.study import StudySpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Where and how much; nothing of this changes what a trial is.

    Attributes:
        storage: URL of the database.
        data_root: overrides `data.root` of the study.
        share: how workers share a GPU: "time" (by turns) or "nvidia-mps" (see `service.mps`).
        allow: top-level modules that the study may name; None trusts every name in it.
        import_paths: folders in which the study's own modules are looked for.
        storage_timeout: seconds that the database may be away.
        lease_seconds: seconds after which a silent driver's trials may be taken over.
    """

    storage: str = "sqlite:///runs/hpsearch.db"
    run_folder: Path = Path("runs")
    data_root: str | None = None
    workers: Workers = field(default_factory=Workers)
    share: str = "time"
    allow: tuple[str, ...] | None = None
    import_paths: tuple[str, ...] = ()
    storage_timeout: float = 600.0
    lease_seconds: float = 60.0


def run(
    spec: StudySpec,
    options: RunOptions,
    callbacks: Sequence[Callback] = (),
    executor: Executor | None = None,
) -> RunSummary:
    """Runs a study until it is finished or stopped; SIGINT and SIGTERM stop it warmly, a second one at once.

    Raises:
        UserError: study, data, model, device or storage; nothing was trained.
        HpsearchError: the run could not go on; what was trained is kept.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = RunFolder(options.run_folder.absolute(), spec.study.name)
    places = plan(options.workers, spec.train.threads)
    with shared(options.share, places, folder.home / "mps") as ready:
        return _run(spec, options, folder, ready, callbacks, executor)


def _run(
    spec: StudySpec,
    options: RunOptions,
    folder: RunFolder,
    places: list[WorkerPlace],
    callbacks: Sequence[Callback],
    executor: Executor | None,
) -> RunSummary:
    begun = time.monotonic()
    fleet = Fleet(
        executor or LocalExecutor(folder),
        places,
        lambda place: _setup(spec, options, folder, place),
        spec.study.stall_timeout,
        max_early_deaths=max(4, len(places) + 1),
    )
    # Importing torch takes a worker seconds: the database is opened meanwhile.
    fleet.start_due()
    try:
        study = open_study(spec, options.storage, _devices(places), options.lease_seconds)
    except BaseException:
        fleet.close(timeout=0.0)
        raise
    stops = Stops(spec.study)
    keeper = WeightsKeeper(folder, spec.checkpoint, spec.study.better)
    keeper.know(study.complete_scores())
    driver = Driver(study, fleet, keeper, stops, callbacks, options.storage_timeout)
    driver.call("on_study_start", _info(spec, study, options, folder, places))
    cpu = time.process_time()
    with stops.signals():
        try:
            driver.run()
        finally:
            fleet.close(timeout=0.0 if stops.cold else 5.0)
            _leave(driver)
    summary = _summary(driver, options, folder, time.monotonic() - begun, time.process_time() - cpu)
    driver.call("on_study_end", summary)
    return summary


def _setup(spec: StudySpec, options: RunOptions, folder: RunFolder, place: WorkerPlace) -> WorkerSetup:
    return WorkerSetup(
        worker=place.worker,
        spec=spec,
        device="cuda" if place.gpus else "cpu",
        data_root=options.data_root,
        cache=str(folder.cache),
        import_paths=options.import_paths or (os.getcwd(),),
        allow=options.allow,
    )


def _leave(driver: Driver) -> None:
    """Writes what can be written and gives the trials back, so that the next run takes them over at once."""
    try:
        while True:
            try:
                driver.keeper.recorded(driver.study.flush())
                driver.study.release()
                break
            except LeaseLost as error:
                if not driver.study.drop(error.tickets):
                    raise
    except HpsearchError as error:
        logger.warning("%s; what is not written comes from the checkpoints at the next run", error)


def _devices(places: Sequence[WorkerPlace]) -> list[str]:
    return [f"gpu {','.join(place.gpus)}" if place.gpus else f"cpu x{place.threads}" for place in places]


def _info(
    spec: StudySpec, study: Study, options: RunOptions, folder: RunFolder, places: Sequence[WorkerPlace]
) -> StudyInfo:
    return StudyInfo(
        spec=spec,
        total=study.total,
        finished={name: count for name, count in study.view.counts.items() if count},
        storage=redact(options.storage),
        folder=str(folder.home),
        workers=tuple(f"worker {p.worker}: {d}" for p, d in zip(places, _devices(places), strict=True)),
    )


def _summary(
    driver: Driver, options: RunOptions, folder: RunFolder, seconds: float, cpu: float
) -> RunSummary:
    study, stops = driver.study, driver.stops
    best = _best(study, folder)
    status = stops.exit_status if stops.exit_status is not None else (0 if best is not None else 1)
    return RunSummary(
        study=study.spec.study.name,
        reason=stops.reason or f"all {study.total} trials are finished",
        counts={name: count for name, count in study.view.counts.items() if count},
        stop_reasons=dict(study.view.stop_reasons),
        best=best,
        seconds=seconds,
        exit_status=status,
        epochs=driver.tally.epochs,
        driver_seconds=cpu,
        folder=str(folder.home),
        storage=redact(options.storage),
    )


def _best(study: Study, folder: RunFolder) -> FinishedTrial | None:
    trial = study.view.best
    if trial is None:
        return None
    weights = folder.weights(trial.number)
    kept = str(weights) if weights.exists() else trial.user_attrs.get("weights") or ""
    return finished(trial, trial.number, is_best=True, weights=kept)
