"""The chance that a search still improves: what it goes by, with pauses and without."""

import math
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial

from hpsearch.search.improvement import LEAST, WEIGHTS, chance, joined
from hpsearch.search.policy.build import build_policy
from hpsearch.search.policy.contract import Policy
from hpsearch.search.view import StudyView
from hpsearch.study import parse_study


def view_of(values: list[list[float]], policy: str, direction: str = "minimize") -> tuple[StudyView, Policy]:
    """Returns a study whose trials have trained so, one after the other."""
    tree: dict[str, Any] = {
        "study": {"policy": policy, "metric": "val_loss" if direction == "minimize" else "val_macro_f1"},
        "data": {"dataset": "digits"},
        "train": {"epochs": 10, "schedule": "constant"},
        "search": {"learning_rate": {"low": 1e-3, "high": 1.0, "log": True}},
    }
    view = StudyView(parse_study(tree))
    found = build_policy(policy, view)
    for number, curve in enumerate(values):
        trial = create_trial(
            state=TrialState.COMPLETE,
            value=min(curve),
            params={"learning_rate": 0.01 + number / 1000},
            distributions=dict(view.space),
            intermediate_values=dict(enumerate(curve, start=1)),
            user_attrs={"score": min(curve), "stop_reason": "finished", "epochs_run": len(curve)},
        )
        trial.number = number
        view.add(trial)
        found.add(trial)
    return view, found


@pytest.mark.parametrize("policy", ["auto", "sampled"])
def test_the_chance_goes_by_the_two_times(policy: str) -> None:
    view, found = view_of([[1.0, 0.9]] * 4 + [[0.8, 0.5]] + [[1.0, 0.9]] * 15, policy)
    said = chance(view, found, 0.0, 20)
    assert said == pytest.approx(joined((math.log(20 / 30), math.log(20 / 40))))
    assert chance(view, found, 0.35, 20) == pytest.approx(joined((math.log(20 / 31), math.log(20 / 40))))
    assert chance(view, found, 0.45, 20) == pytest.approx(joined((math.log(20 / 38), math.log(20 / 40))))
    assert chance(view, found, 0.0, 2) < said < chance(view, found, 0.0, 200)  # type: ignore[operator]


def test_a_metric_that_is_maximized_improves_upwards() -> None:
    view, found = view_of([[0.1, 0.2]] * 8 + [[0.9, 0.8]] * 2, "auto", "maximize")
    assert chance(view, found, 0.0, 20) == pytest.approx(joined((math.log(20 / 3), math.log(1.0))))


def test_of_few_trials_nothing_is_said() -> None:
    assert chance(*view_of([[1.0, 0.9]] * (LEAST - 1), "auto"), 0.0, 20) is None
    assert chance(*view_of([[1.0, 0.9]] * LEAST, "auto"), 0.0, 20) is not None


def test_more_time_without_an_improvement_makes_it_less_probable() -> None:
    assert all(weight > 0 for weight in WEIGHTS[1:])
