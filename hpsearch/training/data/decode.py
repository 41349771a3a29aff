"""Single images as arrays [C, H, W]: photographs through Pillow, and whatever a data set's items hold.

Transparent pixels become black, as does what augmentation moves in from outside the image.
"""

from concurrent.futures import Executor
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps

from hpsearch.errors import DataError
from hpsearch.training.data import pixels
from hpsearch.training.data.catalogue import Array, Size

_GREY = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N", "La")
_TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")

LARGE = 12_000_000
"""Pixels above which a picture counts as large: it takes up to some 20 bytes a pixel while it is decoded."""


def is_grey(image: Image.Image) -> bool:
    """Whether a picture has no colours; needs only the file's header."""
    return image.mode in _GREY


def upright_size(image: Image.Image) -> Size:
    """Returns the size of a picture after EXIF's rotation; needs only the file's header."""
    width, height = image.size
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def read_file(
    path: Path | IO[bytes], size: Size | None, channels: int, large: Executor | None = None
) -> Array:
    """Reads a picture as bytes of shape [channels, H, W].

    Args:
        size: to scale and cut to (see `pixels.resize`); None keeps the picture's own.
        large: decodes the large ones, one at a time. Its thread, and not each thread of many, then keeps the
            memory of the largest: allocators give little back.

    Raises:
        OSError, ValueError, SyntaxError: it cannot be decoded.
    """
    with Image.open(path) as image:
        if size is not None and image.format == "JPEG":
            # The decoder itself can halve a large picture, which saves most of the work. Twice the wanted
            # size is left for antialiasing; both ways around, since EXIF may turn it yet.
            image.draft(None, (2 * max(pixels.cover(image.size, size)),) * 2)
        if large is not None and image.width * image.height > LARGE:
            return large.submit(from_pillow, image, size, channels).result()
        return from_pillow(image, size, channels)


def from_pillow(image: Image.Image, size: Size | None, channels: int) -> Array:
    """Returns a picture of any mode as bytes of shape [channels, H, W]."""
    upright = ImageOps.exif_transpose(_to_bytes(image))
    picture = upright.convert("L" if channels == 1 else "RGB")
    if size is not None and (picture.height, picture.width) != size:
        scaled = pixels.cover((picture.height, picture.width), size)
        picture = picture.resize((scaled[1], scaled[0]), Image.Resampling.BILINEAR)
        top, left = ((have - want) // 2 for have, want in zip(scaled, size, strict=True))
        picture = picture.crop((left, top, left + size[1], top + size[0]))
    array = np.asarray(picture)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def _to_bytes(image: Image.Image) -> Image.Image:
    """Returns a picture with 8 bits per channel and no transparency."""
    if image.mode.startswith(("I", "F")):
        return _from_deep(image)
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        colours = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        flat = Image.alpha_composite(black, colours)
        flat.info = image.info
        return _with_exif(flat, image)
    return image


def _from_deep(image: Image.Image) -> Image.Image:
    """Returns a picture of 16-bit or floating-point pixels as bytes: 65535 or 1.0 become 255."""
    values = np.asarray(image).astype(np.float64)
    most = values.max(initial=0.0)
    if image.mode == "F" and most <= 1.0:
        values = values * 255
    elif most > 255 or image.mode.startswith("I;16"):
        values = values / 257
    grey = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    return _with_exif(grey, image)


def _with_exif(changed: Image.Image, original: Image.Image) -> Image.Image:
    """Returns a changed picture that still knows which way is up."""
    orientation = original.getexif().get(0x0112, 1)
    changed.info = {}
    if orientation != 1:
        changed.getexif()[0x0112] = orientation
    return changed


def from_item(image: Any, layout: str, where: str) -> Array:
    """Returns a data set's image, a picture or an array or a tensor, as [C, H, W] in bytes or float32.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(image, Image.Image):
        return from_pillow(image, None, 1 if is_grey(image) else 3)
    try:
        array: Array = np.asarray(image)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{where} is no image ({error}); return a picture, an array or a tensor") from error
    if array.ndim not in (2, 3) or not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise DataError(
            f"{where} is {type(image).__name__} of shape {list(array.shape)} and type {array.dtype}, "
            "which is no image; return a picture, an array or a tensor"
        )
    pixels.refuse_complex(array.dtype, where)
    found = pixels.find_layout((1, *array.shape), layout, where)
    dtype = "uint8" if array.dtype in (np.uint8, np.bool_) else "float32"
    stored: Array = pixels.to_stored(pixels.channels_first(array[None], found), dtype)[0]
    return stored
