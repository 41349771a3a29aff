"""The data of a study as a worker holds them: training and validation part, at the sizes that trials ask for.

The test part is not among them; see `hpsearch.training.data.sealed`.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hpsearch.errors import DataError
from hpsearch.study.checks import DataFacts
from hpsearch.study.data import DataSpec, Normalization
from hpsearch.training.data import catalogue, pixels
from hpsearch.training.data.assembly import Assembly, assemble, open_cache, training_store
from hpsearch.training.data.cache import Cache, Waits
from hpsearch.training.data.catalogue import Progress, Size, counted
from hpsearch.training.data.decode import DEPTHS, Form
from hpsearch.training.data.objects import ItemImages
from hpsearch.training.data.pictures import FileImages
from hpsearch.training.data.pixels import Statistics
from hpsearch.training.data.preparation import Preparation
from hpsearch.training.data.prepared import Images, Part, Prepared, StreamedImages
from hpsearch.training.data.sources import own_size
from hpsearch.training.data.splits import count_below, describe_subset
from hpsearch.training.data.store import images_bytes
from hpsearch.training.device import is_out_of_memory

logger = logging.getLogger(__name__)

_ROOM = 0.6
"""Share of a GPU's free memory that images may take when `data.device` is "auto"."""


def load(
    spec: DataSpec,
    *,
    root: str | None = None,
    cache: Path,
    allow: Sequence[str] | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
    waits: Waits | None = None,
) -> "TrainingData":
    """Loads a study's training and validation part; the second time, and in further workers, from the cache.

    Args:
        root: overrides `spec.root`.
        cache: folder of decoded images, unless `spec.cache` names one.
        allow: what the study may name, see `import_object`; None trusts all.
        device: where batches are wanted.
        progress: called with the numbers of images done and of all, in each pass over them anew: reading,
            decoding, and making the images of one size. Cheap, and often: after each picture.
        waits: called with a sentence, now and then, while another process prepares the same images.

    Raises:
        DataError: the data are missing, corrupt, or do not fit the study.
    """
    assembly = assemble(spec, root, cache, allow, progress, waits)
    store = open_cache(spec, cache, waits)
    return TrainingData(spec, assembly, store, device or torch.device("cpu"), progress)


