"""Studies that Optuna's users have made in the same database: what can be shown is shown, the rest said."""

import json
import math
import sqlite3
from contextlib import closing

import optuna
import pytest
from sqlalchemy.engine import make_url

from hpsearch.__main__ import run as command
from hpsearch.results.dashboard.serve import ArtifactFolder, Refreshed
from hpsearch.results.stored.listing import list_studies
from hpsearch.results.stored.reading import read_study
from hpsearch.store.connection import open_storage
from hpsearch.study import load_study_file
from tests.databases import execute, fresh_database, server_url
from tests.results.digits import searched
from tests.results.requests import ask
from tests.results.searches import url_in
from tests.results.stored import make_study

FILE = """
[study]
trials = 2
[data]
dataset = "digits"
[model]
name = "mlp"
[train]
epochs = 2
[search]
learning_rate = { low = 1e-3, high = 0.3, log = true }
"""
OURS = {
    "val_loss": 0.3, "train_loss": "low", "score": "good", "best_epoch": "last", "epochs_run": [1], "seconds": "2 h",
    "weights": ["a", 1], "metrics_at_best": {"val_loss": "x"}, "fit": 3, "stop_reason": None, "epoch_seconds": 7,
}  # fmt: skip
"""Attributes of our names, by which somebody else means something else."""


def varied(study):
    """Hyperparameters of all kinds, steps from 0 and far apart, attributes of our names."""
    study.set_user_attr("metric", {"name": "loss"})
    study.set_user_attr("digest", 5)
    for number in range(12):
        trial = study.ask()
        trial.suggest_float("rate", 1e-5, 1.0, log=True)
        trial.suggest_int("batch_size", 1, 512, log=True)
        trial.suggest_categorical("kind", [None, True, "a", 1.5])
        if number % 2:
            trial.suggest_float("only sometimes", 0, 1)
        for step in (0, 1, 10**9):
            trial.report(math.nan if number == 3 else number + 1 / (step + 1), step)
        for name, value in OURS.items():
            trial.set_user_attr(name, value)
        if number == 5:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        elif number == 6:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif number < 11:
            study.tell(trial, float("inf") if number == 7 else float(number))


def empty(study):
    pass


def without_hyperparameters(study):
    study.tell(study.ask(), 1.0)


def failed(study):
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)


def running(study):
    study.ask().suggest_float("x", 0, 1)


def waiting(study):
    study.enqueue_trial({"x": 0.5})


def other_specification(study):
    study.set_user_attr("specification", "version 2 of the requirements")
    without_hyperparameters(study)


CASES = [varied, empty, without_hyperparameters, failed, running, waiting, other_specification]


@pytest.fixture
def url(tmp_path):
    """A database that holds a study of ours too."""
    url = f"sqlite:///{tmp_path}/s.db"
    make_study(url, "ours")
    return url


def foreign(url, fill, directions=("minimize",)):
    storage = open_storage(url)
    study = optuna.create_study(storage=storage, study_name="theirs", directions=list(directions))
    fill(study)
    storage.engine.dispose()


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("fill", CASES)
def test_a_study_of_optunas_own_is_shown(url, tmp_path, fill, direction, capsys):
    foreign(url, fill, [direction])
    place = ["--storage", url, "--run-folder", str(tmp_path / "runs")]
    assert command(["list", *place]) == 0
    assert "theirs" in capsys.readouterr().out
    assert command(["list", "--json", *place]) == 0
    assert command(["status", "theirs", *place]) == 0
    assert command(["report", "theirs", "--storage", url, "--output", str(tmp_path / "r.html")]) == 0
    assert command(["export", "theirs", "--storage", url, "--output", str(tmp_path / "r.csv")]) == 0
    assert (
        command(["export", "theirs", "--epochs", "--storage", url, "--output", str(tmp_path / "e.csv")]) == 0
    )
    has_best = fill in (varied, without_hyperparameters, other_specification)
    assert command(["best", "theirs", *place]) == (0 if has_best else 1)
    assert command(["best", "theirs", "--save", str(tmp_path / "best"), *place]) in (1, 2)
    assert command(["compare", "theirs", "ours", "--storage", url]) == 2  # other metrics
    assert command(["run", "theirs", *place]) == 2
    assert command(["predict", "theirs", "a.png", "--storage", url]) in (1, 2)
    assert command(["confirm", "theirs", *place]) in (1, 2)
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert command(["delete", "theirs", "--yes", *place]) == 0


def test_its_reports_are_its_curve_and_its_values_are_its_scores(url, capsys):
    from hpsearch.results.stored.reading import read_study

    foreign(url, varied)
    record = read_study("theirs", url)
    assert record.best.number == 0
    assert record.best.score == 0.0
    assert record.best.val == (1.0, 0.5, 1 / (10**9 + 1))
    assert record.trials[3].val == (None, None, None)
    assert record.trials[7].score is None
    assert command(["best", "theirs", "--storage", url]) == 0
    assert "theirs: trial 0, value 0" in capsys.readouterr().out


def two_values(study):
    for number in range(3):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, (number, -number))


