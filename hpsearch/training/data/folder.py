"""Photographs in folders named by their class, or listed in a table of labels.

    root/day/*.jpg   root/night/*.jpg                     split by the study
    root/train/day/*.jpg ... root/test/night/*.jpg        official parts (val may be missing)
    root/labels.csv with the columns file and label       `data.labels`

All pictures are decoded once, in parallel, at the size that the study asks for, into an array beside the
catalogue; other sizes are decoded from the files when a trial asks for them.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hpsearch.errors import DataError
from hpsearch.training.data import labels
from hpsearch.training.data.cache import open_array, write_array
from hpsearch.training.data.catalogue import (
    FREE,
    HASH_BYTES,
    TEST,
    VAL,
    Array,
    Catalogue,
    Progress,
    Request,
    Size,
    Source,
)
from hpsearch.training.data.decode import is_grey, read_file, upright_size
from hpsearch.training.data.labels import Table
from hpsearch.training.data.pixels import to_channels

logger = logging.getLogger(__name__)

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
)

_PARTS = {"train": FREE, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}

# Decoding and scaling release the interpreter's lock, so that threads do as well as processes.
_THREADS = min(16, os.cpu_count() or 1)
_CHUNK = 256

UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""What Pillow raises for files that it cannot decode."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The pictures of a folder: names relative to the root, their parts, and labels by name.

    Attributes:
        table: of the labels file, its rows in the order of the names.
    """

    names: list[str]
    labels: list[str]
    parts: list[int]
    table: Table | None = None


class FileImages:
    """Pictures in files, of which those at one size lie decoded in an array.

    Args:
        entry: the cache folder with `decoded.npy`, whose rows are those of `names`.
        rows: which of the names.
    """

    kind = "files"
    dtype = "uint8"

    def __init__(
        self,
        entry: Path,
        root: str,
        names: Sequence[str],
        channels: int,
        size: Sequence[int],
        rows: Array | Sequence[int],
    ) -> None:
        self.channels = channels
        self.size: Size = (size[0], size[1])
        self._entry = entry
        self._root = root
        self._names = list(names)
        self._rows = np.asarray(rows, np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: Array) -> "FileImages":
        chosen = self._rows[rows]
        return FileImages(self._entry, self._root, self._names, self.channels, self.size, chosen)

    def chunks(self, size: Size, channels: int) -> Iterator[Array]:
        if size == self.size:
            decoded = open_array(self._entry / "decoded.npy")
            for start in range(0, len(self), _CHUNK):
                yield to_channels(decoded[self._rows[start : start + _CHUNK]], channels)
            return
        # Decoded in colour and made grey as above, so that grey is the same at every size.
        read = partial(_decode_again, Path(self._root), size, self.channels)
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(self), _CHUNK):
                names = [self._names[row] for row in self._rows[start : start + _CHUNK]]
                yield to_channels(np.stack(list(pool.map(read, names))), channels)

    def fields(self) -> dict[str, Any]:
        return {
            "root": self._root,
            "names": self._names,
            "channels": self.channels,
            "size": self.size,
            "rows": self._rows.tolist(),
        }


def _decode_again(root: Path, size: Size, channels: int, name: str) -> Array:
    try:
        return read_file(root / name, size, channels)
    except UNREADABLE as error:
        raise DataError(f"{root / name} could be read before and cannot be now: {error}") from error


def list_files(request: Request) -> list[Path]:
    """Returns all pictures and the table of labels.

    Raises:
        DataError: the folder is missing or holds no pictures.
    """
    root = request.root
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(
            f"data.root: the folder {root} {what}; name the folder of images by data.root or --data-root"
        )
    found = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    if not found:
        raise DataError(
            f"data.root: no images under {root} (looked for {' '.join(sorted(SUFFIXES))}); there should be "
            "one folder of images for each class"
        )
    return found + ([labels.find_table(root, request.spec.labels)] if request.spec.labels else [])


def list_pictures(request: Request) -> Listing:
    """Finds the labels and parts of all pictures.

    Raises:
        DataError: the folder has not the form of a data set.
    """
    if request.spec.labels:
        return _list_by_table(request, request.root / request.spec.labels)
    root = request.root
    relative = [path.relative_to(root) for path in list_files(request)]
    official = (root / "train").is_dir() and all(path.parts[0] in _PARTS for path in relative)
    depth = 1 if official else 0
    loose = [path for path in relative if len(path.parts) < depth + 2]
    if loose:
        raise DataError(
            f"{root / loose[0]} lies in no class folder; put each image into a folder named by its class, "
            "or list files and labels in a CSV named by data.labels"
        )
    parts = [_PARTS[path.parts[0]] if official else FREE for path in relative]
    return Listing([str(path) for path in relative], [path.parts[depth] for path in relative], parts)


def _list_by_table(request: Request, path: Path) -> Listing:
    spec, root = request.spec, request.root
    table = labels.read_table(path)
    names = labels.column(table, spec.file_column, path, "data.file_column")
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise DataError(
            f"data.labels: {path} names {missing[0]}, which is not in {root} ({len(missing)} of {len(names)} "
            "files are missing); the names are relative to data.root"
        )
    return Listing(names, labels.label_columns(table, spec.label_column, path), [FREE] * len(names), table)


