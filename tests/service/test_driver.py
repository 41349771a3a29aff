"""The real driver and the real SQLite under scripted curves."""

import math
import os
import sqlite3
from dataclasses import asdict, replace

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpsearch.contracts.callbacks import Callback
from hpsearch.contracts.executor import Workers
from hpsearch.contracts.messages import EndKind
from hpsearch.errors import DataError, DeviceError, DigestMismatch, StudyFileError, UserError, WorkersFailed
from hpsearch.files.run_folder import RunFolder, attempt_folder
from hpsearch.service import fleet
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.store.study_data import DataRecord
from hpsearch.study import parse_study
from hpsearch.study.checks import DataFacts
from tests.service.curves import CurveExecutor, Script, falling


def spec_of(**tables):
    tree = {
        "study": {"name": "s", "trials": 12, "policy": "sampled"},
        "data": {"dataset": "digits"},
        "search": {"learning_rate": {"low": 1e-4, "high": 1.0, "log": True}, "epochs": {"low": 3, "high": 9}},
        "early_stopping": {"patience": 3},
    }
    study = tree["study"] | tables.pop("study", {})
    return parse_study({**tree, **tables, "study": study})


def run_here(tmp_path, spec, script=falling, workers=1, callbacks=(), executor=None, folder=None):
    executor = executor or CurveExecutor(script)
    options = RunOptions(
        storage=f"sqlite:///{tmp_path}/s.db",
        run_folder=folder or tmp_path,
        workers=Workers(gpus="none", workers=workers),
    )
    return run(spec, options, callbacks, executor), executor


def stored(tmp_path, name="s"):
    return optuna.load_study(study_name=name, storage=f"sqlite:///{tmp_path}/s.db")


def table(tmp_path):
    return [(t.number, t.state, t.value, t.params, t.intermediate_values) for t in stored(tmp_path).trials]


def test_a_trial_that_its_own_loop_gives_up_is_pruned(tmp_path):
    def script(run):
        return Script((1.0,)) if run.number == 0 else Script((2.0, 3.0), EndKind.PRUNED)

    summary, _ = run_here(tmp_path, spec_of(), script)
    states = [trial.state.name for trial in stored(tmp_path).trials]
    assert states == ["COMPLETE", *["PRUNED"] * 11]
    assert summary.stop_reasons["pruner"] == 11
    assert summary.exit_status == 0


class WithCode(CurveExecutor):
    """Its workers have found the user's module as `code` says."""

    code = "aaaa"

    def start(self, place, setup):
        super().start(place, setup)
        ready = self.messages.pop()
        self.messages.append(replace(ready, code={"loop:train": self.code}))


def test_code_that_has_changed_since_the_study_began_is_said_once_a_run(tmp_path):
    said = []
    for code, trials in (("aaaa", 2), ("aaaa", 4), ("bbbb", 6), ("bbbb", 8), ("aaaa", 10)):
        listener = Messages()
        executor = WithCode(falling)
        executor.code = code
        run_here(
            tmp_path, spec_of(study={"trials": trials}), workers=2, callbacks=[listener], executor=executor
        )
        said.append([text for text in listener.texts if "has changed" in text])
    sentence = (
        "the source of loop (loop:train) has changed since the study began, so trials may not be comparable; put "
        "the old one back, or give the study another name"
    )
    assert said == [[], [], [sentence], [sentence], []]
    assert stored(tmp_path).user_attrs["code"] == {"loop:train": "aaaa"}


class Messages(Callback):
    def __init__(self):
        self.texts = []

    def on_message(self, text):
        self.texts.append(text)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_study_runs_to_its_total(tmp_path, workers):
    summary, executor = run_here(tmp_path, spec_of(), workers=workers)
    study = stored(tmp_path)
    assert summary.exit_status == 0
    assert len(study.trials) == 12
    assert all(trial.state.is_finished() for trial in study.trials)
    assert summary.best.score == study.best_value
    played = {(n, epoch): value for n, _, epoch, value in executor.log}
    kept = {(t.number, epoch): v for t in study.trials for epoch, v in t.intermediate_values.items()}
    assert kept == played


