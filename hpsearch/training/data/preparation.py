"""How an image becomes what a model is given: the same in training, and ever after with the kept weights.

Legend: B batch, C channels, H height, W width.
"""

import json
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
_FAR = 25  # times [0, 1]: values of such a range are hardly ever all in [0, 1]


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
        if not torch.compiler.is_compiling():  # a traced program cannot look at values
            self._check(images)
        given_in_unit = self._is_bytes and images.is_floating_point()
        if (white := self._becomes_bytes.get(_name(images))) and not images.is_floating_point():
            low, high = self.form.range or (0.0, white)
            images = ((images.float() - low) * (255 / (high - low))).round().clamp(0, 255)
        if images.dtype == torch.bool and self._is_bytes:  # as they are stored
            images = images.to(torch.uint8) * 255
        elif images.dtype == torch.uint8 and self._is_unit_float:
            images = images.float() * _BYTE
        if tuple(images.shape[2:]) != self.size:
            is_bytes = self.form.dtype == "uint8"
            whole = is_bytes and not given_in_unit
            images = pixels.resized(images.float(), self.size, self.form.resize, black=is_bytes, whole=whole)
        fresh = images.to(dtype, copy=True)
        return fresh if given_in_unit else self.scale(fresh)

    @property
    def float_range(self) -> tuple[float, float]:
        """The floats that are black and white to `take`."""
        return (0.0, 1.0) if self._is_bytes else self.statistics.range

    @property
    def accepts(self) -> str:
        """What `take` takes, in words."""
        low, high = self.statistics.range
        if self._is_unit_float and self._is_own and "uint8" not in self.source:
            return f"floats as {self.dataset} gives them"
        if self._is_bytes or self._is_unit_float:
            return "uint8, or floats in [0, 1]"
        kinds = " or ".join(self.source.split(",")) or "values"
        return f"{kinds} as in the data set, where {low:g} is black and {high:g} white"

    @property
    def _is_own(self) -> bool:
        """Whether the images came from a data function of the user's, so that others are prepared by that."""
        return ":" in self.dataset

    @property
    def _is_bytes(self) -> bool:
        """Whether values are those of bytes, 255 being white."""
        return self.form.dtype == "uint8" and self.statistics.scale == _BYTE

    @property
    def _becomes_bytes(self) -> dict[str, float]:
        """What is white in the number types of deep pictures that lie among those of 8 bits."""
        kinds = self.source.split(",") if self._is_bytes else []
        return {kind: WHITE[kind] for kind in kinds if kind in WHITE and kind != "uint8" and "uint8" in kinds}

    @property
    def _is_unit_float(self) -> bool:
        """Whether values are floats in [0, 1] as they are."""
        unit = (self.statistics.scale, self.statistics.offset) == (1.0, 0.0)
        return self.form.dtype == "float32" and unit and "int" not in self.source.replace("uint8", "")

    def _check(self, images: Tensor) -> None:
        """Refuses images of which nothing says what is black and white.

        Raises:
            ModelError: says what is taken.
        """
        name = _name(images)
        sources = self.source.split(",")
        if images.dtype == torch.uint8:
            known = (
                self.form.dtype == "uint8" or "uint8" in sources or (self._is_unit_float and not self._is_own)
            )
        elif images.dtype == torch.bool:
            known = self._is_bytes or self._is_unit_float
        elif not images.is_floating_point():
            mixed = self._becomes_bytes
            deep = [kind for kind in sources if "int" in kind and kind != "uint8"]
            known = (
                name in mixed if mixed else bool(deep) or (self.source == "" and self.form.dtype == "float32")
            )
        else:
            known = True
        if not known:
            raise self._refusal(f"images are {name}")
        if (
            self._is_bytes
            and "int" in name
            and name not in ("uint8", *self._becomes_bytes)
            and images.numel()
        ):
            least, most = (int(one) for one in images.detach().to(torch.int64).aminmax())
            if least < 0 or most > 255:
                raise self._refusal(f"images are {name} from {least} to {most}")
        is_foreign = "int" in name and name not in sources and not (self._is_bytes or self._is_unit_float)
        if images.numel() and (images.is_floating_point() or is_foreign):
            values = images.detach().to(torch.float64)
            low, high = (float(one) for one in values.aminmax())
            self._check_range(name, low, high, float(values.mean()))

    def _check_range(self, name: str, low: float, high: float, mean: float) -> None:
        """Refuses numbers that cannot be in the unit of training.

        Raises:
            ModelError: they cannot.
        """
        black, white = self.statistics.range
        span = white - black
        if self._is_bytes:
            fits = low >= -_SLACK and high <= 1 + _SLACK
        elif self._is_unit_float:  # further images of the data set may reach a little further
            fits = low >= -1 and high <= 2
        else:  # single values may lie far outside, as hot pixels do
            unit = low >= 0 and 0 < high <= 1 and span > _FAR
            fits = black - span <= mean <= white + span and not unit
        if not fits:
            raise self._refusal(f"images are {name} from {low:g} to {high:g}")

    def _refusal(self, what: str) -> ModelError:
        return ModelError(
            f"{what}, and nothing says which of their values are black and white; this model takes {self.accepts}"
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
            deep = values(image, path) if kind != "uint8" and self.form.range is None else None
        factor = self._factor(kind, 0.0 if deep is None else float(deep.max(initial=0.0)))
        are_bytes = self.form.dtype == "uint8"
        if deep is not None and (factor == 1.0 or not are_bytes):
            read = fit(deep, self.size, len(deep), self.form.resize) * np.float32(factor)
            return fit(read.round() if are_bytes else read, None, self.kept, self.form.resize)
        # In colour even for a grey model: training data are decoded so and then made grey (`data.channels = 1`).
        read = read_file(path, self.size, 3, form=Form(self.form.resize, range=self.form.range))
        read = fit(read, None, self.kept, self.form.resize)
        return read if are_bytes else read.astype(np.float32) * np.float32(factor)

    def _factor(self, kind: str, highest: float) -> float:
        """Returns what makes a picture's values those that are stored.

        Args:
            kind: number type of the values.
            highest: of a deep picture's values.

        Raises:
            ValueError: nothing says which of them are black and white.
        """
        sources, name = self.source.split(","), DEPTHS[kind]
        are_bytes = self.form.dtype == "uint8"
        if self.form.range is not None or (are_bytes and kind == "uint8"):
            return 1.0
        if self._is_unit_float or (self._is_bytes and "uint8" in sources):  # as in a folder of 8 bits
            is_clear = {"uint8": True, "uint16": highest >= FULL, "float32": highest <= 1 or not are_bytes}
            if kind in WHITE and (kind in sources or is_clear[kind]):
                return (255 if are_bytes else 1) / WHITE[kind]
            name += f" (up to {highest:g})" if kind in WHITE else ""
        elif kind != "uint8" and (not are_bytes or highest <= 255):
            is_float = any(one.startswith("float") for one in sources)
            if self.source == "" or kind.startswith("float") == is_float:
                return 1.0
        trained = " or ".join(dict.fromkeys(DEPTHS.get(one, one) for one in sources if one))
        raise ValueError(
            f"it is a {name} picture and the model was trained on {trained or 'other'} images, so its "
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
