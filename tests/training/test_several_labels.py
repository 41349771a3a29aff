"""Images that may have several labels: loss, weights, mixing and metrics against torch and scikit-learn."""

import math
from typing import Any

import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, hamming_loss, roc_auc_score, zero_one_loss
from torch import Tensor
from torch.nn import functional

from hpsearch.errors import ModelError, StudyFileError
from hpsearch.study import TrainSpec
from hpsearch.study.checks import DataFacts, check_loss, reported
from hpsearch.training.augment import Mixed
from hpsearch.training.calibration import reliability, temperature, to_probabilities
from hpsearch.training.losses import EpochMetrics, guessing_loss, plain_loss, sample_metrics, training_loss
from hpsearch.training.own import build_judges

CPU = torch.device("cpu")
LABELS = "multilabel"


def spec(**fields: Any) -> TrainSpec:
    return TrainSpec.model_validate({"loss": "binary_cross_entropy", **fields})


def batch(samples: int = 200, labels: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(samples, labels, generator=generator) < torch.linspace(0.1, 0.6, labels)).float()
    return 2 * torch.randn(samples, labels, generator=generator) + 2 * targets - 1, targets


def test_the_loss_is_torchs() -> None:
    outputs, targets = batch()
    expected = functional.binary_cross_entropy_with_logits(outputs, targets)
    assert torch.allclose(training_loss(spec(), LABELS)(outputs, targets), expected)
    assert torch.allclose(plain_loss(spec(), LABELS)(outputs, targets) / len(targets), expected)


def test_balanced_weights_let_both_answers_count_alike() -> None:
    outputs, targets = batch()
    counts = targets.sum(0).long()
    weights = (len(targets) - counts) / counts
    expected = functional.binary_cross_entropy_with_logits(outputs, targets, pos_weight=weights)
    found = training_loss(spec(class_weights="balanced"), LABELS, counts, samples=len(targets))
    assert torch.allclose(found(outputs, targets), expected)
    assert torch.allclose(
        plain_loss(spec(class_weights="balanced"), LABELS)(outputs, targets),
        plain_loss(spec(), LABELS)(outputs, targets),
    )


def test_given_weights_are_those_of_images_with_the_label() -> None:
    outputs, targets = batch(labels=2)
    expected = functional.binary_cross_entropy_with_logits(
        outputs, targets, pos_weight=torch.tensor([3.0, 0.5])
    )
    found = training_loss(spec(class_weights=(3.0, 0.5)), LABELS, targets.sum(0).long(), samples=len(targets))
    assert torch.allclose(found(outputs, targets), expected)


def test_smoothing_asks_for_a_little_less_than_certainty() -> None:
    outputs, targets = batch()
    expected = functional.binary_cross_entropy_with_logits(outputs, targets * 0.8 + 0.1)
    assert torch.allclose(training_loss(spec(label_smoothing=0.2), LABELS)(outputs, targets), expected)


def test_mixed_targets_are_the_loss_of_the_mixture() -> None:
    outputs, targets = batch()
    share = torch.rand(len(targets), generator=torch.Generator().manual_seed(1))
    mixed = Mixed(targets, targets.roll(1, 0), share)
    mixture = share[:, None] * targets + (1 - share[:, None]) * targets.roll(1, 0)
    expected = functional.binary_cross_entropy_with_logits(outputs, mixture)
    assert torch.allclose(training_loss(spec(), LABELS)(outputs, mixed), expected)


NAMES = ("val_average_precision", "val_auc", "val_ece")


@pytest.mark.parametrize("batch_size", [7, 200])
def test_metrics_are_scikit_learns(batch_size: int) -> None:
    outputs, targets = batch()
    counters = EpochMetrics(spec(), LABELS, 6, CPU, NAMES)
    for start in range(0, len(targets), batch_size):
        counters.update(outputs[start : start + batch_size], targets[start : start + batch_size])
    found, said = counters.result(), outputs > 0
    assert found["val_hamming_error"] == pytest.approx(hamming_loss(targets, said))
    assert found["val_subset_error"] == pytest.approx(zero_one_loss(targets, said))
    assert found["val_macro_f1"] == pytest.approx(f1_score(targets, said, average="macro"))
    assert found["val_average_precision"] == pytest.approx(
        average_precision_score(targets, outputs, average="macro")
    )
    assert found["val_auc"] == pytest.approx(roc_auc_score(targets, outputs, average="macro"))
    facts = DataFacts(9, 9, 9, tuple("abcdef"), 1, 8, 8, LABELS, "")
    assert found.keys() == set(reported(facts))
    right, extra, missed = map(sum, zip(*counters.label_counts(), strict=True))
    assert (right + missed, right + extra) == (int(targets.sum()), int(said.sum()))
    assert (extra + missed) / targets.numel() == pytest.approx(found["val_hamming_error"])


