"""The SQLite file: its write-ahead log, how its transactions begin, and whether it is still the same file."""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, event
from sqlalchemy.engine import Engine

logger = logging.getLogger(__name__)


def turn_on_wal(path: Path, timeout: float) -> None:
    """Turns on the write-ahead log, which stays on."""
    with closing(sqlite3.connect(path, timeout=timeout)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        logger.warning("%s: no write-ahead log on this file system; the search will be slower", path)


def tune(engine: Engine, begin: str) -> None:
    """Sets how transactions begin.

    Only now, not while Optuna makes its tables: it then nests two connections, and the second would wait for
    the first one's write lock for ever.
    """

    def on_connect(connection: sqlite3.Connection, record: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions by itself
        # NORMAL: a commit survives the death of any process. After a power cut the last commits may be
        # missing, but the file is whole and the trials they told of are trained again. FULL would add an
        # fsync to every commit.
        connection.execute("PRAGMA synchronous=NORMAL")

    def on_begin(connection: Connection) -> None:
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
