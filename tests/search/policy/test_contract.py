"""The contract, over every policy: rebuilt from stored trials, with several workers and several drivers."""

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from hpsearch.contracts.trial import PIECES
from hpsearch.errors import UserError
from hpsearch.search.policy.build import POLICIES, build_policy
from hpsearch.search.policy.contract import New, Wait
from hpsearch.search.policy.pieces import epochs_of
from hpsearch.search.view import QUEUED, StudyView
from tests.search.policy.drivers import FIXED, SEARCH, Database, Driver, curves, run, study

few = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
seeds = st.integers(0, 10_000)
schedules = st.sampled_from(["cosine", "constant"])


def spec_of(seed=0, schedule="cosine", search=None, trials=10, **tables):
    train = {"function": "a:b", "epochs": 9, "schedule": schedule}
    return study(search, study={"seed": seed, "trials": trials}, train=train, **tables)


@pytest.mark.parametrize("name", POLICIES)
class TestPolicy:
    @few
    @given(seed=seeds, schedule=schedules, broken=st.sampled_from([0.0, 0.3, 1.0]), workers=st.integers(1, 4))
    def test_a_study_ends_whole(self, name, seed, schedule, broken, workers):
        spec = spec_of(seed, schedule)
        driver, log = run(name, spec, curves(seed, broken), workers)
        trials = driver.database.trials
        assert sorted(trials) == list(range(spec.study.trials))
        assert all(trial.state.is_finished() for trial in trials.values())
        assert driver.database.paused == []
        epochs = Counter(entry for entry in log if entry[0] == "epoch")
        assert set(epochs.values()) == {1}
        for number, trial in trials.items():
            assert list(trial.intermediate_values) == list(range(1, len(trial.intermediate_values) + 1))
            assert len(trial.intermediate_values) <= epochs_of(spec, trial.params), number
            for parameter, distribution in driver.view.space.items():
                assert distribution._contains(distribution.to_internal_repr(trial.params[parameter]))

    @few
    @given(
        seed=seeds,
        schedule=schedules,
        workers=st.integers(1, 4),
        kills=st.sets(st.integers(1, 60), max_size=5),
    )
    def test_a_rebuilt_study_decides_as_an_unbroken_one(self, name, seed, schedule, workers, kills):
        spec, curve = spec_of(seed, schedule), curves(seed, 0.1)
        _, unbroken = run(name, spec, curve, workers)
        driver, rebuilt = run(name, spec, curve, workers, sorted(kills))
        assert rebuilt == unbroken
        again = Driver(name, spec, driver.database, curve, [])
        assert again.policy.begin(new=True) == driver.policy.begin(new=True)

    @few
    @given(seed=seeds)
    def test_two_drivers_with_old_views_never_train_one_trial(self, name, seed):
        spec, database, rng = spec_of(seed), Database(), random.Random(seed)
        log: list[tuple] = []
        drivers = [Driver(name, spec, database, curves(seed, 0.1), log) for _ in range(2)]
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
        assert len(set(proposed)) == len(proposed) == spec.study.trials

    def test_a_search_in_which_all_diverges_ends(self, name):
        driver, _ = run(name, spec_of(trials=15), lambda number, epoch: float("nan"), workers=2)
        assert {trial.state for trial in driver.database.trials.values()} == {TrialState.PRUNED}
        assert len(driver.database.trials) == 15

    @pytest.mark.parametrize("value", [0.5, 1e-320, -1e308, 1e308])
    def test_values_at_the_ends_of_what_numbers_can_be(self, name, value):
        driver, _ = run(name, spec_of(trials=12), lambda number, epoch: value * (number % 4) / (1 + epoch))
        assert all(trial.state.is_finished() for trial in driver.database.trials.values())

    def test_a_space_of_a_single_point(self, name):
        driver, _ = run(name, spec_of(search={"batch_size": [16]}, trials=12), curves(1), workers=2)
        assert len(driver.database.trials) == 12

    def test_infinities_and_nan_are_alike(self, name):
        spec = spec_of(trials=15)

        def broken(bad):
            return lambda number, epoch: bad if (number % 3, epoch) == (1, 3) else curves(4)(number, epoch)

        logs = [run(name, spec, broken(float(bad)))[1] for bad in ("nan", "inf", "-inf")]
        assert logs[0] == logs[1] == logs[2]

    def test_what_is_better_when_more_is_better(self, name):
        """Values of both signs, so that the model takes logarithms in neither direction."""
        less = spec_of(search=FIXED, trials=15)
        more = study(FIXED, study={"trials": 15, "metric": "val_macro_f1"}, train=dict(less.train))
        _, falling = run(name, less, curves(5, mixed=True))
        _, rising = run(name, more, curves(5, mixed=True, sign=-1.0))
        assert falling == rising

    def test_epochs_that_are_repeated_change_nothing(self, name):
        spec, curve = spec_of(search=FIXED, trials=12), curves(6)
        driver = Driver(name, spec, Database(), curve, [])
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

    def test_a_trial_that_was_given_some_values_keeps_them(self, name):
        driver = Driver(name, spec_of(), Database(), curves(0), [])
        queued = create_trial(state=TrialState.WAITING, system_attrs={QUEUED: {"batch_size": 64}})
        queued.number = 0
        driver.view.add(queued)
        driver.policy.add(queued)
        assert isinstance(driver.policy.begin(), New)
        hparams = driver.policy.start(0)
        assert hparams["batch_size"] == 64
        assert hparams.keys() == SEARCH.keys()

    def test_a_trial_whose_hparams_were_lost_gets_the_same_ones(self, name):
        spec = spec_of(trials=15)
        driver, _ = run(name, spec, curves(7))
        stored = dict(list(driver.database.trials.items())[:9])
        expected, found = (Driver(name, spec, Database(dict(stored)), curves(7), []) for _ in range(2))
        first = expected.policy.start(9)
        lost = create_trial(state=TrialState.RUNNING)
        lost.number = 9
        found.view.add(lost)
        found.policy.add(lost)
        assert found.policy.start(9) == first == found.view.params(9)

    @pytest.mark.parametrize("done", [0, 15])
    def test_drivers_that_begin_trials_at_one_moment_begin_different_ones(self, name, done):
        """Each knows of the other's trial, but not yet its hyperparameters."""
        spec = spec_of(trials=60)
        driver, _ = run(name, spec_of(trials=15), curves(7))
        stored = dict(list(driver.database.trials.items())[:done])
        proposed = []
        for others in range(3):
            late = Driver(name, spec, Database(dict(stored)), curves(7), [])
            for number in range(done, done + others):
                foreign = create_trial(state=TrialState.RUNNING)
                foreign.number = number
                late.view.add(foreign)
                late.policy.add(foreign)
            proposed.append(tuple(late.policy.start(done + others).items()))
        assert len(set(proposed)) == 3

    def test_where_no_trial_may_begin_and_none_is_paused_it_waits(self, name):
        assert build_policy(name, StudyView(spec_of())).begin(new=False) == Wait()

    def test_at_most_so_many_are_left_paused(self, name):
        driver = Driver(name, spec_of(trials=40), Database(), curves(8), [])
        while len(driver.database.trials) < 30:
            assert driver.live or driver.begin()
            driver.epoch(*driver.live)
        paused = driver.database.paused
        assert sorted(driver.policy.surplus(0)) == sorted(paused)
        assert driver.policy.surplus(len(paused)) == []
        ended = driver.policy.surplus(3)
        assert len(ended) == max(0, len(paused) - 3)
        assert driver.policy.surplus(1)[: len(ended)] == ended
        tracks = getattr(driver.policy, "tracks", {})  # "sampled" has none, and pauses none
        best = [tracks[number].best(tracks[number].trained) for number in driver.policy.surplus(0)]
        assert best == sorted(best), "of all that end, the best is first"

    def test_what_is_stored_with_an_ended_trial_is_all_its_pieces(self, name):
        driver, log = run(name, spec_of(trials=15), curves(9))
        resumed = Counter(entry[1] for entry in log if entry[0] == "resume")
        for number, trial in driver.database.trials.items():
            pieces = trial.user_attrs.get(PIECES, [])
            assert len(pieces) >= resumed[number]
            if pieces:
                assert pieces[-1][0] == len(trial.intermediate_values)
        orders = [order for t in driver.database.trials.values() for _, order in t.user_attrs.get(PIECES, [])]
        assert len(orders) == len(set(orders))


def test_a_policy_that_is_unknown():
    with pytest.raises(UserError, match="halving"):
        build_policy("halfing", StudyView(spec_of()))
