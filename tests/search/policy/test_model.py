"""What the curve model is told, and that it picks what it should."""

import math
from functools import partial

import numpy as np
import pytest

from hpsearch.contracts.trial import StopKind
from hpsearch.search.policy.build import build_policy
from hpsearch.search.policy.contract import New, Resume
from hpsearch.search.policy.cube import Cube
from hpsearch.search.policy.model import CostScale, CurveModel, Observation, chosen
from hpsearch.search.policy.pausing import Doing, Track
from hpsearch.search.policy.pieces import Pieces
from hpsearch.search.policy.thaw import Mixture, Thaw
from hpsearch.search.view import StudyView
from hpsearch.testing.policy_contract import MemoryDatabase, SimulatedDriver, curves, study

RATE = {"function.rate": {"low": 0.0, "high": 1.0}}
PIECES = Pieces(False, 2, 16)


@pytest.mark.parametrize(
    ("costs", "lifted", "expected"),
    [
        ([1.0, math.e, math.e**2], True, [0, 1, 2]),
        ([1.0, math.e, math.e**2], False, [0, 1, 2]),
        ([-1.0, 0.0, 1.0], False, [-1, 0, 1]),
        ([-1.0, 0.0, 1.0], True, np.log([0.1, 1.1, 2.1])),
        ([0.0, 1.0, 2.0], False, [0, 1, 2]),
        ([0.0, 1.0, 2.0], True, np.log([0.1, 1.1, 2.1])),
        ([1.0, math.e, math.e**9], True, [0, 1, 2]),
        ([-3.0, -1.0, 0.0, math.inf], False, [-3, -1, 0, 1]),
        ([-3.0, -1.0, 0.0, math.inf], True, np.log([0.2, 2.2, 3.2, 2.2**2 / 0.2])),
        ([5.0, 5.0, math.inf], True, [math.log(5)] * 3),
        ([-5.0, -5.0, math.inf], True, [math.log(5)] * 3),
        ([0.0, 0.0, 0.0, 1.0], True, np.log([1, 1, 1, 1])),
        ([-1e9, -1e9, -1e9 + 1e-7], True, [math.log(1e9)] * 3),
    ],
)
def test_costs_on_a_scale(costs, lifted, expected):
    """As expected but for mean and deviation, which are those of the finite ones."""
    scale = CostScale.of(np.array(costs), lifted)
    seen = scale(np.array(costs))
    finite = np.array(expected)[np.isfinite(costs)]
    assert seen == pytest.approx((np.array(expected) - finite.mean()) / (finite.std() or 1))
    least = min(costs)
    assert scale.cost(seen[costs.index(least)]) == pytest.approx(least)
    if finite.std():  # else what is larger is cut off
        up, down = scale(np.array([least + 1e-6, least - 1e-6]))
        assert scale.slope(least) == pytest.approx((up - down) / 2e-6, rel=1e-3)


def track(number, costs, pieces, doing=Doing.PAUSED, unfit=False, rate=0.5):
    return Track(number, {"function.rate": rate}, PIECES.cuts(16), costs, pieces, doing, unfit)


def points_of(given):
    model = CurveModel(Cube(StudyView(study(RATE)).space), PIECES, 0)
    model.know(given)
    return model._points.get(0, [])


def test_a_piece_is_the_mean_of_its_last_epochs():
    points = points_of(track(0, [8.0, 6.0, 5.0, 4.0, 4.0, 3.0, 2.0, 1.0], [(1, 0), (2, 3), (4, 5), (8, 9)]))
    assert [(p.order, p.cost, p.weight) for p in points] == [
        (0, 8, 1),
        (3, 6, 1),
        (5, 4.5, 1 / 2),
        (9, 2, 1 / 3),
    ]
    expected = PIECES.time(np.array([1, 2, 3.5, 7]), np.full(4, 16))
    assert [p.time for p in points] == pytest.approx(list(expected))


def test_what_diverged_is_bad_at_its_end():
    points = points_of(track(0, [8.0, 6.0, math.inf], [(1, 0), (2, 1), (3, 2)], Doing.ENDED, unfit=True))
    assert [(p.cost, p.time) for p in points][2:] == [(math.inf, 1.0)]
    assert points_of(track(0, [math.inf], [(1, 0)], Doing.ENDED, unfit=True))[0].cost == math.inf


def test_all_points_of_the_best_and_the_last_of_the_others_are_looked_at():
    def curve(number, cost):
        return [Observation(3 * number + i, number, i / 3, cost + 3 - i, 1.0) for i in range(3)]

    points = {number: curve(number, cost) for number, cost in enumerate([2.0, 0.0, 1.0])}
    assert [(p.number, p.time) for p in chosen(points, 5)] == [
        *((1, time) for time in (0, 1 / 3, 2 / 3)),
        (2, 2 / 3),
        (0, 2 / 3),
    ]
    assert len(chosen(points, 100)) == 9
    many = {number: curve(number, float(number)) for number in range(40)}
    few = chosen(many, 16)
    assert len(few) == 16
    assert [p.number for p in few] == [0, 0, 0, 1, 1, 1, *(p.number for p in few[6:])]
    assert (few[6].number, few[-1].number) == (2, 39), "from good to bad"
    assert len({p.number for p in few[6:]}) == 10


