"""What is done to pixels once, on their way into the cache: layout, number type, channels, size.

Legend: n images of a chunk, C channels, H height, W width.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hpsearch.errors import DataError
from hpsearch.training.data.catalogue import Array, Size

# ITU-R BT.601, as Pillow and torchvision turn colour to grey.
LUMA = (0.299, 0.587, 0.114)
_MOST_CHANNELS = 4
_WHOLE = 1 << 22  # of weights when bytes are resized


def find_layout(shape: tuple[int, ...], layout: str, where: str) -> str:
    """Returns "HW", "HWC" or "CHW" for an array of images of shape [N, ...].

    Raises:
        DataError: the shape is not that of images, or leaves the order of the axes open.
    """
    if len(shape) == 3:
        return "HW"
    if len(shape) != 4:
        raise DataError(
            f"{where} has the shape {list(shape)}; images must be [N, H, W], [N, H, W, C] or [N, C, H, W]"
        )
    if layout != "auto":
        return layout
    first, last = shape[1], shape[3]
    fits = {"CHW": first <= _MOST_CHANNELS, "HWC": last <= _MOST_CHANNELS}
    if all(fits.values()):  # such as [N, 3, 4, 4]: an ordinary number of channels wins
        fits = {"CHW": first in (1, 3), "HWC": last in (1, 3)}
    found = [name for name, fit in fits.items() if fit]
    if len(found) != 1:
        raise DataError(
            f"{where} has the shape {list(shape)}, which does not show where the channels are; set "
            'data.layout to "HWC" or "CHW"'
        )
    return found[0]


def refuse_complex(dtype: np.dtype[Any], where: str) -> None:
    """Refuses complex images, of which only the real part would be kept.

    Raises:
        DataError: they are complex.
    """
    if np.issubdtype(dtype, np.complexfloating):
        raise DataError(
            f"{where} holds {dtype} images, whose imaginary part would be lost; save numpy.abs of them, or the "
            "real and the imaginary part as two channels"
        )


def measure(shape: tuple[int, ...], layout: str) -> tuple[int, Size]:
    """Returns the channels and the size of images of shape [N, ...]."""
    if layout == "HW":
        return 1, (shape[1], shape[2])
    channels, height, width = (shape[3], *shape[1:3]) if layout == "HWC" else shape[1:4]
    return channels, (height, width)


def channels_first(chunk: Array, layout: str) -> Array:
    """Returns images of shape [n, C, H, W]."""
    if layout == "HW":
        return chunk[:, None]
    return chunk.transpose(0, 3, 1, 2) if layout == "HWC" else chunk


def slices(images: Array, size: int) -> Iterator[Array]:
    """Yields an array of images in pieces of at most so many bytes, of one image at the least."""
    step = max(1, size // max(1, images[:1].nbytes))
    for start in range(0, len(images), step):
        yield images[start : start + step]


def stored_type(dtype: np.dtype[Any], low: float, high: float) -> str:
    """Returns the number type to keep images in: "uint8" if that loses nothing, else "float32"."""
    if dtype == np.bool_ or (np.issubdtype(dtype, np.integer) and low >= 0 and 1 < high <= 255):
        return "uint8"
    return "uint8" if dtype == np.uint8 else "float32"


def to_stored(chunk: Array, dtype: str) -> Array:
    """Returns images in the number type that they are kept in; booleans become 0 and 255."""
    scaled = chunk.astype(np.uint8) * np.uint8(255) if chunk.dtype == bool else chunk
    return scaled.astype(dtype, copy=False)


def to_channels(chunk_nCHW: Array, channels: int) -> Array:
    """Returns images with one channel made of three; one is made three only when batches are made."""
    if chunk_nCHW.shape[1] == channels:
        return chunk_nCHW
    weights = np.array(LUMA, np.float32)
    grey: Array = np.einsum("nchw,c->nhw", chunk_nCHW.astype(np.float32), weights)[:, None]
    return grey.round().astype(np.uint8) if chunk_nCHW.dtype == np.uint8 else grey


def check_channels(have: int, want: int | None) -> tuple[int, int]:
    """Returns the channels to keep and the channels to show.

    Raises:
        DataError: these images cannot be shown with so many channels.
    """
    if want is None or want == have:
        return have, have
    if (have, want) not in {(1, 3), (3, 1)}:
        raise DataError(
            f"data.channels is {want} and the images have {have} channels; only 1 and 3 are converted, so "
            "leave it out"
        )
    return 1, want


def resize(chunk_nCHW: Array, size: Size, rule: str = "crop") -> Array:
    """Returns images at another size, bytes as bytes."""
    if chunk_nCHW.shape[2:] == size:
        return chunk_nCHW
    is_bytes = chunk_nCHW.dtype == np.uint8
    images = torch.from_numpy(chunk_nCHW.astype(np.float32))
    fitted: Array = resized(images, size, rule, black=is_bytes, whole=is_bytes).numpy()
    return fitted.astype(np.uint8) if is_bytes else fitted


def resized(images_nCHW: Tensor, size: Size, rule: str, *, black: bool, whole: bool) -> Tensor:
    """Returns images scaled with antialiasing, and brought to the size by the rule of `data.resize`.

    Args:
        black: what "pad" adds is 0; else it is each image's own smallest value, for 0 means nothing where
            values have a range of their own.
        whole: the values are those of bytes, and are rounded to such.
    """
    have = (images_nCHW.shape[2], images_nCHW.shape[3])
    scaled = scaled_size(have, size, rule)
    if scaled != have:
        if whole:
            across = _bytes_along(images_nCHW, scaled[1])
            images_nCHW = _bytes_along(across.mT, scaled[0]).mT.to(images_nCHW.dtype)
        else:
            images_nCHW = F.interpolate(
                images_nCHW, scaled, mode="bilinear", align_corners=False, antialias=True
            )
    top, left = edges(scaled, size)
    if rule != "pad":
        return images_nCHW[:, :, top : top + size[0], left : left + size[1]]
    fill = 0 * images_nCHW[:, :1, :1, :1] if black else images_nCHW.amin((1, 2, 3), keepdim=True)
    whole_nCHW = fill.expand(-1, images_nCHW.shape[1], *size).clone()
    whole_nCHW[:, :, -top : scaled[0] - top, -left : scaled[1] - left] = images_nCHW
    return whole_nCHW


def _bytes_along(images: Tensor, want: int) -> Tensor:
    """Returns bytes scaled along the last axis as Pillow does it, by which pictures in files are resized.

    It computes in whole numbers (`Resample.c`): weights in 22 bits, and bytes again behind each axis. `resized` begins
    with the width; some versions of Pillow begin with the height where that is scaled down more, which moves some
    values by 1.
    """
    have = images.shape[-1]
    if have == want:
        return images
    scale = have / want
    reach = max(scale, 1.0)
    centres = (np.arange(want) + 0.5) * scale
    first = np.maximum((centres - reach + 0.5).astype(int), 0)
    behind = np.minimum((centres + reach + 0.5).astype(int), have)
    taps = first[:, None] + np.arange((behind - first).max())
    weights = np.maximum(1 - abs(taps + 0.5 - centres[:, None]) / reach, 0) * (taps < behind[:, None])
    weights /= weights.sum(1, keepdims=True)
    shares = torch.from_numpy((weights * _WHOLE + 0.5).astype(np.int32)).to(images.device)
    places = torch.from_numpy(np.minimum(taps, have - 1)).to(images.device)
    values = images.clamp(0, 255).to(torch.int32)
    total = torch.full_like(values[..., :1], _WHOLE // 2)
    for tap in range(taps.shape[1]):
        total = total + values[..., places[:, tap]] * shares[:, tap]
    return torch.div(total, _WHOLE, rounding_mode="floor").clamp(0, 255)


def scaled_size(have: Size, want: Size, rule: str) -> Size:
    """Returns the size that an image is scaled to before its edges are cut off ("crop") or bars added ("pad")."""
    if rule == "squash":
        return want
    if rule == "crop":
        return cover(have, want)
    scale = min(want[0] / have[0], want[1] / have[1])
    height, width = (max(1, min(w, round(h * scale))) for h, w in zip(have, want, strict=True))
    return height, width


def edges(scaled: Size, want: Size) -> Size:
    """Returns where the wanted rows and columns begin in what was scaled; negative outside of it."""
    return (scaled[0] - want[0]) // 2, (scaled[1] - want[1]) // 2


def cover(have: Size, want: Size) -> Size:
    """Returns the smallest size of the same proportions that covers the wanted one."""
    scale = max(want[0] / have[0], want[1] / have[1])
    return max(want[0], round(have[0] * scale)), max(want[1], round(have[1] * scale))


@dataclass(frozen=True, slots=True)
class Statistics:
    """What normalising needs to know of the training part.

    Attributes:
        mean, std: per channel, of the pixels after scaling; the std of a channel of one value is 1.
        scale, offset: pixel values are (stored value - offset) * scale, which lie in [0, 1].
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    offset: float

    @property
    def range(self) -> tuple[float, float]:
        """The stored values that become 0 and 1."""
        return self.offset, self.offset + 1 / self.scale

    def scaled(self, scale: float, offset: float) -> "Statistics":
        """Returns the same statistics of pixels that are scaled otherwise."""
        if (scale, offset) == (self.scale, self.offset):
            return self
        mean = tuple((one / self.scale + self.offset - offset) * scale for one in self.mean)
        std = tuple(one if one == 1.0 else one / self.scale * scale for one in self.std)
        return replace(self, mean=mean, std=std, scale=scale, offset=offset)


