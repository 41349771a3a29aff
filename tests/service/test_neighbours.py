"""A study lives among other programs and people: what a run does about their trials, names and files."""

import json
import math
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from hpsearch.__main__ import run as command
from hpsearch.contracts.callbacks import Callback
from hpsearch.contracts.trial import TrialRun
from hpsearch.errors import StudyFileError, UserError
from hpsearch.files.run_folder import RunFolder, attempt_folder
from hpsearch.results.stored.best import best_trial
from hpsearch.results.stored.document import whole_study
from hpsearch.results.stored.frames import epochs_frame, trials_frame
from hpsearch.results.stored.listing import list_studies
from hpsearch.results.stored.reading import reading_study
from hpsearch.results.terminal.progress import Progress
from hpsearch.service.opening import open_study
from hpsearch.service.study import Study
from hpsearch.store.keys import stored_specification
from hpsearch.study.checks import DataFacts
from tests.service.curves import CurveExecutor, Script, falling
from tests.service.test_driver import run_here, spec_of, stored
from tests.service.test_runs import Interrupt

SMALL = DataFacts(80, 10, 10, ("day", "night"), 3, 32, 32, "classification", "a1", ("2 classes",))


def names(tmp_path):
    return optuna.get_all_study_names(f"sqlite:///{tmp_path}/s.db")


def refused_by_workers(tmp_path):
    executor = CurveExecutor(falling, SMALL)
    run_here(tmp_path, spec_of(train={"batch_size": 1000}), executor=executor)


def refused_by_the_folder(tmp_path):
    one = tmp_path / "one"
    one.mkdir()
    run_here(one, spec_of(study={"trials": 1}), folder=tmp_path / "runs")
    run_here(tmp_path, spec_of(study={"trials": 1}), folder=tmp_path / "runs")


@pytest.mark.parametrize("refused", [refused_by_workers, refused_by_the_folder])
def test_a_study_refused_at_its_start_is_not_left_behind(tmp_path, refused):
    with pytest.raises(UserError):
        refused(tmp_path)
    assert names(tmp_path) == []


def test_a_refused_study_that_somebody_else_made_stays(tmp_path):
    optuna.create_study(study_name="s", storage=f"sqlite:///{tmp_path}/s.db")
    with pytest.raises(StudyFileError):
        refused_by_workers(tmp_path)
    assert names(tmp_path) == ["s"]


class Colleague(CurveExecutor):
    """A plain script of Optuna's joins the study when so many epochs are trained; `act` gets the study."""

    def __init__(self, tmp_path, act, after=4):
        super().__init__(falling)
        self.tmp_path, self.act, self.after = tmp_path, act, after

    def receive(self, timeout):
        if self.act is not None and len(self.log) >= self.after:
            act, self.act = self.act, None
            act(stored(self.tmp_path))
        return super().receive(timeout)


def another_parameter(study):
    trial = study.ask()
    trial.suggest_float("momentum", 0, 1)
    study.tell(trial, -5.0)


def attributes_like_ours(study):
    trial = study.ask()
    for name, value in LIKE_OURS.items():
        trial.set_user_attr(name, value)
    study.tell(trial, -5.0)


LIKE_OURS = {
    "stop_reason": "patience ran out", "val_loss": "text", "score": "good", "epochs_run": "many", "best_epoch": [1],
    "attempt": None, "metrics_at_best": 3, "fit": 1, "weights": 7, "seconds": "2 h",
}  # fmt: skip


def another_list(study):
    trial = study.ask()
    trial.suggest_categorical("batch_size", ["small", "big"])
    study.tell(trial, -5.0)


def no_parameters(study):
    study.tell(study.ask(), -5.0)


def a_failure(study):
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)


def an_infinite_value(study):
    study.tell(study.ask(), float("-inf"))


def one_that_runs_for_ever(study):
    study.ask().suggest_float("learning_rate", 1e-4, 1.0, log=True)


