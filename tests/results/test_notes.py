"""The code in a study's note works when it is copied, and holds no password."""

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hpsearch.results.dashboard.notes import study_note
from hpsearch.results.dashboard.publication import PublicationRequest, compute
from hpsearch.results.report.content import report
from hpsearch.results.report.page import page
from hpsearch.store.url import redact
from hpsearch.study.search import Choices
from tests.results.digits import searched, small_spec
from tests.results.searches import record_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noted")
    searched(folder, small_spec("two words", study={"trials": 1}))
    return folder


def block(note: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", note, re.DOTALL)
    assert found
    return found.group(1)


def published_note(folder: Path, url: str) -> str:
    answer = compute(PublicationRequest(url, "two words", str(folder / "runs"), output=""))
    (change,) = [change for change in answer.changes if change.what == "note of dashboard"]
    pieces = [value for key, value in change.attrs.items() if key.startswith("dashboard:note_str:")]
    return "".join(pieces)


def test_it_works_from_another_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    note = published_note(folder, "sqlite:///s.db")  # as one who has begun the search in this folder
    code = block(note, "python") + "print(model.metadata['study'])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True)
    assert answer.stdout == "two words\n", answer.stderr
    words = shlex.split(block(note, "sh"))
    assert words[0] == "hpsearch"
    subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "best-model" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("url", "call"),
    [
        ("sqlite:///runs/hpsearch.db", "hpsearch.load_best_model('two words')"),
        ("postgresql://ada@db/x", "hpsearch.load_best_model('two words', storage='postgresql://ada@db/x')"),
        (
            "postgresql://ada:geheim@db/x",
            "hpsearch.load_best_model('two words', storage=os.environ[\"HPSEARCH_STORAGE\"])",
        ),
        (
            "mysql://ada@db/x?password=geheim",
            "hpsearch.load_best_model('two words', storage=os.environ[\"HPSEARCH_STORAGE\"])",
        ),
    ],
)
def test_it_names_the_database_and_never_a_password(folder: Path, url: str, call: str) -> None:
    note = study_note(replace(record_of(folder, "two words"), storage=redact(url)))
    code, command = block(note, "python"), block(note, "sh")
    compile(code, "note", "exec")
    assert call in code
    assert "geheim" not in note
    assert ("--storage" in command) == (url == "postgresql://ada@db/x")
    assert ("HPSEARCH_STORAGE" in command) == ("geheim" in url)


def test_of_several_networks_all_are_named(folder: Path) -> None:
    record = record_of(folder, "two words")
    assert record.spec is not None
    several = {**record.spec.search, "model.name": Choices(choices=("mlp", "cnn"))}
    record = replace(record, spec=record.spec.model_copy(update={"search": several}))
    assert "of `mlp` or `cnn` on `digits`" in study_note(record)
    assert "for <code>mlp</code> or <code>cnn</code> on <code>digits</code>" in page(report(record, None))
