"""What is done to pixels once, on their way into the cache: layout, number type, channels, size.

Legend: n images of a chunk, C channels, H height, W width.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from hpsearch.errors import DataError
from hpsearch.training.data.catalogue import Array, Size

# ITU-R BT.601, as Pillow and torchvision turn colour to grey.
LUMA = (0.299, 0.587, 0.114)
_MOST_CHANNELS = 4


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


def resize(chunk_nCHW: Array, size: Size) -> Array:
    """Returns images scaled with antialiasing until they cover the size, and cut to it at the centre."""
    height, width = chunk_nCHW.shape[2:]
    if (height, width) == size:
        return chunk_nCHW
    images = torch.from_numpy(chunk_nCHW.astype(np.float32))
    scaled = F.interpolate(
        images, cover((height, width), size), mode="bilinear", align_corners=False, antialias=True
    )
    top, left = ((have - want) // 2 for have, want in zip(scaled.shape[2:], size, strict=True))
    cut: Array = scaled[:, :, top : top + size[0], left : left + size[1]].numpy()
    return cut.round().clip(0, 255).astype(np.uint8) if chunk_nCHW.dtype == np.uint8 else cut


def cover(have: Size, want: Size) -> Size:
    """Returns the smallest size of the same proportions that covers the wanted one."""
    scale = max(want[0] / have[0], want[1] / have[1])
    return max(want[0], round(have[0] * scale)), max(want[1], round(have[1] * scale))


@dataclass(frozen=True, slots=True)
class Statistics:
    """What normalising needs to know of the training part.

    Attributes:
        mean, std: per channel, of the pixels after scaling.
        scale, offset: pixel values are (stored value - offset) * scale, which lie in [0, 1].
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    offset: float


def statistics(chunks: Iterable[Array], dtype: str) -> Statistics:
    """Measures images chunk by chunk, in float64.

    Raises:
        DataError: a value is NaN or infinite.
    """
    count, sums, squares = 0, np.zeros(1), np.zeros(1)
    low, high = np.inf, -np.inf
    for chunk in chunks:
        if dtype == "uint8":
            part = [_byte_moments(chunk[:, channel]) for channel in range(chunk.shape[1])]
            total, square = np.array(part).T
        else:
            values = chunk.astype(np.float64)
            total, square = values.sum((0, 2, 3)), (values**2).sum((0, 2, 3))
            low, high = min(low, values.min()), max(high, values.max())
        count += chunk[:, 0].size
        sums, squares = sums + total, squares + square
    if not np.isfinite(sums).all():
        raise DataError(
            "data.dataset: the training images hold NaN or infinite values; remove or replace these images"
        )
    scale, offset = (1 / 255, 0.0) if dtype == "uint8" else _to_unit(float(low), float(high))
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
