"""The trials of a study: how they begin, and which of them are its own (see `hpsearch.store.queries`)."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain, count
from types import MappingProxyType
from typing import Any

from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, and_, delete, func, insert, literal, select, update

from hpsearch.contracts.trial import IMPORTED, PAUSED, PAUSES, QUEUED, TRIES
from hpsearch.errors import StudyNotFound
from hpsearch.store.connection import reading, writing
from hpsearch.store.keys import ATTEMPT, LEARNT, MARK, PAUSED_LEASE, TOKEN
from hpsearch.store.queries import is_record
from hpsearch.store.schema import DRIVER, LEASE, identity_of, upsert
from hpsearch.store.url import redact
from hpsearch.store.writes import (
    OPEN_STATES,
    REPORTS,
    STUDIES,
    STUDY_SYSTEM_ATTRS,
    STUDY_USER_ATTRS,
    SYSTEM_ATTRS,
    TRIALS,
    USER_ATTRS,
    Fence,
    TrialWriter,
    check_fence,
    lock_study,
    naive_utc,
    whole,
)
from hpsearch.study.search import Entry
from hpsearch.study.specification import StudySpec

logger = logging.getLogger(__name__)

LEFT_OUT = (
    "trials of other programs are left out of the counts, of the best and of what the sampler learns from"
)


def create_study(storage: RDBStorage, spec: StudySpec) -> int:
    """Begins a study, which has no trials and no attributes yet; returns its id.

    Raises:
        DuplicatedStudyError: There is one of this name; Optuna's own exception.
    """
    directions = [StudyDirection[direction.upper()] for direction in spec.directions]
    return storage.create_new_study(directions, spec.study.name)


def create_trial(
    storage: RDBStorage, study_id: int, ticket: int, fence: Fence | None = None
) -> tuple[int, int, bool]:
    """Begins the trial of a ticket, a queued one if there is any, or returns the one that the ticket has.

    One attempt in one transaction, whereas Optuna's own method retries five times and sleeps. May be called
    again when the outcome is unknown.

    Returns:
        The trial's id, its number, and whether it was there before.

    Raises:
        LeaseLost: `fence` does not hold.
        StudyNotFound: The study was deleted.
    """
    with writing(storage) as connection:
        if fence is not None:
            check_fence(connection, fence)
        # Optuna locks the study as well while it counts the trial's number.
        if not lock_study(connection, study_id):
            raise StudyNotFound(f"the study with id {study_id} is gone from {redact(storage.url)}")
        lease = (LEASE.c.study_id == study_id) & (LEASE.c.ticket == ticket)
        bound = connection.execute(select(LEASE.c.trial_id, LEASE.c.number).where(lease)).one_or_none()
        if bound is not None and bound.trial_id is not None:
            return bound.trial_id, bound.number, True
        queued = _begin_queued(connection, study_id)
        begun = {"state": TrialState.RUNNING, "datetime_start": naive_utc(datetime.now())}
        trial_id, number = queued or _insert_trial(connection, study_id, begun)
        connection.execute(update(LEASE).where(lease).values(trial_id=trial_id, number=number))
        _mark(connection, study_id, TRIALS.c.trial_id == trial_id)
        return trial_id, number, queued is not None


def _begin_queued(connection: Connection, study_id: int) -> tuple[int, int] | None:
    waiting = (TRIALS.c.study_id == study_id) & (TRIALS.c.state == TrialState.WAITING)
    query = select(TRIALS.c.trial_id, TRIALS.c.number).where(waiting).order_by(TRIALS.c.number)
    for trial_id, number in connection.execute(query).all():
        begun = update(TRIALS).where(TRIALS.c.trial_id == trial_id, TRIALS.c.state == TrialState.WAITING)
        values = {"state": TrialState.RUNNING, "datetime_start": naive_utc(datetime.now())}
        if connection.execute(begun.values(values)).rowcount:  # else another program was quicker
            return trial_id, number
    return None


def enqueue(storage: RDBStorage, study_id: int, points: Iterable[Mapping[str, Any]]) -> None:
    """Queues a trial for each point that never was: a trial that was queued keeps its point to its end."""
    with writing(storage) as connection:
        lock_study(connection, study_id)
        query = select(SYSTEM_ATTRS.c.value_json).join(TRIALS, TRIALS.c.trial_id == SYSTEM_ATTRS.c.trial_id)
        found = connection.scalars(query.where(TRIALS.c.study_id == study_id, SYSTEM_ATTRS.c.key == QUEUED))
        known = list(map(json.loads, found))
        for point in points:
            if dict(point) in known:
                continue
            trial_id, _ = _insert_trial(connection, study_id, {"state": TrialState.WAITING})
            attr = {"trial_id": trial_id, "key": QUEUED, "value_json": json.dumps(point)}
            connection.execute(insert(SYSTEM_ATTRS).values(**attr))
            _mark(connection, study_id, TRIALS.c.trial_id == trial_id)


def name_weights(storage: RDBStorage, study_id: int, number: int, path: str) -> None:
    """Says where the weights of a finished trial are, which was made before they had their place.

    Optuna itself changes no finished trial.

    Args:
        path: below the run folder.
    """
    ids = select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id, TRIALS.c.number == number)
    which = USER_ATTRS.c.trial_id.in_(ids) & (USER_ATTRS.c.key == "weights")
    with writing(storage) as connection:
        connection.execute(update(USER_ATTRS).where(which).values(value_json=json.dumps(path)))


def is_enqueued(trial: FrozenTrial) -> bool:
    """Says whether a trial is only a point of the study file that waits."""
    return trial.state is TrialState.WAITING and MARK in trial.system_attrs


def _insert_trial(connection: Connection, study_id: int, row: Mapping[str, Any]) -> tuple[int, int]:
    key: Any = connection.execute(insert(TRIALS).values(study_id=study_id, **row)).inserted_primary_key
    trial_id: int = key[0]
    earlier = select(func.count()).where(TRIALS.c.study_id == study_id, TRIALS.c.trial_id < trial_id)
    number = connection.execute(earlier).scalar_one()
    connection.execute(update(TRIALS).where(TRIALS.c.trial_id == trial_id).values(number=number))
    return trial_id, number


def _mark(connection: Connection, study_id: int, which: Any) -> None:
    """Marks those of a study's trials that have no mark yet."""
    token = and_(STUDY_SYSTEM_ATTRS.c.study_id == study_id, STUDY_SYSTEM_ATTRS.c.key == TOKEN)
    marked = select(SYSTEM_ATTRS.c.key).where(
        SYSTEM_ATTRS.c.trial_id == TRIALS.c.trial_id, SYSTEM_ATTRS.c.key == MARK
    )
    rows = (
        select(TRIALS.c.trial_id, literal(MARK), STUDY_SYSTEM_ATTRS.c.value_json)
        .join(STUDY_SYSTEM_ATTRS, token)
        .where(TRIALS.c.study_id == study_id, which, ~marked.exists())
    )
    connection.execute(insert(SYSTEM_ATTRS).from_select(["trial_id", "key", "value_json"], rows))


