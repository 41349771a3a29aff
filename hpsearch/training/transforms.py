"""The transforms of `hpsearch.training.augment`: how their parameters are drawn, and how they are applied.

Legend: B batch, C channels, H height, W width, Q quantiles. Positions are pixels from the image's centre, x
to the right, y downwards. A matrix_B23 takes a place in the result to the place in the image where its value
is read. A box_B4 holds top, left, height and width in whole pixels.

Every draw is batched and reads nothing back; an image that `p` leaves alone gets parameters that do nothing.
"""

from collections.abc import Callable, Sequence
from math import ceil, log, radians
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from hpsearch.study import augment as spec

Size = tuple[int, int]
"""Height and width in pixels."""

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision rounds it
_ASPECT = 3.3  # an erased rectangle's height is 1/3.3 to 3.3 times its width: Zhong et al. (2017)
_QUANTILES = 4096


def _column(values_B: Tensor) -> Tensor:
    return values_B[:, None, None, None]


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.empty(shape, device=generator.device).uniform_(low, high, generator=generator)


def _chosen(entry: spec.Transform, batch: int, generator: Generator) -> Tensor:
    """Draws which images an entry transforms, booleans of shape [B]."""
    return torch.rand(batch, generator=generator, device=generator.device) < entry.p


def draw_flip(entry: spec.Flip, batch: int, size: Size, generator: Generator) -> Tensor:
    """Draws booleans of shape [B, 2]: left-right, top-bottom."""
    chosen_B = _chosen(entry, batch, generator)
    draws_B2 = torch.rand(batch, 2, generator=generator, device=generator.device)
    flips = (draws_B2[:, 0] < entry.horizontal, draws_B2[:, 1] < entry.vertical)
    return torch.stack(flips, 1) & chosen_B[:, None]


def draw_scale(entry: spec.Scale, batch: int, size: Size, generator: Generator) -> Tensor:
    """Draws factors of shape [B], 1 for images left alone."""
    chosen_B = _chosen(entry, batch, generator)
    return torch.where(chosen_B, _uniform(entry.low, entry.high, (batch,), generator), 1.0)


def draw_angle(entry: spec.Rotate | spec.Shear, batch: int, size: Size, generator: Generator) -> Tensor:
    """Draws angles in radians of shape [B], 0 for images left alone."""
    most = radians(entry.degrees)
    return _chosen(entry, batch, generator) * _uniform(-most, most, (batch,), generator)


def draw_translate(entry: spec.Translate, batch: int, size: Size, generator: Generator) -> Tensor:
    """Draws shifts in pixels of shape [B, 2]: x, y."""
    chosen_B = _chosen(entry, batch, generator)
    shares_B2 = _uniform(-entry.fraction, entry.fraction, (batch, 2), generator)
    height, width = size
    return torch.stack((shares_B2[:, 0] * width, shares_B2[:, 1] * height), 1) * chosen_B[:, None]


def draw_crop(entry: spec.Crop, batch: int, size: Size, generator: Generator) -> Tensor:
    """Draws shifts in whole pixels of shape [B, 2]: x, y."""
    chosen_B = _chosen(entry, batch, generator)
    low, high, device = -entry.padding, entry.padding + 1, generator.device
    return torch.randint(low, high, (batch, 2), generator=generator, device=device) * chosen_B[:, None]


def draw_elastic(entry: spec.Elastic, batch: int, size: Size, generator: Generator) -> Tensor:
    """Draws noise in -1..1 of shape [B, 2, H, W] (x, y), 0 for images left alone."""
    chosen_B = _chosen(entry, batch, generator)
    return _uniform(-1.0, 1.0, (batch, 2, *size), generator).mul_(_column(chosen_B))


def draw_resized_crop(entry: spec.ResizedCrop, batch: int, size: Size, generator: Generator) -> Tensor:
    """Draws parts of shape [B, 4]: height and width as shares, and their centres' place y, x; all for those left."""
    chosen_B = _chosen(entry, batch, generator)
    share_B = _uniform(entry.low, entry.high, (batch,), generator)
    ratio_B = _uniform(-log(entry.ratio), log(entry.ratio), (batch,), generator).exp()
    places_B2 = _uniform(-0.5, 0.5, (batch, 2), generator)
    height, width = size
    # Ratios at which a part of this area would not fit are moved to the nearest at which it does.
    ratio_B = ratio_B.clamp(share_B * height / width, height / (share_B * width))
    sides_B2 = torch.stack((share_B * ratio_B * width / height, share_B / ratio_B * height / width), 1).sqrt()
    sides_B2 = torch.where(chosen_B[:, None], sides_B2.clamp(max=1.0), 1.0)
    room_B2 = torch.stack(((1 - sides_B2[:, 0]) * height, (1 - sides_B2[:, 1]) * width), 1)
    return torch.cat((sides_B2, places_B2 * room_B2), 1)


