"""Several goals, through the real driver and the real SQLite under random curves."""

import math
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpsearch.errors import DigestMismatch, StudyFileError, UserError
from hpsearch.results.confirm.plan import candidates, linked_spec
from hpsearch.results.plots import charts
from hpsearch.results.stored.best import best_trial
from hpsearch.results.stored.frames import trials_frame
from hpsearch.results.stored.reading import reading_study
from hpsearch.study import parse_study
from hpsearch.study.direction import covers, front
from tests.databases import stored_trials
from tests.service.curves import CurveExecutor, Script
from tests.service.test_driver import pruners, run_here, stored
from tests.service.test_pausing import Interrupt, take_turns

EPOCHS = 6


def spec_of(trials, policy, beside=("parameters",), **tables):
    return parse_study(
        {
            "study": {"name": "s", "trials": trials, "policy": policy, "metrics": ["val_loss", *beside]},
            "data": {"dataset": "digits"},
            "train": {"epochs": EPOCHS},
            "search": {"learning_rate": {"low": 1e-4, "high": 1.0, "log": True}},
            "early_stopping": {"criterion": "patience", "patience": 2},
            **tables,
        }
    )


values = st.integers(1, 6).map(float) | st.just(math.nan)
trials = st.lists(
    st.tuples(st.lists(values, min_size=EPOCHS, max_size=EPOCHS), st.integers(1, 4), st.integers(1, 3)),
    min_size=1,
    max_size=14,
)


def check_front(trials, front, beside):
    """No trial of the front was cut, and none that has ended beats one of it."""
    reached = {}
    for trial in trials:
        assert trial.state.is_finished()
        seen = [value for value in trial.intermediate_values.values() if math.isfinite(value)]
        if seen:
            reached[trial.number] = (min(seen), *(trial.user_attrs[name] for name in beside))
    best = {trial.number: tuple(trial.values) for trial in front}
    for trial in front:
        assert best[trial.number] == reached[trial.number]
        assert trial.user_attrs["stop_reason"] != "pruner", trial.user_attrs["stop_detail"]
    for point in reached.values():
        assert any(covers(one, point) for one in best.values())


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scripts=trials,
    policy=st.sampled_from(["halving", "screen", "thaw", "auto"]),
    workers=st.integers(1, 3),
    beside=st.sampled_from([("parameters",), ("parameters", "latency_ms")]),
)
def test_no_trial_of_the_front_was_cut(tmp_path_factory, scripts, policy, workers, beside):
    tmp_path = tmp_path_factory.mktemp("s")

    def script(run):
        curve, *sizes = scripts[run.number]
        return Script(tuple(curve), footprint=dict(zip(beside, map(float, sizes), strict=False)))

    run_here(tmp_path, spec_of(len(scripts), policy, beside), script, workers)
    check_front(stored(tmp_path).trials, stored(tmp_path).best_trials, beside)


def scattered(run):
    """Any curve and size: what beats what is chance; one of four breaks the limit."""
    rng = random.Random(run.number)
    curve = tuple(float(rng.randint(1, 99)) for _ in range(EPOCHS))
    return Script(curve, footprint={"parameters": float(rng.randint(1, 8))})


@pytest.mark.parametrize("policy", ["halving", "screen", "thaw", "auto", "sampled"])
def test_two_drivers_cut_no_trial_of_the_front(tmp_path, database_url, policy):
    spec = spec_of(24, policy, pruner={"name": "median" if policy == "sampled" else "none"})
    require = {"study": spec.study.model_copy(update={"require": {"parameters": "<= 6"}})}
    take_turns(spec.model_copy(update=require), database_url, tmp_path, scattered)
    kept = [t for t in stored_trials(database_url, "s") if t.user_attrs["stop_reason"] != "infeasible"]
    assert 0 < len(kept) < 24
    points = {t.number: tuple(t.values) for t in kept if t.state.name == "COMPLETE"}
    on_front = front(points)
    check_front(kept, [trial for trial in kept if trial.number in on_front], ("parameters",))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scripts=trials, pruner=pruners, workers=st.integers(1, 3))
def test_no_trial_of_the_front_was_cut_by_a_pruner(tmp_path_factory, scripts, pruner, workers):
    tmp_path = tmp_path_factory.mktemp("s")

    def script(run):
        curve, size, _ = scripts[run.number]
        return Script(tuple(curve), footprint={"macs": float(size)})

    spec = spec_of(len(scripts), "sampled", ("macs",), pruner=pruner, sampler={"name": "random"})
    run_here(tmp_path, spec, script, workers)
    check_front(stored(tmp_path).trials, stored(tmp_path).best_trials, ("macs",))


def sized(run):
    """The wider the better, and the larger."""
    width = run.hparams["model.args.width"]
    level = abs(math.log10(run.spec.train.learning_rate) + 1) + 4 / width
    curve = tuple(level + 1 / epoch for epoch in range(1, EPOCHS + 1))
    return Script(curve, footprint={"parameters": float(width**2), "macs": 10.0 * width})


WIDE = {"learning_rate": {"low": 1e-4, "high": 1.0, "log": True}, "model.args.width": [4, 8, 16, 32]}


