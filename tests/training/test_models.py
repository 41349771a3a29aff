"""Models by name."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hpsearch.errors import ModelError
from hpsearch.study import ModelSpec
from hpsearch.training import models
from hpsearch.training.models import automatic_blocks, build
from hpsearch.training.weights import fit_channels

SAMPLE = (
    "resnet18",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "regnet_y_400mf",
)
TOO_SMALL_AT_32 = {"alexnet", "inception_v3", "maxvit_t"}


def made(
    name: str,
    args: dict[str, Any] | None = None,
    channels: int = 3,
    side: int = 32,
    outputs: int = 10,
    seed: int = 0,
) -> nn.Module:
    return build(ModelSpec(name=name, args=args or {}), channels, (side, side), outputs, seed)


def shapes(model: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in model.parameters()]


def test_the_small_cnn_is_exactly_this_one() -> None:
    model = made("cnn", {"width": 16, "blocks": 1, "hidden": 64}, channels=1, side=8)
    layers = [str(layer) for layer in model.modules() if not isinstance(layer, nn.Sequential)]
    assert layers == [
        "Conv2d(1, 16, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))",
        "ReLU()",
        "Conv2d(16, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))",
        "ReLU()",
        "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)",
        "Flatten(start_dim=1, end_dim=-1)",
        "Linear(in_features=512, out_features=64, bias=True)",
        "ReLU()",
        "Linear(in_features=64, out_features=10, bias=True)",
    ]


@pytest.mark.parametrize("name", ["cnn", "mlp", "vit_b_16", "swin_t", "timm/resnet26d", *SAMPLE])
def test_an_outline_is_the_model_without_memory(name: str) -> None:
    side = 224 if name in ("vit_b_16", "swin_t") else 75
    outline = models.outline(ModelSpec(name=name), 1, (side, side), 5)
    assert outline is not None
    model = made(name, channels=1, side=side, outputs=5)
    assert {key: one.shape for key, one in outline.items()} == {
        key: one.shape for key, one in model.state_dict().items()
    }
    assert (
        sum(one.numel() for one in outline.values() if not one.is_meta) < 1e5
    )  # such as indices of positions


@pytest.mark.parametrize(("side", "blocks"), [(2, 1), (8, 1), (16, 1), (28, 2), (32, 2), (64, 3), (224, 5)])
def test_blocks_follow_the_image_size(side: int, blocks: int) -> None:
    assert automatic_blocks((side, side)) == blocks


@pytest.mark.parametrize(("side", "blocks"), [(2, 1), (8, 2), (28, 4), (32, 4), (64, 5), (224, 7)])
def test_a_cnn_that_pools_goes_deeper(side: int, blocks: int) -> None:
    assert automatic_blocks((side, side), pool=True) == blocks


def test_a_cnn_that_pools_does_not_mind_where_in_an_image_something_is() -> None:
    model = made("cnn", {"width": 4, "blocks": 2, "norm": True, "pool": True}, channels=1, side=32).eval()
    image = torch.zeros(1, 1, 32, 32)
    image[..., 8:12, 8:12] = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    moved = image.roll((8, 4), (2, 3))
    torch.testing.assert_close(model(moved), model(image))
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(16, 10)]
    placed = made("cnn", {"width": 4, "blocks": 2, "norm": True}, channels=1, side=32).eval()
    assert (placed(moved) - placed(image)).abs().max() > 1e-3


def test_each_further_block_doubles_the_width() -> None:
    model = made("cnn", {"width": 4, "blocks": 3, "norm": True, "dropout": 0.5}, side=33)
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [4, 8, 16, 32]
    assert all(layer.bias is None for layer in convolutions)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()) == 4
    assert sum(isinstance(layer, nn.Dropout) for layer in model.modules()) == 1


def test_the_mlp_has_the_layers_asked_for() -> None:
    assert shapes(made("mlp", {"hidden": [7, 5]}, channels=1, side=4, outputs=3)) == [
        (7, 16), (7,), (5, 7), (5,), (3, 5), (3,),
    ]  # fmt: skip
    assert shapes(made("mlp", {"hidden": []}, channels=1, side=4, outputs=3)) == [(3, 16), (3,)]


def test_own_models_import_no_torchvision() -> None:
    script = (
        "import sys; from hpsearch.study import ModelSpec; from hpsearch.training.models import build\n"
        "for name in ('cnn', 'mlp'): build(ModelSpec(name=name), 1, (8, 8), 10, 0)\n"
        "sys.exit('torchvision' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", ["cnn", "mlp", "resnet18", "tests.training.nets:linear"])
def test_weights_come_from_the_seed_alone(name: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, same, other = (
        torch.cat([p.flatten() for p in made(name, seed=seed).parameters()]) for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", SAMPLE)
def test_torchvision_models_take_the_data_or_are_refused(name: str) -> None:
    def attempt() -> nn.Module:
        return made(name, outputs=7, channels=1)

    if name in TOO_SMALL_AT_32:
        with pytest.raises(ModelError, match=f'model.name = "{name}" cannot take images of 1 x 32 x 32: '):
            attempt()
        return
    model = attempt()
    assert model.training
    outputs = model(torch.rand(2, 1, 32, 32))  # in training mode: auxiliary heads would return more
    assert outputs.shape == (2, 7)
    outputs.sum().backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert idle == []


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> Callable[..., nn.Module]:
    """Builds models without numbers, which takes neither memory nor arithmetic."""
    from torchvision.models.regnet import BlockParams

    counted = BlockParams.from_init_params.__func__

    def on_the_cpu(cls: type, *args: Any, **kwargs: Any) -> Any:
        with torch.device("cpu"):  # RegNet computes its widths with tensors
            return counted(cls, *args, **kwargs)

    monkeypatch.setattr(BlockParams, "from_init_params", classmethod(on_the_cpu))

    def attempt(*args: Any, **kwargs: Any) -> nn.Module:
        with torch.device("meta"):
            return made(*args, **kwargs)

    return attempt


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_torchvision_classifier_is_built_or_refused(on_meta: Callable[..., nn.Module]) -> None:
    names, complaints = models.torchvision_names(), {}
    assert len(names) >= 80
    for name in names:
        try:
            model = on_meta(name, channels=1)
        except ModelError as error:
            complaints[name] = str(error)
            continue
        assert next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d)).in_channels == 1
    assert all(text.startswith(f'model.name = "{name}" ') for name, text in complaints.items())
    assert complaints.keys() == TOO_SMALL_AT_32 | {"vit_h_14"}  # patches of 14 pixels


@pytest.mark.parametrize("name", ["alexnet", "inception_v3", "maxvit_t", "vit_h_14", "vit_b_16"])
def test_those_refused_take_larger_images(on_meta: Callable[..., nn.Module], name: str) -> None:
    on_meta(name, side=224)


def test_vision_transformers_are_fitted_to_the_image_size(on_meta: Callable[..., nn.Module]) -> None:
    model = on_meta("vit_b_16", side=48)
    assert model.get_parameter("encoder.pos_embedding").shape == (
        1,
        10,
        768,
    )  # 3 x 3 patches and the class token
    with pytest.raises(ModelError, match=r'"vit_b_16" cannot take images of 3 x 32 x 32: .*Expected 48'):
        models.check_images(model, "vit_b_16", 3, (32, 32), 10)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_first_convolution_is_fitted_to_the_channels(channels: int) -> None:
    model = made("resnet18", channels=channels)
    assert model.get_parameter("conv1.weight").shape == (64, channels, 7, 7)
    assert model(torch.rand(2, channels, 32, 32)).shape == (2, 10)


def test_a_grey_channel_gives_what_three_equal_ones_give() -> None:
    kernel = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    grey = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    for channels in (1, 3):
        fitted = fit_channels(kernel, channels)
        torch.testing.assert_close(
            nn.functional.conv2d(grey.expand(-1, channels, -1, -1), fitted),
            nn.functional.conv2d(grey.expand(-1, 3, -1, -1), kernel),
        )
    torch.testing.assert_close(fit_channels(kernel, 6).sum(1), kernel.sum(1))


def test_users_functions_get_what_they_declare() -> None:
    scaled = made("tests.training.nets:linear", {"scale": 0.0})
    assert not any(parameter.any() for parameter in scaled.parameters())
    assert shapes(made("tests.training.nets:pooled", {"depth": 5}))[0] == (5, 3, 1, 1)


def test_one_output_does_for_two_classes() -> None:
    made("tests.training.nets:one_output", outputs=2)
    with pytest.raises(
        ModelError, match=r"gives \[2, 1\] for 2 images; this data needs outputs of shape \[2, 3\]"
    ):
        made("tests.training.nets:one_output", outputs=3)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("resnet81", {}, r'model\.name = "resnet81" is unknown; did you mean "resnet18"'),
        ("cnnn", {}, r'"cnnn" is unknown; did you mean "cnn"\? Known: mlp, cnn, torchvision'),
        ("cnn", {"widht": 4}, r'model\.args\.widht: "cnn" has no such argument; did you mean "width"'),
        ("cnn", {"width": 0}, r"model\.args\.width: is 0; it must be a whole number of at least 1"),
        ("cnn", {"width": "wide"}, r"model\.args\.width: is 'wide'"),
        (
            "cnn",
            {"blocks": 6},
            r"model\.args\.blocks: is 6, but images of 32 x 32 pixels can be halved 5 times",
        ),
        ("cnn", {"dropout": 1.0}, r"model\.args\.dropout: is 1\.0; it must be at least 0 and below 1"),
        ("cnn", {"norm": "no"}, r"model\.args\.norm: is 'no'; it must be true or false"),
        ("cnn", {"pool": "false"}, r"model\.args\.pool: is 'false'; it must be true or false"),
        ("cnn", {"classes": 3}, r"model\.args\.classes: is known from the study and its data; remove it"),
        ("mlp", {"hidden": 64}, r"model\.args\.hidden: is 64; write a list of widths, such as \[64\]"),
        (
            "resnet18",
            {"dropuot": 0.1},
            r'"resnet18" cannot be built \(model\.args: dropuot = 0\.1\): TypeError',
        ),
        ("resnet18", {"weights": "DEFAULT"}, r"model\.args\.weights: write model\.weights instead"),
        ("resnet18", {"num_classes": 3}, r"model\.args\.num_classes: is known from the data"),
        ("tests.training.nets:linear", {"scal": 1}, r'has no such argument; did you mean "scale"'),
        ("tests.training.nets:pooled", {}, r"needs the argument depth; add model\.args\.depth"),
        ("tests.training.nets:number", {}, "returned int, not an nn.Module"),
        ("tests.training.nets:fails", {}, "cannot be built .*ZeroDivisionError: no model for 10"),
        ("tests.training.nets:Picky", {}, "cannot take images of 3 x 32 x 32: I dislike images"),
        ("tests.training.nets:nowhere", {}, r'nets\.py\) has no "nowhere"'),
    ],
)
def test_models_that_cannot_be_had_are_refused(name: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        made(name, args)


def test_a_lack_of_memory_is_no_fault_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(**facts: object) -> nn.Module:
        raise MemoryError

    monkeypatch.setitem(models.BUILDERS, "greedy", greedy)
    with pytest.raises(MemoryError):
        made("greedy")


def test_only_allowed_modules_become_models() -> None:
    with pytest.raises(ModelError, match="the module tests may not be imported here"):
        build(ModelSpec(name="tests.training.nets:linear"), 1, (8, 8), 10, 0, allow=())


def test_trying_a_model_leaves_its_statistics_alone() -> None:
    model = made("cnn", {"norm": True})
    assert model.training
    assert not model.get_buffer("features.1.num_batches_tracked")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlp", torch.contiguous_format),
        ("cnn", torch.channels_last),
        ("mobilenet_v3_small", torch.channels_last),
        (
            "resnet18",
            torch.contiguous_format,
        ),  # most of its weights are in 3 x 3 kernels of 256 channels and more
        ("tests.training.nets:Viewed", torch.contiguous_format),
    ],
)
def test_the_memory_format_is_the_faster_one_that_the_model_takes(
    name: str, expected: torch.memory_format
) -> None:
    model, images = made(name), torch.rand(2, 3, 32, 32)
    model.train()
    before = model.eval()(images)
    found = models.choose_memory_format(model.train(), torch.device("cpu"), 3, (32, 32), half=False)
    assert found is expected
    assert model.training
    kernels = [weight for weight in model.parameters() if weight.dim() == 4 and min(weight.shape) > 1]
    assert all(weight.is_contiguous(memory_format=expected) for weight in kernels)
    torch.testing.assert_close(model.eval()(images.to(memory_format=found)), before, rtol=1e-4, atol=1e-5)
