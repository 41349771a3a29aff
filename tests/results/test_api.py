"""`hpsearch.run` as a script calls it, with real workers."""

import inspect
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hpsearch
from hpsearch.service.launch import RunOptions
from hpsearch.study import StudySpec
from tests.results.stored import make_study

STUDIES = Path(__file__).parents[2] / "studies"


def test_a_study_file_runs_from_anywhere_with_plain_settings(tmp_path: Path, monkeypatch) -> None:
    """Its own module lies beside it, the database in the run folder, and `workers` is a number."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    shutil.copy(STUDIES / "own_loop.py", home)
    text = (STUDIES / "own_loop.toml").read_text().replace("trials = ", "trials = 1 # ")
    (home / "mine.toml").write_text(text)
    monkeypatch.chdir(elsewhere)
    result = hpsearch.run(home / "mine.toml", run_folder="here", workers=1, progress=False)
    assert result.summary is not None
    assert result.summary.exit_status == 0
    assert len(result.dataframe()) == 1
    assert (elsewhere / "here" / "hpsearch.db").is_file()
    assert result.best is not None
    assert Path(str(result.best.weights)).is_file()


class Begun(Exception):
    """The run got as far as its workers."""


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[StudySpec, RunOptions]]:
    """What `launch` was called with, which starts nothing here."""
    found: list[tuple[StudySpec, RunOptions]] = []

    def launch(spec: StudySpec, options: RunOptions) -> None:
        found.append((spec, options))
        raise Begun

    monkeypatch.setattr("hpsearch.results.commands.api.launch", launch)
    return found


def test_trials_and_timeout_stand_for_the_studys(
    tmp_path: Path, begun: list[tuple[StudySpec, RunOptions]]
) -> None:
    with pytest.raises(Begun):
        hpsearch.run(STUDIES / "digits.toml", run_folder=tmp_path, trials=3, timeout="2h", progress=False)
    ((spec, options),) = begun
    assert (spec.study.trials, spec.study.timeout) == (3, 7200.0)
    assert options.storage == f"sqlite:///{tmp_path}/hpsearch.db"


def test_a_study_may_be_a_dict(tmp_path: Path, begun: list[tuple[StudySpec, RunOptions]]) -> None:
    tables = {"study": {"name": "d"}, "data": {"dataset": "digits"}, "search": {"learning_rate": [0.1]}}
    with pytest.raises(Begun):
        hpsearch.run(tables, run_folder=tmp_path, progress=False)
    assert begun[0][0] == hpsearch.StudyFile.from_dict(tables)
    with pytest.raises(hpsearch.StudyFileError, match=r"study\.name: is missing"):
        hpsearch.StudyFile.from_dict({**tables, "study": {}})
    assert repr(begun[0][0]) == "<StudyFile 'd': 80 trials over learning_rate>"
    assert "<td>learning_rate</td><td>0.1, one of 1</td>" in begun[0][0]._repr_html_()


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        (hpsearch.run, {"worker": 2}, 'run: there is no argument "worker"; did you mean "workers"'),
        (hpsearch.run, {"n_trials": 2}, 'did you mean "trials"'),
        (hpsearch.run, {"seed": 2}, r"seed is not an argument but a field of the study; write study\.seed"),
        (hpsearch.confirm, {"seedz": 2}, 'confirm: there is no argument "seedz"; did you mean "seeds"'),
        (hpsearch.check, {"data": "x"}, 'did you mean "data_root"'),
        (hpsearch.report, {"out": "x"}, 'report: there is no argument "out"; did you mean "output"'),
        (hpsearch.run, {"n_jobs": 2}, 'run: there is no argument "n_jobs"; did you mean "workers"'),
    ],
)
def test_an_argument_that_there_is_not_names_the_nearest(
    function: Callable[..., Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(hpsearch.UserError, match=message):
        function(STUDIES / "digits.toml", **settings)


@pytest.mark.parametrize(
    ("function", "name", "value", "kind"),
    [
        (hpsearch.run, "workers", "2", "a whole number of at least 1"),
        (hpsearch.run, "workers", 0, "a whole number of at least 1"),
        (hpsearch.run, "workers", True, "a whole number of at least 1"),
        (hpsearch.run, "trials", 2.5, "a whole number of at least 1"),
        (hpsearch.run, "gpus", 0, "a string"),
        (hpsearch.run, "gpus", None, "a string"),
        (hpsearch.run, "executor", None, "a string"),
        (hpsearch.run, "storage", 3, "a string"),
        (hpsearch.run, "storage", "a\0.db", "a string"),
        (hpsearch.run, "run_folder", "a\0b", "a path"),
        (hpsearch.run, "run_folder", None, "a path"),
        (hpsearch.run, "lease_seconds", "x", "a number of seconds of at least 1"),
        (hpsearch.run, "lease_seconds", -1, "a number of seconds of at least 1"),
        (hpsearch.run, "lease_seconds", float("nan"), "a number of seconds of at least 1"),
        (hpsearch.run, "storage_timeout", -5, "a number of seconds of at least 0"),
        (hpsearch.run, "timeout", [1], 'a number of seconds or a string such as "2h"'),
        (hpsearch.run, "allow", "nets", r'a list of modules, such as \["my_package.nets"\]'),
        (hpsearch.run, "allow", [3], r'a list of modules, such as \["my_package.nets"\]'),
        (hpsearch.run, "allow", ["a b"], r'a list of modules, such as \["my_package.nets"\]'),
        (hpsearch.run, "run_folder", "", "a path"),
        (hpsearch.run, "callbacks", [print], "a list of hpsearch.Callback objects"),
        (hpsearch.run, "progress", object(), "True or False"),
        (hpsearch.run, "cluster", "auto", "a Cluster"),
        (hpsearch.confirm, "top", "x", "a whole number of at least 1"),
        (hpsearch.confirm, "seeds", 1, "a whole number of at least 2"),
        (hpsearch.refit, "test", "no", "True or False"),
        (hpsearch.check, "device", 0, "a string"),
        (hpsearch.report, "output", 3, "a path"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_refused_by_its_name(
    tmp_path: Path, function: Callable[..., Any], name: str, value: Any, kind: str
) -> None:
    with pytest.raises(hpsearch.UserError, match=f"^{function.__name__}: {name} must be {kind}, got "):
        function(STUDIES / "digits.toml", **({"run_folder": tmp_path} | {name: value}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("function", [hpsearch.run, hpsearch.check, hpsearch.report])
def test_what_is_no_study_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(
        hpsearch.UserError, match="study must be a study file's path, a study's name, or a study, got 3"
    ):
        function(3)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: hpsearch.load_study_file(3), "a study must be a file's path, a study or its tables, got 3"),
        (
            lambda: hpsearch.StudyFile.from_dict(3),
            "a study must be a file's path, a study or its tables, got 3",
        ),
        (lambda: hpsearch.StudyFile.from_dict({"search": {1: [1]}}), "search: a key must be a string, got 1"),
        (lambda: hpsearch.load_best_model(3), "load_best_model: study must be a study file's path"),
        (lambda: hpsearch.EarlyStoppingPruner(3), "criterion must be a stopping criterion, got 3"),
    ],
)
def test_the_wrong_thing_is_refused_in_a_sentence(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(hpsearch.UserError, match=re.escape(sentence)):
        call()


def test_arguments_are_named_alike_everywhere() -> None:
    functions = (
        hpsearch.run,
        hpsearch.check,
        hpsearch.confirm,
        hpsearch.refit,
        hpsearch.predict,
        hpsearch.report,
    )
    kinds: dict[str, set[str]] = {}
    for function in (*functions, hpsearch.load_best_model):
        for name, parameter in inspect.signature(function).parameters.items():
            kinds.setdefault(name, set()).add(str(parameter.annotation).strip("'"))
    for name in ("storage", "run_folder", "workers", "trials", "timeout", "data_root", "gpus", "search"):
        assert len(kinds[name]) == 1, name


def test_results_are_short_to_look_at(sqlite_url: str) -> None:
    make_study(sqlite_url, "one")
    result = hpsearch.StudyResult("one", sqlite_url)
    assert repr(result) == "<StudyResult 'one'>"
    assert result._repr_html_().startswith("one: trial 1, val_loss 0.2 at epoch 2 of 3")
    trial = hpsearch.FinishedTrial(3, "COMPLETE", "finished", 0.25, 2, 4, {"learning_rate": 0.1}, {})
    assert repr(trial) == "<FinishedTrial 3: COMPLETE (finished), 0.25 at epoch 2 of 4>"
    assert "<td>learning_rate</td><td>0.1</td>" in trial._repr_html_()


def test_a_report_from_python(sqlite_url: str, tmp_path: Path) -> None:
    make_study(sqlite_url, "one")
    (page,) = hpsearch.report("one", storage=sqlite_url, run_folder=tmp_path)
    assert page == tmp_path / "one" / "report.html"
    assert "one" in page.read_text(encoding="utf-8")
