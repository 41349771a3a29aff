"""Published weights, saved locally: found, described, normalised as they were trained, and used to the end."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from PIL import Image

import hpsearch
from hpsearch.contracts.trial import EndKind
from hpsearch.errors import DataError, ModelError, StudyFileError
from hpsearch.results.confirm.confirm import confirm
from hpsearch.service.run import run
from hpsearch.study import ModelSpec, StudySpec, parse_study
from hpsearch.testing.in_process import InProcessExecutor
from hpsearch.training import models
from hpsearch.training.build import build_engine
from hpsearch.training.data import load
from hpsearch.training.pretrained import data_table, published, sized, weights_file
from hpsearch.training.weights import load_weights
from tests.materials import write_published
from tests.results.digits import options_in
from tests.training.trials import make_run

CPU = torch.device("cpu")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


pytestmark = pytest.mark.usefixtures("torch_home")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As workers have; more of them wait for each other when several tests share the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_timm(name: str) -> Path:
    import timm

    file = published(name).file
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(timm.create_model(name.removeprefix("timm/")).state_dict(), file)
    return file


def study(**tables: Any) -> StudySpec:
    known = {
        "study": {"name": "tuned", "seed": 1, "trials": 2},
        "data": {
            "dataset": "digits",
            "subset": 0.02,
            "split": {"train": 0.94, "val": 0.03, "test": 0.03},
            "image_size": 32,
            "channels": 3,
        },
        "model": {"name": "shufflenet_v2_x0_5", "weights": "imagenet"},
        "train": {"optimizer": "adamw", "epochs": 1, "batch_size": 16, "steps_per_epoch": 2},
        "search": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
    }
    return parse_study({name: {**known.get(name, {}), **tables.get(name, {})} for name in {*known, *tables}})


@pytest.mark.parametrize(
    ("name", "size", "file"),
    [
        ("resnet18", 224, "resnet18-f37072fd.pth"),
        ("efficientnet_b1", 240, "efficientnet_b1-c27df63c.pth"),
        ("timm/resnet26d", 224, "resnet26d-69e92c46.pth"),
        ("timm/convnext_atto", 224, "convnext_atto_d2-01bb0f51.pth"),
    ],
)
def test_the_publisher_says_what_they_are(name: str, size: int, file: str, torch_home: Path) -> None:
    found = published(name)
    assert (found.size, found.file.parent) == (size, torch_home / "hub" / "checkpoints")
    assert found.file.name == file
    assert found.normalization.model_dump() == IMAGENET


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cnn", r'none are published for model\.name = "cnn"'),
        ("tests.training.nets:linear", "none are published"),
        ("timm/resnet26e", r'"timm/resnet26e" is unknown to timm; did you mean "timm/resnet\d+\w*"'),
    ],
)
def test_what_is_not_published_is_refused(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        weights_file(ModelSpec(name=name, weights="imagenet"))


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet26d"])
def test_without_a_network_the_sentence_names_the_file_and_its_place(
    name: str, torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        huggingface_hub.constants, "HF_HUB_OFFLINE", True
    )  # its client tries for half a minute
    with pytest.raises(
        ModelError, match=rf"{name} are not on this machine and cannot be downloaded \("
    ) as told:
        weights_file(ModelSpec(name=name, weights="imagenet"))
    assert published(name).url in str(told.value)
    assert str(told.value).endswith(f"put it there as {published(name).file}")
    assert not list(torch_home.rglob("*.pth"))


@pytest.mark.parametrize("name", ["densenet121", "timm/resnet26d"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_starts_from_them(name: str, channels: int) -> None:
    file = (
        write_timm(name)
        if name.startswith("timm/")
        else write_published(name, Path(torch.hub.get_dir()).parent)
    )
    spec = ModelSpec(name=name, weights="imagenet")
    assert weights_file(spec) == str(file)
    model = models.build(spec, channels, (32, 32), 7, seed=0)
    first = next(key for key, one in model.named_parameters() if one.dim() == 4)
    head = list(dict(model.named_parameters()))[-2]
    before = model.get_parameter(head).clone()
    text = load_weights(model, file).text
    assert f"{head} and {head.replace('weight', 'bias')} start anew ({head} is [1000, " in text
    kernel = torch.load(file, weights_only=True)[first]
    wanted = kernel if channels == 3 or kernel.shape[1] != 3 else kernel.sum(1, keepdim=True)
    assert torch.equal(model.get_parameter(first), wanted)
    assert torch.equal(model.get_parameter(head), before)


def test_old_names_of_densenets_layers_are_understood(tmp_path: Path) -> None:
    model = models.build(ModelSpec(name="densenet121"), 3, (32, 32), 7, seed=0)
    state = {name.replace(".norm1.", ".norm.1."): one for name, one in model.state_dict().items()}
    torch.save(
        {name.replace(".conv2.", ".conv.2."): one for name, one in state.items()}, tmp_path / "old.pth"
    )
    assert load_weights(model, tmp_path / "old.pth").text == "all 606 tensors taken"


def test_images_are_normalised_as_they_were_for_the_weights() -> None:
    spec = study(search={"model.weights": ["none", "imagenet"], "model.name": ["resnet18", "cnn"]})
    fixed = data_table(study()).normalize
    assert not isinstance(fixed, bool | str)
    assert fixed.model_dump() == IMAGENET
    assert data_table(spec.with_hparams({"model.weights": "none"})).normalize is True
    assert data_table(study(data={"normalize": False})).normalize is False
    assert data_table(study(model={"weights": "none"}, data={"normalize": "imagenet"})).normalize == fixed


def test_their_image_size_is_taken_where_the_study_gives_none() -> None:
    assert sized(study()).image_size == 32
    assert sized(study(data={"image_size": "none"}, model={"name": "efficientnet_b1"})).image_size == 240
    searched = study(data={"image_size": "none"}, search={"model.weights": ["none", "imagenet"]})
    assert sized(searched).image_size == 224
    assert data_table(searched.with_hparams({"model.weights": "none"})).image_size == 224


@pytest.mark.parametrize(
    ("normalize", "message"),
    [
        ({"mean": [0.5], "std": [0.5, 0.5]}, "mean has 1 values and std 2"),
        ({"mean": [0.5], "std": [0.0]}, "above 0"),
        ("image", "imagenet"),
    ],
)
def test_a_wrong_normalisation_is_refused(normalize: object, message: str) -> None:
    with pytest.raises(StudyFileError, match=f"data.normalize.*{message}"):
        study(data={"normalize": normalize})


def test_a_normalisation_for_other_channels_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, data={"channels": 3, "normalize": {"mean": [0.5] * 2, "std": [0.5] * 2}})
    with pytest.raises(DataError, match=r"data\.normalize\.mean has 2 values and the images have 3 channels"):
        build_engine(run.spec, CPU, cache=str(tmp_path))[0].admit(run)


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "timm/resnet26d"])
def test_a_fine_tuning_study_from_end_to_end(name: str, tmp_path: Path, torch_home: Path) -> None:
    """Searched, confirmed, kept: the model that predicts normalises as the weights want it, to the bit."""
    file = write_timm(name) if name.startswith("timm/") else write_published(name, torch_home)
    spec, options = study(model={"name": name}), options_in(tmp_path)
    _, facts = build_engine(spec, CPU, cache=str(tmp_path / "cache"))
    assert facts is not None
    (note,) = [note for note in facts.notes if "trials start from" in note]
    assert note.startswith(f"trials start from {file} (sha256 ")
    assert "start anew" in note
    assert run(spec, options, (), InProcessExecutor()).best is not None
    outcome = confirm("tuned", options, top=1, seeds=2, executor=InProcessExecutor())
    assert outcome.confirmation is not None
    model = hpsearch.load_best_model("tuned", storage=options.storage, run_folder=options.run_folder)
    assert model.metadata["model"] == json.dumps(spec.model.model_dump(mode="json"))
    assert tuple(model.preparation.mean) == IMAGENET["mean"]
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    read = model.preparation.scale(model.read(tmp_path / "white.png").float())
    mean, std = (torch.tensor(IMAGENET[key])[:, None, None] for key in ("mean", "std"))
    torch.testing.assert_close(
        model.preparation.normalize(read.clone(), model.mean, model.std), (read - mean) / std
    )
    data = load(spec.data, cache=tmp_path / "cache", device=CPU).at(data_table(spec))
    with torch.inference_mode():
        outputs = model(data.pixels(data.val, slice(None)))
    loss = torch.nn.functional.cross_entropy(outputs.double(), data.targets(data.val, slice(None))).item()
    assert loss == pytest.approx(float(model.metadata["val_loss"]), rel=1e-4)


def test_the_trial_says_what_it_took(tmp_path: Path, torch_home: Path) -> None:
    write_published("shufflenet_v2_x0_5", torch_home)
    run = make_run(
        tmp_path,
        data={"image_size": 32, "channels": 3},
        model={"name": "shufflenet_v2_x0_5", "weights": "imagenet"},
    )
    engine, _ = build_engine(run.spec, CPU, cache=str(tmp_path))
    engine.admit(run)
    told = engine.evict(0, EndKind.PREEMPTED).facts["weights_file"]
    assert "fc.weight and fc.bias start anew (fc.weight is [1000, 1024] in the file, [10, 1024] here)" in str(
        told
    )


@pytest.mark.parametrize("name", ["checkpoint_path", "cache_dir", "pretrained_cfg_overlay"])
def test_no_argument_of_timms_reads_files_of_weights(name: str) -> None:
    pytest.importorskip("timm")
    spec = ModelSpec(name="timm/resnet26d", args={name: "/etc/passwd"})
    with pytest.raises(ModelError, match=f"model.args.{name}: write model.weights instead"):
        models.build(spec, 3, (32, 32), 2, 0)
