"""Studies whose policy pauses trials, through the real driver and the real databases, with random curves."""

import math
import multiprocessing
import os
import pickle
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import func, select

from hpsearch.contracts.callbacks import Callback, FinishedTrial, RunningTrial
from hpsearch.contracts.executor import Workers
from hpsearch.contracts.messages import FromWorker
from hpsearch.contracts.trial import PAUSED, PIECES, EpochResult, TrialRun
from hpsearch.errors import StorageAway, StudyFileError
from hpsearch.files.run_folder import RunFolder
from hpsearch.results.commands.delete import delete_study, plan_deletion
from hpsearch.search.policy.contract import New, Pause
from hpsearch.service.driver import Driver
from hpsearch.service.fleet import Fleet
from hpsearch.service.keeper import WeightsKeeper
from hpsearch.service.launch import RunOptions
from hpsearch.service.opening import open_study
from hpsearch.service.run import run
from hpsearch.service.study import Study
from hpsearch.service.watch import Stops
from hpsearch.store import trials
from hpsearch.store.connection import open_storage, reading
from hpsearch.store.schema import LEASE
from hpsearch.study import StudySpec, parse_study
from hpsearch.text import counted
from tests.service.curves import CurveExecutor, Script
from tests.service.test_runs import Interrupt
from tests.service.test_study import begin

POLICIES = ["halving", "screen", "thaw", "auto"]


def spec_of(policy: str, seed: int = 0, **study: Any) -> StudySpec:
    return parse_study(
        {
            "study": {"name": "s", "trials": 14, "policy": policy, "seed": seed} | study,
            "data": {"dataset": "digits"},
            "train": {"schedule": "constant", "optimizer": "sgd"},
            "search": {
                "learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
                "epochs": {"low": 1, "high": 20},
            },
            "early_stopping": {"patience": 5},
        }
    )


def rough(trial: TrialRun) -> Script:
    """A curve that falls to a level of its own, with noise; one of ten trials diverges."""
    rng = np.random.default_rng([trial.spec.study.seed, trial.number])
    level = abs(math.log10(trial.spec.train.learning_rate) + 1) + 0.1
    epochs = np.arange(1, trial.spec.train.epochs + 1)
    values = level + 2 * np.exp(-epochs / rng.uniform(1, 10)) + 0.05 * rng.standard_normal(len(epochs))
    if rng.random() < 0.1:
        values[rng.integers(len(values)) :] = math.nan
    return Script(tuple(map(float, values)))


def options_in(folder: Path, workers: int = 1) -> RunOptions:
    return RunOptions(f"sqlite:///{folder}/s.db", folder, workers=Workers(gpus="none", workers=workers))


def trials_in(folder: Path) -> list[FrozenTrial]:
    return optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/s.db").trials


def check(folder: Path, spec: StudySpec, played: Counter[tuple[int, int]]) -> list[FrozenTrial]:
    """Holds a study at its end against what must be true of every one."""
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/s.db")
    trials = study.trials
    assert len(trials) == spec.study.trials
    assert all(trial.state.is_finished() for trial in trials)
    assert set(played.values()) == {1}, "an epoch was trained twice"
    for trial in trials:
        attrs = trial.user_attrs
        reported = trial.intermediate_values
        assert attrs[PAUSED] is None
        assert sorted(reported) == list(range(1, attrs["epochs_run"] + 1))
        assert {epoch for number, epoch in played if number == trial.number} == set(reported)
        assert attrs[PIECES][-1][0] == attrs["epochs_run"]
        assert attrs["attempt"] == 1, "a resume is no attempt"
        assert len(attrs["why"]) == attrs["pauses"] + (attrs["stop_reason"] != "pruner")
        assert len(attrs["val_loss"]) == len(attrs["epoch_seconds"]) == attrs["epochs_run"]
        finite = [value for value in reported.values() if math.isfinite(value)]
        assert not finite or min(finite) >= study.best_value
    orders = [order for trial in trials for _, order in trial.user_attrs[PIECES]]
    assert sorted(orders) == sorted(set(orders))
    return trials


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_study_with_pauses_keeps_what_every_study_keeps(
    tmp_path: Path, policy: str, workers: int, seed: int
) -> None:
    spec, executor = spec_of(policy, seed), CurveExecutor(rough)
    summary = run(spec, options_in(tmp_path, workers), executor=executor)
    assert summary.exit_status == 0
    trials = check(tmp_path, spec, Counter((number, epoch) for number, _, epoch, _ in executor.log))
    assert any(trial.user_attrs["pauses"] for trial in trials)
    assert any(len(trial.user_attrs["why"]) > 1 for trial in trials), "none was resumed"
    assert summary.counts == Counter(trial.state.name for trial in trials)


