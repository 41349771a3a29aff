"""A study that version 0.1.0 began, killed in its fourth trial, is resumed by the present version.

`earlier/` holds its study file, database and run folder as they were left on 2026-11-29.
"""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EARLIER = Path(__file__).with_name("earlier")
ROWS = {
    "trials": "SELECT * FROM trials",
    "params": "SELECT * FROM trial_params",
    "curve": "SELECT * FROM trial_intermediate_values",
    "attributes": "SELECT * FROM trial_user_attributes",
}


def rows(database: Path, table: str, number: int) -> list[Any]:
    """Returns the rows of one trial in one table."""
    connection = sqlite3.connect(database)
    query = f"{ROWS[table]} WHERE trial_id = (SELECT trial_id FROM trials WHERE number = ?) ORDER BY 1"
    found = connection.execute(query, [number]).fetchall()
    connection.close()
    return found


def hpsearch(folder: Path, *args: str) -> str:
    command = [sys.executable, "-m", "hpsearch", *args]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    shutil.copytree(EARLIER, folder, dirs_exist_ok=True)
    hpsearch(folder, "run", "small.toml", "--workers", "1", "--gpus", "none", "--quiet")
    return folder


@pytest.mark.parametrize("table", ROWS)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_its_finished_trials_stay_as_they_are(resumed: Path, number: int, table: str) -> None:
    before = rows(EARLIER / "runs" / "hpsearch.db", table, number)
    assert before
    assert rows(resumed / "runs" / "hpsearch.db", table, number) == before


def test_its_killed_trial_is_resumed_from_its_checkpoint(resumed: Path) -> None:
    database = resumed / "runs" / "hpsearch.db"
    connection = sqlite3.connect(database)
    states = connection.execute("SELECT number, state FROM trials ORDER BY number").fetchall()
    attempts = connection.execute(
        "SELECT value_json FROM trial_user_attributes JOIN trials USING (trial_id) "
        "WHERE number = 3 AND key = 'attempt'"
    ).fetchall()
    connection.close()
    assert [number for number, _ in states] == list(range(6))
    assert {state for _, state in states} <= {"COMPLETE", "PRUNED"}
    assert attempts == [("2",)]
    curve = [row[2:] for row in rows(database, "curve", 3)]
    earlier = [row[2:] for row in rows(EARLIER / "runs" / "hpsearch.db", "curve", 3)]
    assert len(earlier) >= 7
    assert curve[:7] == earlier[:7]


def test_its_weights_predict(resumed: Path) -> None:
    from PIL import Image

    Image.new("L", (8, 8)).save(resumed / "black.png")
    assert hpsearch(resumed, "best", "small").startswith("small: trial 0, val_loss 0.1597")
    assert "black.png" in hpsearch(resumed, "predict", "small", "black.png")
