"""The best model in other hands: loaded, saved into a folder, exported; what cannot be is said."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hpsearch
from hpsearch.errors import CheckpointError, ModelError, UserError
from hpsearch.results.commands.models import _export, export_program, load_best_model, save_best
from hpsearch.results.confirm.confirm import confirm
from hpsearch.results.stored.best import best_trial
from hpsearch.results.stored.reading import reading_study
from hpsearch.service.launch import RunOptions
from hpsearch.testing.in_process import InProcessExecutor
from hpsearch.training.models import build
from hpsearch.training.saved import SavedModel, to_probabilities
from hpsearch.training.weights import read_weights, save_weights
from tests.results.digits import searched, small_spec
from tests.results.stored import make_study

CNN = {"name": "cnn", "args": {"width": 4, "hidden": 16, "norm": True}}

FACTS = {
    "model": '{"name": "mlp", "args": {"hidden": [4]}}', "channels": "1", "height": "8", "width": "8",
    "outputs": "2", "classes": '["no", "yes"]', "mean": "[0.5]", "std": "[0.25]", "task": "classification",
    "study": "one",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunOptions]:
    folder = tmp_path_factory.mktemp("trained")
    return folder, searched(folder, small_spec(model=CNN))


@pytest.fixture
def stored(tmp_path: Path, sqlite_url: str) -> tuple[Path, str]:
    """A weights file that the best trial of the study `one` names."""
    path = tmp_path / "w.safetensors"
    model = build(small_spec().model.model_copy(update={"args": {"hidden": [4]}}), 1, (8, 8), 2, seed=3)
    save_weights(path, model.state_dict(), FACTS)
    make_study(sqlite_url, "one", weights=str(path))
    return path, sqlite_url


LOSS = """
import sys, torch
from pathlib import Path
import hpsearch
from hpsearch.study.data import DataSpec
from hpsearch.study import TrainSpec
from hpsearch.training.data import load
from hpsearch.training.losses import EpochMetrics
torch.set_num_threads(1)
model = hpsearch.load_best_model(sys.argv[1])
spec = DataSpec(dataset="digits", subset=0.2)
data = load(spec, cache=Path(sys.argv[2])).at(spec)
counters = EpochMetrics(TrainSpec(), "classification", 10, torch.device("cpu"))
with torch.inference_mode():
    for part in data.val.images.split(256):
        counters.update(model(part), data.val.targets)
