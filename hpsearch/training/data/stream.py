"""Images that stay in the user's data set and are read batch by batch.

They stand where a tensor of images stands otherwise. Told by `expect` which batches are coming, they are read
ahead by a DataLoader; asked for anything else, they are read at once.
"""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hpsearch.errors import DataError
from hpsearch.training.data.catalogue import Array, Size, find_flawed
from hpsearch.training.data.objects import ItemImages, drawing_from

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
        array = self._images.image(self._images.item(index), self._size, self.shape[1])
        if find_flawed(array[None])[0]:
            raise DataError(
                f"data.dataset: {self._images.name(index)} holds NaN or infinite values; remove or replace it"
            )
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
