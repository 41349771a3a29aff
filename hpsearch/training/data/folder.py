"""Photographs in folders named by their class, or listed in a table of labels.

    root/day/*.jpg   root/night/*.jpg                     split by the study
    root/train/day/*.jpg ... root/test/night/*.jpg        official parts (val may be missing)
    root/labels.csv with the columns file and label       `data.labels`

All pictures are decoded once, in parallel, at the size that the study asks for; other sizes are decoded from
the files when a trial asks for them.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from hpsearch.errors import DataError
from hpsearch.training.data import labels, pixels
from hpsearch.training.data.catalogue import HASH_BYTES, Array, Catalogue, Request, Size, Source
from hpsearch.training.data.decode import DEPTHS, FULL, WHITE, Form
from hpsearch.training.data.listing import Listing, list_files, list_pictures
from hpsearch.training.data.pictures import FileImages, Header, decode_new, highest_value, read_headers
from hpsearch.training.data.twins import hash_pixels


def read_folder(request: Request) -> Catalogue:
    """Reads all pictures, and decodes at the study's size those that the cache does not hold yet."""
    listing, root = list_pictures(request), request.root
    headers = read_headers(root, listing.names, request.progress)
    failures = {
        name: header for name, header in zip(listing.names, headers, strict=True) if isinstance(header, str)
    }
    known = {row: header for row, header in enumerate(headers) if not isinstance(header, str)}
    _check_failures(request, failures, everything=not known)
    names = [listing.names[row] for row in known]
    hashes = np.frombuffer(b"".join(one.content for one in known.values()), np.uint8).reshape(-1, HASH_BYTES)
    size = request.size or _common_size(names, list(known.values()))
    channels = 1 if all(header.grey for header in known.values()) else 3
    kept, _ = pixels.check_channels(channels, request.spec.channels)
    depths = {name: header.depth for name, header in zip(names, known.values(), strict=True)}
    form = _choose_form(request, depths)
    broken = decode_new(request.cache, root, names, hashes, size, (channels, kept), request.progress, form)
    _check_failures(request, failures | broken, everything=len(broken) == len(known))
    whole = np.array([place for place, name in enumerate(names) if name not in broken], np.int64)
    images = FileImages(
        request.cache,
        str(root.resolve()),
        names,
        hashes,
        channels,
        size,
        form.resize,
        form.dtype,
        form.range,
        ",".join(sorted(set(depths.values()))),
    ).take(whole)
    rows = np.array(list(known), np.int64)[whole]
    targets, classes = _to_targets(request, listing, rows)
    order = () if request.spec.labels else _describe_order(classes)
    where = str(root / (request.spec.labels or ""))
    groups = labels.to_groups(request.spec.split.group_by, listing.names, listing.table, where)
    return Catalogue(
        images,
        targets,
        classes,
        np.array(listing.parts, np.int8)[rows],
        hashes[whole],
        None if groups is None else groups[rows],
        tuple(listing.names[row] for row in rows),
        (
            _describe_sizes(list(known.values())),
            *_describe_depths(depths, form),
            *order,
            *_describe_failures(failures | broken),
        ),
        pixels=hash_pixels(images, kept, root, [names[place] for place in whole.tolist()], hashes[whole]),
    )


FOLDER = Source(
    files=list_files,
    read=read_folder,
    heeds=frozenset(("labels", "file_column", "label_column", "split.group_by")),
    remarks=lambda request: list_pictures(request).notes,
)


def _to_targets(request: Request, listing: Listing, rows: Array) -> tuple[Array, tuple[str, ...]]:
    chosen = [listing.labels[row] for row in rows]
    if request.spec.labels:
        return labels.to_targets(
            chosen,
            request.spec.task,
            f"data.labels: {request.root / request.spec.labels}",
            samples=[listing.names[row] for row in rows],
        )
    classes, targets = np.unique(np.array(chosen), return_inverse=True)
    if len(classes) < 2:
        raise DataError(
            f'data.root: {request.root} holds only the class "{classes[0]}"; a classification needs at least '
            "two folders"
        )
    if request.spec.task == "regression":
        raise DataError(
            f'data.task is "regression" and {request.root} has class folders; list numbers in a CSV named '
            "by data.labels"
        )
    return targets.astype(np.int64), tuple(map(str, classes))


def _check_failures(request: Request, failures: dict[str, str], everything: bool) -> None:
    """Refuses unreadable pictures unless the study skips them and some are left.

    Raises:
        DataError: names the first one, and why it cannot be read.
    """
    if not failures or (request.spec.skip_unreadable and not everything):
        return
    name, reason = next(iter(failures.items()))
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    remedy = "" if request.spec.skip_unreadable else ", or set skip_unreadable = true in [data]"
    raise DataError(
        f"data.root: {request.root / name} cannot be read as an image{more}: {reason}; mend or remove "
        f"it{remedy}"
    )


