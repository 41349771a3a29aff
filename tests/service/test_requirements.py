"""Limits to what a trial may take, through the real driver and the real SQLite."""

import pytest
from optuna.trial import TrialState

from hpsearch.results.stored.best import best_trial
from hpsearch.results.stored.reading import reading_study
from hpsearch.study import parse_study
from tests.service.curves import Script, falling
from tests.service.test_driver import run_here, stored

SEARCH = {
    "learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
    "model.args.width": {"low": 4, "high": 64, "log": True},
}


def spec_of(require, trials=30, policy="sampled", **tables):
    return parse_study(
        {
            "study": {"name": "s", "trials": trials, "policy": policy, "require": require},
            "data": {"dataset": "digits"},
            "train": {"epochs": 4},
            "search": SEARCH,
            "early_stopping": {"criterion": "none"},
            **tables,
        }
    )


def wide(run):
    """The wider, the better: what is best is always forbidden."""
    width = run.hparams["model.args.width"]
    return Script(
        tuple(10 / width + 1 / epoch for epoch in range(1, 5)), footprint={"parameters": 100 * width**2}
    )


def infeasible(tmp_path):
    return [t for t in stored(tmp_path).trials if t.user_attrs["stop_reason"] == "infeasible"]


@pytest.mark.parametrize("policy", ["sampled", "halving", "screen", "thaw", "auto"])
@pytest.mark.parametrize("workers", [1, 3])
def test_no_epoch_is_trained_of_a_model_that_takes_too_much(tmp_path, policy, workers):
    run_here(tmp_path, spec_of({"parameters": "< 1e5"}, policy=policy), wide, workers)
    study = stored(tmp_path)
    broken = infeasible(tmp_path)
    assert broken
    assert len(broken) < len(study.trials) == 30
    for trial in study.trials:
        breaks = trial.user_attrs["parameters"] >= 1e5
        assert (trial in broken) == breaks
        assert bool(trial.intermediate_values) != breaks
        assert (trial.state is TrialState.PRUNED) or not breaks
        assert bool(trial.constraints) == breaks
    assert study.best_trial.user_attrs["parameters"] < 1e5
    with reading_study("s", f"sqlite:///{tmp_path}/s.db") as opened:
        assert best_trial(opened).number == study.best_trial.number
        assert opened.record().best.number == study.best_trial.number


def test_the_sentence_names_what_is_taken_and_the_limit(tmp_path):
    run_here(tmp_path, spec_of({"parameters": "< 1e5"}), wide)
    trial = infeasible(tmp_path)[0]
    shown = f"{trial.user_attrs['parameters']:,}"
    assert trial.user_attrs["stop_detail"] == f"parameters = {shown}, and study.require allows < 1e5"


@pytest.mark.parametrize("policy", ["sampled", "auto"])
def test_the_search_learns_to_keep_a_limit(tmp_path, policy):
    """At random, two thirds of the widths break it, and none is better than another."""

    def script(run):
        return Script(falling(run).val, footprint={"parameters": 100 * run.hparams["model.args.width"] ** 2})

    summary, _ = run_here(tmp_path, spec_of({"parameters": "< 1e4"}, trials=60, policy=policy), script)
    assert summary.exit_status == 0, summary.reason
    late = [t.user_attrs["stop_reason"] == "infeasible" for t in stored(tmp_path).trials[30:]]
    assert sum(late) <= 10


def test_seconds_end_a_trial_when_they_are_over_and_its_score_counts_nowhere(tmp_path):
    def script(run):
        return Script((1.0, 0.5, 0.1, 0.01) if run.number else (1.0, 0.9, 0.8, 0.7))

    spec = spec_of(
        {"seconds": "<= 0.025"},
        trials=5,
        sampler={"name": "random"},
        search={"learning_rate": [0.1, 0.2], "epochs": [2, 4]},
    )
    run_here(tmp_path, spec, script)
    for trial in stored(tmp_path).trials:
        long = trial.params["epochs"] == 4
        assert trial.user_attrs["stop_reason"] == ("infeasible" if long else "finished")
        assert len(trial.intermediate_values) == (3 if long else 2)
    assert {t.params["epochs"] for t in stored(tmp_path).trials} == {2, 4}
    assert stored(tmp_path).best_trial.params["epochs"] == 2


def test_a_latency_counts_as_it_was_measured_first(tmp_path):
    """It is measured again at each resume; by chance it may then be too much."""
    measured = []

    def script(run):
        measured.append(run.number)
        latency = 1.0 if measured.count(run.number) == 1 else 99.0
        return Script((1.0, 0.9, 0.8, 0.7), footprint={"latency_ms": latency})

    run_here(tmp_path, spec_of({"latency_ms": "< 5"}, trials=12, policy="halving"), script)
    assert len(measured) > len(set(measured))
    assert not infeasible(tmp_path)
    assert {t.user_attrs["latency_ms"] for t in stored(tmp_path).trials} == {1.0}


def test_a_study_goes_on_with_what_it_knew(tmp_path):
    spec = spec_of({"parameters": "< 1e5"}, trials=40, policy="auto")
    run_here(tmp_path / "whole", spec, wide)
    for trials in (10, 17, 40):
        part = spec.model_copy(
            update={
                "study": spec.study.model_copy(
                    update={"trials": trials, "max_epochs_total": 3 * trials if trials < 40 else None}
                )
            }
        )
        run_here(tmp_path / "parts", part, wide)
    assert len(stored(tmp_path / "parts").trials) == 40
    assert all(
        t.user_attrs["parameters"] < 1e5 for t in stored(tmp_path / "parts").trials if t.intermediate_values
    )
