"""Whole studies with an engine of three slots, through the real driver, workers and database."""

import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from hpsearch.contracts.callbacks import Callback, FinishedTrial, RunningTrial, RunSummary
from hpsearch.contracts.executor import Executor, Workers
from hpsearch.contracts.trial import EpochResult, TrialRun
from hpsearch.errors import EngineError
from hpsearch.executors.local import LocalExecutor
from hpsearch.files.run_folder import RunFolder
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.study import parse_study
from hpsearch.testing import InProcessExecutor, ReferenceEngine
from hpsearch.training.build import ENGINES

FUNCTION = "tests.training.loops:steady"

Before = Callable[[TrialRun, int], None]


class Diary(Callback):
    """Notes the epochs of each trial, which trials were in training with others, and what was said."""

    def __init__(self) -> None:
        self.epochs: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self.running: set[int] = set()
        self.most = 0
        self.together: set[frozenset[int]] = set()
        self.said: list[str] = []

    def on_trial_start(self, trial: RunningTrial) -> None:
        self.running.add(trial.number)
        self.most = max(self.most, len(self.running))

    def on_epoch(self, trial: RunningTrial, result: EpochResult) -> None:
        self.epochs[result.number].append((result.attempt, result.epoch))
        self.together.add(frozenset(self.running))

    def on_trial_paused(self, trial: RunningTrial) -> None:
        self.running.discard(trial.number)

    def on_trial_interrupted(self, number: int) -> None:
        self.running.discard(number)

    def on_trial_end(self, trial: FinishedTrial) -> None:
        self.running.discard(trial.number)

    def on_message(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[RunSummary, Diary]]:
    """Runs a study on one worker with three slots; `before` is what happens before an epoch."""

    def play(
        before: Before = lambda run, epoch: None,
        executor: Executor | None = None,
        callback: Callback | None = None,
        **tables: Any,
    ) -> tuple[RunSummary, Diary]:
        monkeypatch.setitem(ENGINES, "function", lambda *_: (ReferenceEngine(before=before), None))
        study = {"name": "s", "trials": 9, "timeout": 120, **tables.pop("study", {})}
        spec = parse_study(
            {
                "study": study,
                "data": {"dataset": "none"},
                "train": {"function": FUNCTION, "epochs": 4},
                "search": {
                    "learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
                    **tables.pop("search", {}),
                },
                "early_stopping": {"criterion": "none"},
                **({} if "policy" in study else {"sampler": {"name": "random"}}),
                **tables,
            }
        )
        options = RunOptions(
            storage=f"sqlite:///{tmp_path}/s.db", run_folder=tmp_path, workers=Workers(gpus="none", workers=1)
        )
        diary = Diary()
        callbacks = [diary, *([callback] if callback else [])]
        return run(spec, options, callbacks, executor or InProcessExecutor()), diary

    return play


