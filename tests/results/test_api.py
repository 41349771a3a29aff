"""`hpsearch.run` as a script calls it, with real workers."""

import shutil
from pathlib import Path

import hpsearch

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