def mark_leased(connection: Connection, study_id: int) -> None:
    """Marks the trials that an older version of hpsearch began, which knew its own by their leases."""
    leased = select(LEASE.c.trial_id).where(LEASE.c.study_id == study_id, LEASE.c.trial_id.is_not(None))
    _mark(connection, study_id, TRIALS.c.trial_id.in_(leased))


def enter_copies(storage: RDBStorage, study_id: int, own: Iterable[FrozenTrial]) -> None:
    """Gives the study's own trials that have no ticket one: they came with a copy of the study.

    Args:
        own: finished ones, which then count towards `study.trials`, running ones, which are resumed at once, and
            paused ones.
    """
    with reading(storage) as connection:
        missing = _without_ticket(connection, study_id, own)
        ended = connection.scalars(_ended_leases(study_id)).all()
    if not missing and not ended:
        return
    with writing(storage) as connection:
        lock_study(connection, study_id)
        missing = _without_ticket(connection, study_id, missing)
        mine = (LEASE.c.study_id == study_id) & LEASE.c.ticket.in_(ended)
        connection.execute(update(LEASE).where(mine).values(done=True))
        _give_tickets(connection, study_id, missing)


def enter_once(
    storage: RDBStorage,
    study_id: int,
    copies: Iterable[FrozenTrial],
    learnt: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> dict[int, bool]:
    """Makes finished trials of other studies the study's own, each once, whoever else does so at the same time.

    Args:
        copies: with the attribute `IMPORTED`, which tells them apart.
        learnt: what is noted of the studies that they come from, by name (`LEARNT`).

    Returns:
        Their numbers in the study, and whether each was entered now.
    """
    writer = TrialWriter(storage)
    with writing(storage) as connection:
        if not lock_study(connection, study_id):
            raise StudyNotFound(f"the study with id {study_id} is gone from {redact(storage.url)}")
        query = select(USER_ATTRS.c.value_json, TRIALS.c.number).join(
            TRIALS, TRIALS.c.trial_id == USER_ATTRS.c.trial_id
        )
        rows = connection.execute(query.where(TRIALS.c.study_id == study_id, USER_ATTRS.c.key == IMPORTED))
        known = {row.value_json: row.number for row in rows}
        found, entered = dict[int, bool](), list[FrozenTrial]()
        for copy in copies:
            number = known.get(json.dumps(copy.user_attrs[IMPORTED]))
            if number is None:
                begun = copy.datetime_start and naive_utc(copy.datetime_start)
                row = {"state": TrialState.RUNNING, "datetime_start": begun}
                copy._trial_id, copy.number = _insert_trial(connection, study_id, row)
                writer.write_in(connection, [*whole(copy._trial_id, copy)])
                entered.append(copy)
            found[copy.number if number is None else number] = number is None
        _give_tickets(connection, study_id, entered)
        if learnt:
            _note_learnt(connection, study_id, learnt)
    return found


def _note_learnt(connection: Connection, study_id: int, learnt: Mapping[str, Mapping[str, Any]]) -> None:
    table, key = STUDY_USER_ATTRS, ("study_id", "key")
    here = (table.c.study_id == study_id) & (table.c.key == LEARNT)
    stored = json.loads(connection.scalar(select(table.c.value_json).where(here)) or "{}")
    row = {"study_id": study_id, "key": LEARNT, "value_json": json.dumps({**stored, **learnt})}
    connection.execute(upsert(connection.dialect.name, table, key, ("value_json",)), [row])


def _give_tickets(connection: Connection, study_id: int, missing: Sequence[FrozenTrial]) -> None:
    last = connection.scalar(select(func.max(LEASE.c.ticket)).where(LEASE.c.study_id == study_id)) or 0
    begun = _without_trial(connection, study_id)
    connection.execute(
        delete(LEASE).where(LEASE.c.study_id == study_id, LEASE.c.ticket.in_(begun[: len(missing)]))
    )
    tickets = chain(begun, count(last + 1))
    free = {"failures": 0, "expires": 0.0, "preempted": True}
    rows = [
        {
            **free,
            "study_id": study_id,
            "ticket": next(tickets),
            "trial_id": trial._trial_id,
            "number": trial.number,
            "driver": PAUSED_LEASE if is_paused(trial) else None,
            "attempt": _attempts(trial),
            "done": trial.state.is_finished(),
        }
        for trial in missing
    ]
    if rows:
        connection.execute(insert(LEASE), rows)
        _mark(connection, study_id, TRIALS.c.trial_id.in_([row["trial_id"] for row in rows]))


def _attempts(trial: FrozenTrial) -> int:
    """Returns how many attempts were made at a trial that came with a copy, as far as it tells.

    Each resume after a pause was an attempt; a paused trial counts the resume that is still to come.
    """
    known: int = trial.system_attrs.get(ATTEMPT, 1)
    tries, pauses = trial.user_attrs.get(TRIES), trial.user_attrs.get(PAUSES)
    if not isinstance(tries, int) or not isinstance(pauses, int):
        return known
    return max(known, tries + pauses - is_paused(trial))


def _without_trial(connection: Connection, study_id: int) -> list[int]:
    """Returns the tickets for which drivers that have gone had not yet begun a trial, as in a copy made just then.

    The trials that have none take them: each ticket is one trial of the study's total.
    """
    query = (
        select(LEASE.c.ticket, LEASE.c.driver, DRIVER)
        .join(DRIVER, DRIVER.c.id == LEASE.c.driver, isouter=True)
        .where(LEASE.c.study_id == study_id, LEASE.c.trial_id.is_(None), LEASE.c.done.is_(False))
        .order_by(LEASE.c.ticket)
    )
    rows = connection.execute(query)
    return [row.ticket for row in rows if row.id is None or identity_of(row).is_dead()]


def _ended_leases(study_id: int) -> Any:
    """Selects the tickets that are not done although their trials have ended: these were restored."""
    trial = and_(TRIALS.c.trial_id == LEASE.c.trial_id, TRIALS.c.state.not_in(OPEN_STATES))
    return (
        select(LEASE.c.ticket)
        .join(TRIALS, trial)
        .where(LEASE.c.study_id == study_id, LEASE.c.done.is_(False))
    )


def _without_ticket(connection: Connection, study_id: int, own: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    query = select(LEASE.c.trial_id).where(LEASE.c.study_id == study_id)
    known = set(connection.scalars(query))
    return [trial for trial in own if trial._trial_id not in known and trial.state is not TrialState.WAITING]


def is_own(trial: FrozenTrial, token: str, search: Mapping[str, Entry] | None) -> bool:
    """Says of a trial as stored whether it is the own one of a study.

    Args:
        token: of the study.
        search: its search space, None if it cannot be read.
    """
    queued = trial.state is TrialState.WAITING
    if queued or trial.system_attrs.get(MARK) == token:
        return True
    return is_record(trial.state.name, trial.params, trial.user_attrs, search)


def is_paused(trial: FrozenTrial) -> bool:
    """Says whether a trial waits to be resumed."""
    return not trial.state.is_finished() and trial.user_attrs.get(PAUSED) is not None


def paused_epochs(connection: Connection, study_id: int) -> dict[int, int]:
    """Returns after which epoch the trials were paused that any driver may resume, by number."""
    paused = and_(LEASE.c.study_id == study_id, LEASE.c.driver == PAUSED_LEASE, LEASE.c.done.is_(False))
    attr = and_(USER_ATTRS.c.trial_id == LEASE.c.trial_id, USER_ATTRS.c.key == PAUSED)
    query = select(LEASE.c.number, USER_ATTRS.c.value_json).join(USER_ATTRS, attr).where(paused)
    return {number: json.loads(epoch) for number, epoch in connection.execute(query)}


def trial_states(
    connection: Connection, study_id: int, first: int, also: Iterable[int]
) -> list[tuple[int, int, TrialState]]:
    """Returns (id, number, state) of trials numbered `first` or higher and of those with the ids `also`."""
    ids = sorted(also)
    query = (
        select(TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state)
        .where(TRIALS.c.study_id == study_id)
        .where((TRIALS.c.number >= first) | TRIALS.c.trial_id.in_(ids))
        .order_by(TRIALS.c.number)
    )
    return [(row.trial_id, row.number, row.state) for row in connection.execute(query)]


def reported_epochs(connection: Connection, trial_ids: Iterable[int]) -> dict[int, int]:
    """Returns how many epochs trials have reported, by their ids; those without any are left out."""
    trial = REPORTS.c.trial_id
    query = select(trial, func.count().label("epochs")).where(trial.in_(sorted(trial_ids))).group_by(trial)
    return {row.trial_id: row.epochs for row in connection.execute(query)}


def other_tokens(connection: Connection, study_id: int) -> dict[str, str]:
    """Returns the tokens of the other studies of the database, by their names."""
    token = and_(STUDY_SYSTEM_ATTRS.c.study_id == STUDIES.c.study_id, STUDY_SYSTEM_ATTRS.c.key == TOKEN)
    query = select(STUDIES.c.study_name, STUDY_SYSTEM_ATTRS.c.value_json).join(STUDY_SYSTEM_ATTRS, token)
    found = connection.execute(query.where(STUDIES.c.study_id != study_id))
    return {name: str(json.loads(value)) for name, value in found}


def shared_weights(connection: Connection, study_id: int) -> frozenset[str]:
    """Returns the weights that copies of a study name; made by Optuna's means, they have the study's token."""
    tokens = select(STUDY_SYSTEM_ATTRS.c.study_id, STUDY_SYSTEM_ATTRS.c.value_json).where(
        STUDY_SYSTEM_ATTRS.c.key == TOKEN
    )
    by_study = {row.study_id: row.value_json for row in connection.execute(tokens)}
    token = by_study.pop(study_id, None)
    copies = [number for number, value in by_study.items() if value == token]
    if not copies:
        return frozenset()
    query = select(USER_ATTRS.c.value_json).join(TRIALS, TRIALS.c.trial_id == USER_ATTRS.c.trial_id)
    found = connection.scalars(query.where(TRIALS.c.study_id.in_(copies), USER_ATTRS.c.key == "weights"))
    return frozenset(str(json.loads(value)) for value in found)


def check_end(connection: Connection, study_id: int, trial_id: int | None) -> None:
    """Makes sure that a trial whose end was written is still there and has ended.

    Raises:
        StudyNotFound: it has not: an older copy of the database was put back, or the study was deleted.
    """
    if trial_id is None:
        return
    state = connection.scalar(
        select(TRIALS.c.state).where(TRIALS.c.trial_id == trial_id, TRIALS.c.study_id == study_id)
    )
    if state is None or not state.is_finished():
        raise StudyNotFound(
            "the database has forgotten a trial whose end was written: the study was deleted from it, or an older "
            "copy of it was put back"
        )