def a_trial_of_another_study(study):
    study.add_trial(
        optuna.trial.create_trial(
            value=-5.0,
            params={"momentum": 0.5},
            distributions={"momentum": optuna.distributions.FloatDistribution(0, 1)},
            user_attrs={"stop_reason": "finished", "score": -5.0, "attempt": 1, "epochs_run": 3},
            system_attrs={"hpsearch:study": "another token"},
        )
    )


FOREIGN = [
    another_parameter, attributes_like_ours, another_list, no_parameters, a_failure, an_infinite_value,
    one_that_runs_for_ever, a_trial_of_another_study,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Some regimes")
@pytest.mark.parametrize("act", FOREIGN)
def test_a_foreign_trial_is_left_out_everywhere_and_counted_one_way(tmp_path, act, capsys):
    url, runs = f"sqlite:///{tmp_path}/s.db", str(tmp_path)
    progress = Progress()
    summary, _ = run_here(
        tmp_path, spec_of(study={"trials": 6}), callbacks=[progress], executor=Colleague(tmp_path, act)
    )
    assert len(stored(tmp_path).trials) == 7
    assert summary.exit_status == 0
    assert summary.best.score > 0
    assert progress.finished == sum(summary.counts.values()) == 6
    summary, _ = run_here(tmp_path, spec_of(study={"trials": 8}))
    assert (summary.exit_status, sum(summary.counts.values())) == (0, 8)
    with reading_study("s", url) as study:
        record, best = study.record(), best_trial(study)
        assert len(trials_frame(study)) == len(record.trials) == 8
        assert len(whole_study(study)["trials"]) == 8
        epochs_frame(study)
    assert best.number == record.best.number == summary.best.number
    assert best.value == summary.best.score
    (row,) = list_studies(url, tmp_path)
    assert (row.finished, row.total, row.foreign, row.best) == (8, 8, 1, best.value)
    assert sum(row.counts.values()) == 8
    place = ["--storage", url, "--run-folder", runs]
    for words in (["status", "s"], ["best", "s"], ["list"], ["list", "--json"], ["export", "s", "--epochs"]):
        assert command([*words, *place]) == 0
    assert command(["report", "s", "--storage", url, "--output", str(tmp_path / "r.html")]) == 0
    said = capsys.readouterr()
    assert "8 of 8 trials finished" in said.out
    assert "1 trial of another program, not counted here" in said.out
    assert "Traceback" not in said.err


@pytest.mark.parametrize("sampler", ["grid", "qmc"])
def test_a_foreign_trial_takes_no_point_of_an_even_sampler(tmp_path, sampler):
    search = {"learning_rate": [0.001, 0.01, 0.1, 1.0], "epochs": [3, 5]}
    points = []
    for name, act in (("alone", None), ("beside", no_parameters)):
        (tmp_path / name).mkdir()
        spec = spec_of(search=search, sampler={"name": sampler}, study={"trials": 8})
        run_here(tmp_path / name, spec, executor=Colleague(tmp_path / name, act, after=9))
        points.append([tuple(t.params.values()) for t in stored(tmp_path / name).trials if t.params])
    assert points[0] == points[1]
    assert len(points[0]) == 8


def test_trials_that_an_older_version_trained_are_the_studys_own(tmp_path):
    """It left no marks: the leases tell, and in a copy of its study the records."""
    run_here(tmp_path, spec_of(study={"trials": 4}))
    unmark(tmp_path)
    assert [row.finished for row in list_studies(f"sqlite:///{tmp_path}/s.db", tmp_path)] == [4]
    summary, _ = run_here(tmp_path, spec_of(study={"trials": 5}))
    assert sum(summary.counts.values()) == 5
    unmark(tmp_path)
    url = f"sqlite:///{tmp_path}/s.db"
    optuna.copy_study(from_study_name="s", from_storage=url, to_storage=url, to_study_name="copy")
    assert [row.finished for row in list_studies(url, tmp_path)] == [5, 5]
    summary, _ = run_here(tmp_path, spec_of(study={"name": "copy", "trials": 6}))
    assert sum(summary.counts.values()) == 6
    assert len(stored(tmp_path, "copy").trials) == 6


def unmark(tmp_path):
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        connection.execute("DELETE FROM trial_system_attributes WHERE key = 'hpsearch:study'")
        connection.commit()


def enqueue(tmp_path, *given):
    """Queues trials in the study, which is made if there is none yet."""
    url = f"sqlite:///{tmp_path}/s.db"
    study = optuna.create_study(study_name="s", storage=url, load_if_exists=True)
    for values in given:
        study.enqueue_trial(values)


def test_queued_trials_run_first_and_the_sampler_completes_them(tmp_path):
    enqueue(tmp_path, {"learning_rate": 0.25}, {"learning_rate": 1, "epochs": 4}, {})
    summary, _ = run_here(tmp_path, spec_of(study={"trials": 5}))
    trials = stored(tmp_path).trials
    assert sum(summary.counts.values()) == 5
    assert trials[0].params["learning_rate"] == 0.25
    assert 3 <= trials[0].params["epochs"] <= 9
    assert trials[1].params == {"learning_rate": 1.0, "epochs": 4}
    assert trials[2].params.keys() == {"learning_rate", "epochs"}


POINTS = [{"learning_rate": 0.25}, {"learning_rate": 1, "epochs": 4}]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("policy", ["sampled", "auto"])
def test_points_of_the_study_file_are_tried_first_and_once(tmp_path, policy, workers):
    limits = {"trials": 6, "policy": policy}
    first = run_here(
        tmp_path, spec_of(study=limits, enqueue=POINTS), workers=workers, callbacks=[Interrupt(2)]
    )
    summary, _ = run_here(tmp_path, spec_of(study=limits, enqueue=POINTS), workers=workers, executor=first[1])
    trials = stored(tmp_path).trials
    assert summary.exit_status == 0
    assert [trial.params["learning_rate"] for trial in trials[:2]] == [0.25, 1.0]
    assert trials[1].params["epochs"] == 4
    assert len({trial.params["learning_rate"] for trial in trials}) == len(trials) == 6
    assert all(trial.state.is_finished() for trial in trials)
    if policy == "auto":
        given = [
            trial.number for trial in trials if "its hyperparameters were given" in trial.user_attrs["why"]
        ]
        assert given == [0, 1]


def test_a_point_added_later_is_tried_next_whichever_drivers_come(tmp_path):
    run_here(tmp_path, spec_of(study={"trials": 3}, enqueue=POINTS[:1]))
    spec = spec_of(study={"trials": 5}, enqueue=POINTS)
    drivers = [open_study(spec, f"sqlite:///{tmp_path}/s.db", ["cpu"]) for _ in range(2)]
    for driver in drivers:
        driver.release()
        driver.storage.engine.dispose()
    run_here(tmp_path, spec)
    rates = [trial.params["learning_rate"] for trial in stored(tmp_path).trials]
    assert rates[0] == 0.25
    assert rates[3] == 1.0
    assert rates.count(0.25) == rates.count(1.0) == 1


def test_points_that_wait_are_no_reason_to_keep_a_study_that_was_refused(tmp_path):
    executor = CurveExecutor(falling, SMALL)
    with pytest.raises(StudyFileError, match=r"train\.batch_size: 1000 is larger"):
        run_here(tmp_path, spec_of(train={"batch_size": 1000}, enqueue=POINTS), executor=executor)
    assert optuna.get_all_study_names(f"sqlite:///{tmp_path}/s.db") == []


def test_a_trial_queued_while_the_study_runs_is_the_next(tmp_path):
    act = lambda study: study.enqueue_trial({"learning_rate": 0.5})  # noqa: E731
    run_here(tmp_path, spec_of(study={"trials": 6}), executor=Colleague(tmp_path, act, after=1))
    trials = stored(tmp_path).trials
    assert len(trials) == 6
    assert [t.number for t in trials if t.params["learning_rate"] == 0.5] == [1]


class Thief(Callback):
    """Another driver takes trial 0 over, as soon as its end is decided and not yet written."""

    def __init__(self, tmp_path):
        self.tmp_path, self.done = tmp_path, False

    def on_trial_end(self, trial):
        if trial.number == 0 and not self.done:
            self.done = True
            with closing(sqlite3.connect(self.tmp_path / "s.db")) as connection, connection:
                connection.execute("UPDATE hpsearch_lease SET driver = 'thief', attempt = 2 WHERE number = 0")


def test_a_queued_trial_whose_lease_is_lost_ends_exactly_once(tmp_path):
    enqueue(tmp_path, {"learning_rate": 0.25, "epochs": 4})
    ends = []

    class Ends(Thief):
        def on_trial_end(self, trial):
            ends.append(trial.number)
            super().on_trial_end(trial)

    summary, _ = run_here(tmp_path, spec_of(study={"trials": 3}), callbacks=[Ends(tmp_path)])
    trials = stored(tmp_path).trials
    assert sum(summary.counts.values()) == 3
    assert [trial.number for trial in trials] == [0, 1, 2]
    assert [t.number for t in trials if t.params["learning_rate"] == 0.25] == [0]
    assert trials[0].user_attrs["attempt"] == 3  # ours, the thief's, and ours again
    assert ends.count(0) == 2  # the first of them was never written
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        rows = connection.execute("SELECT number, done FROM hpsearch_lease ORDER BY number").fetchall()
    assert rows == [(0, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learning_rate": 7.0}, "learning_rate = 7.0 is not in 0.0001 to 1"),
        ({"learning_rate": "high"}, "learning_rate = 'high' is not in"),
        ({"learning_rate": 10**400}, "learning_rate = 1000"),
        ({"epochs": 10**400}, "epochs = 1000"),
        ({"momentum": 0.5}, "momentum is not searched"),
    ],
)
def test_queued_values_outside_of_the_space_fail_with_their_sentence(tmp_path, values, words):
    enqueue(tmp_path, values)
    run_here(tmp_path, spec_of(study={"trials": 2}))
    first, second = stored(tmp_path).trials
    assert first.state.name == "FAIL"
    assert words in first.user_attrs["stop_detail"]
    assert second.state.name == "COMPLETE"


@pytest.mark.parametrize("policy", ["sampled", "halving", "auto"])
def test_waiting_trials_of_another_program_are_queued_ones(tmp_path, policy):
    """`study.add_trial` may give one parameters and limits of its own."""
    study = optuna.create_study(study_name="s", storage=f"sqlite:///{tmp_path}/s.db")
    limits = {"learning_rate": FloatDistribution(1e-6, 10), "epochs": IntDistribution(1, 99)}
    for params in ({"learning_rate": 0.25, "epochs": 4}, {"momentum": 0.5}):
        spaces = {name: limits.get(name, FloatDistribution(0, 1)) for name in params}
        study.add_trial(create_trial(state=TrialState.WAITING, params=params, distributions=spaces))
    summary, _ = run_here(tmp_path, spec_of(study={"trials": 3, "policy": policy}))
    first, second, _ = stored(tmp_path).trials
    assert summary.counts["FAIL"] == 1
    assert first.params == {"learning_rate": 0.25, "epochs": 4}
    assert "momentum is not searched" in second.user_attrs["stop_detail"]


def test_a_complete_grid_is_listed_as_complete(tmp_path):
    search = {"learning_rate": [0.001, 0.01], "epochs": [3, 5]}
    run_here(tmp_path, spec_of(search=search, sampler={"name": "grid"}, study={"trials": 99}))
    (row,) = list_studies(f"sqlite:///{tmp_path}/s.db", tmp_path)
    assert (row.finished, row.total) == (4, 4)


def rename(tmp_path, old, new, keep=False):
    """Renames a study as the stock dashboard does it: a copy, and the original deleted."""
    url = f"sqlite:///{tmp_path}/s.db"
    optuna.copy_study(from_study_name=old, from_storage=url, to_storage=url, to_study_name=new)
    if not keep:
        optuna.delete_study(study_name=old, storage=url)


class Weighty(CurveExecutor):
    """Its trials leave weights."""

    def send(self, worker, message):
        if isinstance(message, TrialRun):
            path = attempt_folder(Path(message.folder), message.attempt) / "best-00001.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{message.study} {message.number}")
        super().send(worker, message)


