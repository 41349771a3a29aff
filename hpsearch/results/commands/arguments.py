"""What the public functions take: the bounds of the command line's flags, said in a sentence."""

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from hpsearch.contracts.callbacks import Callback
from hpsearch.contracts.places import Cluster
from hpsearch.errors import UserError, nearest
from hpsearch.study.specification import StudySection, StudySpec
from hpsearch.text import one_line

P = ParamSpec("P")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Kind:
    """What an argument may be, beside a default of None; `words` end "NAME must be"."""

    words: str
    fits: Callable[[Any], bool]


def checked(function: Callable[P, Result]) -> Callable[P, Result]:
    """Makes a public function refuse arguments that it does not have, or that mean nothing to it.

    It then raises a UserError that names the argument.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **keywords: P.kwargs) -> Result:
        for name in keywords:
            _check_name(function.__name__, name, signature.parameters)
        for name, value in signature.bind_partial(*args, **keywords).arguments.items():
            kind = _KINDS.get(name)
            is_default = value is None and signature.parameters[name].default is None
            if kind is not None and not is_default and not kind.fits(value):
                shown = one_line(repr(value), 80)
                raise UserError(f"{function.__name__}: {name} must be {kind.words}, got {shown}")
        return function(*args, **keywords)

    return call


def _check_name(function: str, name: str, known: Mapping[str, inspect.Parameter]) -> None:
    if name in known:
        return
    if name in StudySection.model_fields:
        raise UserError(f"{function}: {name} is not an argument but a field of the study; write study.{name}")
    raise UserError(f'{function}: there is no argument "{name}"; {nearest(name, list(known))}')


def is_module(name: str) -> bool:
    """Says whether a text names a module, or a function or a class of one."""
    return all(part.isidentifier() for part in name.replace(":", ".").split("."))


def _whole(least: int) -> _Kind:
    return _Kind(
        f"a whole number of at least {least}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least,
    )


def _seconds(least: float) -> _Kind:
    return _Kind(
        f"a number of seconds of at least {least:g}", lambda value: _is_number(value) and value >= least
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_path(value: Any) -> bool:
    return _is_text(os.fspath(value)) if isinstance(value, str | os.PathLike) else False


def _is_list(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Sequence) and not isinstance(value, str) and all(map(fits, value))


_TEXT = _Kind("a string", _is_text)
_PATH = _Kind("a path", lambda value: _is_path(value) and bool(os.fspath(value)))
_TEXTS = _Kind('a list of strings, such as ["one"]', _is_list(_is_text))
_MODULES = _Kind(
    'a list of modules, such as ["my_package.nets"]', _is_list(lambda one: _is_text(one) and is_module(one))
)
_SWITCH = _Kind("True or False", lambda value: isinstance(value, bool))

_KINDS: Mapping[str, _Kind] = {
    "study": _Kind(
        "a study file's path, a study's name, or a study",
        lambda value: _is_path(value) or isinstance(value, StudySpec | Mapping),
    ),
    **dict.fromkeys(
        ("gpus", "share", "executor", "storage", "data_root", "device", "prepare", "source", "origin"), _TEXT
    ),
    **dict.fromkeys(("run_folder", "output", "png"), _PATH),
    "allow": _MODULES,
    "import_paths": _TEXTS,
    **dict.fromkeys(("test", "search", "markdown"), _SWITCH),
    **dict.fromkeys(("workers", "workers_per_gpu", "gpus_per_trial", "trials", "top", "epochs"), _whole(1)),
    "trial": _whole(0),
    **dict.fromkeys(("ensemble", "average", "seeds", "folds"), _whole(2)),
    "storage_timeout": _seconds(0.0),
    "lease_seconds": _seconds(1.0),
    "price_per_hour": _Kind("a number of at least 0", lambda value: _is_number(value) and value >= 0),
    "timeout": _Kind(
        'a number of seconds or a string such as "2h"', lambda value: _is_number(value) or _is_text(value)
    ),
    "metrics": _Kind(
        'a port or a string such as "localhost:9400"', lambda value: _is_text(value) or _whole(0).fits(value)
    ),
    "cluster": _Kind("a Cluster", lambda value: isinstance(value, Cluster)),
    "callbacks": _Kind(
        "a list of hpsearch.Callback objects", _is_list(lambda one: isinstance(one, Callback))
    ),
    "progress": _Kind("True or False", lambda value: isinstance(value, bool | Callback)),
}
