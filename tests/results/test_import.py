"""An Optuna study that a plain script made becomes the past of a study of ours, which then goes on."""

import html
import io
import math
from collections.abc import Callable
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from hpsearch.__main__ import run as command
from hpsearch.errors import DigestMismatch, HpsearchError, StudyFileError, UserError
from hpsearch.results.commands.imports import import_lines, import_trials
from hpsearch.results.dashboard.notes import study_note
from hpsearch.service.opening import create_or_find, open_study
from hpsearch.store.connection import open_storage, opened
from hpsearch.store.identity import DriverIdentity
from hpsearch.store.ledger import Ledger
from hpsearch.study import StudySpec
from hpsearch.text import as_sentence
from tests.databases import at_once, fresh_database, stored_trials
from tests.results.searches import digits_spec, record_of, search, url_in

LEFT_OUT = {
    "FAIL, not COMPLETE or PRUNED": 1,
    "RUNNING, not COMPLETE or PRUNED": 1,
    "WAITING, not COMPLETE or PRUNED": 1,
    "no finite value": 1,
    "a constraint is violated": 1,
    "learning_rate outside of [search]": 1,
    "epochs outside of [search]": 1,
    "has no epochs": 1,
    "was given dropout, which [search] has not": 1,
    "PRUNED, and its steps are not its epochs": 1,
}


def plain_script(url: str, trials: int = 8, name: str = "theirs", direction: str = "minimize") -> None:
    """Searches as people do without hpsearch, every second trial reporting its epochs; the eighth is pruned."""
    storage = open_storage(url)
    study = optuna.create_study(study_name=name, storage=storage, direction=direction, load_if_exists=True)
    for number in range(trials):
        trial = study.ask()
        rate, epochs = _fields(trial, 0.01 * (number + 1))
        loss = abs(math.log10(rate) + 1)
        for epoch in range(epochs if number % 2 else 0):
            trial.report(loss + 1 / (epoch + 1), epoch)
            if number == 7 and epoch == 3:
                break
        if number == 7:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, loss + 1 / epochs)
    storage.engine.dispose()


def _fields(trial: optuna.Trial, rate: float, most: int = 20) -> tuple[float, int]:
    trial.suggest_categorical("batch_size", [16, 64, "full"])
    epochs = trial.suggest_int("epochs", 5 if most == 20 else most, most)
    return trial.suggest_float("learning_rate", rate, rate), epochs


def odd_trials(url: str) -> None:
    """Adds one trial of each kind that is not taken."""
    storage = open_storage(url)
    study = optuna.load_study(study_name="theirs", storage=storage)

    def end(
        fill: Callable[[optuna.Trial], object], value: float | None, state: TrialState | None = None
    ) -> None:
        trial = study.ask()
        fill(trial)
        study.tell(trial, value, state=state)

    end(lambda trial: _fields(trial, 0.1), None, TrialState.FAIL)
    end(lambda trial: _fields(trial, 0.1), math.inf)
    end(lambda trial: (_fields(trial, 0.1), trial.set_constraint("memory", 1.0)), 1.0)
    end(lambda trial: _fields(trial, 99.0), 1.0)
    end(lambda trial: _fields(trial, 0.1, most=99), 1.0)
    end(
        lambda trial: (
            trial.suggest_float("learning_rate", 0.1, 0.1),
            trial.suggest_categorical("batch_size", [16, 64, "full"]),
        ),
        1.0,
    )
    end(lambda trial: (_fields(trial, 0.1), trial.suggest_float("dropout", 0, 1)), 1.0)
    end(lambda trial: (_fields(trial, 0.1), trial.report(0.5, 100)), None, TrialState.PRUNED)
    study.ask()
    study.enqueue_trial({"learning_rate": 0.1})
    storage.engine.dispose()


def paused_spec(trials: int = 15, **tables: object) -> StudySpec:
    return digits_spec(
        study={"name": "s", "trials": trials, "policy": "auto"}, pruner={"name": "none"}, **tables
    )