def kept(tmp_path, name):
    folder = RunFolder(tmp_path, name)
    return {number: path.read_text() for number, path in folder.kept_weights()}


def best_weights(tmp_path, name):
    with reading_study(name, f"sqlite:///{tmp_path}/s.db") as study:
        best = best_trial(study, tmp_path)
        assert best.is_here
        return Path(best.weights)


def by_name(name, tmp_path, **study):
    """The specification as `hpsearch run NAME` reads it from the database."""
    spec = stored_specification(stored(tmp_path, name).user_attrs, name)
    return spec.model_copy(update={"study": spec.study.model_copy(update=study)})


def test_a_renamed_study_goes_on_under_its_new_name_with_its_files(tmp_path):
    run_here(tmp_path, spec_of(study={"trials": 3}), executor=Weighty(falling))
    (text,) = kept(tmp_path, "s").values()
    rename(tmp_path, "s", "night")
    assert best_weights(tmp_path, "night").read_text() == text
    summary, _ = run_here(tmp_path, by_name("night", tmp_path, trials=5), executor=Weighty(falling))
    assert (summary.study, sum(summary.counts.values())) == ("night", 5)
    assert names(tmp_path) == ["night"]
    assert len(stored(tmp_path, "night").trials) == 5
    assert len(kept(tmp_path, "night")) == 1
    assert best_weights(tmp_path, "night") == RunFolder(tmp_path, "night").weights(summary.best.number)


