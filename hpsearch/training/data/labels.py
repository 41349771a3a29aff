"""From labels as people write them, names or numbers, to targets; and from columns or file names to groups.

Legend: N samples, T regression targets.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from hpsearch.errors import DataError
from hpsearch.training.data.catalogue import Array, find_flawed
from hpsearch.training.data.tables import Table, column


def to_targets(
    labels: Any, task: str, where: str, names: Sequence[str] = (), samples: Sequence[str] = ()
) -> tuple[Array, tuple[str, ...]]:
    """Returns targets and class names: int64 of shape [N], or float32 of shape [N, T] and no names.

    Args:
        labels: N names or numbers, or N rows of numbers.
        task: "auto" takes numbers with a fraction, or rows of several, for regression.
        names: of the classes 0, 1, ..., if the source knows them.
        samples: what the labels belong to, for messages.

    Raises:
        DataError: they are not the labels of this task.
    """
    written = _as_array(labels, where)
    numbers = _numbers(written)
    if numbers is None and task == "regression":
        raise DataError(
            f'{where}: "{written.flat[0]}" is no number, and data.task is "regression"; use numbers'
        )
    if numbers is not None:
        _refuse_infinite(numbers, where, samples)
    if numbers is not None and task != "regression" and _is_one_hot(numbers):
        return _from_one_hot(numbers, task, where, names)
    whole = numbers is not None and numbers.ndim == 1 and bool((numbers == np.floor(numbers)).all())
    if numbers is not None and (task == "regression" or (task == "auto" and not whole)):
        return numbers.astype(np.float32).reshape(len(numbers), -1), ()
    if written.ndim != 1 or (numbers is not None and not whole):
        raise DataError(
            f"{where}: classes are one name or whole number each, got {written.flat[0]} of shape "
            f'{list(written.shape)}; set data.task = "regression" for such labels'
        )
    return _classes(written, numbers, where, names)


def _as_array(labels: Any, where: str) -> Array:
    """Returns labels as texts or as numbers of shape [N] or [N, T > 1].

    Raises:
        DataError: they are neither, or one is empty.
    """
    try:
        array = np.asarray(labels)
        written: Array = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: labels are not UTF-8 ({error}); save them as text") from error
    except ValueError as error:
        raise DataError(
            f"{where}: labels have different lengths ({error}); give each as many numbers"
        ) from error
    if written.dtype.kind == "O":
        written = _from_objects(written)
    if written.ndim == 2 and written.shape[1] == 1:
        written = written[:, 0]
    if written.ndim not in (1, 2) or written.dtype.kind not in "biufU":
        raise DataError(
            f"{where}: labels of shape {list(written.shape)} and type {written.dtype} are neither names nor "
            "numbers; give each image one name, or one row of numbers"
        )
    if written.dtype.kind == "U":
        gaps = np.argwhere(np.char.str_len(written) == 0)
        if len(gaps):
            raise DataError(f"{where}: label {gaps[0, 0] + 1} is empty; complete or remove it")
    return written


def _from_objects(array: Array) -> Array:
    try:
        return array.astype(np.float64)
    except (ValueError, TypeError):
        return array.astype(str)


def _numbers(written: Array) -> Array | None:
    """Returns labels as float64; None if there are names among them."""
    try:
        return written.astype(np.float64)
    except ValueError:
        return None


def _is_one_hot(numbers: Array) -> bool:
    return bool(
        numbers.ndim == 2 and len(numbers) and np.isin(numbers, (0, 1)).all() and (numbers.sum(1) == 1).all()
    )


def _from_one_hot(
    numbers: Array, task: str, where: str, names: Sequence[str]
) -> tuple[Array, tuple[str, ...]]:
    if task == "auto":
        raise DataError(
            f"{where}: the labels are rows of one 1 and {numbers.shape[1] - 1} 0, which looks one-hot; set "
            'data.task = "classification" if they stand for classes, or data.task = "regression" if not'
        )
    places = numbers.argmax(1)
    return _classes(places, places, where, names or tuple(map(str, range(numbers.shape[1]))))


def _classes(
    written: Array, numbers: Array | None, where: str, names: Sequence[str]
) -> tuple[Array, tuple[str, ...]]:
    if names and numbers is not None and len(numbers) and numbers.min() >= 0 and numbers.max() < len(names):
        return numbers.astype(np.int64), tuple(names)
    values, targets = np.unique(written, return_inverse=True)
    if len(values) < 2:
        only = f'only the class "{values[0]}"' if len(values) else "no labels"
        raise DataError(f"{where} holds {only}; a classification needs at least two")
    if numbers is None:
        return targets.astype(np.int64), tuple(map(str, values))
    if values.dtype.kind != "U":
        return targets.astype(np.int64), tuple(str(int(value)) for value in values)
    return _numbered(values, targets, where)


def _numbered(values: Array, targets: Array, where: str) -> tuple[Array, tuple[str, ...]]:
    """Brings classes that are written as numbers into the order of these, as they are written: 01, 02, 10."""
    numbers = values.astype(np.float64)
    order = np.argsort(numbers, kind="stable")
    same = np.flatnonzero(np.diff(numbers[order]) == 0)
    if len(same):
        one, other = values[order[same[0]]], values[order[same[0] + 1]]
        raise DataError(
            f'{where}: the classes "{one}" and "{other}" are the same number; write them in one way'
        )
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return places[targets], tuple(str(value) for value in values[order])


def _refuse_infinite(numbers: Array, where: str, samples: Sequence[str]) -> None:
    bad = np.flatnonzero(find_flawed(numbers))
    if len(bad):
        sample = samples[bad[0]] if samples else f"image {bad[0]}"
        more = f" ({len(bad)} labels are)" if len(bad) > 1 else ""
        raise DataError(
            f"{where}: the label of {sample} is NaN, infinite or too large for float32{more}; remove or complete it"
        )


def to_groups(group_by: str | None, names: Sequence[str], table: Table | None, where: str) -> Array | None:
    """Returns the group of every sample as a number, int64 of shape [N]; None if there are no groups.

    Args:
        group_by: "column:<name>" of the table, or a regular expression on the names.
        table: rows in the order of the samples.

    Raises:
        DataError: the column, the names or a match is missing.
    """
    if group_by is None:
        return None
    if group_by.startswith("column:"):
        if table is None:
            raise DataError(f'data.split.group_by is "{group_by}", but there is no table; set data.labels')
        values = column(table, group_by.removeprefix("column:"), where, "data.split.group_by")
    elif names:
        values = [_match(group_by, name) for name in names]
    else:
        raise DataError(
            f'data.split.group_by is "{group_by}", but {where} has no file names; use "column:<name>"'
        )
    _refuse_missing(group_by, values, where)
    found: Array = np.unique(np.array(values), return_inverse=True)[1].astype(np.int64)
    return found


def _refuse_missing(group_by: str, values: Sequence[str], where: str) -> None:
    """Refuses a column of numbers in which some are missing: they would all be one group."""
    try:
        flawed = find_flawed(np.array(values, np.float64))
    except ValueError:  # names
        return
    if flawed.any():
        row = int(np.flatnonzero(flawed)[0])
        raise DataError(
            f'data.split.group_by: "{group_by}" of {where} is {values[row]} in row {row}, counted from 0; give each '
            "image a group"
        )


def _match(pattern: str, name: str) -> str:
    match = re.search(pattern, name)
    if match is None:
        raise DataError(f'data.split.group_by: "{pattern}" does not match {name}; make it match every file')
    return match[1] if match.groups() and match[1] is not None else match[0]
