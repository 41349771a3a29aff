"""`[track]`: a study's trials as runs, in the real packages, through searches that pause and resume."""

import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hpsearch.contracts.callbacks import StudyInfo
from hpsearch.errors import StudyFileError, UserError
from hpsearch.results.commands.track import Told, require, trackers
from hpsearch.results.stored.study import StudyRecord
from hpsearch.study import StudySpec
from hpsearch.study.file import digest
from hpsearch.study.specification import TrackSpec
from tests.results.searches import digits_spec, record_of, search

Runs = Mapping[int, tuple[Mapping[str, Any], Mapping[int, float]]]
"""By trial: its hyperparameters, as text, and its curve by epoch."""


def paused_spec(trials: int, **track: str) -> StudySpec:
    study = {"name": "s", "trials": trials, "policy": "auto", "max_attempts": 1}
    return digits_spec(study=study, pruner={"name": "none"}, track=track)


def search_twice(folder: Path, **track: str) -> StudyRecord:
    """Runs a study in two runs: what the first leaves paused, the second resumes or ends."""
    for trials in (6, 12):
        spec = paused_spec(trials, **track)
        search(folder, spec, tuple(trackers(spec.track)))
    record = record_of(folder)
    assert any(trial.attrs.get("pauses") for trial in record.trials)
    return record


def check(record: StudyRecord, runs: Runs) -> None:
    assert runs.keys() == {trial.number for trial in record.trials}
    for trial in record.trials:
        hparams, curve = runs[trial.number]
        assert hparams == {name: str(value) for name, value in trial.hparams.items()}
        finite = {epoch: value for epoch, value in enumerate(trial.val, start=1) if value is not None}
        assert {epoch: value for epoch, value in curve.items() if value == value} == pytest.approx(finite)


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    record = search_twice(tmp_path, tensorboard=str(tmp_path / "logs"))
    runs = {}
    for folder in (tmp_path / "logs" / "s").iterdir():
        read = EventAccumulator(str(folder)).Reload()
        (content,) = [
            read.PluginTagToContent("hparams")[tag]
            for tag in read.PluginTagToContent("hparams")
            if "session_start" in tag
        ]
        stored = HParamsPluginData.FromString(content).session_start_info.hparams
        hparams = {name: value.string_value or value.number_value for name, value in stored.items()}
        known = record.trials[int(folder.name.removeprefix("trial-"))].hparams
        hparams = {name: str(type(known[name])(value)) for name, value in hparams.items()}
        tags = read.Tags()["scalars"]
        scalars = read.Scalars("val_loss") if "val_loss" in tags else []
        assert ("score" in tags) == (record.trials[int(folder.name[-5:])].score is not None)
        runs[int(folder.name.removeprefix("trial-"))] = hparams, {one.step: one.value for one in scalars}
    check(record, runs)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)  # beside a database, artifacts lie in the current folder
    uri = f"sqlite:///{tmp_path}/ml.db"
    record = search_twice(tmp_path, mlflow=uri)
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("s").experiment_id])
    runs = {}
    for run in found:
        number = int(run.data.tags["hpsearch.trial"])
        history = client.get_metric_history(run.info.run_id, "val_loss")
        assert max(Counter(one.step for one in history).values(), default=1) == 1, "no epoch twice"
        runs[number] = run.data.params, {one.step: one.value for one in history}
        trial = record.trials[number]
        assert run.info.status == ("FAILED" if trial.state == "FAIL" else "FINISHED")
        assert run.data.tags["hpsearch.stop_reason"] == trial.stop_reason
        assert run.data.metrics.get("score") == trial.score
    assert len(found) == len(runs)
    check(record, runs)
    best = record.best
    assert best is not None
    (run,) = [run for run in found if run.data.tags["hpsearch.trial"] == str(best.number)]
    assert [Path(one.path).suffix for one in client.list_artifacts(run.info.run_id)] == [".safetensors"]


def logged(data: bytes) -> Iterator[bytes]:
    """Yields the records of a .wandb file: LevelDB's log format, behind a header of 7 bytes."""
    place, record = 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        end = place + 7 + int.from_bytes(data[place + 4 : place + 6], "little")
        record += data[place + 7 : end]
        if data[place + 6] in (1, 4):  # whole, or the last part
            yield record
            record = b""
        place = end


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    record = search_twice(tmp_path, wandb="project")
    runs: dict[str, tuple[dict[str, Any], dict[int, float], list[str]]] = {}
    for path in sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb")):
        hparams, curve, name = {}, {}, ""
        for entry in map(Record.FromString, logged(path.read_bytes())):
            if entry.HasField("run"):
                name = entry.run.display_name
                hparams = {one.key: str(json.loads(one.value_json)) for one in entry.run.config.update}
            if entry.HasField("history"):
                values = {
                    one.key or one.nested_key[0]: json.loads(one.value_json) for one in entry.history.item
                }
                curve[values["_step"]] = values["val_loss"]
        hparams.pop("_wandb", None)
        before = runs.get(name, (hparams, {}, []))
        assert not before[1].keys() & curve.keys(), "no epoch twice"
        runs[name] = hparams, before[1] | curve, [*before[2], path.stem]
    assert all(len(set(ids)) == 1 for _, _, ids in runs.values()), "a resumed trial continues its run"
    assert any(len(ids) > 1 for _, _, ids in runs.values())
    check(record, {int(name.split()[1]): one[:2] for name, one in runs.items()})


class Broken:
    """A tracker whose server goes away, and which counts how often it is asked."""

    asked = 0

    def begin(self, *arguments: Any) -> None:
        self.asked += 1
        raise ConnectionError("no route to host\nand more")

    epoch = leave = end = begin


def test_a_tracker_that_fails_costs_one_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = Broken()
    summary = search(tmp_path, paused_spec(6), (Told("mlflow", lambda info: broken),))
    assert sum(summary.counts.values()) == 6
    said = [
        one.getMessage()
        for one in caplog.records
        if one.levelno >= logging.WARNING and "track." in one.getMessage()
    ]
    assert len(said) == 1
    assert said[0].startswith("track.mlflow: no route to host")
    assert said[0].endswith("the study continues without it, and the next run tries again")
    assert broken.asked == 1
    assert not [one for one in caplog.records if "callback" in one.getMessage()]


def test_a_tracker_that_hangs_does_not_hold_the_study(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    free = threading.Event()

    def hang(info: StudyInfo) -> Any:
        free.wait(60)
        raise ConnectionError("too late")

    summary = search(tmp_path, paused_spec(6), (Told("wandb", hang, wait=0.1),))
    free.set()
    assert sum(summary.counts.values()) == 6
    assert "track.wandb: not everything was told within 0.1 s; this run, or its last epochs" in caplog.text


def test_a_package_that_is_missing_is_said_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hpsearch.results.commands.track.find_spec", lambda name: None)
    require(TrackSpec())
    with pytest.raises(
        UserError, match=r'track.wandb: wandb is not installed; run pip install "hpsearch\[wandb\]"'
    ):
        trackers(TrackSpec(wandb="project"))


def test_where_trials_are_tracked_makes_no_other_study() -> None:
    assert digest(paused_spec(6)) == digest(paused_spec(6, mlflow="http://localhost:5000"))
    with pytest.raises(StudyFileError, match=r"track.mlflow: it holds a password"):
        paused_spec(6, mlflow="https://me:secret@host/")