def test_a_new_study_of_the_old_name_takes_nothing_from_the_renamed_one(tmp_path):
    run_here(tmp_path, spec_of(study={"trials": 3}), executor=Weighty(falling))
    (text,) = kept(tmp_path, "s").values()
    rename(tmp_path, "s", "night")
    run_here(tmp_path, spec_of(study={"trials": 2}), executor=Weighty(falling))
    assert best_weights(tmp_path, "night").read_text() == text
    assert len(kept(tmp_path, "s")) == len(kept(tmp_path, "night")) == 1


@pytest.mark.parametrize("end", ["goes on", "is deleted"])
def test_weights_that_a_copy_names_stay(tmp_path, end):
    script = lambda run: Script((1.0 / (1 + run.number),) * 3)  # noqa: E731  each trial is better than the last
    run_here(tmp_path, spec_of(study={"trials": 3}), executor=Weighty(script))
    rename(tmp_path, "s", "copy", keep=True)
    if end == "goes on":
        run_here(tmp_path, spec_of(study={"trials": 5}), executor=Weighty(script))
        assert kept(tmp_path, "s").keys() == {2, 4}
    else:
        place = ["--storage", f"sqlite:///{tmp_path}/s.db", "--run-folder", str(tmp_path)]
        assert command(["delete", "s", "--yes", *place]) == 0
    assert best_weights(tmp_path, "copy").read_text() == "s 2"