print(repr(counters.result()["val_loss"]))
"""


def test_a_fresh_process_gets_the_very_validation_loss(
    trained: tuple[Path, RunOptions], tmp_path: Path
) -> None:
    folder, options = trained
    save_best("small", options.storage, tmp_path / "out")
    command = [sys.executable, "-c", LOSS, str(tmp_path / "out"), str(folder / "runs" / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=True)
    with reading_study("small", options.storage) as study:
        best = best_trial(study)
    assert best is not None
    assert float(done.stdout) == best.value


def test_the_folder_describes_the_model(trained: tuple[Path, RunOptions], tmp_path: Path) -> None:
    _, options = trained
    files = save_best("small", options.storage, tmp_path / "deep" / "out")
    assert [path.name for path in files] == ["model.safetensors", "model.json", "model.md"]
    described = json.loads(files[1].read_text(encoding="utf-8"))
    with reading_study("small", options.storage) as study:
        best, attrs = best_trial(study), study.attrs
    assert best is not None
    assert (described["study"], described["trial"], described["digest"]) == (
        "small",
        best.number,
        attrs["digest"],
    )
    assert (described["metric"], described["value"], described["epoch"]) == (
        "val_loss",
        best.value,
        best.best_epoch,
    )
    assert described["hparams"] == dict(best.hparams)
    assert described["metrics"]["val_error"] == best.attrs["metrics_at_best"]["val_error"]
    assert (described["model"]["name"], described["precision"]) == ("cnn", "float32")
    assert described["classes"] == list("0123456789")
    assert (described["channels"], described["image_size"]) == (1, [8, 8])
    assert described["normalization"]["mean"] == pytest.approx([0.305], abs=0.01)
    prepared = load_best_model(tmp_path / "deep" / "out").preparation
    assert described["preparation"] == {
        "accepts": "uint8, or floats in [0, 1]", "black": 0.0, "white": 1.0, "scale": 1.0, "offset": 0.0,
        "source": "float32", "stored": "float32", "range": None, "resize": "crop", "layout": "auto",
        "dataset": "digits", "predict": "", "fixed": False, "decoded_channels": 1,
    }  # fmt: skip
    assert described["preparation"]["accepts"] == prepared.accepts
    assert "torch" in described["versions"]["training"]


def test_the_folder_names_the_scale_of_deep_pictures(stored: tuple[Path, str], tmp_path: Path) -> None:
    path, url = stored
    state, facts = read_weights(path)
    deep = {
        "stored": "float32",
        "source": "uint16",
        "scale": repr(1 / 4095),
        "offset": "0.0",
        "resize": "pad",
    }
    save_weights(path, state, facts | deep)
    described = json.loads(save_best("one", url, tmp_path / "out")[1].read_text(encoding="utf-8"))
    known = described["preparation"]
    assert (known["black"], known["white"], known["source"], known["resize"]) == (0, 4095, "uint16", "pad")
    assert "uint16" in known["accepts"]
    assert described["normalization"]["of"].startswith("(value - offset) * scale")


def test_the_exported_program_gives_the_same_outputs(
    trained: tuple[Path, RunOptions], tmp_path: Path
) -> None:
    _, options = trained
    files = save_best("small", options.storage, tmp_path, export=True)
    program = torch.export.load(files[-1]).module()
    model = load_best_model(tmp_path)
    for count in (1, 2, 7):
        images = torch.rand(count, 1, 8, 8)
        with torch.inference_mode():
            torch.testing.assert_close(program(images), model(images))


def test_a_program_computes_in_the_number_type_of_training(stored: tuple[Path, str], tmp_path: Path) -> None:
    path, _ = stored
    state, facts = read_weights(path)
    plain = tmp_path / "plain.safetensors"
    save_weights(plain, state, facts)
    save_weights(path, state, facts | {"precision": "bfloat16"})
    half = load_best_model(path)
    export_program(half, tmp_path / "m.pt2")
    program = torch.export.load(tmp_path / "m.pt2").module()
    images = torch.rand(7, 1, 8, 8)
    with torch.inference_mode():
        outputs = half(images)
        assert torch.equal(program(images), outputs)
        assert not torch.equal(load_best_model(plain)(images), outputs)
    assert outputs.dtype == torch.float32


def test_the_card_says_what_the_model_is_worth(tmp_path: Path) -> None:
    options = searched(tmp_path, small_spec(study={"license": "CC | BY"}))
    save_best("small", options.storage, tmp_path / "out", tmp_path / "runs")
    card = (tmp_path / "out" / "model.md").read_text(encoding="utf-8")
    for line in (
        "# small",
        "| licence | CC \\| BY |",
        "| images | 1,437 for training, 180 for validation, 180 for the test |",
        "| images | 8 x 8 pixels, 1 channel; others are resized; takes uint8, or floats in \\[0, 1\\] |",
    ):
        assert line in card
    assert "not confirmed" in card
    found = confirm("small", options, top=1, seeds=2, executor=InProcessExecutor()).confirmation
    assert found is not None
    save_best("small", options.storage, tmp_path / "out", tmp_path / "runs")
    card = (tmp_path / "out" / "model.md").read_text(encoding="utf-8")
    tested = found.summary(found.results[0], "test_error")
    assert tested is not None
    assert tested.low is not None
    assert f"| test_error | {tested.mean:.4g} | {tested.low:.4g} to {tested.high:.4g} | 2 |" in card
    assert "not confirmed" not in card


def test_onnx_gives_the_same_outputs(trained: tuple[Path, RunOptions], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx")
    _, options = trained
    files = save_best("small", options.storage, tmp_path, onnx=True)
    assert [path.name for path in files[2:]] == ["model.md", "model.onnx"]
    session = onnxruntime.InferenceSession(files[-1])
    model = load_best_model(tmp_path)
    for count in (1, 2, 7):
        images = torch.rand(count, 1, 8, 8)
        (outputs,) = session.run(["outputs"], {"images": images.numpy()})
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(outputs), model(images), rtol=1e-4, atol=1e-5)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == list(model.classes)
    assert told["temperature"] == model.metadata["temperature"]
    assert 'InferenceSession("model.onnx")' in files[2].read_text(encoding="utf-8")


def test_a_missing_extra_is_named_before_anything_is_written(
    trained: tuple[Path, RunOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, options = trained
    here = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "onnx" in name else here(name))
    wanted = r'--onnx needs onnx, onnxscript, onnxruntime; run pip install "hpsearch\[onnx\]"'
    with pytest.raises(UserError, match=wanted):
        save_best("small", options.storage, tmp_path / "out", onnx=True)
    assert not (tmp_path / "out").exists()


class Moody(nn.Module):
    """Takes another way for bright images, which no traced program can."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 2)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.layer(images.flatten(1))
        return outputs if images.mean() > 0 else -outputs


