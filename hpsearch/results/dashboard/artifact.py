"""A trial's kept weights as an artifact that the dashboard offers for download.

Rows of the database are no authority on files: a row that names /etc/shadow must not publish it. Only a file
that this study's own drivers keep in the run folder of this machine is published, and only if it is what its
name says.
"""

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hpsearch.errors import CheckpointError
from hpsearch.files.atomic import link, replaced
from hpsearch.files.run_folder import RunFolder
from hpsearch.results.stored.listing import own_folder


def place_weights(folder: RunFolder, number: int, target: Path) -> bool:
    """Puts a trial's kept weights into the artifact store, whole or not at all.

    They are linked where the file system can do it, else copied. Kept weights are replaced, never written
    into, so that a link does not change later.

    Args:
        number: of the trial.
        target: the artifact's file.

    Returns:
        Whether they are there; False when this machine does not keep the trial's weights.

    Raises:
        CheckpointError: what lies in their place is not a file of weights.
        OSError: the artifact store cannot be written.
    """
    source = folder.weights(number)
    if own_folder(folder) is None or not os.path.lexists(source):
        return False
    # Names below the run folder that are links, whichever of them, would lead out of it.
    if source.resolve() != folder.root.resolve() / source.relative_to(folder.root) or not source.is_file():
        raise CheckpointError(
            f"{source}: the weights of trial {number} are not published, because it is a link or not a regular "
            "file; move the file itself there"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with replaced(target, sync=False) as part:
        link(source, part)
        _check(part, source)  # what is published is what was looked at
    return True


def _check(part: Path, source: Path) -> None:
    """Reads a file's header, which also says how long the file must be.

    Raises:
        CheckpointError: it is no safetensors file.
    """
    try:
        if part.is_symlink():
            raise CheckpointError(f"{source}: it was replaced by a link while it was being published")
        with safe_open(str(part), framework="numpy"):
            pass
    except SafetensorError as error:
        raise CheckpointError(
            f"{source}: not published, because it is not a complete safetensors file ({error}); delete it, or "
            "train the trial again"
        ) from None