def test_a_moved_run_folder_has_its_weights(tmp_path):
    """By what is stored today, and by what older versions stored: where the file was from the root on."""
    old, new = tmp_path / "cluster", tmp_path / "laptop"
    old.mkdir()
    run_here(old, spec_of(study={"trials": 2}), executor=Weighty(falling))
    relative = stored(old).best_trial.user_attrs["weights"]
    assert relative == f"s/weights/trial-{stored(old).best_trial.number:05d}.safetensors"
    old.rename(new)
    assert best_weights(new, "s").parent == new / "s" / "weights"
    with closing(sqlite3.connect(new / "s.db")) as connection:
        where = (
            "UPDATE trial_user_attributes SET value_json = ? WHERE key = 'weights' AND value_json != '\"\"'"
        )
        connection.execute(where, (json.dumps(str(old / relative)),))
        connection.commit()
    assert best_weights(new, "s").parent == new / "s" / "weights"


def test_the_weights_of_another_databases_study_of_the_name_are_not_taken(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        run_here(folder, spec_of(study={"trials": 1}), executor=Weighty(falling))
    with reading_study("s", f"sqlite:///{one}/s.db") as study:
        (one / "s").rename(one / "elsewhere")
        assert not best_trial(study, other).is_here


def of_the_past(tmp_path, **tables):
    """Trains a study of 25 random trials, whose best learning rate is 0.1."""
    spec = spec_of(study={"name": "old", "trials": 25}, sampler={"name": "random"}, **tables)
    run_here(tmp_path, spec)


def distance(trials):
    return sum(abs(math.log10(trial.params["learning_rate"]) + 1) for trial in trials) / len(trials)


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_sampler_that_is_told_of_another_study_begins_where_that_was_good(tmp_path, sampler):
    of_the_past(tmp_path)
    found = {}
    for name, past in (("cold", []), ("warm", ["old"])):
        spec = spec_of(study={"name": name, "trials": 8, "warm_start": past}, sampler={"name": sampler})
        summary, _ = run_here(tmp_path, spec)
        found[name] = stored(tmp_path, name).trials
        assert sum(summary.counts.values()) == len(found[name]) == 8
        assert summary.best.score == min(trial.user_attrs["score"] for trial in found[name])
    assert distance(found["warm"]) < 0.6 * distance(found["cold"])


def test_a_warm_started_study_that_is_interrupted_goes_on_as_an_unbroken_one(tmp_path):
    of_the_past(tmp_path)
    tables = {}
    for name, calls in (("whole", []), ("parts", [Interrupt(20)])):
        spec = spec_of(study={"name": name, "trials": 6, "warm_start": ["old"]})
        run_here(tmp_path, spec, callbacks=calls)
        run_here(tmp_path, spec)
        tables[name] = [(trial.params, trial.value) for trial in stored(tmp_path, name).trials]
    assert tables["whole"] == tables["parts"]


def test_past_trials_are_not_compared_with_new_ones(tmp_path):
    """The pruner waits for five trials of this study, however many there were before."""
    of_the_past(tmp_path)
    pruner = {"name": "median", "warmup_epochs": 0, "min_trials": 1}
    spec = spec_of(study={"name": "new", "trials": 4, "warm_start": ["old"]}, pruner=pruner)
    summary, _ = run_here(tmp_path, spec, lambda run: Script((1.0 if run.number == 0 else 99.0,) * 9))
    assert "pruner" not in summary.stop_reasons


def test_what_the_other_study_has_fixed_counts_as_its_value(tmp_path):
    of_the_past(tmp_path, train={"momentum": 0.5})
    space = {
        "learning_rate": {"low": 1e-2, "high": 1.0, "log": True},
        "epochs": {"low": 3, "high": 9},
        "train.momentum": [0.5, 0.9],
    }
    spec = spec_of(study={"name": "wide", "trials": 1, "warm_start": ["old"]}, search=space)
    study = open_study(spec, f"sqlite:///{tmp_path}/s.db", ["cpu"])
    study.release()
    study.storage.engine.dispose()
    past = study.view._storage.past
    assert 0 < len(past) < 25, "those below 0.01 lie outside"
    assert all(trial.params["train.momentum"] == 0.5 and trial.number < 0 for trial in past)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"study": {"warm_start": ["odl"]}}, 'study.warm_start: "odl" was not found; did you mean "old"'),
        (
            {"study": {"metric": "val_error"}},
            "\"old\" has study.metric = 'val_loss', so its values cannot be used",
        ),
        ({"train": {"loss": "nll"}}, '"old" has another train.loss, so its values cannot be used; remove it'),
        ({"search": {"epochs": [3, 4]}}, '"old" searches learning_rate, so its values cannot be used'),
        (
            {"search": {"learning_rate": [7.0], "epochs": {"low": 3, "high": 9}}},
            'no finished trial of "old" lies in [search]; widen [search], or remove it',
        ),
    ],
)
def test_a_past_that_does_not_fit_is_refused_and_no_study_is_made(tmp_path, changes, sentence):
    of_the_past(tmp_path)
    study = {"name": "new", "warm_start": ["old"]} | changes.pop("study", {})
    with pytest.raises(StudyFileError) as refused:
        run_here(tmp_path, spec_of(study=study, **changes))
    assert sentence in str(refused.value)
    assert names(tmp_path) == ["old"]