def statistics(chunks: Iterable[Array], dtype: str) -> Statistics:
    """Measures images chunk by chunk, in float64; where one chunk ends makes no difference to the last bit.

    Raises:
        DataError: a value is NaN or infinite, or float32 cannot tell the values apart.
    """
    count, low, high = 0, math.inf, -math.inf
    found: list[Array] = []  # sums and sums of squares of images, [2, n, C]
    for chunk in chunks:
        if dtype == "uint8":
            part = [_byte_moments(chunk[:, channel]) for channel in range(chunk.shape[1])]
            found.append(np.array(part).T[:, None])
        else:
            values = chunk.astype(np.float64)
            found.append(np.stack([values.sum((2, 3)), (values**2).sum((2, 3))]))
            low, high = min(low, values.min()), max(high, values.max())
        count += chunk[:, 0].size
    moments = np.concatenate(found, 1)
    if not np.isfinite(moments).all():
        raise DataError(
            "data.dataset: the training images hold NaN or infinite values; remove or replace these images"
        )
    # Sums that are exact do not depend on the order: a stream's are those of the images in memory.
    sums, squares = (np.array([math.fsum(one) for one in kind.T]) for kind in moments)
    if dtype == "uint8":
        scale, offset = 1 / 255, 0.0
    else:
        refuse_lost(float(low), float(high), "data.dataset: the training images")
        scale, offset = _to_unit(float(low), float(high))
    mean = sums / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0)) * scale
    std = np.where(std > 1e-8, std, 1.0)
    return Statistics(tuple(((mean - offset) * scale).tolist()), tuple(std.tolist()), scale, offset)


