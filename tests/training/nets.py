"""Models as a user might write them."""

import torch
from torch import Tensor, nn


def linear(channels: int, image_size: tuple[int, int], classes: int, scale: float = 1.0) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size[0] * image_size[1], classes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


def pooled(classes: int, depth: int) -> nn.Module:
    """Knows nothing of the images' size."""
    return nn.Sequential(
        nn.LazyConv2d(depth, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(depth, classes)
    )


def one_output(channels: int, image_size: tuple[int, int]) -> nn.Module:
    return linear(channels, image_size, 1)


def number(**facts: object) -> int:
    return len(facts)


def fails(classes: int) -> nn.Module:
    raise ZeroDivisionError(f"no model for {classes}")


class Picky(nn.Module):
    """Takes no images at all."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(1, classes)

    def forward(self, images: Tensor) -> Tensor:
        raise ValueError("I dislike images")


class Viewed(nn.Module):
    """Flattens by `view`, as many a tutorial does, which takes one order in memory alone."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 4, 3, padding=1)
        self.pool = nn.AdaptiveMaxPool2d(2)
        self.last = nn.Linear(16, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.pool(self.convolution(images))
        result: Tensor = self.last(features.view(len(features), -1))
        return result


class Upside(nn.Module):
    """Gives its outputs by the layer that it made first."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.last = nn.Linear(4, classes)
        self.first = nn.Conv2d(1, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.last(self.first(images).amax((2, 3)))
        return result


class Tied(nn.Module):
    """Two layers that share their weights, and one of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.norm(self.second(self.first(values)))
        return result
