"""The SQLite file: its write-ahead log, how its transactions begin, and whether it is still the same file."""

import atexit
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.engine import Engine

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


def opener(path: Path, timeout: float) -> Callable[[], sqlite3.Connection] | None:
    """Returns what connects to a file that may only be read: of an archive, a read-only mount, another user.

    SQLite wants to write beside a file with a write-ahead log even to read it. None when it may.
    """
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
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
    folder = tempfile.TemporaryDirectory(prefix="hpsearch-read-")
    atexit.register(folder.cleanup)
    for file in (path, log):
        shutil.copyfile(file, Path(folder.name) / file.name)
    return Path(folder.name) / path.name


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

    def on_begin(connection: "Connection") -> None:
        reads = connection.get_execution_options().get("hpsearch_reads", False)
        connection.exec_driver_sql("BEGIN" if reads else begin)

    engine.dispose()
    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)


def identity(path: Path) -> tuple[int, int] | None:
    """Returns what tells a file from one that takes its place; None without one that holds anything."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found.st_size else None
