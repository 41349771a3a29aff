"""One run of a study on this machine: opens the study, drives the workers, and cleans up."""

import logging
import os
import time
from collections.abc import Sequence

import optuna

from hpsearch.contracts.callbacks import Callback, RunSummary, StudyInfo
from hpsearch.contracts.executor import Executor
from hpsearch.errors import CheckpointError, HpsearchError, LeaseLost, StudyNotFound
from hpsearch.files.atomic import remove_left
from hpsearch.service.driver import Driver
from hpsearch.service.keeper import WeightsKeeper
from hpsearch.service.launch import LEAVE, Launch, RunOptions, launch
from hpsearch.service.opening import discard_empty, open_study
from hpsearch.service.snapshots import best, standing
from hpsearch.service.study import Study
from hpsearch.service.watch import Stops
from hpsearch.store.sqlite import is_damaged
from hpsearch.store.url import absolute, redact, sqlite_file
from hpsearch.study.specification import StudySpec
from hpsearch.text import counted

logger = logging.getLogger(__name__)


def run(
    spec: StudySpec,
    options: RunOptions,
    callbacks: Sequence[Callback] = (),
    executor: Executor | None = None,
) -> RunSummary:
    """Launches a study's workers and drives them, see `drive`.

    Raises:
        UserError: study, data, model, device or storage; nothing was trained.
        HpsearchError: the run could not continue; what was trained is kept.
    """
    with launch(spec, options, executor) as launched:
        return drive(launched, callbacks)


def drive(launched: Launch, callbacks: Sequence[Callback] = ()) -> RunSummary:
    """Runs a study until it is finished or stopped; SIGINT and SIGTERM stop it warmly, a second one at once.

    Raises:
        UserError: study, data, model or storage; nothing was trained.
        HpsearchError: the run could not continue; what was trained is kept.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec, options = launched.spec, launched.options
    unsaved = launched.folder.unsaved()
    study = open_study(spec, options.storage, launched.devices, options.lease_seconds, unsaved=unsaved)
    try:
        return _drive(launched, study, callbacks)
    except HpsearchError:
        if study.made_here:
            discard_empty(study.storage, study.ledger, study.study_id)
        raise
    finally:
        study.storage.engine.dispose()


def _drive(launched: Launch, study: Study, callbacks: Sequence[Callback]) -> RunSummary:
    spec, options = launched.spec, launched.options
    stops = Stops(spec.study)
    study.note_end("")  # a limit may have been raised since
    keeper = WeightsKeeper(launched.folder, spec.checkpoint, spec.study.better)
    remove_left(launched.folder.home)
    keeper.take_folder(study.token, absolute(options.storage), study.others())
    driver = Driver(study, launched.fleet, keeper, stops, callbacks, options.storage_timeout)
    driver.tidy()  # what a killed driver has left
    driver.call("on_study_start", _info(launched, study))
    if spec.checkpoint.every_seconds > 0:
        seconds = f"{spec.checkpoint.every_seconds:g} s"
        text = f"checkpoint.every_seconds: a crash may cost each running trial {seconds} of training and an epoch"
        driver.call("on_message", text)
    cpu = time.process_time()
    try:
        _work(driver)
    except Exception as error:
        driver.call("on_study_end", _summary(driver, launched, time.process_time() - cpu, error))
        raise
    summary = _summary(driver, launched, time.process_time() - cpu)
    driver.call("on_study_end", summary)
    return summary


def _work(driver: Driver) -> None:
    fleet, stops = driver.fleet, driver.stops
    with stops.signals():
        try:
            driver.run()
        finally:
            if fleet.training():  # what they train may be taken over as soon as the leases are given back
                fleet.close(timeout=0.0 if stops.cold else LEAVE)
            else:
                fleet.dismiss()  # they leave while the end is written and told
            _leave(driver)


def _all_finished(study: Study) -> str:
    total, waiting = study.total, study.counts["WAITING"]
    said = f"all {total} trials are finished" if total > 1 else "its trial is finished"
    waits = "waits" if waiting == 1 else "wait"
    return f"{said}; {counted(waiting, 'enqueued point')} {waits}; raise study.trials" if waiting else said


def _stopped_by(driver: Driver) -> str | None:
    """Returns why the run ended before its study did; None if it did not: a finished study needs no more time."""
    is_finished = driver.study.view.board.finished >= driver.study.total
    return None if driver.stops.is_late and is_finished else driver.stops.reason


def _leave(driver: Driver) -> None:
    """Writes what can be written and gives the trials back, so that the next run takes them over at once.

    A cold end must not wait for the database: the next run on this machine sees that this driver is gone.
    """
    study = driver.study
    if driver.database.gone:
        _save(driver)
        return
    if driver.stops.cold:
        return
    try:
        while True:
            try:
                study.flush()
                study.release()
                if driver.stops.ends_study:
                    study.note_end(_stopped_by(driver) or "")
                study.note_expectation()
                break
            except LeaseLost as error:
                study.drop(error.tickets)
                study.sync()
        driver.tidy()
    except StudyNotFound as error:
        driver.database.lose(error)
        _save(driver)
    except HpsearchError as error:
        logger.warning("%s; what is not written comes from the checkpoints at the next run", error)


def _save(driver: Driver) -> None:
    """Writes beside what memory holds of a study that is gone from its database."""
    gone = driver.database.gone
    home = driver.keeper.folder.home
    path = home / f"unsaved-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
    try:
        count = driver.study.save(path)
    except OSError as error:
        raise CheckpointError(
            f"{gone}; its trials cannot be kept in {path}: {error.strerror or error}"
        ) from error
    driver.database.damaged = _damaged(driver.study)
    first = f"move {driver.database.damaged} away and " if driver.database.damaged else ""
    driver.database.gone = (
        f"{gone}; {counted(count, 'finished trial')} and all unfinished ones are kept in {path}: {first}run the study "
        "again to bring them back"
    )


def _damaged(study: Study) -> str:
    """Returns the database's file if it cannot be read any more, so that it is in the way; "" if not."""
    file = sqlite_file(str(study.storage.engine.url))
    return str(file) if file is not None and is_damaged(file) else ""


