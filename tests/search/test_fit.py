"""The diagnosis of a trial by its two curves, on curves drawn by hand."""

import math
import random

import pytest

from hpsearch.search.fit import Fit, diagnose
from hpsearch.study.train import FitSpec

CHANCE = math.log(10)

FALLING = [2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.13, 0.1]
FLAT = [2.0, 1.2, 0.8, 0.6, 0.52, 0.5, 0.5, 0.5, 0.5, 0.5]
TURNING = [2.0, 1.2, 0.8, 0.6, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8]
# A search's best trial on the digits: nearly all right, the tiny loss moved by single pictures.
DIGITS_VAL = [1.1, 0.21, 0.09, 0.06, 0.045, 0.0314, 0.041, 0.036, 0.044, 0.039, 0.047, 0.04, 0.046, 0.043]
DIGITS_TRAIN = [1.9, 0.5, 0.2, 0.1, 0.07, 0.05, 0.03, 0.02, 0.015, 0.01, 0.008, 0.006, 0.005, 0.004]

TINY_TURN = [1.1, 0.21, 0.09, 0.06, 0.045, 0.031, 0.0335, 0.036, 0.0385, 0.041, 0.0435]
WIDE_GAP = [2.0, 1.6, 1.3, 1.15, 1.05, 1.0, 1.0, 1.0, 1.0, 1.0]
NOISY = [2.0, 1.2, 0.8, 0.62, 0.4, 0.6, 0.45, 0.58, 0.47, 0.61, 0.44, 0.6, 0.5, 0.6, 0.48, 0.62]
NEGATIVE = [1.0, -1.0, -2.0, -2.6, -2.9, -3.0, -3.0, -3.0, -3.0, -3.0]
NEGATIVE_TURN = [1.0, -1.0, -2.0, -2.6, -2.8, -2.6, -2.3, -2.0, -1.6, -1.2]


@pytest.mark.parametrize(
    ("train", "val", "expected"),
    [
        pytest.param(FALLING, TURNING, Fit.OVERFIT, id="validation turns while training falls"),
        pytest.param(TURNING, TURNING, Fit.GOOD, id="both rise: no learning by heart"),
        pytest.param([], TURNING, Fit.OVERFIT, id="no training loss is reported"),
        pytest.param(FALLING, FLAT, Fit.GOOD, id="a gap that no longer widens"),
        pytest.param(DIGITS_TRAIN, DIGITS_VAL, Fit.GOOD, id="noise on a tiny loss"),
        pytest.param(FALLING, [*FLAT[:-1], 0.9], Fit.GOOD, id="one bad epoch at the end"),
        pytest.param(FALLING, [*FLAT[:7], 0.49, 0.8, 0.9], Fit.OVERFIT, id="two epochs behind the lowest"),
        pytest.param(FALLING, [*FLAT[:7], 0.49, 0.9, 0.52], Fit.GOOD, id="up and down behind the lowest"),
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
        pytest.param(FALLING, [*FALLING[:5], math.nan], Fit.UNKNOWN, id="fell, then NaN"),
        pytest.param([*FALLING[:5], math.inf], [*FALLING[:5], math.inf], Fit.UNKNOWN, id="fell, then infinite"),
        pytest.param([*FALLING[:5], math.nan], FALLING[:6], Fit.UNKNOWN, id="training alone became NaN"),
        pytest.param([2.3, 2.2], [2.3, 2.2, math.nan], Fit.UNKNOWN, id="NaN before it learned anything"),
        pytest.param(FALLING, [*TURNING, math.nan], Fit.OVERFIT, id="rose, then NaN"),
        pytest.param(FALLING, [*FALLING[:4], math.nan, *FALLING[5:]], Fit.UNDERFIT, id="NaN in the middle"),
        pytest.param(FALLING, [*FLAT[:4], math.nan, *FLAT[5:]], Fit.GOOD, id="NaN in the middle, then flat"),
        pytest.param(FALLING, [*FALLING, None], Fit.UNDERFIT, id="the last epoch was not validated"),
        pytest.param(FALLING, [2.0, None, 1.0, None, 0.6, None, 0.4, None], Fit.UNDERFIT, id="every other epoch"),
        pytest.param(FALLING, [None, *TURNING[1:-1], None], Fit.OVERFIT, id="validated but for the ends"),
        pytest.param([None] * 10, TURNING, Fit.OVERFIT, id="training losses are all missing"),
        pytest.param(FALLING[:3], TURNING, Fit.OVERFIT, id="training losses end early"),
        pytest.param([None], [None], Fit.UNKNOWN, id="nothing reported"),
        pytest.param([2.0, 1.0, 0.5, 0.2, 0.05, 0.01, 0.01, 0.01, 0.01, 0.01], WIDE_GAP, Fit.OVERFIT, id="a wide gap"),
        pytest.param([2.0, 1.4, 1.2, 1.1, 1.0, 0.9, 0.9, 0.9, 0.9, 0.9], WIDE_GAP, Fit.GOOD, id="a narrow gap"),
        pytest.param([], WIDE_GAP, Fit.GOOD, id="no training loss, so no gap"),
        pytest.param([0.5, 0.1, 0.01], [2.0, 1.6, 1.3], Fit.UNDERFIT, id="a wide gap that still falls"),
        pytest.param([2.3] * 6, [9.0, 8.0, 7.9, 7.9, 7.9, 7.9], Fit.UNDERFIT, id="worse than guessing"),
        pytest.param([2.0, 1.0, 0.4, 0.2, 0.1, 0.1], [2.4, 2.3, 2.3, 2.3, 2.3, 2.3], Fit.OVERFIT, id="by heart alone"),
        pytest.param([0.4 * 0.95**epoch for epoch in range(16)], NOISY, Fit.GOOD, id="a noisy plateau"),
        pytest.param(FALLING, [1e-9] * 10, Fit.GOOD, id="near zero"),
        pytest.param([0.0] * 4, [0.0] * 4, Fit.GOOD, id="exactly zero"),
        pytest.param([2.0], [1.9], Fit.UNDERFIT, id="one epoch"),
        pytest.param([0.1], [1.9], Fit.OVERFIT, id="one epoch with a gap"),
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
        ({"least_change": 0.0}, TINY_TURN, Fit.OVERFIT),
        ({}, TINY_TURN, Fit.GOOD),
        ({"overfit_gap": 0.1}, FLAT, Fit.OVERFIT),
        ({"least_change": 0.2}, TURNING, Fit.GOOD),
        ({"underfit_slope": 0.5}, FALLING, Fit.GOOD),
        ({"underfit_ratio": 0.01}, [0.5, 0.5, 0.5], Fit.UNDERFIT),
    ],
)
def test_the_thresholds(fields: dict[str, float], val: list[float], expected: Fit) -> None:
    assert (
        diagnose([0.5 * 0.9**epoch for epoch in range(len(val))], val, FitSpec(**fields), CHANCE) == expected
    )


