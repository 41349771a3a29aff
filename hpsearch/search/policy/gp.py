"""A Gaussian process over (hyperparameters, time) for learning curves, in numpy and scipy.

    k = s0^2 T0(t,t') + s1^2 X(x,x') T1(t,t') + s2^2 [same trial] T2(t,t') + noise^2 w [same point]

T0, T1 and X are Matern 5/2, X with a length for each axis, T2 is exponential: what all trials share, what trials of
like hyperparameters share, and a trial's own. All scales and lengths have log-normal priors. After Swersky, Snoek
and Adams, Freeze-Thaw Bayesian Optimization (arXiv 1406.3896), with another kernel.

Shapes: N points, M places, D axes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]

_SQRT5 = 5**0.5
_JITTER = 1e-6
_NAMED = 7  # s0 s1 s2 noise t0 t1 t2, then the D lengths
_MEAN = np.log([0.5, 1.0, 0.3, 0.1, 0.7, 1.0, 0.5])
_SD = np.array([0.7, 0.4, 0.7, 0.7, 0.5, 0.5, 0.5])
_STEPS = 30
OWN = 2
"""Where the logarithm of s2 stands, the deviation of what is a trial's own."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where curves are known or asked for.

    Attributes:
        x: [N, D] in the unit cube.
        t: [N] time, about 0 to 1.
        trial: [N] which points belong to one trial; negative numbers for trials that do not exist yet.
    """

    x: Array
    t: Array
    trial: NDArray[np.int64]

    def __getitem__(self, which: Any) -> "Places":
        return Places(self.x[which], self.t[which], self.trial[which])

    def __len__(self) -> int:
        return len(self.t)

    def __add__(self, other: "Places") -> "Places":
        return Places(
            np.concatenate([self.x, other.x]),
            np.concatenate([self.t, other.t]),
            np.concatenate([self.trial, other.trial]),
        )


def prior(width: int) -> Array:
    """Returns the means of the logarithms of scales and lengths, from which a fit begins."""
    return np.concatenate([_MEAN, np.full(width, np.log(0.4) + 0.5 * np.log(max(1, width)))])


def kernel(theta: Array, a: Places, b: Places) -> Array:
    """Returns the covariance [N, M] of values without their noise."""
    p = _Parts(theta, a, b)
    covariance: Array = p.shared + p.like + p.own
    return covariance


def fit(at: Places, z: Array, weight: Array) -> Array:
    """Returns the most probable scales and lengths, as logarithms.

    Args:
        z: [N] standardised values.
        weight: [N] by which the noise's variance is multiplied: 1/n for the mean of n values.
    """
    begin = prior(at.x.shape[1])
    width = 3 * _spread(len(begin))
    squares = [(at.x[:, k][:, None] - at.x[:, k][None]) ** 2 for k in range(at.x.shape[1])]
    found = minimize(
        _loss,
        begin,
        (at, z, weight, squares),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(begin - width, begin + width, strict=True)),
        options={"maxiter": _STEPS},
    )
    theta: Array = found.x if np.isfinite(found.fun) and found.fun < _IMPOSSIBLE else begin
    return theta


def raised_own(theta: Array, least: float) -> Array:
    """Returns scales and lengths with a deviation of the trials' own parts of at least so much."""
    raised = theta.copy()
    raised[OWN] = max(raised[OWN], np.log(max(least, 1e-9)))
    return raised


class Posterior:
    """What is known of all curves, given some points.

    Args:
        pending: places whose values are on their way; they count as known, with their expected value.
    """

    def __init__(
        self, theta: Array, at: Places, z: Array, weight: Array, pending: Places | None = None
    ) -> None:
        noise = float(np.exp(2 * theta[3]))
        covariance = kernel(theta, at, at)
        covariance[np.diag_indices(len(z))] += noise * weight + _JITTER
        self._theta, self._at = theta, at
        self._lower = cholesky(covariance, lower=True, check_finite=False)
        self._alpha = self._solve(z)
        self._variance = float(np.exp(2 * theta[:3]).sum())
        self.smooth: Array = z - noise * weight * self._alpha
        """[N] the points without their noise."""
        if pending is not None and len(pending):
            self._imagine(pending, z, noise)

    def mean(self, at: Places) -> Array:
        """Returns the expected values [M]."""
        expected: Array = kernel(self._theta, self._at, at).T @ self._alpha
        return expected

    def predict(self, at: Places) -> tuple[Array, Array]:
        """Returns the expected values [M] and their standard deviations, without noise."""
        k = kernel(self._theta, self._at, at)
        v = solve_triangular(self._lower, k, lower=True, check_finite=False)
        return k.T @ self._alpha, np.sqrt(np.maximum(self._variance - (v * v).sum(0), 1e-6))

    def _imagine(self, pending: Places, z: Array, noise: float) -> None:
        k = kernel(self._theta, self._at, pending)
        expected = k.T @ self._alpha
        own = kernel(self._theta, pending, pending)
        own[np.diag_indices(len(pending))] += noise + _JITTER
        cross = solve_triangular(self._lower, k, lower=True, check_finite=False)
        n, m = len(z), len(pending)
        lower = np.zeros((n + m, n + m))
        lower[:n, :n], lower[n:, :n] = self._lower, cross.T
        lower[n:, n:] = cholesky(own - cross.T @ cross, lower=True, check_finite=False)
        self._lower, self._at = lower, self._at + pending
        self._alpha = self._solve(np.concatenate([z, expected]))

    def _solve(self, z: Array) -> Array:
        solved: Array = cho_solve((self._lower, True), z, check_finite=False)
        return solved


