"""Opens the database that holds the studies: SQLite, PostgreSQL, MariaDB or MySQL.

Only the driver of a machine opens it for writing, and its loop must never hang on it: every call gives up
after `timeout` seconds. Passwords in URLs reach no message.
"""

import logging
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from sqlalchemy import Connection, exc
from sqlalchemy.engine import URL, make_url

from hpsearch.errors import StorageAway, StorageError, StudyNotFound, nearest
from hpsearch.spec.regular import regular
from hpsearch.store.damage import DAMAGED, LOST, NOT_TEXT, damage, not_text, stumbled
from hpsearch.store.sqlite import DatabaseFile, opener, tune, turn_on_wal

logger = logging.getLogger(__name__)

DEFAULT_STORAGE = "sqlite:///runs/hpsearch.db"
HIDDEN = "***"  # stands for a password
SQLITE_SUFFIXES = (".db", ".sqlite", ".sqlite3")

# What users write -> SQLAlchemy's name, the driver's module, the extra that installs it.
DRIVERS = {
    "sqlite": ("sqlite", "pysqlite", ""),
    "postgresql": ("postgresql+psycopg", "psycopg", "postgres"),
    "postgres": ("postgresql+psycopg", "psycopg", "postgres"),
    # Optuna has upserts for the dialect "mysql" only; MariaDB speaks it.
    "mysql": ("mysql+pymysql", "pymysql", "mysql"),
    "mariadb": ("mysql+pymysql", "pymysql", "mysql"),
}

Result = TypeVar("Result")

# Errors of class OperationalError that waiting cannot mend: they are defects, not absence.
_DEFECTS = re.compile(r"no such (table|column)|syntax error|has no column|unknown column", re.IGNORECASE)
_LOST_RACE = re.compile(r"already exists|duplicate|UNIQUE constraint|is locked|deadlock", re.IGNORECASE)
# SQLite's writers wait for each other, and a suspended process keeps the lock that it holds.
_HELD = (
    "database is locked: another process is in the middle of writing; "
    "was a run suspended (Ctrl-Z)? Let it go on with fg, or end it"
)
_LEAST_TRIES = 4
_MISSING_TABLE = re.compile(r"no such table|does not exist|doesn't exist", re.IGNORECASE)


def redact(url: str) -> str:
    """Returns the URL with every password in it replaced by `***`.

    A password that holds unescaped `@`, `/` or `?` is covered whole: better too much hidden than too little.
    """
    hidden = re.sub(r"(://[^:/@]*|^(?!\S*://)[^:/@]*):.*@", rf"\1:{HIDDEN}@", url, flags=re.DOTALL)
    return re.sub(r"(?i)([?&](?:\w*password|passwd)=)[^&]*", rf"\1{HIDDEN}", hidden)


def read_storage_url(option: str | None, file: Path | None, environ: Mapping[str, str]) -> str:
    """Returns the storage URL from the flags, else from the environment, else the default.

    A URL with a password belongs into a file (`--storage-file`) or the environment: other users of the
    machine can read a process's arguments.
    """
    if option and file:
        raise StorageError("--storage and --storage-file: give only one of them")
    if option:
        return _as_url(option)
    if file:
        return _url_in(file, "--storage-file")
    if url := environ.get("HPSEARCH_STORAGE"):
        return _as_url(url)
    if name := environ.get("HPSEARCH_STORAGE_FILE"):
        return _url_in(Path(name), "HPSEARCH_STORAGE_FILE")
    return DEFAULT_STORAGE


def _as_url(text: str) -> str:
    text = text.strip()
    if "://" not in text and text.endswith(SQLITE_SUFFIXES):
        return f"sqlite:///{text}"
    return text


