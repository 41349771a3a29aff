"""The SQLite file: its write-ahead log, how its transactions begin, and whether it is still the same file."""

import atexit
import logging
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.engine import Engine

from hpsearch.files.locks import temporary_folder

logger = logging.getLogger(__name__)


def turn_on_wal(path: Path, timeout: float) -> None:
    """Turns on the write-ahead log, which stays on."""
    with closing(sqlite3.connect(path, timeout=timeout)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        logger.warning("%s: no write-ahead log on this file system; the search will be slower", path)


def may_read(path: Path) -> bool:
    """Says whether there is a file that holds anything."""
    return path.is_file() and bool(path.stat().st_size)


def may_write(path: Path) -> bool:
    """Says whether a file, and the logs beside it, may be written."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def is_damaged(path: Path) -> bool:
    """Says whether there is a file, and SQLite cannot read it as a whole."""
    if not may_read(path):  # SQLite would make a file of a log without one
        return path.is_file() and bool(_size(path.with_name(f"{path.name}-wal")))
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",))
    except sqlite3.DatabaseError:
        return True


def opener(path: Path, timeout: float) -> Callable[[], sqlite3.Connection] | None:
    """Returns what connects to a file that may only be read: of an archive, a read-only mount, another user.

    SQLite wants to write beside a file with a write-ahead log even to read it. None when it may.
    """
    if may_write(path):
        return None
    log = path.with_name(f"{path.name}-wal")
    how = "immutable=1"
    if log.is_file() and log.stat().st_size:
        # Whoever writes it now has made the index of the log too; a process that was killed may not have left it.
        if path.with_name(f"{path.name}-shm").is_file():
            how = "mode=ro"
        else:
            path = _copy(path, log)
            how = "mode=rw"
    uri = f"{path.absolute().as_uri()}?{how}"
    return lambda: sqlite3.connect(uri, timeout=timeout, uri=True, check_same_thread=False)


def _copy(path: Path, log: Path) -> Path:
    until_exit = ExitStack()
    folder = Path(until_exit.enter_context(temporary_folder("hpsearch-read")))
    atexit.register(until_exit.close)
    for file in (path, log):
        shutil.copyfile(file, folder / file.name)
    return folder / path.name


def tune(engine: "Engine", begin: str) -> None:
    """Sets how transactions begin.

    Only now, not while Optuna makes its tables: it then nests two connections, and the second would wait for
    the first one's write lock for ever.
    """

    from sqlalchemy import event  # readers do without

    def on_connect(connection: sqlite3.Connection, record: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions by itself
        # NORMAL: a commit survives the death of any process. After a power cut the last commits may be
        # missing, but the file is whole and the trials they told of are trained again. FULL would add an
        # fsync to every commit.
        connection.execute("PRAGMA synchronous=NORMAL")
        if begin != "BEGIN":
            connection.execute("PRAGMA wal_autocheckpoint=0")  # `DatabaseFile` moves the log into the file

    def on_begin(connection: "Connection") -> None:
        reads = connection.get_execution_options().get("hpsearch_reads", False)
        connection.exec_driver_sql("BEGIN" if reads else begin)

    engine.dispose()
    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)


CHECKPOINT = 3.0  # seconds between two of a driver
_MOST_LOG = 4 << 20  # bytes of the log: as many as SQLite takes before it moves them into the file
_LOOKS = 6  # at a copy that is just being written, 0.05 seconds apart
_OTHERS = 2.0  # seconds after which nobody else is changing the file any more
_FAR = 1_000_000
_OVERWRITTEN = "overwritten with another copy of it"


class DatabaseFile:
    """The file of a database that is open for writing, and what shows that another took its place.

    An older copy written into the open file (`cp old.db hpsearch.db`) does not show in its inode, and what SQLite
    then reads is a mixture of the copy and of its own log. So each move of the log into the file (a checkpoint) is
    counted in the file's header, `PRAGMA user_version`. Whenever the file has changed, its count must have grown.
    The count begins at random, which tells other databases apart.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = path.with_name(f"{path.name}-wal")
        self._identity = identity(path)
        self._stamp: tuple[int, int] | None = None
        self._count = 0  # in the file itself, when last looked at
        self._moved_at = -CHECKPOINT
        self._doubt: tuple[tuple[int, int], float] | None = None

    def check(self) -> str:
        """Returns what became of the file ("deleted or moved" ...), "" while it is the same.

        Now and then it moves the log into the file. A copy that was written over the file is made the content of
        the database, so that nobody reads a mixture.
        """
        if (now := identity(self._path)) != self._identity:
            return "replaced" if now else "emptied" if self._path.exists() else "deleted or moved"
        if self._stamp is not None and self._changed():
            return self._judge()
        since = time.monotonic() - self._moved_at
        if since > CHECKPOINT or (since > 1 and _size(self._log) > _MOST_LOG):
            self._move()
        return ""

    def _changed(self) -> bool:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            self._doubt = None
        return stamp != self._stamp

    def _judge(self) -> str:
        for look in range(_LOOKS):
            stamp, count = _stamp(self._path), _count(self._path)
            if count is not None and self._count <= count <= self._count + _FAR:
                break
            time.sleep(0.05 * (look < _LOOKS - 1))
        else:
            self._take_copy()
            return _OVERWRITTEN
        # Other programs move the log and do not count. A move of ours that readers hold up has changed the file, and
        # its count is in the log still.
        logged = _logged(self._path)
        if logged is None:
            return ""  # another process is at it; look again
        if count != self._count or _size(self._log) > _MOST_LOG or logged != count:
            self._stamp, self._count, self._doubt = stamp, count, None
            return ""
        if self._doubt is None or self._doubt[0] != stamp:
            self._doubt = stamp, time.monotonic()
        # As old as the last move: with the log beside it nothing is missing.
        return _OVERWRITTEN if time.monotonic() - self._doubt[1] > _OTHERS else ""

    def _move(self) -> None:
        """Counts, then moves the log into the file; when another process is writing, the next time."""
        try:
            with closing(sqlite3.connect(self._path, timeout=0, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                (count,) = connection.execute("PRAGMA user_version").fetchone()
                following = count + 1 if 0 < count < 2**31 - 2 else random.randrange(1, 2**30)
                connection.execute(f"PRAGMA user_version={following}")
                connection.execute("COMMIT")
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                stamp, found = _stamp(self._path), _count(self._path)
        except sqlite3.Error:
            return
        self._moved_at = time.monotonic()
        # A reader may have held the first count up: nothing can be told by the file before it has one.
        if found is not None and found >= max(1, self._count):
            self._stamp, self._count = stamp, found

    def _take_copy(self) -> None:
        """Makes the file's content that of the database, through the log; a negative count says that it is done."""
        try:
            with (
                closing(_without_log(self._path)) as copy,
                closing(sqlite3.connect(self._path, timeout=5)) as database,
            ):
                database.execute("PRAGMA wal_autocheckpoint=0")
                (count,) = database.execute("PRAGMA user_version").fetchone()
                if count >= 0:  # else another driver was here
                    copy.backup(database)
                    (count,) = copy.execute("PRAGMA user_version").fetchone()
                    database.execute(f"PRAGMA user_version={-max(1, count)}")
                    database.commit()
        except sqlite3.Error as error:
            logger.warning("%s: the copy that was put in its place cannot be used: %s", self._path, error)


def _without_log(path: Path) -> sqlite3.Connection:
    # By SQLite: to open and close the file would take from this process the locks that SQLite has on it.
    return sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True, isolation_level=None)


def _count(path: Path) -> int | None:
    """Returns the count in the file itself, None if it cannot be read."""
    try:
        with closing(_without_log(path)) as connection:
            count: int = connection.execute("PRAGMA user_version").fetchone()[0]
            return count
    except sqlite3.Error:
        return None


def _logged(path: Path) -> int | None:
    """Returns the count as the log has it, None if it cannot be read now."""
    try:
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
            count: int = connection.execute("PRAGMA user_version").fetchone()[0]
            return count
    except sqlite3.Error:
        return None


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def identity(path: Path) -> tuple[int, int] | None:
    """Returns what tells a file from one that takes its place; None without one that holds anything."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found.st_size else None
