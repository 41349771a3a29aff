"""Checkpoints: whole or not taken, the newest first, and never unpickled."""

import json
import math
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

from hpsearch.contracts.trial import EpochResult, TrialRun
from hpsearch.errors import CheckpointError
from hpsearch.training import checkpoint as module
from hpsearch.training.checkpoint import Best, Checkpoint, Checkpoints
from tests.training.trials import make_run, small_disk


@pytest.fixture(autouse=True)
def every_checkpoint_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SYNC_EVERY", 0.0)


def curve(*losses: float) -> tuple[EpochResult, ...]:
    return tuple(
        EpochResult(0, 1, epoch, {"val_loss": loss}, seconds=0.5, samples=10, checkpointed=True)
        for epoch, loss in enumerate(losses, start=1)
    )


def best(epoch: int, value: float) -> Best:
    return Best(epoch, value, {"w": torch.full((3, 2), value)}, {"epoch": str(epoch), "note": "é"})


def save(run: TrialRun, *losses: float, weight: float = 1.0, size: int = 4) -> Checkpoints:
    checkpoints = Checkpoints(run, {"torch": "2.x"})
    low = min(range(len(losses)), key=losses.__getitem__)
    state = {"model": {"w": torch.full((size,), weight)}, "optimizer": {"lr": 0.1, "state": [None, 3, "x"]}}
    checkpoints.save(Checkpoint(curve(*losses), state, best(low + 1, losses[low])))
    return checkpoints


def folder(run: TrialRun) -> Path:
    return Path(run.folder) / f"attempt-{run.attempt}"


def record(run: TrialRun) -> dict[str, Any]:
    return dict(json.loads((folder(run) / "checkpoint.json").read_text()))


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    saved = save(run, 0.7, 1 / 3, weight=2.5)
    found = Checkpoints(make_run(tmp_path, attempt=2)).newest()
    assert found is not None
    assert found.curve == curve(0.7, 1 / 3)
    assert (found.epoch, found.attempt) == (2, 1)
    assert torch.equal(found.state["model"]["w"], torch.full((4,), 2.5))
    assert found.state["optimizer"] == {"lr": 0.1, "state": [None, 3, "x"]}
    assert found.best is not None
    assert (found.best.epoch, found.best.value) == (2, 1 / 3)
    assert torch.equal(found.best.weights["w"], best(2, 1 / 3).weights["w"])
    assert found.best.metadata["note"] == "é"
    assert saved.weights == str(folder(run) / "best-00002.safetensors")


def test_the_record_is_for_people_and_for_every_json_reader(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    Checkpoints(run).save(Checkpoint(curve(0.5, math.nan, -math.inf), {}))
    text = (folder(run) / "checkpoint.json").read_text()
    read = json.loads(text, parse_constant=pytest.fail)
    assert (read["study"], read["trial"], read["epoch"], read["best_epoch"]) == ("digits", 0, 3, None)
    found = Checkpoints(run).newest()
    assert found is not None
    assert found.best is None
    losses = [result.metrics["val_loss"] for result in found.curve]
    assert losses[0] == 0.5
    assert math.isnan(losses[1])
    assert losses[2] == -math.inf


def test_older_files_of_the_attempt_go_and_the_best_weights_stay(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    checkpoints = Checkpoints(run)
    for epoch, losses in enumerate(([0.5], [0.5, 0.4], [0.5, 0.4, 0.6]), start=1):
        low = min(range(len(losses)), key=losses.__getitem__)
        checkpoints.save(Checkpoint(curve(*losses), {"epoch": epoch}, best(low + 1, losses[low])))
    names = sorted(path.name for path in folder(run).iterdir())
    assert names == ["best-00002.safetensors", "checkpoint.json", "state-00003.pt"]


def test_best_weights_are_written_only_when_they_improved(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    checkpoints = Checkpoints(run)
    checkpoints.save(Checkpoint(curve(0.5), {}, best(1, 0.5)))
    before = (folder(run) / "best-00001.safetensors").stat()
    checkpoints.save(Checkpoint(curve(0.5, 0.6), {}, best(1, 0.5)))
    after = (folder(run) / "best-00001.safetensors").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize(
    ("first", "second", "attempt", "epoch"),
    [
        ([0.5, 0.4], [0.5], 1, 2),  # an orphan of the first attempt got further
        ([0.5], [0.5, 0.4, 0.3], 2, 3),
        ([0.5, 0.4], [0.5, 0.4], 2, 2),
    ],
)
def test_the_highest_epoch_over_all_attempts_is_taken(
    tmp_path: Path, first: list[float], second: list[float], attempt: int, epoch: int
) -> None:
    save(make_run(tmp_path, attempt=1), *first)
    save(make_run(tmp_path, attempt=2), *second)
    found = Checkpoints(make_run(tmp_path, attempt=3)).newest()
    assert found is not None
    assert (found.attempt, found.epoch) == (attempt, epoch)


def test_nothing_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert Checkpoints(make_run(tmp_path)).newest() is None


def test_a_checkpoint_of_another_specification_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(make_run(tmp_path), 0.5)
    assert Checkpoints(make_run(tmp_path, attempt=2, train={"momentum": 0.5})).newest() is None
    assert "another specification" in caplog.text
    assert Checkpoints(
        make_run(tmp_path, attempt=2, study={"name": "digits", "seed": 3, "trials": 99})
    ).newest()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def lose_a_key(path: Path) -> None:
    path.write_text(
        json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "curve"})
    )


@pytest.mark.parametrize("name", ["checkpoint.json", "state-00002.pt", "best-00002.safetensors"])
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_checkpoint_is_passed_over_and_the_one_before_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: Any
) -> None:
    save(make_run(tmp_path, attempt=1), 0.5)
    save(make_run(tmp_path, attempt=2), 0.5, 0.4)
    damage(folder(make_run(tmp_path, attempt=2)) / name)
    found = Checkpoints(make_run(tmp_path, attempt=3)).newest()
    assert found is not None
    # A flipped bit in the record may leave it readable; then its epochs are those that were written.
    assert (found.attempt, found.epoch) == (1, 1) or (name, damage) == ("checkpoint.json", flip_a_bit)
    assert (
        "attempt-2" in caplog.text or (name, damage) == ("checkpoint.json", Path.unlink) or found.attempt == 2
    )


