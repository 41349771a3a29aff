"""How an image becomes what a model is given: the same in training, and ever after with the kept weights.

Legend: B batch, C channels, H height, W width.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hpsearch.errors import DataError, ModelError
from hpsearch.training.data import pixels
from hpsearch.training.data.catalogue import Array, Size
from hpsearch.training.data.decode import (
    DEPTHS,
    FULL,
    WHITE,
    Form,
    a_depth,
    depth,
    fit,
    from_item,
    number_type,
    open_picture,
    read_file,
    values,
)
from hpsearch.training.data.objects import prepare_file
from hpsearch.training.data.pixels import Statistics

_BYTE = 1 / 255
_SLACK = 1e-3  # of floats that should lie in [0, 1]: resizing rounds
_LOOKED_AT = 4096  # pixels of an image


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is done to every image.

    Attributes:
        channels: that the model is given.
        kept: channels that are decoded: 1 for grey images that are shown in three channels.
        size: height and width.
        form: what pictures in files are decoded to.
        source: number types of the data, joined by commas; "" where old weights do not say.
        statistics: of the training part, or those that the study fixes, per channel kept or shown.
        normalizes: whether images are normalised by them.
        layout: of the axes of arrays.
        dataset: the study's.
        predict: what prepares one picture as the user's own data function does; "" for none.
        fixed: whether images of another size are none of that function's.
    """

    channels: int
    kept: int
    size: Size
    form: Form
    source: str
    statistics: Statistics
    normalizes: bool
    layout: str = "auto"
    dataset: str = ""
    predict: str = ""
    fixed: bool = False

    @property
    def mean(self) -> list[float]:
        """Of each channel shown; 0 where images are not normalised."""
        return self._shown(self.statistics.mean) if self.normalizes else [0.0] * self.channels

    @property
    def std(self) -> list[float]:
        """Of each channel shown; 1 where images are not normalised."""
        return self._shown(self.statistics.std) if self.normalizes else [1.0] * self.channels

    def _shown(self, values: tuple[float, ...]) -> list[float]:
        return list(values) * (self.channels // len(values))

    def scale(self, stored: Tensor) -> Tensor:
        """Brings floats of the stored values into [0, 1], in place, and returns them."""
        known = self.statistics
        if known.offset != 0.0:
            stored.sub_(known.offset)
        return stored.mul_(known.scale) if known.scale != 1.0 else stored

    def normalize(self, images: Tensor, mean_C11: Tensor, std_C11: Tensor) -> Tensor:
        """Normalises images in [0, 1] in place, and returns them.

        Args:
            mean_C11, std_C11: `mean` and `std` on the images' device.
        """
        if not self.normalizes:
            return images
        if self.channels == 1:
            return images.sub_(self.mean[0]).mul_(1 / self.std[0])
        return images.sub_(mean_C11.to(images.dtype)).div_(std_C11.to(images.dtype))

    def take(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns images of anyone's in [0, 1], at the size of training; they themselves stay as they are.

        Args:
            images: of shape [B, C, H, W], as `accepts` says.

        Raises:
            ModelError: another shape, or values of which nothing says what is black and white.
        """
        if images.dim() != 4 or images.shape[1] != self.channels:
            raise ModelError(
                f"images have the shape {list(images.shape)}; this model takes [B, {self.channels}, H, W]"
            )
        if self.fixed and tuple(images.shape[2:]) != self.size:
            raise ModelError(
                f"images are {images.shape[3]} x {images.shape[2]} pixels, and those of {self.dataset} were "
                f"{self.size[1]} x {self.size[0]}; prepare them as it does"
            )
        kind = _name(images)
        factor = self._factor(kind)
        if not torch.compiler.is_compiling():  # a traced program cannot look at values
            seen = _look(images, kind)
            factor = factor if self._fits(seen) else None
        if factor is None:
            found = kind if torch.compiler.is_compiling() else f"{kind}{seen.range}"
            raise ModelError(
                f"images are {found}, and nothing says which of their values are black and white; this model takes "
                f"{self.accepts}"
            )
        given_in_unit = self._is_bytes and images.is_floating_point() and not self._is_by_range(kind)
        if not given_in_unit and (factor != 1 or self._is_by_range(kind)):
            low = self.form.range[0] if self.form.range is not None and self._is_by_range(kind) else 0.0
            images = (images.float() - low) * factor
            if self._is_bytes:  # as they are stored
                images = images.round().clamp(0, 255)
        if tuple(images.shape[2:]) != self.size:
            is_bytes = self.form.dtype == "uint8"
            whole = is_bytes and not given_in_unit
            images = pixels.resized(images.float(), self.size, self.form.resize, black=is_bytes, whole=whole)
        fresh = images.to(dtype, copy=True)
        return fresh if given_in_unit else self.scale(fresh)

    @property
    def float_range(self) -> tuple[float, float]:
        """The floats that are black and white to `take`."""
        if self.form.range is not None and self._is_by_range("float32"):
            return self.form.range
        return (0.0, 1.0) if self._is_bytes else self.statistics.range

    @property
    def accepts(self) -> str:
        """What `take` takes, in words."""
        low, high = self.statistics.range
        if self._is_unit_float and self._is_own and "uint8" not in self.source:
            return f"floats as {self.dataset} gives them"
        if self._is_bytes and self.form.range is not None:
            deep = " or ".join(kind for kind in self.source.split(",") if kind != "uint8")
            return f"uint8, or {deep} where {self.form.range[0]:g} is black and {self.form.range[1]:g} white"
        if self._is_bytes or self._is_unit_float:
            return "uint8, or floats in [0, 1]"
        kinds = " or ".join(self.source.split(",")) or "values"
        floats = "" if "float" in kinds else ", or floats,"
        return f"{kinds}{floats} of the data set's values, where {low:g} is black and {high:g} white"

    @property
    def _is_own(self) -> bool:
        """Whether the images came from a data function of the user's, so that others are prepared by that."""
        return ":" in self.dataset

    @property
    def _is_bytes(self) -> bool:
        """Whether values are those of bytes, 255 being white."""
        return self.form.dtype == "uint8" and self.statistics.scale == _BYTE

    @property
    def _is_unit_float(self) -> bool:
        """Whether values are floats in [0, 1] as they are."""
        unit = (self.statistics.scale, self.statistics.offset) == (1.0, 0.0)
        return self.form.dtype == "float32" and unit and "int" not in self.source.replace("uint8", "")

    def _is_by_range(self, kind: str) -> bool:
        """Whether `data.range` says what is black and white in deep pictures among those of 8 bits."""
        return self.form.range is not None and kind != "uint8" and kind in self.source.split(",")

    def _factor(self, kind: str) -> float | None:
        """Returns what makes values of a number type those that are stored; None if nothing says what it is.

        Arrays and pictures in files are judged alike, here and by `_fits`.
        """
        sources = self.source.split(",")
        is_float, is_wanted = "float" in kind, kind in sources or self.source == ""
        if self._is_by_range(kind) and self.form.range is not None:
            return 255 / (self.form.range[1] - self.form.range[0])
        if not (self._is_bytes or self._is_unit_float):
            is_byte = kind == "uint8" and self.form.dtype == "uint8"
            return 1.0 if is_float or is_byte or (is_wanted and kind != "bool") else None
        if self._is_whole(kind):
            return 1.0
        by_own = self._is_own and self._is_unit_float  # only the function knows what it makes of a picture
        is_known = is_float or kind == "bool" or kind in sources or (kind in WHITE and not by_own)
        return (255 if self._is_bytes else 1) / WHITE.get(kind, 1.0) if is_known else None

    def _is_whole(self, kind: str) -> bool:
        """Whether values are integers of another type than bytes that were all those of bytes."""
        sources = self.source.split(",")
        return self._is_bytes and "int" in kind and kind in sources and "uint8" not in sources

    def _fits(self, given: "_Values") -> bool:
        """Whether values can have the scale that their number type has here."""
        kind = given.kind
        if kind in ("uint8", "bool") or self._is_by_range(kind) or given.high == given.low == 0:
            return True
        if self._is_whole(kind):
            return given.low >= 0 and given.high <= 255
        if self._is_bytes or self._is_unit_float:
            if "int" in kind:
                return given.high >= FULL
            # Further images of a data set of floats may reach a little further.
            least, most = (-_SLACK, 1 + _SLACK) if self._is_bytes else (-1, 2)
            return given.low >= least and given.high <= most
        if not math.isfinite(given.low + given.high):
            return False
        black, white = self.statistics.range
        # By data.range, most of what was trained on may lie outside of it.
        usual = zip(self.statistics.mean, self.statistics.std, strict=True) if self.normalizes else ()
        ends = [0.0, 1.0, *(mean + side * std for mean, std in usual for side in (-3, 3))]
        dark, bright = ((value - black) / (white - black) for value in (given.dark, given.bright))
        if dark < min(ends) - 1 or bright > max(ends) + 1:
            return False
        # Integers of the type of training are dark; floats may have been scaled by other hands.
        return (
            "int" in kind
            or self.form.dtype == "uint8"
            or not pixels.are_scaled(given.low, given.high, black, white)
        )

    def read(self, path: Path, name: str = "", prepare: Callable[[Image.Image], Any] | None = None) -> Tensor:
        """Reads a picture from a file as the training pictures were read.

        Args:
            name, prepare: what prepares it as the user's own data function does.

        Returns:
            Its stored values, of shape [1, channels, *size].

        Raises:
            OSError, ValueError, SyntaxError: it cannot be decoded, or its scale is not that of training.
            ModelError: the study's pictures are prepared by an own data function, and `prepare` is None.
            DataError: what `prepare` returns is not an image as the study had them.
        """
        if prepare is not None:
            array = self._read_own(path, name, prepare)
        elif self._is_own:
            raise ModelError(
                f"the images of this model came from {self.dataset}, and only that knows how it prepares a picture; "
                "name what prepares one by --prepare, such as --prepare my_data:prepare (a function or transform that "
                "is given the opened picture and returns an item's image), or before the training by data.predict"
            )
        else:
            array = self._read_file(path)
        # Grey pictures may be shown in three equal channels (`data.channels = 3`).
        return torch.tensor(array)[None].expand(-1, self.channels, -1, -1)

    def _read_file(self, path: Path) -> Array:
        with open_picture(path) as image:
            kind = depth(image)
            by_range = self._is_by_range(kind)
            deep = values(image, path) if kind != "uint8" and not by_range else None
        seen = _look(torch.from_numpy(np.zeros((1, 1)) if deep is None else deep[None]), kind)
        factor = self._factor(kind)
        if factor is None or not self._fits(seen):
            raise ValueError(self._describe_other(seen))
        are_bytes = self.form.dtype == "uint8"
        if deep is not None and (factor == 1.0 or not are_bytes):
            read = fit(deep, self.size, len(deep), self.form.resize) * np.float32(factor)
            return fit(read.round() if are_bytes else read, None, self.kept, self.form.resize)
        # In colour even for a grey model: training data are decoded so and then made grey (`data.channels = 1`).
        form = Form(self.form.resize, range=self.form.range if by_range else None)
        read = fit(read_file(path, self.size, 3, form=form), None, self.kept, self.form.resize)
        return read if are_bytes else read.astype(np.float32) * np.float32(factor)

    def _describe_other(self, seen: "_Values") -> str:
        sources = self.source.split(",")
        trained = " or ".join(dict.fromkeys(DEPTHS.get(one, one) for one in sources if one)) or "other"
        known = "" if self._is_bytes else " from {:g} to {:g}".format(*self.statistics.range)
        what = f"{a_depth(seen.kind)} picture{seen.range}"
        return (
            f"it is {what} and the model was trained on {trained} images{known}, so its "
            "black and white levels are unknown; save it in the format of the training images"
        )

    def _read_own(self, path: Path, name: str, prepare: Callable[[Image.Image], Any]) -> Array:
        item = prepare_file(prepare, name, path, self.kept)
        array, kind = (
            from_item(item, self.layout, f"data.predict: what {name} makes of {path}"),
            number_type(item),
        )
        if self._is_unit_float and array.dtype == np.uint8 and kind in self.source.split(","):
            array = array.astype(np.float32) * np.float32(_BYTE)
        if array.dtype != self.form.dtype or array.shape[0] not in {1, 3, self.kept}:
            raise DataError(
                f"data.predict: {name} makes {kind} with {array.shape[0]} channels of {path}, and the model was "
                f"trained on {self.source} with {self.kept}; let it do what {self.dataset} does"
            )
        if not self._fits(seen := _look(torch.tensor(array)[None], kind)):
            raise DataError(
                f"data.predict: {name} makes {kind}{seen.range} of {path}, and nothing says which of these values are "
                f"black and white; let it do what {self.dataset} does"
            )
        return fit(array, self.size, self.kept, self.form.resize)

    def header(self) -> dict[str, Any]:
        """Returns what is kept with the weights."""
        return {
            "channels": self.channels,
            "height": self.size[0],
            "width": self.size[1],
            "decoded_channels": self.kept,
            "resize": self.form.resize,
            "stored": self.form.dtype,
            "range": json.dumps(self.form.range),
            "source": self.source,
            "scale": repr(self.statistics.scale),
            "offset": repr(self.statistics.offset),
            "mean": json.dumps(self.mean),
            "std": json.dumps(self.std),
            "normalize": json.dumps(self.normalizes),
            "layout": self.layout,
            "dataset": self.dataset,
            "predict": self.predict,
            "fixed": json.dumps(self.fixed),
        }


@dataclass(frozen=True, slots=True)
class _Values:
    """What is looked at to judge the scale of images.

    Attributes:
        kind: their number type.
        low, high: their extremes.
        dark, bright: what all but a hundredth of an image's pixels are above, or below: of the darkest image, and
            of the brightest. Single values may lie far outside, as hot pixels do.
    """

    kind: str
    low: float = 0.0
    high: float = 0.0
    dark: float = 0.0
    bright: float = 0.0

    @property
    def range(self) -> str:
        """Its extremes in words; "" where the number type says all."""
        return "" if self.kind in ("uint8", "bool") else f" from {self.low:g} to {self.high:g}"


def _look(images: Tensor, kind: str) -> _Values:
    """Looks at images of shape [B, ...]."""
    if not images.numel() or kind in ("uint8", "bool"):
        return _Values(kind)
    all_BN = images.detach().flatten(1).to(torch.float64)
    some_BN = all_BN[:, :: max(1, all_BN.shape[1] // _LOOKED_AT)].sort(1).values
    left_out = min(-(-some_BN.shape[1] // 100), (some_BN.shape[1] - 1) // 2)
    dark, bright = some_BN[:, left_out].min(), some_BN[:, -1 - left_out].max()
    return _Values(kind, *(float(one) for one in (*all_BN.aminmax(), dark, bright)))


def _name(images: Tensor) -> str:
    return str(images.dtype).removeprefix("torch.")


def from_header(texts: Mapping[str, str]) -> Preparation:
    """Returns the preparation that was kept with weights; what old ones do not say is as it was then."""
    stored = texts.get("stored", "uint8")
    channels, height, width = (int(texts[key]) for key in ("channels", "height", "width"))
    kept = int(texts.get("decoded_channels", channels))
    known = json.loads(texts.get("range", "null"))
    mean, std = (tuple(json.loads(texts[key])) for key in ("mean", "std"))
    scale = float(texts.get("scale", _BYTE if stored == "uint8" else 1.0))
    return Preparation(
        channels=channels,
        kept=kept,
        size=(height, width),
        form=Form(texts.get("resize", "crop"), stored, None if known is None else (known[0], known[1])),
        source=texts.get("source", "uint8" if stored == "uint8" else ""),
        statistics=Statistics(mean, std, scale, float(texts.get("offset", 0.0))),
        normalizes=json.loads(texts.get("normalize", "true")),
        layout=texts.get("layout", "auto"),
        dataset=texts.get("dataset", ""),
        predict=texts.get("predict", ""),
        fixed=json.loads(texts.get("fixed", "false")),
    )
