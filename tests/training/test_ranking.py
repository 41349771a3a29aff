"""Metrics that a study may name, against scikit-learn's."""

from pathlib import Path

import pytest
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from hpsearch.contracts.trial import EndKind, EpochResult
from hpsearch.results.confirm.confirm import confirm
from hpsearch.study import TrainSpec
from hpsearch.study.specification import METRICS, ON_DEMAND
from hpsearch.testing.in_process import InProcessExecutor
from hpsearch.training.build import build_engine
from hpsearch.training.calibration import reliability
from hpsearch.training.losses import EpochMetrics
from tests.results.digits import searched, small_spec
from tests.training.trials import make_run

CPU = torch.device("cpu")


def counted(outputs: torch.Tensor, targets: torch.Tensor, loss: str = "cross_entropy") -> dict[str, float]:
    classes = max(2, outputs.shape[1])
    counters = EpochMetrics(
        TrainSpec.model_validate({"loss": loss}), "classification", classes, CPU, ON_DEMAND
    )
    for start in range(0, len(outputs), 70):
        counters.update(outputs[start : start + 70], targets[start : start + 70])
    return counters.result()


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("rounded", [False, True], ids=["all different", "many ties"])
def test_they_equal_scikit_learns(classes: int, rounded: bool) -> None:
    generator = torch.Generator().manual_seed(classes)
    targets = torch.randint(classes, (300,), generator=generator)
    outputs = torch.randn(300, classes, generator=generator) + torch.eye(classes)[targets]
    outputs = outputs.round() if rounded else outputs
    found = counted(outputs, targets)
    belief, truth = outputs.double().softmax(1), targets.numpy()
    columns = [1] if classes == 2 else range(classes)
    for name, theirs in (("val_auc", roc_auc_score), ("val_average_precision", average_precision_score)):
        wanted = [theirs(truth == place, belief[:, place].numpy()) for place in columns]
        assert found[name] == pytest.approx(sum(wanted) / len(wanted), abs=1e-9)
    theirs = balanced_accuracy_score(truth, outputs.argmax(1).numpy())
    assert found["val_balanced_accuracy"] == pytest.approx(theirs)
    assert found["val_ece"] == pytest.approx(reliability(belief, targets).ece)


def test_one_output_of_two_classes_counts_for_the_second() -> None:
    outputs, targets = torch.tensor([[2.0], [-1.0], [0.5], [-3.0]]), torch.tensor([1, 0, 0, 0])
    found = counted(outputs, targets, "binary_cross_entropy")
    assert found["val_auc"] == 1.0
    assert found["val_balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2)


def test_classes_that_do_not_occur_are_left_out() -> None:
    outputs, targets = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    assert 0 < counted(outputs, targets)["val_auc"] < 1
    alone = counted(outputs, torch.zeros(30, dtype=torch.int64))
    assert alone["val_auc"] != alone["val_auc"]  # NaN, which is never the best


def test_they_are_computed_where_a_study_names_them(tmp_path: Path) -> None:
    run = make_run(tmp_path, study={"metric": "val_auc"}, early_stopping={"metric": "val_ece"})
    engine, _ = build_engine(run.spec, CPU, cache=str(tmp_path))
    engine.admit(run)
    (result,) = engine.step()
    assert isinstance(result, EpochResult)
    assert {"val_auc", "val_ece"} <= result.metrics.keys()
    assert "val_average_precision" not in result.metrics
    assert engine.evict(0, EndKind.FINISHED).weights
    assert METRICS["val_auc"] == "maximize"


def test_a_search_by_one_is_confirmed_by_it(tmp_path: Path) -> None:
    options = searched(tmp_path, small_spec(study={"name": "small", "trials": 3, "metric": "val_auc"}))
    outcome = confirm("small", options, top=1, seeds=2, executor=InProcessExecutor())
    assert outcome.confirmation is not None
    values = outcome.confirmation.results[0].values("test_auc").values()
    assert all(0.5 < value <= 1 for value in values)
    assert len(values) == 2
