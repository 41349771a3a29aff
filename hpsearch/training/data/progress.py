"""Tells how far a pass over all images has come."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from hpsearch.training.data.catalogue import Array, Progress

Item = TypeVar("Item")


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
