"""From labels as people write them (names, numbers, columns of tables) to targets.

Legend: N samples, T regression targets.
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpsearch.errors import DataError, nearest
from hpsearch.training.data.catalogue import Array

Table = dict[str, list[str]]
"""Columns by name."""


def to_targets(
    labels: Any, task: str, where: str, names: Sequence[str] = ()
) -> tuple[Array, tuple[str, ...]]:
    """Returns targets and class names: int64 of shape [N], or float32 of shape [N, T] and no names.

    Args:
        labels: N names or numbers, or N rows of numbers.
        task: "auto" takes numbers with a fraction, or rows of several, for regression.
        names: of the classes 0, 1, ..., if the source knows them.

    Raises:
        DataError: they are not the labels of this task.
    """
    array = _numbers(np.asarray(labels))
    numeric = np.issubdtype(array.dtype, np.number) or array.dtype == bool
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if numeric and not np.isfinite(array.astype(np.float64)).all():
        raise DataError(f"{where}: label {_first_bad(array)} is NaN or infinite; remove or complete it")
    whole = numeric and array.ndim == 1 and bool((array == np.floor(array)).all())
    if task == "regression" or (task == "auto" and numeric and not whole):
        if not numeric:
            raise DataError(
                f'{where}: "{array.flat[0]}" is no number, and data.task is "regression"; use numbers'
            )
        return array.astype(np.float32).reshape(len(array), -1), ()
    if array.ndim != 1 or (numeric and not whole):
        raise DataError(
            f"{where}: classes are one name or whole number each, got {array.flat[0]} of shape "
            f'{list(array.shape)}; set data.task = "regression" for such labels'
        )
    return _classes(array, where, names)


def _classes(array: Array, where: str, names: Sequence[str]) -> tuple[Array, tuple[str, ...]]:
    numeric = np.issubdtype(array.dtype, np.number) or array.dtype == bool
    if names and numeric and len(array) and array.min() >= 0 and array.max() < len(names):
        return array.astype(np.int64), tuple(names)
    values, targets = np.unique(array, return_inverse=True)
    if len(values) < 2:
        only = f'only the class "{values[0]}"' if len(values) else "no labels"
        raise DataError(f"{where} holds {only}; a classification needs at least two")
    classes = tuple(str(int(value)) if numeric else str(value) for value in values)
    return targets.astype(np.int64), classes


def _numbers(array: Array) -> Array:
    """Returns texts that are all numbers as numbers, everything else as it is."""
    if array.dtype.kind not in "OSU":
        return array
    try:
        return array.astype(np.float64)
    except (ValueError, TypeError):
        return array.astype(str)


def _first_bad(array: Array) -> int:
    return int(np.flatnonzero(~np.isfinite(array.astype(np.float64).reshape(len(array), -1)).all(1))[0]) + 1


def find_table(folder: Path, name: str) -> Path:
    """Returns the path of a table of labels.

    Raises:
        DataError: there is no such file.
    """
    path = folder / name
    if not path.is_file():
        raise DataError(f"data.labels: there is no file {path}; the name is relative to data.root")
    return path


def read_table(path: Path) -> Table:
    """Reads a CSV file, or the first loop of a STAR file with these columns, as text.

    Raises:
        DataError: it is missing or no such table.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.labels: {path} cannot be read ({error}); it should be a CSV file") from error
    rows = _star_rows(text, path) if path.suffix.lower() == ".star" else _csv_rows(text)
    if len(rows) < 2:
        raise DataError(f"data.labels: {path} holds no rows; its first line names the columns")
    header, *body = rows
    for number, row in enumerate(body, 2):
        if len(row) != len(header):
            raise DataError(
                f"data.labels: {path}, row {number} has {len(row)} fields and not {len(header)}; complete it"
            )
    return {name.strip(): [row[place].strip() for row in body] for place, name in enumerate(header)}


def _csv_rows(text: str) -> list[list[str]]:
    lines = text.splitlines()
    separator = max(",;\t", key=lines[0].count) if lines else ","
    return [row for row in csv.reader(lines, delimiter=separator) if row]


def _star_rows(text: str, path: Path) -> list[list[str]]:
    """Returns the header and the rows of the longest `loop_` of a STAR file (particles, not optics)."""
    tables: list[list[list[str]]] = []
    for block in re.split(r"^\s*loop_\s*$", text, flags=re.MULTILINE)[1:]:
        lines = [line.strip() for line in block.splitlines()]
        header = [line.split()[0].lstrip("_") for line in lines if line.startswith("_")]
        body = []
        for line in lines:
            if line.startswith("data_"):
                break
            if line and not line.startswith(("_", "#")):
                body.append(line.split())
        tables.append([header, *body])
    if not tables:
        raise DataError(f"data.labels: {path} holds no loop_; a STAR file of particles has one")
    return max(tables, key=len)


def column(table: Table, name: str, path: Path | str, field: str) -> list[str]:
    """Returns a column of a table; STAR's leading underscore may be left out.

    Raises:
        DataError: there is no such column.
    """
    known = {key.lstrip("_"): values for key, values in table.items()}
    if name.lstrip("_") not in known:
        raise DataError(f'{field}: {path} has no column "{name}"; {nearest(name, known)}')
    return known[name.lstrip("_")]


def label_columns(table: Table, names: str, path: Path | str) -> Any:
    """Returns the labels of a table; several columns, joined by commas, are several regression targets."""
    columns = [column(table, name.strip(), path, "data.label_column") for name in names.split(",")]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def to_groups(group_by: str | None, names: Sequence[str], table: Table | None, where: str) -> Array | None:
    """Returns the group of every sample as a number, int64 of shape [N]; None if there are no groups.

    Args:
        group_by: "column:<name>" of the table, or a regular expression on the names.
        table: rows in the order of the samples.

    Raises:
        DataError: the column, the names or a match is missing, or the expression is wrong.
    """
    if group_by is None:
        return None
    if group_by.startswith("column:"):
        if table is None:
            raise DataError(f'data.split.group_by is "{group_by}", but there is no table; set data.labels')
        values = column(table, group_by.removeprefix("column:"), where, "data.split.group_by")
    else:
        values = [_match(group_by, name) for name in names]
        if not values:
            raise DataError(
                f'data.split.group_by is "{group_by}", but {where} has no file names; use "column:<name>"'
            )
    found: Array = np.unique(np.array(values), return_inverse=True)[1].astype(np.int64)
    return found


def _match(pattern: str, name: str) -> str:
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise DataError(
            f'data.split.group_by: "{pattern}" is no regular expression ({error}); mend it, or use '
            '"column:<name>"'
        ) from error
    if match is None:
        raise DataError(f'data.split.group_by: "{pattern}" does not match {name}; make it match every file')
    return match[1] if match.groups() and match[1] is not None else match[0]