def _matrix(batch: int, like: Tensor) -> Tensor:
    """Returns identities of shape [B, 2, 3]; filled on the device, for a copy would make the host wait."""
    matrix_B23 = torch.zeros(batch, 2, 3, device=like.device)
    matrix_B23[:, 0, 0] = matrix_B23[:, 1, 1] = 1.0
    return matrix_B23


def resized_crop_matrix(part_B4: Tensor) -> Tensor:
    """Returns the matrix_B23 that magnifies parts of images to the whole size."""
    matrix_B23 = _matrix(len(part_B4), part_B4)
    height_B, width_B, y_B, x_B = part_B4.unbind(1)
    matrix_B23[:, 0, 0], matrix_B23[:, 1, 1] = width_B, height_B
    matrix_B23[:, 0, 2], matrix_B23[:, 1, 2] = x_B, y_B
    return matrix_B23


def flip_matrix(flip_B2: Tensor) -> Tensor:
    """Returns the matrix_B23 of mirrorings."""
    matrix_B23 = _matrix(len(flip_B2), flip_B2)
    matrix_B23[:, 0, 0] -= 2.0 * flip_B2[:, 0]
    matrix_B23[:, 1, 1] -= 2.0 * flip_B2[:, 1]
    return matrix_B23


def scale_matrix(factor_B: Tensor) -> Tensor:
    """Returns the matrix_B23 of magnifications."""
    matrix_B23 = _matrix(len(factor_B), factor_B)
    matrix_B23[:, 0, 0] = matrix_B23[:, 1, 1] = 1.0 / factor_B
    return matrix_B23


def shear_matrix(angle_B: Tensor) -> Tensor:
    """Returns the matrix_B23 of slants along x by angles in radians, signed as torchvision's."""
    matrix_B23 = _matrix(len(angle_B), angle_B)
    matrix_B23[:, 0, 1] = torch.tan(angle_B)
    return matrix_B23


def rotate_matrix(angle_B: Tensor) -> Tensor:
    """Returns the matrix_B23 of clockwise turns by angles in radians."""
    matrix_B23 = _matrix(len(angle_B), angle_B)
    matrix_B23[:, 0, 0] = matrix_B23[:, 1, 1] = torch.cos(angle_B)
    matrix_B23[:, 0, 1] = torch.sin(angle_B)
    matrix_B23[:, 1, 0] = -matrix_B23[:, 0, 1]
    return matrix_B23


def shift_matrix(shift_B2: Tensor) -> Tensor:
    """Returns the matrix_B23 of shifts in pixels to the right and down."""
    matrix_B23 = _matrix(len(shift_B2), shift_B2)
    matrix_B23[:, :, 2] = -shift_B2
    return matrix_B23


def compose(matrices: Sequence[Tensor], batch: int, like: Tensor) -> Tensor:
    """Returns the matrix_B23 of transforms in the order in which the image undergoes them."""
    whole = _matrix(batch, like)
    for matrix_B23 in matrices:
        # The result's place is taken back through the last transform first.
        offset_B2 = whole[:, :, 2]
        whole = whole[:, :, :2] @ matrix_B23
        whole[:, :, 2] += offset_B2
    return whole


def warp(images: Tensor, matrix_B23: Tensor, displacement_B2HW: Tensor | None = None) -> Tensor:
    """Returns images read, bilinearly, at matrix_B23 (place + displacement), with zeros outside.

    Args:
        images: shape [B, C, H, W], float32 or float64.
        matrix_B23: from the result to the image, in pixels from the centre.
        displacement_B2HW: in pixels (x, y), None for none.
    """
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device, dtype=images.dtype) - (width - 1) / 2
    y = torch.arange(height, device=images.device, dtype=images.dtype)[:, None] - (height - 1) / 2
    if displacement_B2HW is not None:
        x, y = x + displacement_B2HW[:, 0], y + displacement_B2HW[:, 1]
    grid_BHW2 = images.new_empty(len(images), height, width, 2)
    for axis, side in enumerate((width, height)):
        # grid_sample's coordinates run from -1 to 1 between the image's outer edges.
        row_B3 = matrix_B23[:, axis].to(images.dtype) * (2 / side)
        to_x, to_y, offset = row_B3[:, :, None, None].unbind(1)
        torch.add(to_x * x, to_y * y + offset, out=grid_BHW2[..., axis])
    return F.grid_sample(images, grid_BHW2, mode="bilinear", padding_mode="zeros", align_corners=False)