class _Parts:
    """The kernel's three terms, with what their derivatives need."""

    def __init__(self, theta: Array, a: Places, b: Places) -> None:
        s0, s1, s2, _, l0, l1, l2 = np.exp(theta[:_NAMED])
        # Few different times: their kernels are computed once and looked up.
        ta, ia = np.unique(a.t, return_inverse=True)
        tb, ib = np.unique(b.t, return_inverse=True)
        self.look_up = np.ix_(ia, ib)
        self.apart = np.abs(ta[:, None] - tb[None])
        self.r = _distance(a.x, b.x, np.exp(theta[_NAMED:]))
        self.like_time = s1**2 * _matern(self.apart / l1 * _SQRT5)[self.look_up]
        self.shared = s0**2 * _matern(self.apart / l0 * _SQRT5)[self.look_up]
        self.like = self.like_time * _matern(self.r)
        same = a.trial[:, None] == b.trial[None]
        self.own = s2**2 * np.exp(-self.apart / l2)[self.look_up] * same


_IMPOSSIBLE = 1e9


def _loss(theta: Array, at: Places, z: Array, weight: Array, squares: list[Array]) -> tuple[float, Array]:
    """Returns the negative log posterior of the scales and lengths, up to a constant, and its gradient."""
    p, noise = _Parts(theta, at, at), float(np.exp(2 * theta[3]))
    covariance = p.shared + p.like + p.own
    covariance[np.diag_indices(len(z))] += noise * weight + _JITTER
    try:
        lower = cholesky(covariance, lower=True, check_finite=False)
    except LinAlgError:
        return _IMPOSSIBLE, np.zeros_like(theta)
    alpha = cho_solve((lower, True), z, check_finite=False)
    # d loss / d K = -W / 2
    w = np.outer(alpha, alpha) - cho_solve((lower, True), np.eye(len(z)), check_finite=False)
    s0, s1, _, _, l0, l1, l2 = np.exp(theta[:_NAMED])
    wx = w * _matern(p.r)
    by_time = s0**2 * _matern_slope(p.apart / l0 * _SQRT5), s1**2 * _matern_slope(p.apart / l1 * _SQRT5)
    slopes = w * p.like_time * (5 / 3) * (1 + p.r) * np.exp(-p.r)
    gradient = np.array(
        [
            (w * p.shared).sum(),
            (w * p.like).sum(),
            (w * p.own).sum(),
            (np.diag(w) * weight).sum() * noise,
            0.5 * (w * by_time[0][p.look_up]).sum(),
            0.5 * (wx * by_time[1][p.look_up]).sum(),
            0.5 * (w * p.own * (p.apart / l2)[p.look_up]).sum(),
            *(
                0.5 * (slopes * square).sum() / length**2
                for square, length in zip(squares, np.exp(theta[_NAMED:]), strict=True)
            ),
        ]
    )
    spread = _spread(len(theta))
    off = (theta - prior(at.x.shape[1])) / spread
    loss = 0.5 * z @ alpha + np.log(np.diag(lower)).sum() + 0.5 * off @ off
    return float(loss), off / spread - gradient


def _spread(count: int) -> Array:
    return np.concatenate([_SD, np.full(count - _NAMED, 0.8)])


def _distance(a: Array, b: Array, lengths: Array) -> Array:
    """Returns sqrt(5) times the distances [N, M], each axis measured by its length."""
    a, b = a / lengths, b / lengths
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T
    distances: Array = np.sqrt(np.maximum(squared, 1e-30)) * _SQRT5
    return distances


def _matern(r: Array) -> Array:
    values: Array = (1 + r + r * r / 3) * np.exp(-r)
    return values


def _matern_slope(r: Array) -> Array:
    """Returns the derivative of `_matern` by the logarithm of the length."""
    slopes: Array = (r * r / 3) * (1 + r) * np.exp(-r)
    return slopes