def stored(tmp_path: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/s.db").trials


def once(epochs: list[tuple[int, int]]) -> bool:
    """Says whether each epoch was trained once, in order, over all attempts."""
    return [epoch for _, epoch in epochs] == list(range(1, len(epochs) + 1))


def test_trials_of_different_lengths_share_the_slots(play: Any, tmp_path: Path) -> None:
    summary, diary = play(search={"epochs": {"low": 1, "high": 7}})
    assert summary.counts == {"COMPLETE": 9}
    assert diary.most == 3
    lengths = {trial.number: trial.params["epochs"] for trial in stored(tmp_path)}
    assert len(set(lengths.values())) > 2
    assert {number: len(epochs) for number, epochs in diary.epochs.items()} == lengths
    assert all(map(once, diary.epochs.values()))


def test_what_several_slots_train_is_what_one_trains(
    play: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that the sampler learns from depends on the slots here, so the tables are equal."""
    found = []
    for capacity in (3, 1):
        (tmp_path / "s.db").unlink(missing_ok=True)
        monkeypatch.setattr(ReferenceEngine.__init__, "__defaults__", (capacity, lambda run, epoch: None))
        play(study={"trials": 6})
        found.append([(t.params, t.value, t.intermediate_values) for t in stored(tmp_path)])
    assert found[0] == found[1]


@pytest.mark.parametrize("policy", ["halving", "thaw", "auto"])
def test_trials_that_share_a_worker_are_paused_and_resumed(play: Any, tmp_path: Path, policy: str) -> None:
    """A seat is free again when its trial is paused, while the others train on."""
    study = {"policy": policy, "trials": 24}
    summary, diary = play(study=study, search={"epochs": {"low": 1, "high": 9}})
    assert summary.exit_status == 0
    trials = stored(tmp_path)
    assert len(trials) == 24
    assert all(trial.state.is_finished() for trial in trials)
    assert all(map(once, diary.epochs.values()))
    assert sum(trial.user_attrs["pauses"] > 0 for trial in trials) > 3
    resumed = [trial for trial in trials if len(trial.user_attrs["why"]) > 1]
    assert resumed
    assert all(trial.user_attrs["attempt"] == 1 for trial in trials)
    assert diary.most == 3
    for trial in trials:
        assert len(diary.epochs[trial.number]) == trial.user_attrs["epochs_run"]


@pytest.fixture
def processes(tmp_path: Path) -> Executor:
    """Workers that trial 1 kills in its second epoch."""
    return LocalExecutor(RunFolder(tmp_path, "s"), module="tests.testing.reference_worker")


def test_a_killed_worker_resumes_all_its_trials_under_their_numbers(
    play: Any, processes: Executor, tmp_path: Path
) -> None:
    summary, diary = play(executor=processes, study={"trials": 5}, function={"kills": "once"})
    assert summary.counts == {"COMPLETE": 5}
    trials = stored(tmp_path)
    assert [trial.user_attrs["attempt"] for trial in trials] == [2, 2, 2, 1, 1]
    assert ["SIGKILL" in trial.user_attrs.get("interruptions", "") for trial in trials] == [True] * 3 + [
        False
    ] * 2
    assert all(len({epoch for _, epoch in epochs}) == len(epochs) for epochs in diary.epochs.values())
    assert all(list(trial.intermediate_values) == [1, 2, 3, 4] for trial in trials)


def test_a_worker_that_is_killed_beside_paused_trials_resumes_its_own(
    play: Any, processes: Executor, tmp_path: Path
) -> None:
    study = {"trials": 12, "policy": "halving", "seed": 5}  # trial 1 is promoted
    summary, diary = play(
        executor=processes, study=study, function={"kills": "once"}, train={"function": FUNCTION, "epochs": 9}
    )
    assert summary.exit_status == 0
    trials = stored(tmp_path)
    assert all(trial.state.is_finished() for trial in trials)
    assert trials[1].user_attrs["attempt"] == 2
    assert max(trial.user_attrs["attempt"] for trial in trials) == 2
    for trial in trials:
        assert len({epoch for _, epoch in diary.epochs[trial.number]}) == trial.user_attrs["epochs_run"]


def test_a_trial_that_always_kills_its_worker_fails_alone(
    play: Any, processes: Executor, tmp_path: Path
) -> None:
    """The trials that were beside it each time are trained to their end."""
    study = {"trials": 4, "max_attempts": 2}
    summary, diary = play(executor=processes, study=study, function={"kills": "always"})
    assert summary.counts == {"COMPLETE": 3, "FAIL": 1}
    assert stored(tmp_path)[1].state.name == "FAIL"
    assert [text for text in diary.said if text.endswith("it is tried again alone")]


def test_a_seat_without_memory_is_tried_again_and_the_others_train_on(play: Any, tmp_path: Path) -> None:
    def before(run: TrialRun, epoch: int) -> None:
        if (run.number, run.attempt, epoch) == (1, 1, 2):
            raise MemoryError("2 GiB are not free")

    summary, diary = play(before, study={"trials": 4})
    assert summary.counts == {"COMPLETE": 4}
    assert [trial.user_attrs["attempt"] for trial in stored(tmp_path)] == [1, 2, 1, 1]
    assert stored(tmp_path)[1].user_attrs["interruptions"].endswith("(attempt 1, beside trials 0, 2)")
    assert all(map(once, diary.epochs.values()))


def test_a_trial_that_has_no_room_alone_is_too_large(play: Any, tmp_path: Path) -> None:
    def before(run: TrialRun, epoch: int) -> None:
        if run.number == 1:
            raise MemoryError("2 GiB are not free")

    summary, _ = play(before, study={"trials": 4})
    assert summary.counts == {"COMPLETE": 3, "PRUNED": 1}
    assert stored(tmp_path)[1].user_attrs["stop_reason"] == "out_of_memory"


def test_an_exception_ends_its_own_trial_alone(play: Any, tmp_path: Path) -> None:
    def before(run: TrialRun, epoch: int) -> None:
        if run.number == 1:
            raise ValueError("trial 1 is broken")

    summary, _ = play(before, study={"trials": 4})
    assert summary.counts == {"COMPLETE": 3, "FAIL": 1}
    assert [trial.user_attrs["attempt"] for trial in stored(tmp_path)] == [1, 3, 1, 1]


def test_the_end_of_an_engine_counts_for_the_trial_that_it_names(
    play: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ReferenceEngine.step

    def step(self: ReferenceEngine, numbers: Any = None) -> Any:
        if 1 in numbers and self._slots[1].run.attempt == 1:
            raise EngineError(1) from RuntimeError("CUDA error: an illegal address")
        return real(self, numbers)

    monkeypatch.setattr(ReferenceEngine, "step", step)
    summary, diary = play(study={"trials": 4, "max_attempts": 2})
    assert summary.counts == {"COMPLETE": 4}
    assert [text for text in diary.said if "tried again" in text] == [
        "trial 1, attempt 1: RuntimeError: CUDA error: an illegal address; it is tried again"
    ]


def test_one_seat_is_stopped_and_the_others_train_on(play: Any, tmp_path: Path) -> None:
    stopping = {"criterion": "patience", "patience": 1, "min_delta": 0.2}
    summary, diary = play(search={"epochs": [2, 9]}, early_stopping=stopping)
    lengths = {trial.number: trial.user_attrs["epochs_run"] for trial in stored(tmp_path)}
    assert set(lengths.values()) == {2, 3}
    assert summary.stop_reasons["early_stopping"] == list(lengths.values()).count(3)
    assert {number: len(epochs) for number, epochs in diary.epochs.items()} == lengths
    assert diary.most == 3


def test_trials_of_another_kind_wait_until_they_fit(play: Any, tmp_path: Path) -> None:
    summary, diary = play(search={"batch_size": [16, 32]})
    assert summary.counts == {"COMPLETE": 9}
    sizes = {trial.number: trial.params["batch_size"] for trial in stored(tmp_path)}
    assert len(set(sizes.values())) == 2
    assert all(len({sizes[number] for number in numbers}) <= 1 for numbers in diary.together)
    assert {trial.user_attrs["attempt"] for trial in stored(tmp_path)} == {1}


def test_a_preempted_run_goes_on_where_all_its_trials_were(play: Any) -> None:
    def before(run: TrialRun, epoch: int) -> None:
        time.sleep(0.05)

    class Interrupt(Callback):
        came = False

        def on_epoch(self, trial: RunningTrial, result: EpochResult) -> None:
            if (
                result.number == 2 and not self.came
            ):  # a second one would end it at once, without giving leases back
                self.came = True
                os.kill(os.getpid(), signal.SIGTERM)

    train = {"function": "tests.training.loops:steady", "epochs": 40}
    summary, first = play(before, callback=Interrupt(), train=train, study={"trials": 4})
    assert (summary.exit_status, summary.counts) == (143, {"RUNNING": 3})
    summary, second = play(train=train, study={"trials": 4})
    assert summary.counts == {"COMPLETE": 4}
    assert all(once(first.epochs[number] + second.epochs[number]) for number in range(4))
