"""Opens the database that holds the studies: SQLite, PostgreSQL, MariaDB or MySQL.

Only the driver of a machine opens it for writing, and its loop must never hang on it: every call gives up
after `timeout` seconds. Passwords in URLs reach no message.
"""

import logging
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _VersionManager
from sqlalchemy import Connection, exc
from sqlalchemy.engine import URL, make_url

from hpsearch.errors import StorageAway, StorageError, StudyNotFound
from hpsearch.store import damage
from hpsearch.store.damage import LOST, hide, sentence, stumbled
from hpsearch.store.sqlite import DatabaseFile, may_read, opener, tune, turn_on_wal
from hpsearch.store.url import DRIVERS, DatabaseURL, missing_driver, parse, redact

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_LOST_RACE = re.compile(r"already exists|duplicate|UNIQUE constraint|is locked|deadlock", re.IGNORECASE)
_LEAST_TRIES = 4
_MISSING_TABLE = re.compile(r"no such table|does not exist|doesn't exist", re.IGNORECASE)


def open_storage(url: str, *, readonly: bool = False, timeout: float = 5.0) -> RDBStorage:
    """Opens the database at `url`, which is created with its tables when it is missing.

    Args:
        url: `sqlite:///path`, a path that ends in `.db`, `postgresql://...`, `mysql://...` or `mariadb://...`.
        readonly: For readers (dashboard, report): nothing is created, and SQLite's write lock is not taken at
            the start of a transaction. A single write, such as a note in the dashboard, still works.
        timeout: Seconds after which a call to a locked, frozen or unreachable database fails.

    Raises:
        StorageError: With one sentence, never holding the password.
        StudyNotFound: `readonly`, and there is no database or it holds no studies.
    """
    read = parse(url)
    parsed = make_url(read.text).set(drivername=read.name)
    kind, path = read.kind, read.file
    if kind == "sqlite":
        _prepare_file(path, readonly, timeout)
    # Raised outside of `except`: an exception in `__context__` could carry the URL.
    problem: StorageError | StudyNotFound
    try:
        storage = settle(lambda: _connect(parsed, readonly, timeout), timeout)
    except ImportError:
        _, module, extra = DRIVERS[kind]
        problem = missing_driver(read.text, module, kind, extra)
    except (exc.SQLAlchemyError, StorageInternalError, RuntimeError, ValueError, TypeError) as error:
        problem = _opening_problem(error, read, readonly)
    else:
        if kind == "sqlite":
            tune(storage.engine, "BEGIN" if readonly else "BEGIN IMMEDIATE")
            storage.file = None if readonly else DatabaseFile(path)
        return storage
    raise problem


@contextmanager
def opened(url: str, readonly: bool = True, timeout: float = 5.0) -> Iterator[RDBStorage]:
    """Opens a storage and closes its connections at the end."""
    storage = open_storage(url, readonly=readonly, timeout=timeout)
    try:
        with translated(storage):
            yield storage
    finally:
        storage.engine.dispose()


