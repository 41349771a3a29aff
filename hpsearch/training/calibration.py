"""Whether probabilities mean what they say, and the temperature that makes them (Guo et al. 2017).

Legend: N samples, K classes.
"""

from dataclasses import dataclass
from math import exp, log

import torch
from torch import Tensor
from torch.nn import functional

BINS = 10
_HOTTEST = 20.0
_PRIOR = 8.0
"""What deviations from a temperature of 1 cost: its logarithm is expected within log 2 (two standard deviations of
1 / sqrt(8)). `tests.benchmarks.temperature` shows what that gains and costs."""

_ROUNDS = 30
_GOLDEN = (5**0.5 - 1) / 2


def to_probabilities(outputs_BK: Tensor, loss: str, task: str = "classification") -> Tensor:
    """Returns the probabilities that a model's raw outputs mean under the loss that it was trained with.

    One output is the logit of the second of two classes. Where images may have several labels, each output is the logit
    of one.
    """
    outputs_BK = outputs_BK.double()
    if task == "multilabel":
        return outputs_BK.sigmoid()
    if outputs_BK.shape[1] == 1:
        second_B1 = outputs_BK.sigmoid()
        return torch.cat([1 - second_B1, second_B1], 1)
    return outputs_BK.sigmoid() if loss == "binary_cross_entropy" else outputs_BK.softmax(1)


def to_shares(outputs_BK: Tensor, loss: str, task: str = "classification") -> Tensor:
    """Returns the same, divided so that each row sums to 1: what models joined, and logarithmic losses, go by.

    A yes or no of its own for each class gives rows of any sum. Those of several labels stay what they are.
    """
    if task == "multilabel":
        return to_probabilities(outputs_BK, loss, task)
    if loss == "binary_cross_entropy" and outputs_BK.shape[1] > 1:
        return functional.logsigmoid(outputs_BK.double()).softmax(1)
    return to_probabilities(outputs_BK, loss)


def temperature(outputs_NK: Tensor, targets: Tensor) -> float:
    """Returns what logits are divided by so that their softmax is the most probable, from 0.05 to 20.

    It changes no order of classes: above 1 a model was too certain, below too doubtful. Before any image is seen its
    inverse has a gamma distribution about 1 (see `_PRIOR`): by the images alone a model without an error, as it
    easily is on few, would be endlessly certain. The sum of both losses is convex in the inverse, so that a golden
    section finds its minimum.

    Where images may have several labels, targets are [N, K] and the same holds of their sigmoid, all labels together.
    """
    outputs_NK = outputs_NK.double()

    def loss(logarithm: float) -> float:
        inverse = exp(logarithm)
        if targets.ndim == 2:
            of_images = functional.binary_cross_entropy_with_logits(
                outputs_NK * inverse, targets.double(), reduction="sum"
            )
        else:
            of_images = functional.cross_entropy(outputs_NK * inverse, targets, reduction="sum")
        return float(of_images) + _PRIOR * (inverse - 1 - logarithm)

    low, high = -log(_HOTTEST), log(_HOTTEST)
    inner = [high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)]
    found = [loss(one) for one in inner]
    for _ in range(_ROUNDS):
        if found[0] < found[1]:
            high, inner[1], found[1] = inner[1], inner[0], found[0]
            inner[0] = high - _GOLDEN * (high - low)
            found[0] = loss(inner[0])
        else:
            low, inner[0], found[0] = inner[0], inner[1], found[1]
            inner[1] = low + _GOLDEN * (high - low)
            found[1] = loss(inner[1])
    return exp(-(low + high) / 2)


@dataclass(frozen=True, slots=True)
class Reliability:
    """How often a model was right, by how certain it was.

    Attributes:
        ece: the expected calibration error: the mean distance of certainty and share of right answers.
        bins: of equally wide ranges of the certainty: (answers, mean certainty, share that was right), without
            the empty ones.
    """

    ece: float
    bins: tuple[tuple[int, float, float], ...]


def reliability(belief_NK: Tensor, targets_N: Tensor) -> Reliability:
    """Returns how reliable probabilities are, in ten ranges of the highest one.

    Of several labels (targets [N, K]), each is an answer of its own: whether the image has it.
    """
    if targets_N.ndim == 2:
        belief_NK, targets_N = (
            torch.stack([1 - belief_NK, belief_NK], -1).flatten(0, 1),
            targets_N.long().flatten(),
        )
    certain_N, predicted_N = belief_NK.double().cpu().max(1)
    right_N = (predicted_N == targets_N.cpu()).double()
    bin_N = (certain_N * BINS).long().clamp(0, BINS - 1)
    counts, certain, right = (
        torch.zeros(BINS, dtype=torch.float64).index_add_(0, bin_N, values)
        for values in (torch.ones_like(certain_N), certain_N, right_N)
    )
    ece = float((certain - right).abs().sum() / len(certain_N))
    rows = zip(counts.tolist(), certain.tolist(), right.tolist(), strict=True)
    return Reliability(ece, tuple((int(n), sure / n, good / n) for n, sure, good in rows if n))
