"""Losses, metrics, optimizers and schedules as a user might write them."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Judge = Callable[[Tensor, Tensor], Any]


def cross_entropy(classes: int, task: str, smoothing: float = 0.0) -> Judge:
    assert (classes, task) == (10, "classification")
    return lambda outputs, targets: functional.cross_entropy(
        outputs, targets, reduction="none", label_smoothing=smoothing
    )


def focal() -> Judge:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        plain = functional.cross_entropy(outputs, targets, reduction="none")
        return (1 - (-plain).exp()) ** 2 * plain

    return loss


def squares() -> Judge:
    return lambda outputs, targets: (outputs - targets).square().mean(1)


def mean_loss() -> Judge:
    return functional.cross_entropy


def failing_loss() -> Judge:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        raise IndexError("no such sample")

    return loss


def share() -> Judge:
    return lambda outputs, targets: (outputs.argmax(1) == targets).double().mean()


def plain_share() -> Judge:
    """A number of Python's, as scikit-learn's metrics give."""
    return lambda outputs, targets: float((outputs.argmax(1) == targets).double().mean())


def words() -> Judge:
    return lambda outputs, targets: "good"


def sgd(params: Iterable[dict[str, Any]], lr: float, momentum: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=lr, momentum=momentum)


def nothing(params: object) -> None:
    return None


def halves(epochs: int, steps_per_epoch: int, floor: float = 0.0) -> Callable[[int], float]:
    """The learning rate halves each epoch."""
    return lambda step: max(floor, 0.5 ** (step // steps_per_epoch))


def negative() -> Callable[[int], float]:
    return lambda step: -1.0
