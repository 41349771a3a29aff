"""A network from its images to its outputs: its head, how many blocks lie between the outputs and each layer, and which
of its layers are trained.

A block is a module that a network is made of as a whole: a residual block, a transformer's encoder block, a single
convolution. They are found by going through the network in the order in which its parts were registered, into lists of
modules (`nn.Sequential`, `nn.ModuleList`), into what holds one list of blocks, and into whatever has more than half
of all weights. A normalisation belongs to the convolution or linear layer before it, else to what follows; tokens and
positions to the first block. So ViTs have the levels of BEiT (Bao et al. 2022) and MAE (He et al. 2022), for which
rates that fall from block to block were published; Howard and Ruder (2018) let them fall from layer to layer, by 2.6.
"""

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import islice

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hpsearch.errors import ModelError
from hpsearch.training.weights import listed

_NEAREST = 3  # parameters that a pattern without a match is told of


def head_of(model: nn.Module, name: str, outputs: int, fresh: Collection[str] = ()) -> tuple[str, ...]:
    """Returns the names of the parameters that give the outputs, with those that start anew.

    Args:
        name: of the model, for sentences.
        outputs: classes, or regression targets.
        fresh: tensors that a file of weights has not given.

    Raises:
        ModelError: the network's last layer gives something else, or there is nothing below the head.
    """
    parameters = dict(model.named_parameters())
    last = {f"{path}.{one}".strip(".") for path in _last_modules(model) for one in _own(model, path)}
    sizes = {parameters[one].shape[0] for one in last if one in parameters and parameters[one].dim()}
    if sizes != {outputs} and not (sizes == {1} and outputs == 2):
        raise ModelError(
            f'train.stages: the last layer of model.name = "{name}", {listed(sorted(last))}, gives {_shown(sizes)}, '
            f"and this data needs {outputs}: its head is not known; leave stages out, and write model.freeze with the "
            "names of what is below it and model.unfreeze_after"
        )
    head = tuple(one for one in parameters if one in last or one in fresh)
    if len(head) == len(parameters):
        raise ModelError(
            f'train.stages: nothing of model.name = "{name}" lies below its head ({listed(head)}), which all starts '
            "anew; leave stages out"
        )
    return head


def depths_of(model: nn.Module, name: str, fresh: Collection[str] = ()) -> dict[str, int]:
    """Returns for each parameter how many blocks it lies below the uppermost, which gives the outputs.

    Args:
        name: of the model, for the sentence.
        fresh: tensors that a file of weights has not given; none of them lies below others.

    Raises:
        ModelError: there is one block alone.
    """
    found: dict[str, int] = {}
    depth = 0
    for place, block in enumerate(reversed(_blocks(model))):
        if place and not (depth == 0 and any(one in fresh for one in block)):
            depth += 1
        found |= {one: 0 if one in fresh else depth for one in block}
    if depth == 0:
        raise ModelError(
            f'train.layer_decay: model.name = "{name}" has a single block with weights, and no other lies below it; '
            "leave layer_decay out"
        )
    return found


def _last_modules(model: nn.Module) -> list[str]:
    """Returns the paths of the layers that give the outputs: as timm's networks say, else the last that has weights."""
    if callable(says := getattr(model, "get_classifier", None)):
        given = says()
        heads = given if isinstance(given, tuple | list) else [given]
        found = [path for path, module in model.named_modules() if any(module is one for one in heads)]
        if found and all(_own(model, path) for path in found):
            return found
    names = [name for name, _ in model.named_parameters()]
    return [names[-1].rpartition(".")[0]] if names else []


def _own(model: nn.Module, path: str) -> list[str]:
    return [name for name, _ in model.get_submodule(path).named_parameters()]


def _shown(sizes: Collection[int]) -> str:
    return " and ".join(map(str, sorted(sizes))) or "nothing"


