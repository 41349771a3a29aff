"""Who owns which trial, and how many trials a study may have: over any number of drivers and machines.

Each trial of a study has a ticket, 1 to `trials`. A driver that claims a ticket inserts its lease; the
primary key lets only one driver succeed, so exactly `trials` tickets are ever given out. A lease belongs to
one driver until it is done, released, or taken over by another driver because its owner died or was silent
for `lease_seconds`. Every change compares what was read with what is there (compare-and-set).
"""

import json
import logging
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

from optuna.storages import RDBStorage
from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from hpsearch.errors import LeaseLost, StudyNotFound
from hpsearch.store.connection import opened, reading, writing
from hpsearch.store.identity import DriverIdentity, DriverRow, driver_row, host_identity
from hpsearch.store.keys import PAUSED_LEASE, TOKEN
from hpsearch.store.schema import (
    CONTROL,
    DRIVER,
    LEASE,
    Lease,
    create_tables,
    forget,
    identity_of,
    lease_of,
    server_time,
    upsert,
)
from hpsearch.store.trials import mark_leased
from hpsearch.store.url import redact
from hpsearch.store.writes import STUDY_SYSTEM_ATTRS, Fence, lock_study, older_copy

logger = logging.getLogger(__name__)

_FORGOTTEN_AFTER = 24 * 3600.0  # seconds until the row of a vanished driver without leases is removed


