"""Losses against torch's own and numbers by hand; metrics against scikit-learn."""

import math
from typing import Any

import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score, top_k_accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional

from hpsearch.errors import ModelError, StudyFileError
from hpsearch.study import TrainSpec
from hpsearch.study.checks import DataFacts, reported
from hpsearch.study.train import LABEL_LOSSES, NUMBER_LOSSES
from hpsearch.training.augment import Mixed
from hpsearch.training.losses import (
    CLASSIFICATION,
    MULTILABEL,
    REGRESSION,
    EpochMetrics,
    guessing_loss,
    plain_loss,
    sample_metrics,
    training_loss,
)

CPU = torch.device("cpu")


def spec(loss: str, **fields: Any) -> TrainSpec:
    return TrainSpec(loss=loss, **fields)  # type: ignore[arg-type]


def batch(samples: int = 64, classes: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs = 3 * torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    return outputs, torch.randint(classes, (samples,), generator=generator)


def test_the_specification_knows_what_is_here() -> None:
    assert set(NUMBER_LOSSES) == REGRESSION.keys() < CLASSIFICATION.keys()
    assert set(LABEL_LOSSES) == MULTILABEL.keys()
    (known,) = TrainSpec.model_fields["loss"].metadata
    assert set(known.names) == CLASSIFICATION.keys()


@pytest.mark.parametrize("classes", [0, 2, 5, 6])
def test_what_is_said_to_be_reported_is(classes: int) -> None:
    task = "classification" if classes else "regression"
    facts = DataFacts(9, 9, 9, tuple(map(str, range(classes))), 1, 8, 8, task, "")
    counters = EpochMetrics(spec("mse"), task, classes or 2, CPU, reported(facts))
    counters.update(torch.zeros(4, classes or 2), torch.zeros(4, 2) if not classes else torch.zeros(4).long())
    assert counters.result().keys() == set(reported(facts))


# Two samples of two classes with outputs (0, ln 3): softmax (1/4, 3/4), sigmoid (1/2, 3/4); targets 1 and 0.
# cross_entropy   -ln(3/4), -ln(1/4)
# binary          target 1: -(ln(1 - 1/2) + ln(3/4)) / 2; target 0: -(ln(1/2) + ln(1 - 3/4)) / 2
# differences     of (1/4, 3/4) to (0, 1): 1/4 each; to (1, 0): 3/4 each
# huber           x^2 / 2 below 1: 1/32, 9/32
@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("cross_entropy", [-math.log(3 / 4), -math.log(1 / 4)]),
        ("nll", [-math.log(3 / 4), -math.log(1 / 4)]),
        ("binary_cross_entropy", [-math.log(1 / 2 * 3 / 4) / 2, -math.log(1 / 2 * 1 / 4) / 2]),
        ("mse", [1 / 16, 9 / 16]),
        ("l1", [1 / 4, 3 / 4]),
        ("huber", [1 / 32, 9 / 32]),
    ],
)
def test_losses_of_classes_by_hand(loss: str, expected: list[float]) -> None:
    outputs = torch.tensor([[0.0, math.log(3)]] * 2, dtype=torch.float64)
    targets = torch.tensor([1, 0])
    assert training_loss(spec(loss), "classification")(outputs, targets).item() == pytest.approx(
        sum(expected) / 2
    )
    assert plain_loss(spec(loss), "classification")(outputs, targets).item() == pytest.approx(sum(expected))


# Outputs (1, 4) for targets (1.5, 1): differences 0.5 and 3. Huber: 0.5^2 / 2 = 0.125 and 3 - 1/2 = 2.5.
@pytest.mark.parametrize(("loss", "expected"), [("mse", 9.25 / 2), ("l1", 3.5 / 2), ("huber", 2.625 / 2)])
@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (2,)])
def test_losses_of_numbers_by_hand(loss: str, expected: float, shape: tuple[int, ...]) -> None:
    outputs = torch.tensor([1.0, 4.0]).reshape(shape if len(shape) == 2 else (2, 1))
    targets = torch.tensor([1.5, 1.0]).reshape(shape)
    assert training_loss(spec(loss), "regression")(outputs, targets).item() == pytest.approx(expected)
    assert plain_loss(spec(loss), "regression")(outputs, targets).item() == pytest.approx(
        expected * len(outputs)
    )


