"""Images of chosen samples as arrays in the cache, one entry for each size, with their mean and deviation.

Legend: N samples, C channels, H height, W width.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpsearch.training.data import pixels
from hpsearch.training.data.cache import Cache, open_array, read_json, whole, write_array, write_json
from hpsearch.training.data.catalogue import HASH_BYTES, Array, Images, Progress, Size, counted, digest
from hpsearch.training.data.pixels import Statistics

VERSION = 3
"""Raised when images are decoded, or kept, in another way."""


def form(kind: str, size: Size, channels: int, tag: str = "") -> str:
    """Returns what the names of all entries with images of one form have in common.

    Args:
        tag: what sets them apart from bytes that were cut to their size.
    """
    return f"{kind}{VERSION}{tag}-{channels}x{size[0]}x{size[1]}"


class Shelves:
    """All pictures of one form that lie in the cache.

    Args:
        entries: how the keys of the entries begin.
    """

    def __init__(self, cache: Cache, form: str, entries: str = "*") -> None:
        found = list(filter(None, map(_open, cache.entries(f"{entries}-{form}-*"))))
        self._pictures = [pictures for _, pictures in found]
        self._ends = np.cumsum([len(pictures) for pictures in self._pictures])
        self._hashes = np.concatenate([np.empty((0, HASH_BYTES), np.uint8), *(hashes for hashes, _ in found)])
        keys = _keys(self._hashes)
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def find(self, hashes: Array) -> Array:
        """Returns the place of each content, to be handed to `take`; -1 for those that are not here."""
        if not len(self._sorted):
            return np.full(len(hashes), -1)
        nearest = np.searchsorted(self._sorted, _keys(hashes)).clip(max=len(self._sorted) - 1)
        places = self._order[nearest]
        return np.where((self._hashes[places] == hashes).all(1), places, -1)

    def take(self, places: Array) -> Array:
        """Returns pictures of shape [n, C, H, W], n > 0."""
        owners = np.searchsorted(self._ends, places, side="right")
        taken = np.empty((len(places), *self._pictures[0].shape[1:]), self._pictures[0].dtype)
        for owner in np.unique(owners):
            mine = owners == owner
            pictures = self._pictures[owner]
            taken[mine] = pictures[places[mine] - (self._ends[owner] - len(pictures))]
        return taken


def _open(entry: Path) -> tuple[Array, Array] | None:
    try:
        return np.asarray(open_array(entry / "hashes.npy")), open_array(entry / "images.npy")
    except FileNotFoundError:  # taken away meanwhile
        return None


def _keys(hashes: Array) -> Array:
    """Returns the first half of each hash as a number."""
    return np.ascontiguousarray(hashes[:, :8]).view(np.uint64).reshape(-1)


_CHUNK_BYTES = 64 << 20
_STATISTICS = "statistics.json"


@dataclass(frozen=True, slots=True)
class Stored:
    """Images as they lie in the cache, memory-mapped, [N, C, H, W]."""

    images: Array
    statistics: Statistics


class ImageStore:
    """Images of chosen samples at any size, from the cache.

    Args:
        hashes: of these samples' content, in order.
        measured: how many of the first images the statistics are taken over.
    """

    def __init__(
        self,
        images: Images,
        hashes: Array,
        measured: int,
        cache: Cache,
        progress: Progress | None = None,
    ) -> None:
        self.images = images
        self._hashes = hashes
        self._measured = measured
        self.cache = cache
        self._progress = progress

    def open(self, size: Size, channels: int) -> Stored:
        """Returns the images; decodes and resizes them if that has not been done before.

        Raises:
            DataError: an image cannot be read, or the cache has no room.
        """
        shape = (len(self.images), channels, *size)

        def build(folder: Path) -> None:
            chunks = counted(self.images.chunks(size, channels), len(self.images), self._progress)
            write_array(folder / "images.npy", shape, self.images.dtype, chunks)
            write_array(folder / "hashes.npy", self._hashes.shape, "uint8", [self._hashes])
            measured = pixels.slices(open_array(folder / "images.npy")[: self._measured], _CHUNK_BYTES)
            write_json(folder / _STATISTICS, asdict(pixels.statistics(measured, self.images.dtype)))

        common = form(self.images.kind, size, channels, self.images.tag)
        key = f"images-{common}-{digest(self._hashes, self.images.dtype, str(self._measured))}"
        folder = self.cache.entry(key, build, images_bytes(self.images, size, channels))
        return Stored(open_array(folder / "images.npy"), _read_statistics(folder))

    def measure(self, size: Size, channels: int) -> Statistics:
        """Returns the statistics of the images at a size at which they may never be wanted, and are not kept.

        Raises:
            DataError: an image cannot be read, or its values cannot be used.
        """

        def build(folder: Path) -> None:
            chunks = self.images.take(np.arange(self._measured)).chunks(size, channels)
            write_json(folder / _STATISTICS, asdict(pixels.statistics(chunks, self.images.dtype)))

        common = form(self.images.kind, size, channels, self.images.tag)
        hashes = self._hashes[: self._measured]
        return _read_statistics(
            self.cache.entry(f"measured-{common}-{digest(hashes, self.images.dtype)}", build)
        )


def _read_statistics(folder: Path) -> Statistics:
    with whole(folder):
        values: dict[str, Any] = read_json(folder / _STATISTICS)
        return Statistics(
            tuple(map(float, values["mean"])),
            tuple(map(float, values["std"])),
            float(values["scale"]),
            float(values["offset"]),
        )


def images_bytes(images: Images, size: Size, channels: int) -> int:
    """Returns how much decoded images take."""
    return len(images) * channels * size[0] * size[1] * np.dtype(images.dtype).itemsize
