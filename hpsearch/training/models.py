"""Models by name: `mlp`, `cnn`, every torchvision classifier, or the study's own function.

A builder is a function of the images' `channels`, `image_size` (height, width) and the number of `classes`
(for a regression: of targets), as far as it declares them, and of `model.args`. It returns an `nn.Module` that takes
images of shape [B, channels, height, width] and returns raw outputs of shape [B, classes].

Legend: B batch, C channels, H height, W width.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from hpsearch.errors import OF_OWN_CODE, ModelError
from hpsearch.study import ModelSpec
from hpsearch.study.train import IMAGENET, TIMM
from hpsearch.training import pretrained
from hpsearch.training.device import is_out_of_memory
from hpsearch.training.own import Builder
from hpsearch.training.weights import fit_channels

Size = tuple[int, int]

_ALL_IN, _POOLED = 7, 2  # pixels: the side down to which `cnn` halves images, and that of one that pools


def build(
    spec: ModelSpec,
    channels: int,
    image_size: Size,
    outputs: int,
    seed: int,
    allow: Collection[str] | None = None,
) -> nn.Module:
    """Builds a model with fresh weights on the CPU, and tries it on two black images.

    Args:
        image_size: height and width.
        outputs: classes, or regression targets.
        seed: of the weights; torch's global generator is left as it was.
        allow: what the study may name as its model, see `import_object`; None trusts all.

    Raises:
        ModelError: an unknown name, arguments that do not suit, or a model that cannot take these images.
    """
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        model = _build(spec, channels, image_size, outputs, allow)
    finally:
        generator.set_state(before)
    check_images(model, spec.name, channels, image_size, outputs)
    return model


def outline(spec: ModelSpec, channels: int, image_size: Size, outputs: int) -> dict[str, torch.Tensor] | None:
    """Returns a model's weights without memory, for their shapes; None if it is the user's own.

    Raises:
        ModelError: an unknown name, or arguments that do not suit.
    """
    if ":" in spec.name:
        return None
    with _WithoutMemory():
        return _build(spec, channels, image_size, outputs, ()).state_dict()


class _WithoutMemory(TorchFunctionMode):
    """Makes weights, and no other tensors, on the meta device: a RegNet computes its widths with some."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = {"device": "meta"} if func in _MAKES_WEIGHTS else {}
        return func(*args, **{**(kwargs or {}), **made})


_MAKES_WEIGHTS = (torch.empty, torch.zeros, torch.ones)


def _build(
    spec: ModelSpec, channels: int, image_size: Size, outputs: int, allow: Collection[str] | None
) -> nn.Module:
    facts = {"channels": channels, "image_size": image_size, "classes": outputs}
    if ":" in spec.name:
        model = _named(spec).build(facts, allow)
        if not isinstance(model, nn.Module):
            raise ModelError(f'model.name = "{spec.name}" returned {type(model).__name__}, not an nn.Module')
        return model
    if spec.name in BUILDERS:
        built: nn.Module = _named(spec).call(BUILDERS[spec.name], facts)
        return built
    if spec.name.startswith(TIMM):
        return _timm(spec, channels, image_size, outputs)
    return _torchvision(spec, channels, image_size, outputs)


def _named(spec: ModelSpec) -> Builder:
    return Builder("model.name", spec.name, "model.args", spec.args)


