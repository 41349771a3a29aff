"""What is going on in a study: its counts, and the drivers and workers that train it, on any machine."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpsearch.contracts.trial import DEVICE_SECONDS, JOULES
from hpsearch.results.stored.listing import StudyRow, study_rows
from hpsearch.results.stored.reading import find_study
from hpsearch.store import queries
from hpsearch.store.identity import DriverRow, DriverState
from hpsearch.store.reader import Reader, read_database


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
class Cost:
    """What a study's trials have cost; `joules` is 0 where no energy could be read."""

    device_seconds: float
    joules: float

    def rows(self, price: float | None) -> list[tuple[str, str]]:
        """Returns what there is to tell, by name.

        Args:
            price: of a device's hour.
        """
        hours = self.device_seconds / 3600
        found = [("device hours", f"{hours:.3g}")] if hours else []
        if self.joules:
            found.append(("energy", f"{self.joules / 3.6e6:.3g} kWh ({self.joules:,.0f} J)"))
        return found if price is None else [*found, (f"price at {price:g} an hour", f"{hours * price:,.2f}")]


@dataclass(frozen=True, slots=True)
class StudyStatus:
    """A study, who works on it, and what it has cost."""

    row: StudyRow
    drivers: tuple[DriverStatus, ...]
    cost: Cost = Cost(0.0, 0.0)


def study_status(name: str | None, url: str, run_folder: Path) -> StudyStatus:
    """Returns the status of a study; without a name, of the only one in the storage.

    Raises:
        StudyNotFound: no study of this name; the nearest is named.
        StorageError, StorageAway: the database.
    """
    with read_database(url) as reader:
        (row,) = study_rows(reader, run_folder, find_study(None, reader).name if name is None else name)
        spent = (queries.attribute_sum(reader, row.study_id, key) for key in (DEVICE_SECONDS, JOULES))
        return StudyStatus(row, tuple(map(_driver, queries.drivers(reader, row.study_id))), Cost(*spent))


def living_drivers(reader: Reader, study_id: int) -> list[DriverRow]:
    """Returns those of a study's drivers that run it now."""
    return [driver for driver in queries.drivers(reader, study_id) if driver.state is DriverState.ALIVE]


def request_stop(name: str, url: str, run_folder: Path) -> int:
    """Asks all drivers of a study to stop gracefully; returns how many of them are alive.

    Raises:
        StudyNotFound: no study of this name.
    """
    with read_database(url) as reader:
        (row,) = study_rows(reader, run_folder, name)
        alive = living_drivers(reader, row.study_id)
    if alive:
        from hpsearch.store.ledger import stop_drivers

        stop_drivers(url, row.study_id)
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
