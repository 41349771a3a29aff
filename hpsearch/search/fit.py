"""Under-fitting, good fit, over-fitting: what the two curves of a trial say."""

import math
from collections.abc import Sequence
from enum import StrEnum

from hpsearch.spec.train import FitSpec


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

    * Overfit: does the last validation loss lie by more than `overfit_rise` (a share) above its lowest, while
      the training loss went on falling since then? The network learns its training pictures by heart.
    * Underfit, still learning: did the validation loss fall by more than `underfit_slope` of itself per epoch
      over the last fifth of the epochs (two at least)? More epochs or a larger learning rate would help.
    * Underfit, too weak: is the best training loss above `underfit_ratio` of `chance_loss`, the loss of
      guessing? A larger model, or another learning rate, would help.

    Args:
        train: training loss per epoch; may be empty when a training function reports none.
        val: validation loss per epoch.
        chance_loss: the loss of guessing, ln K for the cross-entropy of K classes; None if it is not known.
    """
    if not any(map(math.isfinite, val)):
        return Fit.UNKNOWN
    best = min(range(len(val)), key=lambda epoch: val[epoch] if math.isfinite(val[epoch]) else math.inf)
    rose = not val[-1] <= val[best] + rule.overfit_rise * abs(val[best])
    fell_on = not train or train[-1] < train[best]
    if rose and fell_on:
        return Fit.OVERFIT
    if _slope(val) > rule.underfit_slope:
        return Fit.UNDERFIT
    finite = [loss for loss in train if math.isfinite(loss)]
    if chance_loss is not None and finite and min(finite) > rule.underfit_ratio * chance_loss:
        return Fit.UNDERFIT
    return Fit.GOOD


def _slope(val: Sequence[float]) -> float:
    """Returns the mean fall per epoch over the last fifth of the epochs, as a share of the loss there."""
    steps = max(2, len(val) // 5)
    if len(val) <= steps or val[-1 - steps] <= 0:
        return 0.0
    fall = (val[-1 - steps] - val[-1]) / val[-1 - steps] / steps
    return fall if math.isfinite(fall) else 0.0