@pytest.mark.parametrize(
    "arguments",
    [
        ["best", "theirs"],
        ["report", "theirs"],
        ["export", "theirs"],
        ["compare", "theirs", "ours"],
        ["confirm", "theirs"],
        ["predict", "theirs", "a.png"],
        ["run", "theirs"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_several_objectives_are_refused_in_one_sentence(url, arguments, capsys):
    foreign(url, two_values, ["minimize", "maximize"])
    assert command([*arguments, "--storage", url]) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert 'study "theirs" has 2 objectives' in said
    assert "hpsearch dashboard" in said


def test_several_objectives_are_listed_shown_and_deleted(url, tmp_path, capsys):
    foreign(url, two_values, ["minimize", "maximize"])
    place = ["--storage", url, "--run-folder", str(tmp_path / "runs")]
    assert command(["list", *place]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("theirs")]
    assert line.split()[1:8] == ["3", "3", "0", "0", "0", "0", "-"]
    assert command(["status", "theirs", *place]) == 0
    app = Refreshed(open_storage(url, readonly=True), ArtifactFolder(tmp_path / "artifacts"))
    assert [trial["values"] for trial in ask(app, "/api/studies/2").json["trials"]][1] == [1.0, -1.0]
    app.storage.engine.dispose()
    assert command(["delete", "theirs", "--yes", *place]) == 0


@pytest.fixture
def ascii_url(tmp_path):
    """A PostgreSQL database that takes any bytes for text."""
    with fresh_database("postgresql", tmp_path) as url:
        name = make_url(url).database
        server = server_url("postgresql")
        execute(server, f"DROP DATABASE {name}")
        execute(
            server,
            f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'",
        )
        yield url


def make_there(url, name):
    make_study(url, name)._storage._backend.engine.dispose()


def test_a_database_without_an_encoding_is_like_any_other(ascii_url, tmp_path):
    storage = open_storage(ascii_url)
    optuna.create_study(study_name="größe", storage=storage)
    storage.engine.dispose()
    (row,) = list_studies(ascii_url, tmp_path)
    assert row.name == "größe"


@pytest.mark.parametrize("words", [["list"], ["status", "s"], ["best", "s"], ["export", "s"]])
def test_a_name_that_is_no_text_is_one_sentence(ascii_url, tmp_path, capsys, words):
    make_there(ascii_url, "s")
    make_there(ascii_url, "other")
    name = "convert_from(decode('ff6162', 'hex'), 'SQL_ASCII')"
    rename = f"UPDATE studies SET study_name = {name} WHERE study_name = 'other'"
    execute(make_url(ascii_url), rename)
    status = command([*words, "--storage", ascii_url, "--run-folder", str(tmp_path)])
    said = capsys.readouterr().err
    assert status in (0, 2)
    assert "Traceback" not in said
    if status:
        assert said.startswith("error: ")
        assert len(said.splitlines()) == 1
        assert "UTF-8" in said or "utf-8" in said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stop_reason", '"patience ran out"'),
        ("metrics_at_best", "7"),
        ("epochs_run", '"many"'),
        ("best_epoch", "2.5"),
        ("score", "1e999"),
        ("score", "1" + "0" * 400),
        ("seconds", '"long"'),
        ("pieces", "[[1]]"),
        ("why", "{}"),
    ],
)
def test_an_own_trial_that_was_edited_is_one_sentence_everywhere(tmp_path, key, value, capsys, caplog):
    file, url = tmp_path / "s.toml", url_in(tmp_path)
    file.write_text(FILE)
    searched(tmp_path, load_study_file(file))
    words = ["--storage", url, "--run-folder", str(tmp_path / "runs")]
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        change = "INSERT OR REPLACE INTO trial_user_attributes (trial_id, key, value_json) VALUES (1, ?, ?)"
        connection.execute(change, (key, value))
    capsys.readouterr()
    more = ["--trials", "3", "--workers", "1", "--gpus", "none"]
    for arguments in (
        ["run", str(file), *more],
        ["export", "s"],
        ["export", "s", "--epochs"],
        ["report", "s"],
    ):
        assert command([*arguments, *words]) == 2, arguments
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(said) == 1, arguments
        assert f'study "s": trial 0: its attribute {key} is damaged: ' in said[0]
        assert said[0].endswith("restore the database from a backup, or correct the attribute")
    assert command(["list", *words]) == 0


def test_a_study_whose_name_is_no_files_is_listed_and_deleted(tmp_path, capsys):
    name, url = "y" * 300, f"sqlite:///{tmp_path}/hpsearch.db"
    optuna.create_study(study_name=name, storage=url)
    make_study(url, "s")
    words = ["--storage", url, "--run-folder", str(tmp_path)]
    assert command(["list", *words]) == 0
    assert "s" in capsys.readouterr().out.split()
    assert command(["status", name, *words]) == 0
    assert command(["delete", name, "-y", *words]) == 0
    assert [row.name for row in list_studies(url, tmp_path)] == ["s"]


@pytest.mark.parametrize("curve", [999999999999, "text", {"a": 1}, [10**400, None, "x"]])
def test_a_curve_that_is_none_is_left_out(sqlite_url, curve):
    make_study(sqlite_url, "s")
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute(
            "UPDATE trial_user_attributes SET value_json = ? WHERE key = 'val_loss'", (json.dumps(curve),)
        )
    record = read_study("s", sqlite_url)
    assert [trial.val for trial in record.trials][:2] == [(0.9, 0.5), (0.8, 0.2, 0.3)]
