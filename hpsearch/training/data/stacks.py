"""Arrays that people save: .npz and .npy files, and .mrc stacks of particle images.

Arrays are found by name: `x` or `images` and `y` or `labels` (or a table named by `data.labels`), and
`x_train`, `y_train`, `x_val`, `x_test` and so on for official parts. A .npz file holds them all; .npy files
lie in a folder under these names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hpsearch.errors import DataError, nearest
from hpsearch.training.data import labels
from hpsearch.training.data.arrays import OPENERS, ArrayImages, npz_names, scan
from hpsearch.training.data.catalogue import FREE, TEST, VAL, Array, Catalogue, Request, Source

_PARTS = {"": FREE, "_train": FREE, "_val": VAL, "_test": TEST}
_IMAGES = ("x", "X", "images")
_LABELS = ("y", "Y", "labels")


def _find_files(request: Request, *suffixes: str) -> list[Path]:
    """Returns the root itself, or the files of a kind in it.

    Raises:
        DataError: there are none.
    """
    root = request.root
    found = sorted(path for path in root.iterdir() if path.suffix in suffixes) if root.is_dir() else [root]
    if not found or not found[0].is_file():
        raise DataError(
            f"data.root: there is no {' or '.join(suffixes)} file at {root.absolute()}; name it by data.root or "
            "--data-root"
        )
    return found


def _table_path(request: Request) -> Path | None:
    files = request.spec.label_files
    if not files:
        return None
    if len(files) > 1:
        raise DataError(
            f'data.labels lists {len(files)} files, and data.dataset is "{request.spec.dataset}", which takes one; put '
            "them together"
        )
    folder = request.root if request.root.is_dir() else request.root.parent
    return labels.find_table(folder, files[0])


def _with_table(request: Request, files: list[Path]) -> list[Path]:
    table = _table_path(request)
    return files + ([table] if table else [])


def _read_table(request: Request, path: Path) -> labels.Table:
    return labels.read_table(path, request.spec.label_columns, request.spec.file_column)


def _names(request: Request) -> tuple[str, ...]:
    """Returns what labels are called of which each has a column; nothing where one column names them."""
    columns = request.spec.label_columns
    return columns if len(columns) > 1 else ()


def _npz_files(request: Request) -> list[Path]:
    found = _find_files(request, ".npz")
    if len(found) > 1:
        raise DataError(
            f"data.root: {request.root} holds {len(found)} .npz files ({found[0].name}, {found[1].name}, "
            "...); name one of them"
        )
    return _with_table(request, found)


def _read_npz(request: Request) -> Catalogue:
    path = _npz_files(request)[0]
    names = npz_names(str(path))
    return _read_named(request, "npz", {name: (str(path), name) for name in names}, str(path))


_HEEDED = frozenset(("labels", "label_column", "split.group_by"))

NPZ = Source(files=_npz_files, read=_read_npz, heeds=_HEEDED)


def _npy_files(request: Request) -> list[Path]:
    root = request.root
    if root.is_file():
        return _with_table(request, [root])
    return _with_table(request, _find_files(request, ".npy"))


def _read_npy(request: Request) -> Catalogue:
    root = request.root
    if root.is_file():  # images alone, labels in a table
        return _read_named(request, "npy", {"x": (str(root), "")}, str(root))
    arrays = {path.stem: (str(path), "") for path in _find_files(request, ".npy")}
    return _read_named(request, "npy", arrays, str(root))


NPY = Source(files=_npy_files, read=_read_npy, heeds=_HEEDED)


def _read_named(
    request: Request, opener: str, arrays: Mapping[str, tuple[str, str]], where: str
) -> Catalogue:
    """Reads arrays by their names; each is a path and the name of the array in that file."""
    images, parts = _choose(arrays, _IMAGES)
    if not images:
        raise DataError(
            f"data.root: {where} holds {', '.join(sorted(arrays)) or 'nothing'} and no images; name them x (and the "
            "labels y), or x_train, y_train, x_test, y_test"
        )
    found, hashes, note, flawed, extremes = scan(opener, images, request)
    path = _table_path(request)
    table = _read_table(request, path) if path else None
    labelled = f"data.labels: {path}" if path else f"data.root: {where}"
    if table is not None:
        values = labels.label_columns(table, request.spec.label_columns, str(path))
    else:
        values, others = _read_labels(opener, arrays, where)
        if others != parts:
            raise DataError(
                f"data.root: {where} holds images and labels of different parts; give each x_* its y_*"
            )
    if len(values) != len(found):
        raise DataError(f"{labelled} holds {len(values)} labels for {len(found)} images; give each image one")
    targets, classes = labels.to_targets(
        values, request.spec.wanted_task, labelled, _names(request) if path else ()
    )
    columns = table or _columns(opener, arrays, request.spec.split.group_by, len(found), where)
    return Catalogue(
        found,
        targets,
        classes,
        np.repeat(np.array(parts, np.int8), found.counts),
        hashes,
        labels.to_groups(request.spec.split.group_by, (), columns, where),
        notes=(note,),
        flawed=flawed,
        extremes=extremes,
    )


def _choose(
    arrays: Mapping[str, tuple[str, str]], stems: tuple[str, ...]
) -> tuple[list[tuple[str, str]], list[int]]:
    chosen, parts = [], []
    for suffix, part in _PARTS.items():
        name = next((stem + suffix for stem in stems if stem + suffix in arrays), None)
        if name is not None:
            chosen.append(arrays[name])
            parts.append(part)
    return chosen, parts


def _read_labels(opener: str, arrays: Mapping[str, tuple[str, str]], where: str) -> tuple[Array, list[int]]:
    members, parts = _choose(arrays, _LABELS)
    if not members:
        raise DataError(
            f"data.root: {where} holds {', '.join(sorted(arrays))} and no labels; name them y (or y_train, y_test), or "
            "name a CSV by data.labels"
        )
    values = [OPENERS[opener](*member) for member in members]
    if not all(one.ndim for one in values):
        raise DataError(
            f"data.root: {where} holds one number where labels should be; save one for each image"
        )
    if len({one.shape[1:] for one in values}) > 1:
        shapes = " and ".join(str(list(one.shape)) for one in values)
        raise DataError(f"data.root: {where} holds labels of the shapes {shapes}; bring them into one form")
    return np.concatenate(values), parts


def _columns(
    opener: str, arrays: Mapping[str, tuple[str, str]], group_by: str | None, images: int, where: str
) -> labels.Table | None:
    """Returns the array, or those of official parts, that `group_by` names as a column.

    Raises:
        DataError: there is none, or it has not one value for each image.
    """
    if group_by is None or not group_by.startswith("column:"):
        return None
    name = group_by.removeprefix("column:")
    members, _ = _choose(arrays, (name,))
    if not members:
        raise DataError(f'data.split.group_by: {where} has no array "{name}"; {nearest(name, arrays)}')
    values = [str(value) for member in members for value in np.atleast_1d(OPENERS[opener](*member)).tolist()]
    if len(values) != images:
        raise DataError(
            f"data.split.group_by: {where} holds {images} images and {len(values)} values of {name}; give each "
            "image one"
        )
    return {name: values}


def _mrc_files(request: Request) -> list[Path]:
    return _with_table(request, _find_files(request, ".mrc", ".mrcs"))


def _read_mrc(request: Request) -> Catalogue:
    paths = _find_files(request, ".mrc", ".mrcs")
    table_path = _table_path(request)
    if table_path is None:
        raise DataError('data.labels is missing: dataset "mrc" takes labels from a CSV or STAR file')
    found, hashes, note, flawed, extremes = scan("mrc", [(str(path), "") for path in paths], request, "CHW")
    table = _read_table(request, table_path)
    values = labels.label_columns(table, request.spec.label_columns, str(table_path))
    rows, names = _locate(
        request, table, table_path, dict(zip(paths, found.counts, strict=True)), len(values)
    )
    labels.check_rows_differ(rows.tolist(), names, values, table_path)
    where = f"data.labels: {table_path}"
    targets, classes = labels.to_targets(values, request.spec.wanted_task, where, _names(request), names)
    return Catalogue(
        _only(found, rows),
        targets,
        classes,
        np.full(len(rows), FREE, np.int8),
        hashes[rows],
        labels.to_groups(request.spec.split.group_by, names, table, str(table_path)),
        tuple(names),
        (note,),
        flawed=None if flawed is None else flawed[rows],
        extremes=None if extremes is None else extremes[rows],
    )


MRC = Source(files=_mrc_files, read=_read_mrc, heeds=_HEEDED | {"file_column"})


def _only(images: ArrayImages, rows: Array) -> ArrayImages:
    return images if len(rows) == len(images) and bool((np.diff(rows) == 1).all()) else images.take(rows)


def _locate(
    request: Request, table: labels.Table, path: Path, counts: Mapping[Path, int], labelled: int
) -> tuple[Array, list[str]]:
    """Returns which image each row of the table means, counted through all stacks, and its name.

    A row means the image that its file column names as `000003@stack.mrcs` (from 1), or, without such a
    column, the next image.
    """
    names = labels.file_column(table, request.spec.file_column)
    starts: dict[str, tuple[int, int]] = {}
    total = 0
    for stack, count in counts.items():
        starts[stack.name] = total, count
        total += count
    if names is None:
        if labelled != total:
            raise DataError(
                f"data.labels: {path} has {labelled} rows for {total} images; add a column "
                f'"{request.spec.file_column}" that names them as 1@stack.mrcs'
            )
        return np.arange(total), [f"{row + 1}@{name}" for name, (_, n) in starts.items() for row in range(n)]
    return np.array([_find_image(name, starts, path) for name in names]), names


def _find_image(name: str, starts: Mapping[str, tuple[int, int]], path: Path) -> int:
    place, _, file = name.replace("\\", "/").rpartition("@")
    start: Any = starts.get(Path(file).name)
    if start is None:
        raise DataError(f"data.labels: {path} names {file}, which is not among the stacks of data.root")
    first, count = start
    if not place and count > 1:
        raise DataError(f"data.labels: {path} names {file}, which holds {count} images; write 1@{file} ...")
    number = int(place) if place.isdecimal() else 1 if not place else 0
    if not 1 <= number <= count:
        raise DataError(f"data.labels: {path} names {name}, but {file} holds images 1 to {count}")
    return int(first) + number - 1
