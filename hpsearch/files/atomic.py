"""Files that are either whole or not there."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpsearch.errors import UserError


def write_whole(path: Path, content: bytes | memoryview, sync: bool = True, mode: int = 0o666) -> None:
    """Writes a file beside its place, brings it to the disk and renames it in one step.

    The rename itself is on the disk only after `sync_folder`.

    Args:
        mode: who may use the file, less what the umask takes away.
        sync: False leaves it to the system when the content is on the disk. The file is then whole whatever
            happens to this process, but not after a power cut.

    Raises:
        OSError: for example because the disk is full; an older file of this name is then untouched.
    """
    with (
        replaced(path, sync) as beside,
        open(beside, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file,
    ):
        file.write(content)


def write_output(path: Path, content: bytes, flag: str) -> None:
    """Writes a file that the user has named, as `write_whole`; what is no file, such as a pipe, is written into.

    Its folder is made when it is missing, and a link to it stays one.

    Args:
        flag: the option that names it.

    Raises:
        UserError: it cannot be written; an older file is then untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            path.write_bytes(content)
        else:
            write_whole(path.resolve(), content)
    except OSError as error:
        raise UserError(
            f"{flag}: cannot write {path}: {error.strerror or error}; choose another place"
        ) from None


@contextmanager
def replaced(path: Path, sync: bool = True) -> Iterator[Path]:
    """Gives a path to write or link to inside of `with`, which takes the file's place at its end, in one step.

    Raises:
        OSError: an older file of this name is then untouched.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    try:
        yield beside
        if sync:
            sync_file(beside)
        beside.replace(path)
    finally:  # a rename leaves both names where they are links to one file
        beside.unlink(missing_ok=True)


def link(source: Path, target: Path) -> None:
    """Gives a file a second name, or copies it where there are no links; a symbolic link stays one."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target, follow_symlinks=False)


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


_LEFT = re.compile(r"\..+\.\d+")  # see `replaced`
_WRITTEN = 600.0  # seconds without a change after which nobody writes a file any more


def remove_left(folder: Path) -> None:
    """Removes files that were never whole, because their process was killed or the power was cut."""
    for path in folder.rglob(".*"):
        try:
            if (
                _LEFT.fullmatch(path.name)
                and path.is_file()
                and time.time() - path.stat().st_mtime > _WRITTEN
            ):
                path.unlink()
        except OSError:  # another process was first
            continue
