"""What is no file, in every place where a file may be named: a sentence, and no waiting for ever."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpsearch.files.regular import regular

ROOT = Path(__file__).parents[2]
STUDY = """
[study]
trials = 2
[data]
dataset = "{dataset}"
{root}
[model]
name = "mlp"
{weights}
[search]
learning_rate = {{ low = 1e-4, high = 1.0, log = true }}
epochs = [2]
"""
KINDS = ["fifo.toml", "folder.toml", "zero.toml", "self.toml"]


@pytest.fixture
def place(tmp_path):
    os.mkfifo(tmp_path / "fifo.toml")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "zero.toml").symlink_to("/dev/zero")
    (tmp_path / "self.toml").symlink_to("self.toml")
    return tmp_path


def write(place, dataset="digits", root="", weights=""):
    (place / "s.toml").write_text(STUDY.format(dataset=dataset, root=root, weights=weights))


def run(place, *arguments):
    command = [sys.executable, "-m", "hpsearch", *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=120)


def check(done):
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_as_study_file(place, kind):
    check(run(place, "run", kind))


@pytest.mark.parametrize("kind", KINDS)
def test_as_file_of_the_storage(place, kind):
    check(run(place, "list", "--storage-file", kind))


@pytest.mark.parametrize("kind", KINDS)
def test_as_weights(place, kind):
    write(place, weights=f'weights = "{kind}"')
    check(run(place, "check", "s.toml"))


@pytest.mark.parametrize("dataset", ["folder", "npz", "npy"])
@pytest.mark.parametrize("kind", KINDS)
def test_as_data(place, dataset, kind):
    write(place, dataset=dataset, root=f'root = "{kind}"')
    check(run(place, "check", "s.toml"))


def test_what_the_shell_hands_over_is_read(place):
    (place / "url").write_text("sqlite:///none.db\n")
    with (place / "url").open() as file:
        assert regular(f"/dev/fd/{file.fileno()}").read_text() == "sqlite:///none.db\n"
