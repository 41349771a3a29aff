"""From a data table to split samples, for training and for the sealed test part alike."""

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hpsearch.errors import DataError
from hpsearch.files.paths import is_there
from hpsearch.files.run_folder import SAMPLES, split_entry
from hpsearch.study.data import DataSpec
from hpsearch.text import counted
from hpsearch.training.data import pixels, sources, splits
from hpsearch.training.data.cache import Cache, Waits
from hpsearch.training.data.catalogue import (
    FREE,
    PARTS,
    TEST,
    TRAIN,
    VAL,
    Array,
    Catalogue,
    Progress,
    digest,
    ranks_of,
)
from hpsearch.training.data.labels import counting
from hpsearch.training.data.objects import ItemImages
from hpsearch.training.data.pictures import FileImages, drop_copies, has_fresh
from hpsearch.training.data.prepared import StreamedImages
from hpsearch.training.data.store import ImageStore

logger = logging.getLogger(__name__)

MOST_COUNTED = 20
"""Classes up to which the images of each are told."""


@dataclass(frozen=True, slots=True)
class Assembly:
    """A catalogue, its split, and what is worth saying about both.

    Attributes:
        digest: over content, labels, class names and split.
        digests: of images, labels and split apart; the last two compare only where the images are the same.
        folds: the same data once for each fold of `data.split.folds`, which the digests know nothing of.
    """

    catalogue: Catalogue
    rows: splits.Rows
    digest: str
    digests: Mapping[str, str]
    notes: tuple[str, ...]
    folds: tuple["Assembly", ...] = ()

    @property
    def task(self) -> str:
        if self.catalogue.is_multilabel:
            return "multilabel"
        return "classification" if self.catalogue.classes else "regression"


def assemble(
    spec: DataSpec,
    root: str | None,
    cache: Path,
    allow: Sequence[str] | None = None,
    progress: Progress | None = None,
    waits: Waits | None = None,
) -> Assembly:
    """Finds and splits the data of a study.

    Args:
        root: overrides `spec.root`.
        waits: told when another process prepares the same images.

    Raises:
        DataError: the data are missing, corrupt, or cannot be split as asked.
    """
    folder = Path(root or spec.root or "data")
    is_there(folder, "data.root")  # what may not even be looked at is refused for all sources
    allowed = None if allow is None else tuple(allow)
    storage = open_cache(spec, cache, waits)
    found = sources.catalogue(spec, folder, storage, allowed, progress)
    rows = splits.split(found, spec.split)
    _refuse_flawed(found, _parts(found, rows))
    _refuse_varying(found, rows, spec)
    _read_stream(found, rows, spec)
    rows, duplicates = _handle_duplicates(found, rows, spec)
    shares = splits.describe_shares(found, rows, spec.split)
    order, missing = _describe_order(found), splits.describe_missing(found, rows)
    notes = (
        *found.notes,
        *order,
        *_origins(found, rows),
        *_balance(found),
        *_describe_disputed(found),
        *shares,
        *missing,
        *duplicates,
        *_compare_ranges(found, rows, spec),
    )
    indices = (np.sort(part).astype(np.int64) for part in (rows.train, rows.val, rows.test))
    whole = digest(found.hashes, found.targets, "\n".join(found.classes), *indices)
    assembly = Assembly(found, rows, whole, _digests(found, rows), notes)
    _keep_split(storage, assembly)
    if spec.split.join_val:  # behind the digests: these are the data of the search
        assembly = replace(assembly, rows=splits.joined(rows))
    elif spec.split.folds is not None:
        assembly = _folded(assembly, spec)
    _divide(assembly, spec, storage, progress)
    return assembly


def _folded(assembly: Assembly, spec: DataSpec) -> Assembly:
    """Returns the data with their folds, each of which is looked at as a split is.

    Raises:
        DataError: they cannot be cut so, or an image that is validated on varies.
    """
    found, folds, said = assembly.catalogue, list[Assembly](), dict[str, None]()
    for fold, rows in enumerate(splits.folded(found, assembly.rows, spec.split)):
        _refuse_varying(found, rows, spec)
        _read_stream(found, rows, spec)
        kept, duplicates = _handle_duplicates(found, rows, spec)
        said |= dict.fromkeys(f"fold {fold}: {sentence}" for sentence in duplicates)
        folds.append(replace(assembly, rows=kept))
    sizes = [len(one.rows.val) for one in folds]
    each = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    what = f"{len(folds)} folds of {each} images, cut of the training and the validation part together"
    return replace(assembly, folds=tuple(folds), notes=(*assembly.notes, what, *said))


