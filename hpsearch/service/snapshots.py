"""What the driver tells callbacks, `hpsearch status` and the user: plain records of what it holds."""

import json
from typing import Any

from optuna.trial import FrozenTrial

from hpsearch.contracts.callbacks import (
    FINISHED,
    FinishedTrial,
    Health,
    RunningTrial,
    Standing,
    WorkerState,
)
from hpsearch.files.run_folder import RunFolder
from hpsearch.service.database import Database
from hpsearch.service.fleet import Fleet, Phase, Worker
from hpsearch.service.live import LiveTrial
from hpsearch.service.study import Study


def running(trial: LiveTrial, worker: Worker) -> RunningTrial:
    """Returns what callbacks are told of a trial in training."""
    return RunningTrial(
        number=trial.number,
        attempt=trial.tries,
        worker=worker.place.worker,
        hparams=trial.hparams,
        epochs=trial.spec.train.ends_after,
        since=seat.since if (seat := worker.trials.get(trial.number)) else trial.since,
        curve=tuple(trial.results),
        why=trial.why[-1] if trial.why else "",
    )


def finished(trial: FrozenTrial, number: int, is_best: bool, folder: RunFolder) -> FinishedTrial:
    """Returns what callbacks are told of a finished trial, with its weights where they are here."""
    attrs = trial.user_attrs
    weights = folder.find_weights(number, attrs.get("weights"))
    return FinishedTrial(
        number=number,
        state=trial.state.name,
        stop_reason=attrs["stop_reason"],
        score=attrs["score"],
        best_epoch=attrs["best_epoch"],
        epochs_run=attrs["epochs_run"],
        hparams=trial.params,
        attrs=attrs,
        detail=attrs["stop_detail"],
        is_best=is_best,
        weights=str(weights) if weights else attrs.get("weights") or None,
    )


def standing(study: Study, folder: RunFolder) -> Standing:
    """Returns what callbacks are told of a study as a whole."""
    counts = study.counts
    return Standing(
        finished={name: counts[name] for name in FINISHED if counts[name]},
        stop_reasons=dict(study.view.stop_reasons),
        best=best(study, folder),
        paused=counts["PAUSED"],
    )


def best(study: Study, folder: RunFolder) -> FinishedTrial | None:
    """Returns a study's best trial, with its weights where they are kept."""
    trial = study.view.best
    if trial is None:
        return None
    return finished(trial, trial.number, True, folder)


def health(fleet: Fleet, study: Study, database: Database) -> Health:
    """Returns what callbacks are told of the driver itself."""
    workers = tuple(
        WorkerState(worker.place.worker, worker.phase.value, worker.host, _device(worker), worker.memory_mb)
        for worker in fleet.workers.values()
    )
    return Health(workers, study.unwritten, database.latency, database.away_for)


def worker_rows(fleet: Fleet, study: Study) -> str:
    """Returns the driver's workers as JSON, as `hpsearch status` shows them: a row for each of their trials."""
    workers = fleet.workers.values()
    return json.dumps(
        [_row(worker, number, study) for worker in workers for number in worker.trials or [None]]
    )


def _row(worker: Worker, number: int | None, study: Study) -> dict[str, Any]:
    seat = worker.trials.get(number) if number is not None else None
    trial = study.live.get(number) if number is not None else None
    return {
        "worker": worker.place.worker,
        "phase": worker.waits if _is_queued(worker) else worker.phase.value,
        "device": _device(worker),
        "pid": worker.pid,
        "memory_mb": worker.memory_mb,
        "trial": number,
        "epoch": seat.epoch if seat else None,
        "epochs": trial.spec.train.ends_after if trial else None,
        "since": seat.since if seat else None,
        "attempt": trial.tries if trial else None,
    }


def _device(worker: Worker) -> str:
    return worker.device or ", ".join(worker.place.gpus) or "cpu"


def _is_queued(worker: Worker) -> bool:
    """Says whether a scheduler has yet to find room for a worker, as its executor has told."""
    return worker.phase is Phase.STARTING and worker.waits.startswith("queued")
