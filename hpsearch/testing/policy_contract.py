"""One contract for all policies, and a driver without workers, clock and database to hold them to it.

The driver asks a policy what the real one asks it, with random curves, several workers, several drivers on one study,
and policies that are rebuilt from the stored trials at any moment.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpsearch.contracts.trial import PAUSED, PIECES, QUEUED, StopKind
from hpsearch.search.outcome import decide
from hpsearch.search.policy.contract import Continue, New, Pause, Policy, Resume, Stop, Wait
from hpsearch.search.policy.pieces import epochs_of
from hpsearch.search.view import StudyView
from hpsearch.study import StudySpec, parse_study
from hpsearch.study.conditions import holds
from hpsearch.study.direction import best

SEARCH = {
    "learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
    "batch_size": [16, 32, 64],
    "epochs": {"low": 4, "high": 12},
    "train.optimizer": ["sgd", "adam", "adamw"],
    "train.label_smoothing": {"low": 0.0, "high": 0.3, "step": 0.1},
}
CONDITIONAL = {
    **SEARCH,
    "train.schedule": ["cosine", "constant"],
    "when": {
        "train.optimizer = sgd": {
            "train.momentum": {"low": 0.5, "high": 0.9},
            "train.nesterov": [True, False],
        },
        "train.optimizer = adam or adamw": {"train.beta2": [0.99, 0.999]},
        "train.nesterov = false and batch_size = 16 or 64": {"train.clip_norm": {"low": 0.1, "high": 1.0}},
        "train.schedule = cosine": {"train.weight_decay": {"low": 1e-5, "high": 1e-3, "log": True}},
        "train.schedule = constant": {"train.weight_decay": {"low": 1e-3, "high": 1e-1, "log": True}},
    },
}
FIXED = {name: entry for name, entry in SEARCH.items() if name != "epochs"}


def assert_in_space(trial: FrozenTrial, view: StudyView) -> None:
    """Makes sure that a trial has just the hyperparameters that have a meaning in it, each from its own values."""
    assert trial.params.keys() == view.space.of(trial.params).keys(), trial.number
    for term in view.space.terms:
        if term.name in trial.params and holds(term.when, trial.params):
            value = term.distribution.to_internal_repr(trial.params[term.name])
            assert term.distribution._contains(value), (trial.number, term)


Curve = Callable[[int, int], float]
"""The value of a trial's epoch, by number and epoch."""

Build = Callable[[StudyView], Policy]
"""Returns the policy of a study, which has seen no trial."""


def study(search: Any = None, **tables: Any) -> StudySpec:
    given = {"name": "s", "trials": 10, "metric": "val_error"} | tables.pop("study", {})
    return parse_study(
        {
            "study": given,
            "train": {"function": "a:b", "epochs": 9},
            "search": SEARCH if search is None else search,
            "sampler": {"name": "random"},
            "early_stopping": {"criterion": "none"},
            **tables,
        }
    )


def curves(seed: int, broken: float = 0.0, sign: float = 1.0, mixed: bool = False) -> Curve:
    """Returns random falling curves, of which the share `broken` turns into NaN or infinity somewhere."""

    def value(number: int, epoch: int) -> float:
        rng = random.Random(f"{seed} {number}")
        level, rate, breaks = rng.random(), rng.random(), rng.randint(1, 8) if rng.random() < broken else 0
        bad = rng.choice([math.nan, math.inf, -math.inf])
        noise = random.Random(f"{seed} {number} {epoch}").random() * 0.1
        return bad if epoch == breaks else sign * (level + math.exp(-rate * epoch) + noise - mixed)

    return value


@dataclass
class MemoryDatabase:
    """What is stored of a study: its trials by number."""

    trials: dict[int, FrozenTrial] = field(default_factory=dict)

    def store(
        self, number: int, state: TrialState, params: Any, values: Any, attrs: Any, spec: StudySpec
    ) -> None:
        space = StudyView(spec).space
        trial = create_trial(
            state=state,
            value=attrs.get("score") if state is TrialState.COMPLETE else None,
            params=params,
            distributions={name: space[name] for name in params},
            intermediate_values=values,
            user_attrs=attrs,
        )
        trial.number = number
        self.trials[number] = trial

    def update(self, number: int, spec: StudySpec, **attrs: Any) -> None:
        old = self.trials[number]
        self.store(number, old.state, old.params, old.intermediate_values, {**old.user_attrs, **attrs}, spec)

    @property
    def paused(self) -> list[int]:
        return [n for n, t in self.trials.items() if t.user_attrs.get(PAUSED) is not None]