def _to_targets(request: Request, listing: Listing, rows: Array) -> tuple[Array, tuple[str, ...]]:
    chosen = [listing.labels[row] for row in rows]
    if request.spec.labels:
        return labels.to_targets(chosen, request.spec.task, str(request.root / request.spec.labels))
    classes, targets = np.unique(np.array(chosen), return_inverse=True)
    if len(classes) < 2:
        raise DataError(
            f'{request.root} holds only the class "{classes[0]}"; a classification needs at least two folders'
        )
    if request.spec.task == "regression":
        raise DataError(
            f'data.task is "regression" and {request.root} has class folders; list numbers in a CSV named '
            "by data.labels"
        )
    return targets.astype(np.int64), tuple(map(str, classes))


def read_folder(request: Request) -> Catalogue:
    """Decodes all pictures at the study's size into `decoded.npy` in the scratch folder."""
    if request.scratch is None:
        raise ValueError("pictures are decoded into a scratch folder, and there is none")
    listing = list_pictures(request)
    headers = _map(partial(_read_header, request.root), listing.names)
    known = [header for header in headers if isinstance(header, tuple)]
    if not known:
        raise _unreadable(request.root, listing.names, headers)
    size = request.size or _common_size(listing.names, headers)
    channels = 1 if all(grey for _, grey in known) else 3
    hashes, failures = _decode_all(request, request.scratch, listing.names, size, channels)
    if failures and not request.spec.skip_unreadable:
        names, reasons = list(failures), list(failures.values())
        raise _unreadable(request.root, names, reasons)
    rows = np.array([row for row, name in enumerate(listing.names) if name not in failures], np.int64)
    targets, classes = _to_targets(request, listing, rows)
    group_by = request.spec.split.group_by
    groups = labels.to_groups(group_by, listing.names, listing.table, str(request.root))
    images = FileImages(request.scratch, str(request.root.resolve()), listing.names, channels, size, rows)
    return Catalogue(
        images,
        targets,
        classes,
        np.array(listing.parts, np.int8)[rows],
        hashes[rows],
        None if groups is None else groups[rows],
        tuple(listing.names[row] for row in rows),
        (_describe_sizes(known), *_describe_failures(failures)),
    )


FOLDER = Source(files=list_files, read=read_folder)


def _map(function: Callable[[str], Any], names: Sequence[str]) -> list[Any]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, names))


def _read_header(root: Path, name: str) -> tuple[Size, bool] | str:
    """Returns size and whether the picture is grey, or why it cannot be read."""
    try:
        with Image.open(root / name) as image:
            return upright_size(image), is_grey(image)
    except UNREADABLE as error:
        return str(error)


def _common_size(names: Sequence[str], headers: Sequence[tuple[Size, bool] | str]) -> Size:
    sizes: dict[Size, str] = {}
    for name, header in zip(names, headers, strict=True):
        if isinstance(header, tuple):
            sizes.setdefault(header[0], name)
    if len(sizes) > 1:
        (one, first), (two, second) = list(sizes.items())[:2]
        raise DataError(
            f"data.image_size is missing and the images differ in size ({first} is {one[1]} x {one[0]}, "
            f"{second} {two[1]} x {two[0]}, {len(sizes)} sizes in all); set one, such as image_size = 64"
        )
    return next(iter(sizes))


def _decode_all(
    request: Request, folder: Path, names: Sequence[str], size: Size, channels: int
) -> tuple[Array, dict[str, str]]:
    """Writes the pictures, zeros for those that fail, and returns their hashes and the failures."""
    hashes = np.zeros((len(names), HASH_BYTES), np.uint8)
    failures: dict[str, str] = {}
    read = partial(_read_and_hash, request.root, size, channels)
    blank = np.zeros((channels, *size), np.uint8)

    def chunks() -> Iterator[Array]:
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(names), _CHUNK):
                done = list(pool.map(read, names[start : start + _CHUNK]))
                for row, (content, result) in enumerate(done, start):
                    hashes[row] = np.frombuffer(content, np.uint8)
                    if isinstance(result, str):
                        failures[names[row]] = result
                yield np.stack([blank if isinstance(result, str) else result for _, result in done])
                _tell(request.progress, start + len(done), len(names))

    write_array(folder / "decoded.npy", (len(names), channels, *size), "uint8", chunks())
    return hashes, failures


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress:
        progress(done, total)


def _read_and_hash(root: Path, size: Size, channels: int, name: str) -> tuple[bytes, Array | str]:
    """Returns the hash of a file and its picture, or why it cannot be decoded."""
    try:
        data = (root / name).read_bytes()
    except OSError as error:
        return bytes(HASH_BYTES), str(error)
    content = blake2b(data, digest_size=HASH_BYTES).digest()
    try:
        return content, read_file(BytesIO(data), size, channels)
    except UNREADABLE as error:
        return content, str(error).replace(repr(data), name) or type(error).__name__


def _unreadable(root: Path, names: Sequence[str], reasons: Sequence[Any]) -> DataError:
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return DataError(
        f"{root / names[0]} cannot be read as an image{more}: {reasons[0]}; mend or remove it, or set "
        "skip_unreadable = true in [data]"
    )


def _describe_sizes(headers: Sequence[tuple[Size, bool]]) -> str:
    heights, widths = zip(*(size for size, _ in headers), strict=True)
    grey = sum(1 for _, is_grey_one in headers if is_grey_one)
    return (
        f"images are {min(widths)} to {max(widths)} pixels wide and {min(heights)} to {max(heights)} high, "
        f"{grey} of {len(headers)} grey"
    )


def _describe_failures(failures: dict[str, str]) -> tuple[str, ...]:
    if not failures:
        return ()
    shown = ", ".join(list(failures)[:5]) + (", ..." if len(failures) > 5 else "")
    return (f"{len(failures)} unreadable file{'s' if len(failures) > 1 else ''} skipped: {shown}",)
