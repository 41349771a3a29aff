"""Writes results into Optuna's tables: many operations, in order, in one transaction.

Optuna's storage methods commit once per value (1-2 ms each on SQLite); 32 workers need 32 values at the price
of one. What is stored equals what Optuna's methods store. Only this room knows Optuna's tables; `queries` reads them.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Table, bindparam, delete, or_, select, update

from hpsearch.errors import LeaseLost, StorageError, StudyNotFound
from hpsearch.store.connection import translated, writing
from hpsearch.store.keys import PAUSED_LEASE
from hpsearch.store.reader import KNOWN_REVISION
from hpsearch.store.schema import LEASE, upsert
from hpsearch.store.url import redact

# Of Optuna 5.0: models.SCHEMA_VERSION and the newest migration.
KNOWN_SCHEMA = (12, KNOWN_REVISION)

STUDIES: Table = models.StudyModel.__table__
STUDY_USER_ATTRS: Table = models.StudyUserAttributeModel.__table__
STUDY_SYSTEM_ATTRS: Table = models.StudySystemAttributeModel.__table__
TRIALS: Table = models.TrialModel.__table__
PARAMS: Table = models.TrialParamModel.__table__
REPORTS: Table = models.TrialIntermediateValueModel.__table__
VALUES: Table = models.TrialValueModel.__table__
USER_ATTRS: Table = models.TrialUserAttributeModel.__table__
SYSTEM_ATTRS: Table = models.TrialSystemAttributeModel.__table__

# Table -> the columns that name a row, the columns that are overwritten. Written in this order.
_SHAPES: dict[Table, tuple[tuple[str, ...], tuple[str, ...]]] = {
    PARAMS: (("trial_id", "param_name"), ("param_value", "distribution_json")),
    REPORTS: (("trial_id", "step"), ("intermediate_value", "intermediate_value_type")),
    USER_ATTRS: (("trial_id", "key"), ("value_json",)),
    SYSTEM_ATTRS: (("trial_id", "key"), ("value_json",)),
    VALUES: (("trial_id", "objective"), ("value", "value_type")),
}

OPEN_STATES = (TrialState.RUNNING, TrialState.WAITING)


@dataclass(frozen=True, slots=True)
class SetParams:
    """The trial's hyperparameters, as sampled.

    Their distributions must fit those of the study's other trials; the study's digest sees to that.
    """

    trial_id: int
    values: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]


@dataclass(frozen=True, slots=True)
class Report:
    """The value of one epoch; NaN and the infinities are kept."""

    trial_id: int
    epoch: int
    value: float


@dataclass(frozen=True, slots=True)
class Truncate:
    """The trial continues from `epoch`: what was reported of later ones is gone."""

    trial_id: int
    epoch: int


@dataclass(frozen=True, slots=True)
class SetAttr:
    """A user attribute; the value must be JSON."""

    trial_id: int
    key: str
    value: Any


@dataclass(frozen=True, slots=True)
class SetSystemAttr:
    """A system attribute; the value must be JSON."""

    trial_id: int
    key: str
    value: Any


@dataclass(frozen=True, slots=True)
class Finish:
    """The trial's end; skipped when the trial has ended already.

    Attributes:
        completed: When it ended; a naive datetime is local time, as in Optuna.
        beside: The values of the objectives after the first.
    """

    trial_id: int
    state: TrialState
    value: float | None
    completed: datetime
    beside: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.state.is_finished():
            raise ValueError(f"Finish.state must be COMPLETE, PRUNED or FAIL, got {self.state.name}")
        if self.value is not None and math.isnan(self.value):
            raise ValueError("Finish.value must not be NaN: Optuna cannot read it back")
        if self.state is TrialState.COMPLETE and self.value is None:
            raise ValueError("Finish.value is missing: a COMPLETE trial needs one")


@dataclass(frozen=True, slots=True)
class CloseLease:
    """The end of a ticket, in the transaction that ends its trial."""

    study_id: int
    ticket: int


@dataclass(frozen=True, slots=True)
class PauseLease:
    """The trial of a ticket waits until a driver resumes it: its lease is nobody's, and no orphan's either."""

    study_id: int
    ticket: int


TrialOperation = SetParams | Report | Truncate | SetAttr | SetSystemAttr | Finish
Operation = TrialOperation | CloseLease | PauseLease


@dataclass(frozen=True, slots=True)
class Fence:
    """The tickets that a write relies on: it is refused when one of them is not the driver's any more.

    Attributes:
        attempts: Ticket -> attempt.
    """

    driver: str
    study_id: int
    attempts: Mapping[int, int]


class TrialWriter:
    """Applies operations to trials of a storage.

    Raises:
        StorageError: At construction, when Optuna's tables are not of the known version.
    """

    def __init__(self, storage: RDBStorage) -> None:
        self._storage = storage
        with translated(storage):
            found = (models.SCHEMA_VERSION, storage.get_current_version())
        if found != KNOWN_SCHEMA:
            raise StorageError(
                f"the database {redact(storage.url)} has Optuna's tables of version {found}, "
                f"hpsearch knows {KNOWN_SCHEMA}: install optuna>=5.0,<6"
            )
        dialect = storage.engine.dialect.name
        self._upserts = {table: upsert(dialect, table, *shape) for table, shape in _SHAPES.items()}

    def write(self, ops: Sequence[Operation], fence: Fence | None = None) -> None:
        """Applies `ops` in order, all or none. The same batch may be written again and changes nothing then.

        Operations for a trial that has ended (in the database or earlier in the batch) are skipped, except
        those for its lease.

        Raises:
            LeaseLost: `fence` does not hold, or a trial's study was deleted. Nothing is written.
            StorageAway: The database does not answer. The batch may have been written or not: write it again.
        """
        if not ops:
            return
        with writing(self._storage) as connection:
            if fence is not None:
                check_fence(connection, fence)
            self.write_in(connection, ops)

    def write_in(self, connection: Connection, ops: Sequence[Operation]) -> None:
        """Does the same in a transaction that is open."""
        batch = _Batch()
        batch.collect(ops, _open_trials(connection, ops))
        batch.apply(connection, self._upserts)


@dataclass(slots=True)
class _Batch:
    """Rows by table and key: one statement per table, and the last of several values wins."""

    rows: dict[Table, dict[tuple[Any, ...], dict[str, Any]]] = field(
        default_factory=lambda: {table: {} for table in _SHAPES}
    )
    cuts: dict[int, int] = field(default_factory=dict)
    ends: list[dict[str, Any]] = field(default_factory=list)
    closed: list[dict[str, Any]] = field(default_factory=list)
    paused: list[dict[str, Any]] = field(default_factory=list)

    def collect(self, ops: Iterable[Operation], open_trials: set[int]) -> None:
        for op in ops:
            if isinstance(op, CloseLease):
                self.closed.append({"of_study": op.study_id, "of_ticket": op.ticket})
                continue
            if isinstance(op, PauseLease):
                self.paused.append({"of_study": op.study_id, "of_ticket": op.ticket})
                continue
            if op.trial_id not in open_trials:
                continue
            if isinstance(op, Truncate):
                self._cut(op)
            for table, row in _rows(op):
                self.rows[table][tuple(row[name] for name in _SHAPES[table][0])] = row
            if isinstance(op, Finish):
                open_trials.discard(op.trial_id)
                self.ends.append(
                    {"of_trial": op.trial_id, "end_state": op.state, "end_time": naive_utc(op.completed)}
                )

    def _cut(self, op: Truncate) -> None:
        self.cuts[op.trial_id] = min(op.epoch, self.cuts.get(op.trial_id, op.epoch))
        reports = self.rows[REPORTS]
        for key in [(trial_id, step) for trial_id, step in reports if trial_id == op.trial_id]:
            if key[1] > op.epoch:
                del reports[key]

    def apply(self, connection: Connection, upserts: Mapping[Table, Any]) -> None:
        if self.cuts:
            connection.execute(_CUT, [{"of_trial": t, "after": epoch} for t, epoch in self.cuts.items()])
        for table, rows in self.rows.items():
            if rows:
                connection.execute(upserts[table], list(rows.values()))
        if self.ends:
            connection.execute(_END, self.ends)
        if self.closed:
            connection.execute(_CLOSE, self.closed)
        if self.paused:
            connection.execute(_PAUSE, self.paused)


_END = (
    update(TRIALS)
    .where(TRIALS.c.trial_id == bindparam("of_trial"))
    # No IN here: SQLAlchemy cannot expand it for several rows at once.
    .where(or_(*(TRIALS.c.state == state for state in OPEN_STATES)))
    .values(state=bindparam("end_state"), datetime_complete=bindparam("end_time"))
)
_CUT = delete(REPORTS).where(REPORTS.c.trial_id == bindparam("of_trial"), REPORTS.c.step > bindparam("after"))
_CLOSE = (
    update(LEASE)
    .where(LEASE.c.study_id == bindparam("of_study"), LEASE.c.ticket == bindparam("of_ticket"))
    .values(done=True)
)
_PAUSE = (
    update(LEASE)
    .where(LEASE.c.study_id == bindparam("of_study"), LEASE.c.ticket == bindparam("of_ticket"))
    .values(driver=PAUSED_LEASE, failures=0, expires=0.0, preempted=True)
)
_OWNED = (
    select(LEASE.c.ticket, LEASE.c.attempt)
    .where(LEASE.c.study_id == bindparam("of_study"), LEASE.c.driver == bindparam("of_driver"))
    .where(LEASE.c.done.is_(False))
    .order_by(LEASE.c.ticket)
    .with_for_update()
)
_LEASES = (
    select(LEASE.c.ticket, LEASE.c.number, LEASE.c.driver, LEASE.c.attempt)
    .where(LEASE.c.study_id == bindparam("of_study"))
    .where(LEASE.c.ticket.in_(bindparam("tickets", expanding=True)))
    .order_by(LEASE.c.ticket)
    .with_for_update()
)
_STATES = (
    select(TRIALS.c.trial_id, TRIALS.c.state)
    .where(TRIALS.c.trial_id.in_(bindparam("trial_ids", expanding=True)))
    .order_by(TRIALS.c.trial_id)
    .with_for_update()
)


def _rows(op: TrialOperation) -> Iterator[tuple[Table, dict[str, Any]]]:
    match op:
        case SetParams(trial_id, values, distributions):
            for name, value in values.items():
                yield (
                    PARAMS,
                    {
                        "trial_id": trial_id,
                        "param_name": name,
                        "param_value": distributions[name].to_internal_repr(value),
                        "distribution_json": distribution_to_json(distributions[name]),
                    },
                )
        case Report(trial_id, epoch, value):
            stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(float(value))
            row = {"intermediate_value": stored, "intermediate_value_type": kind}
            yield REPORTS, {"trial_id": trial_id, "step": epoch, **row}
        case SetAttr(trial_id, key, value):
            yield USER_ATTRS, {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
        case SetSystemAttr(trial_id, key, value):
            yield SYSTEM_ATTRS, {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
        case Finish(trial_id, _, value) if value is not None:
            for objective, one in enumerate((value, *op.beside)):
                stored, sign = models.TrialValueModel.value_to_stored_repr(float(one))
                yield (
                    VALUES,
                    {"trial_id": trial_id, "objective": objective, "value": stored, "value_type": sign},
                )


def whole(trial_id: int, trial: FrozenTrial) -> Iterator[TrialOperation]:
    """Yields what makes of a trial that was only begun the given one, which has ended."""
    yield SetParams(trial_id, trial.params, trial.distributions)
    for epoch, value in trial.intermediate_values.items():
        yield Report(trial_id, epoch, value)
    for key, item in trial.user_attrs.items():
        yield SetAttr(trial_id, key, item)
    for key, item in trial.system_attrs.items():
        yield SetSystemAttr(trial_id, key, item)
    values = trial.values or []
    ended = trial.datetime_complete or datetime.now()
    yield Finish(trial_id, trial.state, values[0] if values else None, ended, tuple(values[1:]))


def naive_utc(moment: datetime) -> datetime:
    """Returns a time as Optuna stores it."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def _open_trials(connection: Connection, ops: Iterable[Operation]) -> set[int]:
    """Locks the trials of the operations; returns those that have not ended."""
    wanted = {op.trial_id for op in ops if not isinstance(op, CloseLease | PauseLease)}
    if not wanted:
        return set()
    found = connection.execute(_STATES, {"trial_ids": sorted(wanted)})
    states = {row.trial_id: row.state for row in found}
    if gone := wanted - states.keys():
        raise StudyNotFound(f"trials with ids {_listed(gone)} are gone: their study was deleted")
    return {trial_id for trial_id, state in states.items() if not state.is_finished()}


