"""What a model takes: against sums done by hand, and without changing the training."""

import torch
from torch import nn

from hpsearch.contracts.trial import EndKind
from hpsearch.training.build import build_engine
from hpsearch.training.footprint import measure
from tests.training.trials import make_run

MODEL = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 10))


def test_a_model_takes_what_a_sum_by_hand_says() -> None:
    found = measure(["macs", "parameters", "latency_ms"], MODEL, MODEL, torch.zeros(1, 1, 8, 8))
    assert list(found) == ["macs", "parameters", "latency_ms"]
    assert found["parameters"] == 4 * 9 + 4 + 4 * 64 * 10 + 10
    assert found["macs"] == 4 * 9 * 64 + 4 * 64 * 10
    assert 0 < found["latency_ms"] < 100


def test_a_larger_model_is_slower() -> None:
    def latency(width: int) -> float:
        model = nn.Sequential(nn.Conv2d(1, width, 3), nn.Conv2d(width, width, 3))
        return measure(["latency_ms"], model, model, torch.zeros(1, 1, 28, 28))["latency_ms"]

    assert latency(128) > 2 * latency(8)


def test_only_what_a_study_asks_for_is_measured_and_the_training_stays_the_same(tmp_path) -> None:  # type: ignore[no-untyped-def]
    losses = []
    for name, require in (("plain", {}), ("limited", {"latency_ms": "< 1e6", "macs": "< 1e12"})):
        run = make_run(tmp_path / name, study={"require": require}, train={"epochs": 2})
        engine, _ = build_engine(run.spec, torch.device("cpu"), None, str(tmp_path))
        assert engine.admit(run).footprint.keys() == require.keys()
        losses.append([engine.step()[0].metrics["val_loss"] for _ in range(2)])
        engine.evict(run.number, EndKind.FINISHED)
    assert losses[0] == losses[1]
