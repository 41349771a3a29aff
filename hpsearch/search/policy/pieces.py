"""After which epochs a trial may be paused, and how far a trial is.

Where every trial has the same epochs, or a short trial is the beginning of a long one, trials are compared at equal
epochs. Where the learning rate's schedule stretches over each trial's own epochs, epoch 10 of 20 is not epoch 10
of 50, and trials are compared at equal shares of their epochs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpsearch.study.section import is_own
from hpsearch.study.specification import StudySpec

STRETCHED = ("cosine", "one_cycle", "step")
"""Schedules over a trial's own epochs; one of the user's own is taken for such."""


@dataclass(frozen=True)
class Pieces:
    """Where the pieces end that trials are trained in.

    Attributes:
        by_share: whether a piece's end is a share of the trial's epochs.
        first: least epochs of the first piece.
        growth: each piece ends at so many times the epochs of the one before.
        longest: epochs of the longest trial.
        count: by share, the number of pieces; fewer where the first ones would be shorter than `first`.
    """

    by_share: bool
    growth: float
    longest: int
    first: int = 1
    count: int = 4

    def cuts(self, epochs: int) -> tuple[int, ...]:
        """Returns the epochs after which the pieces of a trial end; the last is the trial's own end.

        >>> Pieces(by_share=False, growth=3, longest=50).cuts(50)
        (1, 3, 9, 27, 50)
        >>> Pieces(by_share=True, growth=2, longest=50).cuts(40)
        (5, 10, 20, 40)
        >>> Pieces(by_share=True, growth=2, longest=50, first=6).cuts(40)
        (10, 20, 40)
        """
        if self.by_share:
            ends = [epochs * self.growth**-k for k in range(self.count - 1, 0, -1)]
        else:
            ends = [self.first * self.growth**k for k in range(_steps(epochs / self.first, self.growth))]
        whole = dict.fromkeys(round(end) for end in ends)
        return (*(end for end in whole if self.first <= end < epochs), epochs)

    def rung(self, cuts: tuple[int, ...], place: int) -> int:
        """Returns what names the rung of a cut: its epoch, or by share how many pieces are left."""
        return place - len(cuts) if self.by_share else cuts[place]

    def as_far(self, epoch: int, epochs: int, other: int) -> int:
        """Returns at which epoch a trial of `other` epochs is as far as one of `epochs` at an epoch."""
        return max(1, math.ceil(epoch * other / epochs)) if self.by_share else epoch

    def time(self, epoch: NDArray[np.float64], epochs: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns how far trials are, on a logarithmic scale that ends at 1."""
        far = epoch / (epochs if self.by_share else self.longest)
        scale = 16 if self.by_share else max(2, self.longest)
        times: NDArray[np.float64] = 1 + np.log(np.maximum(far, 1e-3)) / math.log(scale)
        return times


def _steps(ratio: float, growth: float) -> int:
    return max(0, math.ceil(math.log(ratio) / math.log(growth) - 1e-9)) if ratio > 1 else 0


def are_stretched(spec: StudySpec) -> bool:
    """Says whether trials have different epochs and a schedule, or a first stage, stretches over them."""
    if "epochs" not in spec.search or len(set(spec.values_of("epochs"))) == 1:
        return False
    schedules = spec.values_of("train.schedule")
    return any(name in STRETCHED or is_own(str(name)) for name in schedules) or _are_stages_stretched(spec)


def _are_stages_stretched(spec: StudySpec) -> bool:
    ends = spec.ends()
    staged = ("train.stages", "train.stages.head.epochs")
    chosen = [{}, *({name: value} for name in staged for value in ends.get(name, ()))]
    return any(spec.with_hparams(spec.filled(values)).train.has_stretched_stages for values in chosen)


def epochs_of(spec: StudySpec, hparams: Mapping[str, Any]) -> int:
    """Returns the epoch after which a trial ends by itself."""
    epochs = int(hparams.get("epochs", spec.train.epochs))
    last = hparams.get("train.last_epoch", spec.train.last_epoch)
    return min(epochs, last) if isinstance(last, int) else epochs