class Lasting(CurveExecutor):
    """One whose checkpoints outlast its process, and that notes what it has played."""

    def __init__(self, folder: Path) -> None:
        super().__init__(rough)
        self._file = folder / "played.pickle"
        if self._file.exists():
            self.saved, self.log = pickle.loads(self._file.read_bytes())

    def _play(self, worker: int) -> None:
        super()._play(worker)
        self._file.write_bytes(pickle.dumps((self.saved, self.log)))


class Killer(Callback):
    """Kills its process at one of the events of a run."""

    def __init__(self, after: int) -> None:
        self._left = after

    def _count(self, *_: Any) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    on_trial_start = on_epoch = on_trial_paused = on_trial_end = _count


def run_until_killed(spec: StudySpec, folder: Path, after: int) -> None:
    run(spec, options_in(folder), [Killer(after)], executor=Lasting(folder))


def table(folder: Path) -> list[tuple[Any, ...]]:
    keys = (PIECES, "pauses", "stop_reason", "stop_detail", "score", "best_epoch", "fit", "train_loss")
    return [
        (t.number, t.state, t.value, t.params, t.intermediate_values, [t.user_attrs.get(key) for key in keys])
        for t in trials_in(folder)
    ]


@pytest.mark.parametrize("policy", ["halving", "auto"])
def test_a_driver_killed_again_and_again_decides_as_an_unbroken_one(tmp_path: Path, policy: str) -> None:
    spec = spec_of(policy, trials=12)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    run(spec, options_in(tmp_path / "whole"), executor=CurveExecutor(rough))
    kills = 0
    fork = multiprocessing.get_context("fork")
    for after in [1, 2, 3, 5, 8, 13, 4, 21, 7, 1, 6, 11, 2, 3, 16, 9]:
        process = fork.Process(target=run_until_killed, args=(spec, tmp_path / "parts", after))
        process.start()
        process.join(60)
        kills += process.exitcode == -signal.SIGKILL
    assert kills > 10
    executor = Lasting(tmp_path / "parts")
    assert run(spec, options_in(tmp_path / "parts"), executor=executor).exit_status == 0
    assert table(tmp_path / "parts") == table(tmp_path / "whole")
    assert max(Counter((number, epoch) for number, _, epoch, _ in executor.log).values()) == 1


def test_an_interrupted_study_keeps_its_paused_trials(tmp_path: Path) -> None:
    spec = spec_of("auto")
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    run(spec, options_in(tmp_path / "whole"), executor=CurveExecutor(rough))
    summaries = [
        run(spec, options_in(tmp_path / "parts"), [Interrupt(n)], executor=Lasting(tmp_path / "parts"))
        for n in (9, 14)
    ]
    paused = [trial for trial in trials_in(tmp_path / "parts") if trial.user_attrs.get(PAUSED) is not None]
    assert summaries[-1].counts["PAUSED"] == len(paused) > 1
    assert all(trial.state is TrialState.RUNNING for trial in paused)
    assert all(trial.user_attrs[PAUSED] == len(trial.intermediate_values) for trial in paused)
    assert any(trial.user_attrs["pauses"] > 1 for trial in paused)
    homes = [RunFolder(tmp_path / "parts", "s").trial(trial.number) for trial in paused]
    assert {len(list(home.iterdir())) for home in homes} == {1}, "a checkpoint of an earlier piece is left"
    run(spec, options_in(tmp_path / "parts"), executor=Lasting(tmp_path / "parts"))
    assert table(tmp_path / "parts") == table(tmp_path / "whole")


class Losing(Lasting):
    """One in whose time the database file is removed, once so many epochs are trained."""

    def __init__(self, folder: Path, after: int) -> None:
        super().__init__(folder)
        self._left, self._database = after, folder / "s.db"

    def receive(self, timeout: float) -> list[FromWorker]:
        if 0 < self._left <= len(self.log):
            self._left = 0
            for path in self._database.parent.glob("s.db*"):
                path.unlink()
        return super().receive(timeout)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("policy", ["halving", "auto"])