class SimulatedDriver:
    """One driver: a view, a policy and the trials that it trains."""

    def __init__(
        self, build: Build, spec: StudySpec, database: MemoryDatabase, curve: Curve, log: list[Any]
    ) -> None:
        self.build, self.spec, self.database, self.curve, self.log = build, spec, database, curve, log
        self.pauses, self.lost = 0, frozenset[int]()
        self.rebuild()

    def rebuild(self, mine: Sequence[int] = ()) -> None:
        """Begins anew from what is stored, and takes up its trials."""
        self.view = StudyView(self.spec)
        self.policy = self.build(self.view)
        self.known = dict[int, FrozenTrial]()
        self.sync()
        self.live = {number: len(self.database.trials[number].intermediate_values) for number in mine}

    def sync(self) -> None:
        """Reads what other drivers did."""
        for number, trial in sorted(self.database.trials.items()):
            known = self.known.get(number)
            if known is trial:
                continue
            if known is None:
                self.view.add(trial)
            elif trial.state.is_finished() and not known.state.is_finished():
                self.view.replace(trial)
            self.policy.add(trial)
            self.known[number] = trial

    def begin(self) -> bool:
        """Gives a free worker something to do; says whether there was anything."""
        while True:
            new = len(self.database.trials) < self.spec.trials
            step = self.policy.begin(new)
            assert self.policy.begin(new) == step, "begin changes nothing"
            match step:
                case Wait():
                    return False
                case Resume(number) if number in self.database.paused:
                    self.policy.resume(number)
                    self.live[number] = len(self.database.trials[number].intermediate_values)
                    self.store(number, **self.policy.notes(number, self.live[number]))
                    self.log.append(("resume", number))
                    return True
                case Resume():
                    self.sync()  # another driver was first
                case New():
                    assert new
                    number = len(self.database.trials)
                    if number != self.view.next_number:
                        self.sync()
                    hparams = self.policy.start(number)
                    assert self.view.params(number) == hparams
                    self.database.store(number, TrialState.RUNNING, hparams, {}, {}, self.spec)
                    self.known[number] = self.database.trials[number]
                    self.live[number] = 0
                    self.log.append(("new", number, tuple(hparams.items())))
                    return True

    def store(self, number: int, **attrs: Any) -> None:
        self.database.update(number, self.spec, **attrs)
        self.known[number] = self.database.trials[number]

    def epoch(self, number: int) -> None:
        """Trains one epoch of a trial."""
        self.live[number] += 1
        epoch, stored = self.live[number], self.database.trials[number]
        value = self.curve(number, epoch)
        stored.intermediate_values[epoch] = value
        self.view.report(number, epoch, value)
        self.log.append(("epoch", number, epoch))
        if not math.isfinite(value):
            self.end(number, StopKind.DIVERGED)
        elif epoch == epochs_of(self.spec, stored.params):
            self.end(number, StopKind.FINISHED)
        else:
            match self.policy.report(number, epoch, value):
                case Stop(verdict):
                    self.end(number, verdict.kind)
                case Pause(notes):
                    assert notes[PAUSED] == epoch
                    self.pauses += 1
                    if self.pauses in self.lost:  # its worker dies before the checkpoint is written
                        self.policy.take_back(number)
                        self.live[number] = 0
                        return
                    self.store(number, **notes)
                    del self.live[number]
                case Continue(notes):
                    if notes:
                        self.store(number, **notes)

    def end(self, number: int, kind: StopKind) -> None:
        stored = self.database.trials[number]
        better = self.spec.study.better
        finite = [value for value in stored.intermediate_values.values() if math.isfinite(value)]
        score = best(better, finite) if finite else None
        state = decide(kind, score, self.view.board, "auto")
        attrs = {"score": score, "stop_reason": kind.value, "epochs_run": len(stored.intermediate_values)}
        attrs |= self.policy.notes(number, len(stored.intermediate_values))
        self.database.store(number, state, stored.params, stored.intermediate_values, attrs, self.spec)
        self.known[number] = self.database.trials[number]
        self.view.replace(self.known[number])
        self.policy.finish(self.known[number])
        self.live.pop(number, None)
        self.log.append(("end", number, kind))

    def close(self) -> None:
        """Ends what is left when the study ends."""
        for number in self.policy.surplus(0):
            self.end(number, StopKind.PRUNER)