def test_another_programs_trials_are_no_past(tmp_path):
    """`status` does not count them either."""
    of_the_past(tmp_path)
    study = optuna.load_study(study_name="old", storage=f"sqlite:///{tmp_path}/s.db")
    own = study.trials[0]
    for score in ("abc", [0.3], math.nan, 1e-9):
        for kind in ("finished", "nonsense", [1]):
            attrs = {"stop_reason": kind, "score": score}
            params, space = own.params, own.distributions
            study.add_trial(
                optuna.trial.create_trial(params=params, distributions=space, user_attrs=attrs, value=1.0)
            )
    opened = open_study(
        spec_of(study={"name": "new", "warm_start": ["old"]}), f"sqlite:///{tmp_path}/s.db", ["cpu"]
    )
    opened.release()
    opened.storage.engine.dispose()
    assert len(opened.view._storage.past) == 25


def test_a_point_that_comes_after_the_last_trial_is_told_of(tmp_path):
    run_here(tmp_path, spec_of(study={"name": "s", "trials": 2}))
    late = spec_of(study={"name": "s", "trials": 2}, enqueue=[{"learning_rate": 0.5}])
    summary, _ = run_here(tmp_path, late)
    assert summary.reason == "all 2 trials are finished; 1 enqueued point waits; raise study.trials"


