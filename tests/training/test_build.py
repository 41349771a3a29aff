"""What a worker refuses when it prepares, before the study's first trial."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hpsearch.contracts.engine import Engine
from hpsearch.contracts.trial import EndKind, TrialRun
from hpsearch.errors import DeviceError, ModelError
from hpsearch.study import ModelSpec
from hpsearch.study.checks import DataFacts
from hpsearch.training import device as devices
from hpsearch.training import models
from hpsearch.training.build import build_engine, sample_pictures
from hpsearch.training.plain import PlainEngine
from hpsearch.training.weights import save_weights
from tests.training.trials import make_run

CPU = torch.device("cpu")


@pytest.fixture
def no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that cannot train in double precision, as many an accelerator."""
    monkeypatch.setattr(devices, "_trains", lambda precision, device: precision.name != "float64")


MLP: dict[str, Any] = {"name": "mlp", "args": {"hidden": [8]}}
FIXED: dict[str, Any] = {"train": {"precision": "float64"}}
SEARCHED: dict[str, Any] = {"search": {"train.precision": ["auto", "float32", "float64"]}}


@pytest.mark.usefixtures("no_float64")
@pytest.mark.parametrize(
    ("tables", "words"),
    [
        (FIXED, r'^train\.precision = "float64": .*choose auto, float16, bfloat16, float32'),
        (SEARCHED, r'^search: train\.precision = "float64": '),
    ],
)
def test_a_number_type_that_the_device_lacks_is_refused(
    tmp_path: Path, tables: dict[str, Any], words: str
) -> None:
    with pytest.raises(DeviceError, match=words):
        build_engine(make_run(tmp_path, **tables).spec, CPU, cache=str(tmp_path))


@pytest.mark.usefixtures("no_float64")
@pytest.mark.parametrize(
    "tables", [{}, {"train": {"precision": "float64", "function": "tests.training.loops:steady"}}]
)
def test_what_is_not_asked_for_is_not_tried(tmp_path: Path, tables: dict[str, Any]) -> None:
    engine, _ = build_engine(make_run(tmp_path, **tables).spec, CPU, cache=str(tmp_path))
    engine.close()


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Weights of two networks for the digits."""
    paths = [str(tmp_path / name) for name in ("a.safetensors", "b.safetensors")]
    for seed, path in enumerate(paths):
        model = models.build(ModelSpec.model_validate(MLP), 1, (8, 8), 10, seed=seed)
        save_weights(Path(path), model.state_dict(), {})
    return paths


def prepared(folder: Path, **tables: Any) -> tuple[Engine, DataFacts]:
    engine, facts = build_engine(make_run(folder, model=MLP, **tables).spec, CPU, cache=str(folder))
    assert facts is not None
    return engine, facts


def test_files_of_weights_belong_to_the_data_of_a_study(tmp_path: Path, files: list[str]) -> None:
    _, without = prepared(tmp_path)
    search = {"model.weights": ["none", *files]}
    _, with_both = prepared(tmp_path, search=search)
    assert without.digest != with_both.digest
    assert len(without.digest) == len(with_both.digest)
    assert sum("trials start from" in note for note in with_both.notes) == 2
    assert prepared(tmp_path, search=search)[1] == with_both
    Path(files[1]).write_bytes(Path(files[0]).read_bytes())
    assert prepared(tmp_path, search=search)[1].digest != with_both.digest
    Path(files[1]).unlink()
    with pytest.raises(ModelError, match=r"b\.safetensors.*No such file"):
        prepared(tmp_path, search=search)


def test_a_trial_says_which_weights_it_started_from(tmp_path: Path, files: list[str]) -> None:
    engine, facts = prepared(tmp_path, search={"model.weights": ["none", *files]}, train={"epochs": 1})
    spec = make_run(tmp_path, model=MLP, search={"model.weights": ["none", *files]}).spec
    found = []
    for number, label in enumerate(["none", *files]):
        run = TrialRun(
            "s", number, 1, {}, spec.with_hparams({"model.weights": label}), str(tmp_path / str(number))
        )
        engine.admit(run)
        found.append(engine.evict(number, EndKind.PREEMPTED).facts.get("weights_file"))
    assert found[0] is None
    for path, told in zip(files, found[1:], strict=True):
        assert told == next(note for note in facts.notes if path in note).removeprefix("trials start from ")


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({}, 2.3024),
        ({"train": {"loss": "mse", "label_smoothing": 0.2, "class_weights": "balanced"}}, 0.089997),
        ({"train": {"function": "tests.training.loops:steady"}}, None),
    ],
)
def test_a_worker_tells_the_loss_of_guessing(
    tmp_path: Path, tables: dict[str, Any], expected: float | None
) -> None:
    _, facts = build_engine(make_run(tmp_path, **tables).spec, CPU, cache=str(tmp_path))
    assert facts is not None
    assert facts.guessing_loss == (expected and pytest.approx(expected, abs=2e-5))


def test_sample_pictures_are_augmented_as_far_as_the_search_goes(tmp_path: Path) -> None:
    tables: dict[str, Any] = {"data": {"augment": [{"name": "brightness", "strength": 0.0}]}}
    plain = make_run(tmp_path, **tables).spec
    space = {"search": {"data.augment.brightness.strength": {"low": 0.0, "high": 0.9}}}
    searched = make_run(tmp_path, **tables, **space).spec
    engine, _ = build_engine(plain, CPU, cache=str(tmp_path))
    assert isinstance(engine, PlainEngine)
    data = engine._data.at(plain.data)
    known = {
        tuple(image.mul(255).round().flatten().tolist()) for image in data.pixels(data.train, slice(None))
    }
    shown = [
        tuple(np.asarray(Image.open(io.BytesIO(base64.b64decode(png))), float).flatten().tolist())
        for png in sample_pictures(engine, plain)
    ]
    assert len(shown) == 8
    assert set(shown) <= known
    assert sample_pictures(engine, plain) == sample_pictures(engine, plain)
    assert not set(sample_pictures(engine, searched)) & set(sample_pictures(engine, plain))
    engine.close()
