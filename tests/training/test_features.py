"""Features of a frozen backbone: the same training as without them, computed once, and only where they are exact."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpsearch.contracts.trial import EndKind, EpochResult
from hpsearch.study import ModelSpec
from hpsearch.training import models
from hpsearch.training.build import build_engine
from hpsearch.training.plain import PlainEngine
from hpsearch.training.weights import read_weights, save_weights
from tests.training.trials import make_run

CPU = torch.device("cpu")
CNN: dict[str, Any] = {"name": "cnn", "args": {"width": 4, "hidden": 16, "dropout": 0.3, "norm": True}}
STAGES: dict[str, Any] = {
    "stages": [{"name": "head", "epochs": 3}, "all"],
    "epochs": 5,
    "learning_rate": 0.01,
}
NO_ROOM = {"cache_limit_gb": 1e-6}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache that has the images already, so that only features need room."""
    engine, _ = build_engine(make_run(tmp_path).spec, CPU, cache=str(tmp_path / "cache"))
    engine.admit(make_run(tmp_path))
    return tmp_path / "cache"


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("features-*"))


def trained(
    folder: Path, cache: Path, epochs: int = 5, **tables: Any
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor], dict[str, Any]]:
    """Returns the metrics of a trial's epochs, its best weights and its facts."""
    tables = {"model": CNN, **tables, "train": STAGES | tables.get("train", {})}
    run = make_run(folder, **tables)
    engine, _ = build_engine(run.spec, CPU, cache=str(cache))
    assert isinstance(engine, PlainEngine)
    engine.admit(run)
    results = [item for _ in range(epochs) for item in engine.step()]
    assert all(isinstance(item, EpochResult) for item in results), results
    end = engine.evict(0, EndKind.FINISHED)
    assert end.weights is not None
    metrics = [dict(item.metrics) for item in results if isinstance(item, EpochResult)]
    return metrics, dict(read_weights(Path(end.weights))[0]), dict(end.facts)


@pytest.mark.parametrize(
    ("tables", "rtol"),
    [
        ({}, 1e-4),
        ({"train": {"precision": "float64"}}, 1e-9),
        ({"train": {"precision": "bfloat16"}}, 2e-2),
        ({"train": {"sampling": "balanced", "ema_decay": 0.9, "micro_batch": 5, "optimizer": "adamw"}}, 1e-4),
        ({"train": {"drop_last": True, "steps_per_epoch": 4, "clip_norm": 0.5}}, 1e-4),
        ({"model": {"name": "mlp", "args": {"hidden": [16]}}}, 1e-4),
        ({"data": {"augment": [{"name": "rotate", "p": 0.0}]}}, 1e-4),
    ],
)
def test_features_train_as_images_do(
    tmp_path: Path, cache: Path, tables: dict[str, Any], rtol: float
) -> None:
    data = tables.pop("data", {}) | {"subset": 0.2}
    images, by_images, _ = trained(tmp_path / "images", cache, data=data | NO_ROOM, **tables)
    assert entries(cache) == []
    features, by_features, _ = trained(tmp_path / "features", cache, data=data, **tables)
    assert len(entries(cache)) == 1
    for one, other in zip(features, images, strict=True):
        assert one == pytest.approx(other, rel=rtol, abs=rtol)
    for name, tensor in by_images.items():
        torch.testing.assert_close(by_features[name], tensor, rtol=10 * rtol, atol=rtol)


FROZEN: dict[str, Any] = {"stages": [], "layer_decay": 1.0}


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ({"freeze": ["features.*"]}, 1),
        ({"freeze": ["features.*", "classifier.1.*"], "args": {"width": 4, "hidden": 16}}, 1),
        ({"freeze": ["features.*"], "unfreeze_after": 3}, 1),
        # Dropout lies below what is trained: features would have none.
        ({"freeze": ["features.*", "classifier.1.*"]}, 0),
        ({"freeze": ["features.0.*"]}, 0),
        ({"name": "mlp", "args": {"hidden": []}}, 0),
    ],
)
def test_what_is_frozen_by_name_has_features_too(
    tmp_path: Path, cache: Path, model: dict[str, Any], kept: int
) -> None:
    tables: dict[str, Any] = {"model": CNN | model, "train": FROZEN}
    images, by_images, _ = trained(tmp_path / "images", cache, data={"subset": 0.2} | NO_ROOM, **tables)
    features, by_features, _ = trained(tmp_path / "features", cache, data={"subset": 0.2}, **tables)
    assert len(entries(cache)) == kept
    for one, other in zip(features, images, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-4)
    for name, tensor in by_images.items():
        torch.testing.assert_close(by_features[name], tensor, rtol=1e-3, atol=1e-4)


