"""What a source of data knows of its samples, before they are split and put into arrays.

Legend: N samples, C channels, H height, W width, T regression targets.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hpsearch.study.checks import KINDS
from hpsearch.study.data import DataSpec
from hpsearch.training.data.cache import Cache

Array = NDArray[Any]
Size = tuple[int, int]
"""Height and width in pixels."""
Progress = Callable[[int, int], None]
"""Called with the numbers of images done and of all images."""
Item = TypeVar("Item")

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

    @property
    def source(self) -> str:
        """Number types of the data themselves, joined by commas."""
        ...

    @property
    def tag(self) -> str:
        """What sets these images apart from others of their kind, size and channels in the cache; may be ""."""
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
        targets: int64 of shape [N], or float32 of shape [N, T] for regression; of images that may have several labels
            float32 of shape [N, K], 1 for those that an image has.
        classes: names by target, or of the labels; empty for regression.
        parts: FREE, TRAIN, VAL or TEST for each sample.
        hashes: uint8 of shape [N, HASH_BYTES], of each image's content.
        groups: int64 of shape [N]; samples with the same number must not be torn apart. None: no groups.
        names: of the samples, for messages; may be empty.
        predict: what prepares one picture as the user's own data function does, as `package.module:name`.
        extremes: float64 of shape [N, 2], the lowest and the highest value of each image; None for bytes, whose
            scale is known, and for streams.
        pixels: as `hashes`, equal where the pixels are, whatever the files are; None where `hashes` are so.
        flawed: bool of shape [N], of images with NaN or infinite values; None where there are none.
    """

    images: Images
    targets: Array
    classes: tuple[str, ...]
    parts: Array
    hashes: Array
    groups: Array | None = None
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    predict: str = ""
    flawed: Array | None = None
    pixels: Array | None = None
    extremes: Array | None = None

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have several labels."""
        return bool(self.classes) and self.targets.ndim == 2

    @property
    def kind(self) -> tuple[str, str]:
        """What `classes` are called, one and several."""
        return KINDS["multilabel" if self.is_multilabel else "classification"]

    def count(self, rows: Array | slice = slice(None)) -> Array:
        """Returns how many of some samples are of each class, or have each label; int64 of shape [K]."""
        if self.is_multilabel:
            counts_K: Array = (self.targets[rows] > 0).sum(0, dtype=np.int64)
        else:
            counts_K = np.bincount(self.targets[rows], minlength=len(self.classes))
        return counts_K

    def labels_of(self, row: int) -> str:
        """Returns the class of a sample, or its labels, as people write them; of a regression its numbers."""
        target = self.targets[row]
        if not self.classes:
            return str(target.tolist())
        places = np.flatnonzero(target) if self.is_multilabel else [target]
        return "|".join(self.classes[place] for place in places)

    def name(self, row: int) -> str:
        """Returns what to call a sample in a message."""
        return self.names[row] if self.names else f"image {row}"


@dataclass(frozen=True, slots=True)
class Request:
    """What a source is asked for.

    Attributes:
        root: the folder or file of `data.root`, or what overrides it; need not exist.
        allow: what the study may name, see `import_object`; None trusts all.
        size: side lengths at which the study wants the images; None for the images' own.
    """

    spec: DataSpec
    root: Path
    allow: tuple[str, ...] | None
    cache: Cache
    size: Size | None
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """How one kind of data is read.

    Attributes:
        files: lists what the catalogue depends on; None if that cannot be known without reading all.
        read: reads the catalogue.
        heeds: those of `sources.CHOICES` that mean something to this kind; others are refused.
        remarks: sentences on what lies beside the data, told anew each time.
    """

    files: Callable[[Request], Iterable[Path] | None]
    read: Callable[[Request], Catalogue]
    heeds: frozenset[str] = frozenset()
    remarks: Callable[[Request], tuple[str, ...]] = lambda request: ()


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


def find_flawed(rows: Array) -> Array:
    """Returns which images hold values that float32 has not: NaN, infinite or too large; bool of shape [n]."""
    if not rows.size or not np.issubdtype(rows.dtype, np.floating):
        return np.zeros(len(rows), bool)
    with np.errstate(over="ignore"):
        finite = np.isfinite(rows.astype(np.float32, copy=False))
    return np.logical_not(finite.reshape(len(rows), -1).all(axis=1))


def find_extremes(rows: Array) -> Array:
    """Returns the lowest and the highest value of each image, float64 of shape [n, 2]."""
    flat = rows.reshape(len(rows), -1)
    return np.stack([flat.min(1), flat.max(1)], 1).astype(np.float64)


def ranks_of(hashes: Array) -> Array:
    """Returns a number for each hash, the same for the same one."""
    ranks: Array = np.unique(
        np.ascontiguousarray(hashes).view(f"V{HASH_BYTES}").reshape(-1), return_inverse=True
    )[1]
    return ranks


def hash_rows(rows: Array) -> Array:
    """Returns the hash of each row's values, type and shape, uint8 of shape [n, HASH_BYTES]."""
    form = blake2b(f"{rows.dtype.str} {rows.shape[1:]}".encode(), digest_size=HASH_BYTES)
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    hashes = bytearray()
    for row in flat:
        state = form.copy()
        state.update(row.data)
        hashes += state.digest()
    return np.frombuffer(bytes(hashes), np.uint8).reshape(-1, HASH_BYTES)


def fingerprint(files: Iterable[Path], fields: Mapping[str, Any]) -> str:
    """Returns a digest over names, sizes and times of files: the same if nothing has touched them."""
    return digest("\n".join(map(_state, files)), repr(sorted(fields.items())))


def _state(file: Path) -> str:
    try:
        stat = file.stat()
    except OSError:  # such as a link to nothing: an unreadable picture
        return f"{file}\tmissing"
    return f"{file}\t{stat.st_size}\t{stat.st_mtime_ns}"


def told(items: Iterable[Item], total: int, progress: Progress | None) -> Iterator[Item]:
    """Yields items and tells, after each, how many of all have been taken."""
    for done, item in enumerate(items, 1):
        yield item
        if progress:
            progress(done, total)


def counted(chunks: Iterable[Array], total: int, progress: Progress | None) -> Iterator[Array]:
    """Does the same for arrays of several images each."""
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        if progress:
            progress(done, total)