def _byte_moments(values: Array) -> tuple[float, float]:
    """Returns the sum and the sum of squares of bytes, from their histogram: exact, and fast."""
    counts = np.bincount(values.reshape(-1), minlength=256).astype(np.float64)
    levels = np.arange(256)
    return float(counts @ levels), float(counts @ levels**2)


def _to_unit(low: float, high: float) -> tuple[float, float]:
    """Returns scale and offset that bring floats into [0, 1]; those that lie there stay as they are."""
    if (low >= 0 and high <= 1) or high == low:
        return 1.0, 0.0
    return 1 / (high - low), low


def are_scaled(low: float, high: float, black: float, white: float) -> bool:
    """Whether values look like [0, 1] or bytes, and not like the dark ones of a far wider range.

    The values of images of a range are hardly ever all in a 25th of it; those of bytes, in the lowest eighth.
    """
    if low < 0 or high <= 0:
        return False
    black = min(black, 0.0)  # a range is no narrower for lying far from 0
    return white - black > 25 if high <= 1 else high <= 255 and (255 - black) * 8 < white - black


def refuse_lost(low: float, high: float, where: str) -> None:
    """Refuses values of which float32 would keep fewer than 256 levels, such as those near 1e9.

    Raises:
        DataError: it would.
    """
    if low < high and high - low < 256 * 2.0**-23 * max(-low, high):
        raise DataError(
            f"{where} hold values from {low!r} to {high!r}, which float32 cannot tell apart; subtract {low:g} "
            "from them first"
        )