def test_a_lost_database_costs_paused_trials_nothing(tmp_path: Path, policy: str, share: float) -> None:
    spec, unbroken = spec_of(policy), CurveExecutor(rough)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    run(spec, options_in(tmp_path / "whole"), executor=unbroken)
    executor = Losing(tmp_path / "parts", math.ceil(share * len(unbroken.log)))
    first = run(spec, options_in(tmp_path / "parts"), executor=executor)
    assert first.lost
    assert first.counts["PAUSED"] > 0
    finished = sum(first.counts.get(state, 0) for state in ("COMPLETE", "PRUNED", "FAIL"))
    assert f"{counted(finished, 'finished trial')} and all unfinished ones are kept in" in first.reason
    assert run(spec, options_in(tmp_path / "parts"), executor=executor).exit_status == 0
    check(tmp_path / "parts", spec, Counter((number, epoch) for number, _, epoch, _ in executor.log))
    assert table(tmp_path / "parts") == table(tmp_path / "whole")


def test_a_copy_of_a_study_resumes_its_paused_trials_as_the_study_does(tmp_path: Path) -> None:
    spec = spec_of("halving", trials=30)
    run(spec, options_in(tmp_path), [Interrupt(60)], executor=Lasting(tmp_path))
    url = f"sqlite:///{tmp_path}/s.db"
    optuna.copy_study(from_study_name="s", from_storage=url, to_storage=url, to_study_name="copy")
    attempts = []
    for name in ("copy", "s"):
        executor = CurveExecutor(rough)
        executor.saved = Lasting(tmp_path).saved
        summary = run(spec_of("halving", trials=30, name=name), options_in(tmp_path), executor=executor)
        assert summary.exit_status == 0
        trials = optuna.load_study(study_name=name, storage=url).trials
        attempts.append([trial.user_attrs["attempt"] for trial in trials])
    assert attempts[0] == attempts[1]


def test_deleting_a_study_takes_its_paused_trials_and_their_checkpoints(tmp_path: Path) -> None:
    run(spec_of("halving", trials=30), options_in(tmp_path), [Interrupt(60)], executor=Lasting(tmp_path))
    paused = [trial for trial in trials_in(tmp_path) if trial.user_attrs.get(PAUSED) is not None]
    homes = [RunFolder(tmp_path, "s").trial(trial.number) for trial in paused]
    assert len(homes) > 3
    assert all(home.exists() for home in homes)
    url = f"sqlite:///{tmp_path}/s.db"
    delete_study(plan_deletion("s", url, tmp_path), url)
    assert not any(home.exists() for home in homes)
    assert optuna.get_all_study_names(url) == []
    with reading(open_storage(url)) as connection:
        assert connection.scalar(select(func.count()).select_from(LEASE)) == 0
    executor = CurveExecutor(rough)
    assert run(spec_of("halving"), options_in(tmp_path), executor=executor).exit_status == 0
    check(tmp_path, spec_of("halving"), Counter((number, epoch) for number, _, epoch, _ in executor.log))


def driver_of(spec: StudySpec, url: str, folder: Path, executor: CurveExecutor, workers: int) -> Driver:
    home = RunFolder(folder, "s")
    home.home.mkdir(parents=True, exist_ok=True)
    places = executor.places(Workers(gpus="none", workers=workers), 1, "time")
    fleet = Fleet(executor, places, lambda place: None, 60.0)  # type: ignore[arg-type, return-value]
    study = open_study(spec, url, ["cpu"] * workers)
    keeper = WeightsKeeper(home, spec.checkpoint, spec.study.better)
    return Driver(study, fleet, keeper, Stops(spec.study))