def test_the_same_seed_gives_the_same_table(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run_here(tmp_path / name, spec_of(study={"trials": 25}))
    assert table(tmp_path / "a") == table(tmp_path / "b")


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "random", "grid"])
def test_a_study_stopped_half_way_goes_on_as_if_unbroken(tmp_path, sampler):
    search = {"learning_rate": {"low": 1e-4, "high": 1.0, "log": True}, "epochs": {"low": 3, "high": 9}}
    if sampler == "grid":
        search = {"learning_rate": [0.001, 0.01, 0.1, 1.0], "epochs": [3, 5, 9]}
    tables = {"search": search, "sampler": {"name": sampler, "startup_trials": 4}}
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    run_here(tmp_path / "whole", spec_of(**tables))
    for trials in (5, 6, 12):
        run_here(tmp_path / "parts", spec_of(study={"trials": trials}, **tables))
    assert table(tmp_path / "whole") == table(tmp_path / "parts")


def test_a_grid_ends_when_it_is_exhausted(tmp_path):
    spec = spec_of(
        search={"learning_rate": [0.01, 0.1], "epochs": [3, 4]},
        sampler={"name": "grid"},
        study={"trials": 99},
    )
    run_here(tmp_path, spec)
    points = {tuple(sorted(trial.params.items())) for trial in stored(tmp_path).trials}
    assert len(points) == len(stored(tmp_path).trials) == 4


def test_another_specification_under_the_same_name_is_refused(tmp_path):
    run_here(tmp_path, spec_of())
    with pytest.raises(DigestMismatch, match=r"early_stopping\.patience: stored 3, now 4"):
        run_here(tmp_path, spec_of(early_stopping={"patience": 4}))


def test_a_study_under_which_nothing_was_trained_can_be_corrected(tmp_path):
    """What is wrong about it may show only when the workers have seen the data."""
    executor = CurveExecutor(falling, DATA)
    with pytest.raises(StudyFileError, match=r"train\.batch_size: 1000 is larger"):
        run_here(tmp_path, spec_of(train={"batch_size": 1000}), executor=executor)
    summary, _ = run_here(
        tmp_path, spec_of(study={"trials": 2, "metric": "val_macro_f1"}), lambda run: Script((1.0,) * 9)
    )
    assert summary.exit_status in (0, 1)
    assert stored(tmp_path).direction.name == "MAXIMIZE"


def test_two_databases_do_not_share_a_folder(tmp_path):
    one, other, runs = (tmp_path / name for name in ("one", "other", "runs"))
    one.mkdir()
    other.mkdir()
    run_here(one, spec_of(study={"trials": 1}), folder=runs)
    with pytest.raises(UserError, match=r"--run-folder: .* holds the files of another study .*one/s\.db"):
        run_here(other, spec_of(study={"trials": 1}), folder=runs)
    kept = RunFolder(runs, "s").weights(0)
    kept.parent.mkdir()
    kept.touch()
    (one / "s.db").unlink()
    run_here(other, spec_of(study={"trials": 1}), folder=runs)
    assert not kept.exists()


def test_a_run_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--run-folder: .*file/s cannot be made or written: Not a directory"):
        run_here(tmp_path, spec_of(), folder=tmp_path / "file")


DATA = DataFacts(80, 10, 10, ("day", "night"), 3, 32, 32, "classification", "a1", ("2 classes",))
DATA = replace(DATA, digests={"images": "same", "labels": "same", "split": "same"})


def run_with(tmp_path, data, trials):
    executor = CurveExecutor(falling, data)
    return run_here(tmp_path, spec_of(study={"trials": trials}), executor=executor)


def test_the_data_are_kept_with_the_study(tmp_path):
    run_with(tmp_path, DATA, 2)
    kept = stored(tmp_path).user_attrs["data"]
    assert (kept["train"], kept["classes"], kept["digest"]) == (80, ["day", "night"], "a1")
    summary, _ = run_with(tmp_path, DATA, 4)
    assert summary.counts == {"COMPLETE": 4}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"train": 81, "classes": ("dawn", "night")},
            "train 80, now 81; classes day, night, now dawn, night",
        ),
        ({"digests": {}}, "as many of them, but other images, labels or parts"),
        ({"digests": {"images": "same", "labels": "b"}}, "as many of them, but other labels"),
        ({"digests": {"images": "same", "labels": "same", "split": "b"}}, "as many of them, but other parts"),
    ],
)
def test_changed_data_are_refused_on_the_next_run(tmp_path, changes, words):
    run_with(tmp_path, DATA, 2)
    executor = CurveExecutor(falling, replace(DATA, digest="b2", **changes))
    with pytest.raises(DataError, match=words):
        run_here(tmp_path, spec_of(study={"trials": 4}), executor=executor)
    assert not executor.log
    assert stored(tmp_path).user_attrs["data"]["digest"] == "a1"