@pytest.mark.parametrize("name", ["tpe", "gp", "qmc", "grid", "random"])
def test_every_sampler_takes_several_goals_and_limits(tmp_path, name):
    search = {**WIDE, "learning_rate": [0.001, 0.01, 0.1]} if name == "grid" else WIDE
    tables = {"sampler": {"name": name, "startup_trials": 4}, "search": search}
    spec = spec_of(12, "sampled", ("parameters", "macs"), **tables)
    spec = spec.model_copy(
        update={"study": spec.study.model_copy(update={"require": {"parameters": "<= 256"}})}
    )
    summary, _ = run_here(tmp_path, spec, sized, workers=2)
    assert summary.exit_status == 0, summary.reason
    study = stored(tmp_path)
    check_front(study.trials, study.best_trials, ("parameters", "macs"))
    assert all(trial.values[1] <= 256 for trial in study.best_trials)


def test_the_database_is_one_of_several_objectives_that_optuna_reads(tmp_path):
    run_here(tmp_path, spec_of(8, "auto", search=WIDE), sized)
    study = stored(tmp_path)
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MINIMIZE"]
    assert study.metric_names == ["val_loss", "parameters"]
    for trial in study.trials:
        assert trial.values == [trial.user_attrs["score"], trial.user_attrs["parameters"]]


def test_weights_of_the_whole_front_are_named_and_any_of_it_can_be_taken(tmp_path):
    run_here(tmp_path, spec_of(16, "halving", search=WIDE), sized)
    on_front = [trial.number for trial in stored(tmp_path).best_trials]
    assert len(on_front) > 1
    with reading_study("s", f"sqlite:///{tmp_path}/s.db") as opened:
        best = best_trial(opened)
        record = opened.record()
        assert [one.number for one in best.front] == [trial.number for trial in record.front]
        assert sorted(on_front) == sorted(one.number for one in best.front)
        assert best.number == best.front[0].number == record.best.number
        last = best.front[-1]
        assert last.values["parameters"] == min(one.values["parameters"] for one in best.front)
        assert best_trial(opened, number=last.number).number == last.number
        with pytest.raises(UserError, match=r"--trial 99: .* no COMPLETE trial of this number; its best: "):
            best_trial(opened, number=99)
        frame = trials_frame(opened)
        assert sorted(frame["trial"][frame["front"]]) == sorted(on_front)
    assert {chart.id for chart in charts(record)} >= {"front-parameters"}
    chosen = candidates(record, 2)
    assert [one.trial for one in chosen] == [one.number for one in best.front[:2]]
    assert linked_spec(record, chosen, 2).study.metrics == ()


def test_the_study_is_another_one_with_other_goals(tmp_path):
    run_here(tmp_path, spec_of(3, "auto", search=WIDE), sized)
    with pytest.raises(DigestMismatch, match=r"study.metrics: stored"):
        run_here(tmp_path, spec_of(3, "auto", ("macs",), search=WIDE), sized)


def test_a_study_that_is_interrupted_decides_as_an_unbroken_one(tmp_path):
    def table(folder):
        return [(t.number, t.values, t.params, t.user_attrs["stop_reason"]) for t in stored(folder).trials]

    spec = spec_of(14, "auto", search=WIDE)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    run_here(tmp_path / "whole", spec, sized)
    executor = CurveExecutor(sized)
    for epochs in (9, 21):
        run_here(tmp_path / "parts", spec, callbacks=[Interrupt(epochs)], executor=executor)
        executor.runs.clear()
    run_here(tmp_path / "parts", spec, executor=executor)
    assert table(tmp_path / "parts") == table(tmp_path / "whole")


def test_goals_that_cannot_be_are_refused():
    def sentence(**study):
        tree = spec_of(3, "auto").model_dump(exclude={"study"}) | {"study": {"name": "s", **study}}
        with pytest.raises(StudyFileError) as caught:
            parse_study(tree | study.pop("tables", {}))
        return str(caught.value)

    both = ["val_error", "macs"]
    assert "must name two or three goals, got 1" in sentence(metrics=["val_error"])
    assert "study.metrics: names a goal twice" in sentence(metrics=["val_error", "macs", "macs"])
    assert '"val_loss" cannot be a goal beside "val_error"; known' in sentence(
        metrics=["val_error", "val_loss"]
    )
    assert 'study.metrics: "macs" has no curve to learn from; put what' in sentence(
        metrics=["macs", "seconds"]
    )
    assert 'and study.metric is "val_loss"; remove metric' in sentence(metrics=both, metric="val_loss")
    assert "study.target_value: ends the study by one metric" in sentence(metrics=both, target_value=0.1)
    assert "study.patience_trials: ends the study" in sentence(metrics=both, patience_trials=9)
    assert "study.improvement: ends the study by one" in sentence(metrics=both, improvement={})
    assert 'use study.policy = "sampled" without [pruner]' in sentence(
        metrics=["val_error", "seconds"], policy="auto"
    )
    assert "study.warm_start: tells the sampler of one metric" in sentence(
        metrics=both, warm_start=["other"], policy="halving"
    )