def test_models_that_end_in_log_softmax_have_the_same_loss() -> None:
    outputs, targets = batch()
    loss = training_loss(spec("nll"), "classification")
    torch.testing.assert_close(
        loss(outputs.log_softmax(1), targets), functional.nll_loss(outputs.log_softmax(1), targets)
    )
    torch.testing.assert_close(loss(outputs.log_softmax(1), targets), loss(outputs, targets))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_torchs_own(smoothing: float) -> None:
    outputs, targets = batch()
    loss = training_loss(spec("cross_entropy", label_smoothing=smoothing), "classification")
    torch.testing.assert_close(
        loss(outputs, targets), functional.cross_entropy(outputs, targets, label_smoothing=smoothing)
    )


@pytest.mark.parametrize("loss", [name for name in CLASSIFICATION if name != "nll"])
def test_smoothed_targets_are_those_of_the_formula(loss: str) -> None:
    outputs, targets = batch(classes=4)
    wanted = functional.one_hot(targets, 4).double() * 0.8 + 0.2 / 4
    probabilities = outputs.softmax(1)
    by_hand = {
        "cross_entropy": lambda: -(wanted * outputs.log_softmax(1)).sum(1).mean(),
        "binary_cross_entropy": lambda: functional.binary_cross_entropy_with_logits(outputs, wanted),
        "mse": lambda: functional.mse_loss(probabilities, wanted),
        "l1": lambda: functional.l1_loss(probabilities, wanted),
        "huber": lambda: functional.huber_loss(probabilities, wanted),
    }
    found = training_loss(spec(loss, label_smoothing=0.2), "classification")(outputs, targets)
    torch.testing.assert_close(found, by_hand[loss]())


def test_one_output_is_the_probability_of_the_second_class() -> None:
    outputs, targets = batch(classes=2)
    one = outputs[:, 1:]
    loss = training_loss(spec("binary_cross_entropy", label_smoothing=0.2), "classification")
    wanted = targets[:, None].double() * 0.8 + 0.1
    torch.testing.assert_close(loss(one, targets), functional.binary_cross_entropy_with_logits(one, wanted))
    metrics = EpochMetrics(spec("binary_cross_entropy"), "classification", 2, CPU)
    metrics.update(one, targets)
    assert metrics.result()["val_error"] == pytest.approx(
        ((one[:, 0] > 0).long() != targets).double().mean().item()
    )


COUNTS = torch.tensor([6, 2, 1])


def test_balanced_weights_are_scikit_learns() -> None:
    labels = torch.arange(3).repeat_interleave(COUNTS)
    outputs, _ = batch(9, 3)
    expected = torch.from_numpy(
        compute_class_weight("balanced", classes=labels.unique().numpy(), y=labels.numpy())
    )
    loss = training_loss(spec("cross_entropy", class_weights="balanced"), "classification", COUNTS)
    losses = functional.cross_entropy(outputs, labels, reduction="none")
    torch.testing.assert_close(loss(outputs, labels), (losses * expected[labels]).mean())
    # Over the whole training part the weights are 1 on average, so torch's own mean agrees.
    torch.testing.assert_close(loss(outputs, labels), functional.cross_entropy(outputs, labels, expected))


@pytest.mark.parametrize("loss", list(CLASSIFICATION))
def test_given_weights_weigh_samples_by_their_class(loss: str) -> None:
    outputs, targets = batch(9, 3)
    found = training_loss(spec(loss, class_weights=(0.0, 2.0, 1.0)), "classification", COUNTS)
    # (0 * 6 + 2 * 2 + 1 * 1) / 9 = 5/9 is the mean weight, which is scaled to 1.
    weights = torch.tensor([0.0, 2.0, 1.0], dtype=torch.float64)[targets] * 9 / 5
    plain = torch.stack(
        [
            plain_loss(spec(loss), "classification")(o[None], t[None])
            for o, t in zip(outputs, targets, strict=True)
        ]
    )
    torch.testing.assert_close(found(outputs, targets), (plain * weights).mean())