def test_a_refit_without_one_of_the_images_names_that_one():
    record, joined = DataRecord(), DATA.train + DATA.val
    record.load({"data": asdict(DATA) | {"classes": [*DATA.classes]}})
    with pytest.raises(DataError, match=rf"began with \(train {joined}, now {joined - 1}\), so"):
        record.check(replace(DATA, train=joined - 1, val=0, digest="b2"))


def test_another_driver_with_other_data_is_refused(tmp_path):
    class Rival(CurveExecutor):
        """Its study gets another driver's record between its own look and its own write."""

        def receive(self, timeout):
            study = stored(tmp_path)
            if "data" not in study.user_attrs:
                study.set_user_attr("data", {**asdict(DATA), "digest": "b2"})
                study.ask()
            return super().receive(timeout)

    with pytest.raises(DataError, match="the data are not those that the study began with"):
        run_here(tmp_path, spec_of(), executor=Rival(falling, DATA))
    assert stored(tmp_path).user_attrs["data"]["digest"] == "b2"


def test_a_raised_total_goes_on(tmp_path):
    run_here(tmp_path, spec_of(study={"trials": 3}))
    run_here(tmp_path, spec_of(study={"trials": 7}))
    assert [t.number for t in stored(tmp_path).trials] == list(range(7))


def test_early_stopping_stops_at_once(tmp_path):
    curve = Script((1.0, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6))
    spec = spec_of(study={"trials": 1}, search={"epochs": [9]})
    _, executor = run_here(tmp_path, spec, lambda run: curve)
    assert [epoch for _, _, epoch, _ in executor.log] == [1, 2, 3, 4, 5]
    trial = stored(tmp_path).trials[0]
    assert trial.user_attrs["stop_reason"] == "early_stopping"
    assert (trial.user_attrs["best_epoch"], trial.value) == (2, 0.5)


def test_a_worker_that_dies_is_replaced_and_the_trial_goes_on(tmp_path):
    def script(run):
        whole = falling(run)
        return Script(whole.val[:2], "die") if run.attempt == 1 and run.number == 1 else whole

    summary, executor = run_here(tmp_path, spec_of(study={"trials": 4}), script)
    assert summary.counts == {"COMPLETE": 4}
    epochs = [(attempt, epoch) for number, attempt, epoch, _ in executor.log if number == 1]
    assert epochs[:3] == [(1, 1), (1, 2), (2, 3)]


def test_a_trial_that_always_dies_fails_after_three_attempts(tmp_path):
    def script(run):
        return Script((), "die") if run.number == 1 else falling(run)

    summary, _ = run_here(tmp_path, spec_of(study={"trials": 3}), script)
    assert summary.counts == {"COMPLETE": 2, "FAIL": 1}
    failed = stored(tmp_path).trials[1]
    assert "SIGSEGV" in failed.user_attrs["stop_detail"]
    assert failed.user_attrs["attempt"] == 3


def test_a_worker_that_hangs_is_replaced(tmp_path):
    def script(run):
        whole = falling(run)
        return Script(whole.val[:1], "hang") if run.attempt == 1 and run.number == 0 else whole

    spec = spec_of(study={"trials": 2, "stall_timeout": 0.3})
    summary, executor = run_here(tmp_path, spec, script)
    assert summary.counts == {"COMPLETE": 2}
    assert [(a, e) for n, a, e, _ in executor.log if n == 0][:2] == [(1, 1), (2, 2)]


def test_an_exception_is_tried_again_and_its_sentence_kept(tmp_path):
    def script(run):
        return Script((), EndKind.ERROR) if run.attempt < 3 else falling(run)

    summary, _ = run_here(tmp_path, spec_of(study={"trials": 1}), script)
    assert summary.counts == {"COMPLETE": 1}
    assert stored(tmp_path).trials[0].user_attrs["attempt"] == 3