class TrainingData:
    """The training and the validation part of a study's data; no way leads from here to the test part.

    Attributes:
        facts: what the data turned out to be.
    """

    def __init__(
        self,
        spec: DataSpec,
        assembly: Assembly,
        cache: Cache,
        device: torch.device,
        progress: Progress | None = None,
    ) -> None:
        found, rows = assembly.catalogue, assembly.rows
        chosen = np.concatenate([rows.train, rows.val])
        self._progress = progress
        self.device = device
        self.task = assembly.task
        self.classes = found.classes
        self._store = training_store(assembly, cache, progress)
        self._shares = rows.shares.copy()
        self._index = torch.from_numpy(chosen)
        self._targets = torch.from_numpy(found.targets[chosen]).to(device)
        self._train = len(rows.train)
        self._placed: dict[tuple[Size, int], tuple[Images, Statistics]] = {}
        self._streamed: dict[tuple[Size, int], Statistics] = {}
        self._streams = self._must_stream(spec)
        self._predict = found.predict
        self._folds = [TrainingData(spec, one, cache, device, progress) for one in assembly.folds]
        kept, channels, (height, width) = self._form(spec)
        if self._streams:  # each item is looked at while they are measured: before the training
            self._open(spec, (height, width), kept)
        self._unit = self._find_unit(spec)
        self.facts = DataFacts(
            train=len(rows.train),
            val=len(rows.val),
            test=len(rows.test),
            classes=found.classes,
            channels=channels,
            height=height,
            width=width,
            task=assembly.task,
            digest=assembly.digest,
            digests=assembly.digests,
            notes=(
                *assembly.notes,
                *describe_subset(count_below(self._shares, spec.subset), len(rows.train), spec.subset),
                *describe_range(self._store.images, self._unit, spec.range),
            ),
            class_counts=tuple(_count(self.training_targets, len(found.classes)).tolist()),
        )
        if self._folds:  # the one that trains on fewest images decides what fits
            one = min((fold.facts for fold in self._folds), key=lambda facts: facts.train)
            if spec.split.fold is not None:
                one = self._folds[spec.split.fold].facts
            self.facts = replace(one, notes=(*assembly.notes, *one.notes[len(assembly.folds[0].notes) :]))

    @property
    def cache(self) -> Cache:
        """Where decoded images lie, and what is made of them."""
        return self._store.cache

    @property
    def training_targets(self) -> Tensor:
        """The targets of the whole training part, as `Part` has them."""
        return self._targets[: self._train]

    def at(self, spec: DataSpec) -> Prepared:
        """Returns the data as one trial wants them: image size, channels, subset, progressive sizes, fold.

        Sizes that were asked for before cost nothing. On a GPU, those of other trials are given back when
        memory runs short.

        Raises:
            DataError: the images cannot be had so, or do not fit where `data.device` wants them.
        """
        if self._folds:
            assert spec.split.fold is not None, "a trial of all folds asks for each"
            return self._folds[spec.split.fold].at(spec)
        kept, channels, size = self._form(spec)
        images, statistics = self._place(spec, size, kept, channels)
        smaller = {
            side: _cut(self._place(spec, (side, side), kept, channels)[0], slice(0, self._train))
            for side in dict.fromkeys(side for _, side in spec.progressive)
        }
        count = count_below(self._shares, spec.subset)
        train, val = slice(0, count), slice(self._train, None)
        targets = self._targets[train]
        images_of = self._store.images
        preparation = Preparation(
            channels=channels,
            kept=kept,
            size=size,
            form=images_of.form if isinstance(images_of, FileImages) else Form(spec.resize, images_of.dtype),
            source=images_of.source,
            statistics=_normalized(statistics.scaled(*self._unit), spec.normalize, channels),
            normalizes=spec.normalize is not False,
            layout=spec.layout,
            dataset=spec.dataset,
            predict=self._predict,
            fixed=":" in spec.dataset and own_size(spec) is None,
        )
        return Prepared(
            device=self.device,
            classes=self.classes,
            task=self.task,
            outputs=len(self.classes) or self._targets.shape[1],
            preparation=preparation,
            mean_C11=torch.tensor(preparation.mean, device=self.device)[:, None, None],
            std_C11=torch.tensor(preparation.std, device=self.device)[:, None, None],
            train=Part(_cut(images, train), targets, self._index[train]),
            val=Part(_cut(images, val), self._targets[val], self._index[val]),
            class_counts=_count(targets, len(self.classes)),
            smaller=smaller,
        )

    def _form(self, spec: DataSpec) -> tuple[int, int, Size]:
        """Returns the channels to keep, the channels to show, and the size."""
        kept, shown = pixels.check_channels(self._store.images.channels, spec.channels)
        return kept, shown, own_size(spec) or self._store.images.size

    def _find_unit(self, spec: DataSpec) -> tuple[float, float]:
        """Returns scale and offset of all images, at whatever size, from the study's own size.

        Raises:
            DataError: the training images cannot be measured.
        """
        images = self._store.images
        mixed = isinstance(images, FileImages) and images.form.range is not None  # the range made bytes of it
        if spec.range is not None and not mixed:
            if "bool" in images.source.split(","):
                raise DataError("data.range is for numbers, and the images are true and false; leave it out")
            return 1 / (spec.range[1] - spec.range[0]), spec.range[0]
        if images.dtype == "uint8":
            return 1 / 255, 0.0
        kept, _ = pixels.check_channels(images.channels, spec.channels)
        known = self._measure(spec, images.size, kept)
        return known.scale, known.offset

    def _measure(self, spec: DataSpec, size: Size, kept: int) -> Statistics:
        return self._open(spec, size, kept)[1] if self._streams else self._store.measure(size, kept)

    def _must_stream(self, spec: DataSpec) -> bool:
        """Whether images stay in the user's data set: when asked to, or when they do not fit into the cache.

        All other kinds are read from the disk as they are needed anyway, through the mapping.
        """
        images = self._store.images
        if ":" not in spec.dataset or not isinstance(images, ItemImages):
            return False
        kept, _, size = self._form(spec)
        weight = images_bytes(images, size, kept)
        return spec.device == "stream" or (spec.device == "auto" and not self._store.cache.has_room(weight))

    def _place(self, spec: DataSpec, size: Size, kept: int, shown: int) -> tuple[Images, Statistics]:
        """Returns the images where `data.device` wants them, one channel shown as three without copying."""
        if (size, kept) not in self._placed:
            self._placed[size, kept] = self._open(spec, size, kept)
        images, known = self._placed.pop((size, kept))
        self._placed[size, kept] = images, known  # the last used is the last to go
        if isinstance(images, StreamedImages):
            return images.showing(shown), known
        return images.expand(-1, shown, -1, -1), known

    def _open(self, spec: DataSpec, size: Size, channels: int) -> tuple[Images, Statistics]:
        if self._streams and isinstance(self._store.images, ItemImages):
            streamed = StreamedImages(self._store.images, size, channels)
            if (size, channels) not in self._streamed:
                train = streamed.cut(slice(0, self._train))
                measured = counted(train.arrays(), self._train, self._progress)
                self._streamed[size, channels] = pixels.statistics(measured, self._store.images.dtype)
            return streamed, self._streamed[size, channels]
        stored = self._store.open(size, channels)
        images = torch.from_numpy(stored.images)
        if self.device.type != "cpu" and spec.device in ("auto", "gpu"):
            images = self._to_device(images, must=spec.device == "gpu")
        return images, stored.statistics

    def _to_device(self, images: Tensor, must: bool) -> Tensor:
        needed = images.nbytes
        room = 1.0 if must else _ROOM
        while needed > room * _free(self.device) and self._placed:
            self._placed.pop(next(iter(self._placed)))
            torch.cuda.empty_cache()
        if needed <= room * _free(self.device):
            try:
                return images.to(self.device)
            except RuntimeError as error:  # other workers of the GPU saw the same room, and were faster
                if not is_out_of_memory(error):
                    raise
        if must:
            raise DataError(
                f'data.device is "gpu" and the images take {needed / 1e9:.3g} GB, but {self.device} has '
                f'{_free(self.device) / 1e9:.3g} GB free; use "auto" or "cpu", or a smaller data.image_size'
            )
        logger.info("images (%.3g GB) stay in host memory, %s is too full", needed / 1e9, self.device)
        return images