def _common_size(names: Sequence[str], headers: Sequence[Header]) -> Size:
    sizes: dict[Size, str] = {}
    for name, header in zip(names, headers, strict=True):
        sizes.setdefault(header.size, name)
    if len(sizes) > 1:
        (one, first), (two, second) = list(sizes.items())[:2]
        raise DataError(
            f"data.image_size is missing and the images differ in size ({first} is {one[1]} x {one[0]}, "
            f"{second} {two[1]} x {two[0]}, {len(sizes)} sizes in all); set one, such as image_size = 64"
        )
    return next(iter(sizes))


def _choose_form(request: Request, depths: Mapping[str, str]) -> Form:
    """Returns what pictures of these number types, by name, are decoded to.

    Raises:
        DataError: deep pictures that have no scale in common with the others, or with each other.
    """
    resize, known = request.spec.resize, request.spec.range
    names = {
        kind: [name for name, one in depths.items() if one == kind] for kind in sorted(set(depths.values()))
    }
    if list(names) == ["uint8"]:
        return Form(resize)
    if "uint8" in names:
        for kind in (kind for kind in names if kind != "uint8" and known is None):
            _check_white(request, kind, names[kind], names["uint8"][0])
        return Form(resize, range=known)
    if "float32" in names and len(names) > 1 and known is None:
        other = next(kind for kind in names if kind != "float32")
        raise _no_common_scale(names["float32"][0], "float32", "", names[other][0], other)
    return Form(resize, "float32")


def _check_white(request: Request, kind: str, names: Sequence[str], other: str) -> None:
    """Refuses deep pictures among those of 8 bits of which it is not known what is white.

    Raises:
        DataError: names one, and what it would take.
    """
    highest = highest_value(request.root, names, FULL) if kind in WHITE else 0.0
    if kind not in WHITE or (kind == "uint16" and highest < FULL) or (kind == "float32" and highest > 1):
        reached = f" (the highest value of such pictures is {highest:g})" if kind in WHITE else ""
        raise _no_common_scale(names[0], kind, reached, other, "uint8")


def _no_common_scale(one: str, kind: str, reached: str, other: str, others: str) -> DataError:
    return DataError(
        f"data.root: {one} is a {DEPTHS[kind]} picture{reached} and {other} a {DEPTHS[others]} one, and nothing says "
        "what they have in common; give the values that are black and white in the deep ones by data.range, such as "
        "range = [0, 4095], or save all in one way"
    )


def _describe_depths(depths: Mapping[str, str], form: Form) -> tuple[str, ...]:
    """Says how deep pictures and those of 8 bits were brought together."""
    counts = Counter(depths.values())
    deep = len(depths) - counts.pop("uint8", 0)
    if form.dtype != "uint8" or not deep:
        return ()
    low = form.range[0] if form.range else 0
    highs = [form.range[1]] if form.range else [WHITE[kind] for kind in sorted(counts)]
    return (
        f"{deep} of {len(depths)} pictures have more than 8 bits and are kept with 8, as the others are: "
        f"{low:g} becomes black and {' or '.join(f'{high:g}' for high in highs)} white",
    )


def _describe_sizes(headers: Sequence[Header]) -> str:
    heights, widths = zip(*(header.size for header in headers), strict=True)
    grey = sum(1 for header in headers if header.grey)
    return (
        f"images are {min(widths)} to {max(widths)} pixels wide and {min(heights)} to {max(heights)} high, "
        f"{grey} of {len(headers)} grey"
    )


def _describe_order(classes: Sequence[str]) -> tuple[str, ...]:
    """Says so where torchvision's order of class folders, by code point, is not the one that people expect."""
    expected = sorted(classes, key=_as_counted)
    if expected == list(classes):
        return ()
    place = next(place for place, name in enumerate(classes) if name != expected[place])
    return (
        f'classes are in the order of torchvision\'s ImageFolder, by characters: class {place} is "{classes[place]}" '
        f'and not "{expected[place]}"; train.class_weights follow it',
    )


def _as_counted(name: str) -> list[tuple[int, str]]:
    """Returns a key by which folders are ordered as people count: 2 before 10, b before C."""
    pieces = re.split(r"(\d+)", name.casefold())
    return [(int(piece), "") if place % 2 else (-1, piece) for place, piece in enumerate(pieces)]


def _describe_failures(failures: dict[str, str]) -> tuple[str, ...]:
    if not failures:
        return ()
    shown = ", ".join(list(failures)[:5]) + (", ..." if len(failures) > 5 else "")
    return (f"{len(failures)} unreadable file{'s' if len(failures) > 1 else ''} skipped: {shown}",)
