"""Data sets that a function of the user's builds: `dataset = "my_package.data:build"`.

The function may declare a parameter `root`. It returns data sets with `__len__` and `__getitem__`, whose
items are (image, label): one to be split, or `train`, and optionally `val` and `test`, in a dict, a
NamedTuple or a plain tuple of two (train, test) or three (train, val, test). What `data.split.group_by` needs
are attributes of these data sets with one value per item: `names`, or the one that it names as a column. What
prepares one picture as they do is named by `data.predict`, or by their attribute `predict`.
"""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Subset

from hpsearch.errors import OF_OWN_CODE, DataError
from hpsearch.training.data.catalogue import FREE, TEST, VAL, Catalogue, Request, Source
from hpsearch.training.data.decode import from_item
from hpsearch.training.data.objects import (
    PartDataset,
    describe,
    drawing_from,
    prepare_file,
    read_items,
    read_members,
)
from hpsearch.training.imports import import_object

_PARTS = {"train": FREE, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}
_BY_LENGTH = {1: ("train",), 2: ("train", "test"), 3: ("train", "val", "test")}


def _read(request: Request) -> Catalogue:
    name = request.spec.dataset
    members = _members(_call(request), name)
    predict = _find_predict(request, members)
    return replace(read_members(request, members), predict=predict)


BUILDER = Source(files=lambda request: None, read=_read, heeds=frozenset(("split.group_by", "predict")))
"""Never cached as a catalogue: what the function depends on cannot be known."""


def _call(request: Request) -> Any:
    build: Callable[..., Any] = import_object(request.spec.dataset, request.allow, field="data.dataset")
    declared = inspect.signature(build).parameters
    try:
        return build(**({"root": str(request.root)} if "root" in declared else {}))
    except DataError:
        raise
    except OF_OWN_CODE as error:
        raise DataError(
            f"data.dataset: {request.spec.dataset} failed with {describe(error)}; fix the function"
        ) from error


def _members(built: Any, name: str) -> list[PartDataset]:
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
    return [PartDataset(data, _PARTS[key]) for key, data in given.items()]


def _find_predict(request: Request, members: Sequence[PartDataset]) -> str:
    """Returns what prepares one picture as these data sets do, as `package.module:name`; "" if nothing says so.

    Raises:
        DataError: it cannot be imported, or prepares a file of a data set otherwise than that does.
    """
    name = request.spec.predict
    if name:
        prepare = import_object(name, request.allow, field="data.predict")
    else:  # the function that builds the data sets was allowed, and it says this
        given = next((one for one in map(_attribute, members) if one is not None), None)
        if given is None:
            return ""
        name = _name_of(given, request.spec.dataset)
        prepare = import_object(name, field="data.predict")
    for member in members:
        _compare(member, name, prepare, request)
    return name


def _attribute(member: PartDataset) -> Any:
    """Returns the attribute `predict` of a data set, or of the one of which it is a `Subset`."""
    data = member.data
    while isinstance(data, Subset) and not hasattr(data, "predict"):
        data = data.dataset
    return getattr(data, "predict", None)


def _name_of(given: Any, dataset: str) -> str:
    """Returns the name by which other processes find what a data set's attribute holds, unless that is one.

    Raises:
        DataError: it has none.
    """
    if isinstance(given, str):
        return given
    home, path = str(getattr(given, "__module__", "")), getattr(given, "__qualname__", "")
    built = dataset.partition(":")[0]  # transforms have no names of their own
    names = [(home, path), *((built, name) for name, one in vars(sys.modules[built]).items() if one is given)]
    for module, name in names:
        with suppress(AttributeError):
            if attrgetter(name)(sys.modules.get(module)) == given:
                return f"{module}:{name}"
    raise DataError(
        f"data.predict: a data set of {dataset} has an attribute predict ({type(given).__name__}) that is not at the "
        "top of a module, where other processes could find it; move it there, or write its name, such as "
        '"my_data:prepare"'
    )


def _compare(member: PartDataset, name: str, prepare: Callable[..., Any], request: Request) -> None:
    """Refuses a function that prepares the first file of a data set otherwise than the data set itself.

    Only where the data set says which file that is, and does not vary.

    Raises:
        DataError: the images differ.
    """
    file = _first_file(member.data)
    if file is None:
        return
    layout, where = request.spec.layout, f"data.predict: what {name} makes of {file}"
    seen = []
    for seed in range(2):
        with drawing_from(seed):
            image, _ = next(read_items([member], np.zeros(1, np.int64), threads=False))
        seen.append(from_item(image, layout, f"data.dataset: item 0 of {member}"))
    if not np.array_equal(seen[0], seen[1]):
        return
    made = from_item(prepare_file(prepare, name, file, len(seen[0])), layout, where)
    if not np.array_equal(made, seen[0]):
        raise DataError(
            f"{where} is not item 0 of {member}, which is that file; let both do the same, for predictions are worth "
            "nothing otherwise"
        )


def _first_file(data: Any) -> Path | None:
    """Returns the file of a data set's first item where it has pairs of path and class, as torchvision's folders."""
    place = 0
    while isinstance(data, Subset):
        data, place = data.dataset, int(data.indices[place])
    samples = getattr(data, "samples", None)
    try:
        path = Path(samples[place][0]) if samples is not None else None
    except (TypeError, KeyError, IndexError):  # something else by this name
        return None
    return path if path is not None and path.is_file() else None