def choose_memory_format(
    model: nn.Module, device: torch.device, channels: int, image_size: Size, half: bool
) -> torch.memory_format:
    """Returns the memory format that a model computes fastest in, after putting its weights into it.

    With `channels_last` the channels of a pixel lie side by side, not the pixels of a channel. On GPUs 16-bit
    convolutions want it so. On CPUs most do: a step of `cnn` takes 0.87 of the time, of ResNet-50 0.66, of
    MobileNetV3 0.49; but of ResNet-18, with its wide kernels, 1.0 to 1.25 (`tests.benchmarks.memory_order`).

    Args:
        half: whether products are computed in 16 bits.
    """
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if not convolutions or (device.type == "cuda" and not half):
        return torch.contiguous_format
    if device.type == "cpu" and _are_wide(convolutions):
        return torch.contiguous_format
    model.to(memory_format=torch.channels_last)
    like = next(model.parameters())
    images = torch.zeros(2, channels, *image_size, dtype=like.dtype, device=device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(images.to(memory_format=torch.channels_last))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        # Such as `features.view(len(features), -1)` in a model of the user's, which `flatten(1)` would mend.
        model.to(memory_format=torch.contiguous_format)
        return torch.contiguous_format
    finally:
        model.train(training)
    return torch.channels_last


_WIDE = 256
"""Input channels from which on a kernel of several pixels is faster the other way."""


def _are_wide(convolutions: Sequence[nn.Conv2d]) -> bool:
    """Returns whether most of the convolutions' weights are in kernels of several pixels over many channels."""
    sizes = [
        (layer.weight.numel(), layer.weight.shape[1] >= _WIDE and max(layer.kernel_size) > 1)
        for layer in convolutions
    ]
    return 2 * sum(size for size, wide in sizes if wide) > sum(size for size, _ in sizes)


def check_images(model: nn.Module, name: str, channels: int, image_size: Size, outputs: int) -> None:
    """Tries a model on two black images; used for each size of progressive resizing too.

    Raises:
        ModelError: it cannot take them, or gives another number of outputs. One output is accepted for two
            classes: binary cross-entropy takes it.
    """
    height, width = image_size
    like = next(model.parameters(), torch.zeros(0))
    images = torch.zeros(2, channels, height, width, dtype=like.dtype, device=like.device)
    training = model.training
    model.eval()  # neither BatchNorm's statistics nor dropout's random numbers move
    try:
        with torch.no_grad():
            given = model(images)
    except OF_OWN_CODE as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f'model.name = "{name}" cannot take images of {channels} x {height} x {width}: {error}'
        ) from error
    finally:
        model.train(training)
    shape = list(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
    if shape != [2, outputs] and not (shape == [2, 1] and outputs == 2):
        raise ModelError(
            f'model.name = "{name}" gives {shape} for 2 images; '
            f"this data needs outputs of shape [2, {outputs}]"
        )


def takes_single_samples(model: nn.Module, channels: int, image_size: Size) -> bool:
    """Returns whether a model can train on one image, which it is left as it was by trying.

    BatchNorm divides by the standard deviation over the batch and its pixels: of one number there is none.
    """
    like = next(model.parameters(), torch.zeros(0))
    image = torch.zeros(1, channels, *image_size, dtype=like.dtype, device=like.device)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.no_grad():
            functional_call(model, buffers, image)
    except ValueError as error:
        if not is_too_few(error):
            raise
        return False
    return True


def is_too_few(error: BaseException) -> bool:
    """Returns whether an exception says that BatchNorm got a single number per channel."""
    return isinstance(error, ValueError) and "more than 1 value per channel" in str(error)


def mlp(
    channels: int, image_size: Size, classes: int, hidden: Sequence[int] = (128,), dropout: float = 0.0
) -> nn.Module:
    """A multilayer perceptron: all pixels in one row, then fully connected layers with ReLU between.

    Args:
        hidden: width of each hidden layer; none of them makes it a linear classifier.
        dropout: share of the last hidden layer's values set to 0 at random while training (Srivastava 2014).
    """
    if isinstance(hidden, int):
        raise ModelError(f"model.args.hidden: is {hidden}; write a list of widths, such as [{hidden}]")
    widths = [_whole("hidden", width) for width in hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    wide = channels * math.prod(image_size)
    for width in widths:
        layers += [nn.Linear(wide, width), nn.ReLU()]
        wide = width
    return nn.Sequential(*layers, *_dropout(dropout), nn.Linear(wide, classes))


def cnn(
    channels: int,
    image_size: Size,
    classes: int,
    width: int = 16,
    blocks: int | None = None,
    hidden: int | None = None,
    dropout: float = 0.0,
    norm: bool = False,
    pool: bool = False,
) -> nn.Module:
    """A small convolutional network, after LeNet-5 (LeCun et al. 1998) with today's parts.

    The first block has two 3 x 3 convolutions, of `width` and 2 `width` channels; each further block has one,
    which doubles the channels. Each convolution is followed by ReLU and each block by a maximum over 2 x 2
    pixels. One or two linear layers end it.

    Args:
        blocks: halvings of the image; None: down to about 7 pixels (8 pixels 1, 28 pixels 2, 64 pixels 3), with `pool`
            down to about 2 (28 pixels 4, 64 pixels 5).
        hidden: width of the linear layer before the last; None: 64, with `pool` there is none.
        dropout: share of the last layer's inputs set to 0 at random while training.
        norm: BatchNorm after each convolution.
        pool: the linear layers see the mean of each channel over all places (Lin, Chen and Yan 2014) instead of every
            place, so that it hardly matters where in an image something is.
    """
    most = int(math.log2(min(image_size)))
    blocks = automatic_blocks(image_size, pool) if blocks is None else _whole("blocks", blocks)
    if blocks > most:
        raise ModelError(
            f"model.args.blocks: is {blocks}, but images of {image_size[0]} x {image_size[1]} pixels can be "
            f"halved {most} times"
        )
    width, norm, pool = _whole("width", width), _switch("norm", norm), _switch("pool", pool)
    layers = _convolution(channels, width, norm)
    for block in range(blocks):
        layers += [*_convolution(width * 2**block, width * 2 ** (block + 1), norm), nn.MaxPool2d(2)]
    left = width * 2**blocks * (1 if pool else math.prod(side // 2**blocks for side in image_size))
    head: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if pool else [nn.Flatten()]
    if hidden is not None or not pool:
        inputs, left = left, 64 if hidden is None else _whole("hidden", hidden)
        head += [nn.Linear(inputs, left), nn.ReLU()]
    head += [*_dropout(dropout), nn.Linear(left, classes)]
    parts = {"features": nn.Sequential(*layers), "classifier": nn.Sequential(*head)}
    return nn.Sequential(OrderedDict(parts))


def automatic_blocks(image_size: Size, pool: bool = False) -> int:
    """Returns how often an image is halved until its smaller side is nearest to 7 pixels, or to 2, at least once."""
    return max(1, round(math.log2(min(image_size) / (_POOLED if pool else _ALL_IN))))


def _convolution(given: int, made: int, norm: bool) -> list[nn.Module]:
    # BatchNorm subtracts the mean, and with it any bias.
    convolution = nn.Conv2d(given, made, 3, padding=1, bias=not norm)
    return [convolution, nn.BatchNorm2d(made), nn.ReLU()] if norm else [convolution, nn.ReLU()]


def _dropout(share: float) -> list[nn.Module]:
    if not isinstance(share, int | float) or not 0 <= share < 1:
        raise ModelError(f"model.args.dropout: is {share!r}; it must be at least 0 and below 1")
    return [nn.Dropout(share)] if share else []


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"model.args.{name}: is {value!r}; it must be a whole number of at least 1")
    return value


def _switch(name: str, value: Any) -> bool:
    if value not in (True, False):  # a text such as "false" would switch it on
        raise ModelError(f"model.args.{name}: is {value!r}; it must be true or false")
    return bool(value)


BUILDERS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "cnn": cnn}
"""Our own models; they need no torchvision, which takes seconds to import."""

_NO_AUXILIARY = {"aux_logits": False, "init_weights": True}

_FITTED: dict[str, Callable[[Size], dict[str, Any]]] = {
    "googlenet": lambda size: _NO_AUXILIARY,
    "inception_v3": lambda size: _NO_AUXILIARY,
    "maxvit": lambda size: {"input_size": size},
    "vit_": lambda size: {"image_size": size[0]},
}
"""Beginnings of torchvision's names to what these models must be told beside the number of classes."""


def torchvision_names() -> list[str]:
    """Returns the names of torchvision's classifiers."""
    from torchvision import models

    return list(models.list_models(module=models))


def _torchvision(spec: ModelSpec, channels: int, image_size: Size, outputs: int) -> nn.Module:
    from torchvision import models

    if spec.name not in torchvision_names():
        close = get_close_matches(spec.name, [*BUILDERS, *torchvision_names()], n=1)
        guess = f'did you mean "{close[0]}"? Known' if close else "known"
        raise ModelError(
            f'model.name = "{spec.name}" is unknown; {guess}: {", ".join(BUILDERS)}, torchvision\'s '
            "classifiers such as resnet18, timm's such as timm/resnet26d, and functions as my_package.nets:build"
        )
    fixed: dict[str, Any] = {"weights": None, "num_classes": outputs}
    for beginning, told in _FITTED.items():
        if spec.name.startswith(beginning):
            fixed |= told(image_size)
    if spec.weights == IMAGENET and spec.name in _OWN_SCALE:
        fixed["transform_input"] = True
    _refuse_fixed(spec, fixed)
    model: nn.Module = _named(spec).guarded(models.get_model, {"name": spec.name, **fixed, **spec.args})
    if channels != 3:
        _fit_input(model, channels)
    return model


_OWN_SCALE = ("googlenet", "inception_v3")
"""Networks whose published weights expect images normalised in another way than these say of themselves."""


_FILES = ("checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay")
"""Arguments by which timm reads files of weights."""


def _refuse_fixed(spec: ModelSpec, fixed: Collection[str]) -> None:
    for name in spec.args:
        if name in fixed or name in _FILES:
            instead = (
                "write model.weights instead"
                if name in ("weights", "pretrained", *_FILES)
                else "is known from the data; remove it"
            )
            raise ModelError(f"model.args.{name}: {instead}")


def _timm(spec: ModelSpec, channels: int, image_size: Size, outputs: int) -> nn.Module:
    name = spec.name.removeprefix(TIMM)
    library = pretrained.timm(name)
    fixed: dict[str, Any] = {"pretrained": False, "num_classes": outputs, "in_chans": channels}
    config = library.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        fixed["img_size"] = image_size
    _refuse_fixed(spec, fixed)
    model: nn.Module = _named(spec).guarded(library.create_model, {"model_name": name, **fixed, **spec.args})
    return model


def _fit_input(model: nn.Module, channels: int) -> None:
    """Replaces a torchvision model's first convolution by one for another number of channels."""
    path, first = next(
        (path, module) for path, module in model.named_modules() if isinstance(module, nn.Conv2d)
    )
    fitted = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        first.dilation,  # type: ignore[arg-type]
        bias=first.bias is not None,
        padding_mode=first.padding_mode,
    )
    fitted.load_state_dict({**first.state_dict(), "weight": fit_channels(first.weight.detach(), channels)})
    model.set_submodule(path, fitted)
