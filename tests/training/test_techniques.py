"""Techniques of training, one by one, each through the plain engine and the data as a worker holds them.

What has a test of its own elsewhere (augmentation, freezing, losses, layouts, splits, schedules) is not repeated.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hpsearch.contracts.trial import EndKind, EpochResult, TrialEnd, TrialRun
from hpsearch.training import models
from hpsearch.training.build import build_engine
from hpsearch.training.data import load
from hpsearch.training.optimizers import SGD
from hpsearch.training.plain import PlainEngine
from hpsearch.training.weights import read_weights, save_weights
from tests.training.trials import make_run

CPU = torch.device("cpu")
MLP: dict[str, Any] = {"name": "mlp", "args": {"hidden": [8]}}
PLAIN: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant", "epochs": 1}


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


def run_of(folder: Path, **tables: Any) -> TrialRun:
    base: dict[str, Any] = {"model": MLP, "train": PLAIN, "data": {"subset": 0.1}}
    return make_run(
        folder, **{name: {**base.get(name, {}), **tables.get(name, {})} for name in {*base, *tables}}
    )


def epoch(engine: PlainEngine, run: TrialRun) -> tuple[EpochResult, TrialEnd]:
    """Trains one epoch."""
    engine.admit(run)
    (result,) = engine.step()
    assert isinstance(result, EpochResult), result
    return result, engine.evict(0, EndKind.FINISHED)


def weights_of(end: TrialEnd) -> dict[str, torch.Tensor]:
    assert end.weights is not None
    return read_weights(Path(end.weights))[0]


def test_a_full_batch_is_one_step_against_the_whole_gradient(engine: PlainEngine, tmp_path: Path) -> None:
    precise = {"batch_size": "full", "precision": "float64", "learning_rate": 0.1}
    run = run_of(tmp_path, train=precise)
    engine.admit(run)
    assert engine._attempt is not None
    model = engine._attempt.trainings[0].learner.model
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    data = engine._data.at(run.spec.data)
    images, targets = data.batch(data.train, slice(None), torch.float64)
    nn.functional.cross_entropy(model(images), targets).backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}  # type: ignore[union-attr]
    engine.step()
    after = dict(model.named_parameters())
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            after[name].detach(), before[name] - 0.1 * gradient, rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("batch", [1, 10, "full"])
def test_batches_from_one_sample_to_all(
    engine: PlainEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int | str
) -> None:
    """Counts the optimizer's steps: as many as there are batches."""
    steps = []
    step = SGD.step
    monkeypatch.setattr(SGD, "step", lambda self: (steps.append(1), step(self))[1])
    result, _ = epoch(engine, run_of(tmp_path, train={"batch_size": batch}))
    expected = 1 if batch == "full" else math.ceil(result.samples / int(batch))
    assert len(steps) == expected
    assert result.metrics["train_loss"] > 0


@pytest.mark.parametrize(
    ("precision", "kept", "tolerance"),
    [
        ("float64", torch.float64, 1e-4),
        ("float32", torch.float32, 1e-12),
        ("bfloat16", torch.float32, 0.05),
        ("float16", torch.float32, 0.01),
    ],
)
def test_number_types_train_alike(
    engine: PlainEngine, tmp_path: Path, precision: str, kept: torch.dtype, tolerance: float
) -> None:
    exact, _ = epoch(engine, run_of(tmp_path / "a", train={"precision": "float32"}))
    rough, end = epoch(engine, run_of(tmp_path / "b", train={"precision": precision}))
    assert rough.metrics["val_loss"] == pytest.approx(exact.metrics["val_loss"], rel=tolerance)
    assert {tensor.dtype for tensor in weights_of(end).values()} == {kept}


def test_images_are_one_file_for_all_workers(tmp_path: Path) -> None:
    """As `torch.from_numpy` shares an array's bytes: what one changed, the other would see."""
    spec = make_run(tmp_path).spec.data
    one, two = (load(spec, cache=tmp_path).at(spec).train.images for _ in range(2))
    assert isinstance(one, torch.Tensor)
    assert isinstance(two, torch.Tensor)
    (file,) = tmp_path.glob("images-*/images.npy")
    file.chmod(0o600)
    stored = np.lib.format.open_memmap(file, mode="r+")
    stored[0] = 7
    stored.flush()
    assert (one[0] == 7).all()
    assert (two[0] == 7).all()


