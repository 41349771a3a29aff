"""Only a study's own weights become its artifact, whatever the rows of its database say."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from hpsearch.contracts.callbacks import Callback
from hpsearch.errors import CheckpointError
from hpsearch.files.run_folder import RunFolder
from hpsearch.results.dashboard import publisher
from hpsearch.results.dashboard.artifact import place_weights
from hpsearch.results.dashboard.publication import BEST_ARTIFACT, PublicationRequest, compute
from hpsearch.results.dashboard.publisher import Publisher
from tests.results.searches import record_of, search, url_in, writable
from tests.results.stored import make_study

SECRET = b"root:$6$secret"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """The run folder of a study whose trial 1 has kept its weights, beside a secret that is not part of it."""
    (tmp_path / "secret").write_bytes(SECRET)
    save_file({"other": np.zeros(3)}, tmp_path / "other.safetensors")
    runs = RunFolder(tmp_path / "runs", "s")
    runs.weights(1).parent.mkdir(parents=True)
    save_file({"number": np.array([1])}, runs.weights(1))
    return runs


def published(folder: RunFolder) -> list[bytes]:
    return [path.read_bytes() for path in folder.artifacts.glob("*")]


def test_kept_weights_are_placed_as_they_are(folder: RunFolder) -> None:
    assert place_weights(folder, 1, folder.artifacts / "a")
    assert published(folder) == [folder.weights(1).read_bytes()]
    assert not place_weights(folder, 2, folder.artifacts / "b")
    assert len(published(folder)) == 1


def symlink(folder: RunFolder) -> None:
    folder.weights(1).unlink()
    folder.weights(1).symlink_to(folder.root.parent / "secret")


def symlink_to_weights_elsewhere(folder: RunFolder) -> None:
    folder.weights(1).unlink()
    folder.weights(1).symlink_to(folder.root.parent / "other.safetensors")


def symlink_in_place_of_the_folder(folder: RunFolder) -> None:
    folder.weights(1).parent.rename(folder.root.parent / "elsewhere")
    folder.weights(1).parent.symlink_to(folder.root.parent / "elsewhere")


def symlink_to_nothing(folder: RunFolder) -> None:
    folder.weights(1).unlink()
    folder.weights(1).symlink_to(folder.root / "nothing")


def directory(folder: RunFolder) -> None:
    folder.weights(1).unlink()
    folder.weights(1).mkdir()


def pipe(folder: RunFolder) -> None:
    folder.weights(1).unlink()
    os.mkfifo(folder.weights(1))


def another_file(folder: RunFolder) -> None:
    folder.weights(1).write_bytes(SECRET)


def empty(folder: RunFolder) -> None:
    folder.weights(1).write_bytes(b"")


def cut_short(folder: RunFolder) -> None:
    whole = folder.weights(1).read_bytes()
    folder.weights(1).write_bytes(whole[:-1])


def secret_behind_weights(folder: RunFolder) -> None:
    with folder.weights(1).open("ab") as file:
        file.write(SECRET)


@pytest.mark.parametrize(
    "spoil",
    [symlink, symlink_to_weights_elsewhere, symlink_in_place_of_the_folder, symlink_to_nothing, directory,
     pipe, another_file, empty, cut_short, secret_behind_weights],
    ids=lambda spoil: spoil.__name__,
)  # fmt: skip
def test_what_is_no_file_of_weights_is_refused_and_leaves_nothing(folder: RunFolder, spoil) -> None:
    spoil(folder)
    with pytest.raises(CheckpointError, match="trial-00001"):
        place_weights(folder, 1, folder.artifacts / "a")
    assert published(folder) == []


@pytest.mark.parametrize("name", ["..", "../runs/s", "/", "artifacts", "cache", "", ".", "no such study"])
def test_a_studys_name_leads_nowhere_else(folder: RunFolder, name: str) -> None:
    assert not place_weights(RunFolder(folder.root, name), 1, folder.artifacts / "a")
    assert published(folder) == []


def test_an_absolute_name_leads_nowhere_else(folder: RunFolder) -> None:
    assert not place_weights(
        RunFolder(folder.root / "artifacts", str(folder.home)), 1, folder.artifacts / "a"
    )


@pytest.mark.parametrize(
    "path", ["secret", "other.safetensors", "runs/../secret", "/etc/passwd", "/dev/zero"]
)
def test_a_row_that_names_a_file_publishes_nothing(folder: RunFolder, path: str) -> None:
    """The row of the best trial, 1, names a file; this machine keeps no weights of it."""
    folder.weights(1).unlink()
    root = folder.root.parent
    make_study(url_in(root), "s", weights=str(root / path))
    answer = compute(PublicationRequest(url_in(root), "s", str(folder.root), output=""))
    assert not [change for change in answer.changes if change.what == "best weights"]
    assert published(folder) == []


def test_a_row_that_names_a_file_changes_nothing_about_the_studys_own(folder: RunFolder) -> None:
    root = folder.root.parent
    make_study(url_in(root), "s", weights=str(root / "secret"))
    study = writable(root)
    for hostile in ("text", ["list"], {"trial": "1", "artifact": "../../secret"}):
        study._storage.set_study_system_attr(study._study_id, BEST_ARTIFACT, hostile)
        (change, *_) = compute(PublicationRequest(url_in(root), "s", str(folder.root), output="")).changes
        assert change.what == "best weights"
        assert change.files == ()
    assert published(folder) == [folder.weights(1).read_bytes()]


def test_weights_that_were_swapped_are_said_once_and_the_graphs_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publisher, "AT_END", 60.0)

    class Swapping(Callback):
        """Puts a link in the place of all weights, just before the last publication."""

        def on_study_end(self, summary) -> None:
            for _, path in RunFolder(tmp_path / "runs", "s").kept_weights():
                path.unlink()
                path.symlink_to("/etc/passwd")

    with caplog.at_level(logging.WARNING):
        search(tmp_path, callbacks=(Swapping(), Publisher(url_in(tmp_path), tmp_path / "runs")))
    best = record_of(tmp_path).best
    assert best is not None
    said = [record.message for record in caplog.records if "not published" in record.message]
    assert len(said) == 1
    assert f"trial {best.number}" in said[0]
    attrs = writable(tmp_path)._storage.get_study_system_attrs(1)
    assert "dashboard:plot_data:learning-curves:0" in attrs
    assert not [key for key in attrs if key.startswith("artifacts:")]
