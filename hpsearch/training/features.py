"""What a backbone that stays as it is makes of the images: computed once, and kept in the cache beside them.

Where the head alone is trained (`train.stages`, `model.freeze`) and each epoch shows the same images, the head's input
is the same in each epoch, in each trial, and in each worker. It is kept as the decoded images are, by what it depends
on: the images, the tensors of the backbone and the number type. What code or library computes it cannot be seen from
that, so the first images of an entry that is found are computed again and compared.

Legend: N samples of a part.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hpsearch.training import device as devices
from hpsearch.training.batches import cut
from hpsearch.training.data import Part, Prepared
from hpsearch.training.data.cache import Cache, open_array, write_array

logger = logging.getLogger(__name__)

SHARE = 0.25
"""Of the cache's limit: what features may take. The longest unused make room."""

_KEY = "features"
_COMPARED = 16  # images


@dataclass(frozen=True, slots=True)
class Features:
    """The head's inputs for the training and the validation part, [N, ...], on the device if they fit there."""

    train: Tensor
    val: Tensor


class Backbone:
    """A network below its head, in evaluation mode.

    Args:
        predict: computes the network's outputs.
        as_trained: computes them in the mode of training, and leaves everything as it was.
        prepare: makes of an index into a part what the network takes.
    """

    def __init__(
        self,
        model: nn.Module,
        head: nn.Module,
        predict: Callable[[Tensor], Tensor],
        as_trained: Callable[[Tensor], Tensor],
        prepare: Callable[[Part, slice], Tensor],
    ) -> None:
        self._model, self._head = model, head
        self._predict, self._as_trained, self._prepare = predict, as_trained, prepare

    @torch.no_grad()
    def compute(self, part: Part, rows: slice, as_trained: bool = False) -> tuple[Tensor, Tensor]:
        """Returns the head's inputs for some images, and the network's outputs.

        Raises:
            ValueError: the head is not used once, with one tensor.
        """
        taken: list[Any] = []

        def note(module: nn.Module, args: tuple[Any, ...]) -> None:
            taken.append(args[0] if len(args) == 1 else None)

        hook = self._head.register_forward_pre_hook(note)
        try:
            predict = self._as_trained if as_trained else self._predict
            outputs = predict(self._prepare(part, rows))
        finally:
            hook.remove()
        if len(taken) != 1 or not isinstance(taken[0], Tensor) or len(taken[0]) != len(outputs):
            raise ValueError("the head is not called once with one tensor")
        return taken[0], outputs

    def digest(self) -> bytes:
        """Returns what tells this backbone from any other: names and values of its tensors."""
        own = {id(one) for one in self._head.state_dict(keep_vars=True).values()}
        found = hashlib.sha256(type(self._model).__qualname__.encode())
        for name, tensor in self._model.state_dict(keep_vars=True).items():
            if id(tensor) not in own:
                found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
                found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return found.digest()


def find(
    backbone: Backbone,
    head: nn.Module,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]],
    data: Prepared,
    cache: Cache,
    contents: str,
    precision: devices.Precision,
    batch: int,
) -> Features | None:
    """Returns the features of a backbone, from the cache if they are there; None where they cannot stand in for it.

    They cannot where the outputs are not just what the head makes of them, and are not kept where there is no room.

    Args:
        autocast: in which the head computes.
        contents: digest of the images and their split.
        batch: images at once.

    Raises:
        torch.OutOfMemoryError: not even one image fits.
    """
    try:
        (inputs, outputs), batch = devices.halving(
            lambda size: backbone.compute(data.train, slice(0, min(size, len(data.train)))),
            batch,
            data.device,
            "features",
        )
    except ValueError as error:
        logger.info("features are computed in each epoch: %s", error)
        return None
    with torch.no_grad(), autocast():
        given = head(inputs.to(precision.dtype))
    if given.shape != outputs.shape or not torch.equal(given, outputs):
        logger.info("features are computed in each epoch: the head's outputs are not the network's")
        return None
    if not torch.equal(backbone.compute(data.train, slice(0, len(inputs)), as_trained=True)[0], inputs):
        logger.info("features are computed in each epoch: they differ in training, as dropout makes them")
        return None
    total = len(data.train) + len(data.val)
    kind = "float64" if precision.dtype == torch.float64 else "float32"  # which hold all 16-bit types
    shape = (total, *inputs.shape[1:])
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    key = f"{_KEY}-{_digest(backbone, data, contents, precision)}"
    if not _make_room(cache, key, size):
        logger.info("features take %.3g GB and are computed in each epoch: the cache has no room", size / 1e9)
        return None

    def chunks() -> Iterator[np.ndarray[Any, Any]]:
        for part in (data.train, data.val):
            for rows in cut(len(part), batch) if len(part) else ():  # a refit has no validation part
                yield backbone.compute(part, rows)[0].to("cpu", getattr(torch, kind)).numpy()

    def build(folder: Path) -> None:
        write_array(folder / "features.npy", shape, kind, chunks())

    few = inputs[:_COMPARED].to("cpu", getattr(torch, kind))
    for _ in range(2):
        path = cache.entry(key, build, size)
        found = torch.from_numpy(open_array(path / "features.npy"))
        if found.shape == shape and torch.allclose(found[: len(few)], few, rtol=1e-3, atol=1e-5):
            os.utime(path)
            return _placed(found, len(data.train), data.device, precision)
        cache.remove(path)  # of other code by the same weights
    return None


def _digest(backbone: Backbone, data: Prepared, contents: str, precision: devices.Precision) -> str:
    found = hashlib.sha256(backbone.digest())
    header = json.dumps(data.preparation.header(), sort_keys=True, default=str)
    found.update(f"{contents} {precision.name} {header}".encode())
    for part in (data.train, data.val):
        found.update(part.index.numpy().tobytes() + b" ")
    return found.hexdigest()[:32]


def _make_room(cache: Cache, key: str, size: int) -> bool:
    """Removes the features that were not used for longest, until all together take their share at most."""
    entries = {path: path.stat() for path in cache.entries(f"{_KEY}-*")}
    if any(path.name == key for path in entries):
        return True
    most = SHARE * cache.limit_gb * 1e9
    held = {path: sum(file.stat().st_size for file in path.glob("*")) for path in entries}
    for path in sorted(held, key=lambda path: entries[path].st_mtime):
        if sum(held.values()) + size <= most:
            break
        cache.remove(path)
        held[path] = 0
    return sum(held.values()) + size <= most and cache.has_room(size)


def _placed(found: Tensor, train: int, device: torch.device, precision: devices.Precision) -> Features:
    if device.type == "cuda" and found.nbytes <= torch.cuda.mem_get_info(device)[0] // 4:
        found = found.to(device)
    found = found.to(precision.dtype)
    return Features(found[:train], found[train:])
