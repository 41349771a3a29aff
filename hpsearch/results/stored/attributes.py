"""Studies' user attributes that hold JSON text: read here, so that damage is said in one sentence.

A database may be edited by hand, copied in part, or written by another version.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hpsearch.errors import HpsearchError, StorageError
from hpsearch.study.specification import CONTINUES, FROM_EPOCH, LINKED

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


def origin_words(attrs: Mapping[str, Any]) -> str:
    """Returns which trial one continues, by its user attributes; "" if it continues none."""
    if CONTINUES not in attrs:
        return ""
    return f"trial {attrs[CONTINUES]}, after its epoch {attrs.get(FROM_EPOCH, '?')}"


def _remedy(study: str, key: str) -> str:
    again = {"confirm_summary": "confirm", "refit_summary": "refit"}.get(key)
    if again is not None:
        return f"run `hpsearch {again} {study}` to write it again"
    suffix = next((one for one in LINKED if study.endswith(one)), None)
    if suffix is not None:
        verb, search = suffix[1:], study.removesuffix(suffix)
        return f"run `hpsearch delete {study}`, then `hpsearch {verb} {search}`"
    return "restore the database from a backup"