class Ledger:
    """The leases of one driver, and what can be asked about all of them.

    Every method is one short transaction and raises `StorageAway` when the database does not answer; it may
    be called again then, whatever became of the first call.

    Args:
        clock: Seconds since the epoch; by default the database server's clock.

    Attributes:
        registered_at: When this driver was entered, by that clock: a stop asked for later is meant for it.
    """

    registered_at = 0.0

    def __init__(
        self,
        storage: RDBStorage,
        driver: DriverIdentity,
        lease_seconds: float = 60.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._storage = storage
        self._driver = driver
        self.lease_seconds = lease_seconds
        self._clock = clock
        # What this process knows to own: study -> ticket -> attempt. A row that names this driver but is not
        # here was claimed by a call whose answer got lost, and may be adopted.
        self._held: dict[int, dict[int, int]] = {}
        # Tickets of ours that are done: the write that closed them may have to be repeated.
        self._closed: dict[int, dict[int, int]] = {}
        self._attached: dict[int, str] = {}
        self._registered: tuple[int, str] | None = None
        create_tables(storage)

    def now(self) -> float:
        """Returns the time by which leases expire and stops are dated."""
        with reading(self._storage) as connection:
            return self._now(connection)

    def _now(self, connection: Connection) -> float:
        return server_time(connection) if self._clock is None else self._clock()

    def register(self, study_id: int, devices: str = "[]") -> None:
        """Enters this driver into the study, and removes rows of dead drivers that own nothing."""
        self._attach(study_id)
        self._registered = (study_id, devices)
        with writing(self._storage) as connection:
            now = self.registered_at = self._now(connection)
            self._see(connection, "[]", now)
            others = and_(DRIVER.c.study_id == study_id, DRIVER.c.id != self._driver.id)
            busy = select(LEASE.c.driver).where(LEASE.c.done.is_(False), LEASE.c.driver.is_not(None))
            idle = select(DRIVER).where(others, DRIVER.c.id.not_in(busy))
            dead = [
                row.id
                for row in connection.execute(idle)
                if identity_of(row).is_dead() or row.seen < now - _FORGOTTEN_AFTER
            ]
            if dead:
                connection.execute(delete(DRIVER).where(DRIVER.c.id.in_(dead)))

    def _see(self, connection: Connection, workers: str, now: float) -> None:
        if self._registered is None:
            raise RuntimeError("Ledger.register must be called before beat")
        study_id, devices = self._registered
        facts = {"devices": devices, "workers": workers, "seen": now}
        me = self._driver
        row = {"id": me.id, "study_id": study_id, "host": me.host, "pid": me.pid, "started": me.started}
        connection.execute(upsert(connection.dialect.name, DRIVER, ["id"], list(facts)), [row | facts])

    def beat(self, workers: str) -> set[int]:
        """Tells that this driver lives and renews its leases.

        Returns:
            The tickets that are not ours any more: give up their trials without writing.
        """
        renewed: dict[int, tuple[set[int], set[int]]] = {}
        with writing(self._storage) as connection:
            now = self._now(connection)
            self._see(connection, workers, now)
            for study_id, held in self._held.items():
                self._check_study(connection, study_id)
                if held:
                    renewed[study_id] = self._renew(connection, study_id, held, now + self.lease_seconds)
        lost: set[int] = set()
        for study_id, (gone, closed) in renewed.items():  # only now: a failed beat must tell it again
            held = self._held[study_id]
            self._closed.setdefault(study_id, {}).update({ticket: held.pop(ticket) for ticket in closed})
            for ticket in gone:
                del held[ticket]
            lost |= gone
        return lost

    def _renew(
        self, connection: Connection, study_id: int, held: dict[int, int], expires: float
    ) -> tuple[set[int], set[int]]:
        """Renews the leases that are still ours; returns the tickets that are not, and the done ones."""
        mine = _tickets(study_id, held)
        query = select(LEASE.c.ticket, LEASE.c.driver, LEASE.c.done).where(mine).order_by(LEASE.c.ticket)
        rows = connection.execute(query.with_for_update()).all()
        if missing := held.keys() - {row.ticket for row in rows}:
            raise older_copy(missing)
        ours = {row.ticket: row.done for row in rows if row.driver == self._driver.id}
        own = and_(mine, LEASE.c.driver == self._driver.id, LEASE.c.done.is_(False))
        connection.execute(update(LEASE).where(own).values(expires=expires))
        return held.keys() - ours.keys(), {ticket for ticket, done in ours.items() if done}

    def unregister(self) -> None:
        """Removes this driver; leases that it still owns are released."""
        with writing(self._storage) as connection:
            owned = and_(LEASE.c.driver == self._driver.id, LEASE.c.done.is_(False))
            connection.execute(update(LEASE).where(owned).values(_RELEASED))
            connection.execute(delete(DRIVER).where(DRIVER.c.id == self._driver.id))
        self._held.clear()

    def claim(self, study_id: int, total: int) -> int | None:
        """Takes the next free ticket of 1 to `total`; returns None when all are given out.

        `total` may grow between runs. Take over what others left (`adopt`) before you claim.
        """
        self._attach(study_id)
        while True:
            try:
                ticket = self._claim_next(study_id, total)
            except IntegrityError:
                continue  # another driver took this ticket, so there is progress
            if ticket is not None:
                self._held.setdefault(study_id, {})[ticket] = 1
            return ticket

    def _claim_next(self, study_id: int, total: int) -> int | None:
        with writing(self._storage) as connection:
            self._check_study(connection, study_id)
            last = connection.scalar(select(func.max(LEASE.c.ticket)).where(LEASE.c.study_id == study_id))
            ticket = (last or 0) + 1
            if ticket > total:
                return None
            row = {
                "study_id": study_id,
                "ticket": ticket,
                "driver": self._driver.id,
                "attempt": 1,
                "failures": 0,
                "expires": self._now(connection) + self.lease_seconds,
                "preempted": False,
                "done": False,
            }
            connection.execute(insert(LEASE), [row])
            return ticket

    def retry(self, study_id: int, ticket: int, failures: int) -> int:
        """Begins the next attempt of a trial of ours, whose worker died; returns the attempt's number."""
        held = self._held.setdefault(study_id, {})
        with writing(self._storage) as connection:
            lease = _tickets(study_id, [ticket])
            row = connection.execute(select(LEASE).where(lease).with_for_update()).one_or_none()
            if row is None or row.driver != self._driver.id:
                raise _lost(ticket)
            attempt: int = row.attempt + 1
            connection.execute(update(LEASE).where(lease).values(attempt=attempt, failures=failures))
        held[ticket] = attempt
        return attempt

    def adopt(
        self,
        study_id: int,
        progressed: Callable[[Lease], bool] = lambda lease: False,
        silent_too: bool = True,
    ) -> Lease | None:
        """Takes over one unfinished lease whose owner is dead, gone or silent for too long; None without any.

        A process of this machine that has ended is known to be dead at once; another machine's, or a
        suspended one, counts as dead when its lease has run out.

        Args:
            progressed: says whether the lease's last attempt has left a checkpoint: its death then starts the
                count of failures anew, and otherwise is one more.
            silent_too: False leaves out owners that are only silent: after the database was away, they must
                be given the time to tell that they live.
        """
        self._attach(study_id)
        for lease in self._adoptable(study_id, silent_too):
            adopted = self._take_over(lease, progressed)
            if adopted is not None:
                logger.info(
                    "ticket %d of study %d taken over, attempt %d", lease.ticket, study_id, adopted.attempt
                )
                self._held.setdefault(study_id, {})[adopted.ticket] = adopted.attempt
                return adopted
        return None

    def _adoptable(self, study_id: int, silent_too: bool) -> list[Lease]:
        owners = DRIVER.c.host, DRIVER.c.pid, DRIVER.c.started, DRIVER.c.id
        query = (
            select(LEASE, *owners)
            .join(DRIVER, DRIVER.c.id == LEASE.c.driver, isouter=True)
            .where(LEASE.c.study_id == study_id, LEASE.c.done.is_(False))
            .order_by(LEASE.c.ticket)
        )
        with reading(self._storage) as connection:
            now = self._now(connection)
            rows = connection.execute(query).all()
        here = host_identity()
        return [
            replace(lease_of(row), elsewhere=row.host not in (None, here))
            for row in rows
            if self._is_free(row, now, silent_too)
        ]

    def _is_free(self, row: Row[Any], now: float, silent_too: bool) -> bool:
        if row.driver == self._driver.id:
            return row.ticket not in self._held.get(row.study_id, {})
        if row.driver == PAUSED_LEASE:
            return False
        if row.driver is None or row.id is None or (silent_too and row.expires < now):
            return True
        return identity_of(row).is_dead()

    def resume(self, study_id: int, number: int) -> Lease | None:
        """Takes a paused trial for its next piece; None if it is not paused any more."""
        self._attach(study_id)
        trial = and_(LEASE.c.study_id == study_id, LEASE.c.number == number)
        with writing(self._storage) as connection:
            self._check_study(connection, study_id)
            paused = and_(trial, LEASE.c.driver == PAUSED_LEASE, LEASE.c.done.is_(False))
            if not self._take(connection, paused, failures=0):
                return None
            lease = lease_of(connection.execute(select(LEASE).where(trial)).one())
        self._held.setdefault(study_id, {})[lease.ticket] = lease.attempt
        return lease

    def _take(self, connection: Connection, which: ColumnElement[bool], failures: int) -> bool:
        """Begins the next attempt of a lease for this driver; says whether the lease is still as it was read."""
        changes = {
            "driver": self._driver.id,
            "attempt": LEASE.c.attempt + 1,
            "failures": failures,
            "expires": self._now(connection) + self.lease_seconds,
            "preempted": False,
        }
        return bool(connection.execute(update(LEASE).where(which).values(changes)).rowcount)

    def let_go(self, study_id: int, tickets: Iterable[int]) -> None:
        """Notes that a write of ours has paused these trials: their leases are not ours any more."""
        for ticket in tickets:
            self._held.get(study_id, {}).pop(ticket, None)

    def _take_over(self, lease: Lease, progressed: Callable[[Lease], bool]) -> Lease | None:
        # A lost answer to this driver's own claim is no death either.
        preempted = lease.preempted or lease.driver == self._driver.id
        failures = lease.failures
        if lease.number is not None:
            failures = 0 if progressed(lease) else failures + (not preempted)
        with writing(self._storage) as connection:
            self._check_study(connection, lease.study_id)
            unchanged = and_(
                _tickets(lease.study_id, [lease.ticket]),
                LEASE.c.driver.is_not_distinct_from(lease.driver),
                LEASE.c.attempt == lease.attempt,
                LEASE.c.expires == lease.expires,
                LEASE.c.done.is_(False),
            )
            if not self._take(connection, unchanged, failures):
                return None
            row = connection.execute(select(LEASE).where(_tickets(lease.study_id, [lease.ticket]))).one()
        return replace(lease_of(row), preempted=preempted)

    def release(self, study_id: int, tickets: Collection[int]) -> None:
        """Gives tickets back at a warm stop: whoever comes next adopts them at once, and it is no death."""
        if not tickets:
            return
        own = and_(_tickets(study_id, tickets), LEASE.c.driver == self._driver.id, LEASE.c.done.is_(False))
        with writing(self._storage) as connection:
            connection.execute(update(LEASE).where(own).values(_RELEASED))
        for ticket in tickets:
            self._held.get(study_id, {}).pop(ticket, None)

    def fence(self, study_id: int, tickets: Iterable[int]) -> Fence:
        """Returns what a write for these tickets relies on; `LeaseLost` when one is known to be lost."""
        held = self._held.get(study_id, {}) | self._closed.get(study_id, {})
        wanted = list(tickets)
        if lost := set(wanted) - held.keys():
            raise _lost(*lost)
        return Fence(self._driver.id, study_id, {ticket: held[ticket] for ticket in wanted})

    def unfinished(self, study_id: int) -> list[Lease]:
        """Returns the study's leases that are not done, whoever owns them, but for those of paused trials."""
        query = select(LEASE).where(LEASE.c.study_id == study_id, LEASE.c.done.is_(False))
        with reading(self._storage) as connection:
            leases = [lease_of(row) for row in connection.execute(query.order_by(LEASE.c.ticket))]
        return [lease for lease in leases if lease.driver != PAUSED_LEASE]

    def _attach(self, study_id: int) -> None:
        """Makes sure that the leases found under this number are this study's.

        A study deleted in the dashboard leaves its leases behind, and SQLite gives its number to the next.
        """
        if study_id in self._attached:
            return  # whether it still is the same study, each change asks by `_check_study`
        token_rows = and_(STUDY_SYSTEM_ATTRS.c.study_id == study_id, STUDY_SYSTEM_ATTRS.c.key == TOKEN)
        with writing(self._storage) as connection:
            if not lock_study(connection, study_id):
                raise StudyNotFound(f"the study with id {study_id} is gone from {redact(self._storage.url)}")
            stored = connection.scalar(select(STUDY_SYSTEM_ATTRS.c.value_json).where(token_rows))
            known = connection.scalar(select(CONTROL.c.token).where(CONTROL.c.study_id == study_id))
            token = str(uuid.uuid4()) if stored is None else str(json.loads(stored))
            if token != known:
                forget(connection, study_id)
                connection.execute(insert(CONTROL).values(study_id=study_id, token=token))
                if stored is None:
                    attr = {"study_id": study_id, "key": TOKEN, "value_json": json.dumps(token)}
                    connection.execute(insert(STUDY_SYSTEM_ATTRS).values(**attr))
            mark_leased(connection, study_id)
        self._attached[study_id] = token

    def token(self, study_id: int) -> str:
        """Returns the token of a study that this driver has entered."""
        return self._attached[study_id]

    def _check_study(self, connection: Connection, study_id: int) -> None:
        """Refuses to continue a study that was deleted meanwhile; another may have its number now.

        Raises:
            StudyNotFound: it is not the study that this driver began with.
        """
        token = connection.scalar(select(CONTROL.c.token).where(CONTROL.c.study_id == study_id))
        if token != self._attached.get(study_id):
            raise StudyNotFound(
                f"the study with id {study_id} was deleted from {redact(self._storage.url)} while it was run"
            )

    def drivers(self, study_id: int) -> list[DriverRow]:
        """Returns the study's drivers, those that were seen last first."""
        query = select(DRIVER).where(DRIVER.c.study_id == study_id).order_by(DRIVER.c.seen.desc())
        with reading(self._storage) as connection:
            now = self._now(connection)
            return [
                driver_row(identity_of(row), row.devices, row.workers, row.seen, now, self.lease_seconds)
                for row in connection.execute(query)
            ]

    def request_stop(self, study_id: int) -> None:
        """Asks every driver of the study to stop warmly."""
        with writing(self._storage) as connection:
            statement = upsert(connection.dialect.name, CONTROL, ["study_id"], ["stop_requested_at"])
            row = {"study_id": study_id, "stop_requested_at": self._now(connection)}
            connection.execute(statement, [row])

    def stop_requested(self, study_id: int, since: float) -> bool:
        """Tells whether a stop was asked for at `since` (a time of `now()`) or later."""
        query = select(CONTROL.c.stop_requested_at).where(CONTROL.c.study_id == study_id)
        with reading(self._storage) as connection:
            asked = connection.scalar(query)
        return asked is not None and asked >= since

    def forget_study(self, study_id: int) -> None:
        """Removes all rows of a study; drivers that still run it find their leases lost."""
        with writing(self._storage) as connection:
            forget(connection, study_id)
            connection.execute(delete(DRIVER).where(DRIVER.c.study_id == study_id))
        self._held.pop(study_id, None)
        self._closed.pop(study_id, None)
        self._attached.pop(study_id, None)


def stop_drivers(url: str, study_id: int) -> None:
    """Asks every driver of a study to stop gracefully.

    Raises:
        StorageError, StorageAway: the database.
    """
    with opened(url) as storage:
        Ledger(storage, DriverIdentity.here()).request_stop(study_id)


_RELEASED = {"driver": None, "preempted": True, "expires": 0.0}


def _tickets(study_id: int, tickets: Iterable[int]) -> ColumnElement[bool]:
    return and_(LEASE.c.study_id == study_id, LEASE.c.ticket.in_(sorted(tickets)))


def _lost(*tickets: int) -> LeaseLost:
    names = ", ".join(str(ticket) for ticket in sorted(tickets))
    return LeaseLost(f"ticket {names}: another driver owns it now", tickets)