@pytest.mark.parametrize("loss", list(CLASSIFICATION))
def test_micro_batches_add_up_to_the_batch(loss: str) -> None:
    outputs, targets = batch(10, 3)
    whole = training_loss(spec(loss, class_weights="balanced", label_smoothing=0.1), "classification", COUNTS)
    parts = [slice(0, 4), slice(4, 7), slice(7, 10)]
    total = sum(whole(outputs[part], targets[part]) * (part.stop - part.start) / 10 for part in parts)
    torch.testing.assert_close(total, whole(outputs, targets))


@pytest.mark.parametrize("loss", list(CLASSIFICATION))
def test_mixed_targets_mix_the_losses(loss: str) -> None:
    outputs, first = batch(8, 3)
    second, lam = first.roll(1), torch.rand(8)
    mean = training_loss(spec(loss, class_weights="balanced"), "classification", COUNTS)
    alone = torch.stack(
        [
            lam[i] * mean(outputs[i : i + 1], first[i : i + 1])
            + (1 - lam[i]) * mean(outputs[i : i + 1], second[i : i + 1])
            for i in range(8)
        ]
    )
    torch.testing.assert_close(mean(outputs, Mixed(first, second, lam)), alone.mean(), rtol=1e-6, atol=1e-6)


def test_a_mixed_regression_mixes_the_losses() -> None:
    outputs, first, lam = torch.randn(4, 2), torch.randn(4, 2), torch.rand(4)
    second = first.roll(1, 0)
    squares = lam * (outputs - first).square().mean(1) + (1 - lam) * (outputs - second).square().mean(1)
    found = training_loss(spec("mse"), "regression")(outputs, Mixed(first, second, lam))
    torch.testing.assert_close(found, squares.mean())


