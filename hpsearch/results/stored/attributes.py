"""Studies' user attributes that hold JSON text: read here, so that damage is said in one sentence.

A database may be edited by hand, copied in part, or written by another version.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hpsearch.contracts.trial import IMPORTED
from hpsearch.errors import HpsearchError, StorageError
from hpsearch.store.keys import ENDED, LEARNT, SPECIFICATION
from hpsearch.study.file import stored_tree
from hpsearch.study.specification import CONTINUES, FROM_EPOCH, linked_suffix
from hpsearch.text import counted

_WRONG = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
"""What reading a value raises that is not of the form expected."""


@contextmanager
def readable(study: str, key: str) -> Iterator[None]:
    """Says in a sentence that an attribute is damaged, whatever its reader stumbles on.

    Raises:
        StorageError: naming the study, the attribute, the reason and the remedy.
    """
    try:
        yield
    except HpsearchError:
        raise
    except _WRONG as error:
        reason = (
            f'"{error.args[0]}" is missing'
            if isinstance(error, KeyError)
            else " ".join(str(error).split())[:200]
        )
        raise StorageError(
            f'study "{study}": its attribute {key} is damaged: {reason}; {_remedy(study, key)}'
        ) from None


def decoded(study: str, attrs: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    """Returns what an attribute holds; `default` where there is none.

    Args:
        kind: list or dict.

    Raises:
        StorageError: it is damaged.
    """
    stored = attrs.get(key)
    if stored is None:
        return default
    with readable(study, key):
        value = json.loads(stored) if isinstance(stored, str) else stored
        if not isinstance(value, kind):
            raise TypeError(f"expected a {kind.__name__}, found a {type(value).__name__}")
        return value


def integer(value: Any) -> int:
    """Returns a value that must be an integer.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected an integer, found {value!r}")
    return value


def finite(value: Any) -> float:
    """Returns a value that must be a finite number.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"expected a finite number, found {value!r}")
    return float(value)


def origin(attrs: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Returns by a trial's user attributes which one it continues, or was imported from, as a named fact."""
    if CONTINUES in attrs:
        return (("continues", f"trial {attrs[CONTINUES]}, after its epoch {attrs.get(FROM_EPOCH, '?')}"),)
    match attrs.get(IMPORTED):
        case [study, number, *_]:
            return (("imported", f'trial {number} of the study "{study}"'),)
    return ()


def learnt_words(study: str, attrs: Mapping[str, Any]) -> list[str]:
    """Returns for each study from which `hpsearch import` took trials how many, and what it left out.

    Those of `study.warm_start` are named too.

    Args:
        attrs: the user attributes of the study that has them.

    Raises:
        StorageError: they are damaged.
    """
    found = [
        f'learns from the trials of "{source}" too (study.warm_start)' for source in _warm_start(study, attrs)
    ]
    told = decoded(study, attrs, LEARNT, dict, {})
    with readable(study, LEARNT):
        for source, said in told.items():
            left = {str(reason): integer(count) for reason, count in said["left_out"].items()}
            reasons = "; ".join(left) if len(left) < 2 else "; ".join(f"{n} {why}" for why, n in left.items())
            beside = f", {sum(left.values())} left out: {reasons}" if left else ""
            found.append(f'learnt from {counted(integer(said["taken"]), "trial")} of "{source}"{beside}')
    return found


def _warm_start(study: str, attrs: Mapping[str, Any]) -> list[str]:
    if SPECIFICATION not in attrs:
        return []
    with readable(study, SPECIFICATION):
        return list(map(str, stored_tree(attrs[SPECIFICATION])["study"].get("warm_start", ())))


def ended_words(attrs: Mapping[str, Any]) -> str:
    """Returns which of its own limits ended a study, by its user attributes; "" if none did."""
    return f"ended by itself: {attrs[ENDED]}" if attrs.get(ENDED) else ""


def _remedy(study: str, key: str) -> str:
    again = {"confirm_summary": "confirm", "refit_summary": "refit"}.get(key)
    if again is not None:
        return f"run `hpsearch {again} {study}` to write it again"
    suffix = linked_suffix(study)
    if suffix is not None:
        verb, search = suffix[1:], study.removesuffix(suffix)
        return f"run `hpsearch delete {study}`, then `hpsearch {verb} {search}`"
    return "restore the database from a backup"
