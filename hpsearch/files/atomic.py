"""Files that are either whole or not there."""

import os
from pathlib import Path

from hpsearch.files.run_folder import beside_of


def write_whole(path: Path, content: bytes | memoryview, sync: bool = True) -> None:
    """Writes a file beside its place, brings it to the disk and renames it in one step.

    The rename itself is on the disk only after `sync_folder`.

    Args:
        sync: False leaves it to the system when the content is on the disk. The file is then whole whatever
            happens to this process, but not after a power cut.

    Raises:
        OSError: for example because the disk is full; an older file of this name is then untouched.
    """
    beside = beside_of(path)
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def sync_file(path: Path) -> None:
    """Brings a file that was written without `sync` to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Brings a folder's entries (new names, renames) to the disk."""
    if os.name == "nt":  # Windows cannot open a folder, and needs not
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
