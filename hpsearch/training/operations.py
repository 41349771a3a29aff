"""The operations of TrivialAugment and RandAugment, drawn and applied for a whole batch at once.

Each image gets one operation with a strength of its own. Those that move pixels share one interpolation; those that
blend an image with a duller one share one blend. The others are computed for all images, and each takes what it drew:
nothing here is read back from the device.

Strengths and formulas are torchvision's; images are floats in [0, 1] and are rounded to bytes only where an operation
is one on bytes (posterize, equalize). Pixels are interpolated bilinearly, and what comes in from outside is black.

Legend: B batch, C channels, H height, W width, M strengths; matrix_B23 as in `hpsearch.training.transforms`.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from hpsearch.study import augment as spec
from hpsearch.training import transforms
from hpsearch.training.transforms import Size

OPERATIONS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast",
    "sharpness", "posterize", "solarize", "auto_contrast", "equalize",
)  # fmt: skip

BINS = 31
_SIGNED = (
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
)
_BYTE = 255.0


def strengths(size: Size, wide: bool) -> Tensor:
    """Returns how strong each operation is at each of the 31 steps, of shape [operations, M].

    Args:
        wide: of TrivialAugment's wide space; else of RandAugment's.
    """
    height, width = size
    factor = 0.99 if wide else 0.9
    most: Mapping[str, float] = {
        "shear_x": 0.99 if wide else 0.3,
        "shear_y": 0.99 if wide else 0.3,
        "translate_x": 32.0 if wide else 150 / 331 * width,
        "translate_y": 32.0 if wide else 150 / 331 * height,
        "rotate": 135.0 if wide else 30.0,
        **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), factor),
    }
    table = torch.zeros(len(OPERATIONS), BINS)
    for row, name in enumerate(OPERATIONS):
        if name in most:
            table[row] = torch.linspace(0.0, most[name], BINS)
        elif name == "posterize":
            table[row] = (8 - torch.arange(BINS) / ((BINS - 1) / (6 if wide else 4))).round()
        elif name == "solarize":
            table[row] = torch.linspace(1.0, 0.0, BINS)
    return table


def draw_trivial(
    entry: spec.TrivialAugment, batch: int, table: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Draws an operation and its strength for each image, both of shape [B]; "identity" for images left alone."""
    steps_B = torch.randint(BINS, (batch,), generator=generator, device=generator.device)
    return _draw(entry, batch, table, steps_B, generator)


def draw_rand(
    entry: spec.RandAugment, batch: int, table: Tensor, generator: Generator
) -> list[tuple[Tensor, Tensor]]:
    """Draws `count` operations for each image, each as `draw_trivial` does; none of them for images left alone."""
    steps_B = torch.full((batch,), entry.magnitude, device=generator.device)
    certain = entry.model_copy(update={"p": 1.0})
    alone_B = torch.rand(batch, generator=generator, device=generator.device) >= entry.p
    drawn = [_draw(certain, batch, table, steps_B, generator) for _ in range(entry.count)]
    return [(operation_B.masked_fill(alone_B, 0), strength_B) for operation_B, strength_B in drawn]


