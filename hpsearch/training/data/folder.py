"""Photographs in folders named by their class, or listed in a table of labels.

    root/day/*.jpg   root/night/*.jpg                     split by the study
    root/train/day/*.jpg ... root/test/night/*.jpg        official parts (val may be missing)
    root/labels.csv with the columns file and label       `data.labels`

All pictures are decoded once, in parallel, at the size that the study asks for; other sizes are decoded from
the files when a trial asks for them.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from hpsearch.errors import DataError
from hpsearch.study.data import DataSpec
from hpsearch.text import counted, first_few
from hpsearch.training.data import labels, pixels
from hpsearch.training.data.catalogue import (
    FREE,
    HASH_BYTES,
    PARTS,
    TEST,
    VAL,
    Array,
    Catalogue,
    Request,
    Size,
    Source,
    find_extremes,
)
from hpsearch.training.data.decode import FULL, WHITE, Form, a_depth
from hpsearch.training.data.labels import Table
from hpsearch.training.data.pictures import (
    FileImages,
    Header,
    decode_new,
    hash_pixels,
    highest_value,
    read_headers,
)

NAMES = {
    "train": FREE,
    "training": FREE,
    "val": VAL,
    "valid": VAL,
    "validation": VAL,
    "test": TEST,
    "testing": TEST,
}
"""What folders of parts are called, in lower case."""

_REMEDY = (
    "keep either the folders train, val and test, with the class folders in each, or the class folders alone"
)


def part_of(folder: str) -> int | None:
    """Returns the part that a folder's name stands for; None if it stands for none."""
    return NAMES.get(folder.lower())


def find_parts(root: Path, names: Sequence[Sequence[str]]) -> Mapping[str, int]:
    """Returns the part of each folder of the root; nothing if they are classes.

    Args:
        names: of the pictures, relative to the root, in their parts.

    Raises:
        DataError: the folders are parts and classes at once, or parts without one for training.
    """
    folders = sorted({name[0] for name in names if len(name) > 1})
    found = {folder: part for folder in folders if (part := part_of(folder)) is not None}
    others = [folder for folder in folders if folder not in found]
    if not found or (others and _is_class(found, names)):
        _refuse_inner_parts(root, names)
        return {}
    if others:
        raise DataError(
            f"data.root: {root} holds {first_few(found)} beside {first_few(others)}, which cannot all be classes or "
            f"all be parts; {_REMEDY}"
        )
    if FREE not in found.values():
        raise DataError(
            f"data.root: {root} holds {first_few(found)} and no folder train; add it, or {_REMEDY}"
        )
    for part in (FREE, VAL, TEST):
        same = [folder for folder, one in found.items() if one == part]
        if len(same) > 1:
            raise DataError(
                f"data.root: {root} holds {' and '.join(same)}, which are one part; put their pictures together"
            )
    return found


def _is_class(found: Mapping[str, int], names: Sequence[Sequence[str]]) -> bool:
    """Whether the only folder that is called like a part is one of trains, beside trams: pictures lie in it."""
    return [folder.lower() for folder in found] == ["train"] and all(
        len(name) == 2 for name in names if name[0] in found
    )


def parts_in_table(names: Sequence[Sequence[str]]) -> list[int]:
    """Returns the part of each file of a table: that of its first folder if all are called like parts."""
    parts = [part_of(name[0]) if len(name) > 1 else None for name in names]
    known = [part for part in parts if part is not None]
    return known if len(known) == len(parts) and FREE in known else [FREE] * len(names)


def _refuse_inner_parts(root: Path, names: Sequence[Sequence[str]]) -> None:
    for name in names:
        if len(name) > 2 and (part := part_of(name[1])) is not None:
            outside = "train" if part == FREE else PARTS[part]
            raise DataError(
                f"data.root: {root}/{name[0]}/{name[1]} is a part within a class; parts come first, as in "
                f"{outside}/{name[0]}"
            )


SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif"),
        *(".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
    )
)


