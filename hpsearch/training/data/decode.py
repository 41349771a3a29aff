"""Single images as arrays [C, H, W]: photographs through Pillow, and whatever a data set's items hold.

Transparent pixels become black, as does what augmentation moves in from outside the image. Deep pictures, of
more than 8 bits, keep the values that they have in the file, for only a whole data set tells what of them is
black and white; among pictures of 8 bits they become bytes.
"""

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from PIL import Image, ImageFile, ImageOps

from hpsearch.errors import DataError, HpsearchError
from hpsearch.files.paths import regular
from hpsearch.training.data import pixels
from hpsearch.training.data.catalogue import Array, Size, find_flawed

Item = TypeVar("Item")
Result = TypeVar("Result")

_GREY = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N", "La")
_TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")

LARGE = 12_000_000
"""Pixels above which a picture counts as large: it takes up to some 20 bytes a pixel while it is decoded."""

_MOST_DEEP = 90_000_000  # pixels of a deep picture, each of which takes some 12 bytes or more

DEPTHS = {
    "bool": "1-bit", "uint8": "8-bit", "uint16": "16-bit", "int16": "signed 16-bit", "int32": "32-bit",
    "uint32": "32-bit", "float32": "floating-point", "float64": "floating-point",
}  # fmt: skip
"""What images of a number type are called."""


def a_depth(kind: str) -> str:
    """Returns what an image of a number type is called, with its article."""
    name = DEPTHS[kind]
    return f"{'an' if name.startswith('8') else 'a'} {name}"


WHITE = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}
"""What is white in number types where pictures of several come together."""

FULL = 16_384
"""What 16-bit pictures among those of 8 bits must reach for 65535 to be taken for their white. Those of cameras
with 12 or 14 bits would become all but black."""


@dataclass(frozen=True, slots=True)
class Form:
    """What pictures are decoded to, but for their size and channels.

    Attributes:
        resize: the rule of `data.resize`.
        dtype: "uint8", or "float32" where all pictures are deep.
        range: values of deep pictures that become 0 and 255 among bytes; None: 0 and `WHITE`.
    """

    resize: str = "crop"
    dtype: str = "uint8"
    range: tuple[float, float] | None = None

    @property
    def tag(self) -> str:
        """What of it belongs into the names of cache entries; "" for bytes that are cut."""
        rule = "" if self.resize == "crop" else self.resize
        deep = "" if self.dtype == "uint8" else self.dtype
        return rule + deep + ("" if self.range is None else f"from{self.range[0]!r}to{self.range[1]!r}")


BYTES = Form()


def is_grey(image: Image.Image) -> bool:
    """Whether a picture has no colours; needs only the file's header."""
    return image.mode in _GREY or _raw_mode(image).startswith("LA")


def depth(image: Image.Image) -> str:
    """Returns the number type of a picture's values, "uint8" for 8 bits or fewer; needs only the header."""
    raw = _raw_mode(image)
    if image.mode == "F":
        return "float32"
    if image.mode != "I":
        return "uint16" if image.mode.startswith("I;16") or ";16" in raw else "uint8"
    if ";16" in raw:
        return "int16" if raw.endswith("S") else "uint16"
    return "uint32" if raw.startswith("I;32") and not raw.endswith("S") else "int32"


def _raw_mode(image: Image.Image) -> str:
    """Returns Pillow's name for the form of the pixels in a file that is not decoded yet; "" otherwise."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    first = args if isinstance(args, str) or not args else args[0]
    return first if isinstance(first, str) else ""


def upright_size(image: Image.Image) -> Size:
    """Returns the size of a picture after EXIF's rotation; needs only the file's header."""
    width, height = image.size
    # Of a TIFF, Pillow tells the upright size already.
    turned = image.format != "TIFF" and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


@contextmanager
def open_picture(path: str | Path | IO[bytes]) -> Iterator[ImageFile.ImageFile]:
    """Opens a picture as a file, for Pillow would map a path into memory, and then mistakes rotated TIFFs.

    Raises:
        OSError, ValueError, SyntaxError: it cannot be opened, or decoded within the `with`.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(regular(path).open("rb")) if isinstance(path, str | Path) else path
        try:
            yield stack.enter_context(Image.open(file))
        except (HpsearchError, OSError, ValueError, SyntaxError):
            raise
        except Exception as error:  # damaged files make decoders raise whatever they stumble on
            raise ValueError(f"it is damaged, or far too large: {error or type(error).__name__}") from error