UNMOVED: dict[str, dict[str, Any]] = {
    "augmentation": {"data": {"augment": [{"name": "rotate", "degrees": 90.0}, {"name": "mixup"}]}},
    "label smoothing": {"train": {"label_smoothing": 0.3}},
    "class weights": {"train": {"class_weights": [5.0] + [1.0] * 9}},
    "subset": {"data": {"subset": 0.05}},
    "batches": {"train": {"batch_size": 7, "drop_last": True}},
}


@pytest.mark.parametrize("change", UNMOVED)
def test_the_yardstick_stays_where_it_is(engine: PlainEngine, tmp_path: Path, change: str) -> None:
    """With a learning rate of next to nothing the weights stay, and so must the validation loss."""
    still = {"train": {"learning_rate": 1e-12}}
    tables = {name: {**still.get(name, {}), **table} for name, table in (still | UNMOVED[change]).items()}
    tables["train"] = {**still["train"], **UNMOVED[change].get("train", {})}
    plain, _ = epoch(engine, run_of(tmp_path / "a", **still))
    changed, _ = epoch(engine, run_of(tmp_path / "b", **tables))
    assert changed.metrics["val_loss"] == pytest.approx(plain.metrics["val_loss"], rel=1e-6)
    assert changed.metrics["train_loss"] != pytest.approx(plain.metrics["train_loss"], rel=1e-3)


def test_augmentation_that_is_searched_off_is_off(engine: PlainEngine, tmp_path: Path) -> None:
    """`data.augment.elastic.p = 0` trains what a study without augmentation does."""
    augment = {"augment": [{"name": "elastic"}, {"name": "contrast"}]}
    names = {"data.augment.elastic.p": [0.0, 1.0], "data.augment.contrast.strength": [0.0, 0.5]}
    run = run_of(tmp_path / "a", data=augment, search=names)

    def trained(folder: str, **hparams: float) -> float:
        spec = run.spec.with_hparams(hparams)
        result, _ = epoch(engine, TrialRun("digits", 0, 1, hparams, spec, str(tmp_path / folder)))
        return result.metrics["train_loss"]

    plain, _ = epoch(engine, run_of(tmp_path / "b"))
    off = trained("c", **{"data.augment.elastic.p": 0.0, "data.augment.contrast.strength": 0.0})
    on = trained("d", **{"data.augment.elastic.p": 1.0, "data.augment.contrast.strength": 0.5})
    assert off == pytest.approx(plain.metrics["train_loss"], rel=1e-5)
    assert on != pytest.approx(off, rel=1e-3)


@pytest.mark.parametrize("side", [6, 8, 12])
def test_image_sizes_are_searched(engine: PlainEngine, tmp_path: Path, side: int) -> None:
    run = run_of(tmp_path, search={"data.image_size": [6, 8, 12]})
    spec = run.spec.with_hparams({"data.image_size": side})
    _, end = epoch(engine, TrialRun("digits", 0, 1, {}, spec, run.folder))
    assert end.facts["parameters"] == side * side * 8 + 8 + 8 * 10 + 10


def test_more_data_takes_more_samples(engine: PlainEngine, tmp_path: Path) -> None:
    samples = [
        epoch(engine, run_of(tmp_path / str(share), data={"subset": share}))[0].samples
        for share in (0.1, 0.2, 0.4)
    ]
    assert samples[1] == pytest.approx(2 * samples[0], abs=10)
    assert samples[2] == pytest.approx(4 * samples[0], abs=20)


def test_a_model_that_starts_from_other_weights_says_what_was_not_taken_over(
    engine: PlainEngine, tmp_path: Path
) -> None:
    spec = run_of(tmp_path).spec.model
    other = models.build(spec, 1, (8, 8), 3, seed=5)  # three classes instead of ten
    save_weights(tmp_path / "other.safetensors", other.state_dict(), {})
    tables = {"weights": str(tmp_path / "other.safetensors"), "freeze": ["1.*"]}
    _, end = epoch(engine, run_of(tmp_path / "a", model={**MLP, **tables}))
    assert "[3, 8] in the file, [10, 8] here" in str(end.facts["weights_file"])
    assert torch.equal(weights_of(end)["1.weight"], other.state_dict()["1.weight"])
    _, end = epoch(engine, run_of(tmp_path / "b"))
    assert "weights_file" not in end.facts