def test_what_is_hopeless_is_not_tried_again(tmp_path):
    summary, _ = run_here(tmp_path, spec_of(study={"trials": 1}), lambda run: Script((), "hopeless"))
    assert summary.counts == {"FAIL": 1}
    assert stored(tmp_path).trials[0].user_attrs["attempt"] == 1


def test_a_trial_names_the_device_as_its_engine_does(tmp_path):
    class Named(CurveExecutor):
        def _end(self, worker, end):
            super()._end(worker, replace(end, facts={"device": "cuda:0 NVIDIA H100"}))

    for executor, device in ((Named(falling), "cuda:0 NVIDIA H100"), (CurveExecutor(falling), "cpu")):
        (tmp_path / device).mkdir()
        run_here(tmp_path / device, spec_of(study={"trials": 1}), executor=executor)
        assert stored(tmp_path / device).trials[0].user_attrs["device"] == device


def test_hparams_that_do_not_go_together_fail_with_their_sentence(tmp_path):
    search = {"train.momentum": [0.0, 0.9], "train.nesterov": [True, False]}
    with pytest.raises(StudyFileError, match="nesterov"):
        spec_of(search=search)


@pytest.mark.parametrize("end", ["die", EndKind.ERROR])
def test_old_checkpoints_are_no_progress(tmp_path, end):
    """A trial that fails after the same two saved epochs every time must not be tried for ever."""

    def script(run):
        return Script(falling(run).val[:2], end) if run.number == 1 else falling(run)

    summary, executor = run_here(tmp_path, spec_of(study={"trials": 3}), script)
    assert summary.counts == {"COMPLETE": 2, "FAIL": 1}
    assert [(attempt, epoch) for number, attempt, epoch, _ in executor.log if number == 1] == [(1, 1), (1, 2)]
    # The first attempt saved two epochs; three in a row then saved none.
    assert stored(tmp_path).trials[1].user_attrs["attempt"] == 4


def test_a_checkpoint_that_cannot_be_written_costs_no_trial(tmp_path):
    full = {"disk": True}

    def script(run):
        return Script(falling(run).val[:2], EndKind.UNSAVED) if full["disk"] else falling(run)

    summary, executor = run_here(tmp_path, spec_of(study={"trials": 2}), script)
    assert (summary.exit_status, summary.counts) == (1, {"RUNNING": 1})
    full["disk"] = False
    summary, _ = run_here(tmp_path, spec_of(study={"trials": 2}), executor=executor)
    assert summary.counts == {"COMPLETE": 2}


def test_the_limit_of_epochs_holds_for_later_runs(tmp_path):
    spec = spec_of(study={"trials": 50, "max_epochs_total": 10})
    run_here(tmp_path, spec)
    before = len(stored(tmp_path).trials)
    run_here(tmp_path, spec)
    assert len(stored(tmp_path).trials) == before


def test_workers_that_all_die_stop_the_run(tmp_path):
    with pytest.raises(WorkersFailed, match="SIGSEGV"):
        run_here(tmp_path, spec_of(), lambda run: Script((), "die"))


def test_failures_in_a_row_stop_the_study_with_their_cause(tmp_path):
    spec = spec_of(study={"max_failures": 2, "max_attempts": 1})
    summary, _ = run_here(tmp_path, spec, lambda run: Script((), EndKind.ERROR))
    assert summary.counts == {"FAIL": 2}
    assert summary.exit_status == 1
    assert "made to end with error" in summary.reason


@pytest.mark.parametrize("workers", [1, 3])
def test_a_target_ends_the_study_with_all_its_trials(tmp_path, workers):
    spec = spec_of(study={"trials": 99, "target_value": 2.0})
    summary, _ = run_here(tmp_path, spec, workers=workers)
    assert summary.best.score <= 2.0
    assert sum(summary.counts.values()) < 99
    assert "RUNNING" not in summary.counts
    again, executor = run_here(tmp_path, spec, workers=workers)
    assert again.counts == summary.counts
    assert executor.log == []