_DEEPEST = 64  # folders
_SHOWN = 3  # tables


@dataclass(frozen=True, slots=True)
class Listing:
    """The pictures of a folder: names relative to the root, their parts, and labels by name.

    Attributes:
        notes: what was left out, and other things that may surprise.
        table: of the labels file, its rows in the order of the names.
    """

    names: list[str]
    labels: list[Any]
    parts: list[int]
    notes: tuple[str, ...]
    table: Table | None = None


def list_files(request: Request) -> list[Path]:
    """Returns all pictures and the tables of labels.

    Raises:
        DataError: the folder is missing or has not the form of a data set.
    """
    found = [request.root / name for name in list_pictures(request).names]
    return found + [request.root / file for file in request.spec.label_files]


def list_pictures(request: Request) -> Listing:
    """Finds the labels and parts of all pictures.

    Raises:
        DataError: the folder is missing or has not the form of a data set.
    """
    root = request.root
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(
            f"data.root: the folder {root.absolute()} {what}; name the folder of images by data.root or --data-root"
        )
    if not request.spec.label_files:
        return _list_by_folder(root)
    return _list_by_table(request, [labels.find_table(root, file) for file in request.spec.label_files])


def _list_by_folder(root: Path) -> Listing:
    pictures, others = _walk(root)
    if not pictures:
        raise DataError(
            f"data.root: no images under {root.absolute()} (looked for {' '.join(sorted(SUFFIXES))}); there should be "
            "one folder of images for each class"
        )
    _check_names(root, pictures)
    split = [PurePath(name).parts for name in pictures]
    official = find_parts(root, split)
    depth = 1 if official else 0
    loose = [name for name, folders in zip(pictures, split, strict=True) if len(folders) < depth + 2]
    if loose:
        raise DataError(
            f"data.root: {root / loose[0]} lies in no class folder; put each image into a folder named by its "
            "class, or list files and labels in a CSV named by data.labels"
        )
    classes = [folders[depth] for folders in split]
    odd = [name for name in sorted(set(classes)) if not official and part_of(name) is not None]
    notes = [f'the folder "{name}" is taken for a class, not for a part' for name in odd]
    found = [official.get(folders[0], FREE) for folders in split]
    return Listing(pictures, classes, found, (*notes, *_describe_others(others)))


def _list_by_table(request: Request, paths: Sequence[Path]) -> Listing:
    spec, root = request.spec, request.root
    walked = _walk(root)
    given = _parts_of_files(paths, spec)
    rows = [_read_rows(request, path, part, walked[0]) for path, part in zip(paths, given, strict=True)]
    first, names = rows[0], [name for one in rows for name in one.names]
    values = [value for one in rows for value in one.values]
    plain = [_below(root, name) for name in names]
    where = [f"{one.path}, row {row}" for one in rows for row in range(2, len(one.names) + 2)]
    labels.check_rows_differ(plain, names, values, first.path, where if len(rows) > 1 else None)
    known = {*plain, *(os.path.relpath(path, root) for path in paths)}
    pictures, others = ([name for name in some if name not in known] for some in walked)
    said = dict.fromkeys(note for one in rows for note in one.notes)
    notes = (*said, *_describe_unlisted(pictures, _together(paths)), *_describe_others(others))
    if any(one.parts is None for one in rows):
        found = parts_in_table([PurePath(name).parts for name in plain])
    else:
        found = [part for one in rows for part in one.parts or ()]
    shared = [name for name in first.table if all(name in one.table for one in rows)]
    table = {name: [value for one in rows for value in one.table[name]] for name in shared}
    return Listing(names, values, found, notes, table)


def _below(root: Path, name: str) -> str:
    """Returns a name relative to the root, where a table may have the whole path, or a roundabout one."""
    return os.path.relpath(name, root) if os.path.isabs(name) else os.path.normpath(name)


def _together(paths: Sequence[Path]) -> str:
    return " or ".join(path.name for path in paths[:_SHOWN]) + (" ..." if len(paths) > _SHOWN else "")


