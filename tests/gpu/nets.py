"""Models that take as much of a GPU's memory as they are told to, or fail there."""

import torch
from torch import Tensor, nn


class Hungry(nn.Module):
    """Blows each sample up to `megabytes` on a GPU, twice in the backward pass; small on a CPU.

    The outputs do not depend on how far it is blown up, beyond rounding.
    """

    def __init__(self, inputs: int, classes: int, megabytes: int) -> None:
        super().__init__()
        self.copies = megabytes * 2**20 // 4 // 16
        self.first = nn.Linear(inputs, 16)
        self.last = nn.Linear(16, classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden_BF = self.first(images.flatten(1))
        copies = self.copies if images.is_cuda else 1
        blown_BCF = hidden_BF.float()[:, None].repeat(1, copies, 1)
        result: Tensor = self.last((blown_BCF * blown_BCF.sigmoid()).mean(1))
        return result


def hungry(channels: int, image_size: tuple[int, int], classes: int, megabytes: int) -> nn.Module:
    return Hungry(channels * image_size[0] * image_size[1], classes, megabytes)


class Fails(nn.Module):
    """Has a bug that shows after some batches of training."""

    def __init__(self, inputs: int, classes: int, after: int) -> None:
        super().__init__()
        self.left = after
        self.layer = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.layer(images.flatten(1))
        if self.training:
            self.left -= 1
            if self.left < 0:
                raise IndexError(f"a bug, with {torch.numel(result)} numbers in hand")
        return result


def fails(channels: int, image_size: tuple[int, int], classes: int, after: int) -> nn.Module:
    return Fails(channels * image_size[0] * image_size[1], classes, after)