def test_trials_that_were_left_end_with_a_study_that_has_reached_its_target(tmp_path):
    def script(run):
        return Script((3.0, 0.05), EndKind.UNSAVED) if run.number == 1 else falling(run)

    summary, _ = run_here(tmp_path, spec_of(study={"trials": 4}), script)
    assert summary.counts == {"COMPLETE": 1, "RUNNING": 1}
    summary, _ = run_here(tmp_path, spec_of(study={"trials": 4, "target_value": 99.0}))
    # What it had reported was a record, and a record is COMPLETE.
    assert summary.counts == {"COMPLETE": 2}
    assert stored(tmp_path).trials[1].user_attrs["stop_reason"] == "study_end"
    assert stored(tmp_path).best_value == 0.05


def test_one_sick_worker_is_given_up_while_the_others_train(tmp_path):
    executor = CurveExecutor(falling, sick={1})
    summary, _ = run_here(tmp_path, spec_of(study={"trials": 20}), workers=3, executor=executor)
    assert summary.counts["COMPLETE"] + summary.counts.get("PRUNED", 0) == 20
    assert max(trial.user_attrs["attempt"] for trial in stored(tmp_path).trials) == 2
    again = [trial for trial in stored(tmp_path).trials if trial.user_attrs["attempt"] == 2]
    assert all("worker 1 killed by SIGSEGV" in trial.user_attrs["interruptions"] for trial in again)


def test_one_worker_that_cannot_be_set_up_does_not_end_the_run(tmp_path):
    executor = CurveExecutor(falling, unable={1})
    summary, _ = run_here(tmp_path, spec_of(), workers=2, executor=executor)
    assert summary.exit_status == 0
    executor = CurveExecutor(falling, unable={0, 1})
    with pytest.raises(DeviceError, match="no such device"):
        run_here(tmp_path / "nobody", spec_of(), workers=2, executor=executor)


def test_a_worker_that_does_not_leave_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "LEAVE_TIMEOUT", 0.1)
    executor = CurveExecutor(falling, stuck={0})
    summary, _ = run_here(tmp_path, spec_of(study={"trials": 2}), executor=executor)
    assert summary.counts == {"COMPLETE": 2}


def test_epochs_that_a_trial_trains_again_are_stored_once(tmp_path):
    """The checkpoint that it goes on from is older than what it had reported."""

    def script(run):
        if run.number != 1:
            return falling(run)
        if run.attempt == 1:
            return Script((2.0, 1.9, 0.001), "die")
        executor.saved[1] = executor.saved[1][:1]
        return Script((2.0, 1.8, 1.7, 1.6, 1.5))

    executor = CurveExecutor(script)
    spec = spec_of(study={"trials": 3}, search={"learning_rate": [0.001, 0.01], "epochs": [5]})
    summary, _ = run_here(tmp_path, spec, executor=executor)
    trial = stored(tmp_path).trials[1]
    assert trial.intermediate_values == {1: 2.0, 2: 1.8, 3: 1.7, 4: 1.6, 5: 1.5}
    assert summary.best.score == stored(tmp_path).best_value == 1.5


def test_an_end_that_comes_too_late_counts_nowhere(tmp_path):
    """Another driver takes a trial over after this one has ended it in memory, and before that is written."""

    def script(run):
        executor.saved.pop(run.number, None)  # the other driver's checkpoints are on another machine
        return Script((0.001,)) if (run.number, run.attempt) == (1, 1) else Script((2.0 + run.number,))

    class Thief(Callback):
        def on_trial_end(self, trial):
            if trial.number == 1 and trial.score == 0.001:
                with sqlite3.connect(tmp_path / "s.db") as connection:
                    connection.execute(
                        "UPDATE hpsearch_lease SET driver = 'thief', attempt = 2 WHERE number = 1"
                    )
                connection.close()

    spec = spec_of(study={"trials": 3}, search={"learning_rate": [0.01], "epochs": [1]})
    executor = CurveExecutor(script)
    summary, _ = run_here(tmp_path, spec, executor=executor, callbacks=[Thief()])
    assert [trial.value for trial in stored(tmp_path).trials] == [2.0, 3.0, 4.0]
    assert (summary.best.number, summary.best.score) == (0, 2.0)
    assert summary.counts == {"COMPLETE": 3}