def read_file(
    path: Path | IO[bytes],
    size: Size | None,
    channels: int,
    large: Executor | None = None,
    form: Form = BYTES,
) -> Array:
    """Reads a picture as an array of shape [channels, H, W].

    Args:
        size: to bring it to (see `pixels.resized`); None keeps the picture's own.
        large: decodes the large ones, one at a time. Its thread, and not each thread of many, then keeps the
            memory of the largest: allocators give little back.

    Raises:
        OSError, ValueError, SyntaxError: it cannot be decoded, or not to this form.
    """
    with open_picture(path) as image:
        if size is not None and image.format == "JPEG":
            # The decoder itself can halve a large picture, which saves most of the work. Twice the wanted
            # size is left for antialiasing; both ways around, since EXIF may turn it yet.
            image.draft(None, (2 * max(pixels.cover(image.size, size)),) * 2)
        decode = partial(_decode, image, path, size, channels, form)
        if large is not None and image.width * image.height > LARGE:
            return large.submit(decode).result()
        return decode()


def _decode(
    image: Image.Image, path: Path | IO[bytes], size: Size | None, channels: int, form: Form
) -> Array:
    kind = depth(image)
    if form.dtype != "uint8":
        if kind == "uint8":
            raise ValueError("it is an 8-bit picture and all others are deeper; convert it to the same depth")
        return fit(values(image, path), size, channels, form.resize)
    if kind != "uint8" and (image.mode in _GREY or form.range is not None):
        image = _to_bytes(values(image, path), kind, form.range)
    return from_pillow(image, size, channels, form.resize)


def values(image: Image.Image, path: str | Path | IO[bytes] | None) -> Array:
    """Returns the values of a deep picture as they are in its file, upright, float32 of shape [C, H, W].

    Args:
        path: of the file, which is read twice if the picture has colours.

    Raises:
        ValueError: it is far too large, or Pillow cannot give all of its bits.
    """
    if image.width * image.height > _MOST_DEEP:
        raise ValueError(
            f"it has {image.width * image.height:,} pixels of more than 8 bits, and at most "
            f"{_MOST_DEEP:,} can be read; crop it"
        )
    raw, kind = _raw_mode(image), depth(image)
    if image.mode in _GREY:
        array = np.asarray(ImageOps.exif_transpose(image))
        if find_flawed(array[None])[0]:
            raise ValueError("it holds NaN or infinite values")
        return (array.view(np.uint32) if kind == "uint32" else array).astype(np.float32)[None]
    form, _, order = raw.partition(";16")
    if path is None or form not in ("RGB", "RGBA", "RGBX", "LA"):
        raise ValueError(
            f"Pillow reads only 8 of its 16 bits ({raw}); save it as a 16-bit PNG in RGB or grey"
        )
    # Pillow gives the upper byte of each value. In the other byte order, that is the lower one.
    if form == "LA":
        four = _bytes_of(path, "RGBA")
        upper, lower = four[..., ::2], four[..., 1::2]
    else:
        little = order == "L" or (order == "N" and sys.byteorder == "little")
        upper = np.asarray(ImageOps.exif_transpose(image))
        lower = _bytes_of(path, f"{form};16{'B' if little else 'L'}")
    deep = (upper.astype(np.float32) * 256 + lower).transpose(2, 0, 1)
    return deep if form in ("RGB", "RGBX") else deep[:-1] * (deep[-1:] / 65535)


