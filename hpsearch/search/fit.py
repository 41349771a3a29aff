"""Under-fitting, good fit, over-fitting: what the two curves of a trial say."""

import math
from collections.abc import Sequence
from enum import StrEnum
from statistics import median

from hpsearch.spec.train import FitSpec

END = 3
"""Epochs whose median stands for a curve's end: one bad epoch must not decide."""


class Fit(StrEnum):
    """The diagnosis of a trial."""

    UNDERFIT = "underfit"
    GOOD = "good"
    OVERFIT = "overfit"
    UNKNOWN = "unknown"  # no finite validation loss


def diagnose(
    train: Sequence[float], val: Sequence[float], rule: FitSpec, chance_loss: float | None = None
) -> Fit:
    """Returns what a trial's curves say, by three questions in this order.

    * Overfit: behind its lowest epoch, did the validation loss rise by more than `overfit_rise` (a share of
      that lowest loss), while the training loss went on falling? The network learns its training pictures by
      heart; fewer epochs, more pictures, augmentation or weight decay would help.
    * Underfit, still learning: did the lowest validation loss so far fall by more than `underfit_slope` of
      itself per epoch over the last fifth of the epochs (two at least)? More epochs would help.
    * Underfit, too weak: is the lower of the best training and the best validation loss above
      `underfit_ratio` of the loss of guessing? A larger model, or another learning rate, would help.

    The end of a curve is the median of its last three epochs behind the lowest (two at least). A rise or fall
    of the validation loss by less than `least_change` of the loss of guessing is none: when nearly all
    pictures are right, the loss is tiny, and a single picture moves it by more than the shares above.
    Epochs without a finite validation loss are left out: what `diverged` is no overfitting.

    Args:
        train: training loss per epoch; may be empty when a training function reports none.
        val: validation loss per epoch.
        chance_loss: the loss of guessing, ln K for the cross-entropy of K classes. Where it is not known, the
            highest validation loss up to the lowest stands for it in `least_change`, and the last question is
            not asked.
    """
    epochs = [epoch for epoch, loss in enumerate(val) if math.isfinite(loss)]
    if not epochs:
        return Fit.UNKNOWN
    val = [val[epoch] for epoch in epochs]
    train = [train[epoch] for epoch in epochs] if train else []
    best = val.index(min(val))
    least = rule.least_change * (max(val[: best + 1]) if chance_loss is None else chance_loss)
    if _learns_by_heart(train, val, best, max(least, rule.overfit_rise * abs(val[best]))):
        return Fit.OVERFIT
    if _still_learns(val, rule.underfit_slope, least):
        return Fit.UNDERFIT
    lowest = min(loss for loss in (*train, val[best]) if math.isfinite(loss))
    if chance_loss is not None and lowest > rule.underfit_ratio * chance_loss:
        return Fit.UNDERFIT
    return Fit.GOOD


def _learns_by_heart(train: Sequence[float], val: Sequence[float], best: int, rise: float) -> bool:
    """Says whether validation rose by more than `rise` behind the best epoch while training loss fell."""
    behind = len(val) - 1 - best
    if behind < 2:
        return False
    end = slice(-min(END, behind), None)
    fell = not train or median(train[end]) < train[best]
    return fell and median(val[end]) - val[best] > rise


def _still_learns(val: Sequence[float], slope: float, least: float) -> bool:
    """Says whether the lowest loss so far fell by a share per epoch over the last fifth, and noticeably."""
    steps = max(2, len(val) // 5)
    if len(val) <= steps:
        return False
    before = min(val[:-steps])
    fall = before - min(val)
    return fall > slope * abs(before) * steps and fall > least