@dataclass(frozen=True, slots=True)
class _Rows:
    """What a table says of its pictures; `parts` is None where it says nothing of them."""

    path: Path
    names: list[str]
    values: list[Any]
    parts: list[int] | None
    table: Table
    notes: tuple[str, ...]


def _read_rows(request: Request, path: Path, part: int | None, pictures: Sequence[str]) -> _Rows:
    """Reads one of the tables.

    Args:
        part: that its name says; None for none.
        pictures: that lie below the root.
    """
    spec, root = request.spec, request.root
    table = labels.read_table(path, spec.label_columns, spec.file_column)
    written = with_slashes(root, labels.column(table, spec.file_column, path, "data.file_column"))
    names = [f"{spec.prefix or ''}{name}" for name in _stripped(written, spec.strip, path)]
    names, notes = _completed(root, names, pictures, path)
    missing = [place for place, name in enumerate(names) if not os.path.lexists(root / name)]
    if missing:
        raise DataError(
            f"data.labels: {path} names {written[missing[0]]}, which is not in {root} ({len(missing)} of {len(names)} "
            "files are missing); the names are relative to data.root, and data.strip says what to leave off in front, "
            f"data.prefix what to put there{_hint(written[missing[0]], pictures)}"
        )
    values = labels.label_columns(
        table, spec.label_columns, path, may_be_empty=spec.label_separator is not None
    )
    parts = None if part is None else [part] * len(names)
    if spec.split_column is not None:
        given = labels.column(table, spec.split_column, path, "data.split_column")
        parts = _parts_in_column(given, path, spec)
    group = spec.split.group_by
    if group is not None and group.startswith("column:"):  # here, where its own rows can be named
        labels.column(table, group.removeprefix("column:"), path, "data.split.group_by")
    return _Rows(path, names, values, parts, table, notes)


def _completed(
    root: Path, names: list[str], pictures: Sequence[str], path: Path
) -> tuple[list[str], tuple[str, ...]]:
    """Returns names with the suffix of the only picture that is called so, and what is said of it."""
    if all(os.path.lexists(root / name) for name in names):
        return names, ()
    counts = Counter(os.path.splitext(name)[0] for name in pictures)
    by_stem = {os.path.splitext(name)[0]: name for name in pictures}
    found = [
        by_stem[plain]
        if counts[plain := os.path.normpath(name)] == 1 and not (root / name).is_file()
        else name
        for name in names
    ]
    added = sorted({os.path.splitext(new)[1] for new, old in zip(found, names, strict=True) if new != old})
    return found, (f"names in {path.name} lack their suffix ({', '.join(added)})",) if added else ()


def _hint(name: str, pictures: Sequence[str]) -> str:
    """Returns what would lead to a picture that is called so, wherever it lies; "" if none or several are."""
    last = PurePath(name.replace("\\", "/")).parts
    same = [one for one in pictures if PurePath(one).name == last[-1]]
    if len(same) != 1:
        return ""
    here = PurePath(same[0]).parts
    common = next((n for n in range(min(len(here), len(last)), 0, -1) if here[-n:] == last[-n:]), 1)
    strip = name[: len(name) - len("/".join(last[-common:]))]
    prefix = "".join(f"{folder}/" for folder in here[:-common])
    fields = [f'{field} = "{text}"' for field, text in (("strip", strip), ("prefix", prefix)) if text]
    return f": {same[0]} is there, and {' and '.join(fields)} would find it" if fields else ""