def take_turns(
    spec: StudySpec, database_url: str, folder: Path, script: Callable[[TrialRun], Script] = rough
) -> set[int]:
    """Lets two drivers train a study and returns the trials that both of them trained."""
    first, second = CurveExecutor(script), CurveExecutor(script)
    second.saved = first.saved
    drivers = [driver_of(spec, database_url, folder, executor, 2) for executor in (first, second)]
    over, turns = [False, False], 0
    while not all(over):
        turns += 1
        for place, driver in enumerate(drivers):
            over[place] = over[place] or driver._is_over()
            if not over[place]:
                driver.turn()
            if turns % 2 == place:
                driver.database(driver._catch_up)
    trials = drivers[0].study.storage.get_all_trials(drivers[0].study.study_id)
    for driver in drivers:
        driver.study.release()
        driver.study.storage.engine.dispose()
    assert len(trials) == spec.study.trials
    assert all(trial.state.is_finished() for trial in trials)
    played = Counter((number, epoch) for number, _, epoch, _ in first.log + second.log)
    assert set(played.values()) == {1}
    assert first.log
    assert second.log
    return {number for number, *_ in first.log} & {number for number, *_ in second.log}


@pytest.mark.parametrize("policy", POLICIES)
def test_two_drivers_never_resume_the_same_trial(tmp_path: Path, database_url: str, policy: str) -> None:
    """They take turns; each looks at what the other did only now and then."""
    for seed in range(5):  # which of them is first at a paused trial is chance
        spec = spec_of(policy, seed, name=f"s{seed}", trials=20)
        if take_turns(spec, database_url, tmp_path) or policy != "halving":
            return
    pytest.fail("no trial of one was resumed by the other")


def test_no_more_trials_stay_paused_than_may(tmp_path: Path) -> None:
    class Most(Callback):
        def __init__(self) -> None:
            self.paused: set[int] = set()
            self.most = 0

        def on_trial_start(self, trial: RunningTrial) -> None:
            self.paused.discard(trial.number)

        def on_trial_paused(self, trial: RunningTrial) -> None:
            self.paused.add(trial.number)

        def on_trial_end(self, trial: FinishedTrial) -> None:
            self.most = max(self.most, len(self.paused))
            self.paused.discard(trial.number)

    most = Most()
    spec = spec_of("auto", max_paused=3, trials=12)
    executor = CurveExecutor(rough)
    run(spec, options_in(tmp_path), [most], executor=executor)
    check(tmp_path, spec, Counter((number, epoch) for number, _, epoch, _ in executor.log))
    assert most.most == 4
    details = [trial.user_attrs["stop_detail"] for trial in trials_in(tmp_path)]
    assert any(
        "and not resumed: the least promising of more than 3 paused trials (study.max_paused)" in detail
        for detail in details
    )


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ("halving", "it was not in the best 1/3 of the trials that reached epoch"),
        ("screen", "it was not among the best 3 after epoch 1"),
        ("thaw", "it was neither in the best 1/3 of those that reached epoch"),
    ],
)
def test_trials_that_are_left_paused_are_told_why_by_their_policy(
    tmp_path: Path, policy: str, why: str
) -> None:
    run(spec_of(policy), options_in(tmp_path), executor=CurveExecutor(rough))
    left = [
        detail
        for trial in trials_in(tmp_path)
        if "not resumed" in (detail := trial.user_attrs["stop_detail"])
    ]
    assert left
    assert all(f"and not resumed: {why}" in detail for detail in left)


@pytest.mark.parametrize("policy", POLICIES)
def test_no_trial_is_paused_before_its_first_piece_has_ended(tmp_path: Path, policy: str) -> None:
    run(spec_of(policy, first_piece=3), options_in(tmp_path), executor=CurveExecutor(rough))
    ends = [[end for end, _ in trial.user_attrs[PIECES]] for trial in trials_in(tmp_path)]
    assert min(end for pieces in ends for end in pieces[:-1]) == 3
    assert any(len(pieces) > 1 for pieces in ends)


def test_what_the_start_of_each_attempt_took_is_stored(tmp_path: Path) -> None:
    run(spec_of("halving"), options_in(tmp_path), executor=CurveExecutor(rough))
    attrs = [trial.user_attrs for trial in trials_in(tmp_path)]
    assert [one["start_seconds"] for one in attrs] == [0.25 * len(one["why"]) for one in attrs]
    assert max(len(one["why"]) for one in attrs) > 1


def test_the_epochs_of_paused_trials_count_towards_the_studys(tmp_path: Path) -> None:
    spec = spec_of("halving", max_epochs_total=20, trials=100)
    executor = CurveExecutor(rough)
    summary = run(spec, options_in(tmp_path), executor=executor)
    trials = trials_in(tmp_path)
    assert summary.reason == "max_epochs_total = 20 epochs have been trained"
    assert len(executor.log) == 20
    assert all(trial.state.is_finished() for trial in trials)
    ended = [trial for trial in trials if trial.user_attrs["stop_reason"] == "study_end"]
    assert all(len(trial.user_attrs["train_loss"]) == trial.user_attrs["epochs_run"] for trial in ended)