def _draw(
    entry: spec.Transform, batch: int, table: Tensor, steps_B: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    device = generator.device
    alone_B = torch.rand(batch, generator=generator, device=device) >= entry.p
    operation_B = torch.randint(len(OPERATIONS), (batch,), generator=generator, device=device)
    operation_B = operation_B.masked_fill(alone_B, 0)
    flips_B = torch.rand(batch, generator=generator, device=device) <= 0.5
    strength_B = table[operation_B, steps_B]
    return operation_B, torch.where(flips_B & _is(operation_B, *_SIGNED), -strength_B, strength_B)


def _is(operation_B: Tensor, *names: str) -> Tensor:
    """Returns booleans of shape [B]: whether an image drew one of these."""
    found = torch.zeros_like(operation_B, dtype=torch.bool)
    for name in names:
        found |= operation_B == OPERATIONS.index(name)
    return found


def apply(images: Tensor, operation_B: Tensor, strength_B: Tensor) -> Tensor:
    """Returns images of which each has undergone its operation; those with "identity" are the same to the bit."""

    def choose(result: Tensor, *names: str) -> None:
        nonlocal images
        images = torch.where(_is(operation_B, *names)[:, None, None, None], result, images)

    given = images
    size = given.shape[-2], given.shape[-1]
    choose(transforms.warp(given, matrix(operation_B, strength_B, size)), *OPERATIONS[1:6])
    choose(_blend(given, operation_B, strength_B), *OPERATIONS[6:10])
    choose(posterize(given, strength_B), "posterize")
    choose(solarize(given, strength_B), "solarize")
    choose(auto_contrast(given), "auto_contrast")
    choose(equalize(given), "equalize")
    return images


def matrix(operation_B: Tensor, strength_B: Tensor, size: Size) -> Tensor:
    """Returns the matrix_B23 of shears about the upper left corner, of shifts by whole pixels, and of turns."""
    height, width = size

    def drawn(name: str) -> Tensor:
        return strength_B * _is(operation_B, name)

    shear_x, shear_y = drawn("shear_x"), drawn("shear_y")
    turn_B = torch.deg2rad(drawn("rotate"))
    matrix_B23 = transforms.rotate_matrix(-turn_B)
    matrix_B23[:, 0, 1] += shear_x
    matrix_B23[:, 1, 0] += shear_y
    matrix_B23[:, 0, 2] = shear_x * height / 2 - drawn("translate_x").trunc()
    matrix_B23[:, 1, 2] = shear_y * width / 2 - drawn("translate_y").trunc()
    return matrix_B23


def _blend(images: Tensor, operation_B: Tensor, strength_B: Tensor) -> Tensor:
    """Returns images blended with black, with their grey, with their mean grey, or with their blurred selves."""
    grey = transforms.luminance(images)
    dull = torch.zeros_like(images)
    for name, other in (
        ("color", grey),
        ("contrast", grey.mean((2, 3), keepdim=True)),
        ("sharpness", _smoothed(images)),
    ):
        dull = torch.where(_is(operation_B, name)[:, None, None, None], other, dull)
    factor = 1 + strength_B[:, None, None, None].to(images.dtype)
    return (images * factor + dull * (1 - factor)).clamp_(0, 1)


def _smoothed(images: Tensor) -> Tensor:
    """Returns images smoothed over 3 x 3 pixels, the middle counting five times; their edges are as they were."""
    if min(images.shape[-2:]) < 3:
        return images
    channels = images.shape[1]
    kernel = torch.ones(3, 3, dtype=images.dtype, device=images.device)
    kernel[1, 1] = 5.0
    smooth = F.conv2d(images, (kernel / 13).expand(channels, 1, 3, 3), groups=channels)
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = smooth
    return result


def posterize(images: Tensor, bits_B: Tensor) -> Tensor:
    """Returns images of which each byte keeps its highest bits."""
    step = torch.exp2(8 - bits_B)[:, None, None, None].to(images.dtype)
    return ((images * _BYTE).round() / step).floor() * step / _BYTE


def solarize(images: Tensor, threshold_B: Tensor) -> Tensor:
    """Returns images of which everything as bright as a threshold is inverted."""
    return torch.where(images >= threshold_B[:, None, None, None].to(images.dtype), 1 - images, images)


def auto_contrast(images: Tensor) -> Tensor:
    """Returns images of which each channel's darkest value is 0 and its brightest 1, if it has two values."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = high == low
    return torch.where(flat, images, (images - low) / torch.where(flat, 1.0, high - low)).clamp_(0, 1)


def equalize(images: Tensor) -> Tensor:
    """Returns images of which each channel's values are spread evenly, by Pillow's table of bytes."""
    batch, channels, height, width = images.shape
    bytes_RN = (images * _BYTE).round().clamp(0, 255).long().view(batch * channels, height * width)
    counts_R256 = torch.zeros(batch * channels, 256, dtype=torch.int64, device=images.device)
    counts_R256.scatter_add_(1, bytes_RN, torch.ones_like(bytes_RN))
    sums_R256 = counts_R256.cumsum(1)
    last_R1 = counts_R256.gather(1, bytes_RN.amax(1, keepdim=True))
    step_R1 = torch.div(height * width - last_R1, 255, rounding_mode="floor")
    before_R256 = F.pad(sums_R256[:, :-1], (1, 0))
    table_R256 = torch.div(before_R256 + step_R1 // 2, step_R1.clamp(min=1), rounding_mode="floor").clamp(
        0, 255
    )
    spread_RN = table_R256.gather(1, bytes_RN).to(images.dtype) / _BYTE
    flat_R1 = step_R1 == 0
    return torch.where(flat_R1, images.reshape(batch * channels, -1), spread_RN).view(images.shape)
