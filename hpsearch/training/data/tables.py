"""Tables of labels beside the images: CSV files, and the loops of STAR files."""

import csv
import io
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from hpsearch.errors import DataError, nearest

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
    if not path.is_file():
        raise DataError(f"data.labels: there is no file {path.absolute()}; the name is relative to data.root")
    return path


def read_table(path: Path, labels: str, file: str) -> Table:
    """Reads a CSV file, or the loop of a STAR file that has the columns of labels, as text.

    Args:
        labels: columns of labels, joined by commas.
        file: column of files.

    Raises:
        DataError: it is missing or no such table.
    """
    text, star = _read_text(path), path.suffix.lower() == ".star"
    rows = _star_rows(text, path, labels.split(","), (file, _STAR_FILES)) if star else _csv_rows(text, path)
    if len(rows) < 2:
        raise DataError(f"data.labels: {path} holds no rows; its first line names the columns")
    header, *body = [[field.strip() for field in row] for row in rows]
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise DataError(f'data.labels: {path} has two columns called "{twice[0]}"; rename one')
    for number, row in enumerate(body, 2):
        if len(row) != len(header):
            raise DataError(
                f"data.labels: {path}, row {number} has {len(row)} fields and not {len(header)}; complete it"
            )
    return {name: [row[place] for row in body] for place, name in enumerate(header)}


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
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


def column(table: Table, name: str, path: Path | str, field: str) -> list[str]:
    """Returns a column of a table; STAR's leading underscore may be left out.

    Raises:
        DataError: there is no such column, or it has gaps.
    """
    key = _key(table, name)
    if key is None:
        raise DataError(f'{field}: {path} has no column "{name}"; {nearest(name, table)}')
    values = table[key]
    for row, value in enumerate(values, 2):
        if not value:
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


def label_columns(table: Table, names: str, path: Path | str) -> Any:
    """Returns the labels of a table; several columns, joined by commas, are several regression targets."""
    columns = [column(table, name.strip(), path, "data.label_column") for name in names.split(",")]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def check_rows_differ(
    keys: Sequence[Hashable], names: Sequence[str], labels: Sequence[Any], path: Path
) -> None:
    """Refuses a table that names an image twice: the labels might differ, and the copies be split apart.

    Args:
        keys: equal for the same image, however it is named.

    Raises:
        DataError: names the image and both rows.
    """
    first: dict[Hashable, int] = {}
    for row, key in enumerate(keys):
        known = first.setdefault(key, row)
        if known != row:
            raise DataError(
                f"data.labels: {path} names {names[row]} in rows {known + 2} and {row + 2} "
                f'("{_shown(labels[known])}" and "{_shown(labels[row])}"); keep one of them'
            )


def _shown(label: Any) -> str:
    return ", ".join(label) if isinstance(label, tuple) else str(label)
