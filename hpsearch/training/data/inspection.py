"""A look at a folder of photographs before there is a study: which there are, how large, with which labels."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from hpsearch.errors import DataError
from hpsearch.files.look import is_folder
from hpsearch.study import DataSpec
from hpsearch.training.data import labels
from hpsearch.training.data.cache import Cache
from hpsearch.training.data.catalogue import FREE, TEST, Request
from hpsearch.training.data.folder import SUFFIXES, Listing, list_pictures, part_of, with_slashes
from hpsearch.training.data.pictures import Header, read_headers

_LABELS = ("label", "class", "target", "category", "species", "dx", "diagnosis", "what", "y")
_SHOWN = 3  # tables
_MOST_LABELS = 0.5  # of the rows, above which a column is no label
_SERIES = re.compile(r"^(.*?[A-Za-z]?\d+)[-_ ]+[A-Za-z]*\d+\.\w+$")


@dataclass(frozen=True, slots=True)
class Labels:
    """A table of labels beside the pictures, with the columns that name files, labels and parts.

    Attributes:
        strip: what the names begin with and the folder has not.
    """

    file: str
    file_column: str
    label_column: str
    split_column: str | None = None
    strip: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether the column of labels is called so."""
        return self.label_column.lower() in _LABELS


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a folder holds.

    Attributes:
        pictures: that look like some; whether they can be decoded is not known yet.
        classes: pictures of each.
        side: the median of their shorter sides in pixels.
        sizes: how many different ones.
        grey: whether none has colours.
        official: whether folders, or the table, give a test part.
        labels: None where the folders are the classes.
        series: an expression whose first group several files share, if they look like series; "" if not.
    """

    pictures: int
    classes: Counter[str]
    side: int
    sizes: int
    grey: bool
    official: bool
    labels: Labels | None
    series: str


def inspect_folder(root: Path, cache: Cache) -> Inspection:
    """Looks at all pictures of a folder; decodes none.

    Raises:
        DataError: there are none, or they are not in the form of a data set.
    """
    fitting, unfit = _find_labels(root) if is_folder(root, "FOLDER") else ([], [])
    found, listing = _listed(root, cache, fitting, unfit)
    headers = read_headers(root, listing.names, None)
    readable = [header for header in headers if isinstance(header, Header)]
    if not readable:
        raise DataError(
            f"data.root: none of the {len(headers)} pictures under {root} can be read; {headers[0]}"
        )
    return Inspection(
        pictures=len(readable),
        classes=Counter(str(label) for label in listing.labels),
        side=int(median(min(header.size) for header in readable)),
        sizes=len({header.size for header in readable}),
        grey=all(header.grey for header in readable),
        official=TEST in listing.parts and FREE in listing.parts,
        labels=found,
        series=_find_series(listing.names),
    )


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
        columns = ", ".join(f'"{one.label_column}" of {one.file}' for one in fitting)
        raise DataError(
            f"data.label_column: any of the columns {columns} may be the labels; call the one that is meant "
            f'"{_LABELS[0]}" in the first line of its table'
        )
    return fitting[0], listed(fitting[0])


def vars_of(found: Labels) -> dict[str, str]:
    """Returns the fields of the data table that name a table of labels."""
    named = {
        "labels": found.file,
        "file_column": found.file_column,
        "label_column": found.label_column,
        "split_column": found.split_column,
        "strip": found.strip,
    }
    return {field: value for field, value in named.items() if value is not None}


def _find_labels(root: Path) -> tuple[list[Labels], list[str]]:
    """Returns what of the tables at the top of a folder that name pictures below it may say what each is.

    That is one column alone if it is called as labels are. Beside it, why other tables are none: they may be meant
    for something else, or damaged.
    """
    fitting: list[Labels] = []
    unfit: list[str] = []
    for path in sorted(root.glob("*.csv")):
        try:
            path.name.encode()
            table = labels.read_table(path, "", "")
        except UnicodeEncodeError:
            unfit.append(f"data.labels: the name of {path} is not UTF-8; rename it")
            continue
        except DataError as error:
            unfit.append(str(error))
            continue
        prefixes = {name: _prefix(root, values) for name, values in table.items()}
        files = next((name for name, prefix in prefixes.items() if prefix is not None), None)
        if files is None:
            unfit.append(f"data.labels: no column of {path} names pictures in {root}")
            continue
        others = {name: values for name, values in table.items() if name != files}
        split = next((name for name, values in others.items() if _are_parts(values)), None)
        others = {name: values for name, values in others.items() if name != split and _are_labels(values)}
        known = [own for name in _LABELS for own in others if own.lower() == name]
        one = partial(Labels, path.name, files, split_column=split, strip=prefixes[files] or None)
        if known:
            return [one(known[0])], []
        fitting += map(one, others)
        if others:
            continue
        unfit.append(f'data.labels: beside "{files}" no column of {path} has labels that repeat')
    return fitting, unfit


def _prefix(root: Path, values: Sequence[str]) -> str | None:
    """Returns what to remove in front of names so that they are pictures below the root; None if nothing helps."""
    few = with_slashes(root, values[:20])
    if not all(Path(value).suffix.lower() in SUFFIXES for value in few):
        return None
    cuts = [0, *(place + 1 for place, letter in enumerate(few[0]) if letter == "/")]
    for cut in cuts:
        prefix = few[0][:cut]
        if all(value.startswith(prefix) and (root / value[cut:]).is_file() for value in few):
            return prefix
    return None


def _are_parts(values: Sequence[str]) -> bool:
    parts = {part_of(value) for value in values}
    return None not in parts and len(parts) > 1


def _are_labels(values: Sequence[str]) -> bool:
    return 2 <= len({*values}) <= _MOST_LABELS * len(values)


def _find_series(names: Sequence[str]) -> str:
    """Returns an expression for the part of a name that pictures of one series share, such as e03 of e03-0012.jpg."""
    matches = [_SERIES.match(Path(name).name) for name in names]
    groups = Counter(match[1] for match in matches if match)
    whole = sum(groups.values()) == len(names)  # a study refuses a name that gives no group
    return _SERIES.pattern if whole and 5 <= len(groups) <= len(names) / 3 else ""
