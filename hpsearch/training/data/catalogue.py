"""What a source of data knows of its samples, before they are split and put into arrays.

Legend: N samples, C channels, H height, W width, T regression targets.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hpsearch.spec.data import DataSpec

Array = NDArray[Any]
Size = tuple[int, int]
"""Height and width in pixels."""
Progress = Callable[[int, int], None]
"""Called with the numbers of images done and of all images."""

HASH_BYTES = 16
FREE, TRAIN, VAL, TEST = -1, 0, 1, 2
"""The part that a source assigns to a sample; FREE leaves it to the split."""
PARTS = ("train", "val", "test")


class Images(Protocol):
    """The images of samples in a fixed order, read only when asked for.

    `kind` and `fields()` make the object anew (see `sources.IMAGES`), so that a cached catalogue need not
    touch the source.
    """

    kind: str

    @property
    def channels(self) -> int: ...

    @property
    def size(self) -> Size: ...

    @property
    def dtype(self) -> str:
        """ "uint8" or "float32"."""
        ...

    def __len__(self) -> int: ...

    def take(self, rows: Array) -> "Images":
        """Returns the images of these rows alone; what it holds in memory leads to no other image."""
        ...

    def chunks(self, size: Size, channels: int) -> Iterator[Array]:
        """Yields all images in order, in arrays of shape [n, channels, *size] of `dtype`.

        Raises:
            DataError: an image cannot be read.
        """
        ...

    def fields(self) -> dict[str, Any]:
        """Returns the constructor's arguments in plain values."""
        ...


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All samples of a source.

    Attributes:
        targets: int64 of shape [N], or float32 of shape [N, T] for regression.
        classes: names by target; empty for regression.
        parts: FREE, TRAIN, VAL or TEST for each sample.
        hashes: uint8 of shape [N, HASH_BYTES], of each image's content.
        groups: int64 of shape [N]; samples with the same number must not be torn apart. None: no groups.
        names: of the samples, for messages; may be empty.
    """

    images: Images
    targets: Array
    classes: tuple[str, ...]
    parts: Array
    hashes: Array
    groups: Array | None = None
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.parts)

    def name(self, row: int) -> str:
        """Returns what to call a sample in a message."""
        return self.names[row] if self.names else f"image {row}"


@dataclass(frozen=True, slots=True)
class Request:
    """What a source is asked for.

    Attributes:
        root: the folder or file of `data.root`, or what overrides it; need not exist.
        allow: top-level modules that the study may name; None trusts all.
        scratch: an empty folder that becomes part of the cached catalogue, for decoded images; None if the
            catalogue will not be cached.
        locks: a folder for lock files, the same for all processes of the machine.
        size: side lengths at which the study wants the images; None for the images' own.
    """

    spec: DataSpec
    root: Path
    allow: tuple[str, ...] | None
    scratch: Path | None
    locks: Path
    size: Size | None
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """How one kind of data is read.

    Attributes:
        files: lists what the catalogue depends on; None if that cannot be known without reading all.
        read: reads the catalogue.
    """

    files: Callable[[Request], Iterable[Path] | None]
    read: Callable[[Request], Catalogue]


def digest(*pieces: bytes | str | Array) -> str:
    """Returns 32 hexadecimal digits over the pieces; where one ends matters."""
    state = blake2b(digest_size=HASH_BYTES)
    for piece in pieces:
        data = piece.encode() if isinstance(piece, str) else _flat(piece)
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def _flat(piece: bytes | Array) -> Any:
    return piece if isinstance(piece, bytes) else np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data


def hash_rows(rows: Array) -> Array:
    """Returns the hash of each row's bytes, uint8 of shape [n, HASH_BYTES]."""
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
    hashes = b"".join(blake2b(row.data, digest_size=HASH_BYTES).digest() for row in flat)
    return np.frombuffer(hashes, np.uint8).reshape(-1, HASH_BYTES)


def fingerprint(files: Iterable[Path], fields: Mapping[str, Any]) -> str:
    """Returns a digest over names, sizes and times of files: the same if nothing has touched them."""
    pieces = []
    for file in files:
        stat = file.stat()
        pieces.append(f"{file}\t{stat.st_size}\t{stat.st_mtime_ns}")
    return digest("\n".join(pieces), repr(sorted(fields.items())))