def mirror(images: Tensor, flip_B: Tensor, dim: int) -> Tensor:
    """Returns images of which the chosen ones are mirrored along a dimension, exactly."""
    return torch.where(_column(flip_B), images.flip(dim), images)


def shift(images: Tensor, shift_B2: Tensor, padding: int) -> Tensor:
    """Returns images shifted by whole pixels (x, y) of at most `padding`, exactly, with zeros coming in."""
    height, width = images.shape[-2:]
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    left_B, top_B = (padding - shift_B2).unbind(1)
    return windows[torch.arange(len(images), device=images.device), :, top_B, left_B]


def smoothing_matrix(length: int, sigma: float) -> Tensor:
    """Returns the [length, length] matrix that smooths a line by a Gaussian, the line reflected at its ends.

    The Gaussian ends at 4 sigma. As a matrix it may be wider than the line, which padding may not.
    """
    reach = ceil(4 * sigma)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    period = max(2 * (length - 1), 1)
    columns = (torch.arange(length)[:, None] + offsets) % period
    columns = torch.minimum(columns, period - columns) % length
    matrix = torch.zeros(length, length, dtype=torch.float64)
    return matrix.scatter_add_(1, columns, (weights / weights.sum()).expand(length, -1)).float()


def smooth(noise_B2HW: Tensor, smooth_H: Tensor, smooth_W: Tensor) -> Tensor:
    """Returns the noise smoothed along both sides."""
    return smooth_H @ noise_B2HW @ smooth_W.T


def draw_grey(entry: spec.Grey, batch: int, generator: Generator) -> Tensor:
    """Draws booleans of shape [B]: to be grey or not."""
    return _chosen(entry, batch, generator)


def draw_factor(entry: spec.Contrast | spec.Brightness, batch: int, generator: Generator) -> Tensor:
    """Draws factors of shape [B], 1 for images left alone."""
    chosen_B = _chosen(entry, batch, generator)
    factor_B = _uniform(max(0.0, 1.0 - entry.strength), 1.0 + entry.strength, (batch,), generator)
    return torch.where(chosen_B, factor_B, 1.0)


def luminance(images: Tensor) -> Tensor:
    """Returns shape [B, 1, H, W]: the luma of three channels, the plain mean of any other number."""
    if images.shape[1] == 3:
        red, green, blue = images.unbind(1)
        return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)[:, None]
    return images if images.shape[1] == 1 else images.mean(1, keepdim=True)


def grey(images: Tensor, grey_B: Tensor) -> Tensor:
    """Returns images of which the chosen ones have their luminance in every channel."""
    return images if images.shape[1] == 1 else torch.where(_column(grey_B), luminance(images), images)


def contrast(images: Tensor, factor_B: Tensor) -> Tensor:
    """Returns images blended with their mean grey, clamped to [0, 1]; a factor of 1 changes nothing."""
    factor = _column(factor_B).to(images.dtype)
    mean = luminance(images).mean((1, 2, 3), keepdim=True)
    return (images * factor + mean * (1 - factor)).clamp_(0, 1)


def brightness(images: Tensor, factor_B: Tensor) -> Tensor:
    """Returns images multiplied by factors, clamped to [0, 1]."""
    return (images * _column(factor_B).to(images.dtype)).clamp_(0, 1)


def draw_color_jitter(entry: spec.ColorJitter, batch: int, generator: Generator) -> Tensor:
    """Draws shape [B, 4]: factors of brightness, contrast, saturation, and a turn; 1, 1, 1, 0 for those left alone."""
    chosen_B = _chosen(entry, batch, generator)
    factors = [
        _uniform(max(0.0, 1.0 - strength), 1.0 + strength, (batch,), generator)
        for strength in (entry.brightness, entry.contrast, entry.saturation)
    ]
    drawn_B4 = torch.stack((*factors, _uniform(-entry.hue, entry.hue, (batch,), generator)), 1)
    drawn_B4[:, :3] = torch.where(chosen_B[:, None], drawn_B4[:, :3], 1.0)
    drawn_B4[:, 3] *= chosen_B
    return drawn_B4