def test_a_label_that_no_image_has_or_all_have_is_left_out_of_ranks() -> None:
    outputs, targets = batch(labels=3)
    targets[:, 1], targets[:, 2] = 0, 1
    counters = EpochMetrics(spec(), LABELS, 3, CPU, NAMES)
    counters.update(outputs, targets)
    alone = average_precision_score(targets[:, 0], outputs[:, 0])
    assert counters.result()["val_average_precision"] == pytest.approx(alone)


def test_what_each_sample_adds_comes_to_the_metrics() -> None:
    outputs, targets = batch()
    counters = EpochMetrics(spec(), LABELS, 6, CPU)
    counters.update(outputs, targets)
    means = {
        f"val_{name}": float(values.double().mean())
        for name, values in sample_metrics(spec(), LABELS, outputs, targets).items()
    }
    assert means == pytest.approx({name: counters.result()[name] for name in means})
    assert means.keys() == {"val_loss", "val_hamming_error", "val_subset_error", "val_macro_f1"}


def test_f1_moves_with_the_samples_as_its_influence_says() -> None:
    outputs, targets = batch(400)
    influence = sample_metrics(spec(), LABELS, outputs, targets)["macro_f1"]
    kept = torch.arange(len(targets)) % 100 != 0
    whole, less = (
        float(f1_score(targets[rows], outputs[rows] > 0, average="macro")) for rows in (slice(None), kept)
    )
    expected = float((influence - influence.mean())[~kept].sum()) / len(targets)
    assert whole - less == pytest.approx(expected, abs=5e-4)


def test_guessing_is_the_entropy_of_the_shares() -> None:
    _, targets = batch()
    share = targets.double().mean(0)
    expected = functional.binary_cross_entropy(share.expand_as(targets), targets.double())
    assert guessing_loss(spec(), targets, tuple("abcdef")) == pytest.approx(float(expected))


def test_the_temperature_makes_the_labels_most_probable() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 5, generator=generator, dtype=torch.float64)
    targets = (torch.rand(4000, 5, generator=generator) < logits.sigmoid()).float()
    assert temperature(3 * logits, targets) == pytest.approx(3, rel=0.05)
    certain = to_probabilities(3 * logits, "binary_cross_entropy", LABELS)
    calibrated = to_probabilities(logits, "binary_cross_entropy", LABELS)
    assert reliability(calibrated, targets).ece < 0.02 < reliability(certain, targets).ece


def test_errors_by_label_are_told_the_worst_first() -> None:
    counters = EpochMetrics(spec(), LABELS, 3, CPU)
    counters.update(
        torch.tensor([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0]]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    )
    assert counters.class_errors(("a", "b", "c")) == "b: 1, a: 0.5"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "cross_entropy"}, "may have several labels; choose binary_cross_entropy"),
        ({"loss": "mse"}, "may have several labels; choose binary_cross_entropy"),
        ({"sampling": "balanced"}, 'remove it, and let train.class_weights = "balanced" weight them'),
        ({"loss": "tests.parts:build", "class_weights": "balanced"}, "is your own; weight the labels there"),
    ],
)
def test_what_does_not_suit_several_labels_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyFileError, match=message):
        check_loss(spec(**fields), LABELS)


def focal(classes: int, task: str) -> Any:
    assert (classes, task) == (3, LABELS)
    return lambda outputs, targets: functional.binary_cross_entropy_with_logits(
        outputs, targets, reduction="none"
    ).mean(1)


def most(classes: int) -> Any:
    return lambda outputs, targets: ((outputs > 0) == (targets > 0)).all(0).double().max()


def test_own_losses_and_metrics_get_rows_of_1_and_0() -> None:
    metrics = {"val_most": {"build": f"{__name__}:most", "direction": "maximize"}}
    train = spec(loss=f"{__name__}:focal", metrics=metrics)
    judges = build_judges(train, LABELS, 3, allow=None)
    counters = EpochMetrics(train, LABELS, 3, CPU, judges=judges)
    outputs, targets = batch(labels=3)
    counters.update(outputs, targets)
    found = counters.result()
    assert found["val_loss"] == pytest.approx(
        float(functional.binary_cross_entropy_with_logits(outputs, targets))
    )
    assert not math.isnan(found["val_most"])


def test_a_model_with_other_outputs_is_refused() -> None:
    with pytest.raises(ModelError, match="outputs of shape"):
        training_loss(spec(), LABELS)(torch.zeros(4, 5), torch.zeros(4, 6))
