"""A study lives among other programs and people: what a run does about their trials, names and files."""

import optuna
import pytest

from hpsearch.errors import StudyFileError, UserError
from hpsearch.spec.trial import DataFacts
from tests.service.curves import CurveExecutor, falling
from tests.service.test_driver import run_here, spec_of, stored

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