def _url_in(file: Path, source: str) -> str:
    try:
        text = regular(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{source}: cannot read {file}: {_reason(error)}") from None
    if not text or "\n" in text:
        raise StorageError(f"{source}: {file} must hold one line, the storage URL")
    return _as_url(text)


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
    parsed = _parse(_as_url(url))
    kind = parsed.get_backend_name()
    path = Path(parsed.database or "")
    if kind == "sqlite":
        _prepare_file(path, readonly, timeout)
    # Raised outside of `except`: an exception in `__context__` could carry the URL.
    problem: StorageError | StudyNotFound
    try:
        storage = settle(lambda: _connect(parsed, readonly, timeout), timeout)
    except ImportError:
        _, module, extra = DRIVERS[kind]
        problem = _missing_driver(parsed, module, extra)
    except (exc.SQLAlchemyError, StorageInternalError, RuntimeError, ValueError, TypeError) as error:
        problem = _opening_problem(error, parsed, readonly)
    else:
        if kind == "sqlite":
            tune(storage.engine, "BEGIN" if readonly else "BEGIN IMMEDIATE")
            storage.file = None if readonly else DatabaseFile(path)
        return storage
    raise problem


def _parse(url: str) -> URL:
    try:
        parsed: URL | None = make_url(url)
    except (exc.ArgumentError, ValueError):
        parsed = None
    if parsed is None:
        raise StorageError(
            f"storage {redact(url)!r} is no URL: write sqlite:///runs/hpsearch.db or "
            "postgresql://user:password@host/database (special characters of a password escaped as %40)"
        )
    if "@" in (parsed.host or ""):  # the rest of a password, which is then no secret to any message
        raise StorageError(f"storage {redact(url)!r}: the password holds an unescaped @; write it as %40")
    backend, _, driver = parsed.drivername.partition("+")
    if backend not in DRIVERS:
        raise StorageError(
            f"storage {redact(url)!r}: unknown database {backend!r}; {nearest(backend, DRIVERS)}"
        )
    name, module, extra = DRIVERS[backend]
    if driver and driver != module:
        raise _missing_driver(parsed, driver, extra)
    if backend == "sqlite" and (parsed.database or ":memory:").startswith((":memory:", "file:")):
        raise StorageError(f"storage {redact(url)!r}: name a file, for example {DEFAULT_STORAGE}")
    return parsed.set(drivername=name)


def _missing_driver(url: URL, module: str, extra: str) -> StorageError:
    backend = url.get_backend_name()
    return StorageError(
        f"storage {redact(_text(url))!r}: the driver {module!r} cannot be used; write {backend}://... "
        f'and run pip install "hpsearch[{extra}]"'
    )


def _text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


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
    template = _text(url).replace("{", "{{").replace("}", "}}")
    options = _ENGINE_OPTIONS[url.get_backend_name()](url, timeout)
    connect = opener(Path(url.database or ""), timeout) if readonly and "sqlite" in url.drivername else None
    if connect is not None:
        options = {"creator": connect}
    return _Storage(template, engine_kwargs=options, skip_table_creation=readonly)


def _check_file(storage: RDBStorage) -> None:
    """Notices that an SQLite file is gone: its open connections would go on writing into nothing.

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
    from hpsearch.store.postgres import connector

    half = timeout / 2  # one half to notice that a connection is dead, the other to try a new one
    milliseconds = round(half * 1000)
    given = url.get_dialect()().create_connect_args(url)[1]
    server = f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
    options = {
        "connect_timeout": max(2, int(half)),
        "tcp_user_timeout": milliseconds,
        "client_encoding": "utf8",  # of a database in SQL_ASCII the driver would give bytes otherwise
        **given,
        "options": f"{given.get('options', '')} {server}".strip(),
    }
    return {"creator": connector(options, half), "pool_pre_ping": True}


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
        if readonly and not (path.is_file() and path.stat().st_size):
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


def _opening_problem(error: Exception, url: URL, readonly: bool) -> StorageError | StudyNotFound:
    shown = redact(_text(url))
    reason = _hide_password(_reason(error), url)
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    # A missing database is an OperationalError too, but of another wording than SQLite's missing table.
    tables_missing = isinstance(cause, exc.ProgrammingError) or "no such table" in reason
    if readonly and tables_missing and _MISSING_TABLE.search(reason):
        return StudyNotFound(f"there are no studies yet in {shown}")
    if isinstance(error, RuntimeError):  # Optuna's sentence about a database of another version
        return StorageError(f"storage {shown!r}: {reason}")
    return StorageError(f"cannot open the storage {shown!r}: {reason}; {_remedy(url)}")


def _remedy(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return "may it be read and written, is there room on the disk, may files be opened (ulimit -n, ulimit -f)?"
    return "is the server up and the URL right?"


def _hide_password(text: str, url: URL) -> str:
    return text.replace(str(url.password), "***") if url.password else text


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
        reason = _hide_password(_reason(error), storage.engine.url)
        if LOST.search(reason):
            raise StudyNotFound(damage(redact(storage.url), reason)) from None
        if NOT_TEXT.search(reason):
            raise StorageError(not_text(redact(storage.url), reason)) from None
        if DAMAGED.search(reason):
            raise StorageError(damage(redact(storage.url), reason)) from None
        if not is_away(error):
            raise
        raise StorageAway(f"the database {redact(storage.url)} does not answer: {reason}") from None
    except (ValueError, TypeError, RecursionError) as error:  # an attribute that is not JSON, or a date
        if isinstance(error, UnicodeDecodeError):
            raise StorageError(not_text(redact(storage.url), str(error))) from None
        if not stumbled(error):
            raise
        raise StorageError(damage(redact(storage.url), str(error))) from None


def is_away(error: BaseException) -> bool:
    """Tells whether an error means that the database is unreachable, locked or too slow."""
    if isinstance(error, StorageInternalError):
        return error.__cause__ is not None and is_away(error.__cause__)
    if isinstance(error, exc.TimeoutError):  # no connection left in the pool
        return True
    if not isinstance(error, exc.DBAPIError):
        return False
    if error.connection_invalidated or isinstance(error, exc.InterfaceError):
        return True
    if isinstance(error, exc.OperationalError):
        return not _DEFECTS.search(_reason(error))
    # 25006: a standby that takes no writes, while the servers change their roles
    return getattr(error.orig, "sqlstate", None) == "25006"


def _reason(error: BaseException) -> str:
    """Returns the first line of what the database driver said."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        return _reason(error.__cause__)
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        return _reason(error.orig)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = [str(word) for word in error.args if isinstance(word, str) and word.strip()]
    lines = (words[-1] if words else str(error)).strip().splitlines()
    reason = lines[0].rstrip(".") if lines else type(error).__name__
    return _HELD if reason == "database is locked" else reason
