"""`hpsearch.run` as a script calls it, with real workers."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import hpsearch
from hpsearch.study import StudySpec

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
    result = hpsearch.run(home / "mine.toml", run_folder="here", workers=1)
    assert result.summary is not None
    assert result.summary.exit_status == 0
    assert len(result.dataframe()) == 1
    assert (elsewhere / "here" / "hpsearch.db").is_file()
    assert result.best is not None
    assert Path(str(result.best.weights)).is_file()


def test_trials_and_timeout_stand_for_the_studys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[StudySpec] = []
    monkeypatch.setattr("hpsearch.results.commands.api.run_study", lambda spec, *_: ran.append(spec))
    hpsearch.run(STUDIES / "digits.toml", storage=f"sqlite:///{tmp_path}/s.db", trials=3, timeout="2h")
    assert (ran[0].study.trials, ran[0].study.timeout) == (3, 7200.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"worker": 2}, 'there is no setting "worker"; did you mean "workers"'),
        ({"trial": 2}, 'did you mean "trials"'),
        ({"seed": 2}, r"seed is not a setting of a run but of the study; write study\.seed"),
    ],
)
def test_a_setting_that_there_is_not_names_the_nearest(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        hpsearch.run(STUDIES / "digits.toml", **settings)