EQUAL = parse_study(
    {
        "study": {"name": "s", "trials": 4, "policy": "halving"},
        "data": {"dataset": "digits"},
        "train": {"epochs": 27},
        "search": {"learning_rate": {"low": 1e-4, "high": 1.0, "log": True}},
    }
)
"""All trials have pieces that end at the epochs 1, 3, 9 and 27."""


@pytest.fixture
def study(database_url: str) -> Iterator[Study]:
    opened = open_study(EQUAL, database_url, ["cpu"])
    yield opened
    opened.storage.engine.dispose()


def epochs(number: int, count: int, value: float = 1.0) -> list[EpochResult]:
    return [
        EpochResult(number, 1, epoch, {"train_loss": value, "val_loss": value}, checkpointed=True)
        for epoch in range(1, 1 + count)
    ]


def pause(study: Study, number: int, value: float = 1.0, count: int = 1) -> None:
    """Trains a trial to the end of a piece, at which it is paused."""
    for result in epochs(number, count, value):
        decision = study.report(number, result)
    assert isinstance(decision, Pause)
    study.pause(number, None, {})


def test_a_checkpoint_beyond_the_end_of_a_piece_is_not_paused_there(study: Study) -> None:
    """Its driver died before it could write that the trial was to go on."""
    number = begin(study)
    assert study.resume(number, epochs(number, 2), {}) is None
    assert study.live[number].pausing is None
    assert isinstance(study.policy.begin(), New), "it waits for a trial that is in training"
    assert isinstance(study.report(number, epochs(number, 3)[-1]), Pause)


def test_another_drivers_next_piece_is_seen_though_the_trial_is_paused_again(
    study: Study, database_url: str
) -> None:
    for value in (1.0, 2.0, 3.0):
        pause(study, begin(study), value)
    study.flush()
    other = open_study(EQUAL, database_url, ["cpu"])
    assert other.paused == {0: 1, 1: 1, 2: 1}
    assert begin(study) == 0
    study.resume(0, epochs(0, 1), {})
    pause(study, 0, count=3)
    study.flush()
    other.sync()
    assert other.paused == {0: 3, 1: 1, 2: 1}
    assert other.epochs == 5
    assert other.policy.begin() == study.policy.begin()
    other.storage.engine.dispose()


def test_hyperparameters_written_since_the_last_look_are_kept(study: Study, database_url: str) -> None:
    number = begin(study)
    other = open_study(EQUAL, database_url, ["cpu"])
    study.flush()
    hparams = study.live[number].hparams
    study.release()
    other.policy.start = lambda number: {"learning_rate": 0.5}  # type: ignore[method-assign]
    assert begin(other) == number
    assert other.live[number].hparams == hparams
    other.storage.engine.dispose()


def equal(**study: Any) -> StudySpec:
    return parse_study({**EQUAL.model_dump(), "study": {**EQUAL.study.model_dump(), **study}})


def levels(trial: TrialRun) -> Script:
    """Curves that fall slowly, each trial's lower than those before."""
    return Script(tuple(4.0 - trial.number - 0.01 * epoch for epoch in range(27)))


def test_a_paused_trial_that_reaches_the_target_ends_the_study(tmp_path: Path) -> None:
    executor = CurveExecutor(levels)
    summary = run(equal(target_value=3.0), options_in(tmp_path), executor=executor)
    assert summary.reason == "the target value 3 has been reached: 3"
    assert [number for number, *_ in executor.log] == [0, 1]
    assert summary.best is not None
    assert summary.best.number == 1
    assert summary.counts == {"COMPLETE": 1, "PRUNED": 1}, "only the best of those that end together"


