"""The numbers of a confirmation, against hand-worked ones and against scipy's own tests."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from hpsearch.results.confirm.statistics import compare, holm, optimism, paired_p, summarize


def test_a_summary_worked_by_hand() -> None:
    # mean 3, squared deviations 4 + 1 + 0 + 1 + 4 = 10, std sqrt(10 / 4); t(0.975, 4) = 2.7764451
    found = summarize([1, 2, 3, 4, 5])
    half = 2.7764451 * math.sqrt(2.5) / math.sqrt(5)
    assert (found.n, found.mean) == (5, 3.0)
    assert found.std == pytest.approx(math.sqrt(2.5))
    assert (found.low, found.high) == (pytest.approx(3 - half), pytest.approx(3 + half))


def test_one_value_has_no_interval_and_none_is_refused() -> None:
    assert (summarize([2.0]).mean, summarize([2.0]).std, summarize([2.0]).low) == (2.0, None, None)
    with pytest.raises(ValueError, match="no values"):
        summarize([])


@pytest.mark.parametrize("seed", range(5))
def test_interval_and_p_are_those_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.normal(0.1, 0.05, 6), rng.normal(0.13, 0.05, 6)
    test = stats.ttest_rel(one, other)
    assert paired_p((one - other).tolist()) == pytest.approx(test.pvalue)
    low, high = test.confidence_interval(0.95)
    found = summarize((one - other).tolist())
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(
    ("differences", "p"), [([], 1.0), ([0.5], 1.0), ([0.0, 0.0], 1.0), ([0.25, 0.25, 0.25], 0.0)]
)
def test_p_at_the_edges(differences: list[float], p: float) -> None:
    assert paired_p(differences) == p


@pytest.mark.parametrize(
    ("ps", "expected"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 * .01; 1 * .04 may not fall below 2 * .03
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_worked_by_hand(ps: Sequence[float], expected: Sequence[float]) -> None:
    assert holm(ps) == pytest.approx(expected)


def test_comparisons_are_over_equal_repeats() -> None:
    values = {7: {0: 0.1, 1: 0.2, 2: 0.3}, 3: {1: 0.5, 2: 0.62, 9: 5.0}, 4: {0: 1.0}}
    (only,) = compare(values)
    assert (only.one, only.other, only.difference.n) == (7, 3, 2)
    assert only.difference.mean == pytest.approx(-0.31)
    assert only.p == only.p_holm == pytest.approx(stats.ttest_rel([0.2, 0.3], [0.5, 0.62]).pvalue)


def test_what_differs_by_more_than_luck_is_real() -> None:
    noise = [0.001, -0.002, 0.0, 0.002, -0.001]
    values = {n: {i: level + e for i, e in enumerate(noise)} for n, level in ((1, 0.1), (2, 0.3))}
    values[3] = {i: 0.1 + e for i, e in enumerate(reversed(noise))}
    real = {(found.one, found.other): found.is_real for found in compare(values)}
    assert real == {(1, 2): True, (1, 3): False, (2, 3): True}


@pytest.mark.parametrize(
    ("better", "search", "confirmed", "expected"),
    [("minimize", 0.1, [0.2, 0.4], 0.2), ("maximize", 0.9, [0.8, 0.6], 0.2), ("minimize", 0.3, [0.2], -0.1)],
)
def test_optimism_is_above_zero_when_too_much_was_promised(
    better: str, search: float, confirmed: list[float], expected: float
) -> None:
    assert optimism(search, confirmed, better).mean == pytest.approx(expected)
