"""Data sets as objects with `__len__` and `__getitem__`: torchvision's, and those that a function builds.

Legend: N samples, C channels, H height, W width.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from hpsearch.errors import DataError
from hpsearch.training.data import labels, pixels
from hpsearch.training.data.catalogue import HASH_BYTES, Array, Catalogue, Progress, Request, Size, hash_rows
from hpsearch.training.data.decode import from_item

_CHUNK = 256
_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Member:
    """One data set, and the part that its samples belong to.

    Attributes:
        fields: what makes it anew; None if only the study's own function can.
    """

    data: Any
    part: int
    fields: tuple[str, str, dict[str, Any]] | None = None


class ItemImages:
    """The images of data sets, read item by item.

    Args:
        size: of the images, or the one that the study asks for where they differ.
        rows: which images, counted through all members; None for all.
        threads: whether items may be read by several threads.
        rebuild: makes a member's data set from its fields, where `data` is None.
    """

    kind = "items"

    def __init__(
        self,
        members: Sequence[Member],
        counts: Sequence[int],
        layout: str,
        channels: int,
        size: Sequence[int],
        dtype: str,
        *,
        rows: Array | None = None,
        threads: bool = False,
        rebuild: Callable[..., Any] | None = None,
    ) -> None:
        self.channels = channels
        self.size: Size = (size[0], size[1])
        self.dtype = dtype
        self._members = list(members)
        self._counts = list(counts)
        self._layout = layout
        self._rows = np.arange(sum(counts)) if rows is None else rows
        self._threads = threads
        self._rebuild = rebuild

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: Array) -> "ItemImages":
        chosen = self._rows[rows]
        ends = np.cumsum([0, *self._counts])
        members: list[Member] = []
        counts: list[int] = []
        kept: list[tuple[Array, int]] = []
        for place, member in enumerate(self._members):
            inside = (chosen >= ends[place]) & (chosen < ends[place + 1])
            if inside.any():  # a data set of test images alone is let go
                kept.append((inside, sum(counts) - int(ends[place])))
                members.append(member)
                counts.append(self._counts[place])
        moved = chosen.copy()
        for inside, shift in kept:
            moved[inside] += shift
        return ItemImages(
            members,
            counts,
            self._layout,
            self.channels,
            self.size,
            self.dtype,
            rows=moved,
            threads=self._threads,
            rebuild=self._rebuild,
        )

    def chunks(self, size: Size, channels: int) -> Iterator[Array]:
        items = read_items(self._open(), self._rows, self._threads)
        while batch := list(islice(items, _CHUNK)):
            yield np.stack([self.image(item, size, channels) for item in batch])

    def image(self, item: tuple[Any, Any], size: Size, channels: int) -> Array:
        """Returns an item's image as [channels, *size] of `dtype`."""
        array = from_item(item[0], self._layout, "an item's image")
        if self.dtype == "float32" and array.dtype == np.uint8:
            array = array.astype(np.float32) / 255
        if array.shape[0] == 1:
            array = pixels.resize(array[None], size)[0]
            return np.repeat(array, channels, 0)
        fitted: Array = pixels.resize(pixels.to_channels(array[None], channels), size)[0]
        return fitted

    def item(self, position: int) -> tuple[Any, Any]:
        """Returns the image and the label at a position of these rows, as the data set gives them."""
        return next(read_items(self._open(), self._rows[position : position + 1], threads=False))

    def fields(self) -> dict[str, Any]:
        return {
            "members": [(member.part, member.fields) for member in self._members],
            "counts": self._counts,
            "layout": self._layout,
            "channels": self.channels,
            "size": self.size,
            "dtype": self.dtype,
        }

    def _open(self) -> list[Any]:
        for place, member in enumerate(self._members):
            if member.data is None and self._rebuild and member.fields:
                self._members[place] = Member(self._rebuild(*member.fields), member.part, member.fields)
        return [member.data for member in self._members]


def read_items(data: Sequence[Any], rows: Array, threads: bool) -> Iterator[tuple[Any, Any]]:
    """Yields (image, label) for rows counted through all data sets."""
    ends = np.cumsum([0, *(len(one) for one in data)])
    owners = np.searchsorted(ends, rows, side="right") - 1

    def get(place: int) -> tuple[Any, Any]:
        owner = int(owners[place])
        return _pair(data[owner][int(rows[place] - ends[owner])], int(rows[place]))

    if not threads:
        yield from map(get, range(len(rows)))
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(rows), _CHUNK):
            yield from pool.map(get, range(start, min(start + _CHUNK, len(rows))))


