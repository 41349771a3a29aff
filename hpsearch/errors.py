"""Everything that hpsearch raises on purpose.

HpsearchError                      exit status 1
├── UserError                      exit status 2: something the user can mend, said in one sentence
│   ├── StudyFileError             a study file, or a field of it
│   │   └── DigestMismatch         a study of this name exists with another specification
│   ├── DataError                  a data set that is missing, corrupt or does not fit the study
│   ├── ModelError                 a model that cannot be built or cannot take this data
│   ├── DeviceError                a device or a number type that is not there
│   ├── StorageError               a storage URL, its driver or its server
│   └── StudyNotFound              no study of this name in the storage
├── StorageAway                    the database stopped answering in the middle of a run
├── LeaseLost                      another driver owns the trial now; nothing more may be written for it
├── CheckpointError                a checkpoint that cannot be written or read
├── EngineError                    an engine that cannot train any more, because of one of its trials
└── WorkersFailed                  workers die before they train, whatever the trial
"""

import errno
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any


class HpsearchError(Exception):
    """Base of all errors that hpsearch raises on purpose; `str(error)` is the sentence to show."""

    exit_status = 1


class UserError(HpsearchError):
    """Something the user can mend."""

    exit_status = 2


class StudyFileError(UserError):
    """A study file, or a field of it, is wrong."""


class DigestMismatch(StudyFileError):
    """A study of this name exists with another specification."""


class DataError(UserError):
    """A data set is missing, corrupt or does not fit the study."""


class ModelError(UserError):
    """A model cannot be built or cannot take this data."""


class DeviceError(UserError):
    """A device or a number type is not there."""


class StorageError(UserError):
    """A storage URL, its driver or its server is wrong; never holds a password."""


class StudyNotFound(UserError):
    """No study of this name is in the storage."""


class StorageAway(HpsearchError):
    """The database stopped answering in the middle of a run."""


class LeaseLost(HpsearchError):
    """Another driver owns the trials of `tickets` now; nothing more may be written for them."""

    def __init__(self, message: str, tickets: Iterable[int] = ()) -> None:
        super().__init__(message)
        self.tickets = frozenset(tickets)


class CheckpointError(HpsearchError):
    """A checkpoint cannot be written or read."""


class EngineError(HpsearchError):
    """An engine cannot train in this process any more, because of trial `number`; the cause is chained."""

    def __init__(self, number: int) -> None:
        super().__init__(f"trial {number} has made training in this process impossible")
        self.number = number


class WorkersFailed(HpsearchError):
    """Workers die before they train, whatever the trial."""


@contextmanager
def refusing(refusal: Callable[[str], HpsearchError]) -> Iterator[None]:
    """Says in a sentence whatever a library stumbles on in a damaged file: they raise what their parsers meet.

    Args:
        refusal: makes the error from the reason.
    """
    try:
        yield
    except HpsearchError:
        raise
    except MemoryError as error:
        raise refusal("there is not enough memory for it") from error
    except Exception as error:
        raise refusal(reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """Returns why a file cannot be read, as a sentence may quote it: Python's own words tell nothing of the file."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, LookupError | TypeError | AttributeError | RecursionError | ArithmeticError):
        return "it is damaged, or not what its name says"
    return " ".join(str(error).split())[:300] or type(error).__name__


OF_OWN_CODE: tuple[type[BaseException], ...]
"""What code of the user's own may raise; KeyboardInterrupt and `Signalled` come of signals."""


def __getattr__(name: str) -> Any:
    if name != "OF_OWN_CODE":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from asyncio import (
        CancelledError,
    )  # as long an import as all else that a look at a study needs of Python's own

    return Exception, SystemExit, GeneratorExit, CancelledError


_LIMITS = {
    errno.EMFILE: "too many open files; raise the limit (ulimit -n), or use fewer workers",
    errno.ENFILE: "too many open files on this machine; end other programs",
    errno.EAGAIN: "no new process can be started; raise the limit (ulimit -u), or use fewer workers",
    errno.ENOMEM: "out of memory; use fewer workers, end other programs, or raise the limit (ulimit -v)",
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "your disk quota is used up; free some space",
    errno.EFBIG: "the file exceeds the size limit; raise it (ulimit -f)",
}

_NO_MEMORY = re.compile(
    r"failed to map segment|cannot allocate memory|not enough memory|bad_alloc", re.IGNORECASE
)
"""What the loader of libraries, and C++, say of it."""


def lacks_memory(text: str) -> bool:
    """Says whether what a program said before its end is that memory ran out."""
    return bool(_NO_MEMORY.search(text))


def limit(error: BaseException) -> str:
    """Returns what this machine has run out of, with the remedy; "" for an error of another kind."""
    if isinstance(error, MemoryError) or (
        isinstance(error, ImportError | RuntimeError) and lacks_memory(str(error))
    ):
        return _LIMITS[errno.ENOMEM]
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return _LIMITS[errno.EAGAIN]
    if isinstance(error, OSError) and error.errno in _LIMITS:
        return f"{_LIMITS[error.errno]}{f' ({error.filename})' if error.filename else ''}"
    return ""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the end of a sentence about an unknown name: the nearest known one and the list.

    >>> nearest("cosin", ["constant", "cosine"])
    'did you mean "cosine"? Known: constant, cosine'
    >>> nearest("sgd", ["adam"])
    'known: adam'
    """
    names = sorted(known)
    meant = _MEANT.get(name.rpartition(".")[2].lower())
    close = [one for one in names if meant in (one, one.rpartition(".")[2])] if meant else []
    close += get_close_matches(name, names, n=1, cutoff=0.6)
    guess = f'did you mean "{close[0]}"? ' if close else ""
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return f"{guess}{'Known' if guess else 'known'}: {', '.join(names[:_MOST])}{more}"


_MOST = 100  # names in a sentence; the search space has 50

_MEANT = {
    "lr": "learning_rate",
    "eta": "learning_rate",
    "bs": "batch_size",
    "epoch": "epochs",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "max_epochs": "epochs",
    "wd": "weight_decay",
    "optim": "optimizer",
    "scheduler": "schedule",
    "lr_scheduler": "schedule",
    "dataset_path": "root",
    "n_trials": "trials",
    "num_trials": "trials",
    "n_jobs": "workers",
    "num_workers": "workers",
    "out": "output",
}
"""What other libraries call a field, which no likeness of letters would lead to."""
