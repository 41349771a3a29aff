from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import pytest
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner, PercentilePruner, SuccessiveHalvingPruner
from optuna.trial import TrialState

from hpsearch.errors import StudyFileError, UserError
from hpsearch.search.pruner import EarlyStoppingPruner, build_pruner
from hpsearch.search.stopping import GeneralizationLoss, Overfit, Patience, ProgressQuotient
from hpsearch.study.direction import Direction
from hpsearch.study.stopping import Pruner

MakeStudy = Callable[..., optuna.Study]


@pytest.fixture
def make_study(tmp_path: Path) -> MakeStudy:
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def make(pruner: optuna.pruners.BasePruner, direction: Direction = "minimize") -> optuna.Study:
        url = f"sqlite:///{tmp_path / 'study.db'}"
        return optuna.create_study(storage=url, study_name="pruned", pruner=pruner, direction=direction)

    return make


def replay(curve: Sequence[float], steps: Sequence[int]) -> Callable[[optuna.Trial], float]:
    def objective(trial: optuna.Trial) -> float:
        for value, step in zip(curve, steps, strict=True):
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return min(curve)

    return objective


@pytest.mark.parametrize(
    "steps",
    [(1, 2, 3, 4, 5, 6), (0, 1, 2, 3, 4, 5), (10, 20, 35, 40, 100, 101)],
    ids=["from one", "from zero", "with gaps"],
)
def test_patience_in_a_plain_optuna_study(make_study: MakeStudy, steps: tuple[int, ...]) -> None:
    study = make_study(EarlyStoppingPruner(Patience(3)))
    # Best at the second report, so the fifth is the third without improvement.
    study.optimize(replay((1.0, 0.5, 0.6, 0.6, 0.55, 0.4), steps), n_trials=1)
    study.optimize(replay((1.0, 0.9, 0.8, 0.7, 0.6, 0.5), steps), n_trials=1)
    first, second = study.trials
    assert (first.state, first.last_step) == (TrialState.PRUNED, steps[4])
    assert (second.state, second.value) == (TrialState.COMPLETE, 0.5)


def test_a_maximizing_study_is_judged_upside_down(make_study: MakeStudy) -> None:
    study = make_study(EarlyStoppingPruner(Patience(2)), "maximize")
    study.optimize(replay((0.5, 0.6, 0.7, 0.8), range(4)), n_trials=1)
    study.optimize(replay((0.8, 0.7, 0.6, 0.9), range(4)), n_trials=1)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert study.trials[1].last_step == 2


def test_gl_of_a_score_that_falls(make_study: MakeStudy) -> None:
    study = make_study(EarlyStoppingPruner(GeneralizationLoss(5.0)), "maximize")
    # 100 (0.8 - 0.78)/0.8 = 2.5, 100 (0.8 - 0.74)/0.8 = 7.5 > 5 at the third report.
    study.optimize(replay((0.8, 0.78, 0.74, 0.9), range(4)), n_trials=1)
    assert study.trials[0].last_step == 2


def test_training_losses_come_from_a_user_attribute(make_study: MakeStudy) -> None:
    study = make_study(EarlyStoppingPruner(Overfit(2), train_loss="train"))

    def objective(trial: optuna.Trial) -> float:
        train: list[float] = []
        for epoch, (loss, val) in enumerate([(0.9, 0.5), (0.8, 0.6), (0.7, 0.7), (0.6, 0.8)], start=1):
            train.append(loss)
            trial.set_user_attr("train", train)
            trial.report(val, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return 0.5

    study.optimize(objective, n_trials=1)
    # Training fell and validation rose at epochs 2 and 3.
    assert (study.trials[0].state, study.trials[0].last_step) == (TrialState.PRUNED, 3)


def test_missing_training_losses_are_said_at_construction() -> None:
    with pytest.raises(UserError, match="name the user attribute that holds their list"):
        EarlyStoppingPruner(ProgressQuotient())


@pytest.mark.parametrize("attribute", [None, [0.5, 0.4], 0.5, "x"])
def test_missing_training_losses_are_said_in_the_study(make_study: MakeStudy, attribute: object) -> None:
    study = make_study(EarlyStoppingPruner(ProgressQuotient(), train_loss="train"))

    def objective(trial: optuna.Trial) -> float:
        if attribute is not None:
            trial.set_user_attr("train", attribute)
        trial.report(0.5, 1)
        return float(trial.should_prune())

    with pytest.raises(UserError, match=r'list of 1 training losses.*user attribute "train".*set_user_attr'):
        study.optimize(objective, n_trials=1)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (Pruner(), NopPruner),
        (Pruner(name="median"), MedianPruner),
        (Pruner(name="percentile"), PercentilePruner),
        (Pruner(name="asha"), SuccessiveHalvingPruner),
        (Pruner(name="hyperband"), HyperbandPruner),
    ],
)
def test_named_pruners(section: Pruner, expected: type) -> None:
    assert type(build_pruner(section, epochs_high=9)) is expected


