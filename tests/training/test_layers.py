"""The head of a network and the blocks below it: of all classifiers of torchvision's, against timm's own groups."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hpsearch.contracts.trial import TrialRun
from hpsearch.errors import ModelError
from hpsearch.study import ModelSpec, TrainSpec
from hpsearch.training import layers, models, optim
from hpsearch.training.build import build_engine
from tests.training import nets
from tests.training.trials import make_run

CLASSES = 7


def outlined(name: str) -> nn.Module:
    """Returns a network without memory for its weights."""
    with torch.device("meta"):
        return models._build(ModelSpec(name=name), 3, (224, 224), CLASSES, ())


@pytest.mark.parametrize("name", ["alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v3_small", "resnet50", "shufflenet_v2_x0_5", "squeezenet1_0",
    "swin_t", "vgg11", "vit_b_16"])  # fmt: skip
def test_every_family_of_torchvision_has_a_head_and_blocks_in_order(name: str) -> None:
    model = outlined(name)
    head = layers.head_of(model, name, CLASSES)
    assert head == tuple(one for one, _ in list(model.named_parameters())[-len(head) :])
    depths = layers.depths_of(model, name)
    assert set(depths) == dict(model.named_parameters()).keys()
    assert {depths[one] for one in head} == {0}
    in_order = [depths[one] for one, parameter in model.named_parameters() if parameter.dim() > 1]
    assert in_order == sorted(in_order, reverse=True)
    assert set(depths.values()) == set(range(max(depths.values()) + 1))


@pytest.mark.parametrize(
    "name",
    ["resnet50", "beit_base_patch16_224", "eva02_tiny_patch14_224", "vit_tiny_patch16_224", "mixer_s16_224"],
)
def test_blocks_are_those_of_timm(name: str) -> None:
    import timm
    from timm.models import group_parameters

    with torch.device("meta"):
        model: Any = timm.create_model(name, num_classes=CLASSES)
    groups = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    top = max(groups.values())
    depths = layers.depths_of(model, name)
    # The last normalisation belongs to the head in BEiT and MAE, and to the last block in timm.
    differing = {one for one in depths if depths[one] != top - groups[one]}
    assert differing <= {"norm.weight", "norm.bias"}


def test_all_of_several_heads_are_the_head() -> None:
    import timm

    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=CLASSES)
    assert layers.head_of(model, "deit", CLASSES) == (
        *("head.weight", "head.bias"),
        *("head_dist.weight", "head_dist.bias"),
    )


def test_what_starts_anew_belongs_to_the_head() -> None:
    model = models.build(ModelSpec(name="cnn", args={"width": 4}), 1, (28, 28), CLASSES, seed=0)
    fresh = [f"classifier.{place}.{one}" for place in (1, 3) for one in ("weight", "bias")]
    assert layers.head_of(model, "cnn", CLASSES, fresh) == tuple(fresh)
    plain, depths = layers.depths_of(model, "cnn"), layers.depths_of(model, "cnn", fresh)
    assert (plain["classifier.1.weight"], plain["features.5.weight"]) == (1, 2)
    assert (depths["classifier.1.weight"], depths["features.5.weight"]) == (0, 1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nets.Upside(CLASSES),
            r"the last layer of .*first\.bias and first\.weight, gives 4, and this data needs 7",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES)),
            r"nothing of .* lies below its head \(1\.weight",
        ),
    ],
)
def test_a_network_without_a_known_head_is_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=rf"train\.stages: {message}"):
        layers.head_of(model, "mine", CLASSES)


def test_a_decay_without_layers_below_is_refused() -> None:
    with pytest.raises(ModelError, match=r"train\.layer_decay: .* has a single block"):
        layers.depths_of(nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES)), "mine")


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"stages": ["head", "all"]}, r"train\.stages: the last layer of .*nets:Upside"),
        ({"stages": ["head", "all"], "optimizer": "adamw"}, r"write model\.freeze"),
    ],
)
def test_a_trial_without_a_known_head_is_refused(tmp_path: Path, train: dict[str, Any], message: str) -> None:
    model = {"name": "tests.training.nets:Upside"}
    run: TrialRun = make_run(tmp_path, model=model, train=train)
    engine, _ = build_engine(run.spec, torch.device("cpu"), cache=str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=message):
        engine.admit(run)


def small() -> nn.Module:
    return models.build(ModelSpec(name="cnn", args={"width": 4, "norm": True}), 1, (8, 8), 3, seed=0)


def train_a_little(model: nn.Module, train: TrainSpec, steps: int = 3) -> torch.optim.Optimizer:
    optimizer = optim.build_optimizer(model, train)
    layers.train_mode(model)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.rand(4, 1, 8, 8)).square().mean().backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", list(optim.OPTIMIZERS))
def test_a_frozen_parameter_never_changes_and_costs_nothing(name: str) -> None:
    model, before = small(), small()
    layers.freeze(model, ["features.*"])
    optimizer = train_a_little(model, TrainSpec(optimizer=name, weight_decay=0.1))  # type: ignore[arg-type]
    frozen = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("features")}
    assert {"features.1.running_mean", "features.1.num_batches_tracked", "features.1.weight"} <= frozen.keys()
    for key, tensor in frozen.items():
        assert torch.equal(tensor, before.state_dict()[key]), key
    trained = dict(model.get_submodule("classifier").named_parameters())
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    assert held == set(optimizer.state) == set(trained.values())
    assert all(parameter.grad is None for parameter in model.get_submodule("features").parameters())
    assert not any(
        torch.equal(parameter, before.get_parameter(f"classifier.{key}"))
        for key, parameter in trained.items()
    )


def test_batchnorm_that_is_frozen_in_part_goes_on_counting() -> None:
    model = small()
    layers.freeze(model, ["features.1.bias"])
    train_a_little(model, TrainSpec())
    assert model.get_buffer("features.1.num_batches_tracked") == 3
    assert model.get_buffer("features.1.running_mean").any()


def test_unfrozen_everything_is_trained() -> None:
    model, before = small(), small()
    layers.freeze(model, ["features.*"])
    layers.unfreeze(model)
    train_a_little(model, TrainSpec())
    assert not any(
        torch.equal(parameter, before.get_parameter(key))
        for key, parameter in model.named_parameters()
        if not key.endswith("0.bias")
    )


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("feature.*", r'model\.freeze: "feature\.\*" matches no parameter; .*features\.'),
        ("Classifier.3.bias", r"classifier\.3\.bias"),
        ("*", "leaves nothing to train"),
    ],
)
def test_patterns_that_make_no_sense_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        layers.freeze(small(), [pattern])