def _parts_of_files(paths: Sequence[Path], spec: DataSpec) -> list[int | None]:
    """Returns the part that the name of each of several tables says; None for all where none says one.

    Raises:
        DataError: some say one and others do not, or none is for training; or a column says it too.
    """
    found = [_part_in_name(path.stem) for path in paths]
    if len(paths) == 1 or all(part is None for part in found):
        return [None] * len(paths)
    if None in found:
        named, other = paths[[part is not None for part in found].index(True)], paths[found.index(None)]
        raise DataError(
            f"data.labels: the name {named.name} says a part and {other.name} none; name all of them after train, "
            "val or test, or none"
        )
    if FREE not in found:
        raise DataError(
            f"data.labels: none of {', '.join(path.name for path in paths)} is called train; add it"
        )
    if spec.split_column is not None:
        raise DataError(
            f'data.split_column is "{spec.split_column}", and the names of the tables ({_together(paths)}) say the '
            "parts; remove split_column"
        )
    return found


def _part_in_name(stem: str) -> int | None:
    """Returns the part that a word of a file's name stands for, as in train_labels or fold1-test."""
    parts = {part for word in re.split(r"[^A-Za-z]+", stem) if (part := part_of(word)) is not None}
    return parts.pop() if len(parts) == 1 else None


def with_slashes(root: Path, names: Sequence[str]) -> list[str]:
    """Returns names in whose place Windows wrote backslashes, which may stand in names elsewhere."""
    return [
        name.replace("\\", "/") if "\\" in name and not os.path.lexists(root / name) else name
        for name in names
    ]


def _stripped(names: Sequence[str], prefix: str | None, path: Path) -> list[str]:
    """Returns the names of a table without what `data.strip` says.

    Raises:
        DataError: none begins with it.
    """
    if prefix is None:
        return list(names)
    given, slashed = prefix, prefix.replace("\\", "/")
    prefix = next((one for one in (given, slashed) if any(name.startswith(one) for name in names)), None)
    if prefix is None:
        raise DataError(
            f'data.strip: no name in {path} begins with "{given}"; the first is {names[0]}; correct it or remove it'
        )
    return [name.removeprefix(prefix).lstrip("/\\") if name.startswith(prefix) else name for name in names]


def _parts_in_column(values: Sequence[str], path: Path, spec: DataSpec) -> list[int]:
    """Returns the part that a table gives each of its files.

    Raises:
        DataError: another word than those for parts, or none for training.
    """
    parts = [part_of(value) for value in values]
    for row, (value, part) in enumerate(zip(values, parts, strict=True), 2):
        if part is None:
            raise DataError(
                f'data.split_column: {path}, row {row} says "{value}" in {spec.split_column}; known are '
                f"{', '.join(NAMES)}"
            )
    found = [part for part in parts if part is not None]
    if FREE not in found:
        raise DataError(f"data.split_column: {path} says train of no file in {spec.split_column}; add some")
    return found


def list_names(root: Path) -> list[str]:
    """Returns the names of all pictures below a folder, relative to it."""
    return _walk(root)[0]


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
            f"data.root: the folder {folder} cannot be read ({error.strerror}); fix its permissions, or move "
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
    are = "s are not pictures" if len(names) > 1 else " is not a picture"
    return (
        f"{len(names)} file{are} by suffix, left out ({shown}), such as {_shown(names[0])}; convert "
        "photographs to JPEG or PNG",
    )


