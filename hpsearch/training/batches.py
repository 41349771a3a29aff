"""How an epoch is cut into batches, and a batch into micro-batches."""

from itertools import pairwise
from typing import Literal

import torch
from torch import Generator, Tensor


def cut(
    samples: int, batch_size: int | Literal["full"], drop_last: bool = False, limit: int | None = None
) -> list[slice]:
    """Returns the batches of an epoch as slices of its shuffled order.

    The last batch may be short: `drop_last` leaves it out; otherwise it is trained, and one of a single
    sample is merged into the batch before, since BatchNorm cannot train on one sample.

    Args:
        limit: at most so many batches (`train.steps_per_epoch`).
    """
    size = samples if batch_size == "full" else min(batch_size, samples)
    starts = list(range(0, samples, size))
    rest = samples % size
    if len(starts) > 1 and (rest == 1 or (rest and drop_last)):
        starts.pop()
    end = samples - rest if drop_last else samples
    batches = [slice(start, stop) for start, stop in zip(starts, [*starts[1:], end], strict=True)]
    return batches[:limit]


def pieces(samples: int, micro_batch: int) -> list[slice]:
    """Returns a batch's micro-batches of at most `micro_batch` samples, their sizes as equal as can be.

    Where an odd batch is cut into pairs, one of them has three samples: BatchNorm cannot train on one.
    """
    count = -(-samples // micro_batch)
    if micro_batch == 2 and samples % 2 and samples > 1:
        count -= 1
    bounds = [index * samples // count for index in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


class ByClass:
    """The samples by class, to draw each class equally often (`train.sampling = "balanced"`).

    Args:
        targets_N: class indices; classes without a sample are not drawn.
    """

    def __init__(self, targets_N: Tensor) -> None:
        self._order_N = targets_N.argsort(stable=True)
        counts_K = torch.bincount(targets_N)
        starts_K = counts_K.cumsum(0) - counts_K
        self._counts, self._starts = counts_K[counts_K > 0], starts_K[counts_K > 0]

    def draw(self, samples: int, generator: Generator) -> Tensor:
        """Returns indices: of each a class is drawn first, then one of its samples, with replacement."""
        device = self._order_N.device
        class_N = torch.randint(len(self._counts), (samples,), generator=generator, device=device)
        share_N = torch.rand(samples, generator=generator, device=device, dtype=torch.float64)
        place_N = (share_N * self._counts[class_N]).long()
        return self._order_N[self._starts[class_N] + place_N]


def image_size_at(epoch: int, epochs: int, stages: tuple[tuple[float, int], ...]) -> int | None:
    """Returns the image size of an epoch (from 1) under progressive resizing; None without it."""
    share = (epoch - 1) / epochs
    reached = [size for start, size in stages if start <= share]
    return reached[-1] if reached else None
