"""Real picture files for the tests of data."""

from pathlib import Path

import numpy as np
from PIL import Image


def noise(seed: int, height: int = 12, width: int = 12, channels: int = 3) -> np.ndarray:
    """Returns random bytes of shape [H, W, C], or [H, W] for one channel."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    """Saves a picture; the format is that of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def day_and_night(root: Path, count: int = 20, *, prefix: str = "", seed: int = 0, size: int = 12) -> Path:
    """Makes `count` PNG pictures in each of the folders day (bright) and night (dark)."""
    for label, name in enumerate(("day", "night")):
        for number in range(count):
            pixels = noise(seed + 1000 * label + number, size, size) // 2 + (128 if name == "day" else 0)
            save(root / prefix / name / f"{number:03d}.png", pixels.astype(np.uint8))
    return root
