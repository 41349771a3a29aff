"""Temperatures and reliability."""

import math

import pytest
import torch

from hpsearch.study import TrainSpec
from hpsearch.training.calibration import reliability, temperature
from hpsearch.training.losses import EpochMetrics

CPU = torch.device("cpu")


def drawn(samples: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns logits whose softmax is the truth, and classes drawn from it."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(samples, classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("heat", [0.25, 1.0, 3.0])
def test_the_temperature_undoes_a_factor(heat: float) -> None:
    logits, targets = drawn(20_000, 5)
    assert temperature(logits * heat, targets) == pytest.approx(heat, rel=0.05)


def test_it_is_the_best_of_a_fine_grid() -> None:
    logits, targets = drawn(300, 4, seed=3)
    logits = 5 * logits
    grid = torch.logspace(-1.3, 1.3, 2001).tolist()
    losses = [
        300 * torch.nn.functional.cross_entropy(logits / one, targets).item()
        + 8 * (1 / one - 1 + math.log(one))
        for one in grid
    ]
    assert temperature(logits, targets) == pytest.approx(grid[losses.index(min(losses))], rel=0.01)


@pytest.mark.parametrize(("images", "lowest"), [(1, 0.9), (12, 0.5), (100, 0.2)])
def test_images_without_an_error_move_it_by_their_number(images: int, lowest: float) -> None:
    targets = torch.arange(images) % 10
    heat = temperature(4 * torch.eye(10)[targets], targets)
    assert lowest < heat < 1


def test_where_nothing_can_be_learned_it_is_1() -> None:
    assert temperature(torch.zeros(50, 3), torch.zeros(50, dtype=torch.int64)) == pytest.approx(1, rel=1e-4)


def test_few_images_do_not_spoil_a_model_that_was_right() -> None:
    logits, targets = drawn(4_000, 2, seed=1)

    def loss(heat: float) -> float:
        return torch.nn.functional.cross_entropy(logits / heat, targets).item()

    found = [loss(temperature(*drawn(12, 2, seed))) for seed in range(2, 42)]
    assert sum(found) / len(found) < loss(1.0) + 0.02


def test_reliability_counts_answers_by_their_certainty() -> None:
    belief = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.25, 0.75], [0.35, 0.65]])
    found = reliability(belief, torch.tensor([0, 1, 1, 1]))
    assert found.ece == pytest.approx((abs(1.9 - 1) + abs(0.75 - 1) + abs(0.65 - 1)) / 4)
    assert [count for count, _, _ in found.bins] == [1, 1, 2]
    assert found.bins[2][1:] == pytest.approx((0.95, 0.5))


@pytest.mark.parametrize(
    ("loss", "found"), [("cross_entropy", True), ("mse", True), ("binary_cross_entropy", False)]
)
def test_an_epochs_counters_find_it_over_all_batches(loss: str, found: bool) -> None:
    logits, targets = drawn(400, 3)
    counters = EpochMetrics(TrainSpec.model_validate({"loss": loss}), "classification", 3, CPU)
    for start in range(0, 400, 150):
        counters.update(logits[start : start + 150], targets[start : start + 150])
    heat = counters.temperature()
    assert heat == (pytest.approx(temperature(logits, targets)) if found else None)


def test_a_regression_has_none() -> None:
    counters = EpochMetrics(TrainSpec(loss="mse"), "regression", 1, CPU)
    counters.update(torch.zeros(4, 1), torch.zeros(4, 1))
    assert counters.temperature() is None
