"""From labels as people write them, names or numbers, to targets; and from columns or file names to groups.

Legend: N samples, T regression targets.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from hpsearch.errors import DataError, nearest
from hpsearch.files.paths import is_file, regular
from hpsearch.text import counted
from hpsearch.training.data.catalogue import Array, find_flawed

Table = dict[str, list[str]]
"""Columns by name."""

_STAR_FILES = "rlnImageName"
_LARGEST = 2**28  # bytes of a table
_LONGEST = 1_000  # characters of a name or label
_ENCODINGS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
"""What Excel begins its texts with, and what follows."""


def find_table(folder: Path, name: str) -> Path:
    """Returns the path of a table of labels.

    Raises:
        DataError: there is no such file.
    """
    path = folder / name
    if not is_file(path, "data.labels"):
        raise DataError(f"data.labels: there is no file {path.absolute()}; the name is relative to data.root")
    return path


def read_table(path: Path, labels: Sequence[str], file: str) -> Table:
    """Reads a CSV file, or the loop of a STAR file that has the columns of labels, as text.

    Args:
        labels: columns of labels.
        file: column of files.

    Raises:
        DataError: it is missing or no such table.
    """
    text, star = _read_text(path), path.suffix.lower() == ".star"
    rows = _star_rows(text, path, labels, (file, _STAR_FILES)) if star else _csv_rows(text, path)
    if len(rows) < 2:
        raise DataError(f"data.labels: {path} holds no rows; its first line names the columns")
    header, *body = [[field.strip() for field in row] for row in rows]
    lost = next((name for name, below in zip(header, body[0], strict=False) if _are_files(name, below)), None)
    if lost is not None:
        raise DataError(
            f"data.labels: the first line of {path} names a file, {lost}, and no columns; put a line such as "
            '"file,label" above it'
        )
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise DataError(f'data.labels: {path} has two columns called "{twice[0]}"; rename one')
    for number, row in enumerate(body, 2):
        if len(row) != len(header):
            remedy = (
                "complete it"
                if len(row) < len(header)
                else "put a field that contains commas in quotation marks"
            )
            raise DataError(
                f"data.labels: {path}, row {number} has {counted(len(row), 'field')} and not {len(header)}; {remedy}"
            )
    return {name: [row[place] for row in body] for place, name in enumerate(header)}


def _are_files(name: str, below: str) -> bool:
    """Says whether a column's name is a file's, as those below it: then the table has no line of names."""
    suffix = PurePath(name).suffix
    return suffix[1:].isalpha() and suffix == PurePath(below).suffix


def _read_text(path: Path) -> str:
    try:
        if regular(path).stat().st_size > _LARGEST:
            raise DataError(f"data.labels: {path} has more than {_LARGEST >> 20} MiB; is it the right file?")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"data.labels: {path} cannot be read ({error}); check its permissions") from error
    encoding = next((name for mark, name in _ENCODINGS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"data.labels: {path} is not UTF-8 in line {row} ({error.reason}); save it as CSV UTF-8"
        ) from error
    if "\0" in text:
        row = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(
            f"data.labels: {path} holds a NUL character in line {row}; save it as CSV UTF-8 again"
        )
    return text


def _csv_rows(text: str, path: Path) -> list[list[str]]:
    """Returns the header and the rows, which end where those of Python's `csv` end.

    Above the header may stand Excel's `sep=;`, empty lines and comments that begin with `#`.
    """
    declared = re.match(r"""["']?sep=(.)["']?[\r\n]+""", text, re.IGNORECASE)
    begin = re.compile(r"(?:[ \t]*(?:#[^\r\n]*)?[\r\n]+)*").match(text, declared.end() if declared else 0)
    above, text = (text.count("\n", 0, begin.end()), text[begin.end() :]) if begin else (0, text)
    first = re.sub(r'"[^"]*"', "", re.split(r"[\r\n]", text, maxsplit=1)[0])
    separator = declared[1] if declared else max(",;\t", key=first.count)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    try:
        return [row for row in reader if row]
    except csv.Error as error:
        raise DataError(
            f"data.labels: {path}, line {above + reader.line_num}: {error}; is there a stray quotation "
            "mark? Remove it, or write two in a field in quotation marks"
        ) from error


def _star_rows(text: str, path: Path, columns: Sequence[str], files: Sequence[str]) -> list[list[str]]:
    """Returns the header and the rows of a `loop_` of a STAR file: the one of the particles, not of the optics.

    It has the columns of labels, and one that names images, which breaks ties.
    """
    tables: list[list[list[str]]] = []
    for block in re.split(r"^\s*loop_\s*$", text, flags=re.MULTILINE)[1:]:
        lines = [line.strip() for line in re.split(r"\r\n|\r|\n", block)]
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
    wanted = {name.strip().lstrip("_") for name in columns}
    named = {name.lstrip("_") for name in files}
    return max(tables, key=lambda rows: (wanted <= set(rows[0]), bool(named & set(rows[0])), len(rows)))


def column(table: Table, name: str, path: Path | str, field: str, may_be_empty: bool = False) -> list[str]:
    """Returns a column of a table; STAR's leading underscore may be left out.

    Args:
        may_be_empty: whether some of its fields may.

    Raises:
        DataError: there is no such column, or it has gaps.
    """
    key = _key(table, name)
    if key is None:
        raise DataError(f'{field}: {path} has no column "{name}"; {nearest(name, table)}')
    values = table[key]
    for row, value in enumerate(values, 2):
        if not value and not may_be_empty:
            raise DataError(f'{field}: {path}, row {row} has no "{name}"; complete or remove the row')
        if len(value) > _LONGEST or "\n" in value or "\r" in value:
            raise DataError(
                f'{field}: {path}, row {row} has a "{name}" of {len(value)} characters over '
                f"{len(value.splitlines())} lines; is there a stray quotation mark? Remove it"
            )
    return values


def _key(table: Table, name: str) -> str | None:
    """Returns the column that a name means: without STAR's underscore, or in capitals if only one is called so."""
    wanted = name.lstrip("_")
    plain = {key: key.lstrip("_") for key in table}
    exact = [key for key, known in plain.items() if known == wanted]
    alike = [key for key, known in plain.items() if known.casefold() == wanted.casefold()]
    found = exact or alike
    return found[0] if len(found) == 1 or exact else None


def file_column(table: Table, name: str) -> list[str] | None:
    """Returns the column of files, or RELION's of images; None if the table has neither."""
    found = _key(table, name) or _key(table, _STAR_FILES)
    return None if found is None else table[found]


def label_columns(table: Table, names: Sequence[str], path: Path | str, may_be_empty: bool = False) -> Any:
    """Returns the labels of a table; several columns are several regression targets, or a label each."""
    columns = [column(table, name, path, "data.label_column", may_be_empty) for name in names]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


_YES, _NO = frozenset(("1", "1.0", "true", "yes")), frozenset(("0", "0.0", "false", "no"))
"""What says whether an image has a label, in lower case."""


def is_yes(value: str) -> bool:
    return value.lower() in _YES


def are_yes_or_no(values: Sequence[str]) -> bool:
    """Whether a column says of each image whether it has a label, and both occur."""
    found = {value.lower() for value in values}
    return found <= _YES | _NO and bool(found & _YES) and bool(found & _NO)


def check_rows_differ(
    keys: Sequence[Hashable],
    names: Sequence[str],
    labels: Sequence[Any],
    path: Path,
    rows: Sequence[str] | None = None,
) -> None:
    """Refuses a table that names an image twice: the labels might differ, and the copies be split apart.

    Args:
        keys: equal for the same image, however it is named.
        rows: what to call the rows, where they are those of several files.

    Raises:
        DataError: names the image and both rows.
    """
    first: dict[Hashable, int] = {}
    for row, key in enumerate(keys):
        known = first.setdefault(key, row)
        if known != row:
            found = f'("{shown(labels[known])}" and "{shown(labels[row])}"); keep one of them'
            if rows is None:
                raise DataError(
                    f"data.labels: {path} names {names[row]} in rows {known + 2} and {row + 2} {found}"
                )
            raise DataError(f"data.labels: {names[row]} is named in {rows[known]} and in {rows[row]} {found}")


def shown(value: Any) -> str:
    """Returns a label, or several, as text."""
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def counting(name: str) -> tuple[str | int, ...]:
    """Returns what names are sorted by so that 2 comes before 10."""
    pieces = re.split(r"(\d+)", name)
    return tuple(int(piece) if place % 2 else piece for place, piece in enumerate(pieces))


def to_targets(
    labels: Any, task: str, where: str, names: Sequence[str] = (), samples: Sequence[str] = ()
) -> tuple[Array, tuple[str, ...]]:
    """Returns targets and class names: int64 of shape [N], or float32 of shape [N, T] and no names.

    Of images with several labels each, they are float32 of shape [N, K], 1 for the labels that an image has.

    Args:
        labels: N names or numbers, or N rows of numbers; N sets of names for "multilabel".
        task: "auto" takes numbers with a fraction, or rows of several, for regression.
        names: of the classes 0, 1, ..., if the source knows them.
        samples: what the labels belong to, for messages.

    Raises:
        DataError: they are not the labels of this task.
    """
    if task == "multilabel":
        return _several(labels, where, names, samples)
    written = _as_array(labels, where)
    numbers = _numbers(written)
    if numbers is None and names and task == "classification" and written.ndim == 2:  # yes or no, in words
        numbers = _yes_or_no(written, where, names, samples)
    if numbers is None and task == "regression":
        raise DataError(
            f'{where}: "{written.flat[0]}" is not a number, and data.task is "regression"; use numbers'
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


def divided(values: Sequence[str], separator: str) -> list[frozenset[str]]:
    """Returns the labels of each image of a column that joins them."""
    return [frozenset(filter(None, map(str.strip, value.split(separator)))) for value in values]


def _several(
    labels: Any, where: str, names: Sequence[str], samples: Sequence[str]
) -> tuple[Array, tuple[str, ...]]:
    """Returns which image has which label, float32 of shape [N, K], and the labels' names.

    Raises:
        DataError: a value is neither yes nor no, or a label is of no image.
    """
    if len(labels) and isinstance(labels[0], frozenset):
        names = sorted(frozenset().union(*labels))
        place = {name: number for number, name in enumerate(names)}
        hot_NK = np.zeros((len(labels), len(names)), np.float32)
        for row, own in enumerate(labels):
            hot_NK[row, [place[name] for name in own]] = 1
    else:
        written = _as_array(labels, where)
        if written.ndim != 2:
            raise DataError(
                f'{where}: data.task is "multilabel" and each image has one value; name a column of 0 and 1 for each '
                "label by data.label_column, or what stands between the labels by data.label_separator"
            )
        names = names or tuple(map(str, range(written.shape[1])))
        hot_NK = _yes_or_no(written, where, names, samples).astype(np.float32)
    if len(names) < 2:
        raise DataError(
            f"{where} holds {'no labels' if not names else f'only the label {names[0]}'}; of one label, make two "
            "classes (yes and no)"
        )
    unused = np.flatnonzero(hot_NK.sum(0) == 0)
    if len(unused):
        raise DataError(f'{where}: no image has the label "{names[unused[0]]}"; remove its column')
    return hot_NK, tuple(names)


def _yes_or_no(written: Array, where: str, names: Sequence[str], samples: Sequence[str]) -> Array:
    """Returns 1 for yes and 0 for no, float64 of the same shape.

    Raises:
        DataError: a value is neither.
    """
    low = np.char.lower(written.astype(str))
    yes, no = np.isin(low, [*_YES]), np.isin(low, [*_NO])
    wrong = np.argwhere(~(yes | no))
    if len(wrong):
        row, place = wrong[0]
        sample = samples[row] if samples else f"image {row}"
        more = f" ({len(wrong)} values are)" if len(wrong) > 1 else ""
        raise DataError(
            f'{where}: the label "{names[place]}" of {sample} is "{written[row, place]}", neither 0 nor 1{more}; '
            "correct it, or leave the column or the images out"
        )
    return yes.astype(np.float64)


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
