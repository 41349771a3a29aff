"""What a whole run leaves behind: tables that can be repeated, weights that are there."""

import contextlib
import json
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpsearch.contracts.callbacks import Callback
from hpsearch.contracts.executor import Workers
from hpsearch.contracts.trial import EpochResult, TrialRun
from hpsearch.files.run_folder import RunFolder, attempt_folder
from hpsearch.results.stored.best import best_trial
from hpsearch.results.stored.reading import reading_study
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.study import StudySpec, parse_study
from hpsearch.testing.in_process import InProcessExecutor
from tests.service.curves import CurveExecutor, Script
from tests.training.trials import small_disk


def options_in(folder: Path, workers: int = 1) -> RunOptions:
    return RunOptions(
        storage=f"sqlite:///{folder}/s.db",
        run_folder=folder / "runs",
        workers=Workers(gpus="none", workers=workers),
    )


def test_the_best_of_equal_trials_has_its_weights(tmp_path: Path) -> None:
    """Trial 1 ends before trial 0 with the same score, as happens with errors and several workers."""

    def script(trial: TrialRun) -> Script:
        folder = attempt_folder(Path(trial.folder), trial.attempt)
        folder.mkdir(parents=True)
        (folder / "best-00001.safetensors").write_text(f"of trial {trial.number}")
        return Script((0.25,) * (3 - 2 * trial.number))

    spec = parse_study(
        {
            "study": {"name": "s", "trials": 2},
            "data": {"dataset": "digits"},
            "search": {"learning_rate": {"low": 1e-4, "high": 1.0}},
            "early_stopping": {"criterion": "none"},
        }
    )
    options = options_in(tmp_path, workers=2)
    executor = CurveExecutor(script)
    best = run(spec, options, executor=executor).best
    assert executor.log[-1][0] == 0, "trial 0 was to end last"
    assert best is not None
    assert best.number == 0
    assert Path(best.weights).read_text() == "of trial 0"
    with reading_study("s", options.storage) as study:
        found = best_trial(study)
    assert found is not None
    assert (found.number, found.weights) == (best.number, best.weights)


def digits(**data: Any) -> StudySpec:
    """A small search with the plain engine: samples depend on what was learnt, some trials are pruned."""
    return parse_study(
        {
            "study": {"name": "s", "trials": 8},
            "data": {"dataset": "digits", "subset": 0.2, **data},
            "model": {"name": "mlp", "args": {"hidden": [16], "dropout": 0.2}},
            "search": {
                "learning_rate": {"low": 1e-3, "high": 1.0, "log": True},
                "batch_size": [16, 64],
                "epochs": {"low": 2, "high": 5},
            },
            "sampler": {"startup_trials": 3},
            "pruner": {"name": "median", "startup_trials": 2, "warmup_epochs": 1},
            "early_stopping": {"patience": 2},
        }
    )


def table(options: RunOptions) -> list[tuple[Any, ...]]:
    """All that a study says of its trials, but for times and places."""
    told = (
        "score",
        "best_epoch",
        "epochs_run",
        "stop_reason",
        "stop_detail",
        "fit",
        "train_loss",
        "val_loss",
    )
    with reading_study("s", options.storage) as study:
        return [
            (
                trial.number,
                trial.state,
                trial.value,
                trial.hparams,
                trial.reports,
                trial.user_attrs["metrics_at_best"],
                [trial.user_attrs[name] for name in told],
            )
            for trial in study.trials()
        ]


class Interrupt(Callback):
    """Interrupts the run, as Ctrl-C does, after some of its epochs."""

    def __init__(self, epochs: int) -> None:
        self._left = epochs

    def on_epoch(self, trial: Any, result: EpochResult) -> None:
        self._left -= 1
        if self._left == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    options = options_in(tmp_path_factory.mktemp("unbroken"))
    assert run(digits(), options, executor=InProcessExecutor()).exit_status == 0
    return table(options)


def test_the_same_seed_trains_the_same(tmp_path: Path, unbroken: list[tuple[Any, ...]]) -> None:
    options = options_in(tmp_path)
    run(digits(), options, executor=InProcessExecutor())
    assert table(options) == unbroken
    assert len({str(row[1]) for row in unbroken}) > 1, "some were to be pruned"


def test_a_study_interrupted_within_a_trial_trains_what_an_unbroken_one_trains(
    tmp_path: Path, unbroken: list[tuple[Any, ...]]
) -> None:
    options = options_in(tmp_path)
    for epochs in (5, 6):
        summary = run(digits(), options, [Interrupt(epochs)], executor=InProcessExecutor())
        assert summary.can_go_on
    assert run(digits(), options, executor=InProcessExecutor()).exit_status == 0
    assert table(options) == unbroken
    with reading_study("s", options.storage) as study:
        assert any(trial.user_attrs["attempt"] > 1 for trial in study.trials()), "none was interrupted midway"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path, "1m") as folder:
        yield folder


class Fill(Callback):
    """Leaves no room on a disk once there is a checkpoint of a second epoch."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_epoch(self, trial: Any, result: EpochResult) -> None:
        if result.epoch == 2 and not self.file.exists():
            with contextlib.suppress(OSError), self.file.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1024))


def test_a_study_whose_disk_is_full_goes_on_when_there_is_room(
    tmp_path: Path, disk: Path, unbroken: list[tuple[Any, ...]]
) -> None:
    spec, fill = digits(cache=str(tmp_path / "cache")), Fill(disk / "fill")
    options = replace(options_in(tmp_path), run_folder=disk)
    summary = run(spec, options, [fill], executor=InProcessExecutor())
    assert summary.exit_status == 1
    assert summary.can_go_on
    assert re.search(
        r"cannot be written .*: No space left on device\..* is intact; free some space", summary.reason
    )
    [trial] = [path for path in RunFolder(disk, "s").trials.iterdir() if any(path.glob("*/*.json"))]
    [record] = [json.loads(path.read_text()) for path in trial.glob("*/checkpoint.json")]
    assert record["epoch"] == len(record["curve"]) > 0
    fill.file.unlink()
    assert run(spec, options, executor=InProcessExecutor()).exit_status == 0
    assert table(options) == unbroken
