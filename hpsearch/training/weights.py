"""Files of a model's weights: how they are written, read, and fitted to a model that differs from theirs."""

import functools
import hashlib
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from hpsearch.errors import CheckpointError, ModelError, reason_of, refusing
from hpsearch.files.atomic import write_whole
from hpsearch.files.paths import is_file, regular
from hpsearch.text import first_few

_WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Under which keys training scripts keep the weights in a larger dict."""

_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Heads that GoogLeNet and Inception have for training only, which are left off here."""

_SHOWN = 3
_COUNTER = "num_batches_tracked"

_OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)")
"""Names in torchvision's own files of DenseNet, whose layers were called otherwise when they were trained."""


def save_weights(
    path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str], sync: bool = True
) -> None:
    """Writes weights and texts about them as one safetensors file, which is whole or not there.

    Args:
        state: a model's state dict, on any device.
        sync: whether it must outlive a power cut, as for `write_whole`.

    Raises:
        OSError: for example because the disk is full.
    """
    # Cloned, since safetensors refuses tensors that share memory, as tied weights do.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    write_whole(Path(path), safetensors.torch.save(copies, dict(metadata)), sync)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the weights of a safetensors file, on the CPU, and the texts about them.

    Raises:
        CheckpointError: the file is not there or damaged.
    """
    with (
        refusing(lambda why: CheckpointError(f"{path}: these weights cannot be read: {why}")),
        safe_open(str(regular(path)), framework="pt") as file,
    ):
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


@dataclass(frozen=True, slots=True)
class Match:
    """What a model takes of a file of weights.

    Attributes:
        tensors: by the model's own names.
        text: how many they are, which of the model's start anew, and what was changed or left out.
        fresh: the model's own that start anew.
    """

    tensors: Mapping[str, Tensor]
    text: str
    fresh: tuple[str, ...] = ()


def read_texts(path: Path) -> dict[str, str]:
    """Returns the texts of a safetensors file alone.

    Raises:
        CheckpointError: the file is not there or damaged.
    """
    with (
        refusing(lambda why: CheckpointError(f"{path}: these weights cannot be read: {why}")),
        safe_open(str(regular(path)), framework="pt") as file,
    ):
        return dict(file.metadata() or {})


def load_weights(model: nn.Module, path: str | Path) -> Match:
    """Starts a model from a local file of weights, such as those of a network trained on more images.

    Returns:
        What was taken, and which of the model's tensors start anew.

    Raises:
        ModelError: the file is not there, holds no weights, or does not fit; the first names are given.
    """
    found = match_weights(path, model.state_dict())
    model.load_state_dict(dict(found.tensors), strict=False)
    return found


def match_weights(path: str | Path, own: Mapping[str, Tensor]) -> Match:
    """Finds for each of a model's tensors the one that a file has for it.

    Names may differ by what stands before all of them: `module.`, `backbone.`. Two shapes may: a last layer of another
    one starts anew (other classes), and the first convolution may have been made for another number of colours
    (`fit_channels`). Layers at the model's end may be missing, as they are in files of backbones, and so start anew.

    Args:
        own: the model's tensors, of which only names and shapes count.

    Raises:
        ModelError: the file is not there, holds no weights, or does not fit; the first names are given.
    """
    content = {name: one for name, one in _read(Path(path)).items() if not name.startswith(_AUXILIARY)}
    found, removed, notes = *_renamed(content, own), list[str]()
    resized = [
        name
        for name in last_layer(own)
        if name in found and name in own and found[name].shape != own[name].shape
    ]
    shapes = [
        f"{name} is {list(found.pop(name).shape)} in the file, {list(own[name].shape)} here"
        for name in resized
    ]
    for name, tensor in found.items():
        if name in own and tensor.dim() == 4 and _differ_in_channels(tensor, own[name]):
            found[name] = fit_channels(tensor, own[name].shape[1])
            notes.append(f"{name} fitted from {tensor.shape[1]} channels to {own[name].shape[1]}")
    fresh = [*resized, *_missing_end(found, own, resized)]
    unknown = [name for name in found if name not in own]
    if len(fresh) > len(resized) or removed:  # of a file with another head than the model's
        found = {name: tensor for name, tensor in found.items() if name in own}
        notes += [f"left out of the file: {listed(unknown)}"] if unknown else []
    if faults := misfits(found, {name: one for name, one in own.items() if name not in fresh}):
        raise ModelError(f'model.weights = "{path}" does not fit the model: {faults}')
    counted = [name for name in own if not name.endswith(_COUNTER)]
    taken = sum(name in found for name in counted)
    text = (
        f"all {taken} tensors taken" if taken == len(counted) else f"{taken} of {len(counted)} tensors taken"
    )
    start = f"{listed(fresh)} start{'s' if len(fresh) == 1 else ''} anew" if fresh else ""
    why = f"({shapes[0]})" if shapes else "(not in the file)" if fresh else ""
    begun = f'"{removed}" removed from the names' if removed else ""
    said = "; ".join(filter(None, (text, begun, f"{start} {why}".strip(), *notes)))
    return Match(found, said, tuple(fresh))


def listed(names: Sequence[str]) -> str:
    """Returns the first names and how many there are."""
    if len(names) <= _SHOWN:
        return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
    return f"{', '.join(names[:_SHOWN])} and {len(names) - _SHOWN} more"


def _renamed(content: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Returns a file's tensors by names that are most like the model's, and what was removed from their front.

    What the model has in front of its own names is added.
    """

    def hits(names: Iterable[str]) -> int:
        return sum(name in own for name in names)

    best, removed, most = dict(content), "", hits(content)
    for prefix in _prefixes(content):
        some = {name.removeprefix(prefix): one for name, one in content.items() if name.startswith(prefix)}
        if hits(some) > most:
            best, removed, most = some, prefix, hits(some)
    for prefix in _prefixes(own):
        more = {prefix + name: one for name, one in content.items()}
        if hits(more) > most:
            best, removed, most = more, "", hits(more)
    return best, removed