def _bytes_of(path: str | Path | IO[bytes], raw_mode: str) -> Array:
    """Returns a picture's pixels as if they lay in the file in another form."""
    with open_picture(path) as image:
        image.tile = [
            tile._replace(args=(raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode)
            for tile in image.tile
        ]
        return np.asarray(ImageOps.exif_transpose(image))


def _to_bytes(deep: Array, kind: str, known: tuple[float, float] | None) -> Image.Image:
    """Returns a deep picture with 8 bits per channel.

    Raises:
        ValueError: nothing says which of its values are black and white.
    """
    if known is None and kind not in WHITE:
        raise ValueError(
            f"it is {a_depth(kind)} picture among those of 8 bits, and nothing says which of its values are "
            "black and white; say it by data.range"
        )
    low, high = known or (0.0, WHITE[kind])
    scaled = ((deep - low) * (255 / (high - low))).round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(scaled[0] if len(scaled) == 1 else scaled.transpose(1, 2, 0))


def fit(image_CHW: Array, size: Size | None, channels: int, rule: str) -> Array:
    """Returns an image with so many channels, at a size; one channel is repeated."""
    if image_CHW.shape[0] != 1:
        image_CHW = pixels.to_channels(image_CHW[None], channels)[0]
    sized = image_CHW if size is None else pixels.resize(image_CHW[None], size, rule)[0]
    return np.repeat(sized, channels, 0) if sized.shape[0] == 1 else sized


def from_pillow(image: Image.Image, size: Size | None, channels: int, rule: str = "crop") -> Array:
    """Returns a picture of 8 bits, of any mode, as bytes of shape [channels, H, W]."""
    upright = ImageOps.exif_transpose(_without_transparency(image))
    picture = upright.convert("L" if channels == 1 else "RGB")
    if size is not None and (picture.height, picture.width) != size:
        scaled = pixels.scaled_size((picture.height, picture.width), size, rule)
        picture = picture.resize((scaled[1], scaled[0]), Image.Resampling.BILINEAR)
        top, left = pixels.edges(scaled, size)
        picture = picture.crop((left, top, left + size[1], top + size[0]))  # black where it is outside
    array = np.asarray(picture)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def _without_transparency(image: Image.Image) -> Image.Image:
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        colours = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        flat = Image.alpha_composite(black, colours)
        flat.info = image.info
        return _with_exif(flat, image)
    return image


def _with_exif(changed: Image.Image, original: Image.Image) -> Image.Image:
    """Returns a changed picture that still knows which way is up."""
    orientation = original.getexif().get(0x0112, 1)
    changed.info = {}
    if orientation != 1:
        changed.getexif()[0x0112] = orientation
    return changed


def number_type(image: Any) -> str:
    """Returns the number type of what `from_item` takes."""
    return depth(image) if isinstance(image, Image.Image) else str(np.asarray(image).dtype.name)


def from_item(image: Any, layout: str, where: str) -> Array:
    """Returns a data set's image, a picture or an array or a tensor, as [C, H, W] in bytes or float32.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(image, Image.Image):
        try:
            if depth(image) != "uint8":
                return values(image, getattr(image, "filename", None) or None)
            return from_pillow(image, None, 1 if is_grey(image) else 3)
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{where} cannot be read: {error}; remove or replace it") from error
    try:
        array: Array = np.asarray(image)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{where} is not an image ({error}); return a picture, an array or a tensor"
        ) from error
    if array.ndim not in (2, 3) or not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise DataError(
            f"{where} is {type(image).__name__} of shape {list(array.shape)} and type {array.dtype}, "
            "which is not an image; return a picture, an array or a tensor"
        )
    pixels.refuse_complex(array.dtype, where)
    found = pixels.find_layout((1, *array.shape), layout, where)
    dtype = "uint8" if array.dtype in (np.uint8, np.bool_) else "float32"
    stored: Array = pixels.to_stored(pixels.channels_first(array[None], found), dtype)[0]
    return stored


def in_order(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yields what a function returns for each item; at most twice as many items as threads are under way.

    Threads do as well as processes here: Pillow and NumPy release the interpreter's lock where they decode and scale.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