def test_what_a_killed_driver_has_left_is_cleared_away(tmp_path):
    run_here(tmp_path, spec_of(study={"trials": 2}))
    folder = RunFolder(tmp_path, "s")
    checkpoint = attempt_folder(folder.trial(1), 1)
    checkpoint.mkdir(parents=True)
    (checkpoint / "checkpoint.json").touch()
    run_here(tmp_path, spec_of(study={"trials": 2}))
    assert not folder.trial(1).exists()


def test_what_a_power_cut_has_left_half_written_is_cleared_away(tmp_path):
    run_here(tmp_path, spec_of(study={"trials": 2}))
    home = RunFolder(tmp_path, "s").home
    left = [home / "weights" / ".trial-00001.safetensors.4711", home / ".unsaved-1-2.jsonl.4711"]
    kept = [home / ".hidden", home / ".notes.txt", home / "weights" / ".trial-00002.safetensors.4712"]
    for path in (*left, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for path in (*left, *kept[:2]):  # the last is being written
        os.utime(path, (1, 1))
    run_here(tmp_path, spec_of(study={"trials": 2}))
    assert [path for path in left if path.exists()] == []
    assert [path for path in kept if not path.exists()] == []


def test_a_callback_that_raises_is_left_out_and_the_study_goes_on(tmp_path, caplog):
    class Broken(Callback):
        calls = 0

        def on_epoch(self, trial, result):
            self.calls += 1
            raise RuntimeError("broken on purpose")

    broken = Broken()
    summary, _ = run_here(tmp_path, spec_of(study={"trials": 2}), callbacks=[broken])
    assert summary.counts == {"COMPLETE": 2}
    assert broken.calls == 1
    assert "broken on purpose" in caplog.text


curves = st.lists(
    st.one_of(st.floats(0.01, 10), st.just(math.nan), st.just(math.inf), st.just(0.0)), min_size=1, max_size=8
)
endings = st.sampled_from([EndKind.FINISHED, EndKind.ERROR, EndKind.OUT_OF_MEMORY])
criteria = st.sampled_from(
    [
        {"criterion": "none"},
        {"criterion": "patience", "patience": 1},
        {"criterion": "gl", "alpha": 1.0},
        {"criterion": "pq", "strip": 2},
        {"criterion": "up", "strip": 1, "successive": 1},
        {"criterion": "overfit", "epochs": 1},
        {"criterion": [{"name": "patience", "patience": 2}, {"name": "gl"}], "warmup": 2},
    ]
)
pruners = st.sampled_from(
    [
        {"name": "none"},
        {"name": "median", "startup_trials": 0, "warmup_epochs": 0, "min_trials": 1},
        {"name": "percentile", "startup_trials": 1, "warmup_epochs": 1, "min_trials": 1, "percentile": 50.0},
        {"name": "asha"},
        {"name": "hyperband"},
    ]
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scripts=st.lists(st.tuples(curves, endings), min_size=1, max_size=10),
    criterion=criteria,
    outcome=st.sampled_from(["auto", "pruned", "complete"]),
    pruner=pruners,
    workers=st.integers(1, 3),
)
def test_no_finished_trial_was_ever_better_than_the_best_value(
    tmp_path_factory, scripts, criterion, outcome, pruner, workers
):
    """Design section 4: through the real driver and SQLite, whatever ends the trials."""
    tmp_path = tmp_path_factory.mktemp("s")
    spec = spec_of(
        study={"trials": len(scripts), "max_failures": 99, "max_attempts": 1},
        early_stopping={**criterion, "outcome": outcome},
        search={"learning_rate": {"low": 1e-4, "high": 1.0}, "epochs": [8]},
        pruner=pruner,
        sampler={"name": "random"},
    )
    run_here(tmp_path, spec, lambda r: Script(tuple(scripts[r.number][0]), scripts[r.number][1]), workers)
    study = stored(tmp_path)
    assert len(study.trials) == len(scripts)
    assert all(trial.state.is_finished() for trial in study.trials)
    reached = [
        value for t in study.trials for value in t.intermediate_values.values() if math.isfinite(value)
    ]
    if reached:
        assert study.best_value == min(reached)
    else:
        assert not any(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials)
