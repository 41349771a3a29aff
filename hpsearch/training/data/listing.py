"""Which pictures a folder holds, with the labels and parts that the folder or a table gives them."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from hpsearch.errors import DataError
from hpsearch.training.data import parts, tables
from hpsearch.training.data.catalogue import FREE, Request
from hpsearch.training.data.tables import Table

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif"),
        *(".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
    )
)


_DEEPEST = 64  # folders


@dataclass(frozen=True, slots=True)
class Listing:
    """The pictures of a folder: names relative to the root, their parts, and labels by name.

    Attributes:
        notes: what was left out, and other things that may surprise.
        table: of the labels file, its rows in the order of the names.
    """

    names: list[str]
    labels: list[str]
    parts: list[int]
    notes: tuple[str, ...]
    table: Table | None = None


def list_files(request: Request) -> list[Path]:
    """Returns all pictures and the table of labels.

    Raises:
        DataError: the folder is missing or has not the form of a data set.
    """
    found = [request.root / name for name in list_pictures(request).names]
    return found + ([request.root / request.spec.labels] if request.spec.labels else [])


def list_pictures(request: Request) -> Listing:
    """Finds the labels and parts of all pictures.

    Raises:
        DataError: the folder is missing or has not the form of a data set.
    """
    root, table = request.root, request.spec.labels
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(
            f"data.root: the folder {root.absolute()} {what}; name the folder of images by data.root or --data-root"
        )
    return _list_by_folder(root) if table is None else _list_by_table(request, tables.find_table(root, table))


def _list_by_folder(root: Path) -> Listing:
    pictures, others = _walk(root)
    if not pictures:
        raise DataError(
            f"data.root: no images under {root.absolute()} (looked for {' '.join(sorted(SUFFIXES))}); there should be "
            "one folder of images for each class"
        )
    _check_names(root, pictures)
    split = [PurePath(name).parts for name in pictures]
    official = parts.find_parts(root, split)
    depth = 1 if official else 0
    loose = [name for name, folders in zip(pictures, split, strict=True) if len(folders) < depth + 2]
    if loose:
        raise DataError(
            f"data.root: {root / loose[0]} lies in no class folder; put each image into a folder named by its "
            "class, or list files and labels in a CSV named by data.labels"
        )
    classes = [folders[depth] for folders in split]
    odd = [name for name in sorted(set(classes)) if not official and parts.part_of(name) is not None]
    notes = [f'the folder "{name}" is taken for a class, not for a part' for name in odd]
    found = [official.get(folders[0], FREE) for folders in split]
    return Listing(pictures, classes, found, (*notes, *_describe_others(others)))


def _list_by_table(request: Request, path: Path) -> Listing:
    spec, root = request.spec, request.root
    table = tables.read_table(path, spec.label_column, spec.file_column)
    names = tables.column(table, spec.file_column, path, "data.file_column")
    # Windows writes backslashes, which may stand in names elsewhere.
    names = [
        name.replace("\\", "/") if "\\" in name and not os.path.lexists(root / name) else name
        for name in names
    ]
    missing = [name for name in names if not os.path.lexists(root / name)]
    if missing:
        raise DataError(
            f"data.labels: {path} names {missing[0]}, which is not in {root} ({len(missing)} of {len(names)} "
            "files are missing); the names are relative to data.root"
        )
    values = tables.label_columns(table, spec.label_column, path)
    plain = [os.path.normpath(name) for name in names]
    tables.check_rows_differ(plain, names, values, path)
    known = {*plain, os.path.relpath(path, root)}
    pictures, others = ([name for name in some if name not in known] for some in _walk(root))
    notes = _describe_unlisted(pictures, path.name) + _describe_others(others)
    found = parts.parts_in_table([PurePath(name).parts for name in plain])
    return Listing(names, values, found, notes, table)


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """Returns the names of all pictures and of all other files, in order."""
    pictures: list[str] = []
    others: list[str] = []
    for name in _files(root, "", frozenset()):
        is_picture = os.path.splitext(name)[1].lower() in SUFFIXES
        (pictures if is_picture else others).append(name)
    return pictures, others


def _files(folder: Path, prefix: str, above: frozenset[str]) -> Iterator[str]:
    """Yields the names of files below a folder, through links too, but not round and round."""
    real = os.path.realpath(folder)
    if real in above:
        return
    if len(above) >= _DEEPEST:
        raise DataError(f"data.root: {folder} lies more than {_DEEPEST} folders deep; move the images up")
    try:
        with os.scandir(folder) as scanned:
            entries = [
                (entry.name, _is_folder(entry)) for entry in sorted(scanned, key=lambda entry: entry.name)
            ]
    except OSError as error:
        raise DataError(
            f"data.root: the folder {folder} cannot be read ({error.strerror}); mend its permissions, or move "
            "it away"
        ) from error
    for name, is_folder in entries:
        if name.startswith("."):
            continue
        if is_folder:
            yield from _files(folder / name, f"{prefix}{name}{os.sep}", above | {real})
        else:
            yield prefix + name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: a picture that cannot be read
        return False


def _check_names(root: Path, names: Sequence[str]) -> None:
    for name in names:
        if not name.isascii() and _shown(name) != name:
            raise DataError(f"data.root: the name {_shown(name)} in {root} is not UTF-8; rename it")


def _shown(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _describe_unlisted(names: Sequence[str], table: str) -> tuple[str, ...]:
    if not names:
        return ()
    are = "s are" if len(names) > 1 else " is"
    return (f"{len(names)} picture{are} not in {table} and left out, such as {_shown(names[0])}",)


def _describe_others(names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        return ()
    suffixes = Counter(os.path.splitext(_shown(name))[1].lower() or "none" for name in names)
    shown = ", ".join(f"{suffix} {count}" for suffix, count in suffixes.most_common(5))
    are = "s are no pictures" if len(names) > 1 else " is no picture"
    return (
        f"{len(names)} file{are} by suffix and left out ({shown}), such as {_shown(names[0])}; convert "
        "photographs to JPEG or PNG",
    )
