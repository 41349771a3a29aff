"""Locks between processes that the kernel takes back when their holders die, and folders that live as long."""

import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

_LOCK = "lock"
_YOUNG = 60.0  # seconds in which a new folder may not have its lock yet


def try_lock(file: IO[Any]) -> bool | None:
    """Locks an open file without waiting; the lock ends when the last process that has it open closes it.

    Returns:
        True with the lock, None while another process holds it, False where there are no locks: on Windows,
        and on some network file systems.
    """
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError as error:
        logger.debug("no lock on %s: %s", file.name, error)
        return False
    return True


@contextmanager
def temporary_folder(kind: str) -> Iterator[str]:
    """Yields a temporary folder of this process, and removes those of its kind whose processes were killed.

    Args:
        kind: begins the folder's name.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{kind}-*"):
        _remove_left(left)
    with tempfile.TemporaryDirectory(prefix=f"{kind}-") as folder, (Path(folder) / _LOCK).open("w") as file:
        try_lock(file)
        yield folder


def _remove_left(folder: Path) -> None:
    try:
        if time.time() - folder.stat().st_mtime < _YOUNG:
            return
        with (folder / _LOCK).open("r+") as file:
            if try_lock(file):
                shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # another process was first, or it is not ours
        return