def test_a_study_whose_opening_fails_is_not_left(tmp_path, monkeypatch):
    """Whatever it is that fails, as `Study.load` reads what others may have written."""
    monkeypatch.setattr(Study, "load", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        open_study(spec_of(study={"name": "new"}), f"sqlite:///{tmp_path}/s.db", ["cpu"])
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"study": {"warm_start": ["old", ""]}},
            "study.warm_start: holds an empty name; name studies of the same database",
        ),
        ({"study": {"name": "old"}}, 'study.warm_start: names the study "old" itself; remove it'),
        (
            {"study": {"policy": "auto"}},
            'study.policy = "auto" learns from its own trials alone; use "sampled" or "halving", or make those '
            "of the other study its own: remove warm_start, and `hpsearch import old FILE`",
        ),
        ({"sampler": {"name": "qmc"}}, 'sampler.name = "qmc" learns from no trials; use "tpe" or "gp"'),
    ],
)
def test_a_study_that_would_not_learn_from_the_past_is_refused(changes, sentence):
    study = {"warm_start": ["old"]} | changes.pop("study", {})
    with pytest.raises(StudyFileError) as refused:
        spec_of(study=study, **changes)
    assert sentence in str(refused.value)


WHERE = {
    "learning_rate": {"low": 1e-3, "high": 1.0, "log": True},
    "train.optimizer": ["sgd", "adam"],
    "when": {
        "train.optimizer = sgd": {"train.momentum": {"low": 0.5, "high": 0.9}},
        "train.optimizer = adam": {"epochs": {"low": 3, "high": 9}},
    },
}
SGD, ADAM = ({"learning_rate", "train.optimizer", name} for name in ("train.momentum", "epochs"))