def read_folder(request: Request) -> Catalogue:
    """Reads all pictures, and decodes at the study's size those that the cache does not hold yet."""
    listing, root = list_pictures(request), request.root
    headers = read_headers(root, listing.names, request.progress)
    failures = {
        name: header for name, header in zip(listing.names, headers, strict=True) if isinstance(header, str)
    }
    known = {row: header for row, header in enumerate(headers) if not isinstance(header, str)}
    _check_failures(request, failures, everything=not known)
    names = [listing.names[row] for row in known]
    hashes = np.frombuffer(b"".join(one.content for one in known.values()), np.uint8).reshape(-1, HASH_BYTES)
    size = request.size or _common_size(names, list(known.values()))
    channels = 1 if all(header.grey for header in known.values()) else 3
    kept, _ = pixels.check_channels(channels, request.spec.channels)
    depths = {name: header.depth for name, header in zip(names, known.values(), strict=True)}
    form = _choose_form(request, depths)
    broken = decode_new(request.cache, root, names, hashes, size, (channels, kept), request.progress, form)
    _check_failures(request, failures | broken, everything=len(broken) == len(known))
    whole = np.array([place for place, name in enumerate(names) if name not in broken], np.int64)
    images = FileImages(
        request.cache,
        str(root.resolve()),
        names,
        hashes,
        channels,
        size,
        form.resize,
        form.dtype,
        form.range,
        ",".join(sorted(set(depths.values()))),
    ).take(whole)
    rows = np.array(list(known), np.int64)[whole]
    targets, classes = _to_targets(request, listing, rows)
    where = _where(request)
    groups = labels.to_groups(request.spec.split.group_by, listing.names, listing.table, where)
    deep = images.chunks(size, kept) if form.dtype != "uint8" else ()  # as they have just been decoded
    extremes = [find_extremes(chunk) for chunk in deep]
    return Catalogue(
        images,
        targets,
        classes,
        np.array(listing.parts, np.int8)[rows],
        hashes[whole],
        None if groups is None else groups[rows],
        tuple(listing.names[row] for row in rows),
        (
            _describe_sizes(list(known.values())),
            *_describe_depths(depths, form),
            *_describe_failures(failures | broken),
        ),
        pixels=hash_pixels(images, kept, root, [names[place] for place in whole.tolist()], hashes[whole]),
        extremes=np.concatenate(extremes) if extremes else None,
    )


FOLDER = Source(
    files=list_files,
    read=read_folder,
    heeds=frozenset(
        (
            "labels",
            "file_column",
            "label_column",
            "split_column",
            "label_separator",
            "strip",
            "prefix",
            "split.group_by",
        )
    ),
    remarks=lambda request: list_pictures(request).notes,
)


def _where(request: Request) -> str:
    """Returns what to call the tables of labels."""
    return " and ".join(str(request.root / file) for file in request.spec.label_files)


def _to_targets(request: Request, listing: Listing, rows: Array) -> tuple[Array, tuple[str, ...]]:
    chosen = [listing.labels[row] for row in rows]
    if request.spec.labels:
        return labels.to_targets(
            chosen
            if request.spec.label_separator is None
            else labels.divided(chosen, request.spec.label_separator),
            request.spec.wanted_task,
            f"data.labels: {_where(request)}",
            request.spec.label_columns if len(request.spec.label_columns) > 1 else (),
            samples=[listing.names[row] for row in rows],
        )
    classes, targets = np.unique(np.array(chosen), return_inverse=True)
    if len(classes) < 2:
        raise DataError(
            f'data.root: {request.root} holds only the class "{classes[0]}"; a classification needs at least '
            f"two folders{_inner(request.root, [listing.names[row] for row in rows])}"
        )
    if request.spec.task in ("regression", "multilabel"):
        what = "numbers" if request.spec.task == "regression" else "the labels of each image"
        raise DataError(
            f'data.task is "{request.spec.task}" and {request.root} has class folders; list {what} in a CSV named '
            "by data.labels"
        )
    return targets.astype(np.int64), tuple(map(str, classes))


def _inner(root: Path, names: Sequence[str]) -> str:
    """Returns the end of a sentence that names the folder in which several folders of pictures lie, if there is one."""
    folders = {os.path.dirname(name) for name in names}
    shared = os.path.commonpath(folders)
    return f"; if those in {shared} are the classes, name {root / shared}" if len(folders) > 1 else ""


def _check_failures(request: Request, failures: dict[str, str], everything: bool) -> None:
    """Refuses unreadable pictures unless the study skips them and some are left.

    Raises:
        DataError: names the first one, and why it cannot be read.
    """
    if not failures or (request.spec.skip_unreadable and not everything):
        return
    name, reason = next(iter(failures.items()))
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    remedy = "" if request.spec.skip_unreadable else ", or set skip_unreadable = true in [data]"
    raise DataError(
        f"data.root: {request.root / name} cannot be read as an image{more}: {reason}; fix or remove "
        f"it{remedy}"
    )


