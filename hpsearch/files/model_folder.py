"""What a folder of a kept model holds; whoever writes one leaves nothing there of another."""

from collections.abc import Iterable
from pathlib import Path

WEIGHTS, DESCRIPTION, CARD = "model.safetensors", "model.json", "model.md"
PROGRAM, ONNX = "model.pt2", "model.onnx"

MANIFEST = "ensemble.json"
"""What a folder holds beside the weights of several models: their files, and how much each counts."""

_MEMBER = "member-{}.safetensors"


def member(folder: Path, place: int) -> Path:
    """Returns the weights file of a member of an ensemble, counted from 1."""
    return folder / _MEMBER.format(place)


def remove_others(folder: Path, written: Iterable[Path]) -> None:
    """Removes what an earlier model has left in a folder.

    Args:
        written: the files of the model that is there now.

    Raises:
        OSError: no permission.
    """
    known = [folder / name for name in (WEIGHTS, DESCRIPTION, CARD, PROGRAM, ONNX, MANIFEST)]
    for path in {*known, *folder.glob(_MEMBER.format("*"))} - {*written}:
        path.unlink(missing_ok=True)
