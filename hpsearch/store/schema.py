"""Our own tables and their rows, beside Optuna's in the same database.

They have no foreign keys to Optuna's tables, so that a study can still be deleted in the dashboard.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.storages import RDBStorage
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    delete,
    inspect,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.sql.dml import Insert

from hpsearch.store.connection import settle, translated
from hpsearch.store.identity import DriverIdentity
from hpsearch.store.queries import CLOCKS

METADATA = MetaData()

DRIVER = Table(
    "hpsearch_driver",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("study_id", Integer, nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started", String(64), nullable=False),
    Column("devices", Text, nullable=False),
    Column("workers", Text, nullable=False),
    Column("seen", Double, nullable=False),
)

LEASE = Table(
    "hpsearch_lease",
    METADATA,
    Column("study_id", Integer, primary_key=True, autoincrement=False),
    Column("ticket", Integer, primary_key=True, autoincrement=False),
    Column("trial_id", Integer),
    Column("number", Integer),
    Column("driver", String(36)),
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("expires", Double, nullable=False),
    Column("preempted", Boolean(create_constraint=False), nullable=False),
    Column("done", Boolean(create_constraint=False), nullable=False),
    Index("hpsearch_lease_driver", "driver", "done"),
)

CONTROL = Table(
    "hpsearch_control",
    METADATA,
    Column("study_id", Integer, primary_key=True, autoincrement=False),
    # SQLite gives the number of a deleted study to the next one: the token tells them apart.
    Column("token", String(36)),
    Column("stop_requested_at", Double),
)


def server_time(connection: Connection) -> float:
    """Returns seconds since the epoch by the database server's clock; an SQLite file has only this machine's."""
    clock = CLOCKS.get(connection.dialect.name)
    return time.time() if clock is None else float(connection.exec_driver_sql(clock).scalar_one())


@dataclass(frozen=True, slots=True)
class Lease:
    """One ticket of a study and its owner.

    Attributes:
        trial_id: Optuna's id; None when the owner died before it created the trial.
        attempt: Counts the executions of the trial from 1, over all drivers; names the attempt's folder.
        failures: Attempts in a row, before this one, that died without a new checkpoint.
        preempted: In an adopted lease: the attempt before ended by a warm stop, not by a death.
        elsewhere: In an adopted lease: its owner was on another machine, whose checkpoints may not be here.
    """

    study_id: int
    ticket: int
    trial_id: int | None
    number: int | None
    driver: str | None
    attempt: int
    failures: int
    expires: float
    preempted: bool
    done: bool
    elsewhere: bool = False


def create_tables(storage: RDBStorage) -> None:
    """Creates the tables that are missing; several processes may do so at once."""
    with translated(storage):
        if not inspect(storage.engine).has_table(CONTROL.name):
            settle(lambda: METADATA.create_all(storage.engine), 5.0)


def upsert(dialect: str, table: Table, keys: Sequence[str], columns: Sequence[str]) -> Insert:
    """Returns an INSERT that overwrites `columns` of the row that has the same `keys`."""
    if dialect == "mysql":
        statement = mysql.insert(table)
        return statement.on_duplicate_key_update({name: statement.inserted[name] for name in columns})
    insert = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    return insert.on_conflict_do_update(
        index_elements=list(keys), set_={name: insert.excluded[name] for name in columns}
    )


def lease_of(row: Row[Any]) -> Lease:
    """Returns the record of a row of LEASE."""
    return Lease(**{column.name: getattr(row, column.name) for column in LEASE.columns})


def identity_of(row: Row[Any]) -> DriverIdentity:
    """Returns the identity in a row of DRIVER."""
    return DriverIdentity(host=row.host, pid=row.pid, started=row.started, id=row.id)


def forget(connection: Connection, study_id: int) -> None:
    """Removes a study's leases and its control row."""
    for table in (LEASE, CONTROL):
        connection.execute(delete(table).where(table.c.study_id == study_id))