def _refuse_flawed(found: Catalogue, parts: Array) -> None:
    """Refuses images with NaN or infinite values, whichever part they are in: a loss over them is none.

    Raises:
        DataError: names the first one and its part.
    """
    if found.flawed is None or not found.flawed.any():
        return
    rows = np.flatnonzero(found.flawed)
    row, more = int(rows[0]), len(rows) - 1
    others = f", as do {more} more images" if more > 1 else ", as does another image" if more else ""
    if isinstance(found.images, ItemImages):
        name = found.images.name(row)
    else:
        name = found.name(row) + ("" if found.names else f", counted from 0 to {len(found) - 1},")
    raise DataError(
        f"data.dataset: {name} in the {PARTS[parts[row]]} part holds NaN or infinite "
        f"values{others}; remove or replace {'them' if more else 'it'}"
    )


def _read_stream(found: Catalogue, rows: splits.Rows, spec: DataSpec) -> None:
    """Reads what is streamed for judging, once; those of training are read to measure them.

    Raises:
        DataError: names the first image with NaN or infinite values, or that is unlike the first one.
    """
    images = found.images
    if spec.device != "stream" or ":" not in spec.dataset or not isinstance(images, ItemImages):
        return
    for part in (rows.val, rows.test):
        for _ in StreamedImages(images.take(part), images.size, images.channels).arrays():
            pass  # reading refuses them


def _refuse_varying(found: Catalogue, rows: splits.Rows, spec: DataSpec) -> None:
    """Refuses own data sets whose items are other images each time, where they must be the same.

    Those that are judged must not vary; those of training may where they are read anew each time.

    Raises:
        DataError: names an item, and what to do.
    """
    images = found.images
    if ":" not in spec.dataset or not isinstance(images, ItemImages):
        return
    if spec.device != "stream" and (item := images.varying(rows.train)):
        cut = " with val and test data sets of their own" if _cut_out(found, rows) else ""
        raise DataError(
            f"data.dataset: {spec.dataset} gives another image each time it is asked for {item}, and images that are "
            "read once would stay as they came; move random augmentation into data.augment, or set data.device = "
            f'"stream"{cut} to have it each epoch'
        )
    for part, name in ((rows.val, "validation"), (rows.test, "test")):
        if item := images.varying(part):
            reason = f", and the {name} part is cut out of it" if name in _cut_out(found, rows) else ""
            raise DataError(
                f"data.dataset: {spec.dataset} gives another image each time it is asked for {item}{reason}: a random "
                f"transform would change the {name} loss of a model that does not change; return (train, val, test), "
                "with a random transform for train alone"
            )


def _cut_out(found: Catalogue, rows: splits.Rows) -> tuple[str, ...]:
    """Returns the parts that come out of what the source gave for training."""
    named = (("validation", rows.val), ("test", rows.test))
    return tuple(name for name, part in named if np.isin(found.parts[part], (FREE, TRAIN)).any())


def _origins(found: Catalogue, rows: splits.Rows) -> tuple[str, ...]:
    """Says which parts were cut out of a training part that is the source's own."""
    cut = _cut_out(found, rows)
    if not cut or (len(cut) == 2 and found.images.kind != ItemImages.kind):
        return ()
    return (
        f"the {' and the '.join(cut)} part {'are' if len(cut) > 1 else 'is'} cut out of the training data set",
    )


def _compare_ranges(found: Catalogue, rows: splits.Rows, spec: DataSpec) -> tuple[str, ...]:
    """Says so where the data's own validation or test part lies far from the training part, which gives the scale.

    Raises:
        DataError: it is in another unit, and so would be judged by what was not trained.
    """
    if found.extremes is None:
        return ()
    said = []
    low, high = found.extremes[rows.train, 0].min(), found.extremes[rows.train, 1].max()
    for part, name in ((rows.val, "validation"), (rows.test, "test")):
        if not len(part) or name in _cut_out(found, rows):
            continue
        lows, highs = found.extremes[part].T
        usual = float(np.median(lows)), float(np.median(highs))  # hot pixels lie far outside in a few images
        is_scaled = pixels.are_scaled(lows.min(), highs.max(), low, high) or pixels.are_scaled(
            low, high, *usual
        )
        ends = f"from {lows.min():g} to {highs.max():g}"
        # Floats of another unit are as common as dark integers are; data.range says that the scale is right.
        if is_scaled and "float" in found.images.source and spec.range is None:
            raise DataError(
                f"data.dataset: values of the {name} part go {ends} and those of the training part from {low:g} to "
                f"{high:g}, which cannot have one scale; bring them into one unit, or give the values that are black "
                "and white by data.range"
            )
        span = high - low
        if is_scaled or usual[0] < low - span or usual[1] > high + span:
            said.append(
                f"values of the {name} part go {ends}, far from those of the training part, {low:g} to {high:g}, by "
                "which all are scaled: see whether they were made in one way"
            )
    return tuple(said)


