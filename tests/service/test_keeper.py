"""Which weights stay, and when checkpoints go."""

import errno
import os

import pytest

from hpsearch.errors import UserError
from hpsearch.files.run_folder import SAMPLES, RunFolder, attempt_folder, split_entry
from hpsearch.service.keeper import WeightsKeeper
from hpsearch.study import CheckpointSpec


def checkpointed(folder, number, text="weights"):
    """Makes a trial's checkpoint folder with its best weights; returns their path."""
    home = attempt_folder(folder.trial(number), 1)
    home.mkdir(parents=True)
    path = home / "best-00003.safetensors"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("keep", "kept"), [("best", [2]), (2, [0, 2]), ("all", [0, 1, 2, 3])], ids=["best", "two", "all"]
)
def test_the_best_weights_stay(tmp_path, keep, kept):
    folder = RunFolder(tmp_path, "s")
    keeper = WeightsKeeper(folder, CheckpointSpec(keep=keep), "minimize")
    for number in range(4):
        keeper.keep(number, str(checkpointed(folder, number)))
    keeper.tidy({0: 0.3, 1: 0.5, 2: 0.1}, lambda number: True)  # trial 3 was pruned
    assert [number for number, _ in folder.kept_weights()] == kept
    assert not any(folder.trial(number).exists() for number in range(4))


def test_nothing_goes_before_the_end_is_recorded(tmp_path):
    folder = RunFolder(tmp_path, "s")
    keeper = WeightsKeeper(folder, CheckpointSpec(), "maximize")
    for number in (0, 1):
        keeper.keep(number, str(checkpointed(folder, number)))
    keeper.tidy({0: 0.9}, lambda number: number == 0)
    assert folder.trial(1).exists()
    assert folder.weights(1).exists()
    keeper.tidy({0: 0.9, 1: 0.1}, lambda number: True)
    assert not folder.trial(1).exists()
    assert not folder.weights(1).exists()
    assert folder.weights(0).exists()


def test_a_trial_whose_worker_died_keeps_the_weights_of_its_checkpoint(tmp_path):
    folder = RunFolder(tmp_path, "s")
    keeper = WeightsKeeper(folder, CheckpointSpec(), "minimize")
    checkpointed(folder, 7, "the best so far")
    assert keeper.keep(7, None) == "s/weights/trial-00007.safetensors"
    assert folder.weights(7).read_text() == "the best so far"
    assert keeper.keep(8, None) is None


def test_the_split_is_kept_with_the_study(tmp_path):
    folder = RunFolder(tmp_path, "s")
    folder.home.mkdir()
    keeper = WeightsKeeper(folder, CheckpointSpec(), "minimize")
    keeper.keep_split(tmp_path / "cache", "abc")  # nobody has noted it
    entry = tmp_path / "cache" / split_entry("abc")
    entry.mkdir(parents=True)
    (entry / SAMPLES).write_text("part,index\n")
    for _ in range(2):
        keeper.keep_split(tmp_path / "cache", "abc")
        assert (folder.home / SAMPLES).read_text() == "part,index\n"


def test_a_full_disk_leaves_the_owner_and_the_split_as_they_are(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path, "s")
    keeper = WeightsKeeper(folder, CheckpointSpec(), "minimize")
    entry = tmp_path / "cache" / split_entry("abc")
    entry.mkdir(parents=True)
    (entry / SAMPLES).write_text("old")
    keeper.take_folder("token", "sqlite:///a.db", {})
    keeper.keep_split(tmp_path / "cache", "abc")
    (entry / SAMPLES).unlink()
    (entry / SAMPLES).write_text("new")
    before = {path.name: path.read_text() for path in folder.home.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for write in (
        lambda: keeper.take_folder("token", "sqlite:///moved.db", {}),
        lambda: keeper.keep_split(tmp_path / "cache", "abc"),
    ):
        with pytest.raises(
            UserError, match=r"--run-folder: .* cannot be written: No space left.*free some space"
        ):
            write()
    assert {path.name: path.read_text() for path in folder.home.iterdir()} == before
