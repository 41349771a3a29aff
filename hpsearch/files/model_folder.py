"""What a folder of a kept model holds; whoever writes one leaves nothing there of another."""

from collections.abc import Iterable
from pathlib import Path

from hpsearch.errors import UserError

WEIGHTS, DESCRIPTION, CARD = "model.safetensors", "model.json", "model.md"
PROGRAM, ONNX = "model.pt2", "model.onnx"

MANIFEST = "ensemble.json"
"""What a folder holds beside the weights of several models: their files, and how much each counts."""

_MEMBER = "member-{}.safetensors"
_NAME, _HEAD = b"hpsearch", 2**16
"""What weights, descriptions and cards of ours say in so many bytes, beside others that need not."""


def member(folder: Path, place: int) -> Path:
    """Returns the weights file of a member of an ensemble, counted from 1."""
    return folder / _MEMBER.format(place)


def refuse_foreign(folder: Path) -> None:
    """Refuses a folder with files of another program where a model's would be written, or removed.

    Raises:
        UserError: naming one.
    """
    found = [path for path in _known(folder) if path.is_file()]
    if found and not any(_NAME in _head(path) for path in found):
        raise UserError(
            f"--save: {folder} holds {min(found).name}, which hpsearch has not written and would replace or remove; "
            "name another folder"
        )


def _known(folder: Path) -> set[Path]:
    names = (WEIGHTS, DESCRIPTION, CARD, PROGRAM, ONNX, MANIFEST)
    return {*(folder / name for name in names), *folder.glob(_MEMBER.format("*"))}


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError:  # nobody's who may not read it
        return b""


def remove_others(folder: Path, written: Iterable[Path]) -> None:
    """Removes what an earlier model has left in a folder.

    Args:
        written: the files of the model that is there now.

    Raises:
        OSError: no permission.
    """
    for path in _known(folder) - {*written}:
        path.unlink(missing_ok=True)
