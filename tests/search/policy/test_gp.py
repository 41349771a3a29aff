"""The curve model's arithmetic."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from hpsearch.search.policy import gp
from hpsearch.search.policy.gp import Places, Posterior, fit, kernel, prior


def places(rng, count, width=3, trials=5):
    trial = rng.integers(0, trials, count)
    return Places(rng.random((trials, width))[trial], rng.choice([0.1, 0.4, 0.7, 1.0], count), trial)


def test_the_gradient_is_that_of_the_loss():
    rng = np.random.default_rng(0)
    at, z, weight = places(rng, 20), rng.standard_normal(20), rng.choice([1.0, 1 / 3], 20)
    squares = [(at.x[:, k][:, None] - at.x[:, k][None]) ** 2 for k in range(3)]
    theta = prior(3) + 0.3 * rng.standard_normal(10)
    _, gradient = gp._loss(theta, at, z, weight, squares)
    numeric = approx_fprime(theta, lambda x: gp._loss(x, at, z, weight, squares)[0], 1e-6)
    assert gradient == pytest.approx(numeric, rel=1e-3, abs=1e-3)


def test_a_fit_is_more_probable_than_the_prior():
    rng = np.random.default_rng(1)
    at, weight = places(rng, 40), np.ones(40)
    z = np.linalg.cholesky(kernel(prior(3) + 0.5, at, at) + 0.01 * np.eye(40)) @ rng.standard_normal(40)
    squares = [(at.x[:, k][:, None] - at.x[:, k][None]) ** 2 for k in range(3)]
    theta = fit(at, z, weight)
    assert gp._loss(theta, at, z, weight, squares)[0] < gp._loss(prior(3), at, z, weight, squares)[0] - 0.5
    assert (np.abs(theta - prior(3)) <= 3 * gp._spread(10) + 1e-9).all()


@pytest.mark.parametrize("width", [0, 1, 3])
def test_known_points_are_expected_and_sure(width):
    rng = np.random.default_rng(2)
    at = Places(rng.random((4, width)), np.array([0.1, 0.5, 0.9, 1.0]), np.arange(4))
    z = np.array([1.0, -0.5, 0.2, 0.0])
    theta = prior(width)
    theta[3] = np.log(1e-3)
    mean, deviation = Posterior(theta, at, z, np.ones(4)).predict(at)
    assert mean == pytest.approx(z, abs=1e-3)
    assert deviation.max() < 1e-2
    _, unknown = Posterior(theta, at, z, np.ones(4)).predict(Places(at.x + 5, at.t, at.trial + 9))
    assert unknown.min() > 0.2


def test_pending_points_are_expected_as_before_and_less_uncertain():
    rng = np.random.default_rng(3)
    at, z = places(rng, 15), rng.standard_normal(15)
    pending, others = places(rng, 3), places(rng, 6)
    before, after = (Posterior(prior(3), at, z, np.ones(15), given) for given in (None, pending))
    assert after.mean(others) == pytest.approx(before.mean(others), abs=1e-6)
    assert (after.predict(pending)[1] < before.predict(pending)[1]).all()
    # The same as all points at once.
    both = Posterior(prior(3), at + pending, np.r_[z, before.mean(pending)], np.ones(18))
    assert after.predict(others)[1] == pytest.approx(both.predict(others)[1], abs=1e-6)
