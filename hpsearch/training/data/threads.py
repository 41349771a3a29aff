"""Work that threads do side by side, in order and without piling up results.

Pillow and NumPy release the interpreter's lock where they decode and scale, so that threads do as well as
processes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from hpsearch.training.data.catalogue import Array, Progress

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yields what a function returns for each item; at most twice as many items as threads are under way."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


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