def _blocks(model: nn.Module) -> list[list[str]]:
    """Returns the names of the parameters of each block, from the images to the outputs."""
    total = _size(model)
    blocks: list[list[str]] = []
    waiting: list[str] = []  # what belongs to the next block

    def add(names: list[str]) -> None:
        blocks.append([*waiting, *names])
        waiting.clear()

    def walk(module: nn.Module, prefix: str) -> None:
        own = [prefix + name for name, _ in module.named_parameters(recurse=False)]
        (blocks[0] if blocks else waiting).extend(own)
        follows_layer = False
        for name, child in module.named_children():
            names = [f"{prefix}{name}.{one}" for one, _ in child.named_parameters()]
            if not names:
                continue
            if _is_walked_through(child, total):
                walk(child, f"{prefix}{name}.")
            elif _is_normalization(child):
                (blocks[-1] if follows_layer else waiting).extend(names)
            else:
                add(names)
            follows_layer = not any(True for _ in child.children())

    walk(model, "")
    if waiting:
        if blocks:
            blocks[-1].extend(waiting)
        else:
            add([])
    return blocks


def _is_walked_through(module: nn.Module, total: int) -> bool:
    children = list(module.children())
    is_list = isinstance(module, nn.Sequential | nn.ModuleList)
    lists = sum(map(_is_of_blocks, children))  # several are side by side, as in an Inception block
    return bool(children) and (is_list or lists == 1 or 2 * _size(module) > total)


def _is_of_blocks(module: nn.Module) -> bool:
    """Returns whether a module is a list of like blocks, as a stage of ConvNeXt holds; a block may hold other lists."""
    kinds = {type(child) for child in module.children()}
    is_alike = len(kinds) == 1 and not any(issubclass(kind, nn.Sequential) for kind in kinds)
    has_parts = all(any(True for _ in child.children()) for child in module.children())
    return isinstance(module, nn.ModuleList) or (isinstance(module, nn.Sequential) and is_alike and has_parts)


def _is_normalization(module: nn.Module) -> bool:
    """Returns whether a module has nothing but scales and shifts of channels."""
    return not any(True for _ in module.children()) and all(one.dim() < 2 for one in module.parameters())


def _size(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def matching(names: Iterable[str], pattern: str, field: str) -> list[str]:
    """Returns the names that a pattern (`layer1.*`, with * ? [abc]) matches.

    Raises:
        ModelError: none does; the nearest are named.
    """
    names = list(names)
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        near = get_close_matches(pattern, names, n=_NEAREST, cutoff=0.3) or islice(names, _NEAREST)
        raise ModelError(
            f'{field}: "{pattern}" matches no parameter; there are, for example, {", ".join(near)}'
        )
    return found


def freeze(model: nn.Module, patterns: Iterable[str]) -> None:
    """Leaves the parameters whose names match one of the patterns as they are.

    A frozen layer keeps what it learned elsewhere (transfer learning); no gradient is computed for it. Its
    first layers see edges and textures, which serve any images, so they are the ones to freeze.

    Raises:
        ModelError: a pattern matches nothing, or nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        for name in matching(parameters, pattern, "model.freeze"):
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ModelError("model.freeze leaves nothing to train; name fewer parameters")


def train_alone(model: nn.Module, names: Collection[str]) -> None:
    """Leaves all parameters but these as they are."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)


def unfreeze(model: nn.Module) -> None:
    """Lets every parameter be trained."""
    model.requires_grad_(True)


def train_mode(model: nn.Module) -> None:
    """Puts a model into training mode, but for the BatchNorm layers that are frozen as a whole.

    In training mode BatchNorm normalises by the batch's own statistics and moves its running ones towards
    them (Ioffe and Szegedy 2015), so a frozen layer would still change.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            own = list(module.parameters(recurse=False))
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()


def train_mode_of(model: nn.Module, names: Collection[str]) -> None:
    """Puts the layers that have these parameters into training mode, and all others into evaluation mode."""
    model.eval()
    for path in {name.rpartition(".")[0] for name in names}:
        model.get_submodule(path).train()
