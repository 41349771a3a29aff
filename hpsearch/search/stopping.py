"""Early stopping criteria: frozen values with one pure judgement over a trial's whole curve.

Source: L. Prechelt, Early Stopping - But When?, in: Neural Networks: Tricks of the Trade, 1998. E_va(t) and
E_tr(t) are the mean validation and training loss of epoch t, from 1; E_opt(t) is the least E_va up to t.

Losses that are not finite: NaN, inf and -inf all count as +inf. So such an epoch is worse than every number,
equal to another such epoch, and never an improvement; a curve's first finite loss is one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Protocol

from hpsearch.study.stopping import (
    DEFAULT_ALPHA,
    DEFAULT_STRIP,
    EarlyStopping,
    require_at_least,
    require_positive,
)
from hpsearch.text import counted


@dataclass(frozen=True, slots=True)
class Curve:
    """Losses of a trial's epochs so far; lower is better, index 0 is epoch 1.

    Attributes:
        train: may be empty where no criterion needs it, otherwise it is as long as `val`.
        name: of what `val` holds, for sentences.
        negated: whether that is better the higher it is; `val` holds it negated then.

    Raises:
        ValueError: `train` and `val` differ in length.
    """

    val: tuple[float, ...]
    train: tuple[float, ...] = ()
    name: str = "the validation loss"
    negated: bool = False

    def __post_init__(self) -> None:
        if self.train and len(self.train) != len(self.val):
            raise ValueError(
                f"a curve needs as many training losses as validation losses ({len(self.val)}), "
                f"got {len(self.train)}"
            )

    @property
    def worsened(self) -> str:
        """What `val` did where it became worse, in a word."""
        return "fell" if self.negated else "rose"


@dataclass(frozen=True, slots=True)
class StopReason:
    """Which criterion fired at which epoch, and why in one sentence."""

    criterion: str
    epoch: int
    detail: str


class Criterion(Protocol):
    """One rule for when a trial has had enough epochs."""

    @property
    def needs_train_loss(self) -> bool:
        """Whether `judge` reads `Curve.train`."""

    def judge(self, curve: Curve) -> StopReason | None:
        """Returns the reason if the criterion fires at the curve's last epoch, else None; keeps no state.

        Raises:
            ValueError: the criterion needs training losses and the curve has none.
        """


@dataclass(frozen=True, slots=True)
class Patience:
    """No epoch improved by more than `min_delta` for `patience` epochs.

    Improvement is measured from the last epoch that counted as one, so many small steps add up to one.
    """

    needs_train_loss: ClassVar[bool] = False
    patience: int
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        require_at_least("patience", self.patience, 1)
        require_at_least("min_delta", self.min_delta, 0)

    def judge(self, curve: Curve) -> StopReason | None:
        """Fires from the epoch on that is `patience` epochs after the last improvement."""
        best, best_epoch = math.inf, 0
        for epoch, loss in enumerate(curve.val, start=1):
            # NaN compares as false, so only -inf needs a word.
            if loss < best - self.min_delta and loss != -math.inf:
                best, best_epoch = loss, epoch
        last = len(curve.val)
        if last - best_epoch < self.patience:
            return None
        shown = -best if curve.negated else best
        since = f"since {shown:.6g} at epoch {best_epoch}" if best_epoch else "since the start"
        by = f" by more than {self.min_delta:g}" if self.min_delta else ""
        detail = f"{curve.name} has not improved{by} {since}, for {counted(last - best_epoch, 'epoch')}"
        return StopReason("patience", last, detail)


@dataclass(frozen=True, slots=True)
class GeneralizationLoss:
    """The validation loss is more than `alpha` percent above its lowest: GL(t) > alpha."""

    needs_train_loss: ClassVar[bool] = False
    alpha: float = DEFAULT_ALPHA["gl"]

    def __post_init__(self) -> None:
        require_positive("alpha", self.alpha)

    def judge(self, curve: Curve) -> StopReason | None:
        """Fires at every epoch t with GL(t) > alpha."""
        loss = generalization_loss(curve.val)
        if not loss > self.alpha:
            return None
        beyond = "below its highest" if curve.negated else "above its lowest"
        detail = f"{curve.name} is {loss:.4g} % {beyond}, more than {self.alpha:g} %"
        return StopReason("gl", len(curve.val), detail)


@dataclass(frozen=True, slots=True)
class ProgressQuotient:
    """Generalization loss over training progress is more than `alpha`: GL(t) / P_k(t) > alpha."""

    needs_train_loss: ClassVar[bool] = True
    alpha: float = DEFAULT_ALPHA["pq"]
    strip: int = DEFAULT_STRIP

    def __post_init__(self) -> None:
        require_positive("alpha", self.alpha)
        require_at_least("strip", self.strip, 1)

    def judge(self, curve: Curve) -> StopReason | None:
        """Fires at the end of a strip; without any progress every generalization loss is too much."""
        _require_train(curve, "pq")
        epoch = len(curve.val)
        if epoch == 0 or epoch % self.strip:
            return None
        loss, progress = generalization_loss(curve.val), training_progress(curve.train[-self.strip :])
        # A product instead of the paper's quotient: a flat strip has progress 0. An infinite loss over an
        # infinite progress (a training loss that is not finite) has no quotient and stops nothing.
        if not loss > self.alpha * progress:
            return None
        detail = (
            f"the generalization loss {loss:.4g} is more than {self.alpha:g} times "
            f"the training progress {progress:.4g} of the last {self.strip} epochs"
        )
        return StopReason("pq", epoch, detail)


@dataclass(frozen=True, slots=True)
class Up:
    """The validation loss rose over each of the last `successive` strips, compared at the strips' ends."""

    needs_train_loss: ClassVar[bool] = False
    strip: int = DEFAULT_STRIP
    successive: int = 3

    def __post_init__(self) -> None:
        require_at_least("strip", self.strip, 1)
        require_at_least("successive", self.successive, 1)

    def judge(self, curve: Curve) -> StopReason | None:
        """Fires at the end of a strip, not before epoch (successive + 1) strip: there is no E_va(0)."""
        epoch = len(curve.val)
        if epoch % self.strip or epoch < (self.successive + 1) * self.strip:
            return None
        first = epoch - 1 - self.successive * self.strip
        ends = _finite_or_worst(curve.val[first :: self.strip])
        if not _rises(ends):
            return None
        strips = f"each of the last {self.successive} strips of {self.strip} epochs"
        return StopReason("up", epoch, f"{curve.name} {curve.worsened} over {strips}")


