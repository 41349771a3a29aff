"""Opens the database to read it, with its driver alone: neither SQLAlchemy nor Optuna, whose imports take a second.

What the plain way cannot do, or stumbles over while it opens, is done or said by the full one (`open_storage`).
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hpsearch.store.damage import making_sense, sentence
from hpsearch.store.sqlite import may_read, opener
from hpsearch.store.url import DatabaseURL, parse, redact

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

KNOWN_REVISION = "v3.2.0.a"
"""The newest change of Optuna 5.0's tables, as Alembic names it."""


class Reader:
    """One transaction that only reads.

    Attributes:
        kind: sqlite, postgresql or mysql.
        url: without its password.
    """

    def __init__(self, connection: Any, kind: str, url: str, password: str | None) -> None:
        self.kind, self.url = kind, url
        self._connection, self._password = connection, password

    def rows(self, statement: str, *values: object) -> Sequence[Sequence[Any]]:
        """Returns the rows of a SELECT, whose values are written as `?`.

        Raises:
            StorageAway, StudyNotFound, StorageError: the database.
        """
        if self.kind != "sqlite":
            statement = statement.replace("?", "%s")
        if self.kind == "mysql":
            statement = statement.replace('"', "`")
        try:
            cursor = self._connection.cursor()
            try:
                cursor.execute(statement, *([values] if values else []))
                found: Sequence[Sequence[Any]] = cursor.fetchall()
                return found
            finally:
                cursor.close()
        except Exception as error:
            said = sentence(error, self.url, self._password)
            if said is None:
                raise
        raise said

    def has_table(self, name: str) -> bool:
        """Says whether there is a table."""
        here = {"sqlite": "", "postgresql": "current_schema()", "mysql": "database()"}[self.kind]
        if not here:
            return bool(self.rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", name))
        query = f"SELECT 1 FROM information_schema.tables WHERE table_schema = {here} AND table_name = ?"
        return bool(self.rows(query, name))

    def making_sense(self) -> Any:
        """Says in a sentence, inside of `with`, that a value is not what belongs there."""
        return making_sense(self.url)


@contextmanager
def read_database(url: str, timeout: float = 5.0) -> Iterator[Reader]:
    """Opens the database at `url` to read it.

    Args:
        timeout: seconds after which a call to a locked, frozen or unreachable database fails.

    Raises:
        StorageError: with one sentence, never holding the password.
        StudyNotFound: there is no database, or it holds no studies.
        StorageAway: it stopped answering.
    """
    parsed = parse(url)
    connection = _connect(parsed, timeout)
    if connection is not None:
        try:
            yield Reader(connection, parsed.kind, parsed.shown, parsed.password)
        finally:
            connection.close()
        return
    from hpsearch.store.connection import opened

    with opened(url, timeout=timeout) as storage, reader_of(storage) as reader:
        yield reader


@contextmanager
def reader_of(storage: "RDBStorage") -> Iterator[Reader]:
    """Reads by a connection of a storage that is open anyway."""
    from hpsearch.store.connection import translated

    password = str(storage.engine.url.password or "")
    with translated(storage):
        connection = storage.engine.raw_connection()
    try:
        yield Reader(connection, storage.engine.dialect.name, redact(storage.url), password)
    finally:
        connection.close()


def _connect(url: DatabaseURL, timeout: float) -> Any:
    """Returns a connection to tables as we know them, or None: then the full way finds out what is wrong."""
    try:
        connection = _CONNECT[url.kind](url, timeout)
    except Exception:
        return None
    if connection is None:
        return None
    try:
        cursor = connection.cursor()
        if url.kind == "sqlite":
            cursor.execute("BEGIN")
        cursor.execute("SELECT version_num FROM alembic_version")
        known = [row[0] for row in cursor.fetchall()] == [KNOWN_REVISION]
        cursor.execute("SELECT schema_version FROM version_info")
        known = known and bool(cursor.fetchall())
        cursor.close()
    except Exception:
        known = False
    if not known:
        connection.close()
    return connection if known else None


def _sqlite(url: DatabaseURL, timeout: float) -> Any:
    path = url.file
    if url.query or not may_read(path):
        return None
    connect = opener(path, timeout)
    connection = connect() if connect is not None else sqlite3.connect(path, timeout=timeout)
    connection.isolation_level = None
    return connection


def _postgres(url: DatabaseURL, timeout: float) -> Any:
    from hpsearch.store.postgres import connector, options

    if url.query:
        return None
    login = {
        "host": url.host,
        "port": url.port,
        "user": url.user,
        "password": url.password,
        "dbname": url.database,
    }
    given = {key: value for key, value in login.items() if value}
    return connector(options(given, timeout), timeout / 2)()


def _mysql(url: DatabaseURL, timeout: float) -> Any:
    import pymysql

    if url.query:
        return None
    half = timeout / 2
    login = {
        "host": url.host,
        "port": url.port,
        "user": url.user,
        "password": url.password,
        "database": url.database,
        "connect_timeout": half,
        "read_timeout": half,
        "write_timeout": half,
    }
    connect: Callable[..., Any] = pymysql.connect
    return connect(**{key: value for key, value in login.items() if value})


_CONNECT = {"sqlite": _sqlite, "postgresql": _postgres, "mysql": _mysql}