def stop_epoch(study: optuna.Study, value: float, epochs: int) -> int | None:
    """Runs one trial of equal values; returns the epoch at which it was pruned."""
    study.optimize(replay([value] * epochs, range(1, epochs + 1)), n_trials=1)
    trial = study.trials[-1]
    return trial.last_step if trial.state is TrialState.PRUNED else None


def test_the_median_waits_for_its_warm_up_and_for_enough_trials_at_the_epoch(make_study: MakeStudy) -> None:
    section = Pruner(name="median", startup_trials=2, warmup_epochs=3, min_trials=2)
    study = make_study(build_pruner(section, epochs_high=12))
    assert stop_epoch(study, 0.1, epochs=3) is None
    assert stop_epoch(study, 0.1, epochs=6) is None
    # Two trials are finished, yet only one has reached epoch 4: too few to compare with.
    assert stop_epoch(study, 0.9, epochs=4) is None
    # Now two have reached it, with median 0.5; the warm-up of 3 epochs is over.
    assert stop_epoch(study, 0.9, epochs=12) == 4
    assert stop_epoch(study, 0.4, epochs=12) is None


def test_a_percentile_keeps_the_best_share(make_study: MakeStudy) -> None:
    section = Pruner(name="percentile", percentile=25.0, startup_trials=5, warmup_epochs=0, min_trials=5)
    study = make_study(build_pruner(section, epochs_high=4), "maximize")
    for value in (0.1, 0.2, 0.3, 0.4, 0.5):
        assert stop_epoch(study, value, epochs=4) is None
    # The best quarter of five begins at the fourth, 0.4.
    assert stop_epoch(study, 0.35, epochs=4) == 1
    assert stop_epoch(study, 0.45, epochs=4) is None


def test_asha_compares_at_its_rungs(make_study: MakeStudy) -> None:
    study = make_study(build_pruner(Pruner(name="asha", min_epochs=2, reduction_factor=3), epochs_high=20))
    assert stop_epoch(study, 0.1, epochs=20) is None
    assert stop_epoch(study, 0.2, epochs=1) is None
    assert stop_epoch(study, 0.2, epochs=20) == 2


def test_hyperband_takes_its_brackets_from_the_study_not_from_the_first_trial(make_study: MakeStudy) -> None:
    study = make_study(build_pruner(Pruner(name="hyperband"), epochs_high=27))
    # Were they taken from this trial of one epoch, there would be a single bracket that compares at epoch 1.
    assert stop_epoch(study, 0.1, epochs=1) is None
    stops = {stop_epoch(study, 0.2 + 0.01 * number, epochs=27) for number in range(16)}
    # Four brackets, with rungs from 1, 3, 9 and 27 on; the study name deals the trials out to them.
    assert {1, 27} <= stops <= {None, 1, 3, 9, 27}


@pytest.mark.parametrize(
    "section", [Pruner(name="asha", min_epochs=9), Pruner(name="hyperband", min_epochs=9)]
)
def test_a_first_comparison_that_no_trial_reaches_is_refused(section: Pruner) -> None:
    with pytest.raises(StudyFileError, match=r"pruner\.min_epochs must be at most the 5 epochs"):
        build_pruner(section, epochs_high=5)