def have_a_meaning(trials):
    kinds = {"sgd": SGD, "adam": ADAM}
    common = {"batch_size", "train.clip_norm"}
    return all(trial.params.keys() - common == kinds[trial.params["train.optimizer"]] for trial in trials)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("policy", ["sampled", "halving", "auto"])
def test_a_conditional_study_is_interrupted_and_goes_on(tmp_path, policy, workers):
    points = [{"train.optimizer": "sgd", "train.momentum": 0.75}, {"train.optimizer": "adam"}]
    clips = {64: [2.0, 1.0], 32: [0.5, 0.1]}
    when = {f"batch_size = {size}": {"train.clip_norm": clips[size]} for size in clips}
    space = {**WHERE, "batch_size": [32, 64], "when": {**WHERE["when"], **when}}
    spec = spec_of(study={"trials": 14, "policy": policy}, search=space, enqueue=points)
    run_here(tmp_path, spec, workers=workers, callbacks=[Interrupt(9)])
    assert have_a_meaning(trial for trial in stored(tmp_path).trials if trial.params)
    summary, _ = run_here(tmp_path, spec, workers=workers)
    trials = stored(tmp_path).trials
    assert summary.exit_status == 0
    assert len(trials) == 14
    assert have_a_meaning(trials)
    assert all(trial.params["train.clip_norm"] in clips[trial.params["batch_size"]] for trial in trials)
    assert trials[0].params["train.momentum"] == 0.75
    assert trials[1].params["train.optimizer"] == "adam"
    assert "FAIL" not in summary.counts
    with reading_study("s", f"sqlite:///{tmp_path}/s.db") as study:
        frame = trials_frame(study)
        assert frame["epochs"].dtype == "Int64"
        assert set(frame["train.momentum"].isna() == (frame["train.optimizer"] == "adam")) == {True}


def test_a_copy_of_a_conditional_study_keeps_its_trials(tmp_path):
    """Without the mark of a driver, a trial is known by having just the fields that have a meaning in it."""
    spec = spec_of(study={"trials": 6, "policy": "sampled"}, search=WHERE)
    run_here(tmp_path, spec)
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection, connection:
        connection.execute("DELETE FROM trial_system_attributes")
        connection.execute("DELETE FROM hpsearch_lease")
        [(trial,)] = connection.execute("SELECT trial_id FROM trials WHERE number = 2").fetchall()
        connection.execute(
            "DELETE FROM trial_params WHERE param_name = 'learning_rate' AND trial_id = ?", [trial]
        )
    with reading_study("s", f"sqlite:///{tmp_path}/s.db") as study:
        assert [trial.number for trial in study.trials()] == [0, 1, 3, 4, 5]


def test_conditional_studies_learn_from_flat_ones_and_the_other_way_round(tmp_path):
    flat = {name: entry for name, entry in WHERE.items() if name != "when"}
    flat |= WHERE["when"]["train.optimizer = sgd"] | WHERE["when"]["train.optimizer = adam"]
    spaces = {"flat": flat, "where": WHERE}
    for name, space in spaces.items():
        old = spec_of(study={"name": f"{name} old", "trials": 12}, search=space, sampler={"name": "random"})
        run_here(tmp_path, old)
    past = {}
    for name, other in (("flat", "where"), ("where", "flat"), ("where", "where")):
        tables = {"name": f"{name} after {other}", "trials": 1, "warm_start": [f"{other} old"]}
        spec = spec_of(study=tables, search=spaces[name], train={"momentum": 0.6, "epochs": 5})
        study = open_study(spec, f"sqlite:///{tmp_path}/s.db", ["cpu"])
        study.release()
        study.storage.engine.dispose()
        past[name, other] = study.view._storage.past
    assert len(past["where", "flat"]) == len(past["where", "where"]) == 12
    assert have_a_meaning([*past["where", "flat"], *past["where", "where"]])
    # What had no meaning was as the study file says: the momentum outside of its range, or the epochs.
    assert all(trial.params.keys() == flat.keys() for trial in past["flat", "where"])