def run(
    build: Build,
    spec: StudySpec,
    curve: Curve,
    workers: int = 1,
    kills: Sequence[int] = (),
    order: int = 0,
    lost: Sequence[int] = (),
) -> tuple[SimulatedDriver, list[Any]]:
    """Runs a whole study with one driver, which is rebuilt after so many epochs.

    Args:
        lost: which pauses come to nothing, counted from 1.
    """
    log: list[Any] = []
    driver, rng, epochs = SimulatedDriver(build, spec, MemoryDatabase(), curve, log), random.Random(order), 0
    driver.lost = frozenset(lost)
    while True:
        while len(driver.live) < workers and driver.begin():
            pass
        if not driver.live:
            driver.close()
            return driver, log
        driver.epoch(rng.choice(sorted(driver.live)))
        epochs += 1
        if epochs in kills:
            driver.rebuild(sorted(driver.live))


def spec_of(
    seed: int = 0, schedule: str = "cosine", search: Any = None, trials: int = 10, **tables: Any
) -> StudySpec:
    train = {"function": "a:b", "epochs": 9, "schedule": schedule}
    return study(search, study={"seed": seed, "trials": trials}, train=train, **tables)


class PolicyContract:
    """Subclass it in a test module and say how your policy is built; pytest does the rest.

    class TestMyPolicy(PolicyContract):
        def build(self, view):
            return MyPolicy(view)
    """

    def build(self, view: StudyView) -> Policy:
        """Returns the policy of a study, which has seen no trial."""
        raise NotImplementedError

    @pytest.mark.parametrize(
        ("seed", "schedule", "broken", "workers"),
        [(1, "cosine", 0.0, 1), (2, "constant", 0.3, 3), (3, "cosine", 1.0, 2), (4, "constant", 0.0, 4)],
    )
    def test_a_study_ends_whole(self, seed: int, schedule: str, broken: float, workers: int) -> None:
        spec = spec_of(seed, schedule)
        driver, log = run(self.build, spec, curves(seed, broken), workers)
        trials = driver.database.trials
        assert sorted(trials) == list(range(spec.trials))
        assert all(trial.state.is_finished() for trial in trials.values())
        assert driver.database.paused == []
        epochs = Counter(entry for entry in log if entry[0] == "epoch")
        assert set(epochs.values()) == {1}
        for number, trial in trials.items():
            assert list(trial.intermediate_values) == list(range(1, len(trial.intermediate_values) + 1))
            assert len(trial.intermediate_values) <= epochs_of(spec, trial.params), number
            assert trial.params.keys() == driver.view.space.keys()
            assert_in_space(trial, driver.view)

    def test_no_trial_has_a_field_without_a_meaning(self) -> None:
        spec = spec_of(1, search=CONDITIONAL, trials=40)
        driver, _ = run(self.build, spec, curves(1), workers=2, kills=[30, 60])
        assert len(driver.database.trials) == 40
        for trial in driver.database.trials.values():
            assert_in_space(trial, driver.view)

    @pytest.mark.parametrize(
        ("seed", "schedule", "workers", "kills"),
        [
            (1, "cosine", 1, [1, 2, 3]),
            (2, "constant", 1, [7, 19, 41]),
            (3, "cosine", 3, [5, 6, 30, 60]),
            (4, "constant", 4, [11, 40]),
        ],
    )
    def test_a_rebuilt_study_decides_as_an_unbroken_one(
        self, seed: int, schedule: str, workers: int, kills: list[int]
    ) -> None:
        spec, curve = spec_of(seed, schedule), curves(seed, 0.1)
        _, unbroken = run(self.build, spec, curve, workers)
        driver, rebuilt = run(self.build, spec, curve, workers, kills)
        assert rebuilt == unbroken
        again = SimulatedDriver(self.build, spec, driver.database, curve, [])
        assert again.policy.begin(new=True) == driver.policy.begin(new=True)

    @pytest.mark.parametrize("seed", range(4))
    def test_two_drivers_with_old_views_never_train_one_trial(self, seed: int) -> None:
        spec, database, rng = spec_of(seed), MemoryDatabase(), random.Random(seed)
        log: list[Any] = []
        drivers = [SimulatedDriver(self.build, spec, database, curves(seed, 0.1), log) for _ in range(2)]
        while True:
            for driver in rng.sample(drivers, 2):
                while len(driver.live) < 2 and driver.begin():
                    pass
            trained = [number for driver in drivers for number in driver.live]
            assert len(trained) == len(set(trained))
            if not trained:
                break
            driver = rng.choice([driver for driver in drivers if driver.live])
            driver.epoch(rng.choice(sorted(driver.live)))
            if rng.random() < 0.2:
                rng.choice(drivers).sync()
        for driver in drivers:
            driver.sync()
            driver.close()
        assert set(Counter(entry for entry in log if entry[0] == "epoch").values()) == {1}
        assert all(trial.state.is_finished() for trial in database.trials.values())
        proposed = [entry[2] for entry in log if entry[0] == "new"]
        assert len(set(proposed)) == len(proposed) == spec.trials

    def test_a_search_in_which_all_diverges_ends(self) -> None:
        driver, _ = run(self.build, spec_of(trials=15), lambda number, epoch: float("nan"), workers=2)
        assert {trial.state for trial in driver.database.trials.values()} == {TrialState.PRUNED}
        assert len(driver.database.trials) == 15

    @pytest.mark.parametrize("value", [0.5, 1e-320, -1e308, 1e308])
    def test_values_at_the_ends_of_what_numbers_can_be(self, value: float) -> None:
        driver, _ = run(
            self.build, spec_of(trials=12), lambda number, epoch: value * (number % 4) / (1 + epoch)
        )
        assert all(trial.state.is_finished() for trial in driver.database.trials.values())

    def test_a_space_of_a_single_point(self) -> None:
        driver, _ = run(self.build, spec_of(search={"batch_size": [16]}, trials=12), curves(1), workers=2)
        assert len(driver.database.trials) == 12

    def test_infinities_and_nan_are_alike(self) -> None:
        spec = spec_of(trials=15)

        def broken(bad: float) -> Curve:
            return lambda number, epoch: bad if (number % 3, epoch) == (1, 3) else curves(4)(number, epoch)

        logs = [run(self.build, spec, broken(float(bad)))[1] for bad in ("nan", "inf", "-inf")]
        assert logs[0] == logs[1] == logs[2]

    def test_what_is_better_when_more_is_better(self) -> None:
        """Values of both signs, so that they lie above a floor in both directions."""
        less = spec_of(search=FIXED, trials=15)
        more = study(FIXED, study={"trials": 15, "metric": "val_macro_f1"}, train=dict(less.train))
        _, falling = run(self.build, less, curves(5, mixed=True))
        _, rising = run(self.build, more, curves(5, mixed=True, sign=-1.0))
        assert falling == rising

    def test_epochs_that_are_repeated_change_nothing(self) -> None:
        spec, curve = spec_of(search=FIXED, trials=12), curves(6)
        driver = SimulatedDriver(self.build, spec, MemoryDatabase(), curve, [])
        while 5 not in driver.live.values():
            assert driver.live or driver.begin()
            driver.epoch(*driver.live)
        [number] = driver.live
        before = driver.policy.begin(), driver.policy.notes(number, 5)
        for epoch in range(1, 6):
            driver.view.report(number, epoch, curve(number, epoch))
            driver.policy.report(number, epoch, curve(number, epoch))
            for other in driver.database.trials.keys() - {number}:
                driver.policy.add(driver.database.trials[other])  # so that it is decided anew
            assert driver.policy.begin() == before[0]
        assert driver.policy.notes(number, 5) == before[1]

    @pytest.mark.parametrize("schedule", ["cosine", "constant"])
    def test_a_pause_that_is_lost_with_its_worker_changes_nothing(self, schedule: str) -> None:
        spec, curve = spec_of(schedule=schedule, trials=12), curves(6)
        _, unbroken = run(self.build, spec, curve)
        _, broken = run(self.build, spec, curve, lost=range(1, 99, 2))
        for log in (unbroken, broken):
            log[:] = [entry for entry in log if entry[0] != "epoch"]
        assert broken == unbroken

    def test_a_trial_that_was_given_some_values_keeps_them(self) -> None:
        driver = SimulatedDriver(self.build, spec_of(), MemoryDatabase(), curves(0), [])
        queued = create_trial(state=TrialState.WAITING, system_attrs={QUEUED: {"batch_size": 64}})
        queued.number = 0
        driver.view.add(queued)
        driver.policy.add(queued)
        assert isinstance(driver.policy.begin(), New)
        hparams = driver.policy.start(0)
        assert hparams["batch_size"] == 64
        assert hparams.keys() == SEARCH.keys()

    def test_a_trial_whose_hparams_were_lost_gets_the_same_ones(self) -> None:
        spec = spec_of(trials=15)
        driver, _ = run(self.build, spec, curves(7))
        stored = dict(list(driver.database.trials.items())[:9])
        expected, found = (
            SimulatedDriver(self.build, spec, MemoryDatabase(dict(stored)), curves(7), []) for _ in range(2)
        )
        first = expected.policy.start(9)
        lost = create_trial(state=TrialState.RUNNING)
        lost.number = 9
        found.view.add(lost)
        found.policy.add(lost)
        assert found.policy.start(9) == first == found.view.params(9)

    @pytest.mark.parametrize("done", [0, 15])
    def test_drivers_that_begin_trials_at_one_moment_begin_different_ones(self, done: int) -> None:
        """Each knows of the other's trial, but not yet its hyperparameters."""
        spec = spec_of(trials=60)
        driver, _ = run(self.build, spec_of(trials=15), curves(7))
        stored = dict(list(driver.database.trials.items())[:done])
        proposed = []
        for others in range(3):
            late = SimulatedDriver(self.build, spec, MemoryDatabase(dict(stored)), curves(7), [])
            for number in range(done, done + others):
                foreign = create_trial(state=TrialState.RUNNING)
                foreign.number = number
                late.view.add(foreign)
                late.policy.add(foreign)
            proposed.append(tuple(late.policy.start(done + others).items()))
        assert len(set(proposed)) == 3

    def test_where_no_trial_may_begin_and_none_is_paused_it_waits(self) -> None:
        assert self.build(StudyView(spec_of())).begin(new=False) == Wait()

    def test_at_most_so_many_are_left_paused(self) -> None:
        driver = SimulatedDriver(self.build, spec_of(trials=40), MemoryDatabase(), curves(8), [])
        while len(driver.database.trials) < 30:
            assert driver.live or driver.begin()
            driver.epoch(*driver.live)
        paused = driver.database.paused
        assert sorted(driver.policy.surplus(0)) == sorted(paused)
        assert driver.policy.surplus(len(paused)) == []
        ended = driver.policy.surplus(3)
        assert len(ended) == max(0, len(paused) - 3)
        assert driver.policy.surplus(1)[: len(ended)] == ended
        values = [
            min(driver.database.trials[number].intermediate_values.values())
            for number in driver.policy.surplus(0)
        ]
        assert values == sorted(values), "of all that end, the best is first"

    def test_what_is_stored_with_an_ended_trial_is_all_its_pieces(self) -> None:
        driver, log = run(self.build, spec_of(trials=15), curves(9))
        resumed = Counter(entry[1] for entry in log if entry[0] == "resume")
        for number, trial in driver.database.trials.items():
            pieces = trial.user_attrs.get(PIECES, [])
            assert len(pieces) >= resumed[number]
            if pieces:
                assert pieces[-1][0] == len(trial.intermediate_values)
        orders = [order for t in driver.database.trials.values() for _, order in t.user_attrs.get(PIECES, [])]
        assert len(orders) == len(set(orders))
