"""Weights that torchvision and timm publish: the file that holds them, and what images they were trained on."""

import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlparse

import torch

from hpsearch.errors import ModelError
from hpsearch.study import DataSpec, ModelSpec, StudySpec
from hpsearch.study.data import Normalization
from hpsearch.study.train import IMAGENET, TIMM

_HASHED = re.compile(r"-([0-9a-f]{8,})\.")


@dataclass(frozen=True, slots=True)
class Published:
    """Weights as their publisher describes them.

    Attributes:
        url: of the file, or the page that offers it.
        file: where torchvision keeps it once it is downloaded, and where it is looked for.
        hub: timm's repository, from which its client downloads it; "" for torchvision's.
        size: side of the images in pixels.
        normalization: of the images.
    """

    url: str
    file: Path
    hub: str
    size: int
    normalization: Normalization


def published(name: str) -> Published:
    """Returns what is published for a network of torchvision's or timm's.

    Raises:
        ModelError: nothing, or timm is not installed.
    """
    return _of_timm(name.removeprefix(TIMM)) if name.startswith(TIMM) else _of_torchvision(name)


def _of_torchvision(name: str) -> Published:
    from torchvision import models

    try:
        best: Any = models.get_model_weights(name).DEFAULT
    except (ValueError, KeyError, AttributeError):
        raise _unpublished(name) from None
    transforms = best.transforms()
    return Published(
        url=best.url,
        file=_in_cache(os.path.basename(urlparse(best.url).path)),
        hub="",
        size=transforms.crop_size[0],
        normalization=Normalization(mean=tuple(transforms.mean), std=tuple(transforms.std)),
    )


def _of_timm(name: str) -> Published:
    config: Any = timm(name).get_pretrained_cfg(name)
    if config is None or not (config.url or config.hf_hub_id):
        raise _unpublished(f"{TIMM}{name}")
    at = os.path.basename(urlparse(config.url).path) if config.url else f"{config.hf_hub_id}.safetensors"
    return Published(
        url=config.url or config.hf_hub_id,
        file=_in_cache(at.replace("/", "-")),
        hub=config.hf_hub_id or "",
        size=config.input_size[-1],
        normalization=Normalization(mean=tuple(config.mean), std=tuple(config.std)),
    )


def _unpublished(name: str) -> ModelError:
    return ModelError(
        f'model.weights = "{IMAGENET}": none are published for model.name = "{name}"; choose a classifier of '
        "torchvision's or timm's, such as \"resnet18\", or name a file"
    )


def _in_cache(file: str) -> Path:
    return Path(torch.hub.get_dir(), "checkpoints", file)


def timm(name: str) -> ModuleType:
    """Returns timm, which knows a network of this name.

    Raises:
        ModelError: it is not installed, or knows none.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModelError(
            f'model.name = "{TIMM}{name}": the package timm is not installed; install hpsearch[timm]'
        ) from error
    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=1)
        guess = f'did you mean "{TIMM}{close[0]}"? ' if close else ""
        raise ModelError(f'model.name = "{TIMM}{name}" is unknown to timm; {guess}timm.list_models() has all')
    return timm


def weights_file(spec: ModelSpec) -> str | None:
    """Returns the file that a model starts from; published weights are downloaded once. None for random weights.

    Raises:
        ModelError: none are published, or they are neither on this machine nor can be had.
    """
    if spec.weights != IMAGENET:
        return spec.weights
    known = published(spec.name)
    if known.file.is_file():
        return str(known.file)
    try:
        return _download(known)
    except Exception as error:  # urllib's, the hub client's, a full disk ...
        reason = " ".join(str(getattr(error, "reason", error)).split())[:200]
        raise ModelError(
            f'model.weights = "{IMAGENET}": the weights of {spec.name} are not on this machine and cannot be '
            f"downloaded ({reason or type(error).__name__}); download {known.url} elsewhere and put it there as "
            f"{known.file}"
        ) from error


def _download(known: Published) -> str:
    if known.hub:
        from huggingface_hub import hf_hub_download

        return str(hf_hub_download(known.hub, "model.safetensors"))
    known.file.parent.mkdir(parents=True, exist_ok=True)
    hashed = _HASHED.search(known.file.name)
    # Written beside and renamed, so that several workers may do it at once.
    torch.hub.download_url_to_file(
        known.url, str(known.file), hash_prefix=hashed[1] if hashed else None, progress=False
    )
    return str(known.file)


def sized(spec: StudySpec) -> DataSpec:
    """Returns a study's data table; if it gives no size and weights are published ones, theirs is taken by all trials.

    Raises:
        ModelError: no such weights are published.
    """
    data = spec.data
    if data.image_size is not None or data.progressive or IMAGENET not in spec.values_of("model.weights"):
        return data
    return data.model_copy(update={"image_size": _published_size(str(spec.values_of("model.name")[0]))})


def data_table(spec: StudySpec) -> DataSpec:
    """Returns a trial's data table as its model wants it: images normalised as they were for published weights.

    Raises:
        ModelError: no such weights are published.
    """
    data = sized(spec)
    if data.normalize == IMAGENET:
        return data.model_copy(update={"normalize": _IMAGENET})
    if data.normalize is True and spec.model.weights == IMAGENET:
        return data.model_copy(update={"normalize": published(spec.model.name).normalization})
    return data


@cache
def _published_size(name: str) -> int:
    return published(name).size


_IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""Of nearly all networks that were trained on ImageNet."""