def _normalized(measured: Statistics, wanted: bool | str | Normalization, channels: int) -> Statistics:
    """Returns the statistics that images are normalised by: the training part's, unless the study fixes others.

    Raises:
        DataError: they are for another number of channels.
    """
    if not isinstance(wanted, Normalization):
        return measured
    mean, std = wanted.mean, wanted.std
    if channels == 1:  # the mean of colours that are all the same grey
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    if len(mean) not in (1, channels):
        raise DataError(
            f"data.normalize.mean has {len(mean)} values and the images have {channels} channels; give one for each"
        )
    return replace(measured, mean=mean, std=std)


def describe_range(
    images: catalogue.Images, unit: tuple[float, float], given: tuple[float, float] | None
) -> tuple[str, ...]:
    """Says what images are that are not simply of 8 bits, and which values become 0 and 1."""
    if images.dtype == "uint8" and given is None:
        return ()
    low, high = unit[1], unit[1] + 1 / unit[0]
    depths = " and ".join(dict.fromkeys(DEPTHS.get(kind, kind) for kind in images.source.split(",")))
    if given is not None:
        return (f"{depths} images, of which data.range makes {low:g} black (0) and {high:g} white (1)",)
    if unit == (1.0, 0.0):
        return (f"{depths} images, values as they are",)
    return (
        f"{depths} images, values {low:g} to {high:g} in the training part, scaled to 0 to 1 for all images",
    )


def _cut(images: Images, rows: slice) -> Images:
    return images.cut(rows) if isinstance(images, StreamedImages) else images[rows]


def _free(device: torch.device) -> float:
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else float("inf")


def _count(targets: Tensor, classes: int) -> Tensor:
    if not classes:
        return torch.empty(0, dtype=torch.int64, device=targets.device)
    if targets.ndim == 2:  # several labels of a sample
        return (targets > 0).sum(0)
    return torch.bincount(targets, minlength=classes)