def _prefixes(names: Iterable[str]) -> list[str]:
    found = (name[: place + 1] for name in names for place, letter in enumerate(name) if letter == ".")
    return list(dict.fromkeys(found))


def _missing_end(found: Mapping[str, Tensor], own: Mapping[str, Tensor], resized: Sequence[str]) -> list[str]:
    """Returns the model's last tensors that a file lacks; none where it lacks others, or most of them."""
    names = [name for name in own if not name.endswith(_COUNTER) and name not in resized]
    missing = [name for name in names if name not in found]
    at_the_end = names[len(names) - len(missing) :] == missing
    return missing if at_the_end and 2 * len(missing) <= len(names) else []


def file_digest(path: str | Path) -> str:
    """Returns 16 hexadecimal digits over what a file of weights holds; the same file is read once.

    Raises:
        ModelError: there is no such file.
    """
    try:
        status = regular(path).stat()
        return _digest(str(path), status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise ModelError(
            f'model.weights = "{path}": {error.strerror or error}; name a file of weights that can be read'
        ) from error


def describe(path: str | Path) -> str:
    """Returns a file of weights and the beginning of its digest, as a sentence names them.

    Raises:
        ModelError: there is no such file.
    """
    return f"{path} (sha256 {file_digest(path)} ...)"


@functools.lru_cache(maxsize=64)
def _digest(path: str, changed: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _read(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors or a torch file by name, whatever they are wrapped in."""
    where = f'model.weights = "{path}"'
    if not is_file(path, "model.weights"):
        raise ModelError(f"{where}: no such file; name one that exists")
    try:
        if path.suffix == ".safetensors":
            return read_weights(path)[0]
        content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError as error:
        reason = reason_of(error.__cause__) if isinstance(error.__cause__, Exception) else error
        raise ModelError(f"{where}: it is not a valid safetensors file ({reason}); copy it again") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{where}: it holds more than tensors, or is not a torch file; unpickling it could run code, so "
            "save model.state_dict() instead"
        ) from error
    except Exception as error:  # torch's reader meets other content with KeyError, EOFError, RuntimeError ...
        raise ModelError(
            f"{where}: it cannot be read ({reason_of(error)}); save model.state_dict() again"
        ) from error
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{where}: it holds no weights by name; save model.state_dict()")
    return {_OLD_DENSENET.sub(r"\1\2", str(name)): value for name, value in content.items()}


def last_layer(own: Mapping[str, Tensor]) -> list[str]:
    """Returns the names of the tensors of the module that comes last."""
    ends = {name: name.rpartition(".")[0] for name in own}
    return [name for name, module in ends.items() if module == [*ends.values()][-1]]


def _differ_in_channels(kernel: Tensor, wanted: Tensor) -> bool:
    """Returns whether a colour kernel differs from another in its number of input channels alone."""
    same = wanted.dim() == 4 and kernel.shape[:1] + kernel.shape[2:] == wanted.shape[:1] + wanted.shape[2:]
    return same and kernel.shape[1] == 3 and wanted.shape[1] in (1, 2, 4)


def misfits(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Returns in which names and shapes weights differ; old files may lack BatchNorm's counter."""
    missing = [name for name in own if name not in found and not name.endswith(_COUNTER)]
    unknown = [name for name in found if name not in own]
    other = [
        f"{name} ({list(found[name].shape)} in the file, {list(own[name].shape)} here)"
        for name in own
        if name in found and found[name].shape != own[name].shape
    ]
    faults = [
        f"{len(names)} {what}: {first_few(names, _SHOWN)}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", other))
        if names
    ]
    return "; ".join(faults)


def fit_channels(kernel: Tensor, channels: int) -> Tensor:
    """Returns a convolution's kernel of shape [out, in, h, w] made for another number of input channels.

    The channels are repeated in turn and scaled by in / channels, so that the sum over a grey image stays.
    One channel gets their sum: a grey image gives what it would give as three equal channels.
    """
    given = kernel.shape[1]
    if channels == 1:
        return kernel.sum(1, keepdim=True)
    return kernel[:, torch.arange(channels, device=kernel.device) % given] * (given / channels)