def _digests(found: Catalogue, rows: splits.Rows) -> dict[str, str]:
    """Returns digests that stay the same when files change their names or order."""
    content, parts = ranks_of(found.hashes), _parts(found, rows)
    order = np.lexsort((parts, content))
    return {
        "images": digest(found.hashes[order]),
        "labels": digest(found.targets[order], "\n".join(found.classes)),
        "split": digest(parts[order]),
    }


def _parts(found: Catalogue, rows: splits.Rows) -> Array:
    """Returns the part of each sample, -1 for none."""
    parts = np.full(len(found), -1, np.int8)
    for part, chosen in zip((TRAIN, VAL, TEST), (rows.train, rows.val, rows.test), strict=True):
        parts[chosen] = part
    return parts


def _keep_split(cache: Cache, assembly: Assembly) -> None:
    """Writes which samples are in which part, under the digest that is stored with every study of these data.

    One line for each sample; those of training in the order of which every beginning is a subset.
    """
    found, rows = assembly.catalogue, assembly.rows

    def build(folder: Path) -> None:
        with (folder / SAMPLES).open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(("part", "index", "name", "label", "content"))
            for name, part in zip(PARTS, (rows.train, rows.val, rows.test), strict=True):
                for row in part.tolist():
                    content = found.hashes[row].tobytes().hex()
                    table.writerow((name, row, found.name(row), found.labels_of(row), content))

    cache.entry(split_entry(assembly.digest), build)


def training_store(assembly: Assembly, cache: Cache, progress: Progress | None = None) -> ImageStore:
    """Returns the images of the training and then the validation part, measured over the first."""
    rows = assembly.rows
    return _store(assembly, np.concatenate([rows.train, rows.val]), len(rows.train), cache, progress)


def sealed_store(assembly: Assembly, cache: Cache, progress: Progress | None = None) -> ImageStore:
    """Returns the images of the test part."""
    rows = assembly.rows.test
    return _store(assembly, rows, len(rows), cache, progress)


def _store(
    assembly: Assembly, rows: Array, measured: int, cache: Cache, progress: Progress | None
) -> ImageStore:
    found = assembly.catalogue
    return ImageStore(found.images.take(rows), found.hashes[rows], measured, cache, progress)


def _divide(assembly: Assembly, spec: DataSpec, cache: Cache, progress: Progress | None) -> None:
    """Hands pictures that have just been decoded to the entries of the parts, so that one copy remains."""
    images = assembly.catalogue.images
    if not isinstance(images, FileImages):
        return
    kept, _ = pixels.check_channels(images.channels, spec.channels)
    if not has_fresh(cache, images.size, kept, images.tag):
        return
    for one in assembly.folds or (assembly,):
        training_store(one, cache, progress).open(images.size, kept)
    if len(assembly.rows.test):
        sealed_store(assembly, cache, progress).open(images.size, kept)
    drop_copies(cache, images.size, kept, images.tag)


def open_cache(spec: DataSpec, folder: Path, waits: Waits | None = None) -> Cache:
    """Returns the cache of decoded images that a study uses."""
    return Cache(Path(spec.cache) if spec.cache else folder, spec.cache_limit_gb, waits)


def _describe_order(found: Catalogue) -> tuple[str, ...]:
    """Says so where classes are ordered by code point, as torchvision's folders, and people expect otherwise."""
    classes = found.classes
    expected = sorted(classes, key=lambda name: counting(name.casefold()))
    if expected == list(classes) or sorted(classes) != list(classes):
        return ()
    place = next(place for place, name in enumerate(classes) if name != expected[place])
    one, several = found.kind
    return (
        f"{several} are in the order of their characters, as in torchvision's ImageFolder: "
        f'{one} {place} is "{classes[place]}" and not "{expected[place]}"; train.class_weights follow it',
    )