@cache
def _versions() -> Any:
    """Returns the versions of Optuna's tables, each a file; every opening would read all up to four times."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(Path(models.__file__).with_name("alembic")))


_VersionManager._create_alembic_script = lambda manager: _versions()  # type: ignore[method-assign, assignment]


class _Storage(RDBStorage):
    """Optuna's storage, which leaves no connection open when it cannot be made.

    Attributes:
        file: the SQLite file that a driver has opened.
    """

    file: DatabaseFile | None = None

    def __init__(self, url: str, **options: Any) -> None:
        try:
            super().__init__(url, **options)
        except Exception:
            if hasattr(self, "engine"):
                self.engine.dispose()
            raise


def _connect(url: URL, readonly: bool, timeout: float) -> _Storage:
    # Optuna fills the URL like a format string.
    template = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    options = _ENGINE_OPTIONS[url.get_backend_name()](url, timeout)
    connect = opener(Path(url.database or ""), timeout) if readonly and "sqlite" in url.drivername else None
    if connect is not None:
        options = {"creator": connect}
    return _Storage(template, engine_kwargs=options, skip_table_creation=readonly)


def _check_file(storage: RDBStorage) -> None:
    """Notices that an SQLite file is gone: its open connections would keep writing into nothing.

    Raises:
        StudyNotFound: it was deleted, moved, emptied, replaced or overwritten.
    """
    file = getattr(storage, "file", None)
    what = "" if file is None else file.check()
    if what:
        raise StudyNotFound(f"the database {redact(storage.url)} was {what} while it was in use")


def _sqlite_options(url: URL, timeout: float) -> dict[str, Any]:
    return {"connect_args": {"timeout": timeout}}


def _postgres_options(url: URL, timeout: float) -> dict[str, Any]:
    from hpsearch.store.postgres import connector, options

    given = url.get_dialect()().create_connect_args(url)[1]
    return {"creator": connector(options(given, timeout), timeout / 2), "pool_pre_ping": True}


def _mysql_options(url: URL, timeout: float) -> dict[str, Any]:
    half = timeout / 2
    # The server should give up before the socket does, since then the connection lives on.
    wait = max(1, int(half) - 1)
    return {
        "connect_args": {
            "connect_timeout": half,
            "read_timeout": half,
            "write_timeout": half,
            "init_command": f"SET SESSION innodb_lock_wait_timeout = {wait}",
        },
        "pool_pre_ping": True,
        # As on PostgreSQL. Under REPEATABLE READ gap locks make drivers deadlock that insert side by side.
        "isolation_level": "READ COMMITTED",
    }


_ENGINE_OPTIONS: dict[str, Callable[[URL, float], dict[str, Any]]] = {
    "sqlite": _sqlite_options,
    "postgresql": _postgres_options,
    "mysql": _mysql_options,
}


def _prepare_file(path: Path, readonly: bool, timeout: float) -> None:
    """Makes the SQLite file and turns on its write-ahead log, which stays on."""
    problem: StorageError | StudyNotFound
    try:
        if readonly and not may_read(path):
            problem = StudyNotFound(f"there are no studies yet: {path} does not exist or is empty")
        else:
            if not readonly:
                path.parent.mkdir(parents=True, exist_ok=True)
                settle(lambda: turn_on_wal(path, timeout), timeout)
            return
    except (OSError, sqlite3.Error) as error:
        reason = _reason(error)
        remedy = (
            f"; move it away with {path.name}-wal beside it, and run again" if LOST.search(reason) else ""
        )
        problem = StorageError(f"cannot open the SQLite file {path}: {reason}{remedy}")
    raise problem


def settle(action: Callable[[], Result], timeout: float) -> Result:
    """Repeats an action that loses races against other processes that make the same tables."""
    deadline = time.monotonic() + timeout
    tries = 0
    while True:
        tries += 1
        try:
            return action()
        except (exc.DBAPIError, StorageInternalError, sqlite3.OperationalError) as error:
            reason = _reason(error)
            # On a busy machine one try may outlast the deadline, and the next would find all tables made.
            enough = tries >= _LEAST_TRIES or "locked" in reason
            if not _LOST_RACE.search(reason) or (enough and time.monotonic() > deadline):
                raise
        time.sleep(0.05)


def _opening_problem(error: Exception, url: DatabaseURL, readonly: bool) -> StorageError | StudyNotFound:
    reason = hide(_reason(error), url.password)
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    # A missing database is an OperationalError too, but of another wording than SQLite's missing table.
    tables_missing = isinstance(cause, exc.ProgrammingError) or "no such table" in reason
    if readonly and tables_missing and _MISSING_TABLE.search(reason):
        return StudyNotFound(f"there are no studies yet in {url.shown}")
    if isinstance(_cause(error), UnicodeEncodeError):
        return StorageError(f"storage {url.shown!r}: this is not UTF-8; rename the file or the folder")
    if isinstance(error, RuntimeError):  # Optuna's sentence about a database of another version
        return StorageError(f"storage {url.shown!r}: {reason}")
    return StorageError(f"cannot open the storage {url.shown!r}: {reason}; {_remedy(url)}")


def _remedy(url: DatabaseURL) -> str:
    if url.kind == "sqlite":
        return "check its permissions, the free disk space and the limits on files (ulimit -n, ulimit -f)"
    return "check that the server is up and the URL is right"


@contextmanager
def reading(storage: RDBStorage) -> Iterator[Connection]:
    """Opens a transaction that only reads: on SQLite it does not wait for writers."""
    with (
        translated(storage),
        storage.engine.connect() as connection,
        connection.execution_options(hpsearch_reads=True).begin(),
    ):
        yield connection


@contextmanager
def writing(storage: RDBStorage) -> Iterator[Connection]:
    """Opens a transaction that is committed at the end, or rolled back when an error passes."""
    with translated(storage), storage.engine.begin() as connection:
        yield connection


@contextmanager
def translated(storage: RDBStorage) -> Iterator[None]:
    """Turns errors of the database into sentences, and no other errors.

    Raises:
        StorageAway: it does not answer.
        StudyNotFound: what it held is not there any more, or damaged.
    """
    _check_file(storage)
    try:
        yield
    except KeyError as error:
        if error.args != (models.NOT_FOUND_MSG,):
            raise
        raise StudyNotFound(f"the study is gone from {redact(storage.url)}") from None
    except (exc.SQLAlchemyError, StorageInternalError) as error:
        said = sentence(_cause(error), redact(storage.url), str(storage.engine.url.password or ""))
        if said is None and not is_away(error):
            raise
        said = said or StorageAway(f"the database {redact(storage.url)} does not answer: {_reason(error)}")
        raise said from None
    except (ValueError, TypeError, RecursionError) as error:  # an attribute that is not JSON, or a date
        if isinstance(error, UnicodeDecodeError):
            raise StorageError(damage.not_text(redact(storage.url), str(error))) from None
        if not stumbled(error):
            raise
        raise StorageError(damage.damage(redact(storage.url), str(error))) from None


def is_away(error: BaseException) -> bool:
    """Tells whether an error means that the database is unreachable, locked or too slow."""
    if isinstance(error, StorageInternalError):
        return error.__cause__ is not None and is_away(error.__cause__)
    if isinstance(error, exc.TimeoutError):  # no connection left in the pool
        return True
    if not isinstance(error, exc.DBAPIError):
        return False
    said = _reason(error)
    return error.connection_invalidated or any(damage.is_away(one, said) for one in (error, _cause(error)))


def _cause(error: BaseException) -> BaseException:
    """Returns the driver's own error behind those of Optuna and SQLAlchemy."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        return _cause(error.__cause__)
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        return error.orig
    return error


def _reason(error: BaseException) -> str:
    return damage.reason(_cause(error))