def _pair(item: Any, row: int) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        found = [next((item[key] for key in keys if key in item), None) for keys in _KEYS]
        if found[0] is not None and found[1] is not None:
            return found[0], found[1]
    elif isinstance(item, tuple | list) and len(item) >= 2:
        return item[0], item[1]
    raise DataError(f"item {row} of the data set is {type(item).__name__}; return (image, label)")


_KEYS = (("image", "images", "x", "pixel_values"), ("label", "labels", "y", "target"))


def read_members(
    request: Request,
    members: Sequence[Member],
    threads: bool = False,
    rebuild: Callable[..., Any] | None = None,
) -> Catalogue:
    """Reads all items once to learn their labels, sizes and content.

    Raises:
        DataError: an item is no (image, label), or the images differ in size and no size is asked for.
    """
    counts = [len(member.data) for member in members]
    parts = np.repeat(np.array([member.part for member in members], np.int8), counts)
    survey = _glance if request.spec.device == "stream" else _survey
    seen = survey(members, len(parts), request.spec.layout, threads, request.progress)
    size = seen.common_size
    if size is None and request.size is None:
        raise DataError(
            f"data.image_size is missing: images of {request.spec.dataset} have {len(seen.sizes)} different "
            "sizes; set one, such as image_size = 64"
        )
    names = next((tuple(map(str, m.data.classes)) for m in members if hasattr(m.data, "classes")), ())
    targets, classes = labels.to_targets(seen.labels, request.spec.task, request.spec.dataset, names)
    images = ItemImages(
        members,
        counts,
        request.spec.layout,
        seen.channels,
        size or request.size or (1, 1),
        seen.dtype,
        threads=threads,
        rebuild=rebuild,
    )
    return Catalogue(images, targets, classes, parts, seen.hashes)


@dataclass(frozen=True, slots=True)
class _Survey:
    labels: list[Any]
    hashes: Array
    sizes: set[Size]
    channels: int
    dtype: str

    @property
    def common_size(self) -> Size | None:
        return next(iter(self.sizes)) if len(self.sizes) == 1 else None


def _glance(
    members: Sequence[Member], total: int, layout: str, threads: bool, progress: Progress | None
) -> _Survey:
    """Looks at the first item alone, and at all labels: of `targets` or `labels` if there are such.

    What streams may change from one reading to the next, so that rows stand for their own content.
    """
    data = [member.data for member in members]
    if not total:
        raise _empty()
    first, _ = next(read_items(data, np.zeros(1, np.int64), threads=False))
    array = from_item(first, layout, "the image of item 0")
    hashes = np.zeros((total, HASH_BYTES), np.uint8)
    hashes[:, :8] = np.arange(total, dtype="<u8")[:, None].view(np.uint8)
    known = [_known_labels(one) for one in data]
    if any(found is None for found in known):
        known = [[np.asarray(label).tolist() for _, label in read_items(data, np.arange(total), threads)]]
    found = [label for part in known for label in part or ()]
    return _Survey(found, hashes, {array.shape[1:3]}, array.shape[0], str(array.dtype))


def _known_labels(data: Any) -> list[Any] | None:
    for name in ("targets", "labels"):
        values = getattr(data, name, None)
        if values is not None and len(values) == len(data):
            return list(np.asarray(values).tolist())
    return None


def _empty() -> DataError:
    return DataError("the data set has no items; return one whose len() is at least 1")


def _survey(
    members: Sequence[Member], total: int, layout: str, threads: bool, progress: Progress | None
) -> _Survey:
    hashes = np.empty((total, HASH_BYTES), np.uint8)
    found: list[Any] = []
    sizes, channels, dtypes = set(), set(), set()
    for row, (image, label) in enumerate(
        read_items([member.data for member in members], np.arange(total), threads)
    ):
        array = from_item(image, layout, f"the image of item {row}")
        hashes[row] = hash_rows(array[None])[0]
        sizes.add((array.shape[1], array.shape[2]))
        channels.add(array.shape[0])
        dtypes.add(str(array.dtype))
        found.append(np.asarray(label).tolist())
        if progress and (row + 1) % _CHUNK == 0:
            progress(row + 1, total)
    if not found:
        raise _empty()
    if not (len(channels) == 1 or channels == {1, 3}):
        raise DataError(f"the images have {sorted(channels)} channels; bring them to one number")
    return _Survey(found, hashes, sizes, max(channels), "uint8" if dtypes == {"uint8"} else "float32")
