"""Data sets as objects with `__len__` and `__getitem__`: torchvision's, and those that a function builds.

Legend: N samples, C channels, H height, W width.
"""

import os
import random
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hpsearch.errors import OF_OWN_CODE, DataError
from hpsearch.text import counted
from hpsearch.training.data import labels
from hpsearch.training.data.catalogue import (
    HASH_BYTES,
    PARTS,
    Array,
    Catalogue,
    Progress,
    Request,
    Size,
    find_extremes,
    find_flawed,
    hash_rows,
    told,
)
from hpsearch.training.data.decode import depth, fit, from_item, in_order, number_type

_CHUNK_BYTES = 32 << 20
_THREADS = min(8, os.cpu_count() or 1)

_LEAST, _MOST, _SECONDS = 16, 512, 5.0
"""Items of a part that are read twice to see whether they vary: the most, and the least where time is short."""


@dataclass(frozen=True, slots=True)
class PartDataset:
    """One data set, and the part that its samples belong to.

    Attributes:
        fields: what makes it anew; None if only the study's own function can.
    """

    data: Any
    part: int
    fields: tuple[str, str, dict[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __str__(self) -> str:
        return f"the {PARTS[max(self.part, 0)]} data set"


class ItemImages:
    """The images of data sets, read item by item.

    Args:
        size: of the images, or the one that the study asks for where they differ.
        rows: which images, counted through all members; None for all.
        source: number types of the items.
        threads: whether items may be read by several threads.
        like: the size, and the channels, that each item must have; for what was not read before, as streams.
        rebuild: makes a member's data set from its fields, where `data` is None.
    """

    kind = "items"

    def __init__(
        self,
        members: Sequence[PartDataset],
        counts: Sequence[int],
        layout: str,
        channels: int,
        size: Sequence[int],
        dtype: str,
        *,
        rows: Array | None = None,
        source: str = "uint8",
        resize: str = "crop",
        threads: bool = False,
        like: tuple[Size | None, tuple[int, ...]] | None = None,
        rebuild: Callable[..., Any] | None = None,
    ) -> None:
        self.source = source
        self.tag = "" if resize == "crop" else resize
        self._resize = resize
        self.channels = channels
        self.size: Size = (size[0], size[1])
        self.dtype = dtype
        self._members = list(members)
        self._counts = list(counts)
        self._layout = layout
        self._rows = np.arange(sum(counts)) if rows is None else rows
        self._threads = threads
        self._like = like
        self._rebuild = rebuild

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: Array) -> "ItemImages":
        chosen = self._rows[rows]
        ends = np.cumsum([0, *self._counts])
        members: list[PartDataset] = []
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
            source=self.source,
            resize=self._resize,
            threads=self._threads,
            like=self._like,
            rebuild=self._rebuild,
        )

    def chunks(self, size: Size, channels: int) -> Iterator[Array]:
        # One by one where the images are large, so that few are held at once.
        step = max(1, _CHUNK_BYTES // (4 * channels * size[0] * size[1]))
        batch: list[Array] = []
        for item in read_items(self._open(), self._rows, self._threads):
            batch.append(self.image(item, size, channels))
            if len(batch) == step:
                yield np.stack(batch)
                batch = []
        if batch:
            yield np.stack(batch)

    def image(self, item: tuple[Any, Any], size: Size, channels: int, name: str = "an item") -> Array:
        """Returns an item's image as [channels, *size] of `dtype`.

        Raises:
            DataError: it is none, or unlike those that were looked at before.
        """
        array = from_item(item[0], self._layout, "data.dataset: an item's image")
        self._refuse_unlike(array, name)
        if array.dtype != self.dtype:
            array = self._as_others(array, number_type(item[0]))
        return fit(array, size, channels, self._resize)

    def _refuse_unlike(self, array: Array, name: str) -> None:
        """Refuses what would be cut, or made grey, since the first item happened to be smaller or grey.

        Raises:
            DataError: names what must be set.
        """
        size, allowed = self._like or (None, (len(array),))
        if len(array) not in allowed:
            channels = f"{name} has {counted(len(array), 'channel')} and the first one {allowed[0]}"
            if {len(array), *allowed} <= {1, 3}:
                raise DataError(
                    f"data.channels is missing: {channels}; set data.channels = 3, or 1 to make all grey"
                )
            raise DataError(f"data.dataset: {channels}; bring them to one number")
        if size is not None and array.shape[1:] != size:
            raise DataError(
                f"data.image_size is missing: {name} is {array.shape[2]} x {array.shape[1]} pixels and the first one "
                f"{size[1]} x {size[0]}; set one, such as image_size = 64"
            )

    def _as_others(self, array: Array, kind: str) -> Array:
        """Returns bytes as the floats in [0, 1] that they are among.

        Raises:
            DataError: this is no mixture that was looked at before.
        """
        if kind not in self.source.split(",") or self.dtype != "float32":
            raise DataError(
                f"data.dataset: an item's image is {kind} and the first ones were {self.source}, which need not "
                "have a scale in common; return all images in one number type"
            )
        return array.astype(np.float32) / 255

    def item(self, position: int) -> tuple[Any, Any]:
        """Returns the image and the label at a position of these rows, as the data set gives them."""
        return next(read_items(self._open(), self._rows[position : position + 1], threads=False))

    def varying(self, rows: Array) -> str:
        """Returns the name of an item, of some of these rows, whose image is another one each time; "" if none is.

        Random transforms draw otherwise each time; some change a picture only now and then. A small part is read
        twice as a whole, and 512 items of a large one, or as many as 5 s allow. A transform that changes a picture
        with probability p is missed with (1 - 2 p (1 - p))^n over n items: with 512, one of 2 % never, of 0.5 % in 1
        of 160 studies, of 0.1 % in 1 of 3; with 16, which are read however slow they are, one of 2 % in half of them.
        """
        until = time.monotonic() + _SECONDS
        for place, row in enumerate(np.random.default_rng(0).permutation(rows)[:_MOST].tolist()):
            if place >= _LEAST and time.monotonic() > until:
                break
            one, other = (self._drawn(row, seed) for seed in (2 * place, 2 * place + 1))
            if not np.array_equal(one, other, equal_nan=True):
                return self.name(row)
        return ""

    def _drawn(self, position: int, seed: int) -> Array:
        with drawing_from(seed):
            return from_item(self.item(position)[0], self._layout, "data.dataset: an item's image")

    def name(self, position: int) -> str:
        """Returns what to call the item at a position of these rows in a message."""
        row, ends = int(self._rows[position]), np.cumsum([0, *self._counts])
        owner = int(np.searchsorted(ends, row, side="right")) - 1
        return f"item {row - ends[owner]} of {self._members[owner]}"

    def fields(self) -> dict[str, Any]:
        return {
            "members": [(member.part, member.fields) for member in self._members],
            "counts": self._counts,
            "layout": self._layout,
            "channels": self.channels,
            "size": self.size,
            "dtype": self.dtype,
            "source": self.source,
            "resize": self._resize,
        }

    def _open(self) -> list[PartDataset]:
        for place, member in enumerate(self._members):
            if member.data is None and self._rebuild and member.fields:
                self._members[place] = PartDataset(self._rebuild(*member.fields), member.part, member.fields)
        return self._members


def read_items(members: Sequence[PartDataset], rows: Array, threads: bool) -> Iterator[tuple[Any, Any]]:
    """Yields (image, label) for rows counted through all data sets.

    Raises:
        DataError: names the item that is no such pair, or that cannot be had.
    """
    ends = np.cumsum([0, *map(len, members)])
    owners = np.searchsorted(ends, rows, side="right") - 1

    def get(place: int) -> tuple[Any, Any]:
        owner = int(owners[place])
        member, number = members[owner], int(rows[place] - ends[owner])
        try:
            item = member.data[number]
        except DataError:
            raise
        except OF_OWN_CODE as error:
            raise DataError(
                f"data.dataset: item {number} of {member} could not be read: {describe(error)}; fix its "
                "__getitem__, or leave the item out"
            ) from error
        return _pair(item, f"data.dataset: item {number} of {member}")

    yield from in_order(get, range(len(rows)), _THREADS) if threads else map(get, range(len(rows)))


def prepare_file(prepare: Callable[[Image.Image], Any], name: str, path: Path, channels: int) -> Any:
    """Returns what the user's own function makes of a picture file: the image of an item.

    It is given what Pillow opens, in RGB where items have three channels, as torchvision's folders do it.

    Raises:
        DataError: the function failed.
        OSError: there is no such picture.
    """
    with Image.open(path) as opened:
        in_colour = channels == 3 and opened.mode != "RGB" and depth(opened) == "uint8"
        picture = opened.convert("RGB") if in_colour else opened
        picture.load()
        try:
            return prepare(picture)
        except OF_OWN_CODE as error:
            raise DataError(
                f"data.predict: {name} failed with {path}: {describe(error)}; correct it"
            ) from error


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Lets torch, NumPy and `random` draw from a seed for a while, and gives them their own states back."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def describe(error: BaseException) -> str:
    """Returns what went wrong in code of the user's, and where."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    message = f": {error}" if str(error) else ""
    return f"{type(error).__name__}{message} ({os.path.basename(frame.filename)}, line {frame.lineno})"


def _pair(item: Any, where: str) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        found = [next((item[key] for key in keys if key in item), None) for keys in _KEYS]
        if found[0] is not None and found[1] is not None:
            return found[0], found[1]
    elif isinstance(item, tuple | list) and len(item) >= 2:
        return item[0], item[1]
    raise DataError(f"{where} is {type(item).__name__}; return (image, label)")


_KEYS = (("image", "images", "x", "pixel_values"), ("label", "labels", "y", "target"))


def read_members(
    request: Request,
    members: Sequence[PartDataset],
    threads: bool = False,
    rebuild: Callable[..., Any] | None = None,
) -> Catalogue:
    """Reads all items once to learn their labels, sizes and content.

    Raises:
        DataError: an item is no (image, label), or the images differ in size and no size is asked for.
    """
    counts = [len(member) for member in members]
    parts = np.repeat(np.array([member.part for member in members], np.int8), counts)
    glances = request.spec.device == "stream" and ":" in request.spec.dataset  # all others are kept anyway
    seen = (_glance if glances else _survey)(
        members, len(parts), request.spec.layout, threads, request.progress
    )
    size = seen.common_size
    if size is None and request.size is None:
        raise DataError(
            f"data.image_size is missing: images of {request.spec.dataset} have {len(seen.sizes)} different "
            "sizes; set one, such as image_size = 64"
        )
    names = next((tuple(map(str, m.data.classes)) for m in members if hasattr(m.data, "classes")), ())
    targets, classes = labels.to_targets(
        seen.labels, request.spec.wanted_task, f"data.dataset: {request.spec.dataset}", names
    )
    channels, wanted = seen.channels, request.spec.channels
    like = None
    if glances:  # each item is held against the first when it is read, all of them before the training
        mixes = wanted in (1, 3) and channels in (1, 3)
        like = (None if request.size else size, (1, 3) if mixes else (channels,))
        if mixes and wanted == 3 > channels and _have_colour(members, len(parts), request.spec.layout):
            channels = 3
    images = ItemImages(
        members,
        counts,
        request.spec.layout,
        channels,
        size or request.size or (1, 1),
        seen.dtype,
        source=seen.source,
        resize=request.spec.resize,
        threads=threads,
        like=like,
        rebuild=rebuild,
    )
    groups = _groups(request.spec.split.group_by, members, request.spec.dataset)
    return Catalogue(
        images, targets, classes, parts, seen.hashes, groups, flawed=seen.flawed, extremes=seen.extremes
    )


def _groups(group_by: str | None, members: Sequence[PartDataset], where: str) -> Array | None:
    """Returns the groups by an attribute of the data sets: the one that is named as a column, or `names`.

    Raises:
        DataError: a data set has no such attribute with one value per item.
    """
    if group_by is None:
        return None
    column = group_by.removeprefix("column:") if group_by.startswith("column:") else None
    found = [(_values(member.data, column) if column else _file_names(member.data)) for member in members]
    for member, values in zip(members, found, strict=True):
        if values is None:
            raise DataError(
                f'data.split.group_by is "{group_by}", but {member} of {where} has no attribute '
                f'"{column or "names"}" with one value for each of its {len(member)} items; add it, or leave '
                "group_by out"
            )
    values = [str(value) for part in found for value in part or ()]
    return labels.to_groups(group_by, values, {column: values} if column else None, where)


def _values(data: Any, name: str) -> list[Any] | None:
    values = getattr(data, name, None)
    if values is None or not hasattr(values, "__len__") or len(values) != len(data):
        return None
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _file_names(data: Any) -> list[Any] | None:
    """Returns `names`, or the paths of `samples`, as torchvision calls its pairs of path and class."""
    samples = getattr(data, "samples", None)
    if (
        isinstance(samples, list)
        and len(samples) == len(data)
        and all(isinstance(one, tuple) for one in samples)
    ):
        return [path for path, *_ in samples]
    return _values(data, "names")


@dataclass(frozen=True, slots=True)
class _Survey:
    labels: list[Any]
    hashes: Array
    sizes: set[Size]
    channels: int
    dtype: str
    source: str
    flawed: Array | None = None
    extremes: Array | None = None

    @property
    def common_size(self) -> Size | None:
        return next(iter(self.sizes)) if len(self.sizes) == 1 else None


def _glance(
    members: Sequence[PartDataset], total: int, layout: str, threads: bool, progress: Progress | None
) -> _Survey:
    """Looks at the first item alone, and at all labels: of `targets` or `labels` if there are such.

    What streams may change from one reading to the next, so that rows stand for their own content.
    """
    if not total:
        raise _empty()
    first, _ = next(read_items(members, np.zeros(1, np.int64), threads=False))
    array = from_item(first, layout, "data.dataset: the image of item 0")
    hashes = np.zeros((total, HASH_BYTES), np.uint8)
    hashes[:, :8] = np.arange(total, dtype="<u8")[:, None].view(np.uint8)
    known = [_known_labels(member.data) for member in members]
    if any(found is None for found in known):
        items = told(read_items(members, np.arange(total), threads), total, progress)
        known = [[np.asarray(label).tolist() for _, label in items]]
    found = [label for part in known for label in part or ()]
    kind = number_type(first)
    return _Survey(found, hashes, {array.shape[1:3]}, array.shape[0], str(array.dtype), kind)


def _have_colour(members: Sequence[PartDataset], total: int, layout: str) -> bool:
    """Whether an item has three channels; reads until one has."""
    items = read_items(members, np.arange(total), threads=False)
    return any(len(from_item(image, layout, "data.dataset: an item's image")) == 3 for image, _ in items)


def _known_labels(data: Any) -> list[Any] | None:
    return next((found for name in ("targets", "labels") if (found := _values(data, name)) is not None), None)


def _empty() -> DataError:
    return DataError("data.dataset: the data set has no items; return one whose len() is at least 1")


def _survey(
    members: Sequence[PartDataset], total: int, layout: str, threads: bool, progress: Progress | None
) -> _Survey:
    hashes = np.empty((total, HASH_BYTES), np.uint8)
    flawed, extremes = np.zeros(total, bool), np.empty((total, 2))
    found: list[Any] = []
    sizes, channels = set(), set()
    kinds: dict[str, int] = {}  # number types, and the first item of each
    low, high = np.inf, -np.inf  # of the floats
    items = told(read_items(members, np.arange(total), threads), total, progress)
    for row, (image, label) in enumerate(items):
        array = from_item(image, layout, f"data.dataset: the image of item {row}")
        hashes[row] = hash_rows(array[None])[0]
        flawed[row] = find_flawed(array[None])[0]
        sizes.add((array.shape[1], array.shape[2]))
        channels.add(array.shape[0])
        kinds.setdefault(number_type(image), row)
        if array.dtype != np.uint8:
            low, high = min(low, array.min()), max(high, array.max())
        # Bytes among floats become floats in [0, 1].
        extremes[row] = find_extremes(array[None])[0] / (255 if array.dtype == np.uint8 else 1)
        found.append(np.asarray(label).tolist())
    if not found:
        raise _empty()
    if not (len(channels) == 1 or channels == {1, 3}):
        raise DataError(
            f"data.dataset: the images have {sorted(channels)} channels; bring them to one number"
        )
    _refuse_mixture(kinds, float(low), float(high))
    dtype = "uint8" if kinds.keys() <= {"uint8", "bool"} else "float32"
    return _Survey(
        found,
        hashes,
        sizes,
        max(channels),
        dtype,
        ",".join(sorted(kinds)),
        flawed if flawed.any() else None,
        None if dtype == "uint8" else extremes,
    )


def _refuse_mixture(kinds: Mapping[str, int], low: float, high: float) -> None:
    """Refuses images of bytes among others, unless those are floats in [0, 1], which bytes are brought to.

    Args:
        kinds: number types, and the first item of each.
        low, high: the extremes of what are not bytes.

    Raises:
        DataError: it is such a mixture.
    """
    others = [kind for kind in kinds if kind not in ("uint8", "bool")]
    if len(others) == len(kinds) or not others or (low >= 0 and high <= 1):
        return
    one, other = next(kind for kind in kinds if kind not in others), others[0]
    raise DataError(
        f"data.dataset: the image of item {kinds[one]} is {one} and that of item {kinds[other]} {other}, with values "
        f"from {low:g} to {high:g}, which need not have a scale in common; return all images in one number type"
    )