def test_looking_for_features_that_are_none_changes_no_training(tmp_path: Path, cache: Path) -> None:
    """BatchNorm's statistics and the random numbers of dropout are those of training without a look."""
    model = CNN | {"freeze": ["features.*", "classifier.1.*"]}
    tables: dict[str, Any] = {"model": model, "train": FROZEN, "data": {"subset": 0.2}}
    looked, weights, _ = trained(tmp_path / "looked", cache, 2, **tables)
    augmented = {"subset": 0.2, "augment": [{"name": "flip", "horizontal": 1e-9}]}
    plain, by_plain, _ = trained(tmp_path / "plain", cache, 2, **{**tables, "data": augmented})
    assert entries(cache) == []
    assert plain == looked
    assert all(torch.equal(weights[name], tensor) for name, tensor in by_plain.items())


def test_a_trial_resumes_on_its_features(tmp_path: Path, cache: Path) -> None:
    unbroken, _, facts = trained(tmp_path / "unbroken", cache, 3)
    assert facts["features"] == "of the frozen backbone, computed once"
    tables = {"model": CNN, "train": STAGES}
    run = make_run(tmp_path / "broken", **tables)
    engine, _ = build_engine(run.spec, CPU, cache=str(cache))
    engine.admit(run)
    engine.step()
    engine.close()  # and not evicted, as when the process is killed
    engine.admit(make_run(tmp_path / "broken", attempt=2, **tables))
    results = [item for _ in range(2) for item in engine.step()]
    assert [dict(item.metrics) for item in results if isinstance(item, EpochResult)] == unbroken[1:]
    assert len(entries(cache)) == 1


def pretrained(path: Path, seed: int) -> str:
    save_weights(path, models.build(ModelSpec.model_validate(CNN), 1, (8, 8), 26, seed).state_dict(), {})
    return str(path)


def test_trials_share_the_features_of_a_backbone(tmp_path: Path, cache: Path) -> None:
    one, other = (pretrained(tmp_path / f"{seed}.safetensors", seed) for seed in (1, 2))
    trained(tmp_path / "a", cache, 1, model=CNN | {"weights": one})
    (first,) = entries(cache)
    written = (first / "features.npy").stat().st_mtime_ns
    trained(tmp_path / "b", cache, 1, model=CNN | {"weights": one}, train={"learning_rate": 0.1})
    assert entries(cache) == [first]
    assert (first / "features.npy").stat().st_mtime_ns == written
    trained(tmp_path / "c", cache, 1, model=CNN | {"weights": one}, data={"subset": 0.5})
    trained(tmp_path / "d", cache, 1, model=CNN | {"weights": other})
    assert len(entries(cache)) == 3


def test_those_that_were_not_used_for_longest_make_room(tmp_path: Path, cache: Path) -> None:
    kept: list[Path] = []
    for seed in range(3):
        weight = (kept[0] / "features.npy").stat().st_size if kept else 0
        # A quarter of the limit has room for two.
        limit = {"cache_limit_gb": 2.5 * 4 * weight / 1e9} if kept else {}
        wide = {"name": "cnn", "args": {"width": 4, "hidden": 256}}
        trained(tmp_path / str(seed), cache, 1, model=wide, data=limit, study={"seed": seed})
        kept += [path for path in entries(cache) if path not in kept]
    assert set(entries(cache)) == {kept[1], kept[2]}


def test_features_of_other_code_are_computed_anew(tmp_path: Path, cache: Path) -> None:
    expected, _, _ = trained(tmp_path / "a", cache, 2)
    (entry,) = entries(cache)
    file = entry / "features.npy"
    right = np.load(file)
    np.save(file, right + 1)
    found, _, _ = trained(tmp_path / "b", cache, 2)
    assert found == expected
    assert np.array_equal(np.load(file), right)


@pytest.mark.parametrize(
    "tables",
    [
        {"data": {"augment": [{"name": "rotate"}]}},
        {"data": {"progressive": [[0.0, 16], [0.5, 32]]}, "model": {"name": "shufflenet_v2_x0_5"}},
        # Its last convolution is averaged behind the head.
        {"model": {"name": "squeezenet1_1"}, "data": {"image_size": 32}},
    ],
)
def test_images_are_trained_on_where_features_would_not_be_exact(
    tmp_path: Path, cache: Path, tables: dict[str, Any]
) -> None:
    data = tables.pop("data") | {"subset": 0.02}
    _, _, facts = trained(tmp_path / "a", cache, 1, data=data, train={"batch_size": 8}, **tables)
    assert entries(cache) == []
    assert "features" not in facts
