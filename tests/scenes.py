"""Writes photographs that never were: landscapes by day and by night, for `studies/day_night.toml`.

    python tests/scenes.py FOLDER [--count 240] [--seed 0]

FOLDER then holds `day/` and `night/` as a camera card would: pictures of different sizes, upright and turned (by
EXIF), JPEG and PNG, grey, with transparency, with a palette, in 16 bits; one file that cannot be read and one
picture that is there twice. Overcast days are dark and towns at night are bright, so that the mean brightness
alone does not tell them apart; and one picture in six was taken at dusk or dawn, when the photographer put it into
either folder: no network can get these right, but it can learn them by heart.

Legend: H height, W width.
"""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.float64]
"""Red, green and blue in [0, 1], of shape [H, W, 3]."""

ROTATED = 6  # EXIF orientation: to be turned by a quarter clockwise before it is shown
TWILIGHT = 1 / 6
BROKEN, ORIGINAL, TWIN = "broken.jpg", "0008.jpg", "0008-again.jpg"


def sky(height: int, width: int, top: Pixels, horizon: Pixels) -> Pixels:
    """Returns a gradient from `top` to `horizon`, both of shape [3]."""
    ramp_H = np.linspace(0.0, 1.0, height)[:, None, None]
    return np.broadcast_to(top * (1 - ramp_H) + horizon * ramp_H, (height, width, 3)).copy()


