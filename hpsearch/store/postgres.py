"""A PostgreSQL connection that gives up on a silent server.

`statement_timeout` is kept by the server, so it cannot help when the server is frozen or cut off:
psycopg then waits for ever. This connection measures the silence itself.
"""

import time
from collections.abc import Generator, Mapping
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg.rows import TupleRow

Result = TypeVar("Result")


class PatientConnection(psycopg.Connection[TupleRow]):
    """A connection that is closed when the server says nothing for `patience` seconds."""

    patience = 5.0

    def wait(self, gen: Generator[Any, Any, Result], *args: Any, **options: Any) -> Result:
        """Runs a psycopg generator; raises `psycopg.OperationalError` after too long a silence."""
        return super().wait(self._impatient(gen), *args, **options)

    def _impatient(self, gen: Generator[Any, Any, Result]) -> Generator[Any, Any, Result]:
        heard = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                # A waiter that wakes up with nothing to read sends 0.
                ready = yield wanted
                if ready:
                    heard = time.monotonic()
                elif time.monotonic() - heard > self.patience:
                    break
                wanted = gen.send(ready)
        except StopIteration as finished:
            result: Result = finished.value
            return result
        self.pgconn.finish()
        raise psycopg.OperationalError(f"the server said nothing for {self.patience:g} s")


def options(given: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Returns libpq's options: one half of the time to notice a dead connection, the other to try a new one."""
    milliseconds = round(timeout / 2 * 1000)
    server = f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
    return {
        "connect_timeout": max(2, int(timeout / 2)),
        "tcp_user_timeout": milliseconds,
        "client_encoding": "utf8",  # of a database in SQL_ASCII the driver would give bytes otherwise
        **given,
        "options": f"{given.get('options', '')} {server}".strip(),
    }


def connector(options: dict[str, Any], patience: float) -> partial[PatientConnection]:
    """Returns a function without arguments that connects with libpq's `options`."""
    return partial(_connect, patience, **options)


def _connect(patience: float, **options: Any) -> PatientConnection:
    kind: type[PatientConnection] = type("PatientConnection", (PatientConnection,), {"patience": patience})
    return kind.connect(**options)
