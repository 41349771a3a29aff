"""Tables of labels beside the images: CSV files, and the loops of STAR files."""

import csv
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from hpsearch.errors import DataError, nearest

Table = dict[str, list[str]]
"""Columns by name."""

_STAR_FILES = "rlnImageName"


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
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"data.labels: {path} cannot be read ({error}); it should be a CSV file in UTF-8"
        ) from error
    star = path.suffix.lower() == ".star"
    rows = _star_rows(text, path, labels.split(","), (file, _STAR_FILES)) if star else _csv_rows(text)
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


def _csv_rows(text: str) -> list[list[str]]:
    lines = text.splitlines()
    separator = max(",;\t", key=lines[0].count) if lines else ","
    return [row for row in csv.reader(lines, delimiter=separator) if row]


def _star_rows(text: str, path: Path, columns: Sequence[str], files: Sequence[str]) -> list[list[str]]:
    """Returns the header and the rows of a `loop_` of a STAR file: the one of the particles, not of the optics.

    It has the columns of labels, and one that names images, which breaks ties.
    """
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
    wanted = {name.strip().lstrip("_") for name in columns}
    named = {name.lstrip("_") for name in files}
    return max(tables, key=lambda rows: (wanted <= set(rows[0]), bool(named & set(rows[0])), len(rows)))


def column(table: Table, name: str, path: Path | str, field: str) -> list[str]:
    """Returns a column of a table; STAR's leading underscore may be left out.

    Raises:
        DataError: there is no such column, or it has gaps.
    """
    known = {key.lstrip("_"): values for key, values in table.items()}
    if name.lstrip("_") not in known:
        raise DataError(f'{field}: {path} has no column "{name}"; {nearest(name, known)}')
    values = known[name.lstrip("_")]
    if "" in values:
        row = values.index("") + 2
        raise DataError(f'{field}: {path}, row {row} has no "{name}"; complete or remove the row')
    return values


def file_column(table: Table, name: str) -> list[str] | None:
    """Returns the column of files, or RELION's of images; None if the table has neither."""
    known = {key.lstrip("_"): key for key in table}
    found = next((known[key] for key in (name.lstrip("_"), _STAR_FILES) if key in known), None)
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
