"""Folders that are called train, val and test: official parts, and not classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hpsearch.errors import DataError
from hpsearch.training.data.catalogue import FREE, PARTS, TEST, VAL

NAMES = {
    "train": FREE,
    "training": FREE,
    "val": VAL,
    "valid": VAL,
    "validation": VAL,
    "test": TEST,
    "testing": TEST,
}
"""What folders of parts are called, in lower case."""

_REMEDY = (
    "keep either the folders train, val and test, with the class folders in each, or the class folders alone"
)


def part_of(folder: str) -> int | None:
    """Returns the part that a folder's name stands for; None if it stands for none."""
    return NAMES.get(folder.lower())


def find_parts(root: Path, names: Sequence[Sequence[str]]) -> Mapping[str, int]:
    """Returns the part of each folder of the root; nothing if they are classes.

    Args:
        names: of the pictures, relative to the root, in their parts.

    Raises:
        DataError: the folders are parts and classes at once, or parts without one for training.
    """
    folders = sorted({name[0] for name in names if len(name) > 1})
    found = {folder: part for folder in folders if (part := part_of(folder)) is not None}
    others = [folder for folder in folders if folder not in found]
    if not found or (others and _is_class(found, names)):
        _refuse_inner_parts(root, names)
        return {}
    if others:
        raise DataError(
            f"data.root: {root} holds {_listed(found)} beside {_listed(others)}, which cannot all be classes or "
            f"all be parts; {_REMEDY}"
        )
    if FREE not in found.values():
        raise DataError(f"data.root: {root} holds {_listed(found)} and no folder train; add it, or {_REMEDY}")
    for part in (FREE, VAL, TEST):
        same = [folder for folder, one in found.items() if one == part]
        if len(same) > 1:
            raise DataError(
                f"data.root: {root} holds {' and '.join(same)}, which are one part; put their pictures together"
            )
    return found


def _is_class(found: Mapping[str, int], names: Sequence[Sequence[str]]) -> bool:
    """Whether the only folder that is called like a part is one of trains, beside trams: pictures lie in it."""
    return [folder.lower() for folder in found] == ["train"] and all(
        len(name) == 2 for name in names if name[0] in found
    )


def parts_in_table(names: Sequence[Sequence[str]]) -> list[int]:
    """Returns the part of each file of a table: that of its first folder if all are called like parts."""
    parts = [part_of(name[0]) if len(name) > 1 else None for name in names]
    known = [part for part in parts if part is not None]
    return known if len(known) == len(parts) and FREE in known else [FREE] * len(names)


def _refuse_inner_parts(root: Path, names: Sequence[Sequence[str]]) -> None:
    for name in names:
        if len(name) > 2 and (part := part_of(name[1])) is not None:
            outside = "train" if part == FREE else PARTS[part]
            raise DataError(
                f"data.root: {root}/{name[0]}/{name[1]} is a part within a class; parts come first, as in "
                f"{outside}/{name[0]}"
            )


def _listed(folders: Sequence[str] | Mapping[str, int]) -> str:
    shown = list(folders)
    return ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "")