def test_scales_and_lengths_are_those_of_an_earlier_moment_whatever_came_since():
    def known(count, orders=lambda i: i):
        model = CurveModel(Cube(StudyView(study(RATE)).space), PIECES, 0)
        for i in range(count):
            model.know(track(i, [curves(0)(i, 1)], [(1, orders(i))], rate=i / 20))
        return model._fitted()

    assert (known(11) == known(13)).all()
    assert (known(11) != known(14)).any()
    assert (known(11, lambda i: 20 - i) != known(13, lambda i: 20 - i)).any(), (
        "another order, others were first"
    )


def test_the_model_resumes_what_may_become_the_best_and_begins_near_it():
    """Trials are the better the nearer their rate is to 0.3; a falling one at 0.3 was paused early."""
    spec = study(RATE, study={"trials": 1000}, train={"function": "a:b", "epochs": 16})
    policy = Thaw(StudyView(spec), PIECES, Mixture(rule=0.0, random=0.0))

    def value(number, epoch):
        rate = driver.database.trials[number].params["function.rate"]
        return 0.1 + abs(rate - 0.3) + math.exp(-epoch / 4)

    driver = SimulatedDriver(partial(build_policy, "thaw"), spec, MemoryDatabase(), value, [])
    driver.policy, driver.view = policy, policy.view
    for _ in range(300):
        assert driver.live or driver.begin()
        driver.epoch(*driver.live)
    trials = driver.database.trials
    best = min(trials, key=lambda n: min(trials[n].intermediate_values.values()))
    assert trials[best].params["function.rate"] == pytest.approx(0.3, abs=0.03)
    assert len(trials[best].intermediate_values) == 16
    far = {n: abs(trial.params["function.rate"] - 0.3) for n, trial in trials.items()}
    epochs = {n: len(trial.intermediate_values) for n, trial in trials.items()}
    near, off = ([epochs[n] for n in trials if (far[n] < 0.1) is one] for one in (True, False))
    assert sum(near) > 100, "a third of the epochs on a fifth of the range"
    assert np.mean(near) > 2 * np.mean(off), (near, off)


@pytest.mark.parametrize("seed", [0, 1])
def test_what_finds_no_memory_is_learnt_though_it_never_trained(seed):
    """The larger the better, and the larger half does not fit: at random, 30 would be tried."""
    search = {**RATE, "function.other": {"low": 0.0, "high": 1.0}}
    spec = study(search, study={"trials": 60, "seed": seed}, train={"function": "a:b", "epochs": 16})

    def value(number, epoch):
        return 1.1 - driver.database.trials[number].params["function.rate"] + math.exp(-epoch / 4)

    driver, found = SimulatedDriver(partial(build_policy, "auto"), spec, MemoryDatabase(), value, []), 0
    while driver.live or driver.begin():
        number = next(iter(driver.live))
        if driver.database.trials[number].params["function.rate"] > 0.5:
            driver.end(number, StopKind.OUT_OF_MEMORY)
            found += 1
        else:
            driver.epoch(number)
    assert 0 < found < 35, "38 to 46 by the curves alone"


def test_what_is_fitted_is_forgotten_when_an_earlier_point_comes_in():
    model = CurveModel(Cube(StudyView(study(RATE)).space), PIECES, 0)
    tracks = [track(n, [1.0 / (n + 1)], [(1, n + 2)], rate=n / 9) for n in range(10)]
    for one in tracks:
        model.know(one)
    before = model._fitted()
    model.know(tracks[3])
    assert model._fitted() is before, "nothing is new"
    imported = track(11, [5.0], [(1, 0)], rate=0.95)
    model.know(imported)
    rebuilt = CurveModel(Cube(StudyView(study(RATE)).space), PIECES, 0)
    for one in [*tracks, imported]:
        rebuilt.know(one)
    assert np.array_equal(model._fitted(), rebuilt._fitted())
    assert not np.array_equal(model._fitted(), before)


def test_a_third_of_the_decisions_are_by_the_rule():
    spec = study(RATE, study={"trials": 1000}, train={"function": "a:b", "epochs": 16})
    driver = SimulatedDriver(partial(build_policy, "auto"), spec, MemoryDatabase(), curves(2), [])
    why = []
    for _ in range(300):
        if not driver.live:
            step = driver.policy.begin()
            assert isinstance(step, New | Resume)
            why.append(step.why)
            assert driver.begin()
        driver.epoch(*driver.live)
    by_rule = sum("1/3" in sentence or "good enough" in sentence for sentence in why)
    assert 0.2 < by_rule / len(why) < 0.45
