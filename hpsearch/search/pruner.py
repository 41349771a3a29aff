"""Pruners: our stopping criteria for anyone's `study.optimize`, and Optuna's own by name."""

from collections.abc import Callable, Mapping, Sequence

from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
)
from optuna.study import Study
from optuna.trial import FrozenTrial

from hpsearch.errors import StudyFileError, UserError
from hpsearch.search.stopping import Criterion, Curve
from hpsearch.study.direction import sign
from hpsearch.study.stopping import Pruner


class EarlyStoppingPruner(BasePruner):
    """Stops a trial by its own curve, in any Optuna study.

        study = optuna.create_study(pruner=EarlyStoppingPruner(Patience(8)))

    The n-th reported value, in the order of the steps, is epoch n: steps may start at 0 or 1 and have gaps. A
    trial that reports every tenth epoch has its patience in reports. Where the study maximizes, values are
    negated (gl and pq then measure the fall of the score relative to its best).

    Optuna stores the last value of a trial that ends by `raise TrialPruned`. To keep a stopped trial's best
    value and the state COMPLETE, return the best value instead of raising.

    Args:
        criterion: of `hpsearch.search.stopping`.
        train_loss: the user attribute that holds the list of training losses, one for each reported value, in
            the order of their steps. Set it before `trial.should_prune()`. Needed by `pq` and `overfit`.

    Raises:
        UserError: it is no criterion, or it needs training losses and `train_loss` is not given.
    """

    def __init__(self, criterion: Criterion, train_loss: str | None = None) -> None:
        if not hasattr(criterion, "judge"):
            raise UserError(
                f"EarlyStoppingPruner: criterion must be a stopping criterion, got {criterion!r}; write "
                "EarlyStoppingPruner(hpsearch.Patience(8))"
            )
        if criterion.needs_train_loss and train_loss is None:
            raise UserError(
                f"{criterion} needs training losses; name the user attribute that holds their list, as in "
                'EarlyStoppingPruner(criterion, train_loss="train_loss")'
            )
        self._criterion = criterion
        self._train_loss = train_loss

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Says whether the criterion fires at the last reported value.

        Raises:
            UserError: training losses are needed and the trial's user attribute does not hold them.
        """
        factor = sign(study.direction.name.lower())
        reported = trial.intermediate_values
        val = tuple(factor * reported[step] for step in sorted(reported))
        train = self._train_losses(trial, len(val)) if self._criterion.needs_train_loss else ()
        return self._criterion.judge(Curve(val=val, train=train)) is not None

    def _train_losses(self, trial: FrozenTrial, count: int) -> tuple[float, ...]:
        losses = trial.user_attrs.get(str(self._train_loss))
        if not isinstance(losses, Sequence) or isinstance(losses, str) or len(losses) != count:
            raise UserError(
                f"trial {trial.number}: {self._criterion} needs a list of {count} training losses, one for "
                f'each reported value, in the user attribute "{self._train_loss}", got {losses!r}; call '
                f'trial.set_user_attr("{self._train_loss}", losses) before trial.should_prune()'
            )
        return tuple(map(float, losses))


def build_pruner(pruner: Pruner, epochs_high: int) -> BasePruner:
    """Returns Optuna's pruner for a study whose trials report epochs from 1 to at most `epochs_high`.

    The direction is read by Optuna from the study that `prune` is given.

    Raises:
        StudyFileError: `pruner.min_epochs` exceeds the epochs that a trial can have.
    """
    return _PRUNERS[pruner.name](pruner, epochs_high)


def _median(pruner: Pruner, epochs_high: int) -> BasePruner:
    return MedianPruner(
        pruner.startup_trials,
        _first_step(pruner),
        pruner.interval_epochs,
        n_min_trials=pruner.min_trials,
    )


def _percentile(pruner: Pruner, epochs_high: int) -> BasePruner:
    return PercentilePruner(
        pruner.percentile,
        pruner.startup_trials,
        _first_step(pruner),
        pruner.interval_epochs,
        n_min_trials=pruner.min_trials,
    )


def _asha(pruner: Pruner, epochs_high: int) -> BasePruner:
    _require_reachable(pruner.min_epochs, epochs_high)
    return SuccessiveHalvingPruner(pruner.min_epochs, pruner.reduction_factor)


def _hyperband(pruner: Pruner, epochs_high: int) -> BasePruner:
    # By hand: "auto" takes the epochs of the first trial that completes, which may be the shortest.
    longest = pruner.max_epochs or epochs_high
    _require_reachable(pruner.min_epochs, longest)
    return HyperbandPruner(pruner.min_epochs, longest, pruner.reduction_factor)


_PRUNERS: Mapping[str, Callable[[Pruner, int], BasePruner]] = {
    "none": lambda pruner, epochs_high: NopPruner(),
    "median": _median,
    "percentile": _percentile,
    "asha": _asha,
    "hyperband": _hyperband,
}


def _first_step(pruner: Pruner) -> int:
    # Optuna prunes at step == n_warmup_steps already, and our steps count from 1.
    return pruner.warmup_epochs + 1


def _require_reachable(min_epochs: int, longest: int) -> None:
    if min_epochs > longest:
        raise StudyFileError(
            f"pruner.min_epochs must be at most the {longest} epochs of the longest trial, got {min_epochs}"
        )
