"""What an engine trains on: parts of which batches are made by index, on the device.

Legend: N samples, B batch, C channels, H height, W width, T regression targets.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hpsearch.errors import DataError
from hpsearch.training.data.catalogue import Array, Size, find_flawed
from hpsearch.training.data.objects import ItemImages, drawing_from
from hpsearch.training.data.preparation import Preparation

Index = Tensor | slice

_AT_ONCE = 16
_WORKERS = min(4, max(1, (os.cpu_count() or 1) // 2))


class StreamedImages(Dataset[Tensor]):
    """Images of shape [N, C, H, W] that are read when they are indexed.

    Args:
        channels: to show.
    """

    device = torch.device("cpu")

    def __init__(self, images: ItemImages, size: Size, channels: int) -> None:
        self.shape = torch.Size((len(images), channels, *size))
        self.dtype = torch.uint8 if images.dtype == "uint8" else torch.float32
        self._images = images
        self._coming: Iterator[tuple[Index, Tensor]] | None = None
        self._left = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> Tensor:
        name = self._images.name(index)
        array = self._images.image(self._images.item(index), self._size, self.shape[1], name)
        if find_flawed(array[None])[0]:
            raise DataError(f"data.dataset: {name} holds NaN or infinite values; remove or replace it")
        return torch.from_numpy(np.array(array))

    @property
    def _size(self) -> Size:
        return self.shape[2], self.shape[3]

    def cut(self, rows: slice) -> "StreamedImages":
        """Returns some of the images, which are still to be read."""
        chosen = np.arange(len(self))[rows]
        return StreamedImages(self._images.take(chosen), self._size, self.shape[1])

    def showing(self, channels: int) -> "StreamedImages":
        """Returns the images with so many channels."""
        return self if channels == self.shape[1] else StreamedImages(self._images, self._size, channels)

    def expect(self, batches: Sequence[Index]) -> None:
        """Starts to read batches ahead, which will be asked for in this order."""
        # The seed of the epoch also seeds what the user's items draw; torch's own generator stays as it is.
        generator = torch.Generator().manual_seed(torch.initial_seed())
        loader = DataLoader(
            self,
            batch_sampler=[_positions(batch, len(self)) for batch in batches],
            num_workers=_WORKERS,
            collate_fn=torch.stack,
            generator=generator,
        )
        self._coming, self._left = zip(batches, loader, strict=True), len(batches)

    def get(self, index: Index) -> Tensor:
        """Returns the images at an index."""
        if self._coming is not None:
            try:
                expected, images = next(self._coming, (None, None))
            except DataError as error:  # a loader's process hands over its traceback as the message
                raise DataError(str(error).rstrip().rsplit("DataError: ", 1)[-1]) from error
            self._left -= 1
            right = images is not None and expected is not None and _same(expected, index)
            if not right or self._left == 0:
                # Let go of, the loader's processes end at once; the garbage collector would wait for them later.
                self._coming = None
            if right and images is not None:
                return images
        return torch.stack([self[position] for position in _positions(index, len(self))])

    def arrays(self) -> Iterator[Array]:
        """Yields all images as arrays of shape [n, C, H, W], to measure them.

        Random transforms draw the same in every process, so that all measure the same.
        """
        batches = [slice(start, start + _AT_ONCE) for start in range(0, len(self), _AT_ONCE)]
        with drawing_from(0):
            self.expect(batches)
            for batch in batches:
                yield self.get(batch).numpy()


def _positions(index: Index, total: int) -> list[int]:
    if isinstance(index, slice):
        return list(range(*index.indices(total)))
    return [int(position) for position in index.tolist()]


def _same(one: Index, other: Index) -> bool:
    if isinstance(one, slice) or isinstance(other, slice):
        return isinstance(one, slice) and isinstance(other, slice) and one == other
    return one is other or torch.equal(one, other)


Images = Tensor | StreamedImages


"""Positions in a part: int64 of shape [B], or a slice, which copies nothing before the images are scaled."""


@dataclass(frozen=True, slots=True)
class Part:
    """The samples of one part.

    Attributes:
        images: uint8 or float32 of shape [N, C, H, W], as stored. On CPUs memory-mapped and shared with other
            workers, so never to be written to. Data sets of the user's that do not fit are streamed.
        targets: int64 of shape [N], or float32 of shape [N, T], on the training device; of several labels float32 of
            shape [N, K].
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
        class_counts: samples of each class, or with each label, in `train`, on the device; empty for regression.
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