def disc(pixels: Pixels, y: float, x: float, radius: float, colour: Pixels) -> None:
    """Paints a disc; position and radius in pixels."""
    rows, columns = np.ogrid[: pixels.shape[0], : pixels.shape[1]]
    pixels[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = colour


def hills(pixels: Pixels, colour: Pixels, rng: np.random.Generator) -> None:
    """Paints a wavy ridge over the lower part."""
    height, width = pixels.shape[:2]
    columns = np.linspace(0.0, 2 * np.pi, width)
    waves = rng.uniform(0.3, 1.0) * np.sin(columns * rng.uniform(0.5, 2.0) + rng.uniform(0, 6))
    ridge = (rng.uniform(0.55, 0.8) + 0.06 * waves) * height
    pixels[np.arange(height)[:, None] >= ridge[None, :]] = colour


def houses(pixels: Pixels, wall: Pixels, window: Pixels, rng: np.random.Generator) -> None:
    """Paints some houses on the ground, with windows of another colour."""
    height, width = pixels.shape[:2]
    for _ in range(rng.integers(1, 5)):
        tall, wide = int(height * rng.uniform(0.15, 0.35)), max(6, int(width * rng.uniform(0.1, 0.2)))
        left, top = int(rng.integers(0, max(1, width - wide))), height - tall
        pixels[top:, left : left + wide] = wall
        for row in range(top + 2, height - 2, 5):
            for column in range(left + 2, left + wide - 2, 5):
                if rng.random() < 0.6:
                    pixels[row : row + 2, column : column + 2] = window


def day(height: int, width: int, rng: np.random.Generator) -> Pixels:
    """Returns a landscape by day, clear or overcast."""
    light = rng.uniform(0.35, 1.0)
    top, horizon = np.array([0.3, 0.55, 0.95]), np.array([0.8, 0.88, 0.97])
    if light < 0.6:  # clouds take the blue away
        top, horizon = np.full(3, 0.7), np.full(3, 0.9)
    pixels = sky(height, width, top, horizon)
    if light >= 0.6:
        sun = rng.uniform(0.1, 0.4) * height, rng.uniform(0.1, 0.9) * width
        disc(pixels, *sun, 0.08 * height, np.array([1.0, 0.97, 0.75]))
    for _ in range(rng.integers(0, 4)):
        disc(pixels, rng.uniform(0, 0.4) * height, rng.uniform(0, 1) * width, 0.1 * height, np.full(3, 0.97))
    hills(pixels, np.array([0.25, 0.5, 0.2]) * rng.uniform(0.8, 1.3), rng)
    houses(pixels, np.array([0.75, 0.6, 0.5]), np.array([0.25, 0.3, 0.35]), rng)
    return pixels * light


def night(height: int, width: int, rng: np.random.Generator) -> Pixels:
    """Returns a landscape by night, with stars, perhaps the moon, and lit windows."""
    glow = rng.uniform(0.02, 0.35)  # of a town below the horizon
    pixels = sky(height, width, np.array([0.02, 0.03, 0.1]), np.array([glow, 0.8 * glow, 0.6 * glow]) + 0.03)
    stars = rng.random((height, width)) < rng.uniform(0.001, 0.01)
    pixels[stars] = rng.uniform(0.5, 1.0)
    if rng.random() < 0.5:
        moon = rng.uniform(0.1, 0.4) * height, rng.uniform(0.1, 0.9) * width
        disc(pixels, *moon, 0.07 * height, np.array([0.9, 0.9, 0.8]))
    hills(pixels, np.array([0.03, 0.05, 0.04]), rng)
    houses(pixels, np.array([0.08, 0.07, 0.07]), np.array([1.0, 0.85, 0.4]), rng)
    return pixels


def twilight(height: int, width: int, rng: np.random.Generator) -> Pixels:
    """Returns a landscape at dusk or dawn."""
    light = rng.uniform(0.25, 0.5)
    pixels = sky(height, width, np.array([0.15, 0.2, 0.45]), np.array([0.9, 0.5, 0.3]) * 2 * light)
    hills(pixels, np.array([0.1, 0.15, 0.1]) * 2 * light, rng)
    houses(pixels, np.array([0.3, 0.25, 0.2]), np.array([0.8, 0.7, 0.4]), rng)
    return pixels


def photograph(paint: Callable[..., Pixels], rng: np.random.Generator) -> Image.Image:
    """Returns a scene as a camera would have taken it: some size, some noise."""
    height = int(rng.integers(48, 160))
    width = int(height * rng.choice([4 / 3, 3 / 2, 16 / 9, 3 / 4]))
    pixels = paint(height, width, rng) + rng.normal(0.0, 0.03, (height, width, 3))
    return Image.fromarray((np.clip(pixels, 0.0, 1.0) * 255).astype(np.uint8))


def save_jpeg(image: Image.Image, stem: Path) -> None:
    image.save(stem.with_suffix(".jpg"), quality=90)


def save_grey(image: Image.Image, stem: Path) -> None:
    image.convert("L").save(stem.with_suffix(".jpg"))


def save_turned(image: Image.Image, stem: Path) -> None:
    """Saves a picture that lies on its side, with the note that says so, as cameras do."""
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    image.transpose(Image.Transpose.ROTATE_90).save(stem.with_suffix(".jpg"), exif=exif, quality=90)


def save_transparent(image: Image.Image, stem: Path) -> None:
    image.putalpha(255)
    image.save(stem.with_suffix(".png"))


def save_palette(image: Image.Image, stem: Path) -> None:
    image.convert("P", palette=Image.Palette.ADAPTIVE).save(stem.with_suffix(".png"))


def save_16_bits(image: Image.Image, stem: Path) -> None:
    grey = np.asarray(image.convert("L"), np.uint16) * 257
    Image.fromarray(grey).save(stem.with_suffix(".png"))


# Most pictures are plain JPEGs, as on a camera card.
FORMS = [save_jpeg, save_jpeg, save_jpeg, save_jpeg, save_turned, save_grey, save_transparent, save_palette]


def write_scenes(folder: Path, count: int = 240, seed: int = 0) -> None:
    """Writes `count` scenes, half of them by day; then the file that is broken and the one that is there twice.

    The twin has another name, so that chance may put it and its original into different parts.
    """
    rng = np.random.default_rng(seed)
    for paint in (day, night):
        home = folder / paint.__name__
        home.mkdir(parents=True, exist_ok=True)
        for number in range(count // 2):
            save = save_16_bits if number == 1 else FORMS[number % len(FORMS)]
            scene = twilight if rng.random() < TWILIGHT else paint
            save(photograph(scene, rng), home / f"{number:04d}")
    original = folder / "night" / ORIGINAL
    whole = original.read_bytes()
    (folder / "night" / BROKEN).write_bytes(whole[: len(whole) // 3])
    shutil.copy(original, folder / "night" / TWIN)


def write_clips(folder: Path, clips: int = 6, frames: int = 8, seed: int = 0, alike: bool = True) -> None:
    """Writes frames of films, so many by day and by night: `day/clip3_0007.jpg`.

    Args:
        alike: whether a film shows one scene, along which the camera moves; if not, each frame is another scene.
    """
    rng = np.random.default_rng(seed)
    height, width = 64, 96
    for paint in (day, night):
        home = folder / paint.__name__
        home.mkdir(parents=True, exist_ok=True)
        for clip in range(clips):
            scene = twilight if rng.random() < TWILIGHT else paint
            film = scene(height, width + 2 * frames, rng)
            for frame in range(frames):
                pixels = film[:, 2 * frame : 2 * frame + width] if alike else scene(height, width, rng)
                noisy = np.clip(pixels + rng.normal(0.0, 0.03, pixels.shape), 0.0, 1.0)
                image = Image.fromarray((noisy * 255).astype(np.uint8))
                image.save(home / f"clip{clip}_{frame:04d}.jpg", quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes photographs of scenes by day and by night.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=240, help="scenes in all, 20 at least")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_scenes(arguments.folder, arguments.count, arguments.seed)
    print(f"{arguments.count} scenes, one broken file and one twin in {arguments.folder}")


if __name__ == "__main__":
    main()
