"""From a data table to split samples, for training and for the sealed test part alike."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hpsearch.errors import DataError
from hpsearch.spec.data import DataSpec
from hpsearch.training.data import sources, splits
from hpsearch.training.data.cache import Cache, write_array
from hpsearch.training.data.catalogue import PARTS, TEST, TRAIN, VAL, Catalogue, Progress, digest

logger = logging.getLogger(__name__)

MOST_COUNTED = 20
"""Classes up to which the images of each are told."""


@dataclass(frozen=True, slots=True)
class Assembly:
    """A catalogue, its split, and what is worth saying about both.

    Attributes:
        digest: over content, labels, class names and split.
    """

    catalogue: Catalogue
    rows: splits.Rows
    digest: str
    notes: tuple[str, ...]

    @property
    def task(self) -> str:
        return "classification" if self.catalogue.classes else "regression"


def assemble(
    spec: DataSpec,
    root: str | None,
    cache: Path,
    allow: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Assembly:
    """Finds and splits the data of a study.

    Args:
        root: overrides `spec.root`.

    Raises:
        DataError: the data are missing, corrupt, or cannot be split as asked.
    """
    folder = Path(root or spec.root or "data")
    allowed = None if allow is None else tuple(allow)
    found = sources.catalogue(spec, folder, open_cache(spec, cache), allowed, progress)
    rows = splits.split(found, spec.split)
    rows, duplicates = _handle_duplicates(found, rows, spec)
    content = (found.hashes, found.targets, "\n".join(found.classes))
    indices = tuple(np.sort(part).astype(np.int64) for part in (rows.train, rows.val, rows.test))
    notes = (*found.notes, *_balance(found), *duplicates)
    whole = digest(*content, *indices)
    _keep_split(open_cache(spec, cache), whole, rows)
    return Assembly(found, rows, whole, notes)


def _keep_split(cache: Cache, whole: str, rows: splits.Rows) -> None:
    """Writes which samples are in which part, under the digest that is stored with every study of these data.

    `train.npy` is in the order of which every beginning is a subset.
    """

    def build(folder: Path) -> None:
        for name, part in zip(PARTS, (rows.train, rows.val, rows.test), strict=True):
            write_array(folder / f"{name}.npy", part.shape, "int64", [part.astype(np.int64)])

    cache.entry(f"split-{whole}", build)


def open_cache(spec: DataSpec, folder: Path) -> Cache:
    """Returns the cache of decoded images that a study uses."""
    return Cache(Path(spec.cache) if spec.cache else folder, spec.cache_limit_gb)


def _balance(found: Catalogue) -> tuple[str, ...]:
    if not found.classes:
        return ()
    counts = np.bincount(found.targets, minlength=len(found.classes))
    low, high = int(counts.argmin()), int(counts.argmax())
    each = ""
    if len(counts) <= MOST_COUNTED:
        each = ": " + ", ".join(f"{name} {count}" for name, count in zip(found.classes, counts, strict=True))
    if counts[low] * 1.5 >= counts[high]:
        return (f"{len(counts)} classes of {counts[low]} to {counts[high]} images{each}",)
    return (
        f'{len(counts)} unbalanced classes, from {counts[low]} images of "{found.classes[low]}" to '
        f'{counts[high]} of "{found.classes[high]}" ({counts[high] / counts.sum():.0%} of all){each}',
    )


def _handle_duplicates(
    found: Catalogue, rows: splits.Rows, spec: DataSpec
) -> tuple[splits.Rows, tuple[str, ...]]:
    """Looks for the same image in two parts.

    Dropping keeps the copy in the part that must be judged most strictly: test before val before train.

    Raises:
        DataError: there are some and `on_duplicates` is "error".
    """
    parts = np.full(len(found), -1, np.int8)
    for part, chosen in zip((TRAIN, VAL, TEST), (rows.train, rows.val, rows.test), strict=True):
        parts[chosen] = part
    _, content = np.unique(found.hashes.view("V16").reshape(-1), return_inverse=True)
    strictest = np.full(content.max(initial=-1) + 1, -1, np.int8)
    np.maximum.at(strictest, content, parts)
    doubled = (parts >= 0) & (parts < strictest[content])
    if not doubled.any():
        return rows, ()
    row = int(np.flatnonzero(doubled)[0])
    twin = int(np.flatnonzero((content == content[row]) & (parts == strictest[content[row]]))[0])
    count = int(doubled.sum())
    sentence = (
        f"{count} image{'s are' if count > 1 else ' is'} in two parts, such as {found.name(row)} "
        f"({PARTS[parts[row]]}) and {found.name(twin)} ({PARTS[parts[twin]]})"
    )
    if spec.on_duplicates == "error":
        raise DataError(f'{sentence}; remove one of each pair or set data.on_duplicates to "drop" or "warn"')
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
    splits.check(found, dropped, spec.split)
    return kept, (f"{sentence}; they were dropped from the part that is judged less strictly",)
