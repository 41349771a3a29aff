"""What is going on in a study: its counts, and the drivers and workers that train it, on any machine."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage
from sqlalchemy import inspect

from hpsearch.errors import StudyNotFound, nearest
from hpsearch.results.stored.listing import StudyRow, study_rows
from hpsearch.results.stored.reading import opened
from hpsearch.store.connection import redact
from hpsearch.store.identity import DriverIdentity
from hpsearch.store.ledger import Ledger
from hpsearch.store.schema import DRIVER, DriverRow, DriverState


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker of a driver, as the driver last told; `seconds` is how long it has been at its trial."""

    worker: int
    phase: str
    device: str
    trial: int | None
    epoch: int | None
    epochs: int | None
    seconds: float | None
    attempt: int | None
    memory_mb: float | None


@dataclass(frozen=True, slots=True)
class DriverStatus:
    """One driver; `silence` is the seconds since it was last seen."""

    host: str
    pid: int
    state: DriverState
    silence: float
    devices: tuple[str, ...]
    workers: tuple[WorkerStatus, ...]


@dataclass(frozen=True, slots=True)
class StudyStatus:
    """A study and who works on it."""

    row: StudyRow
    drivers: tuple[DriverStatus, ...]


def study_status(name: str, url: str, run_folder: Path) -> StudyStatus:
    """Returns the status of a study.

    Raises:
        StudyNotFound: no study of this name; the nearest is named.
        StorageError, StorageAway: the database.
    """
    with opened(url) as storage:
        row = find_row(name, storage, run_folder)
        return StudyStatus(row, tuple(map(_driver, driver_rows(storage, row.study_id))))


def find_row(name: str, storage: RDBStorage, run_folder: Path) -> StudyRow:
    """Returns a study by its name.

    Raises:
        StudyNotFound: naming the nearest.
    """
    rows = {row.name: row for row in study_rows(storage, run_folder)}
    if name not in rows:
        known = nearest(name, rows) if rows else "there are none"
        raise StudyNotFound(f'no study "{name}" in {redact(storage.url)}; {known}')
    return rows[name]


def driver_rows(storage: RDBStorage, study_id: int) -> list[DriverRow]:
    """Returns a study's drivers; none where hpsearch has never run, whose tables are then not made."""
    if not inspect(storage.engine).has_table(DRIVER.name):
        return []
    return Ledger(storage, DriverIdentity.here()).drivers(study_id)


def living_drivers(storage: RDBStorage, study_id: int) -> list[DriverRow]:
    """Returns those of a study's drivers that run it now."""
    return [driver for driver in driver_rows(storage, study_id) if driver.state is DriverState.ALIVE]


def request_stop(name: str, url: str, run_folder: Path) -> int:
    """Asks all drivers of a study to stop warmly; returns how many of them are alive.

    Raises:
        StudyNotFound: no study of this name.
    """
    with opened(url) as storage:
        row = find_row(name, storage, run_folder)
        alive = living_drivers(storage, row.study_id)
        if alive:
            Ledger(storage, DriverIdentity.here()).request_stop(row.study_id)
        return len(alive)


def _driver(row: DriverRow) -> DriverStatus:
    return DriverStatus(
        host=row.identity.host.partition("/")[0],
        pid=row.identity.pid,
        state=row.state,
        silence=row.silence,
        devices=tuple(json.loads(row.devices)),
        workers=tuple(map(_worker, json.loads(row.workers))),
    )


def _worker(told: Mapping[str, Any]) -> WorkerStatus:
    since = told.get("since")
    return WorkerStatus(
        worker=told["worker"],
        phase=told.get("phase", ""),
        device=told.get("device", ""),
        trial=told.get("trial"),
        epoch=told.get("epoch"),
        epochs=told.get("epochs"),
        seconds=None if since is None else max(0.0, time.time() - since),
        attempt=told.get("attempt"),
        memory_mb=told.get("memory_mb"),
    )
