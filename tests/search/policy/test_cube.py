"""The search space as a unit cube: there and back."""

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpsearch.search.policy.cube import Cube
from hpsearch.search.space import Space, distributions
from hpsearch.testing.policy_contract import CONDITIONAL, study

SPACE = {
    "ranked": CategoricalDistribution((64, 16, 32)),
    "mixed": CategoricalDistribution(("sgd", None, True, 1.5)),
    "labels": CategoricalDistribution(('["a"]', "[]")),
    "whole": IntDistribution(3, 9),
    "steps": IntDistribution(10, 50, step=20),
    "log": IntDistribution(1, 512, log=True),
    "float": FloatDistribution(-1.0, 2.0),
    "tenths": FloatDistribution(0.0, 0.3, step=0.1),
    "rate": FloatDistribution(1e-6, 10.0, log=True),
}


@pytest.mark.parametrize("name", SPACE)
def test_every_place_is_a_value_and_every_value_has_a_place(name):
    distribution = SPACE[name]
    cube = Cube(Space({name: distribution}))
    places = cube.sample(np.random.default_rng(0), 300)
    assert places.shape == (300, cube.width)
    assert places.min() >= 0
    assert places.max() <= 1
    values = [cube.hparams(place)[name] for place in places]
    assert all(distribution._contains(distribution.to_internal_repr(value)) for value in values)
    for place, value in zip(places, values, strict=True):
        assert cube.unit({name: value}) == pytest.approx(place, abs=1e-9)
    if isinstance(distribution, IntDistribution):
        assert all(type(value) is int for value in values)
        assert (cube.wholes(places, name, 0) == values).all()


@pytest.mark.parametrize(
    ("name", "count"), [("ranked", 3), ("mixed", 4), ("labels", 2), ("whole", 7), ("steps", 3), ("tenths", 4)]
)
def test_values_are_equally_likely(name, count):
    cube = Cube(Space({name: SPACE[name]}))
    values = [cube.hparams(place)[name] for place in cube.sample(np.random.default_rng(1), 7000)]
    shares = np.array([values.count(value) for value in set(values)]) / len(values)
    assert len(shares) == count
    assert shares == pytest.approx(1 / count, abs=0.02)


def test_the_ends_of_whole_numbers_on_a_logarithmic_scale_have_their_whole_share():
    cube = Cube(Space({"n": IntDistribution(1, 4, log=True)}))
    values = [cube.hparams(place)["n"] for place in cube.sample(np.random.default_rng(1), 4000)]
    shares = [values.count(n) / len(values) for n in (1, 2, 3, 4)]
    assert shares == pytest.approx(np.diff(np.log([0.5, 1.5, 2.5, 3.5, 4.5])) / np.log(9), abs=0.03)


def test_numbers_of_a_list_are_in_order_and_names_are_equally_far():
    cube = Cube(Space({name: SPACE[name] for name in ("ranked", "mixed")}))
    at = {n: cube.unit({"ranked": n, "mixed": "sgd"}) for n in (16, 32, 64)}
    assert at[16][0] < at[32][0] < at[64][0]
    named = [cube.unit({"ranked": 16, "mixed": name}) for name in ("sgd", None, True, 1.5)]
    far = {round(float(np.abs(a - b).sum()), 6) for a in named for b in named if a is not b}
    assert far == {2.0}


def test_a_single_value_has_no_axis():
    space = {
        "a": FloatDistribution(2.0, 2.0),
        "b": CategoricalDistribution(("x",)),
        "c": IntDistribution(4, 4),
    }
    cube = Cube(Space(space))
    assert cube.width == 0
    assert cube.hparams(cube.sample(np.random.default_rng(0), 1)[0]) == {"a": 2.0, "b": "x", "c": 4}
    assert cube.wholes(np.zeros((2, 0)), "c", 0).tolist() == [4, 4]


def test_the_ends_of_a_logarithmic_range_are_not_left():
    cube = Cube(Space({"rate": SPACE["rate"]}))
    low, high = (cube.hparams(np.array([u]))["rate"] for u in (0.0, 1.0))
    assert (low, high) == pytest.approx((1e-6, 10.0))
    assert low >= 1e-6
    assert high <= 10.0


def test_a_place_lies_in_the_middle_of_axes_without_a_meaning():
    cube = Cube(distributions(study(CONDITIONAL).search))
    places = cube.sample(np.random.default_rng(0), 200)
    for place in places:
        assert cube.unit(cube.hparams(place)) == pytest.approx(place, abs=1e-9)
    point = {**cube.hparams(places[0]), "train.optimizer": "adam", "train.beta2": 0.99}
    with_leftovers = {**point, "train.momentum": 0.6, "train.nesterov": False, "train.clip_norm": 0.3}
    assert (cube.unit(with_leftovers) == cube.unit(point)).all()


def test_wholes_that_have_no_meaning_are_what_is_asked_for():
    search = {"batch_size": [16, 32], "when": {"batch_size = 16": {"epochs": {"low": 4, "high": 12}}}}
    cube = Cube(distributions(study(search).search))
    places = cube.sample(np.random.default_rng(0), 100)
    expected = [cube.hparams(place).get("epochs", 99) for place in places]
    assert cube.wholes(places, "epochs", 99).tolist() == expected
    assert 99 in expected
    assert min(expected) < 99
