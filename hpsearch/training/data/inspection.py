"""A look at a folder of photographs before there is a study: which there are, how large, with which labels."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from hpsearch.errors import DataError
from hpsearch.files.paths import is_file, is_folder
from hpsearch.study import DataSpec
from hpsearch.training.data import labels
from hpsearch.training.data.cache import Cache
from hpsearch.training.data.catalogue import FREE, TEST, Request
from hpsearch.training.data.folder import SUFFIXES, Listing, list_names, list_pictures, part_of, with_slashes
from hpsearch.training.data.pictures import Header, read_headers
from hpsearch.training.data.series import PictureSeries, find_series

_LABELS = ("label", "class", "target", "category", "species", "dx", "diagnosis", "what", "y")
_SEVERAL = (
    "labels",
    "tags",
    "classes",
    "targets",
    "categories",
    "attributes",
    "genres",
    "findings",
    "finding labels",
)
_ANSWERS = re.compile(r"file,(class,probability,|labels,p_|value_1,).*error").fullmatch
"""Whether a table's columns are those that `hpsearch predict --output` writes."""
_SEPARATORS = ("|", ";", ",", " ")
_LEAST_JOINED = 0.02  # of the rows, below which a separator is an accident
_SHOWN = 3  # tables
_ODD = 0.1  # of the rows, above which a column is not meant to say yes or no
_MOST_LABELS = 0.5  # of the rows, above which a column is no label


@dataclass(frozen=True, slots=True)
class Labels:
    """A table of labels beside the pictures, or several, with the columns that name files, labels and parts.

    Attributes:
        label_column: several where each says yes or no to one label.
        strip, prefix: what the names begin with and the folder has not, and what they lack in front.
        separator: what stands between the labels of one picture.
        task: "" where the labels themselves say it.
        left_out: why columns are none of the labels that seem to be meant for some, as sentences.
    """

    file: str | tuple[str, ...]
    file_column: str
    label_column: str | tuple[str, ...]
    split_column: str | None = None
    strip: str | None = None
    prefix: str | None = None
    separator: str | None = None
    task: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether the column of labels is called so."""
        return isinstance(self.label_column, str) and self.label_column.lower() in (*_LABELS, *_SEVERAL)

    @property
    def files(self) -> tuple[str, ...]:
        """The tables' names."""
        return (self.file,) if isinstance(self.file, str) else self.file

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of labels."""
        return (self.label_column,) if isinstance(self.label_column, str) else self.label_column


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a folder holds.

    Attributes:
        pictures: that look like some; whether they can be decoded is not known yet.
        classes: pictures of each, or with each label.
        side: the median of their shorter sides in pixels.
        sizes: how many different ones.
        grey: whether none has colours.
        official: whether folders, or the table, give a test part.
        labels: None where the folders are the classes.
        series: which pictures seem to belong together; None if none do.
    """

    pictures: int
    classes: Counter[str]
    side: int
    sizes: int
    grey: bool
    official: bool
    labels: Labels | None
    series: PictureSeries | None


def inspect_folder(root: Path, cache: Cache) -> Inspection:
    """Looks at all pictures of a folder; decodes only some, where names look like series.

    Raises:
        DataError: there are none, or they are not in the form of a data set.
    """
    if is_file(root, "FOLDER"):
        raise DataError(f"FOLDER: {root} is a file; name the folder that it lies in")
    if not is_folder(root, "FOLDER"):
        raise DataError(f"FOLDER: {root.absolute()} does not exist; name the folder of the photographs")
    fitting, unfit = _find_labels(root)
    found, listing = _listed(root, cache, fitting, unfit)
    headers = read_headers(root, listing.names, None)
    readable = [header for header in headers if isinstance(header, Header)]
    if not readable:
        raise DataError(
            f"data.root: none of the {len(headers)} pictures under {root} can be read; {headers[0]}"
        )
    return Inspection(
        pictures=len(readable),
        classes=_count(found, listing.labels),
        side=int(median(min(header.size) for header in readable)),
        sizes=len({header.size for header in readable}),
        grey=all(header.grey for header in readable),
        official=TEST in listing.parts and FREE in listing.parts,
        labels=found,
        series=find_series(root, listing.names, _kinds(found, listing.labels)),
    )


def _count(found: Labels | None, values: Sequence[Any]) -> Counter[str]:
    if found is not None and found.separator is not None:
        return Counter(label for own in labels.divided(values, found.separator) for label in own)
    if found is not None and found.task:
        return Counter(
            name
            for row in values
            for name, value in zip(found.columns, row, strict=True)
            if labels.is_yes(value)
        )
    return Counter(str(label) for label in values)


def _kinds(found: Labels | None, values: Sequence[Any]) -> list[str]:
    """Returns the class of each picture; the same for all where one may have several labels, or numbers."""
    several = found is not None and (found.separator is not None or found.task == "multilabel")
    kinds = [str(label) for label in values]
    return [""] * len(kinds) if several or (found is not None and _are_numbers(kinds)) else kinds


