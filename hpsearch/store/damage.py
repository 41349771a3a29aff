"""How a database shows that what it held is lost or damaged, and the sentence about it."""

import re

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


def not_text(url: str, reason: str) -> str:
    """Returns the sentence about a database that holds bytes which are no text."""
    return (
        f"the database {url} holds a name or an attribute that is not UTF-8: {' '.join(reason.split())[:200]}; remove "
        "or rename it with the program that wrote it, or use another database"
    )


def damage(url: str, reason: str) -> str:
    """Returns the sentence about a database that is not what it was, with the remedy."""
    return (
        f"the database {url} was damaged or replaced: {' '.join(reason.split())[:200]}; put a copy of it from before "
        "in its place, or move it away and run again"
    )


def stumbled(error: BaseException) -> bool:
    """Says whether it was Optuna or SQLAlchemy that could not make sense of a value, and not our own code."""
    trace, owner = error.__traceback__, ""
    while trace is not None:
        package = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        owner = package if package in ("hpsearch", "optuna", "sqlalchemy") else owner
        trace = trace.tb_next
    return owner in ("optuna", "sqlalchemy")