@pytest.mark.parametrize("spec", [digits_spec(), paused_spec()], ids=["sampled", "pausing"])
def test_a_plain_scripts_study_is_imported_continued_and_exported(
    tmp_path: Path, spec: StudySpec, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = f"sqlite:///{tmp_path}/theirs.db"
    plain_script(theirs)
    odd_trials(theirs)
    done = import_trials("theirs", theirs, spec, url_in(tmp_path))
    assert (done.taken, done.known, done.left_out) == (8, 0, LEFT_OUT)
    assert (
        import_lines(done, "s.toml")[-1] == "s: 8 of 15 trials finished; `hpsearch run s.toml` continues it"
    )

    summary = search(tmp_path, spec)
    assert sum(summary.counts.values()) == 15, "what was imported counts"
    record = record_of(tmp_path)
    past = [trial for trial in record.trials if "imported" in trial.attrs]
    assert [trial.number for trial in past] == list(range(8))
    assert [trial.attrs["imported"][:2] for trial in past] == [["theirs", number] for number in range(8)]
    assert [len(trial.val) == trial.epochs_run > 0 for trial in past] == [bool(n % 2) for n in range(8)]
    assert past[7].epochs_run == 4
    best = record.best
    assert best is not None
    assert best.score == min(trial.score for trial in record.finished if trial.score is not None)

    out = tmp_path / "s.csv"
    assert command(["export", "s", "--storage", url_in(tmp_path), "--output", str(out)]) == 0
    frame = pd.read_csv(io.BytesIO(out.read_bytes()))
    assert len(frame) == 15
    assert frame["stop_detail"].str.startswith("imported: trial").sum() == 8
    for look in ("best", "status"):
        assert command([look, "s", "--storage", url_in(tmp_path)]) == 0
    assert command(["report", "s", "--storage", url_in(tmp_path), "--output", str(tmp_path / "r.html")]) == 0
    assert "of another program" not in capsys.readouterr().out


@pytest.mark.parametrize("server", ["postgresql", "mysql"])
def test_a_servers_study_is_imported_too(server: str, tmp_path: Path) -> None:
    with fresh_database(server, tmp_path) as url:
        plain_script(url)
        assert import_trials("theirs", url, digits_spec(), url).taken == 8


def test_an_import_takes_each_trial_once(tmp_path: Path) -> None:
    url = url_in(tmp_path)
    plain_script(url)
    import_trials("theirs", url, digits_spec(), url)
    plain_script(url, trials=2)
    again = import_trials("theirs", url, digits_spec(), url)
    assert (again.taken, again.known, again.finished) == (2, 8, 10)
    assert len(record_of(tmp_path).trials) == 10


def taken_at_once(place: int, url: str) -> int:
    return import_trials("theirs", url, digits_spec(study={"trials": 40}), url).taken


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mysql"])
def test_imports_at_the_same_time_take_each_trial_once(kind: str, tmp_path: Path) -> None:
    with fresh_database(kind, tmp_path) as url:
        plain_script(url, trials=30)
        assert sum(at_once(3, taken_at_once, url)) == 30
        past = [one.user_attrs["imported"][1] for one in stored_trials(url, "s")]
        assert sorted(past) == list(range(30))
        storage = open_storage(url)
        study_id = storage.get_study_id_from_name("s")
        claimed = [Ledger(storage, DriverIdentity.here()).claim(study_id, 31) for _ in range(2)]
        storage.engine.dispose()
        assert claimed == [31, None], "each trial has one ticket"


def test_an_import_into_a_study_that_runs_counts_towards_its_total(tmp_path: Path) -> None:
    url, spec = url_in(tmp_path), paused_spec(trials=10)
    plain_script(url)
    running = open_study(spec, url, ["cpu"])
    try:
        first = running.next_trial(lambda number, attempt: False)
        assert first is not None
        import_trials("theirs", url, spec, url)
        running.sync()
        assert running.counts["COMPLETE"] + running.counts["PRUNED"] == 8
        tickets = [running.ledger.claim(running.study_id, 10) for _ in range(2)]
        assert tickets[0] is not None
        assert tickets[1] is None, "8 and 2 are 10"
        running.release()
    finally:
        running.storage.engine.dispose()


def test_what_a_full_study_needs_is_said(tmp_path: Path) -> None:
    url = url_in(tmp_path)
    plain_script(url)
    done = import_trials("theirs", url, digits_spec(study={"trials": 5}), url)
    assert import_lines(done, "s.toml")[-1] == (
        "s: 8 of 5 trials finished; raise study.trials above 8 to continue it"
    )
    assert "all 5 trials are finished" in search(tmp_path, digits_spec(study={"trials": 5})).reason


def ours(url: str) -> None:
    study = open_study(digits_spec("theirs"), url, [])
    study.release()
    study.storage.engine.dispose()


@pytest.mark.parametrize(
    ("make", "spec", "error", "sentence"),
    [
        (lambda url: plain_script(url, name="their"), digits_spec(), HpsearchError, 'did you mean "their"'),
        (
            lambda url: plain_script(url, direction="maximize"),
            digits_spec(),
            UserError,
            'the Optuna study "theirs" is to maximize its value, but val_loss (study.metric) is to minimize',
        ),
        (
            lambda url: plain_script(url, trials=2),
            digits_spec(search={"learning_rate": {"low": 1e-9, "high": 1e-8}}),
            UserError,
            "has no trial to import: 2 trials: was given batch_size, epochs, which [search] has not; make [search]",
        ),
        (
            ours,
            digits_spec(data={"dataset": "digits", "subset": 0.5}),
            UserError,
            "restore these fields:\n  data.subset: stored",
        ),
        (ours, digits_spec(search={"epochs": [5, 6]}), UserError, "search: it has learning_rate, batch_size"),
        (ours, digits_spec("theirs"), UserError, "is the study itself; give the changed study file another"),
        (plain_script, digits_spec("theirs"), StudyFileError, "that hpsearch did not make is in"),
        (
            plain_script,
            digits_spec(
                sampler={"name": "grid"},
                search={"learning_rate": [0.1, 0.2], "epochs": [5], "batch_size": [16]},
            ),
            StudyFileError,
            'sampler.name: "grid" tries its own points',
        ),
    ],
)
def test_what_cannot_be_imported_is_refused_and_no_study_is_made(
    tmp_path: Path, make: Callable[[str], None], spec: StudySpec, error: type[Exception], sentence: str
) -> None:
    url = url_in(tmp_path)
    make(url)
    storage = open_storage(url)
    before = optuna.get_all_study_names(storage)
    with pytest.raises(error) as refused:
        import_trials("theirs", url, spec, url)
    assert sentence in str(refused.value)
    assert optuna.get_all_study_names(storage) == before
    storage.engine.dispose()


def test_a_changed_space_goes_on_with_the_trials_that_lie_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A range is widened at one end and narrowed at the other: what stays is what is in the new one."""
    search(tmp_path)
    old, url = record_of(tmp_path), url_in(tmp_path)
    changed = {
        **digits_spec().model_dump()["search"],
        "learning_rate": {"low": 1e-3, "high": 100.0, "log": True},
    }
    with pytest.raises(DigestMismatch, match='run `hpsearch import "s" FILE`, which takes the trials'):
        search(tmp_path, digits_spec(search=changed))
    spec = digits_spec("wide", study={"trials": 20}, search=changed)
    done = import_trials("s", url, spec, url)
    fit = [one for one in old.trials if one.score is not None and one.hparams["learning_rate"] >= 1e-3]
    assert 0 < len(fit) < len(old.trials)
    assert (done.taken, done.known) == (len(fit), 0)
    new = record_of(tmp_path, "wide")
    assert [one.hparams for one in new.trials] == [one.hparams for one in fit]
    assert [one.val for one in new.trials] == [one.val for one in fit]
    assert min(one.score for one in new.trials) == min(one.score for one in fit)
    assert import_trials("s", url, spec, url).taken == 0
    left = len(old.trials) - len(fit)
    learnt = f'learnt from {len(fit)} trials of "s", {left} left out: '
    where = ["--storage", url, "--run-folder", str(tmp_path / "runs")]
    for look in (["list"], ["status", "wide"]):
        assert command([*look, *where]) == 0
        assert f'study "wide": {learnt}' in capsys.readouterr().out
    assert f"* {as_sentence(learnt)[:-1]}" in study_note(new).replace("\\", "")
    page = tmp_path / "wide.html"
    assert command(["report", "wide", *where, "--output", str(page)]) == 0
    assert f"L{html.escape(learnt[1:])}" in page.read_text()
    search(tmp_path, spec)
    after = record_of(tmp_path, "wide")
    assert len(after.finished) == 20
    assert max(one.hparams["learning_rate"] for one in after.trials) > 10


def test_the_studies_of_warm_start_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = url_in(tmp_path)
    with opened(url, readonly=False) as storage:
        create_or_find(storage, digits_spec("new", study={"warm_start": ["old"]}))
    where = ["--storage", url, "--run-folder", str(tmp_path / "runs")]
    for look in (["list"], ["status", "new"]):
        assert command([*look, *where]) == 0
        told = 'study "new": learns from the trials of "old" too (study.warm_start)'
        assert told in capsys.readouterr().out