def color_jitter(images: Tensor, drawn_B4: Tensor) -> Tensor:
    """Returns images of which brightness, contrast, saturation and hue are changed; those left alone to the bit."""
    brightness_B, contrast_B, saturation_B, hue_B = drawn_B4.unbind(1)
    result = saturation(contrast(brightness(images, brightness_B), contrast_B), saturation_B)
    same_B = ((drawn_B4[:, :3] == 1.0).all(1)) & (hue_B == 0)
    return torch.where(_column(same_B), images, hue(result, hue_B))


def saturation(images: Tensor, factor_B: Tensor) -> Tensor:
    """Returns images blended with their own grey, clamped to [0, 1]; a factor of 1 changes nothing."""
    if images.shape[1] != 3:
        return images
    factor = _column(factor_B).to(images.dtype)
    return (images * factor + luminance(images) * (1 - factor)).clamp_(0, 1)


def hue(images: Tensor, turn_B: Tensor) -> Tensor:
    """Returns images whose hue is turned by shares of the circle; those of other than three channels as they are."""
    if images.shape[1] != 3:
        return images
    red, green, blue = images.unbind(1)
    high, low = images.amax(1), images.amin(1)
    span = (high - low).clamp(min=1e-12)
    sixths = torch.where(high == green, (blue - red) / span + 2, (red - green) / span + 4)
    sixths = torch.where(high == red, (green - blue) / span, sixths)
    sixths = sixths + 6 * turn_B[:, None, None].to(images.dtype)
    # As Wikipedia's "HSL and HSV" turns hue, value and chroma back into red, green and blue.
    places = [(start + sixths) % 6 for start in (5, 3, 1)]
    chroma = high - low
    return torch.stack([high - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in places], 1)


def draw_blur(entry: spec.Blur, batch: int, generator: Generator) -> Tensor:
    """Draws standard deviations of shape [B], 0 for images left alone."""
    chosen_B = _chosen(entry, batch, generator)
    return _uniform(entry.low, entry.high, (batch,), generator) * chosen_B


def blur(images: Tensor, sigma_B: Tensor, reach: int) -> Tensor:
    """Returns images smoothed by Gaussians that end at `reach` pixels, the images reflected at their edges."""
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    weights_BR = torch.exp(-0.5 * (offsets / sigma_B[:, None].clamp(min=1e-6).to(images.dtype)) ** 2)
    weights_BR = weights_BR / weights_BR.sum(1, keepdim=True)
    result = images
    for dim, padding in ((3, (reach, reach, 0, 0)), (2, (0, 0, reach, reach))):
        padded, side = F.pad(result, padding, mode="reflect"), images.shape[dim]
        result = torch.zeros_like(images)
        for step, weight_B in enumerate(weights_BR.unbind(1)):
            result.addcmul_(padded.narrow(dim, step, side), _column(weight_B))
    return torch.where(_column(sigma_B == 0), images, result)


def _place(height_B: Tensor, width_B: Tensor, size: Size, generator: Generator) -> Tensor:
    """Draws where boxes lie, anywhere inside the image: the box_B4."""
    draws_B2 = torch.rand(len(height_B), 2, generator=generator, device=generator.device)
    room_B2 = torch.stack((size[0] - height_B, size[1] - width_B), 1)
    # Times room + 1 may round up to it, hence the minimum.
    corner_B2 = torch.minimum((draws_B2 * (room_B2 + 1)).floor(), room_B2)
    return torch.cat((corner_B2, height_B[:, None], width_B[:, None]), 1).long()


def draw_erasing(entry: spec.Erasing, batch: int, size: Size, generator: Generator) -> Tensor:
    """Draws the box_B4 to erase, empty for images left alone."""
    height, width = size
    chosen_B = _chosen(entry, batch, generator)
    share_B = _uniform(entry.low, entry.high, (batch,), generator)
    ratio_B = _uniform(-log(_ASPECT), log(_ASPECT), (batch,), generator).exp()
    # Ratios at which a box of this area would not fit are moved to the nearest at which it does.
    ratio_B = ratio_B.clamp(share_B * height / width, height / (share_B * width))
    area_B = share_B * height * width
    height_B = (area_B * ratio_B).sqrt().round().clamp(1, height)
    width_B = (area_B / ratio_B).sqrt().round().clamp(1, width)
    return _place(height_B, width_B, size, generator) * chosen_B[:, None]


def inside(box_B4: Tensor, size: Size) -> Tensor:
    """Returns booleans of shape [B, 1, H, W]: which pixels lie in the box."""
    top, left, height, width = box_B4[:, :, None].unbind(1)
    rows = torch.arange(size[0], device=box_B4.device)
    columns = torch.arange(size[1], device=box_B4.device)
    in_rows_BH = (rows >= top) & (rows < top + height)
    in_columns_BW = (columns >= left) & (columns < left + width)
    return (in_rows_BH[:, :, None] & in_columns_BW[:, None, :])[:, None]


