"""Reads data sets that are objects once, to learn their labels, groups, sizes and content.

Legend: N samples, C channels, H height, W width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpsearch.errors import DataError
from hpsearch.training.data import labels
from hpsearch.training.data.catalogue import (
    HASH_BYTES,
    Array,
    Catalogue,
    Progress,
    Request,
    Size,
    find_extremes,
    find_flawed,
    hash_rows,
)
from hpsearch.training.data.decode import from_item, number_type
from hpsearch.training.data.objects import ItemImages, PartDataset, read_items
from hpsearch.training.data.threads import told


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
