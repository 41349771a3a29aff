"""Whose study is it that has the name already?"""

import logging
from typing import Any

import optuna
import pytest

from hpsearch.errors import StudyFileError
from hpsearch.service.opening import open_study
from hpsearch.store.connection import open_storage
from hpsearch.study import parse_study

SPEC = parse_study(
    {
        "study": {"name": "s", "trials": 4},
        "data": {"dataset": "digits"},
        "search": {"learning_rate": {"low": 1e-4, "high": 1.0, "log": True}},
    }
)


def made_by_optuna(url: str, **study: Any) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(study_name="s", storage=open_storage(url), **study)


@pytest.mark.parametrize(
    ("study", "words"),
    [
        (
            {"direction": "maximize"},
            r'"s" in .* was made to maximize its value, but val_loss \(study\.metric\)',
        ),
        ({"directions": ["minimize", "minimize"]}, "was made for 2 objectives"),
    ],
)
def test_a_study_that_looks_for_something_else_is_refused(
    sqlite_url: str, study: dict[str, Any], words: str
) -> None:
    made = made_by_optuna(sqlite_url, **study)
    with pytest.raises(StudyFileError, match=words) as error:
        open_study(SPEC, sqlite_url, ["cpu"])
    assert "\n" not in str(error.value)
    assert made.user_attrs == {}


def test_trials_of_another_program_are_refused(sqlite_url: str) -> None:
    made = made_by_optuna(sqlite_url)
    made.tell(made.ask(), 1.0)
    with pytest.raises(StudyFileError, match='a study "s" that hpsearch did not make'):
        open_study(SPEC, sqlite_url, ["cpu"])


def test_an_empty_study_made_in_the_dashboard_is_taken(sqlite_url: str) -> None:
    made = made_by_optuna(sqlite_url)
    made.enqueue_trial({"learning_rate": 0.1})
    open_study(SPEC, sqlite_url, ["cpu"])
    assert made.user_attrs["metric"] == "val_loss"


def test_nothing_is_printed_when_a_study_is_made(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("optuna"), "handlers", [caplog.handler])
    optuna.logging.set_verbosity(optuna.logging.INFO)
    open_study(SPEC, sqlite_url, ["cpu"])
    assert caplog.text == ""
