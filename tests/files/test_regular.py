"""What is no file, in every place where a file may be named: a sentence, and no waiting for ever."""

import os

import pytest

from hpsearch.__main__ import run as command
from hpsearch.files.paths import regular

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


@pytest.fixture
def check(place, monkeypatch, capsys):
    """Runs a command, which must end with status 2 and a sentence; one that hangs meets the suite's time limit."""

    def run(*arguments):
        monkeypatch.chdir(place)
        assert command(list(arguments)) == 2
        said = capsys.readouterr().err
        assert said.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in said
        assert "bug" not in said

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_as_study_file(check, kind):
    check("run", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_as_file_of_the_storage(check, kind):
    check("list", "--storage-file", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_as_weights(place, check, kind):
    write(place, weights=f'weights = "{kind}"')
    check("check", "s.toml")


@pytest.mark.parametrize("dataset", ["folder", "npz", "npy"])
@pytest.mark.parametrize("kind", KINDS)
def test_as_data(place, check, dataset, kind):
    write(place, dataset=dataset, root=f'root = "{kind}"')
    check("check", "s.toml")


def test_what_the_shell_hands_over_is_read(place):
    (place / "url").write_text("sqlite:///none.db\n")
    with (place / "url").open() as file:
        assert regular(f"/dev/fd/{file.fileno()}").read_text() == "sqlite:///none.db\n"
