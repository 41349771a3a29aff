"""A data set whose pictures are there when the test says so: `dataset = "tests.service.slow_images:build"`."""

import os
import time
from pathlib import Path

import numpy as np

COUNT = 30


class SlowImages:
    """Once the first process writes images into the cache, its reading waits until a file `go` is there.

    It leaves a file `reading` before it waits.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, item: int) -> tuple[np.ndarray, int]:
        if self._is_writing():
            while not (self._root / "go").exists():
                time.sleep(0.01)
        return np.full((6, 6), item, np.uint8), item % 3

    def _is_writing(self) -> bool:
        if not any((self._root / "cache").glob("images-*.tmp")):
            return False
        mark = self._root / "reading"
        try:
            with mark.open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:  # another process writes, unless it was this one before
            return mark.read_text() == str(os.getpid())
        return True


def build(root: str) -> SlowImages:
    return SlowImages(Path(root))