@dataclass(frozen=True, slots=True)
class Overfit:
    """Training loss fell and validation loss rose in each of the last `epochs` epochs."""

    needs_train_loss: ClassVar[bool] = True
    epochs: int = 5

    def __post_init__(self) -> None:
        require_at_least("epochs", self.epochs, 1)

    def judge(self, curve: Curve) -> StopReason | None:
        """Fires at epoch `epochs` + 1 at the earliest; an unchanged loss neither falls nor rises."""
        _require_train(curve, "overfit")
        if len(curve.val) <= self.epochs:
            return None
        val = _finite_or_worst(curve.val[-self.epochs - 1 :])
        train = _finite_or_worst(curve.train[-self.epochs - 1 :])
        if not (_rises(val) and _rises(train[::-1])):
            return None
        both = f"the training loss fell and {curve.name} {curve.worsened}"
        detail = f"{both} in each of the last {self.epochs} epochs"
        return StopReason("overfit", len(curve.val), detail)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Several criteria: the first to fire wins, at the same epoch the one that is named first."""

    criteria: tuple[Criterion, ...]

    def __post_init__(self) -> None:
        require_at_least("number of criteria", len(self.criteria), 1)

    @property
    def needs_train_loss(self) -> bool:
        """Whether one of the criteria does."""
        return any(criterion.needs_train_loss for criterion in self.criteria)

    def judge(self, curve: Curve) -> StopReason | None:
        """Returns the reason of the first criterion in the list that fires at the last epoch."""
        reasons = (criterion.judge(curve) for criterion in self.criteria)
        return next((reason for reason in reasons if reason is not None), None)


@dataclass(frozen=True, slots=True)
class WarmUp:
    """A criterion that may not fire in the first `epochs` epochs.

    These epochs stay in the curve: they can hold its lowest loss, and patience counts them.
    """

    criterion: Criterion
    epochs: int

    def __post_init__(self) -> None:
        require_at_least("epochs", self.epochs, 0)

    @property
    def needs_train_loss(self) -> bool:
        """Whether the criterion does."""
        return self.criterion.needs_train_loss

    def judge(self, curve: Curve) -> StopReason | None:
        """Returns what the criterion says, after the warm-up."""
        return None if len(curve.val) <= self.epochs else self.criterion.judge(curve)


@dataclass(frozen=True, slots=True)
class LastStage:
    """A criterion that judges the epochs after the first `epochs` alone, in which something else was trained.

    To it, their losses are worse than every number: a first stage that has got as far as it can ends no trial, and its
    lowest loss is not what the next one must improve on.
    """

    criterion: Criterion
    epochs: int

    @property
    def needs_train_loss(self) -> bool:
        """Whether the criterion does."""
        return self.criterion.needs_train_loss

    def judge(self, curve: Curve) -> StopReason | None:
        """Returns what the criterion says of the last stage."""
        if len(curve.val) <= self.epochs:
            return None
        return self.criterion.judge(replace(curve, val=(math.inf,) * self.epochs + curve.val[self.epochs :]))


def generalization_loss(val: Sequence[float]) -> float:
    """Returns GL(t) = 100 (E_va(t) - E_opt(t)) / |E_opt(t)| of the last epoch, in percent.

    For positive losses this is the paper's 100 (E_va(t) / E_opt(t) - 1). The absolute value lets it grow with
    the loss where losses are negative. It is infinite above E_opt(t) = 0, from where nothing can be won, and
    for a last loss that is not finite; 0 where no loss is finite yet.
    """
    lowest = min(filter(math.isfinite, val), default=math.inf)
    last = _or_worst(val[-1]) if val else math.inf
    if last == lowest:
        return 0.0
    return 100.0 * (last - lowest) / abs(lowest) if lowest else math.inf


def training_progress(strip: Sequence[float]) -> float:
    """Returns P_k(t) = 1000 (mean - min) / |min| of a strip's training losses, in per mille.

    For positive losses this is the paper's 1000 (mean / min - 1). It is infinite for a strip that reached 0
    and for one with a loss that is not finite.
    """
    if not all(map(math.isfinite, strip)):
        return math.inf
    lowest = min(strip)
    above = sum(loss - lowest for loss in strip) / len(strip)
    if above == 0:
        return 0.0
    return 1000.0 * above / abs(lowest) if lowest else math.inf


def build(early_stopping: EarlyStopping, epochs: int, last_stage_after: int = 0) -> Criterion | None:
    """Returns the criterion of a study for a trial, or None where nothing stops it.

    Args:
        epochs: of the trial.
        last_stage_after: of these, those before the last of its stages.
    """
    criteria = tuple(_CRITERIA[table.name](**table.parameters()) for table in early_stopping.tables())
    if not criteria:
        return None
    criterion: Criterion = criteria[0] if len(criteria) == 1 else AnyOf(criteria)
    if last_stage_after:
        criterion = LastStage(criterion, last_stage_after)
    warmup = warmup_epochs(early_stopping.warmup, epochs)
    return WarmUp(criterion, warmup) if warmup else criterion


def warmup_epochs(warmup: float, epochs: int) -> int:
    """Returns a warm-up in epochs, given so (an int) or as a share of `epochs` (a float), rounded up."""
    if isinstance(warmup, int):
        return warmup
    # Less a hair, so that 0.07 of 100 epochs, 7.000000000000001 in floats, is 7 and not 8.
    return math.ceil(warmup * epochs - 1e-9)


_CRITERIA: Mapping[str, Callable[..., Criterion]] = {
    "patience": Patience,
    "gl": GeneralizationLoss,
    "pq": ProgressQuotient,
    "up": Up,
    "overfit": Overfit,
}


def _or_worst(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _finite_or_worst(losses: Sequence[float]) -> list[float]:
    return [_or_worst(loss) for loss in losses]


def _rises(losses: Sequence[float]) -> bool:
    return all(later > earlier for earlier, later in pairwise(losses))


def _require_train(curve: Curve, name: str) -> None:
    if curve.val and not curve.train:
        raise ValueError(f'criterion "{name}" needs the training loss of every epoch, but the curve has none')