def _common_size(names: Sequence[str], headers: Sequence[Header]) -> Size:
    sizes: dict[Size, str] = {}
    for name, header in zip(names, headers, strict=True):
        sizes.setdefault(header.size, name)
    if len(sizes) > 1:
        (one, first), (two, second) = list(sizes.items())[:2]
        raise DataError(
            f"data.image_size is missing and the images differ in size ({first} is {one[1]} x {one[0]}, "
            f"{second} {two[1]} x {two[0]}, {len(sizes)} sizes in all); set one, such as image_size = 64"
        )
    return next(iter(sizes))


def _choose_form(request: Request, depths: Mapping[str, str]) -> Form:
    """Returns what pictures of these number types, by name, are decoded to.

    Raises:
        DataError: deep pictures that have no scale in common with the others, or with each other.
    """
    resize, known = request.spec.resize, request.spec.range
    names = {
        kind: [name for name, one in depths.items() if one == kind] for kind in sorted(set(depths.values()))
    }
    if list(names) == ["uint8"]:
        return Form(resize)
    if "uint8" in names:
        for kind in (kind for kind in names if kind != "uint8" and known is None):
            _check_white(request, kind, names[kind], names["uint8"][0])
        return Form(resize, range=known)
    if "float32" in names and len(names) > 1 and known is None:
        other = next(kind for kind in names if kind != "float32")
        raise _no_common_scale(names["float32"][0], "float32", "", names[other][0], other)
    return Form(resize, "float32")


def _check_white(request: Request, kind: str, names: Sequence[str], other: str) -> None:
    """Refuses deep pictures among those of 8 bits of which it is not known what is white.

    Raises:
        DataError: names one, and what it would take.
    """
    highest = highest_value(request.root, names, FULL) if kind in WHITE else 0.0
    if kind not in WHITE or (kind == "uint16" and highest < FULL) or (kind == "float32" and highest > 1):
        reached = f" (the highest value of such pictures is {highest:g})" if kind in WHITE else ""
        raise _no_common_scale(names[0], kind, reached, other, "uint8")


def _no_common_scale(one: str, kind: str, reached: str, other: str, others: str) -> DataError:
    return DataError(
        f"data.root: {one} is {a_depth(kind)} picture{reached} and {other} {a_depth(others)} one, and nothing says "
        "what they have in common; give the values that are black and white in the deep ones by data.range, such as "
        "range = [0, 4095], or save all in one way"
    )


def _describe_depths(depths: Mapping[str, str], form: Form) -> tuple[str, ...]:
    """Says how deep pictures and those of 8 bits were brought together."""
    counts = Counter(depths.values())
    deep = len(depths) - counts.pop("uint8", 0)
    if form.dtype != "uint8" or not deep:
        return ()
    low = form.range[0] if form.range else 0
    has, is_ = ("has", "is") if deep == 1 else ("have", "are")
    highs = [form.range[1]] if form.range else [WHITE[kind] for kind in sorted(counts)]
    return (
        f"{deep} of {len(depths)} pictures {has} more than 8 bits and {is_} kept with 8, as the others are: "
        f"{low:g} becomes black and {' or '.join(f'{high:g}' for high in highs)} white",
    )


def _describe_sizes(headers: Sequence[Header]) -> str:
    heights, widths = zip(*(header.size for header in headers), strict=True)
    grey = sum(1 for header in headers if header.grey)
    if len({header.size for header in headers}) == 1:
        sizes = f"all {widths[0]} x {heights[0]} pixels"
    else:
        sizes = f"{_span(widths)} pixels wide and {_span(heights)} high"
    return f"images are {sizes}, {grey} of {len(headers)} grey"


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"


def _describe_failures(failures: dict[str, str]) -> tuple[str, ...]:
    if not failures:
        return ()
    return (f"{counted(len(failures), 'unreadable file')} skipped: {first_few(failures)}",)
