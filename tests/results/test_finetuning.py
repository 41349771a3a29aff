"""From published weights to a model folder, through the command line: stages, several workers and drivers, a kill."""

import csv
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from hpsearch.results.stored.reading import read_study
from hpsearch.results.stored.study import StudyRecord
from hpsearch.training.pretrained import published
from hpsearch.training.weights import save_weights
from tests.materials import write_published
from tests.scenes import write_scenes

ROOT = Path(__file__).parents[2]
STUDY = """
[study]
name = "tuned"
trials = 4
policy = "sampled"
[data]
dataset = "folder"
root = "photos"
image_size = 32
channels = 3
skip_unreadable = true
on_duplicates = "drop"
split = { train = 0.6, val = 0.2, test = 0.2 }
[model]
name = "NAME"
weights = "imagenet"
[train]
optimizer = "adamw"
batch_size = 16
epochs = 4
stages = ["head", { name = "all", rate = 0.3 }]
[search]
learning_rate = { low = 1e-3, high = 1e-2, log = true }
"train.stages.head.epochs" = [1, 2]
"train.layer_decay" = { low = 0.5, high = 1.0 }
[checkpoint]
every_seconds = 0
[confirm]
top = 1
seeds = 2
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Holds photographs, and what is published of networks is looked for there alone."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path / "photos", count=60)
    return tmp_path


def publish(name: str) -> None:
    """Keeps a network's weights where its publisher's are kept once they are downloaded."""
    if not name.startswith("timm/"):
        write_published(name, Path("torch"))
        return
    import timm

    file = published(name).file
    file.parent.mkdir(parents=True, exist_ok=True)
    save_weights(file, timm.create_model(name.removeprefix("timm/")).state_dict(), {})


def begin(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "hpsearch", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def hpsearch(*words: str) -> str:
    process = begin(*words)
    shown, _ = process.communicate(timeout=900)
    assert process.returncode == 0, shown
    return shown


def record() -> StudyRecord:
    return read_study("tuned", f"sqlite:///{Path.cwd()}/runs/hpsearch.db")


def kill_workers(driver: "subprocess.Popen[str]") -> None:
    """Kills a driver's workers, of which one at least is in the middle of a trial."""
    deadline = time.monotonic() + 300
    while not list(Path("runs").rglob("state-*.pt")):  # a checkpoint: an epoch is behind it
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for one in psutil.Process(driver.pid).children():
        if "hpsearch.service.worker" in one.cmdline():
            one.kill()


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("name", "head"), [("mobilenet_v3_small", "classifier.3"), ("timm/test_efficientnet", "classifier")]
)
def test_published_weights_become_a_model_folder(folder: Path, name: str, head: str) -> None:
    publish(name)
    (folder / "tuned.toml").write_text(STUDY.replace("NAME", name), encoding="utf-8")
    fresh = rf"{head}.weight and {head}.bias start anew"
    assert re.search(
        rf"\d+ of \d+ tensors taken; {fresh}", hpsearch("check", "tuned.toml").replace("\n", " ")
    )
    first = begin("run", "tuned.toml", "--workers", "2", "--gpus", "none", "--trials", "3")
    kill_workers(first)
    second = begin("run", "tuned.toml", "--workers", "1", "--gpus", "none")
    shown = [one.communicate(timeout=900)[0] for one in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], shown
    assert re.search(fresh, shown[1].replace("\n", " ")), shown[1]
    found = record()
    assert [trial.number for trial in found.trials] == [0, 1, 2, 3]
    assert any(trial.attrs["attempt"] == 2 for trial in found.trials)
    for trial in found.trials:
        assert len(trial.val) == trial.epochs_run == 4
        assert found.last_stage_after(trial) == trial.hparams["train.stages.head.epochs"]
        assert fresh in trial.attrs["weights_file"].replace("\n", " ")
    # Without augmentation the head is trained on features, which all trials share.
    assert len(list((folder / "runs" / "cache").glob("features-*"))) == 1
    hpsearch("confirm", "tuned.toml", "--workers", "2", "--gpus", "none")
    hpsearch("refit", "tuned.toml", "--gpus", "none")
    hpsearch("best", "tuned", "--save", "model")
    card = (folder / "model" / "model.md").read_text(encoding="utf-8")
    assert "| started from | imagenet |" in card
    hpsearch("predict", "model", "photos/day", "--output", "answers.csv")
    with (folder / "answers.csv").open(newline="") as file:
        answers = list(csv.DictReader(file))
    assert len(answers) == 30
    assert {row["class"] for row in answers} <= {"day", "night"}
    hpsearch("report", "tuned")
