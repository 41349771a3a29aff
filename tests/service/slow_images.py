"""A data set whose pictures are there when the test says so: `dataset = "tests.service.slow_images:build"`."""

import time
from pathlib import Path

import numpy as np

COUNT = 30


class SlowImages:
    """Once all items have been looked at, the next reading, into the cache, waits until a file `go` is there.

    It leaves a file `reading` before it waits.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen_all = False

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, item: int) -> tuple[np.ndarray, int]:
        if self._seen_all:
            (self._root / "reading").touch()
            while not (self._root / "go").exists():
                time.sleep(0.01)
        self._seen_all = item == COUNT - 1 or self._seen_all
        return np.full((6, 6), item, np.uint8), item % 3


def build(root: str) -> SlowImages:
    return SlowImages(Path(root))
