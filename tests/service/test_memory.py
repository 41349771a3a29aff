"""What a trial comes to that finds no room in memory: beside others it is tried again, alone it is too large."""

import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import nn

from hpsearch.contracts.callbacks import Callback, FinishedTrial, RunningTrial, RunSummary
from hpsearch.contracts.executor import Executor, Workers
from hpsearch.contracts.messages import EndKind, TrialRun
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.study import StudySpec, parse_study
from hpsearch.testing.in_process import InProcessExecutor
from tests.service.curves import CurveExecutor, Script

DEADLINE = 60.0  # seconds

ROOM = threading.Lock()
"""A memory with room for one trial at a time; workers are threads here."""
REFUSED = threading.Event()
"""A trial has found no room."""


def take_room() -> None:
    if not ROOM.acquire(blocking=False):
        REFUSED.set()
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def large_loop(trial: Any) -> Iterator[dict[str, float]]:
    """Fills the memory, and does not end before another trial has found it full."""
    take_room()
    try:
        assert REFUSED.wait(DEADLINE)
        for epoch in trial.remaining():
            yield {"val_loss": 1 / epoch}
    finally:
        ROOM.release()


class Large(nn.Linear):
    """A model that does the same from when it is built to when it is let go."""

    def __init__(self, classes: int) -> None:
        take_room()
        weakref.finalize(self, ROOM.release)
        super().__init__(64, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert REFUSED.wait(DEADLINE)
        return super().forward(images.flatten(1))


def model_of(classes: int, large: bool) -> nn.Module:
    return Large(classes) if large else nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


STUDIES: dict[str, dict[str, Any]] = {
    "function": {
        "data": {"dataset": "none"},
        "train": {"function": "tests.service.test_memory:large_loop", "epochs": 2},
        "search": {"learning_rate": [0.1, 0.2]},
        "sampler": {"name": "grid"},
    },
    "model": {
        "data": {"dataset": "digits", "subset": 0.2},
        "model": {"name": "tests.service.test_memory:model_of"},
        "train": {"epochs": 2},
        # The first choice is built when a worker begins.
        "search": {"model.args.large": [False, True]},
        "sampler": {"name": "points", "points": [{"hparams": {"model.args.large": True}}] * 2},
    },
}


class Diary(Callback):
    """Notes what begins, is given back and ends."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int]] = []
        self.said: list[str] = []

    def on_trial_start(self, trial: RunningTrial) -> None:
        self.lines.append(("start", trial.number))

    def on_trial_interrupted(self, number: int) -> None:
        self.lines.append(("interrupted", number))

    def on_trial_end(self, trial: FinishedTrial) -> None:
        self.lines.append(("end", trial.number))

    def on_message(self, text: str) -> None:
        self.said.append(text)


def play(
    folder: Path, spec: StudySpec, executor: Executor, workers: int, *callbacks: Callback
) -> tuple[RunSummary, list[optuna.trial.FrozenTrial]]:
    storage = f"sqlite:///{folder}/s.db"
    options = RunOptions(storage=storage, run_folder=folder, workers=Workers(gpus="none", workers=workers))
    summary = run(spec, options, callbacks, executor)
    return summary, optuna.load_study(study_name="s", storage=storage).trials


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", STUDIES)
def test_a_trial_without_room_is_tried_again_when_another_has_left(tmp_path: Path, kind: str) -> None:
    REFUSED.clear()
    spec = parse_study({"study": {"name": "s", "trials": 2}, **STUDIES[kind]})
    diary = Diary()
    summary, trials = play(tmp_path, spec, InProcessExecutor(), 2, diary)
    assert summary.counts == {"COMPLETE": 2}
    first, second = sorted(trials, key=lambda trial: trial.user_attrs["attempt"])
    assert (first.user_attrs["attempt"], second.user_attrs["attempt"]) == (1, 2)
    words = second.user_attrs["interruptions"]
    assert "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB" in words
    assert words.endswith(f"(attempt 1, beside trials {first.number})")
    assert [text for text in diary.said if "tried again when one of them has ended" in text]
    starts = [place for place, line in enumerate(diary.lines) if line == ("start", second.number)]
    assert diary.lines.index(("end", first.number)) < starts[-1]


def scripted(number: int, trials: int = 6, **study: Any) -> tuple[StudySpec, CurveExecutor]:
    """A study in which one trial never finds room."""

    def script(trial: TrialRun) -> Script:
        return Script((), EndKind.OUT_OF_MEMORY) if trial.number == number else Script((0.5,) * 9)

    spec = parse_study(
        {
            "study": {"name": "s", "trials": trials, "policy": "sampled", **study},
            "data": {"dataset": "digits"},
            "train": {"epochs": 9},
            "search": {"learning_rate": {"low": 1e-4, "high": 1.0}},
            "early_stopping": {"criterion": "none"},
        }
    )
    return spec, CurveExecutor(script)


@pytest.mark.parametrize(
    ("workers", "number", "trials", "attempts"),
    [
        (1, 1, 6, 1),  # nobody else has the memory
        (3, 1, 9, 3),  # max_attempts
        (2, 1, 2, 2),  # the second time the other trial has ended
    ],
)
def test_what_finds_no_room_alone_or_again_and_again_is_too_large(
    tmp_path: Path, workers: int, number: int, trials: int, attempts: int
) -> None:
    spec, executor = scripted(number, trials)
    summary, stored = play(tmp_path, spec, executor, workers)
    assert summary.counts == {"COMPLETE": trials - 1, "PRUNED": 1}
    large = stored[number]
    assert large.state is optuna.trial.TrialState.PRUNED
    assert (large.user_attrs["stop_reason"], large.user_attrs["attempt"]) == ("out_of_memory", attempts)
    assert large.constraints == {"memory": 1.0}
    assert large.user_attrs.get("interruptions", "").count("made to end with out_of_memory") == attempts - 1
