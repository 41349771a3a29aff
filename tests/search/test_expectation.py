"""What is expected of a search's best trial, against searches whose truth is known."""

import math

import numpy as np
import pytest
from optuna.trial import TrialState, create_trial

from hpsearch.search.expectation import LEAST, expect, image_variance
from hpsearch.search.space import distributions
from hpsearch.study import parse_study
from hpsearch.study.checks import DataFacts
from hpsearch.study.direction import sign

NOISE = 0.4
"""Deviation between the trainings of a configuration, of the logarithm of the loss."""


def study(**tables):
    tree = {
        "study": {"name": "s", "policy": "auto"},
        "data": {"dataset": "digits"},
        "search": {"learning_rate": {"low": 1e-4, "high": 1.0, "log": True}, "batch_size": [16, 32, 64]},
        "train": {"epochs": 16},
    }
    return parse_study({**tree, **tables})


def facts(**changes):
    parts = {
        "train": 1000,
        "val": 180,
        "test": 200,
        "classes": ("a",) * 10,
        "channels": 1,
        "height": 8,
        "width": 8,
    }
    return DataFacts(**(parts | {"task": "classification", "digest": "", "guessing_loss": 2.3} | changes))


def truth(rate):
    """The mean loss of a configuration at its last epoch."""
    return 0.05 * math.exp(0.5 * (math.log10(rate) + 1.5) ** 2)


def searched(spec, seed, count=32):
    """Returns random trials, all trained to their end; those that stop early are what the search leaves of others."""
    rng, found = np.random.default_rng(seed), []
    for number in range(count):
        rate = float(10 ** rng.uniform(-4, 0))
        last = truth(rate) * math.exp(NOISE * rng.standard_normal() - NOISE**2 / 2)
        epochs = 16 if number % 2 else 4
        curve = [
            last + math.exp(-0.6 * epoch) * math.exp(0.05 * rng.standard_normal()) for epoch in range(1, 17)
        ]
        value = min(curve[:epochs])
        trial = create_trial(
            state=TrialState.COMPLETE if epochs == 16 else TrialState.PRUNED,
            value=value,
            params={"learning_rate": rate, "batch_size": int(rng.choice([16, 32, 64]))},
            distributions=distributions(spec.search),
            intermediate_values=dict(enumerate(curve[:epochs], start=1)),
            user_attrs={
                "score": value,
                "best_epoch": 1 + int(np.argmin(curve[:epochs])),
                "stop_reason": "finished",
            },
        )
        trial.number = number
        found.append(trial)
    return found


def first_of(trials, better="minimize"):
    return min(trials, key=lambda trial: sign(better) * trial.user_attrs["score"])


def test_it_is_nearer_to_the_truth_than_the_best_value_and_the_interval_holds():
    spec, rng = study(), np.random.default_rng(0)
    promised, expected, confirmed, inside = [], [], [], 0
    for seed in range(20):
        trials = searched(spec, seed)
        best = first_of(trials)
        found = expect(spec, trials, best, facts())
        repeats = NOISE * rng.standard_normal(found.repeats) - NOISE**2 / 2
        mean = truth(best.params["learning_rate"]) * np.exp(repeats).mean()
        assert (found.trial, found.promised, found.repeats) == (best.number, best.value, spec.confirm.seeds)
        assert found.low < found.value < found.high
        promised.append(best.value)
        expected.append(found.value)
        confirmed.append(mean)
        inside += found.low <= mean <= found.high
    assert sum(promised) < 0.7 * sum(confirmed)
    assert sum(expected) == pytest.approx(sum(confirmed), rel=0.2)
    assert 14 <= inside <= 20


def test_fewer_images_leave_more_to_luck():
    spec = study()
    trials = searched(spec, 1)
    many, few, none = (expect(spec, trials, first_of(trials), one) for one in (facts(), facts(val=80), None))
    assert few.value > many.value >= none.value
    assert few.high - few.low > many.high - many.low


def test_of_folds_all_images_are_validated_on_and_each_is_trained_once_more():
    spec = study(data={"dataset": "digits", "split": {"folds": 5}})
    trials = searched(spec, 1)
    found = expect(spec, trials, first_of(trials), facts(train=400, val=100))
    many, few = (expect(study(), trials, first_of(trials), facts(val=val)) for val in (500, 100))
    assert found.value == many.value < few.value
    assert found.repeats == 1
    assert found.high - found.low > many.high - many.low


def test_a_metric_to_be_maximised_is_expected_to_fall():
    metric = {"name": "s", "policy": "auto", "metric": "val_macro_f1"}
    spec = study(study=metric)
    trials = searched(spec, 2)
    for trial in trials:
        trial.user_attrs["score"] = 1 - trial.value
        trial.intermediate_values = {epoch: 1 - value for epoch, value in trial.intermediate_values.items()}
    best = first_of(trials, "maximize")
    found = expect(spec, trials, best, facts())
    assert found.low < found.value < found.high
    assert found.value < best.user_attrs["score"]


def test_nothing_is_expected_of_few_trials_nor_of_one_without_a_curve():
    spec = study()
    trials = searched(spec, 3)
    assert expect(spec, trials[: LEAST - 1], first_of(trials[: LEAST - 1]), facts()) is None
    assert expect(spec, trials[:LEAST], first_of(trials[:LEAST]), facts()) is not None
    bare = first_of(trials)
    bare.intermediate_values = {}
    assert expect(spec, trials, bare, facts()) is None


@pytest.mark.parametrize("least", [1e-300, 1e-9, 1e-4])
def test_nothing_is_expected_of_a_loss_that_hangs_on_less_than_an_image(least):
    spec = study()
    trials = searched(spec, 4)
    for trial in trials:
        values = {epoch: value * least for epoch, value in trial.intermediate_values.items()}
        trial.intermediate_values, trial.user_attrs["score"] = values, min(values.values())
    assert expect(spec, trials, first_of(trials), facts()) is None
    assert expect(spec, trials, first_of(trials), None) is not None


@pytest.mark.parametrize(
    ("metric", "value", "changes", "variance"),
    [
        ("val_error", 0.1, {}, 0.09 / 180),
        ("val_loss", 0.05, {}, 0.05 * 2.3 / 180),
        ("val_loss", 0.05, {"guessing_loss": None}, 0.0),
        ("val_dice", 7.0, {}, 0.0),
    ],
)
def test_the_variance_by_images(metric, value, changes, variance):
    assert image_variance(metric, value, facts(**changes)) == pytest.approx(variance)