def _balance(found: Catalogue) -> tuple[str, ...]:
    if not found.classes:
        looks = found.targets.shape[1] > 1 and bool(np.isin(found.targets, (0, 1)).all())
        return (
            (
                "labels are several columns of 0 and 1, taken for numbers; if they say which labels an image has, set "
                'data.task = "multilabel"',
            )
            if looks
            else ()
        )
    counts = found.count()
    low, high = int(counts.argmin()), int(counts.argmax())
    each = ""
    if len(counts) <= MOST_COUNTED:
        each = ": " + ", ".join(f"{name} {count}" for name, count in zip(found.classes, counts, strict=True))
    if found.is_multilabel:
        own = (found.targets > 0).sum(1)
        none = f", {counted(int((own == 0).sum()), 'image')} without any" if (own == 0).any() else ""
        spread = (
            f'from {counted(int(counts[low]), "image")} of "{found.classes[low]}" to {counts[high]} of '
            f'"{found.classes[high]}"'
        )
        if counts[low] == counts[high]:
            spread, each = f"each of {counted(int(counts[low]), 'image')}", ""
        return (f"{len(counts)} labels, {spread}; {own.mean():.3g} labels an image on average{none}{each}",)
    if counts[low] == counts[high]:
        return (f"{counted(len(counts), 'class', 'classes')} of {counted(int(counts[low]), 'image')} each",)
    if counts[low] * 1.5 >= counts[high]:
        return (
            f"{counted(len(counts), 'class', 'classes')} of {counts[low]} to {counts[high]} images{each}",
        )
    return (
        f'{len(counts)} unbalanced classes, from {counts[low]} images of "{found.classes[low]}" to '
        f'{counts[high]} of "{found.classes[high]}" ({counts[high] / counts.sum():.0%} of all){each}',
    )


def _describe_disputed(found: Catalogue) -> tuple[str, ...]:
    """Says so where the same image has several labels, of which all but one must be wrong."""
    if found.is_multilabel or not found.classes:
        return ()
    content = ranks_of(found.hashes if found.pixels is None else found.pixels)
    order = np.lexsort((found.targets, content))
    ends = np.flatnonzero(np.diff(content[order]))
    first, last = order[np.append(0, ends + 1)], order[np.append(ends, len(order) - 1)]
    pairs = np.flatnonzero(found.targets[first] != found.targets[last])
    if not len(pairs):
        return ()
    one, other = int(first[pairs[0]]), int(last[pairs[0]])
    count = counted(len(pairs), "image")
    return (
        f"{count} {'has' if len(pairs) == 1 else 'have'} several labels, such as {found.name(one)} "
        f"({found.labels_of(one)}) and {found.name(other)} ({found.labels_of(other)}), which are the same image; "
        "remove the wrong ones",
    )


def _handle_duplicates(
    found: Catalogue, rows: splits.Rows, spec: DataSpec
) -> tuple[splits.Rows, tuple[str, ...]]:
    """Looks for the same image in two parts.

    Dropping keeps the copy in the part that must be judged most strictly: test before val before train.

    Raises:
        DataError: there are some and `on_duplicates` is "error".
    """
    content = ranks_of(found.hashes if found.pixels is None else found.pixels)
    parts = _parts(found, rows)
    strictest = np.full(content.max(initial=-1) + 1, -1, np.int8)
    np.maximum.at(strictest, content, parts)
    doubled = (parts >= 0) & (parts < strictest[content])
    if not doubled.any():
        return rows, ()
    row = int(np.flatnonzero(doubled)[0])
    twin = int(np.flatnonzero((content == content[row]) & (parts == strictest[content[row]]))[0])
    count = int(doubled.sum())
    sentence = (
        f"{counted(count, 'image')} {'is' if count == 1 else 'are'} in two parts, such as {found.name(row)} "
        f"({PARTS[parts[row]]}) and {found.name(twin)} ({PARTS[parts[twin]]})"
    )
    if spec.on_duplicates == "error":
        raise DataError(
            f'data.on_duplicates is "error" and {sentence}; remove one of each pair, or set it to "drop" or '
            '"warn"'
        )
    if spec.on_duplicates == "warn":
        logger.warning("%s", sentence)
        return rows, (sentence,)
    keep = ~doubled
    kept = replace(
        rows,
        train=rows.train[keep[rows.train]],
        shares=rows.shares[keep[rows.train]],
        val=rows.val[keep[rows.val]],
    )
    dropped = np.where(keep, parts, -1)
    try:
        splits.check(found, dropped, spec.split)
    except DataError as error:
        raise DataError(
            f'{sentence}, and data.on_duplicates = "drop" leaves them out; then {error}'
        ) from None
    they = "it was" if count == 1 else "they were"
    return kept, (f"{sentence}; {they} dropped from the part that is judged less strictly",)
