"""Arrays on disk that all workers of a machine map into memory: decoded once, their pages shared.

Each entry is a folder named by its key. It is built beside under another name and renamed when it is whole,
so that a half-built entry is never read; a lock keeps two processes from building the same one.
"""

import contextlib
import errno
import json
import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hpsearch.errors import DataError, refusing
from hpsearch.files.locks import try_lock
from hpsearch.text import one_line

logger = logging.getLogger(__name__)

Waits = Callable[[str], None]
"""Called with a sentence, now and then, while another process holds what is wanted."""

LOOK_AGAIN = 0.1  # seconds between two looks at whether a lock is free
ABANDONED = 600.0  # seconds without a change after which another machine builds an entry no more
SAY_FIRST, SAY_AGAIN = 2.0, 30.0  # seconds of waiting until that is said, and between two times

_GB = 1e9
_BUILDING = ".tmp"
"""Ends the names of folders that are no entries yet, or no longer."""


class Cache:
    """A folder of entries, shared by all studies and processes.

    Args:
        limit_gb: how much the folder may hold.
        waits: told when another process prepares what is asked for here.
    """

    def __init__(self, folder: Path, limit_gb: float, waits: Waits | None = None) -> None:
        self.folder = folder
        self.limit_gb = limit_gb
        self._waits = waits

    def entry(self, key: str, build: Callable[[Path], None], size: int = 0) -> Path:
        """Returns the folder of an entry, built by calling `build(empty folder)` if there is none.

        Args:
            size: bytes that the entry will take, as far as known.

        Raises:
            DataError: there is no room for it, or the cache folder cannot be written.
        """
        path = self.folder / key
        if os.path.isdir(path):  # what the system does not even look at is said below
            return path
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.lock(key) as alone:
                if alone:
                    self._remove_left(key)
                if not path.is_dir():
                    self._check_room(size)
                    self._build(key, path, build)
        except OSError as error:
            if not _about(error, self.folder):
                raise
            raise DataError(
                f"data.cache: cannot write decoded images to {self.folder}: {error.strerror}; free some "
                "space, or name another folder"
            ) from error
        return path

    def lock(self, name: str) -> contextlib.AbstractContextManager[bool]:
        """Holds one of the folder's locks, see `lock`."""
        return lock(self.folder / "locks" / name, self._waits)

    def _remove_left(self, key: str) -> None:
        """Removes what processes have left that died while they built an entry, whose lock is held.

        On some shared file systems a lock holds for one machine only: another one's builder may still live.
        """
        now = (self.folder / "locks" / key).stat().st_mtime  # just written, by the clock of the file system
        for left in self.folder.glob(f"{key}.*{_BUILDING}"):
            is_ours = left.name.startswith(f"{key}.{socket.gethostname()}.")
            with contextlib.suppress(OSError):  # another process was first
                touched = max(path.stat().st_mtime for path in (left, *left.rglob("*")))
                if is_ours or now - touched > ABANDONED:
                    shutil.rmtree(left, ignore_errors=True)

    def _build(self, key: str, path: Path, build: Callable[[Path], None]) -> None:
        prefix = f"{key}.{socket.gethostname()}."
        beside = Path(tempfile.mkdtemp(prefix=prefix, suffix=_BUILDING, dir=self.folder))
        try:
            build(beside)
            _publish(beside, path)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def entries(self, pattern: str) -> list[Path]:
        """Returns the folders of all whole entries whose keys match a pattern."""
        return sorted(path for path in self.folder.glob(pattern) if path.suffix != _BUILDING)

    def remove(self, path: Path) -> None:
        """Takes an entry away; who has mapped its arrays keeps them."""
        away = path.with_name(f"{path.name}.{os.getpid()}{_BUILDING}")
        with contextlib.suppress(OSError):  # another process was first
            path.rename(away)
            shutil.rmtree(away, ignore_errors=True)

    def has_room(self, size: int) -> bool:
        """Whether an entry of so many bytes would fit."""
        held, free = self._held_and_free()
        return held + size <= self.limit_gb * _GB and size <= free

    def _held_and_free(self) -> tuple[int, int]:
        held = sum(map(_weight, self.folder.glob("*/*")))
        there = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        return held, shutil.disk_usage(there).free

    def _check_room(self, size: int) -> None:
        if not size or self.has_room(size):
            return
        held, free = self._held_and_free()
        remedy = (
            "choose a smaller data.image_size, empty that folder, or, for data sets of your own, use "
            'data.device = "stream"'
        )
        if size > free:
            raise DataError(
                f"the decoded images take {size / _GB:.3g} GB and {self.folder} has {free / _GB:.3g} GB "
                f"free; name another folder by data.cache, {remedy}"
            )
        raise DataError(
            f"data.cache_limit_gb is {self.limit_gb:g}, {self.folder} holds {held / _GB:.3g} GB and the "
            f"decoded images would take {size / _GB:.3g} GB more; raise it, {remedy}"
        )


def write_array(path: Path, shape: tuple[int, ...], dtype: str, chunks: Iterable[NDArray[Any]]) -> None:
    """Writes an array piece by piece, in plain writes: through a mapping, a full disk would be a SIGBUS.

    Raises:
        OSError: the disk is full.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk, dtype).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def open_array(path: Path) -> NDArray[Any]:
    """Maps an array copy-on-write: pages are shared with all who read it, and nobody can change the file."""
    with whole(path.parent):
        array: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    return array


def whole(entry: Path) -> contextlib.AbstractContextManager[None]:
    """Says in a sentence that an entry is not as it was built.

    Raises:
        DataError: so it is.
    """
    return refusing(
        lambda why: DataError(
            f"data.cache: {entry} is damaged ({why}); delete it, and it will be created again"
        )
    )


def write_json(path: Path, value: Any) -> None:
    """Writes plain values."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())


def read_json(path: Path) -> Any:
    """Reads plain values."""
    return json.loads(path.read_text(encoding="utf-8"))


def _weight(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # taken away meanwhile
        return 0


def _publish(beside: Path, path: Path) -> None:
    try:
        beside.rename(path)
    except OSError as error:
        # Where locks do not work, another builder may have been first; its entry is the same.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _about(error: OSError, folder: Path) -> bool:
    """Whether an error is about writing to the cache rather than about reading the source."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
    return full or (error.filename is not None and str(error.filename).startswith(str(folder)))


@contextlib.contextmanager
def lock(path: Path, waits: Waits | None = None) -> Iterator[bool]:
    """Holds a lock that the kernel takes back when its process dies.

    False where there are no locks: two builders then both build, and one result is kept.
    The file stays: were it removed, those who wait for it and those who come later would hold two locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8", errors="replace") as file:
        say_at = time.monotonic() + SAY_FIRST
        while (held := try_lock(file)) is None:
            if time.monotonic() >= say_at:
                waiting = _waiting(file)
                logger.info("%s: %s", path.name, waiting)
                if waits:
                    waits(waiting)
                say_at = time.monotonic() + SAY_AGAIN
            time.sleep(LOOK_AGAIN)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield held


def _waiting(file: IO[str]) -> str:
    """Returns the sentence about a lock that another process holds, whose name it has written into the file."""
    file.seek(0)
    holder = one_line(file.read(), 200) or "another process"
    return f"waits for {holder}, which prepares the same images for this run or another one"
