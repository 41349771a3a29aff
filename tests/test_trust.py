"""What a database, a file of weights or the current folder holds runs no code on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest

from hpsearch import __main__ as entry
from hpsearch.errors import DigestMismatch, StudyFileError
from hpsearch.executors.local import own_paths, python_module
from hpsearch.store.connection import open_storage
from hpsearch.study.file import (
    load_study_file,
    parse_stored,
    parse_study,
    refuse_foreign_places,
    refuse_other,
    stored_form,
    stored_tree,
)

LOOP = """
import math, os

def train(trial):
    for epoch in trial.remaining():
        yield {"train_loss": 1 / epoch, "val_loss": abs(math.log10(trial.learning_rate) + 2) + 1 / epoch}
"""
STUDY = """
[study]
trials = 2
[train]
function = "loop:train"
epochs = 2
[search]
learning_rate = { low = 1e-4, high = 1.0, log = true }
"""
LIBRARIES = (
    "optuna",
    "queue",
    "torch",
    "plotly",
    "sqlalchemy",
    "numpy",
    "logging",
    "types",
    "typer",
    "hpsearch",
)


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = [Path(sys.executable).with_name("hpsearch"), *arguments]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=env, timeout=280, check=False)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that ran from a folder full of files named like libraries."""
    folder = tmp_path_factory.mktemp("trust")
    (folder / "study").mkdir()
    (folder / "here").mkdir()
    (folder / "study" / "loop.py").write_text(LOOP)
    (folder / "study" / "s.toml").write_text(STUDY)
    for name in LIBRARIES:
        (folder / "here" / f"{name}.py").write_text(
            f"open({str(folder / 'EXECUTED')!r}, 'a').write(__name__)"
        )
    done = command("run", "../study/s.toml", "--workers", "1", cwd=folder / "here")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_files_of_the_current_folder_named_like_libraries_are_not_executed(ran: Path) -> None:
    assert not (ran / "EXECUTED").exists()


@pytest.mark.parametrize(
    ("given", "paths"),
    [("", []), (os.pathsep, []), (f"{os.pathsep}/a", ["/a"]), (f"/a{os.pathsep}/b", ["/a", "/b"])],
)
def test_our_processes_never_import_from_the_current_folder(given: str, paths: list[str]) -> None:
    found = own_paths({"PYTHONPATH": given, "HOME": "/h"})
    assert found["HOME"] == "/h"
    assert [path for path in found.get("PYTHONPATH", "").split(os.pathsep) if path][: len(paths)] == paths
    assert "" not in found.get("PYTHONPATH", "x").split(os.pathsep)
    assert python_module("hpsearch.service.worker")[1:] == ["-P", "-m", "hpsearch.service.worker"]


def change_row(folder: Path, **tables: dict[str, Any]) -> None:
    """Writes something else into the database, as whoever shares it can; nothing puts the true study back."""
    storage = open_storage(f"sqlite:///{folder}/here/runs/hpsearch.db")
    study = optuna.load_study(study_name="s", storage=storage)
    tree = load_study_file(folder / "study" / "s.toml").model_dump(mode="json")
    for table, fields in tables.items():
        tree[table] |= fields
    study.set_user_attr("specification", json.dumps(tree))
    storage.engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "confirm ../study/s.toml --workers 1",
        "predict ../study/s.toml picture.png",
        "run s --workers 1 --allow loop",
    ],
)
def test_a_changed_row_runs_no_code(
    ran: Path, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ran / "here")
    shell = {"name": "loop:os.system", "args": {"command": f"touch {ran}/RAN"}}
    change_row(ran, model=shell, data={"dataset": "digits"}, train={"function": None}, study={"trials": 9})
    if "--allow" in words:
        (ran / "here" / "loop.py").write_text(LOOP)
    status = entry.run(words.split())
    said = capsys.readouterr().err
    assert status == 2, said
    assert not (ran / "RAN").exists()
    assert said.startswith("error: ")
    assert "loop:os.system" in said or "train.function" in said


@pytest.mark.slow
def test_a_loop_whose_source_has_changed_is_said(ran: Path) -> None:
    change_row(ran)
    (ran / "study" / "loop.py").write_text(f"{LOOP}# another one\n")
    done = command("run", "../study/s.toml", "--workers", "1", "--trials", "3", cwd=ran / "here")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the source of loop (loop:train) has changed since the study began" in done.stdout


SPEC = parse_study(
    {
        "study": {"name": "s"},
        "data": {"dataset": "FashionMNIST", "download": True, "root": "/elsewhere"},
        "search": {"learning_rate": {"low": 1e-4, "high": 1.0}},
    }
)


@pytest.mark.parametrize(
    ("data", "data_root", "field"),
    [
        ({"root": "photos", "cache": "runs/cache"}, None, None),
        ({"root": "/elsewhere", "download": False}, None, None),
        ({"root": "/elsewhere"}, "/mine", None),
        ({"root": "/elsewhere"}, None, r"data\.root"),
        ({"root": "../../elsewhere"}, None, r"data\.root"),
        ({"root": "x", "cache": "/etc/cron.d"}, "/mine", r"data\.cache"),
        ({"root": "x", "cache": "runs/../../x"}, None, r"data\.cache"),
    ],
)
def test_a_stored_specification_lets_nothing_be_written_elsewhere(
    data: dict[str, Any], data_root: str | None, field: str | None
) -> None:
    tree = SPEC.model_dump()
    tree["data"] |= data
    spec = parse_stored(stored_form(parse_study(tree)))
    if field is None:
        refuse_foreign_places(spec, data_root)
        return
    with pytest.raises(StudyFileError, match=f'study "s": {field} = ".*comes from the database'):
        refuse_foreign_places(spec, data_root)


def test_a_study_file_and_the_database_must_agree() -> None:
    refuse_other(stored_form(SPEC), SPEC)
    tree = stored_tree(stored_form(SPEC))
    tree["study"] |= {"trials": 99}  # which makes trials no less comparable
    refuse_other(json.dumps(tree), SPEC)
    tree["model"] |= {"name": "loop:os.system"}
    with pytest.raises(DigestMismatch, match=r'model\.name: stored "loop:os\.system", now "cnn"'):
        refuse_other(json.dumps(tree), SPEC)
    with pytest.raises(DigestMismatch, match="was not made by hpsearch"):
        refuse_other(None, SPEC)
