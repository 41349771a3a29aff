"""How long a study takes: its trials acted out, and the time that workers need for them."""

from typing import Any

import pytest

from hpsearch.results.commands.forecast import Sample, between, span, studies
from hpsearch.study.file import parse_study
from hpsearch.study.specification import StudySpec

SPACE: dict[str, Any] = {
    "learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
    "batch_size": [16, 32, "full"],
    "epochs": {"low": 5, "high": 20},
}


def study(search: dict[str, Any] = SPACE, **tables: Any) -> StudySpec:
    tables = {"early_stopping": {"criterion": "none"}} | tables
    named = {"name": "s", "trials": 20} | tables.pop("study", {})
    return parse_study({"study": named, "data": {"dataset": "digits"}, "search": search, **tables})


def samples(spec: StudySpec) -> list[Sample]:
    return [sample for study in studies(spec) for sample in study]


def share(found: list[Sample]) -> float:
    """Returns which share of their epochs the trials are trained."""
    assert all(5 <= one.epochs <= 20 and 1 <= one.trained <= one.epochs for one in found)
    return sum(one.trained for one in found) / sum(one.epochs for one in found)


@pytest.mark.parametrize(
    "tables",
    [
        {"pruner": {"name": "median"}},
        {"pruner": {"name": "percentile", "percentile": 25.0}},
        {"pruner": {"name": "asha"}},
        {"pruner": {"name": "hyperband"}},
        {"early_stopping": {"criterion": "patience", "patience": 2}},
        {"early_stopping": {"criterion": "gl"}},
        {"early_stopping": {"criterion": "pq", "alpha": 0.1}},
        {"early_stopping": {"criterion": "up", "strip": 2}},
        {"early_stopping": {"criterion": "overfit", "epochs": 2}},
        {"pruner": {"name": "median"}, "study": {"metric": "val_macro_f1"}},
        {"pruner": {"name": "median"}, "sampler": {"name": "gp"}},
        {"pruner": {"name": "median"}, "sampler": {"name": "qmc"}},
    ],
)
def test_trials_are_stopped_by_the_rules_of_the_study(tables: dict[str, Any]) -> None:
    spec = study(**tables)
    found = samples(spec)
    assert share(found) < 0.95
    assert samples(spec) == found


@pytest.mark.parametrize("policy", ["halving", "screen", "auto"])
def test_paused_trials_count_with_what_they_are_trained(policy: str) -> None:
    found = samples(study(study={"policy": policy, "trials": 60}))
    assert share(found) < 0.5
    assert len(found) >= 60


def test_without_rules_trials_have_all_their_epochs() -> None:
    found = samples(study(study={"policy": "sampled"}))
    assert share(found) == 1.0
    assert {one.spec.train.batch_size for one in found} == {16, 32, "full"}


def test_what_is_acted_out_is_bounded() -> None:
    long = study(SPACE | {"epochs": {"low": 1000, "high": 2000}}, study={"trials": 5000})
    assert sum(one.trained for one in samples(long)) < 4000 + 2000
    assert (
        max(len(one) for one in studies(study({"learning_rate": [0.1, 0.2]}, study={"trials": 5000}))) == 120
    )


@pytest.mark.parametrize(
    ("seconds", "trials", "workers", "expected"),
    [
        ([1.0], 10, 1, 10.0),
        ([1.0], 10, 2, 5.0),
        ([1.0], 11, 2, 6.0),
        ([3.0, 1.0], 4, 2, 4.0),
        ([5.0], 1, 4, 5.0),
        ([1.0, 3.0], 40_000, 1, 80_000.0),
    ],
)
def test_the_time_of_workers(seconds: list[float], trials: int, workers: int, expected: float) -> None:
    assert span(seconds, trials, workers) == pytest.approx(expected)


@pytest.mark.parametrize(("size", "expected"), [(16, 1.0), (64, 4.0), (32, 2.0), (8, 0.5)])
def test_a_value_between_two_points(size: float, expected: float) -> None:
    assert between(size, (16, 1.0), (64, 4.0)) == pytest.approx(expected)
    assert between(size, (16, 7.0), (16, 7.0)) == 7.0


WHERE: dict[str, Any] = {
    "learning_rate": [0.01, 0.1],
    "train.optimizer": ["sgd", "adam"],
    "when": {
        "train.optimizer = sgd": {"epochs": [5, 20], "train.momentum": [0.5, 0.9]},
        "train.optimizer = adam": {"train.beta2": [0.9, 0.99]},
    },
}


@pytest.mark.parametrize("tables", [{"sampler": {"name": "tpe"}}, {"study": {"policy": "auto"}}])
def test_trials_of_a_conditional_space_are_acted_out(tables: dict[str, Any]) -> None:
    found = samples(study(WHERE, train={"epochs": 9, "momentum": 0.7}, **tables))
    sgd = [one.spec.train for one in found if one.spec.train.optimizer == "sgd"]
    adam = [one.spec.train for one in found if one.spec.train.optimizer == "adam"]
    assert {(one.epochs, one.momentum) for one in sgd} == {(5, 0.5), (5, 0.9), (20, 0.5), (20, 0.9)}
    assert {(one.epochs, one.momentum, one.beta2) for one in adam} == {(9, 0.7, 0.9), (9, 0.7, 0.99)}


def test_a_grid_has_no_more_trials_than_points() -> None:
    spec = study(WHERE, sampler={"name": "grid"}, study={"trials": 100})
    assert {len(one) for one in studies(spec)} == {spec.grid_size} == {2 * (4 + 2)}
