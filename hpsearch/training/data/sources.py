"""All kinds of data by name, and the catalogue of the one that a study names, cached where it can be."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from hpsearch.errors import DataError, nearest
from hpsearch.files.paths import is_below
from hpsearch.study.data import DataSpec
from hpsearch.training.data import builders, stacks, torchvision_sets
from hpsearch.training.data.arrays import CLASSES, DIGITS, ArrayImages
from hpsearch.training.data.cache import Cache, open_array, read_json, whole, write_array, write_json
from hpsearch.training.data.catalogue import (
    Array,
    Catalogue,
    Images,
    Progress,
    Request,
    Size,
    Source,
    fingerprint,
)
from hpsearch.training.data.folder import FOLDER
from hpsearch.training.data.labels import shown
from hpsearch.training.data.pictures import FileImages

SOURCES: dict[str, Source] = {
    "digits": DIGITS,
    "folder": FOLDER,
    "npz": stacks.NPZ,
    "npy": stacks.NPY,
    "mrc": stacks.MRC,
}

IMAGES: dict[str, Callable[..., Images]] = {
    "arrays": lambda cache, names, hashes, **fields: ArrayImages(**fields),
    "items": lambda cache, names, hashes, **fields: torchvision_sets.restore(**fields),
    "files": lambda cache, names, hashes, **fields: FileImages(cache, names=names, hashes=hashes, **fields),
}

CHOICES = {
    "labels": "which has labels of its own",
    "file_column": "which is not found by a table of files",
    "label_column": "which is not labelled by a table",
    "split_column": "whose parts are in no table of files",
    "strip": "which is not found by a table of files",
    "prefix": "which is not found by a table of files",
    "label_separator": "which is not labelled by a table of files",
    "predict": "whose pictures hpsearch prepares itself",
    "split.group_by": "which has neither file names nor columns",
}
"""Fields of `[data]` that not all kinds of data heed, and what to say of those that do not."""

_VERSION = 5
"""Raised when catalogues are written in another form."""

_READ_WITH = (
    "dataset",
    "channels",
    "task",
    "layout",
    "resize",
    "range",
    "labels",
    "file_column",
    "label_column",
    "label_separator",
    "split_column",
    "strip",
    "prefix",
    "skip_unreadable",
)
"""Fields on which a catalogue depends."""


def find(name: str) -> Source:
    """Returns how a data set is read.

    Raises:
        DataError: nothing of this name is known.
    """
    if ":" in name:
        return builders.BUILDER
    if name in SOURCES:
        return SOURCES[name]
    if name in CLASSES:
        return torchvision_sets.FAMILY
    known = torchvision_sets.names()
    if name in known:
        return torchvision_sets.OTHERS
    raise DataError(
        f'data.dataset "{name}" is unknown; {nearest(name, [*SOURCES, *known])}, or a function of yours as '
        '"my_package.data:build"'
    )


def catalogue(
    spec: DataSpec,
    root: Path,
    cache: Cache,
    allow: tuple[str, ...] | None,
    progress: Progress | None = None,
) -> Catalogue:
    """Returns the catalogue of the data that a study names; reads the data only if they are new or changed.

    Raises:
        DataError: the data are missing, corrupt or unknown.
    """
    source = find(spec.dataset)
    _refuse_unheeded(spec, source)
    size = own_size(spec)
    request = Request(spec, root, allow, cache, size, progress)
    files = source.files(request)
    if files is None:
        return source.read(request)
    fields = {name: getattr(spec, name) for name in _READ_WITH} | {"group_by": spec.split.group_by}
    key = "catalogue-" + fingerprint(files, fields | {"size": size, "version": _VERSION})
    found = _read(cache.entry(key, lambda folder: _write(folder, source.read(request))), request, files)
    return replace(found, notes=(*found.notes, *source.remarks(request)))


def _refuse_unheeded(spec: DataSpec, source: Source) -> None:
    """Refuses what this kind of data would silently ignore.

    Raises:
        DataError: names the field, its value and the kind.
    """
    for field, why in CHOICES.items():
        value = attrgetter(field)(spec)
        if value == attrgetter(field)(DataSpec()):
            continue
        if field not in source.heeds:
            raise DataError(
                f'data.{field} is "{shown(value)}", and data.dataset is "{spec.dataset}", {why}; leave it out'
            )
        if field.endswith("_column") and spec.labels is None:
            raise DataError(
                f'data.{field} is "{shown(value)}", but data.labels names no table; set it, or leave {field} out'
            )


def own_size(spec: DataSpec) -> Size | None:
    """Returns the size at which the validation part is seen; None for the images' own."""
    side = spec.progressive[-1][1] if spec.progressive else spec.image_size
    return None if side is None else (side, side)


def _write(folder: Path, found: Catalogue) -> None:
    arrays: dict[str, Array | None] = {
        "targets": found.targets,
        "parts": found.parts,
        "hashes": found.hashes,
        "groups": found.groups,
        "flawed": found.flawed,
        "pixels": found.pixels,
        "extremes": found.extremes,
    }
    for name, array in arrays.items():
        if array is not None:
            write_array(folder / f"{name}.npy", array.shape, array.dtype.str, [array])
    meta = {
        "kind": found.images.kind,
        "images": found.images.fields(),
        "classes": found.classes,
        "names": found.names,
        "notes": found.notes,
    }
    write_json(folder / "catalogue.json", meta)


def _refuse_elsewhere(value: Any, root: Path, files: Sequence[Path]) -> None:
    """Refuses a path that is not one of the data: a cache may be shared, and whoever writes it names no other files.

    Raises:
        ValueError: so it is.
    """
    if isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            _refuse_elsewhere(inner, root, files)
    elif isinstance(value, str) and os.path.isabs(value):
        home = root if root.is_dir() else root.parent
        if not is_below(value, home) and Path(value) not in files:
            raise ValueError(f"it names {value}, outside of {home}")


def _read(folder: Path, request: Request, files: Iterable[Path]) -> Catalogue:
    with whole(folder):
        meta: dict[str, Any] = read_json(folder / "catalogue.json")
        arrays = {
            name: np.asarray(open_array(path)) if (path := folder / f"{name}.npy").exists() else None
            for name in ("targets", "parts", "hashes", "groups", "flawed", "pixels", "extremes")
        }
        targets, parts, hashes = (arrays[name] for name in ("targets", "parts", "hashes"))
        if targets is None or parts is None or hashes is None:
            raise DataError(f"data.cache: {folder} is incomplete; delete it, and it will be created again")
        _refuse_elsewhere(meta["images"], request.root, [*files])
        images = IMAGES[meta["kind"]](request.cache, meta["names"], hashes, **meta["images"])
        return Catalogue(
            images,
            targets,
            tuple(meta["classes"]),
            parts,
            hashes,
            arrays["groups"],
            tuple(meta["names"]),
            tuple(meta["notes"]),
            flawed=arrays["flawed"],
            pixels=arrays["pixels"],
            extremes=arrays["extremes"],
        )