def _listed(
    root: Path, cache: Cache, fitting: Sequence[Labels], unfit: Sequence[str]
) -> tuple[Labels | None, Listing]:
    """Returns the pictures by a table whose column is called as labels are, else by class folders, else by a table.

    Raises:
        DataError: there are neither, or several columns may be the labels.
    """

    def listed(found: Labels | None) -> Listing:
        table = {} if found is None else vars_of(found)
        return list_pictures(Request(DataSpec(dataset="folder", **table), root, (), cache, None))

    if fitting and fitting[0].is_known:
        return fitting[0], listed(fitting[0])
    try:
        folders = listed(None)
        if not fitting or len({*folders.labels}) > 1:
            return None, folders
    except DataError as error:
        if unfit and not fitting:
            raise DataError(f"{'; '.join(unfit[:_SHOWN])}. Without a table: {error}") from None
        if not fitting:
            raise
    if len(fitting) > 1:
        columns = ", ".join(f'"{one.columns[0]}" of {one.files[0]}' for one in fitting)
        raise DataError(
            f"data.label_column: any of the columns {columns} may be the labels; name the right one "
            f'"{_LABELS[0]}" in the first line of its table'
        )
    return fitting[0], listed(fitting[0])


def vars_of(found: Labels) -> dict[str, Any]:
    """Returns the fields of the data table that name a table of labels."""
    named = {
        "labels": found.file,
        "file_column": found.file_column,
        "label_column": found.label_column,
        "split_column": found.split_column,
        "strip": found.strip,
        "prefix": found.prefix,
        "label_separator": found.separator,
        "task": found.task or None,
    }
    return {field: value for field, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class _Table:
    """A table whose column `files` names pictures below the root, or several of equal columns."""

    paths: tuple[Path, ...]
    columns: labels.Table
    files: str
    strip: str
    prefix: str


def _find_labels(root: Path) -> tuple[list[Labels], list[str]]:
    """Returns what of the tables at the top of a folder that name pictures below it may say what each is.

    That is one column alone if it is called as labels are. Beside it, why other tables are none: they may be meant
    for something else, or damaged.
    """
    tables, unfit = _find_tables(root)
    fitting: list[Labels] = []
    for table in _joined(tables):
        others = {name: values for name, values in table.columns.items() if name != table.files}
        split = next((name for name, values in others.items() if _are_parts(values)), None)
        others.pop(split or "", None)
        names = tuple(path.name for path in table.paths)
        one = partial(
            Labels,
            names if len(names) > 1 else names[0],
            table.files,
            split_column=split,
            strip=table.strip or None,
            prefix=table.prefix or None,
        )
        found = _columns_of(others, one)
        if found and found[0].is_known:
            return found[:1], []
        fitting += found
        if not found:
            unfit.append(
                f'data.labels: beside "{table.files}" no column of {table.paths[0]} has labels that repeat'
            )
    return fitting, unfit


def _find_tables(root: Path) -> tuple[list[_Table], list[str]]:
    """Returns the tables that name pictures, and why others are none."""
    pictures = frozenset(list_names(root))
    tables: list[_Table] = []
    unfit: list[str] = []
    for path in sorted(root.glob("*.csv")):
        try:
            path.name.encode()
            columns = labels.read_table(path, (), "")
        except UnicodeEncodeError:
            unfit.append(f"data.labels: the name of {path} is not UTF-8; rename it")
            continue
        except DataError as error:
            unfit.append(str(error))
            continue
        if _ANSWERS(",".join(columns)):
            unfit.append(
                f"data.labels: {path} holds answers of `hpsearch predict`, not labels; to learn from them, leave only "
                "its columns of files and of classes"
            )
            continue
        places = {name: _place(root, values, pictures) for name, values in columns.items()}
        named = next(((name, place) for name, place in places.items() if place is not None), None)
        if named is None:
            unfit.append(f"data.labels: no column of {path} names pictures in {root}")
        else:
            tables.append(_Table((path,), columns, named[0], *named[1]))
    return tables, unfit


def _joined(tables: Sequence[_Table]) -> list[_Table]:
    """Returns tables of equal columns that name different pictures as one: train.csv and test.csv."""
    found: list[_Table] = []
    for one in tables:
        for place, other in enumerate(found):
            same = (one.files, one.strip, one.prefix, [*one.columns]) == (
                other.files,
                other.strip,
                other.prefix,
                [*other.columns],
            )
            if same and not {*one.columns[one.files]} & {*other.columns[other.files]}:
                columns = {name: [*values, *one.columns[name]] for name, values in other.columns.items()}
                found[place] = replace(other, paths=(*other.paths, *one.paths), columns=columns)
                break
        else:
            found.append(one)
    return found


def _columns_of(others: labels.Table, one: Callable[..., Labels]) -> list[Labels]:
    """Returns which columns may be the labels; one that is called so is the only one.

    Args:
        one: makes it of the column.
    """
    several = next((own for name in _SEVERAL for own in others if own.lower() == name), None)
    known = next((own for name in _LABELS for own in others if own.lower() == name), several)
    if known is not None and (separator := _separator(others[known], known == several)) is not None:
        return [one(known, separator=separator, task="multilabel")]
    if known is not None and (_are_labels(others[known]) or _are_numbers(others[known])):
        return [one(known)]
    yes_or_no = tuple(name for name, values in others.items() if labels.are_yes_or_no(values))
    if len(yes_or_no) > 1:
        alone = all(
            sum(map(labels.is_yes, row)) == 1
            for row in zip(*(others[name] for name in yes_or_no), strict=True)
        )
        task = "classification" if alone else "multilabel"
        return [one(yes_or_no, task=task, left_out=tuple(_nearly_yes_or_no(others)))]
    found = [one(name) for name, values in others.items() if _are_labels(values)]
    measured = [one(name) for name, values in others.items() if _are_numbers(values)]
    return found or (measured if len(others) == 1 else [])


def _nearly_yes_or_no(others: labels.Table) -> Iterator[str]:
    """Yields which columns say yes or no of nearly each picture, with the first value that says neither."""
    for name, values in others.items():
        says = [labels.are_yes_or_no(["0", "1", value]) for value in values]
        odd = [row for row, answers in enumerate(says) if not answers]
        rest = [value for value, answers in zip(values, says, strict=True) if answers]
        if odd and len(odd) <= _ODD * len(values) and labels.are_yes_or_no(rest):
            more = f" ({len(odd)} values are)" if len(odd) > 1 else ""
            yield (
                f'column {name} is left out: "{values[odd[0]]}" in row {odd[0] + 2} is neither 0 nor 1{more}; '
                "correct it if the column is a label"
            )


def _separator(values: Sequence[str], spaces: bool) -> str | None:
    """Returns what stands between several labels of a picture; None where each has one.

    Args:
        spaces: whether a space may be it: names of one label have spaces too.
    """
    for separator in _SEPARATORS:
        if separator == " " and not spaces:
            continue
        joined = sum(separator in value for value in values)
        pieces = {piece.strip() for value in values for piece in value.split(separator)}
        if joined >= max(1, _LEAST_JOINED * len(values)) and 2 <= len(pieces) < len({*values}):
            return separator
    return None


def _place(root: Path, values: Sequence[str], pictures: frozenset[str]) -> tuple[str, str] | None:
    """Returns what to remove and what to put in front of names so that they are pictures; None if nothing helps."""
    few = with_slashes(root, values[:20])
    stems = {} if all(map(_has_suffix, few)) else {os.path.splitext(name)[0]: name for name in pictures}
    if stems and len({*values}) < len(values):  # such as a class, and not a file without its suffix
        return None

    def fits(strip: str, prefix: str) -> bool:
        names = [f"{prefix}{value.removeprefix(strip)}" for value in few]
        return all(value.startswith(strip) for value in few) and all(
            (root / name).is_file() if _has_suffix(name) else name in stems for name in names
        )

    cuts = [0, *(place + 1 for place, letter in enumerate(few[0]) if letter == "/")]
    for cut in cuts:
        if fits(few[0][:cut], ""):
            return few[0][:cut], ""
    last = few[0].rpartition("/")[2]
    ending = last if _has_suffix(last) else os.path.basename(stems.get(_below(last, stems), last))
    for found in sorted(name for name in pictures if os.path.basename(name) == ending)[:_SHOWN]:
        folders = found.rpartition(os.sep)[0]
        for cut in cuts:
            inner = few[0][cut:].rpartition("/")[0]
            if f"{folders}/".endswith(f"/{inner}/" if inner else "/"):
                prefix = folders.removesuffix(inner).rstrip("/")
                if prefix and fits(few[0][:cut], f"{prefix}/"):
                    return few[0][:cut], f"{prefix}/"
    return None


def _has_suffix(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _below(last: str, stems: Mapping[str, str]) -> str:
    return next((stem for stem in stems if os.path.basename(stem) == last), last)


def _are_parts(values: Sequence[str]) -> bool:
    parts = {part_of(value) for value in values}
    return None not in parts and len(parts) > 1


def _are_labels(values: Sequence[str]) -> bool:
    return 2 <= len({*values}) <= _MOST_LABELS * len(values)


def _are_numbers(values: Sequence[str]) -> bool:
    """Whether a column holds numbers that are not all whole, which are measured rather than counted or named."""
    try:
        return not all(float(value).is_integer() for value in values)
    except ValueError:
        return False
