"""Locks between processes that the kernel takes back when their holders die."""

import logging
import sys
from typing import IO, Any

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)


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
