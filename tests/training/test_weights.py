"""Files of weights, and which weights are trained."""

import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from hpsearch.errors import CheckpointError, ModelError
from hpsearch.study import ModelSpec
from hpsearch.training import weights
from hpsearch.training.models import build
from tests.training.nets import Tied

CPU = torch.device("cpu")


def small(classes: int = 3, channels: int = 1, seed: int = 0) -> nn.Module:
    return build(ModelSpec(name="cnn", args={"width": 4, "norm": True}), channels, (8, 8), classes, seed)


def states_equal(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())


def test_weights_and_texts_come_back_as_they_were(tmp_path: Path) -> None:
    model, path = small().to(memory_format=torch.channels_last), tmp_path / "w.safetensors"
    weights.save_weights(path, model.state_dict(), {"trial": "3", "classes": '["a"]'})
    state, metadata = weights.read_weights(path)
    assert metadata == {"trial": "3", "classes": '["a"]'}
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    weights.save_weights(tmp_path / "w.safetensors", Tied().state_dict(), {})
    state, _ = weights.read_weights(tmp_path / "w.safetensors")
    assert torch.equal(state["first.weight"], state["second.weight"])


@pytest.mark.parametrize("content", [None, b"", b"no weights at all"])
def test_files_that_cannot_be_read_are_said(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w\.safetensors: these weights cannot be read"):
        weights.read_weights(path)


@pytest.mark.parametrize("wrapping", ["safetensors", "plain", "state_dict", "module."])
def test_a_model_starts_from_a_file(tmp_path: Path, wrapping: str) -> None:
    trained, fresh = small(seed=1), small(seed=2)
    state = trained.state_dict()
    path = tmp_path / ("w.safetensors" if wrapping == "safetensors" else "w.pth")
    if wrapping == "safetensors":
        weights.save_weights(path, state, {})
    elif wrapping == "plain":
        torch.save(state, path)
    elif wrapping == "state_dict":
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    removed = '; "module." removed from the names' if wrapping == "module." else ""
    assert weights.load_weights(fresh, path).text == f"all 14 tensors taken{removed}"
    assert states_equal(trained, fresh)


def test_a_last_layer_of_another_shape_starts_anew(tmp_path: Path) -> None:
    trained, fresh, untouched = small(classes=5, seed=1), small(classes=3, seed=2), small(classes=3, seed=2)
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    notes = weights.load_weights(fresh, tmp_path / "w.pth").text
    assert notes == (
        "12 of 14 tensors taken; classifier.3.weight and classifier.3.bias start anew "
        "(classifier.3.weight is [5, 64] in the file, [3, 64] here)"
    )
    assert torch.equal(
        fresh.get_parameter("classifier.3.weight"), untouched.get_parameter("classifier.3.weight")
    )
    assert torch.equal(fresh.get_parameter("features.0.weight"), trained.get_parameter("features.0.weight"))


def test_colour_kernels_are_fitted_to_grey_images(tmp_path: Path) -> None:
    trained, fresh = small(channels=3), small(channels=1)
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    notes = weights.load_weights(fresh, tmp_path / "w.pth").text
    assert notes == "all 14 tensors taken; features.0.weight fitted from 3 channels to 1"
    kernel = trained.get_parameter("features.0.weight").sum(1, keepdim=True)
    assert torch.equal(fresh.get_parameter("features.0.weight"), kernel)


def test_auxiliary_heads_in_the_file_are_left_out(tmp_path: Path) -> None:
    model = small()
    torch.save({**model.state_dict(), "AuxLogits.fc.weight": torch.ones(1)}, tmp_path / "w.pth")
    assert weights.load_weights(model, tmp_path / "w.pth").text == "all 14 tensors taken"


class Wrapped(nn.Module):
    """A network under a name, as many trainers keep it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


HEAD = ("classifier.1.weight", "classifier.1.bias", "classifier.3.weight", "classifier.3.bias")


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.", "module.encoder."])
def test_the_layers_at_the_end_may_be_missing(tmp_path: Path, prefix: str) -> None:
    trained, fresh, untouched = small(seed=1), small(seed=2), small(seed=2)
    state = {f"{prefix}{name}": one for name, one in trained.state_dict().items() if name not in HEAD}
    torch.save({**state, "projector.weight": torch.ones(2)}, tmp_path / "w.pth")
    removed = f'; "{prefix}" removed from the names' if prefix else ""
    assert weights.load_weights(fresh, tmp_path / "w.pth").text == (
        f"10 of 14 tensors taken{removed}; classifier.1.weight, classifier.1.bias, classifier.3.weight and 1 more "
        "start anew (not in the file); left out of the file: projector.weight"
    ).replace(
        "; left out of the file: projector.weight",
        "" if prefix else "; left out of the file: projector.weight",
    )
    assert torch.equal(fresh.get_parameter("features.0.weight"), trained.get_parameter("features.0.weight"))
    assert torch.equal(fresh.get_parameter(HEAD[0]), untouched.get_parameter(HEAD[0]))


def test_a_model_may_have_its_own_word_in_front(tmp_path: Path) -> None:
    trained, fresh = small(seed=1), Wrapped(small(seed=2))
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    assert weights.load_weights(fresh, tmp_path / "w.pth").text == "all 14 tensors taken"
    assert states_equal(trained, fresh.backbone)


def test_a_file_of_a_few_layers_is_no_backbone(tmp_path: Path) -> None:
    state = {name: one for name, one in small().state_dict().items() if name.startswith("features.0")}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"does not fit the model: \d+ missing: features\.1\.weight"):
        weights.load_weights(small(), tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.0.weight": None}, r"does not fit the model: 1 missing: features\.0\.weight"),
        ({"extra.weight": torch.ones(1)}, r"1 unknown: extra\.weight"),
        (
            {"features.1.bias": torch.ones(9)},
            r"1 of another shape: features\.1\.bias \(\[9\] in the file, \[4\] here\)",
        ),
        ({f"layer{index}": torch.ones(1) for index in range(9)}, "9 unknown: layer0, layer1, layer2, "),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    state = {**small().state_dict(), **change}
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=message):
        weights.load_weights(small(), tmp_path / "w.pth")


class Shell:
    """What a pickle would run: nothing of it may happen."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('unpickled')",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pth", None, "no such file"),
        ("text.pth", b"hello", r"it cannot be read \("),
        (
            "passwd",
            b"root:x:0:0:root:/root:/bin/bash\n",
            r"it cannot be read \(it is damaged, or not what its name says\); save model",
        ),
        ("shell.pth", Shell(), "it holds more than tensors.*unpickling it could run code"),
        ("list.pth", [1, 2], r"it holds no weights by name; save model\.state_dict\(\)"),
        ("table.pth", {"a": 1}, "it holds no weights by name"),
        ("text.safetensors", b"hello", "it is not a valid safetensors file"),
    ],
)
def test_files_of_other_things_are_refused(tmp_path: Path, name: str, content: object, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path, pickle_module=pickle)
    with pytest.raises(ModelError, match=rf'model\.weights = ".*{name}": ({message})'):
        weights.load_weights(small(), path)


def test_old_files_without_counters_are_taken(tmp_path: Path) -> None:
    state = {
        name: t for name, t in small(seed=1).state_dict().items() if not name.endswith("num_batches_tracked")
    }
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    assert weights.load_weights(small(), tmp_path / "w.safetensors").text == "all 14 tensors taken"