def _info(launched: Launch, study: Study) -> StudyInfo:
    stands = standing(study, launched.folder)
    described = zip(launched.places, launched.devices, strict=True)
    return StudyInfo(
        spec=study.spec,
        total=study.total,
        finished=stands.finished,
        stop_reasons=stands.stop_reasons,
        best=stands.best,
        storage=redact(launched.options.storage),
        folder=str(launched.folder.home),
        token=study.token,
        workers=tuple(f"worker {place.worker}: {device}" for place, device in described),
    )


def _summary(driver: Driver, launched: Launch, cpu: float, error: Exception | None = None) -> RunSummary:
    study, stops = driver.study, driver.stops
    found = best(study, launched.folder)
    reason = driver.database.gone or _stopped_by(driver) or _all_finished(study)
    status = stops.exit_status if stops.exit_status is not None else (0 if found is not None else 1)
    if driver.database.gone:  # outranks a signal
        status = 1
    if error is not None:
        reason = str(error) or type(error).__name__
        status = error.exit_status if isinstance(error, HpsearchError) else 1
    return RunSummary(
        study=study.spec.study.name,
        reason=reason,
        counts={name: count for name, count in study.counts.items() if count},
        stop_reasons=dict(study.view.stop_reasons),
        best=found,
        seconds=time.monotonic() - launched.begun,
        exit_status=status,
        interrupted=len(study.live),
        can_go_on=bool(driver.database.gone)
        or (study.view.board.finished < study.total and not stops.ends_study),
        cold=stops.cold,
        failed=error is not None,
        lost=bool(driver.database.gone),
        damaged=driver.database.damaged,
        epochs=driver.epochs,
        driver_seconds=cpu,
        folder=str(launched.folder.home),
        storage=redact(launched.options.storage),
    )
