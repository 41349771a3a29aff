"""Losses, metrics, optimizers and schedules of the user's own: equal to ours where they are the same, else refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hpsearch.contracts.trial import EndKind, EpochResult
from hpsearch.errors import ModelError, StudyFileError
from hpsearch.training.build import build_engine
from hpsearch.training.losses import EpochMetrics
from hpsearch.training.own import build_judges
from hpsearch.training.plain import PlainEngine
from hpsearch.training.weights import read_texts
from tests.training.trials import make_run

CPU = torch.device("cpu")
PARTS = "tests.training.parts"
Curve = list[dict[str, float]]


def metric(name: str) -> dict[str, str]:
    return {"build": f"{PARTS}:{name}", "direction": "maximize"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> PlainEngine:
    cache = tmp_path_factory.mktemp("cache")
    built, _ = build_engine(make_run(cache).spec, CPU, cache=str(cache))
    assert isinstance(built, PlainEngine)
    return built


@pytest.fixture
def engine(shared: PlainEngine) -> Iterator[PlainEngine]:
    yield shared
    shared.close()


def curve(engine: PlainEngine, folder: Path, train: dict[str, Any], **tables: Any) -> Curve:
    run = make_run(folder, model={"name": "mlp", "args": {"hidden": [16]}}, train=train, **tables)
    engine.admit(run)
    results = [engine.step()[0] for _ in range(run.spec.train.epochs)]
    engine.close()
    assert all(isinstance(result, EpochResult) for result in results), results
    return [dict(result.metrics) for result in results]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("ours", "own"),
    [
        ({"optimizer": "sgd"}, {"optimizer": f"{PARTS}:sgd", "args": {"optimizer": {"momentum": 0.9}}}),
        (
            {"optimizer": "adamw", "weight_decay": 0.1, "lr_multipliers": {"*.bias": 3.0}},
            {"optimizer": "torch.optim:AdamW", "weight_decay": 0.1, "lr_multipliers": {"*.bias": 3.0}},
        ),
        (
            {"schedule": "step", "step_every": 1.0, "step_gamma": 0.5, "warmup_epochs": 1.5},
            {"schedule": f"{PARTS}:halves", "warmup_epochs": 1.5},
        ),
        (
            {"class_weights": "balanced", "micro_batch": 7},
            {"class_weights": "balanced", "micro_batch": 7, "loss": f"{PARTS}:cross_entropy"},
        ),
    ],
)
def test_a_part_of_ones_own_trains_as_the_same_one_of_ours(
    engine: PlainEngine, tmp_path: Path, ours: dict[str, Any], own: dict[str, Any]
) -> None:
    mixed = {"augment": [{"name": "mixup", "alpha": 0.4}]}
    expected = curve(engine, tmp_path / "ours", ours, data=mixed)
    found = curve(engine, tmp_path / "own", own, data=mixed)
    # torch's own classes call other kernels, which may differ in the last bit.
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-6)


def test_arguments_reach_the_builder(engine: PlainEngine, tmp_path: Path) -> None:
    smoothed = {"loss": f"{PARTS}:cross_entropy", "args": {"loss": {"smoothing": 0.3}}}
    plain, other = (
        curve(engine, tmp_path / str(place), train)
        for place, train in enumerate(({"loss": f"{PARTS}:cross_entropy"}, smoothed))
    )
    assert other[0]["train_loss"] > plain[0]["train_loss"]
    assert other[0]["val_loss"] > plain[0]["val_loss"]  # one's own loss is the yardstick as it is


@pytest.mark.parametrize("build", ["share", "plain_share"])
def test_a_metric_of_ones_own_chooses_the_epoch_that_is_kept(
    engine: PlainEngine, tmp_path: Path, build: str
) -> None:
    found = curve(
        engine,
        tmp_path / "curve",
        {"metrics": {"val_share": metric(build)}, "learning_rate": 0.3},
        study={"metric": "val_share"},
    )
    assert [one["val_share"] for one in found] == pytest.approx([1 - one["val_error"] for one in found])
    run = make_run(
        tmp_path / "kept",
        train={"metrics": {"val_share": metric(build)}, "epochs": 3},
        study={"metric": "val_share"},
    )
    engine.admit(run)
    shares = [engine.step()[0].metrics["val_share"] for _ in range(3)]  # type: ignore[union-attr]
    end = engine.evict(0, EndKind.FINISHED)
    assert end.weights is not None
    assert float(read_texts(Path(end.weights))["val_share"]) == max(shares)


def test_a_regression_takes_a_loss() -> None:
    train = make_run(Path("none"), train={"loss": f"{PARTS}:squares"}).spec.train
    counters = EpochMetrics(train, "regression", 2, CPU, (), build_judges(train, "regression", 2, None))
    counters.update(torch.ones(3, 2), torch.zeros(3, 2))
    assert counters.result() == {"val_loss": 1.0, "val_mae": 1.0}


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            {"loss": f"{PARTS}:mean_loss"},
            r"train\.loss = .*returned shape \[\] for 20 samples; return one loss for",
        ),
        ({"loss": f"{PARTS}:failing_loss"}, r"failing_loss\" failed: IndexError: no such sample"),
        ({"loss": f"{PARTS}:nowhere"}, r'parts\.py\) has no "nowhere"'),
        (
            {"loss": f"{PARTS}:cross_entropy", "args": {"loss": {"smooth": 1}}},
            r'train\.args\.loss\.smooth: .* has no such argument; did you mean "smoothing"',
        ),
        ({"optimizer": f"{PARTS}:nothing"}, r"returned NoneType, not a torch\.optim\.Optimizer"),
        ({"optimizer": "torch.optim:LBFGS"}, r"its step needs a closure"),
        ({"optimizer": f"{PARTS}:sgd"}, r"needs the argument momentum; add train\.args\.optimizer\.momentum"),
        (
            {"optimizer": f"{PARTS}:sgd", "args": {"optimizer": {"lr": 0.1}}},
            r"train\.args\.optimizer\.lr: is known from the study",
        ),
        ({"schedule": f"{PARTS}:negative"}, r"returned -1\.0 at step 0; return a factor of 0 or more"),
        ({"metrics": {"val_words": metric("words")}}, r"returned str, not a number"),
    ],
)
def test_parts_that_do_not_do_are_refused_before_training(
    engine: PlainEngine, tmp_path: Path, train: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        engine.admit(make_run(tmp_path, train=train))


def test_smoothing_is_for_losses_of_ours(engine: PlainEngine, tmp_path: Path) -> None:
    train = {"loss": f"{PARTS}:cross_entropy", "label_smoothing": 0.1}
    with pytest.raises(
        StudyFileError, match=r"train\.label_smoothing = 0\.1 works only with built-in losses"
    ):
        engine.admit(make_run(tmp_path, train=train))


@pytest.mark.parametrize("field", ["optimizer", "schedule", "loss", "metrics"])
def test_a_row_of_a_database_imports_nothing(shared: PlainEngine, tmp_path: Path, field: str) -> None:
    trusting = PlainEngine(CPU, shared._data, ("tests.training.nets",))
    given: Any = {"val_share": metric("share")} if field == "metrics" else f"{PARTS}:halves"
    run = make_run(tmp_path, train={field: given})
    with pytest.raises(
        ModelError, match="the module tests may not be imported here; allow it with --allow tests"
    ):
        trusting.admit(run)
    assert run.spec.objects() == [f"{PARTS}:{'share' if field == 'metrics' else 'halves'}"]