def check_fence(connection: Connection, fence: Fence) -> None:
    """Locks the tickets of the fence; raises `LeaseLost` with the `tickets` that belong to others now."""
    key = {"of_study": fence.study_id, "of_driver": fence.driver}
    owned = {row.ticket: row.attempt for row in connection.execute(_OWNED, key)}
    if all(owned.get(ticket) == attempt for ticket, attempt in fence.attempts.items()):
        return
    # A ticket that an earlier try of the same write has closed is still ours.
    rows = {row.ticket: row for row in connection.execute(_LEASES, key | {"tickets": sorted(fence.attempts)})}
    owners = {ticket: (row.driver, row.attempt) for ticket, row in rows.items()}
    lost = {t for t, attempt in fence.attempts.items() if owners.get(t) != (fence.driver, attempt)}
    if missing := fence.attempts.keys() - rows.keys():
        raise older_copy(missing)
    if lost:
        numbers = {ticket: row.number for ticket, row in rows.items()}
        names = [f"ticket {t}" if numbers.get(t) is None else f"trial {numbers[t]}" for t in sorted(lost)]
        raise LeaseLost(f"another driver owns {', '.join(names)} now; nothing was written", lost)


def older_copy(tickets: Iterable[int]) -> StudyNotFound:
    """Returns what is said when leases have vanished, which no driver removes."""
    return StudyNotFound(
        f"the database no longer knows tickets {_listed(tickets)}: the study was deleted from it, or an older "
        "copy of it was put back"
    )


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(str(number) for number in sorted(numbers))


def lock_study(connection: Connection, study_id: int) -> bool:
    """Locks a study until the transaction's end; says whether it is there."""
    study = select(STUDIES.c.study_id).where(STUDIES.c.study_id == study_id).with_for_update()
    return connection.scalar(study) is not None


def change_study_attrs(
    storage: RDBStorage, study: str, attrs: Mapping[str, Any], removed: Iterable[str] = ()
) -> None:
    """Sets and removes system attributes of a study in one transaction; values must be JSON.

    Raises:
        StudyNotFound: The study was deleted.
    """
    with writing(storage) as connection:
        study_id = connection.scalar(select(STUDIES.c.study_id).where(STUDIES.c.study_name == study))
        if study_id is None:
            raise StudyNotFound(f'study "{study}" is gone from {redact(storage.url)}')
        table = STUDY_SYSTEM_ATTRS
        rows = [{"study_id": study_id, "key": k, "value_json": json.dumps(v)} for k, v in attrs.items()]
        if rows:
            statement = upsert(connection.dialect.name, table, ("study_id", "key"), ("value_json",))
            connection.execute(statement, rows)
        if keys := list(removed):
            connection.execute(delete(table).where(table.c.study_id == study_id, table.c.key.in_(keys)))
