"""What an engine trains on: parts of which batches are made by index, on the device.

Legend: N samples, B batch, C channels, H height, W width, T regression targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hpsearch.training.data.preparation import Preparation
from hpsearch.training.data.stream import StreamedImages

Images = Tensor | StreamedImages

Index = Tensor | slice
"""Positions in a part: int64 of shape [B], or a slice, which copies nothing before the images are scaled."""


@dataclass(frozen=True, slots=True)
class Part:
    """The samples of one part.

    Attributes:
        images: uint8 or float32 of shape [N, C, H, W], as stored. On CPUs memory-mapped and shared with other
            workers, so never to be written to. Data sets of the user's that do not fit are streamed.
        targets: int64 of shape [N], or float32 of shape [N, T], on the training device.
        index: where each sample stands in the data set, int64 of shape [N].
        names: of the samples; only the test part has them.
    """

    images: Images
    targets: Tensor
    index: Tensor
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, slots=True)
class Batches:
    """Makes batches from parts: `batch`, or `pixels`, augmentation and `normalize` in this order.

    Attributes:
        outputs: of the model: classes, or regression targets.
        preparation: how stored values become what the model is given.
        mean_C11, std_C11: its mean and deviation as tensors on the device.
    """

    device: torch.device
    classes: tuple[str, ...]
    task: str
    outputs: int
    preparation: Preparation
    mean_C11: Tensor
    std_C11: Tensor

    @property
    def channels(self) -> int:
        return self.preparation.channels

    @property
    def height(self) -> int:
        """Of the images at the end of training, as `width` is."""
        return self.preparation.size[0]

    @property
    def width(self) -> int:
        return self.preparation.size[1]

    @property
    def mean(self) -> list[float]:
        """Of the training part per channel; 0 where the study does not normalise."""
        return self.preparation.mean

    @property
    def std(self) -> list[float]:
        """Of the training part per channel; 1 where the study does not normalise."""
        return self.preparation.std

    def pixels(
        self, part: Part, index: Index, dtype: torch.dtype = torch.float32, size: int | None = None
    ) -> Tensor:
        """Returns new images of shape [B, C, H, W] in [0, 1] on the device.

        Args:
            index: on the device, which images in host memory make the host wait for, or as `expect` gives it.
        """
        chosen = _choose(self._at(part, size), index)
        if self.device.type == "cuda" and not chosen.is_cuda:
            # As they are stored, so as bytes, and from memory that the GPU fetches them from by itself.
            chosen = chosen.pin_memory().to(self.device, non_blocking=True)
        return self.preparation.scale(chosen.to(self.device, dtype))

    def normalize(self, images: Tensor) -> Tensor:
        """Normalises images in place, and returns them."""
        return self.preparation.normalize(images, self.mean_C11, self.std_C11)

    def batch(
        self, part: Part, index: Index, dtype: torch.dtype = torch.float32, size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns normalised images of shape [B, C, H, W] and their targets, without augmentation."""
        return self.normalize(self.pixels(part, index, dtype, size)), self.targets(part, index, dtype)

    def targets(self, part: Part, index: Index, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns the targets of a batch; those of a regression in float64 if the images are."""
        known = part.targets
        chosen = known[index] if isinstance(index, slice) else known.index_select(0, index.to(known.device))
        return chosen.double() if dtype == torch.float64 and chosen.is_floating_point() else chosen

    def expect(self, part: Part, batches: Sequence[Index], size: int | None = None) -> Sequence[Index]:
        """Says which batches are coming, in order, so that images that are streamed can be read ahead.

        Returns:
            The batches, their positions where the images are: fetched from the device all at once, for each
            batch's own would wait for all that the device still has to do.
        """
        images = self._at(part, size)
        drawn = [batch for batch in batches if isinstance(batch, Tensor)]
        if drawn and drawn[0].device != images.device:
            batches = torch.split(torch.cat(drawn).to(images.device), [len(batch) for batch in drawn])
        if isinstance(images, StreamedImages):
            images.expect(batches)
        return batches

    def _at(self, part: Part, size: int | None) -> Images:
        return part.images


@dataclass(frozen=True, slots=True)
class Prepared(Batches):
    """The training and the validation part for one trial.

    Attributes:
        class_counts: samples of each class in `train`, on the device; empty for regression.
        smaller: the training images at the sizes of `data.progressive`.
    """

    train: Part
    val: Part
    class_counts: Tensor
    smaller: dict[int, Images] = field(default_factory=dict)

    def _at(self, part: Part, size: int | None) -> Images:
        return part.images if size is None or part is not self.train else self.smaller[size]


@dataclass(frozen=True, slots=True)
class Sealed(Batches):
    """The test part, normalised as the training part was."""

    test: Part


def _choose(images: Images, index: Index) -> Tensor:
    """Returns a copy of the images at an index, for what follows works in place."""
    if isinstance(images, StreamedImages):
        return images.get(index)
    if isinstance(index, slice):
        # Bytes are copied anyway when they become floats.
        return images[index].clone() if images.is_floating_point() else images[index]
    return images.index_select(0, index.to(images.device))