def test_what_torch_cannot_export_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--torch-export: torch cannot export this model"):
        export_program(SavedModel(Moody(), FACTS).eval(), tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


def test_what_was_exported_is_compared(tmp_path: Path) -> None:
    model = SavedModel(
        build(small_spec().model.model_copy(update={"args": {"hidden": [4]}}), 1, (8, 8), 2, 3), FACTS
    )
    with pytest.raises(ModelError, match="--x: what was exported gives other outputs than the model"):
        _export(model.eval(), tmp_path / "m", "--x", lambda given: lambda images: torch.zeros(len(images), 2))


def test_a_study_a_folder_and_a_file_give_the_same_model(stored: tuple[Path, str], tmp_path: Path) -> None:
    path, url = stored
    save_best("one", url, tmp_path / "out")
    images = torch.rand(2, 1, 8, 8)
    ways = [
        hpsearch.load_best_model(*way)
        for way in (("one", url), (path, "unused"), (tmp_path / "out",), (None, url))
    ]
    for loaded in ways:
        assert not loaded.training
        assert loaded.classes == ("no", "yes")
        assert torch.equal(loaded(images), ways[0](images))
    path.unlink()
    with pytest.raises(UserError, match="weights of trial 1 are not here"):
        hpsearch.load_best_model("one", url)


@pytest.mark.parametrize("name", ["model.onnx", "model.md", "member-1.safetensors"])
def test_a_folder_of_another_program_is_left_as_it_is(
    stored: tuple[Path, str], tmp_path: Path, name: str
) -> None:
    _, url = stored
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=f"--save: .*out holds {name}, which hpsearch has not written"):
        save_best("one", url, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    (tmp_path / "out" / name).unlink()
    (tmp_path / "out" / "notes.txt").touch()
    for _ in range(2):  # a model of ours is replaced
        save_best("one", url, tmp_path / "out")


def test_what_cannot_be_loaded_or_saved(stored: tuple[Path, str], tmp_path: Path) -> None:
    path, url = stored
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--save: cannot write .*; choose another folder"):
        save_best("one", url, tmp_path / "file" / "out")
    path.write_bytes(b"no safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        save_best("one", url, tmp_path / "out")
    save_weights(path, {"a": torch.zeros(1)}, {"function": "my.loop:train"})
    with pytest.raises(ModelError, match="header lacks channels"):
        load_best_model("one", url)
    described = json.loads(save_best("one", url, tmp_path / "out")[1].read_text(encoding="utf-8"))
    assert described["function"] == "my.loop:train"


def test_a_weights_file_runs_no_code_that_was_not_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from pathlib import Path\n"
        "from torch import nn\n"
        "Path(__file__).with_suffix('.ran').touch()\n"
        "def build(classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    (tmp_path / "planted_nets.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "w.safetensors"
    weights = {"1.weight": torch.zeros(2, 64), "1.bias": torch.ones(2)}
    save_weights(path, weights, FACTS | {"model": '{"name": "planted_nets:build"}'})
    with pytest.raises(UserError, match="planted_nets"):
        hpsearch.load_best_model(path)
    assert not (tmp_path / "planted_nets.ran").exists()
    allowed = hpsearch.load_best_model(path, allow=["planted_nets"])
    assert torch.equal(allowed(torch.zeros(2, 1, 8, 8)), torch.ones(2, 2))
    assert (tmp_path / "planted_nets.ran").exists()


class Through(nn.Module):
    """Gives back the first pixel that reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.dtype = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :1, 0, 0]


@pytest.mark.parametrize(
    ("facts", "pixel", "expected"),
    [
        ({}, 0.75, 1.0),  # (0.75 - mean 0.5) / std 0.25
        ({}, np.uint8(255), 2.0),
        ({"normalize": "false"}, 0.75, 0.75),
        # A data set of floats from -1 to 3: (2 - offset) * scale = 0.75
        ({"stored": "float32", "scale": "0.25", "offset": "-1.0"}, 2.0, 1.0),
        ({"stored": "uint8", "scale": repr(1 / 255)}, 0.75, 1.0),
    ],
)
def test_pixels_reach_the_network_as_in_training(facts: dict[str, str], pixel: Any, expected: float) -> None:
    model = SavedModel(Through(), FACTS | facts).eval()
    images = torch.from_numpy(
        np.full((1, 1, 8, 8), pixel, np.uint8 if isinstance(pixel, np.uint8) else np.float32)
    )
    before = images.clone()
    assert model(images).item() == pytest.approx(expected)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("outputs", "loss", "expected"),
    [
        ([[0.0, 0.0]], "cross_entropy", [0.5, 0.5]),
        ([[np.log(3), 0.0]], "mse", [0.75, 0.25]),
        ([[np.log(3), 0.0]], "binary_cross_entropy", [0.75, 0.5]),
        ([[np.log(3)]], "binary_cross_entropy", [0.25, 0.75]),
    ],
)
def test_probabilities_worked_by_hand(outputs: list[list[float]], loss: str, expected: list[float]) -> None:
    assert to_probabilities(torch.tensor(outputs), loss)[0].tolist() == pytest.approx(expected)
