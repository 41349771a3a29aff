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
from hpsearch.training.data.catalogue import (
    PARTS,
    Array,
    Size,
)
from hpsearch.training.data.decode import depth, fit, from_item, number_type
from hpsearch.training.data.threads import in_order

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
