"""The transforms that `data.augment` may list, one section each.

Every number is a plain field, so that a search can replace it by its dotted name
(`data.augment.elastic.alpha`); a transform is switched off by `p = 0`. Random numbers are drawn anew for each
image of each batch. Pixels are those of the image as trained on (`data.image_size`).
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from hpsearch.errors import nearest
from hpsearch.study.section import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Transform(Section):
    """What every transform has.

    Attributes:
        p: probability that an image is transformed at all; 0 switches the transform off, exactly.
    """

    p: Share = 1.0


def _check_order(entry: Any) -> Any:
    """Returns a transform that draws between `low` and `high`; raises ValueError where low is above high."""
    if entry.low > entry.high:
        raise ValueError(f"low is {entry.low} and high is {entry.high}; low must not be above high")
    return entry


class Crop(Transform):
    """A crop of the image's own size out of the image padded with zeros: a shift by whole pixels.

    Attributes:
        padding: pixels on each side; the shift is uniform in -padding..padding, in x and in y.
    """

    name: Literal["crop"]
    padding: Annotated[int, Field(ge=0)] = 4


class Flip(Transform):
    """Mirrors the image.

    Attributes:
        horizontal: probability that left and right are exchanged, among the images that `p` chose.
        vertical: probability that top and bottom are exchanged, among the images that `p` chose.
    """

    name: Literal["flip"]
    horizontal: Share = 0.5
    vertical: Share = 0.0


class Rotate(Transform):
    """Turns the image about its centre.

    Attributes:
        degrees: the angle is uniform in -degrees..degrees.
    """

    name: Literal["rotate"]
    degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 15.0


class Translate(Transform):
    """Shifts the image, by parts of pixels too.

    Attributes:
        fraction: the shift is uniform in -fraction..fraction of the width in x, of the height in y.
    """

    name: Literal["translate"]
    fraction: Share = 0.1


class Scale(Transform):
    """Magnifies (factor above 1) or shrinks (below 1) the image about its centre.

    Attributes:
        low: smallest factor; factors are uniform in low..high.
        high: largest factor.
    """

    name: Literal["scale"]
    low: Annotated[float, Field(gt=0.0, le=10.0)] = 0.9
    high: Annotated[float, Field(gt=0.0, le=10.0)] = 1.1

    _in_order = model_validator(mode="after")(_check_order)


class Shear(Transform):
    """Slants the image along x.

    Attributes:
        degrees: the angle is uniform in -degrees..degrees.
    """

    name: Literal["shear"]
    degrees: Annotated[float, Field(ge=0.0, le=80.0)] = 10.0


class Elastic(Transform):
    """Elastic deformation, after Simard, Steinkraus and Platt (2003), as U-Net used it.

    Each pixel's displacement in x and in y is uniform in -1..1, smoothed by a Gaussian and multiplied by
    alpha: its root mean square is about 0.163 alpha / sigma pixels on each axis. torchvision's
    `ElasticTransform` halves it: its alpha is twice this one.

    Attributes:
        alpha: strength in pixels; 34 is Simard's value for 29 x 29 digits.
        sigma: standard deviation of the Gaussian in pixels: small is crumpled, large is a gentle bend.
    """

    name: Literal["elastic"]
    alpha: Annotated[float, Field(ge=0.0)] = 34.0
    sigma: Annotated[float, Field(gt=0.0, le=1000.0)] = 4.0


class Grey(Transform):
    """Takes the colour away: every channel becomes the luminance. Nothing happens to one channel."""

    name: Literal["grey"]


class Contrast(Transform):
    """Moves pixels towards (factor below 1) or away from (above 1) the image's mean grey.

    Attributes:
        strength: the factor is uniform in max(0, 1 - strength)..1 + strength.
    """

    name: Literal["contrast"]
    strength: Annotated[float, Field(ge=0.0)] = 0.2


class Brightness(Transform):
    """Multiplies pixels by a factor.

    Attributes:
        strength: the factor is uniform in max(0, 1 - strength)..1 + strength.
    """

    name: Literal["brightness"]
    strength: Annotated[float, Field(ge=0.0)] = 0.2


class ResizedCrop(Transform):
    """A part of the image, anywhere in it, magnified to the whole size: things come nearer and are cut (Szegedy 2014).

    Attributes:
        low: smallest area of the part as a share of the image; shares are uniform in low..high.
        high: largest area.
        ratio: the part's height is 1/ratio to ratio times its width, log-uniform.
    """

    name: Literal["resized_crop"]
    low: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    high: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    ratio: Annotated[float, Field(ge=1.0, le=10.0)] = 4 / 3

    _in_order = model_validator(mode="after")(_check_order)


class ColorJitter(Transform):
    """Changes brightness, contrast, saturation and hue, in this order, each by a factor of its own.

    Attributes:
        brightness: the factor is uniform in max(0, 1 - brightness)..1 + brightness.
        contrast: the same of the distance from the image's mean grey.
        saturation: the same of the distance from each pixel's own grey.
        hue: the hue is turned by a share of the circle, uniform in -hue..hue.
    """

    name: Literal["color_jitter"]
    brightness: Annotated[float, Field(ge=0.0)] = 0.2
    contrast: Annotated[float, Field(ge=0.0)] = 0.2
    saturation: Annotated[float, Field(ge=0.0)] = 0.2
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.02


class Blur(Transform):
    """Smooths the image by a Gaussian, as an unfocused lens does.

    Attributes:
        low: smallest standard deviation in pixels; they are uniform in low..high.
        high: largest standard deviation.
    """

    name: Literal["blur"]
    low: Annotated[float, Field(gt=0.0, le=100.0)] = 0.1
    high: Annotated[float, Field(gt=0.0, le=100.0)] = 2.0

    _in_order = model_validator(mode="after")(_check_order)


class TrivialAugment(Transform):
    """One of 14 operations at one of 31 strengths, both drawn for each image (Müller and Hutter 2021, wide)."""

    name: Literal["trivial_augment"]


class RandAugment(Transform):
    """Some of 14 operations, one after the other, all at one strength (Cubuk et al. 2019).

    Attributes:
        count: operations for each image.
        magnitude: the strength, from 0 to 30.
    """

    name: Literal["rand_augment"]
    count: Annotated[int, Field(ge=1, le=10)] = 2
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9


class Erasing(Transform):
    """Blackens a rectangle, its sides' ratio log-uniform in 0.3..3.3 (Zhong et al. 2017).

    Attributes:
        low: smallest area as a share of the image; shares are uniform in low..high.
        high: largest area.
    """

    name: Literal["erasing"]
    low: Annotated[float, Field(gt=0.0, le=1.0)] = 0.02
    high: Annotated[float, Field(gt=0.0, le=1.0)] = 0.33

    _in_order = model_validator(mode="after")(_check_order)


class Mixup(Transform):
    """Blends each image, and its target, with another of the batch (Zhang et al. 2017).

    Attributes:
        alpha: the weight of the image is drawn from Beta(alpha, alpha): 1 is uniform, small is nearly 0 or 1.
    """

    name: Literal["mixup"]
    alpha: Annotated[float, Field(ge=0.01, le=100.0)] = 0.2


class Cutmix(Transform):
    """Pastes a rectangle of another image of the batch, and mixes the targets by area (Yun et al. 2019).

    Where mixup is listed too, an image that both chose gets one of them, at even odds.

    Attributes:
        alpha: the share of the image that is kept is drawn from Beta(alpha, alpha).
    """

    name: Literal["cutmix"]
    alpha: Annotated[float, Field(ge=0.01, le=100.0)] = 1.0


_Known = (
    ResizedCrop
    | Crop
    | Flip
    | Rotate
    | Translate
    | Scale
    | Shear
    | Elastic
    | Grey
    | Contrast
    | Brightness
    | ColorJitter
    | Blur
    | TrivialAugment
    | RandAugment
    | Erasing
    | Mixup
    | Cutmix
)
TRANSFORMS: dict[str, type[Transform]] = {
    get_args(kind.model_fields["name"].annotation)[0]: kind for kind in get_args(_Known)
}
"""Name to section."""


def _check_name(value: Any) -> Any:
    """Returns a table as it is; raises ValueError naming the nearest transform where its name is unknown."""
    if not isinstance(value, dict):
        return value
    name = value.get("name")
    if not isinstance(name, str):
        raise ValueError(f'a transform needs a name, such as {{ name = "flip" }}. {nearest("", TRANSFORMS)}')
    if name not in TRANSFORMS:
        raise ValueError(f'unknown transform "{name}"; {nearest(name, TRANSFORMS)}')
    return value


Augment = Annotated[_Known, Field(discriminator="name"), BeforeValidator(_check_name)]
"""One entry of `data.augment`, told apart by its name."""


def check_unique(entries: Sequence[Augment]) -> Sequence[Augment]:
    """Returns the entries as they are.

    Raises:
        ValueError: a transform is listed twice, so that a dotted name would mean two fields.
    """
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f'"{name}" is listed {names.count(name)} times; list each transform once')
    return entries


PRESETS: dict[str, tuple[dict[str, Any], ...]] = {
    "photo": ({"name": "resized_crop"}, {"name": "flip"}, {"name": "color_jitter"}),
}
"""Lists of transforms that have a name: `augment = "photo"` is what suits most photographs."""


def expand_preset(value: Any) -> Any:
    """Returns the list that a preset's name stands for; anything else as it is.

    Raises:
        ValueError: an unknown name.
    """
    if not isinstance(value, str):
        return value
    if value not in PRESETS:
        raise ValueError(f'unknown preset "{value}"; {nearest(value, PRESETS)}, or a list of transforms')
    return PRESETS[value]
