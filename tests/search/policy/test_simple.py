"""The policies without a model, against hand-worked searches and against the view alone."""

import math
from dataclasses import replace
from functools import partial

import pytest
from optuna.trial import TrialState, create_trial

from hpsearch.contracts.trial import StopKind
from hpsearch.search.policy.build import build_policy
from hpsearch.search.policy.contract import CONTINUE, Continue, New, Pause, Resume, Stop, Wait
from hpsearch.search.policy.pausing import Doing, Pausing, Track
from hpsearch.search.policy.pieces import Pieces
from hpsearch.search.policy.simple import Halving, Sampled, Screen
from hpsearch.search.view import StudyView
from hpsearch.study import parse_study
from hpsearch.study.specification import CONTINUES, FROM_EPOCH
from hpsearch.testing.policy_contract import FIXED, SEARCH, MemoryDatabase, SimulatedDriver, curves, study


def halving(epochs=9):
    spec = study(FIXED, study={"trials": 100}, train={"function": "a:b", "epochs": epochs})
    return Halving(StudyView(spec), Pieces(False, 3, epochs))


def train(policy, number, *values):
    """Reports epochs until the trial pauses; the values of those that are left must be none."""
    for epoch, value in enumerate(values, start=1):
        policy.view.report(number, epoch, value)
        decision = policy.report(number, epoch, value)
    return decision


def test_halving_promotes_the_best_third_of_each_rung():
    policy = halving()
    for number, value in enumerate([0.5, 0.3]):
        assert isinstance(policy.begin(), New)
        policy.start(number)
        assert isinstance(train(policy, number, value), Pause)
    assert isinstance(policy.begin(), New), "one of two is not a third"
    policy.start(2)
    assert isinstance(train(policy, 2, 0.4), Pause)
    assert policy.begin() == Resume(1, "in the best 1/3 of the trials that reached epoch 1")
    policy.resume(1)
    assert isinstance(policy.begin(), New), "the one of three goes on already"
    assert isinstance(train(policy, 1, 0.3, 0.2, 0.1), Pause)
    policy.start(3)
    assert isinstance(train(policy, 3, 0.1), Continue), "the best of four goes on at once"


def test_an_imported_trial_without_a_curve_is_in_no_rung():
    """It would be the worst of each, and let the others pass."""
    policy = halving()
    for number in range(6):
        past = create_trial(
            value=0.1,
            params={name: entry.extremes()[0] for name, entry in policy.spec.search.items()},
            distributions=policy.view.space,
            user_attrs={"score": 0.1},
            intermediate_values={9: 0.1},
        )
        past.number = number
        policy.view.add(past)
        policy.add(past)
    policy.start(6)
    assert isinstance(train(policy, 6, 0.5), Pause)
    assert isinstance(policy.begin(), New), "one of one is not a third"


def test_the_least_promising_of_the_paused_are_ended_first():
    """By their place in the rung where each waits, not by their values: a long trial's are lower anyway."""
    policy = halving()
    for number, value in enumerate([0.5, 0.3, 0.4, 0.35]):
        policy.start(number)
        train(policy, number, value)
    policy.resume(1)
    train(policy, 1, 0.3, 0.2, 0.29)
    policy.resume(2)
    train(policy, 2, 0.4, 0.34, 0.34)
    assert policy.surplus(4) == []
    assert policy.surplus(1) == [0, 2, 3]
    assert policy.surplus(2) == [0, 2]
    assert policy.surplus(0) == [1, 2, 3, 0], "of all that end, the best is first"


def test_by_share_the_paused_are_ranked_among_those_that_came_as_far_by_share():
    """Epoch 1 of 8 is as far as epoch 2 of 16: trial 3 is the third of four there, though its epoch 1 is the best."""
    spec = study(SEARCH, study={"trials": 100}, train={"function": "a:b", "schedule": "cosine"})
    policy = Halving(StudyView(spec), Pieces(True, 2, 16))
    curves = [(16, 0.9, 0.45, 0.42, 0.4), (8, 0.5, 0.35), (16, 0.9, 0.3), (8, 0.48)]
    for number, (epochs, *costs) in enumerate(curves):
        pieces = [(len(costs), number)]
        policy.tracks[number] = Track(number, {}, policy.pieces.cuts(epochs), costs, pieces, Doing.PAUSED)
    assert policy.surplus(0) == [2, 1, 0, 3]
    assert policy.surplus(3) == [3]
    assert policy.surplus(2) == [3, 0]


def test_trials_that_cannot_be_trained_hold_no_place_of_a_rung():
    policy = halving()
    for number, value in enumerate([0.1, 0.2, 0.5, 0.4, 0.6, 0.7]):
        policy.start(number)
        train(policy, number, value)
    for number in (0, 1):
        policy.tracks[number] = replace(policy.tracks[number], doing=Doing.ENDED, unfit=True)
    assert policy.promotable(3.0) is policy.tracks[3], (
        "two of six may continue, and these are not the unfit ones"
    )
    assert policy.surplus(2) == [5, 4], "nor do they make others worse"


def test_trials_that_continue_each_other_hold_one_place_of_a_rung():
    """`hpsearch continue` gives a trial the epochs of another one and more; a chain of them is one configuration."""
    policy = halving()
    for number, value in enumerate([0.1, 0.4, 0.5, 0.6, 0.7, 0.8]):
        policy.start(number)
        train(policy, number, value)
    policy._enter(replace(policy.tracks[0], doing=Doing.ENDED))
    for number, source, value in ((6, 0, 0.2), (7, 6, 0.05)):
        longer = create_trial(
            value=value,
            params=policy.tracks[0].hparams,
            distributions=policy.view.space,
            user_attrs={"score": value, CONTINUES: source, FROM_EPOCH: 1},
            intermediate_values={1: 0.1, 2: value, 3: value},
        )
        longer.number = number
        policy.view.add(longer)
        policy.add(longer)
    assert policy.promotable(3.0) is policy.tracks[1], "two of six configurations may continue"
    assert [[track.number for _, track, _ in rung] for rung in policy.rungs()] == [[7], [0, 1, 2, 3, 4, 5]]
    assert policy.surplus(4) == [5]


