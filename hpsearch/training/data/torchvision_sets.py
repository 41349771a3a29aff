"""torchvision's classification sets by name; the MNIST family without importing torchvision."""

import inspect
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hpsearch.errors import DataError
from hpsearch.training.data import arrays
from hpsearch.training.data.catalogue import FREE, TEST, VAL, Catalogue, Request, Source
from hpsearch.training.data.objects import ItemImages, PartDataset, read_members

logger = logging.getLogger(__name__)

_SPLITS = {FREE: ("train", "trainval"), VAL: ("val", "valid"), TEST: ("test",)}
"""What torchvision's sets call their parts."""

_ODD: dict[str, tuple[tuple[int, dict[str, Any]], ...]] = {
    "EMNIST": (
        (FREE, {"split": "balanced", "train": True}),
        (TEST, {"split": "balanced", "train": False}),
    ),
    "INaturalist": ((FREE, {"version": "2021_train"}), (VAL, {"version": "2021_valid"})),
    "LSUN": ((FREE, {"classes": "train"}), (VAL, {"classes": "val"})),
    "Places365": ((FREE, {"split": "train-standard"}), (VAL, {"split": "val"})),
}
"""Sets that call their parts otherwise."""

_CLASSIFICATION = (
    "CIFAR10", "CIFAR100", "CLEVRClassification", "Caltech101", "Caltech256", "Country211", "DTD", "EMNIST",
    "EuroSAT", "FER2013", "FGVCAircraft", "FashionMNIST", "Flowers102", "Food101", "GTSRB", "INaturalist",
    "ImageNet", "Imagenette", "KMNIST", "LFWPeople", "LSUN", "MNIST", "Omniglot", "OxfordIIITPet", "PCAM",
    "Places365", "QMNIST", "RenderedSST2", "SEMEION", "STL10", "SUN397", "SVHN", "StanfordCars", "USPS",
)  # fmt: skip


def names() -> list[str]:
    """Returns the sets of torchvision that give one class for each image."""
    return list(_CLASSIFICATION)


def _family_files(request: Request) -> Iterable[Path]:
    files = arrays.idx_files(request)
    if files is None and request.spec.download:
        _construct(request, {"train": True})
        files = arrays.idx_files(request)
    if files is None:
        raise missing(request)
    return files


def _read_family(request: Request) -> Catalogue:
    return arrays.read_idx_set(request, _family_files(request))


FAMILY = Source(files=_family_files, read=_read_family)
"""MNIST, FashionMNIST and KMNIST."""


def missing(request: Request) -> DataError:
    """Returns what to say when a set is not there."""
    there = "" if request.root.exists() else ", a folder that does not exist"
    return DataError(
        f"data.root: {request.spec.dataset} is not in {request.root.absolute()}{there}; name the folder by "
        "data.root or --data-root, or set download = true in [data]"
    )


def _files(request: Request) -> list[Path]:
    """Lists all files of the root: which of them belong to the set, only torchvision knows."""
    return sorted(path for path in request.root.rglob("*") if path.is_file()) if request.root.is_dir() else []


def _read(request: Request) -> Catalogue:
    name = request.spec.dataset
    members: list[PartDataset] = []
    for part, keywords in _parts(name):
        if any(member.part == part for member in members):
            continue
        data = _construct(request, keywords)
        if data is not None:
            members.append(PartDataset(data, part, (name, str(request.root), keywords)))
    if not members or members[0].part != FREE:
        raise DataError(f'data.dataset "{name}": torchvision gives no training part of it; use another set')
    return read_members(request, members, threads=True, rebuild=_rebuild)


def _rebuild(name: str, root: str, keywords: dict[str, Any]) -> Any:
    from torchvision import datasets

    return getattr(datasets, name)(root=root, **keywords)


def restore(
    members: list[tuple[int, tuple[str, str, dict[str, Any]]]], counts: list[int], **fields: Any
) -> ItemImages:
    """Makes the images of a set from their fields in a cached catalogue."""
    lazy = [PartDataset(None, part, (name, root, keywords)) for part, (name, root, keywords) in members]
    return ItemImages(lazy, counts, **fields, threads=True, rebuild=_rebuild)


OTHERS = Source(files=_files, read=_read, heeds=frozenset(("split.group_by",)))
"""Every other set, as torchvision reads it."""


def _parts(name: str) -> Sequence[tuple[int, dict[str, Any]]]:
    """Returns the arguments that make a set give each of its parts."""
    from torchvision import datasets

    if name in _ODD:
        return _ODD[name]
    parameters = inspect.signature(getattr(datasets, name).__init__).parameters
    if "train" in parameters:
        return [(FREE, {"train": True}), (TEST, {"train": False})]
    if "split" in parameters:
        return [(part, {"split": split}) for part, splits in _SPLITS.items() for split in splits]
    return [(FREE, {})]


def _construct(request: Request, keywords: dict[str, Any]) -> Any:
    """Makes a set of torchvision's, fetched if the study allows it; None if it has no such part."""
    from torchvision import datasets

    kind = getattr(datasets, request.spec.dataset)
    if "download" in inspect.signature(kind.__init__).parameters or issubclass(kind, datasets.MNIST):
        keywords = keywords | {"download": request.spec.download}
    try:
        # Two processes that fetch at once would write into the same files.
        with request.cache.lock(f"torchvision-{request.spec.dataset}"):
            return kind(root=str(request.root), **keywords)
    except (RuntimeError, FileNotFoundError, NotADirectoryError) as error:
        if request.spec.download:
            raise DataError(
                f"data.dataset: {request.spec.dataset} could not be fetched or read: {error}; check the network, "
                f"or delete what is in {request.root} and try again"
            ) from error
        raise missing(request) from error
    except OSError as error:
        raise DataError(
            f"data.dataset: {request.spec.dataset} could not be fetched: {error}; check the network"
        ) from error
    except ValueError:
        return None
    except (TypeError, ImportError) as error:
        raise DataError(f'data.dataset "{request.spec.dataset}" cannot be made: {error}') from error
