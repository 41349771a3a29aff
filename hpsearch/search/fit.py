"""Under-fitting, good fit, over-fitting: what the two curves of a trial say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from hpsearch.study.train import FitSpec

END = 3
"""Epochs, at least, whose median stands for a curve's end: one bad epoch must not decide."""
NOISE = 2.2
"""Standard deviations of a curve's noise that a rise must exceed. In simulated plateaus of 10 to 50 epochs with noise
up to a quarter of their level, at most 6 % were called overfit (up to 94 % with any rise above the lowest)."""


class Fit(StrEnum):
    """The diagnosis of a trial."""

    UNDERFIT = "underfit"
    GOOD = "good"
    OVERFIT = "overfit"
    UNKNOWN = "unknown"  # no finite validation loss, or diverged before it could be told


Losses = Sequence[float | None]
"""One per epoch; None where none was reported, NaN or infinite where training diverged."""


def diagnose(train: Losses, val: Losses, rule: FitSpec, guessing_loss: float | None = None) -> Fit:
    """Returns what a trial's curves say, by four questions in this order.

    * Overfit, a rise: behind its lowest epoch, did the validation loss rise by more than `overfit_rise` (a share
      of that lowest loss), while the training loss went on falling? It must also end above the epochs about the
      lowest by more than its own noise. The network learns its training pictures by heart; fewer epochs, more
      pictures, augmentation or weight decay would help.
    * Underfit, still learning: did the lowest validation loss so far fall by more than `underfit_slope` of
      itself per epoch over the last fifth of the epochs (two at least), and by more than its noise? More epochs
      would help.
    * Overfit, a gap: does the validation loss end above the training loss by more than `overfit_gap` of the loss
      of guessing? A validation loss above that of guessing counts as the loss of guessing.
    * Underfit, too weak: is the lower of the best training and the best validation loss above
      `underfit_ratio` of the loss of guessing? A larger model, or another learning rate, would help.

    The end of a curve is the median of the last third of the epochs behind the lowest (three at least, two where
    there are no more). A rise or fall of the validation
    loss by less than `least_change` of the loss of guessing is none: when nearly all pictures are right, the loss
    is tiny, and a single picture moves it by more than the shares above.

    Epochs without a finite validation loss are left out. A trial that diverged in the end is not underfit, as it
    would have learned nothing more: it is overfit, good if it had stopped learning before, else unknown.

    Args:
        train: training loss per epoch; may be empty when a training function reports none.
        val: validation loss per epoch.
        guessing_loss: of the best constant prediction. Where it is not known, the largest validation loss up to
            the lowest stands for it in `least_change`, and the last two questions are not asked. Where losses are
            negative, as those of densities can be, a share of a loss says nothing: the shares are then those of
            the whole span of both curves.
    """
    curves = _Curves.of(train, val)
    if curves is None:
        return Fit.UNKNOWN
    guessing = guessing_loss if guessing_loss is not None and guessing_loss > 0 else None
    least = rule.least_change * curves.scale(guessing)
    if curves.learn_by_heart(max(least, rule.overfit_rise * curves.size(min(curves.val)))):
        return Fit.OVERFIT
    weak = guessing is not None and curves.lowest > rule.underfit_ratio * guessing
    learning = curves.still_learn(rule.underfit_slope, least)
    if learning and not curves.diverged:
        return Fit.UNDERFIT
    if guessing is not None and curves.gap(guessing) > rule.overfit_gap * guessing:
        return Fit.OVERFIT
    if curves.diverged:
        return Fit.UNKNOWN if learning or weak else Fit.GOOD
    return Fit.UNDERFIT if weak else Fit.GOOD


@dataclass(frozen=True, slots=True)
class _Curves:
    """Both curves over the epochs with a finite validation loss.

    Attributes:
        train: as reported, so also None, NaN and infinite; empty if there is none at all.
        diverged: whether the last loss reported of either curve is not finite.
    """

    train: Losses
    val: Sequence[float]
    diverged: bool

    @classmethod
    def of(cls, train: Losses, val: Losses) -> "_Curves | None":
        """Returns None where no validation loss is finite."""
        found = [(epoch, loss) for epoch, loss in enumerate(val) if _is_finite(loss)]
        known = [[loss for loss in curve if loss is not None] for curve in (train, val)]
        diverged = any(losses and not math.isfinite(losses[-1]) for losses in known)
        epochs = [epoch for epoch, _ in found if epoch < len(train)] if known[0] else []
        finite = [loss for _, loss in found if loss is not None]
        return cls([train[epoch] for epoch in epochs], finite, diverged) if finite else None

    @property
    def best(self) -> int:
        return self.val.index(min(self.val))

    @property
    def lowest(self) -> float:
        return min(*_finite(self.train), *self.val, math.inf)

    def size(self, loss: float) -> float:
        """Returns what shares of a loss are taken of: itself, or both curves' span where some are negative."""
        if self.lowest >= 0:
            return loss
        return max(*_finite(self.train), *self.val, -math.inf) - self.lowest

    def scale(self, guessing: float | None) -> float:
        """Returns the loss of guessing, or what stands for it."""
        return self.size(max(self.val[: self.best + 1])) if guessing is None else guessing

    def learn_by_heart(self, rise: float) -> bool:
        """Says whether validation rose by more than `rise` behind the best epoch while training loss fell."""
        best, behind = self.best, len(self.val) - 1 - self.best
        if behind < 2:
            return False
        end = slice(-min(max(END, behind // 3), behind), None)
        from_ = max(0, best - 1)
        ends = median(self.val[end])
        is_clear = ends - median(self.val[from_ : best + 2]) > NOISE * _noise(self.val[from_:])
        return ends - self.val[best] > rise and is_clear and self._training_fell(end)

    def _training_fell(self, end: slice) -> bool:
        """Says whether training loss ends below that of the best epoch, or is not reported at either."""
        start = self.train[self.best] if self.best < len(self.train) else None
        known = [loss for loss in self.train[end] if loss is not None]
        if start is None or not known:
            return True
        return len(_finite(known)) == len(known) and median(known) < start

    def still_learn(self, slope: float, least: float) -> bool:
        """Says whether the lowest loss so far fell by a share per epoch over the last fifth, and noticeably."""
        steps = max(2, len(self.val) // 5)
        if len(self.val) <= steps:
            return False
        before = min(self.val[:-steps])
        fall = before - min(self.val)
        noise = _noise(self.val[-2 * steps - 1 :])
        return fall > slope * self.size(before) * steps and fall > max(least, NOISE * noise)

    def gap(self, guessing: float) -> float:
        """Returns how far the end of the validation loss lies above that of the training loss."""
        train = _finite(self.train[-END:])
        return min(median(self.val[-END:]), guessing) - median(train) if train else 0.0


def _is_finite(loss: float | None) -> bool:
    return loss is not None and math.isfinite(loss)


def _finite(losses: Losses) -> list[float]:
    return [loss for loss in losses if loss is not None and math.isfinite(loss)]


def _noise(losses: Sequence[float]) -> float:
    """Returns the standard deviation of a curve about its trend, by its second differences (Rice 1984).

    These hide a steady rise or fall. Their median is not moved by single jumps; for normal noise it is 0.6745
    sqrt(6) standard deviations.
    """
    bends = [
        abs(after - 2 * loss + before)
        for before, loss, after in zip(losses, losses[1:], losses[2:], strict=False)
    ]
    return median(bends) / (0.6745 * math.sqrt(6)) if bends else 0.0
