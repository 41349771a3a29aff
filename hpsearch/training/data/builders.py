"""Data sets that a function of the user's builds: `dataset = "my_package.data:build"`.

The function may declare a parameter `root`. It returns data sets with `__len__` and `__getitem__`, whose
items are (image, label): one to be split, or `train`, and optionally `val` and `test`, in a dict, a
NamedTuple or a plain tuple of two (train, test) or three (train, val, test). What `data.split.group_by` needs
are attributes of these data sets with one value per item: `names`, or the one that it names as a column.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hpsearch.errors import DataError
from hpsearch.training.data.catalogue import FREE, TEST, VAL, Catalogue, Request, Source, hash_rows
from hpsearch.training.data.decode import from_item
from hpsearch.training.data.objects import Member, describe, read_items
from hpsearch.training.data.survey import read_members
from hpsearch.training.imports import import_object

_PARTS = {"train": FREE, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}
_BY_LENGTH = {1: ("train",), 2: ("train", "test"), 3: ("train", "val", "test")}


def _read(request: Request) -> Catalogue:
    name = request.spec.dataset
    members = _members(_call(request), name)
    if request.spec.device != "stream":
        _check_steady(members, request)
    return read_members(request, members)


BUILDER = Source(files=lambda request: None, read=_read, heeds=frozenset(("split.group_by",)))
"""Never cached as a catalogue: what the function depends on cannot be known."""


def _call(request: Request) -> Any:
    build: Callable[..., Any] = import_object(request.spec.dataset, request.allow, field="data.dataset")
    declared = inspect.signature(build).parameters
    try:
        return build(**({"root": str(request.root)} if "root" in declared else {}))
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"data.dataset: {request.spec.dataset} failed with {describe(error)}; mend the function"
        ) from error


def _members(built: Any, name: str) -> list[Member]:
    if isinstance(built, Mapping):
        named = dict(built)
    elif hasattr(built, "_asdict"):
        named = built._asdict()
    elif isinstance(built, tuple | list):
        named = dict(zip(_BY_LENGTH.get(len(built), ()), built, strict=False))
    else:
        named = {"train": built}
    unknown = [key for key in named if key not in _PARTS]
    if "train" not in named or unknown:
        found = ", ".join(map(str, named)) or type(built).__name__
        raise DataError(f"data.dataset: {name} returned {found}; return train, and optionally val and test")
    # None stands for a part that is left out, which train cannot be: it is a forgotten `return`.
    given = {key: data for key, data in named.items() if data is not None or key == "train"}
    for key, data in given.items():
        if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
            raise DataError(
                f"data.dataset: {name} returned {type(data).__name__} for {key}; it needs __len__ and "
                "__getitem__"
            )
        if not len(data):  # were it let through, another part would be cut from train in its place
            remedy = "" if key == "train" else f", or leave {key} out"
            raise DataError(
                f"data.dataset: {name} returned no items for {key}; return a data set whose len() is at "
                f"least 1{remedy}"
            )
    return [Member(data, _PARTS[key]) for key, data in given.items()]


def _check_steady(members: list[Member], request: Request) -> None:
    """Refuses items that change from one reading to the next: reading them once would freeze them."""
    seen = [next(read_items(members[:1], np.zeros(1, np.int64), threads=False))[0] for _ in range(2)]
    first, second = (
        hash_rows(from_item(image, request.spec.layout, "data.dataset: item 0")[None]) for image in seen
    )
    if not np.array_equal(first, second):
        raise DataError(
            f"data.dataset: {request.spec.dataset} gives another image each time it is asked for item 0; "
            'move random augmentation into data.augment, or set data.device = "stream" to have it each epoch'
        )
