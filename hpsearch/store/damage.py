"""What went wrong with a database, by what its driver says: away, lost or damaged; and the sentence about it.

The errors are those of the Python database API, whose names are the same in every driver.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from hpsearch.errors import HpsearchError, StorageAway, StorageError, StudyNotFound

DAMAGED = re.compile(
    r"malformed|not a database|corrupt|unsupported file format|no such (table|column)|invalid data in the commit",
    re.IGNORECASE,
)
LOST = re.compile(
    r"no such table|malformed|not a database|relation .* does not exist|table .* doesn't exist|"
    r"database .* does not exist|unknown database",
    re.IGNORECASE,
)
NOT_TEXT = re.compile(r"invalid byte sequence|codec can't decode|could not decode to UTF-8", re.IGNORECASE)
# Errors of class OperationalError that waiting cannot mend: they are defects, not absence.
_DEFECTS = re.compile(r"no such (table|column)|syntax error|has no column|unknown column", re.IGNORECASE)
# SQLite's writers wait for each other, and a suspended process keeps the lock that it holds.
_HELD = (
    "database is locked: another process is in the middle of writing; "
    "was a run suspended (Ctrl-Z)? Resume it with fg, or end it"
)


def sentence(error: BaseException, url: str, password: str | None) -> HpsearchError | None:
    """Returns what to raise in the place of a driver's error; None if it is a defect of ours.

    Args:
        url: of the database, without its password.
    """
    said = hide(reason(error), password)
    if LOST.search(said):
        return StudyNotFound(damage(url, said))
    if isinstance(error, UnicodeDecodeError) or NOT_TEXT.search(said):
        return StorageError(not_text(url, said))
    if DAMAGED.search(said):
        return StorageError(damage(url, said))
    return StorageAway(f"the database {url} does not answer: {said}") if is_away(error, said) else None


def not_text(url: str, reason: str) -> str:
    """Returns the sentence about a database that holds bytes which are no text."""
    return (
        f"the database {url} holds a name or an attribute that is not UTF-8: {' '.join(reason.split())[:200]}; remove "
        "or rename it with the program that wrote it, or use another database"
    )


def damage(url: str, reason: str) -> str:
    """Returns the sentence about a database that is not what it was, with the remedy."""
    return (
        f"the database {url} was damaged or replaced: {' '.join(reason.split())[:200]}; put an earlier copy "
        "in its place, or move it away and run again"
    )


def is_away(error: BaseException, said: str) -> bool:
    """Tells whether an error, and what it says, mean that the database is unreachable, locked or too slow."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "InterfaceError" in kinds:
        return True
    if "OperationalError" in kinds:
        return not _DEFECTS.search(said)
    # 25006: a standby that takes no writes, while the servers change their roles
    return getattr(error, "sqlstate", None) == "25006"


def reason(error: BaseException) -> str:
    """Returns the first line of what a driver, or the system, said."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = [str(word) for word in error.args if isinstance(word, str) and word.strip()]
    lines = (words[-1] if words else str(error)).strip().splitlines()
    said = lines[0].rstrip(".") if lines else type(error).__name__
    return _HELD if said == "database is locked" else said


def hide(text: str, password: str | None) -> str:
    """Returns a driver's words without the password."""
    return text.replace(password, "***") if password else text


@contextmanager
def making_sense(url: str) -> Iterator[None]:
    """Says in a sentence that what a database holds is not what belongs there: no JSON, no date, no number.

    Raises:
        StorageError: so it is.
    """
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        text = not_text if isinstance(error, UnicodeDecodeError) else damage
        raise StorageError(text(url, str(error))) from None


def stumbled(error: BaseException) -> bool:
    """Says whether it was Optuna or SQLAlchemy that could not make sense of a value, and not our own code."""
    trace, owner = error.__traceback__, ""
    while trace is not None:
        package = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        owner = package if package in ("hpsearch", "optuna", "sqlalchemy") else owner
        trace = trace.tb_next
    return owner in ("optuna", "sqlalchemy")
