"""Kept weights as a model ready for use, in the process that knows nothing else of the trial."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hpsearch.contracts.engine import Engine
from hpsearch.contracts.trial import EndKind, EpochResult
from hpsearch.errors import ModelError
from hpsearch.training.build import build_engine
from hpsearch.training.calibration import temperature
from hpsearch.training.data import Prepared, load
from hpsearch.training.saved import load_model
from hpsearch.training.weights import save_weights
from tests.training.trials import make_run

CPU = torch.device("cpu")
MODEL = {"name": "cnn", "args": {"width": 4, "hidden": 16, "norm": True}}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def engine(cache: Path) -> Iterator[Engine]:
    built, _ = build_engine(make_run(cache).spec, CPU, cache=str(cache))
    yield built
    built.close()


@pytest.fixture(scope="module")
def data(cache: Path) -> Prepared:
    spec = make_run(cache).spec.data
    return load(spec, cache=cache, device=CPU).at(spec)


@pytest.mark.parametrize(
    "train",
    [{}, {"ema_decay": 0.8}, {"precision": "float64"}, {"precision": "bfloat16"}, {"precision": "float16"}],
    ids=["plain", "averaged", "float64", "bfloat16", "float16"],
)
def test_the_model_gives_the_validation_loss_that_its_trial_reported(
    engine: Engine, data: Prepared, tmp_path: Path, train: dict[str, object]
) -> None:
    run = make_run(tmp_path, model=MODEL, train={"schedule": "constant", **train})
    engine.admit(run)
    results = [result for _ in range(3) for result in engine.step() if isinstance(result, EpochResult)]
    end = engine.evict(0, EndKind.FINISHED)
    assert end.weights is not None
    model = load_model(end.weights)
    assert not model.training
    best = min(results, key=lambda result: result.metrics["val_loss"])
    assert model.metadata["precision"] == train.get("precision", "float32")
    assert model.metadata["epoch"] == str(best.epoch)
    assert float(model.metadata["val_loss"]) == best.metrics["val_loss"]
    images, targets = data.pixels(data.val, slice(None)), data.targets(data.val, slice(None))
    with torch.inference_mode():
        loss = torch.nn.functional.cross_entropy(model(images).double(), targets).item()
    assert loss == pytest.approx(best.metrics["val_loss"], rel=1e-6)
    error = sum(
        name != data.classes[index]
        for name, index in zip(model.classify(images), targets.tolist(), strict=True)
    )
    assert error / len(targets) == pytest.approx(best.metrics["val_error"], abs=0.02)


def test_images_come_as_they_are(engine: Engine, tmp_path: Path) -> None:
    engine.admit(make_run(tmp_path, model=MODEL))
    engine.step()
    end = engine.evict(0, EndKind.STOPPED)
    assert end.weights is not None
    model = load_model(end.weights)
    photo = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(model(photo), model(photo / 255))
        assert model(torch.rand(3, 1, 20, 30)).shape == (3, 10)  # resized
        with pytest.raises(ModelError, match=r"shape \[2, 3, 8, 8\]; this model takes \[B, 1, H, W\]"):
            model(torch.rand(2, 3, 8, 8))


def test_probabilities_are_calibrated_by_the_validation_part(
    engine: Engine, data: Prepared, tmp_path: Path
) -> None:
    engine.admit(make_run(tmp_path, model=MODEL, train={"learning_rate": 0.2}))
    for _ in range(3):
        engine.step()
    end = engine.evict(0, EndKind.FINISHED)
    assert end.weights is not None
    model = load_model(end.weights)
    heat = float(model.metadata["temperature"])
    images, targets = data.pixels(data.val, slice(None)), data.targets(data.val, slice(None))
    with torch.inference_mode():
        outputs = model(images)
    assert heat == pytest.approx(temperature(outputs, targets), rel=1e-3)
    assert heat != pytest.approx(1.0, rel=0.01)
    torch.testing.assert_close(model.probabilities(images), (outputs.double() / heat).softmax(1))
    losses = [
        -belief.gather(1, targets[:, None]).log().mean()
        for belief in (model.to_probabilities(outputs), model.to_belief(outputs))
    ]
    assert losses[0] < losses[1]
    del model.metadata["temperature"]  # as weights of an older version
    torch.testing.assert_close(model.to_probabilities(outputs), model.to_belief(outputs))


def test_weights_of_an_own_loop_are_not_rebuilt(tmp_path: Path) -> None:
    save_weights(tmp_path / "own.safetensors", {"w": torch.ones(1)}, {"study": "x"})
    with pytest.raises(ModelError, match="the header lacks channels, classes, height"):
        load_model(tmp_path / "own.safetensors")


def test_weights_that_do_not_fit_their_header(engine: Engine, tmp_path: Path) -> None:
    engine.admit(make_run(tmp_path, model=MODEL))
    engine.step()
    end = engine.evict(0, EndKind.STOPPED)
    assert end.weights is not None
    metadata = load_model(end.weights).metadata
    save_weights(tmp_path / "other.safetensors", {"w": torch.ones(1)}, metadata)
    with pytest.raises(ModelError, match="do not fit the model cnn"):
        load_model(tmp_path / "other.safetensors")
    save_weights(tmp_path / "newer.safetensors", {"w": torch.ones(1)}, metadata | {"precision": "float4"})
    with pytest.raises(ModelError, match=r"newer\.safetensors: .* precision is 'float4' and not one of"):
        load_model(tmp_path / "newer.safetensors")