@pytest.mark.parametrize("shift", [0.0, 2.9, -50.0])
@pytest.mark.parametrize(
    ("val", "expected"),
    [(NEGATIVE, Fit.GOOD), (NEGATIVE_TURN, Fit.OVERFIT), ([1.0, 0.0, -1.0, -2.0, -3.0], Fit.UNDERFIT)],
)
def test_losses_of_densities_may_be_negative(val: list[float], expected: Fit, shift: float) -> None:
    train = [loss + shift - 0.1 * epoch for epoch, loss in enumerate(NEGATIVE[: len(val)])]
    assert diagnose(train, [loss + shift for loss in val], FitSpec()) == expected


@pytest.mark.parametrize("guessing", [None, 0.0, -1.0])
def test_without_a_loss_of_guessing_neither_gap_nor_weakness_is_called(guessing: float | None) -> None:
    assert diagnose([0.01] * 5, [1.0] * 5, FitSpec(), guessing) == Fit.GOOD
    assert diagnose([2.3] * 5, [2.3] * 5, FitSpec(), guessing) == Fit.GOOD


@pytest.mark.parametrize("noise", [0.03, 0.1, 0.25])
@pytest.mark.parametrize("epochs", [10, 20, 50])
def test_noise_on_a_plateau_is_seldom_called_a_fault(epochs: int, noise: float) -> None:
    rng = random.Random(epochs)
    train = [0.4 * 0.97**epoch for epoch in range(epochs)]

    def curve(rise: float) -> list[float]:
        level = [0.5 + 2 * math.exp(-epoch) + rise * max(0, epoch / epochs - 0.4) for epoch in range(epochs)]
        return [loss * (1 + noise * rng.gauss(0, 1)) for loss in level]

    plain = [diagnose(train, curve(0.0), FitSpec(), CHANCE) for _ in range(200)]
    turned = [diagnose(train, curve(1.0), FitSpec(), CHANCE) for _ in range(200)]
    assert plain.count(Fit.GOOD) >= 180
    assert turned.count(Fit.OVERFIT) >= 90


@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e6])
def test_without_a_loss_of_guessing_the_unit_does_not_matter(unit: float) -> None:
    train, tiny_train = ([unit * loss for loss in curve] for curve in (FALLING, DIGITS_TRAIN))
    assert diagnose(train, [unit * loss for loss in TURNING], FitSpec()) == Fit.OVERFIT
    assert diagnose(tiny_train, [unit * loss for loss in DIGITS_VAL], FitSpec(least_change=0.02)) == Fit.GOOD