def test_the_yardstick_knows_neither_weights_nor_smoothing() -> None:
    outputs, targets = batch()
    bent = plain_loss(spec("cross_entropy", label_smoothing=0.3, class_weights="balanced"), "classification")
    torch.testing.assert_close(
        bent(outputs, targets), functional.cross_entropy(outputs, targets, reduction="sum")
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_summed_in_float32(dtype: torch.dtype) -> None:
    outputs, targets = batch()
    narrow = outputs.to(dtype)
    loss = plain_loss(spec("cross_entropy"), "classification")
    assert loss(narrow, targets).dtype == torch.float32
    torch.testing.assert_close(loss(narrow, targets), loss(narrow.float(), targets))


@pytest.mark.parametrize(
    ("fields", "task", "message"),
    [
        ({}, "regression", r'train\.loss = "cross_entropy" is for classes, .* choose mse, l1, huber'),
        ({"loss": "mse", "label_smoothing": 0.1}, "regression", r"train\.label_smoothing is for classes"),
        ({"loss": "mse", "class_weights": "balanced"}, "regression", r"train\.class_weights is for classes"),
        ({"loss": "mse", "sampling": "balanced"}, "regression", r"train\.sampling is for classes"),
        ({"class_weights": (1.0, 2.0)}, "classification", r"one number for each of the 3 classes"),
        ({"class_weights": (1.0, 2.0, -1.0)}, "classification", "none negative"),
        ({"class_weights": (0.0, 0.0, 0.0)}, "classification", "not all 0"),
    ],
)
def test_what_does_not_suit_the_task_is_refused(fields: dict[str, Any], task: str, message: str) -> None:
    with pytest.raises(StudyFileError, match=message):
        training_loss(TrainSpec(**fields), task, COUNTS)


def test_outputs_that_do_not_suit_are_refused() -> None:
    with pytest.raises(ModelError, match=r"outputs of shape \[3, 2\] for targets of shape \[3\]"):
        training_loss(spec("mse"), "regression")(torch.zeros(3, 2), torch.zeros(3))
    for loss in set(CLASSIFICATION) - {"binary_cross_entropy"}:
        with pytest.raises(
            ModelError, match=r'one output, which only train\.loss = "binary_cross_entropy" takes'
        ):
            training_loss(spec(loss), "classification")(torch.zeros(3, 1), torch.tensor([0, 1, 0]))


@pytest.mark.parametrize("loss", list(CLASSIFICATION))
def test_metrics_are_scikit_learns(loss: str) -> None:
    outputs, targets = batch(100, 9)
    targets[targets == 3] = 4  # a class that does not occur but is predicted
    outputs[:, 8] = -99
    targets[targets == 8] = 0  # and one that is neither
    metrics = EpochMetrics(spec(loss, label_smoothing=0.1), "classification", 9, CPU)
    for some, wanted in zip(outputs.split(33), targets.split(33), strict=True):
        metrics.update(some, wanted)
    found, guess = metrics.result(), outputs.argmax(1)
    assert found.keys() == {"val_loss", "val_error", "val_macro_f1", "val_top5_error"}
    assert found["val_loss"] == pytest.approx(
        plain_loss(spec(loss), "classification")(outputs, targets).item() / 100
    )
    assert found["val_error"] == pytest.approx((guess != targets).double().mean().item())
    assert found["val_macro_f1"] == pytest.approx(f1_score(targets, guess, average="macro"))
    top = top_k_accuracy_score(targets, outputs.numpy(), k=5, labels=range(9))
    assert found["val_top5_error"] == pytest.approx(1 - top)
    assert metrics.confusion() == confusion_matrix(targets, guess, labels=range(9)).tolist()


def test_five_classes_have_no_top_five() -> None:
    metrics = EpochMetrics(spec("cross_entropy"), "classification", 5, CPU)
    metrics.update(*batch(10, 5))
    assert "val_top5_error" not in metrics.result()


@pytest.mark.parametrize("loss", list(REGRESSION))
def test_metrics_of_a_regression(loss: str) -> None:
    outputs, targets = torch.randn(10, 3), torch.randn(10, 3)
    metrics = EpochMetrics(spec(loss), "regression", 3, CPU)
    for part in (slice(0, 4), slice(4, 10)):
        metrics.update(outputs[part], targets[part])
    mean = training_loss(spec(loss), "regression")(outputs, targets).item()
    assert metrics.result() == pytest.approx(
        {"val_loss": mean, "val_mae": (outputs - targets).abs().mean().item()}
    )


def test_a_diverged_model_has_no_loss() -> None:
    metrics = EpochMetrics(spec("cross_entropy"), "classification", 3, CPU)
    metrics.update(torch.full((4, 3), math.nan), torch.tensor([0, 1, 2, 0]))
    assert math.isnan(metrics.result()["val_loss"])


def test_class_errors_in_words() -> None:
    names = [f"c{number}" for number in range(13)]
    counters = EpochMetrics(spec("cross_entropy"), "classification", 13, CPU)
    targets = torch.tensor([0] * 8 + [1] * 3 + list(range(2, 12)) + [2])  # none of the last class
    taken = torch.tensor([0] * 7 + [1] + [1] * 3 + [0] * 10 + [2])
    counters.update(functional.one_hot(taken, 13).float(), targets)
    told = counters.class_errors(names)
    assert told.startswith("c3: 1, c4: 1")
    assert told.endswith("c11: 1, c2: 0.5")
    assert told.count(":") == 10  # and not c0: 0.12
    right = EpochMetrics(spec("cross_entropy"), "classification", 13, CPU)
    right.update(functional.one_hot(targets, 13).float(), targets)
    assert right.class_errors(names) == "none"
    few = EpochMetrics(spec("cross_entropy"), "classification", 2, CPU)
    few.update(torch.tensor([[1.0, 0.0]] * 8), torch.tensor([0] * 7 + [1]))
    few.update(torch.tensor([[0.0, 1.0]]), torch.tensor([0]))
    assert few.class_errors(["day", "night"]) == "night: 1, day: 0.12"


UNBALANCED = torch.tensor([0] * 11 + [1] * 6 + [2] * 3 + [4])  # class 3 is missing
NUMBERS = torch.tensor([[0.0, 5.0], [0.1, 5.1], [0.2, 5.2], [4.0, 5.3], [9.0, -3.0], [-2.0, 5.0]])


@pytest.mark.parametrize(
    ("task", "loss"),
    [*(("classification", loss) for loss in CLASSIFICATION), *(("regression", loss) for loss in REGRESSION)],
)
def test_no_constant_output_beats_the_loss_of_guessing(task: str, loss: str) -> None:
    targets, columns = (UNBALANCED, 5) if task == "classification" else (NUMBERS, 2)
    classes = tuple("abcde") if task == "classification" else ()
    per_batch = plain_loss(spec(loss), task)
    constant = torch.full((columns,), 0.1, dtype=torch.float64, requires_grad=True)
    if task == "classification" and loss == "l1":
        constant = torch.tensor([30.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([constant], lr=0.3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    for _ in range(1500):
        optimizer.zero_grad()
        found = per_batch(constant.expand(len(targets), -1), targets) / len(targets)
        found.backward()
        optimizer.step()
        schedule.step()
    guessing = guessing_loss(spec(loss), targets, classes)
    assert guessing == pytest.approx(found.item(), abs=1e-3)  # the missing class's output falls without end
    assert guessing is not None
    assert guessing <= found.item() + 1e-9


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("cross_entropy", 0.32508),
        ("binary_cross_entropy", 0.32508),
        ("mse", 0.09),
        ("l1", 0.1),
        ("huber", 0.045),
    ],
)
def test_the_loss_of_guessing_at_nine_to_one(loss: str, expected: float) -> None:
    targets = torch.tensor([0] * 9 + [1])  # -0.9 ln 0.9 - 0.1 ln 0.1 = 0.32508
    assert guessing_loss(spec(loss), targets, ("a", "b")) == pytest.approx(expected, abs=1e-5)


def test_the_loss_of_guessing_of_a_loss_for_classes_is_unknown_for_numbers() -> None:
    assert guessing_loss(spec("cross_entropy"), NUMBERS, ()) is None


@pytest.mark.parametrize(
    ("task", "loss", "columns"),
    [
        *(("classification", loss, columns) for loss in CLASSIFICATION for columns in (2, 7)),
        ("classification", "binary_cross_entropy", 1),
        *(("regression", loss, 3) for loss in REGRESSION),
    ],
)
def test_what_the_samples_add_has_the_metrics_as_its_mean(task: str, loss: str, columns: int) -> None:
    outputs, targets = batch(200, columns)
    if task == "regression":
        targets = outputs + torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1))
    elif columns == 1:
        targets = torch.randint(2, (200,), generator=torch.Generator().manual_seed(1))
    counters = EpochMetrics(spec(loss), task, max(2, columns) if task == "classification" else columns, CPU)
    counters.update(outputs, targets)
    found = sample_metrics(spec(loss), task, outputs, targets)
    means = {f"val_{name}": values.mean().item() for name, values in found.items()}
    assert means == pytest.approx(counters.result())


def test_the_influence_of_samples_on_f1_is_that_of_the_bootstrap() -> None:
    outputs, targets = batch(300, 4)
    outputs[torch.arange(300), targets] += 3
    values = sample_metrics(spec("cross_entropy"), "classification", outputs, targets)["macro_f1"]
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(2000):
        drawn = torch.randint(300, (300,), generator=generator)
        found.append(f1_score(targets[drawn], outputs[drawn].argmax(1), average="macro"))
    assert values.std().item() / math.sqrt(300) == pytest.approx(torch.tensor(found).std().item(), rel=0.1)