def test_what_another_driver_has_just_paused_is_resumed_rather_than_ended(tmp_path: Path) -> None:
    url, spec = f"sqlite:///{tmp_path}/s.db", equal(trials=3)
    driver = driver_of(spec, url, tmp_path, CurveExecutor(levels), 1)
    other = open_study(spec, url, ["cpu"])
    numbers = [begin(other) for _ in range(3)]
    for number in numbers[:2]:
        pause(other, number, 4.0 - number)
    other.flush()
    driver.study.sync()
    while not driver.admission.exhausted:
        driver.turn()
    pause(other, 2, 9.0)
    other.flush()
    driver.run()
    ended = driver.study.storage.get_all_trials(driver.study.study_id)
    assert [trial.user_attrs["epochs_run"] for trial in ended] == [1, 27, 1]
    for study in (driver.study, other):
        study.storage.engine.dispose()


def once_away(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Lets the database be away at the next call of a function, before it has done anything."""
    call, left = getattr(owner, name), [1]

    def away(*args: Any, **named: Any) -> Any:
        if left and left.pop():
            raise StorageAway("the database is away")
        return call(*args, **named)

    monkeypatch.setattr(owner, name, away)


def test_a_trial_that_is_yet_to_begin_is_not_ended_in_place_of_a_paused_one(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (1.0, 2.0):
        pause(study, begin(study), value)
    once_away(monkeypatch, trials, "create_trial")
    with pytest.raises(StorageAway):
        begin(study)
    assert study.next_surplus(1) is None
    assert begin(study) == 2
    once_away(monkeypatch, trials, "create_trial")
    with pytest.raises(StorageAway):
        study.next_surplus(1)
    surplus = study.next_surplus(1)
    assert surplus is not None
    assert surplus.number == 1


@pytest.mark.parametrize("where", ["others_unfinished", "next_surplus", "_begin"])
def test_a_database_that_is_away_at_the_end_leaves_no_trial_paused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    driver = driver_of(spec_of("halving"), f"sqlite:///{tmp_path}/s.db", tmp_path, CurveExecutor(rough), 1)
    while not driver.admission.exhausted or driver.study.live:
        driver.turn()
    assert driver.study.paused
    once_away(monkeypatch, driver.study, where)
    driver.run()
    ended = driver.study.storage.get_all_trials(driver.study.study_id)
    assert len(ended) == 14
    assert all(trial.state.is_finished() for trial in ended)
    driver.study.storage.engine.dispose()


class Deadly(CurveExecutor):
    """Its worker dies when it is to give a trial back."""

    left = 3

    def _decided(self, worker: int, decision: Any) -> None:
        if decision.action == "preempt" and self.left:
            self.left -= 1
            self.kill(worker)
            return
        super()._decided(worker, decision)


def test_a_worker_that_dies_at_a_pause_costs_nothing(tmp_path: Path) -> None:
    spec = spec_of("auto")
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    run(spec, options_in(tmp_path / "whole"), executor=CurveExecutor(rough))
    executor = Deadly(rough)
    run(spec, options_in(tmp_path / "parts"), executor=executor)
    assert executor.left == 0
    assert table(tmp_path / "parts") == table(tmp_path / "whole")


def test_a_loop_without_checkpoints_cannot_be_paused(tmp_path: Path) -> None:
    class Forgetful(CurveExecutor):
        def _play(self, worker: int) -> None:
            super()._play(worker)
            for path in tmp_path.glob("s/trials/*/*/checkpoint.json"):
                path.unlink()

    with pytest.raises(
        StudyFileError, match=r'study.policy: "halving" pauses trials, but trial 0 has left no'
    ):
        run(spec_of("halving"), options_in(tmp_path), executor=Forgetful(rough))


def test_a_first_piece_without_pauses_is_refused() -> None:
    with pytest.raises(StudyFileError, match=r'study\.first_piece: "sampled" pauses no trial'):
        spec_of("sampled", first_piece=2)


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ({"sampler": {"name": "grid"}, "search": {"batch_size": [1, 2]}}, '"auto" ends few trials, but'),
        ({"sampler": {"name": "gp"}}, '"auto" proposes trials itself and does not ask sampler.name = "gp"'),
        ({"pruner": {"name": "median"}}, '"auto" pauses trials and does not ask pruner.name = "median"'),
    ],
)
def test_what_a_policy_would_not_ask_is_refused(tables: dict[str, Any], sentence: str) -> None:
    tree = {
        "study": {"name": "s", "policy": "auto"},
        "data": {"dataset": "digits"},
        "search": {"learning_rate": {"low": 1e-4, "high": 1.0}},
    }
    with pytest.raises(StudyFileError, match="study.policy: " + sentence):
        parse_study(tree | tables)