def erase(images: Tensor, box_B4: Tensor) -> Tensor:
    """Returns images with zeros in the boxes."""
    height, width = images.shape[-2:]
    return images.masked_fill(inside(box_B4, (height, width)), 0.0)


def beta_quantiles(alpha: float) -> Tensor:
    """Returns quantiles_Q of Beta(alpha, alpha), evenly spaced in probability.

    A table, because torch draws Beta from its global generator only.
    """
    from scipy.special import betaincinv  # a twentieth of a worker's start

    levels = torch.linspace(0, 1, _QUANTILES + 1, dtype=torch.float64)
    return torch.from_numpy(betaincinv(alpha, alpha, levels.numpy())).float()


def draw_beta(quantiles_Q: Tensor, batch: int, generator: Generator) -> Tensor:
    """Draws shape [B] from the distribution of which the quantiles are given, by inversion."""
    place_B = torch.rand(batch, generator=generator, device=generator.device) * _QUANTILES
    below_B = place_B.long().clamp_(max=_QUANTILES - 1)
    return torch.lerp(quantiles_Q[below_B], quantiles_Q[below_B + 1], place_B - below_B)


def draw_mixup(entry: spec.Mixup, batch: int, quantiles_Q: Tensor, generator: Generator) -> Tensor:
    """Draws the weights lam_B of the images themselves, 1 for images left alone."""
    chosen_B = _chosen(entry, batch, generator)
    return torch.where(chosen_B, draw_beta(quantiles_Q, batch, generator), 1.0)


def draw_cutmix(
    entry: spec.Cutmix, batch: int, size: Size, quantiles_Q: Tensor, generator: Generator
) -> Tensor:
    """Draws the box_B4 to paste, shaped as the image and wholly inside it, empty for images left alone.

    The paper's code lets boxes reach over the edge, which makes them smaller than Beta says.
    """
    chosen_B = _chosen(entry, batch, generator)
    side_B = (1.0 - draw_beta(quantiles_Q, batch, generator)).sqrt()
    box_B4 = _place((side_B * size[0]).round(), (side_B * size[1]).round(), size, generator)
    return box_B4 * chosen_B[:, None]


def choose_one(lam_B: Tensor, box_B4: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Returns both with one of them, at even odds, made to do nothing for images that have both."""
    heads_B = torch.rand(len(lam_B), generator=generator, device=generator.device) < 0.5
    both_B = (lam_B < 1.0) & (box_B4[:, 2] * box_B4[:, 3] > 0)
    return torch.where(both_B & heads_B, 1.0, lam_B), box_B4 * ~(both_B & ~heads_B)[:, None]


def mixup(images: Tensor, partners: Tensor, lam_B: Tensor) -> Tensor:
    """Returns lam images + (1 - lam) partners."""
    return torch.lerp(images, partners, _column(1.0 - lam_B).to(images.dtype))


def cutmix(images: Tensor, partners: Tensor, box_B4: Tensor) -> Tensor:
    """Returns images with their partners' pixels in the boxes."""
    height, width = images.shape[-2:]
    return torch.where(inside(box_B4, (height, width)), partners, images)


def kept_share(box_B4: Tensor, size: Size) -> Tensor:
    """Returns the share of each image outside its box, shape [B]."""
    return 1.0 - box_B4[:, 2] * box_B4[:, 3] / (size[0] * size[1])


Draw = Callable[[Any, int, Size, Generator], Tensor]

AFFINE: dict[str, tuple[Draw, Callable[[Tensor], Tensor]]] = {
    "resized_crop": (draw_resized_crop, resized_crop_matrix),
    "flip": (draw_flip, flip_matrix),
    "scale": (draw_scale, scale_matrix),
    "shear": (draw_angle, shear_matrix),
    "rotate": (draw_angle, rotate_matrix),
    "translate": (draw_translate, shift_matrix),
    "crop": (draw_crop, shift_matrix),
}
"""In the order in which an image undergoes them; scale to translate as one torchvision `affine`."""

COLOUR: dict[str, tuple[Callable[[Any, int, Generator], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "grey": (draw_grey, grey),
    "contrast": (draw_factor, contrast),
    "brightness": (draw_factor, brightness),
    "color_jitter": (draw_color_jitter, color_jitter),
}
"""In the order in which an image undergoes them."""