@pytest.mark.parametrize("content", ["[]", "{", '{"epoch": 3}'])
def test_a_record_that_is_none_is_passed_over(tmp_path: Path, content: str) -> None:
    save(make_run(tmp_path, attempt=1), 0.5)
    second = folder(make_run(tmp_path, attempt=2))
    second.mkdir()
    (second / "checkpoint.json").write_text(content)
    found = Checkpoints(make_run(tmp_path, attempt=3)).newest()
    assert found is not None
    assert found.attempt == 1


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["BOMB"],)


def test_pickled_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "bomb"))
    run = make_run(tmp_path)
    save(run, 0.5)
    path = folder(run) / "state-00001.pt"
    torch.save({"model": Bomb()}, path)
    content, written = path.read_bytes(), record(run)
    written["files"]["state"] |= {"bytes": len(content), "crc32": zlib.crc32(content)}
    (folder(run) / "checkpoint.json").write_text(json.dumps(written))
    assert Checkpoints(make_run(tmp_path, attempt=2)).newest() is None
    assert not (tmp_path / "bomb").exists()
    pickle.loads(pickle.dumps(Bomb()))  # the bomb is a real one
    assert (tmp_path / "bomb").exists()


def test_a_crash_between_the_files_and_the_record_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    checkpoints = save(run, 0.5)
    real = module.write_whole

    def dies_before_the_record(path: Path, content: bytes, sync: bool = True) -> None:
        if path.name == "checkpoint.json":
            raise KeyboardInterrupt
        real(path, content, sync)

    monkeypatch.setattr(module, "write_whole", dies_before_the_record)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(Checkpoint(curve(0.5, 0.4), {"model": {}}, best(2, 0.4)))
    found = Checkpoints(make_run(tmp_path, attempt=2)).newest()
    assert found is not None
    assert found.epoch == 1
    assert found.best is not None
    assert found.best.epoch == 1


def test_between_two_on_the_disk_the_latest_is_written_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path)
    monkeypatch.setattr(module, "SYNC_EVERY", 3600.0)
    checkpoints = Checkpoints(run)
    losses = [0.5, 0.4, 0.6]
    for epoch in (1, 2, 3):
        low = min(epoch, 2)
        checkpoints.save(Checkpoint(curve(*losses[:epoch]), {"epoch": epoch}, best(low, losses[low - 1])))
    assert sorted(path.name for path in folder(run).iterdir()) == [
        "best-00001.safetensors", "best-00002.safetensors", "checkpoint.json", "latest.json",
        "state-00001.pt", "state-00003.pt",
    ]  # fmt: skip
    found = Checkpoints(run).newest()
    assert found is not None
    assert (found.epoch, found.state["epoch"]) == (3, 3)
    truncate(folder(run) / "state-00003.pt")  # as after a power cut
    found = Checkpoints(run).newest()
    assert found is not None
    assert (found.epoch, found.state["epoch"]) == (1, 1)
    assert "latest.json" in caplog.text
    monkeypatch.setattr(module, "SYNC_EVERY", 0.0)
    checkpoints.save(Checkpoint(curve(*losses, 0.7), {"epoch": 4}, best(2, 0.4)))
    assert sorted(path.name for path in folder(run).iterdir()) == [
        "best-00002.safetensors", "checkpoint.json", "state-00004.pt",
    ]  # fmt: skip


def test_due_counts_from_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    checkpoints = Checkpoints(make_run(tmp_path))
    assert checkpoints.due(0.0)
    assert not checkpoints.due(60.0)
    now = 160.0
    assert checkpoints.due(60.0)
    checkpoints.save(Checkpoint(curve(0.5), {}))
    assert not checkpoints.due(60.0)


def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path, "256k") as disk:
        checkpoints = save(make_run(disk), 0.5, size=10_000)
        with pytest.raises(
            CheckpointError, match=r"epoch 2 cannot be written.*No space left.*epoch 1 of this"
        ):
            checkpoints.save(Checkpoint(curve(0.5, 0.4), {"w": torch.zeros(100_000)}, best(2, 0.4)))
        found = Checkpoints(make_run(disk, attempt=2)).newest()
        assert found is not None
        assert found.epoch == 1
        names = sorted(path.name for path in folder(make_run(disk)).iterdir())
        assert names == ["best-00001.safetensors", "checkpoint.json", "state-00001.pt"]
        # With room again the same attempt goes on.
        checkpoints.save(Checkpoint(curve(0.5, 0.4), {"w": torch.zeros(10)}, best(2, 0.4)))
        found = Checkpoints(make_run(disk, attempt=2)).newest()
        assert found is not None
        assert found.epoch == 2