def test_screen_takes_the_best_that_can_be_trained():
    policy = Screen(StudyView(study(FIXED, study={"trials": 3})), epochs=1, top=1)
    for number in range(3):
        policy.start(number)
    for number, value in enumerate([0.1, 0.3, 0.2]):
        train(policy, number, value)
    policy._enter(replace(policy.tracks[0], doing=Doing.ENDED, unfit=True))
    assert policy.begin(new=False) == Resume(2, "among the best 1 after epoch 1")


def test_halving_goes_by_the_best_value_so_far():
    policy = halving()
    for number, values in enumerate([(0.2, 0.3, 0.9), (0.3, 0.4, 0.5), (0.4, 0.4, 0.4)]):
        policy.start(number)
        train(policy, number, values[0])
        if number != 0:
            policy.resume(number)
            train(policy, number, *values)
    policy.resume(0)
    assert isinstance(train(policy, 0, 0.2, 0.3, 0.9), Continue), "of three at epoch 3, it had 0.2"


def test_when_no_trial_may_begin_one_of_each_rung_goes_on_once_no_trial_runs():
    policy = halving()
    for number, value in enumerate([0.5, 0.3]):
        policy.start(number)
        if number == 1:
            assert policy.begin(new=False) == Wait()
        train(policy, number, value)
    assert policy.begin(new=False) == Resume(1, "in the best 1/3 of the trials that reached epoch 1")
    policy.resume(1)
    train(policy, 1, 0.3, 0.2, 0.1)
    assert policy.begin(new=False) == Resume(1, "in the best 1/3 of the trials that reached epoch 3")


@pytest.mark.parametrize("top", [1, 3])
def test_screen_trains_the_best_to_their_end(top):
    spec = study(FIXED, study={"trials": 8})
    driver = SimulatedDriver(partial(build_policy, "screen"), spec, MemoryDatabase(), curves(3), [])
    driver.policy = Screen(driver.view, epochs=2, top=top)
    while driver.live or driver.begin():
        driver.epoch(*driver.live)
    driver.close()
    lengths = {n: len(trial.intermediate_values) for n, trial in driver.database.trials.items()}
    best = sorted(
        lengths, key=lambda n: min(driver.database.trials[n].intermediate_values[e] for e in (1, 2))
    )
    assert {n for n, length in lengths.items() if length == 9} == set(best[:top])
    assert {length for n, length in lengths.items() if n not in best[:top]} == {2}
    assert driver.database.trials[best[-1]].state is TrialState.PRUNED


def test_screen_waits_for_the_first_epochs_of_all():
    policy = Screen(StudyView(study(FIXED, study={"trials": 2})), epochs=1, top=1)
    policy.start(0)
    policy.start(1)
    train(policy, 0, 0.5)
    assert policy.begin(new=False) == Wait()
    train(policy, 1, math.inf)
    assert policy.begin(new=False) == Resume(0, "among the best 1 after epoch 1")


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
@pytest.mark.parametrize("pruner", ["none", "median", "asha", "hyperband"])
def test_without_pauses_all_is_as_the_view_alone_decides(sampler, pruner):
    tables = {"sampler": {"name": sampler}, "pruner": {"name": pruner}, "study": {"trials": 25}}
    view, alone = StudyView(study(**tables)), StudyView(study(**tables))
    policy, cut = Sampled(view), 0
    for number in range(25):
        assert isinstance(policy.begin(), New)
        hparams = policy.start(number)
        assert hparams == alone.ask(number)
        values, state, kind = [], TrialState.COMPLETE, StopKind.FINISHED
        for epoch in range(1, hparams["epochs"]):
            values.append(curves(1)(number, epoch))
            for one in (view, alone):
                one.report(number, epoch, values[-1])
            decision = policy.report(number, epoch, values[-1])
            assert isinstance(decision, Stop) == alone.should_prune(number)
            if decision != CONTINUE:
                state, kind, cut = TrialState.PRUNED, decision.verdict.kind, cut + 1
                assert decision.verdict.detail == f"the {pruner} pruner stopped it at epoch {epoch}"
                break
        attrs = {"score": min(values), "stop_reason": kind.value, "epochs_run": len(values)}
        for one in (view, alone):
            record = create_trial(
                state=state,
                value=min(values),
                params=hparams,
                distributions=one.space,
                user_attrs=attrs,
                system_attrs=one.rungs(number),
                intermediate_values=dict(enumerate(values, start=1)),
            )
            record.number = number
            one.replace(record)
        policy.finish(record)
    assert (cut > 0) is (pruner != "none")
    assert policy.begin(new=False) == Wait()
    with pytest.raises(ValueError, match="pauses none"):
        policy.resume(0)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [("constant", "reached epoch 5"), ("cosine", "reached the same share of their epochs")],
)
def test_whom_a_trial_is_compared_with_is_told_as_it_is(schedule: str, words: str) -> None:
    tables = {
        "study": {"name": "s", "policy": "auto"},
        "data": {"dataset": "digits"},
        "train": {"schedule": schedule},
        "search": {"epochs": {"low": 5, "high": 20}},
    }
    policy = build_policy("auto", StudyView(parse_study(tables)))
    assert isinstance(policy, Pausing)
    assert policy.reached(Track(0, {"epochs": 20}, (5, 10, 20), pieces=[(5, 0)])) == words
