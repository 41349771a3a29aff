"""The diagnosis of a trial by its two curves, on curves drawn by hand."""

import math

import pytest

from hpsearch.search.fit import Fit, diagnose
from hpsearch.spec.train import FitSpec

CHANCE = math.log(10)

FALLING = [2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.13, 0.1]
FLAT = [2.0, 1.2, 0.8, 0.6, 0.52, 0.5, 0.5, 0.5, 0.5, 0.5]
TURNING = [2.0, 1.2, 0.8, 0.6, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8]
# A search's best trial on the digits: nearly all right, the tiny loss moved by single pictures.
DIGITS_VAL = [1.1, 0.21, 0.09, 0.06, 0.045, 0.0314, 0.041, 0.036, 0.044, 0.039, 0.047, 0.04, 0.046, 0.043]
DIGITS_TRAIN = [1.9, 0.5, 0.2, 0.1, 0.07, 0.05, 0.03, 0.02, 0.015, 0.01, 0.008, 0.006, 0.005, 0.004]


@pytest.mark.parametrize(
    ("train", "val", "expected"),
    [
        pytest.param(FALLING, TURNING, Fit.OVERFIT, id="validation turns while training falls"),
        pytest.param(TURNING, TURNING, Fit.GOOD, id="both rise: no learning by heart"),
        pytest.param([], TURNING, Fit.OVERFIT, id="no training loss is reported"),
        pytest.param(FALLING, FLAT, Fit.GOOD, id="a gap that no longer widens"),
        pytest.param(DIGITS_TRAIN, DIGITS_VAL, Fit.GOOD, id="noise on a tiny loss"),
        pytest.param(FALLING, [*FLAT[:-1], 0.9], Fit.GOOD, id="one bad epoch at the end"),
        pytest.param(FALLING, [*FLAT[:7], 0.49, 0.9, 0.52], Fit.OVERFIT, id="two epochs behind the lowest"),
        pytest.param(FALLING, [*FLAT[:8], 0.49, 0.9], Fit.GOOD, id="one epoch behind the lowest"),
        pytest.param(FALLING, FALLING, Fit.UNDERFIT, id="still learning"),
        pytest.param(FALLING, [0.6, 0.5, 0.41, 0.4, 0.44, 0.42, 0.41], Fit.GOOD, id="falls, above the lowest"),
        pytest.param(FALLING, [*FLAT[:7], 0.497, 0.494, 0.491], Fit.GOOD, id="falls by little"),
        pytest.param(DIGITS_TRAIN, [*DIGITS_VAL[:6], 0.03, 0.029, 0.028, 0.027], Fit.GOOD, id="tiny falls"),
        pytest.param([2.3, 2.0, 1.9, 1.9, 1.9, 1.9], [2.3, 2.0, 1.9, 1.9, 1.9, 1.9], Fit.UNDERFIT, id="too weak"),
        pytest.param([2.3, 2.0, 1.9, 1.9, 1.9, 1.9], [2.3, 1.2, 1.0, 0.9, 0.9, 0.9], Fit.GOOD, id="hard training"),
        pytest.param([], [math.nan, math.inf], Fit.UNKNOWN, id="nothing finite"),
        pytest.param([], [], Fit.UNKNOWN, id="no epoch"),
        pytest.param(FLAT, [*FLAT[:-1], math.nan], Fit.GOOD, id="diverged at the end"),
        pytest.param([2.0], [1.9], Fit.UNDERFIT, id="one epoch"),
        pytest.param([0.1], [0.1], Fit.GOOD, id="one good epoch"),
    ],
)  # fmt: skip
def test_the_diagnosis(train: list[float], val: list[float], expected: Fit) -> None:
    assert diagnose(train, val, FitSpec(), CHANCE) == expected


@pytest.mark.parametrize(
    ("fields", "val", "expected"),
    [
        ({"overfit_rise": 0.5}, TURNING, Fit.GOOD),
        ({"overfit_rise": 0.3}, TURNING, Fit.OVERFIT),
        ({"least_change": 0.0}, DIGITS_VAL, Fit.OVERFIT),
        ({"least_change": 0.2}, TURNING, Fit.GOOD),
        ({"underfit_slope": 0.5}, FALLING, Fit.GOOD),
        ({"underfit_ratio": 0.01}, [0.5, 0.5, 0.5], Fit.UNDERFIT),
    ],
)
def test_the_thresholds(fields: dict[str, float], val: list[float], expected: Fit) -> None:
    assert (
        diagnose([0.5 * 0.9**epoch for epoch in range(len(val))], val, FitSpec(**fields), CHANCE) == expected
    )


@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e6])
def test_without_a_loss_of_guessing_the_unit_does_not_matter(unit: float) -> None:
    train, tiny_train = ([unit * loss for loss in curve] for curve in (FALLING, DIGITS_TRAIN))
    assert diagnose(train, [unit * loss for loss in TURNING], FitSpec()) == Fit.OVERFIT
    assert diagnose(tiny_train, [unit * loss for loss in DIGITS_VAL], FitSpec(least_change=0.02)) == Fit.GOOD
