"""Paths that people have written: what is there, which the system may refuse to say, and whether it can be read to its
end: not a FIFO that nobody writes into, and not a device without an end.
"""

import errno
import os
import stat
from pathlib import Path

from hpsearch.errors import UserError

_GIVEN = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
"""What the shell's `<(command)` and `< file` are called; somebody writes into these."""

_KINDS = {
    stat.S_IFIFO: "it is a pipe (FIFO), not a file",
    stat.S_IFCHR: "it is a device, not a file",
    stat.S_IFBLK: "it is a device, not a file",
    stat.S_IFSOCK: "it is a socket, not a file",
}


def is_folder(path: str | Path, field: str) -> bool:
    """Says whether a path is that of a folder.

    Args:
        field: what names the path, for the message.

    Raises:
        UserError: the system does not say what is there.
    """
    return stat.S_ISDIR(_mode(path, field))


def is_file(path: str | Path, field: str) -> bool:
    """Says whether a path is that of a regular file; as `is_folder`."""
    return stat.S_ISREG(_mode(path, field))


def is_there(path: str | Path, field: str) -> bool:
    """Says whether there is anything; as `is_folder`."""
    return bool(_mode(path, field))


def _mode(path: str | Path, field: str) -> int:
    """Returns the kind and the permissions of what is there; 0 of nothing."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no file is called by a NUL character
        return 0
    except OSError as error:  # a name that is too long, a folder that may not be searched, links in a circle
        raise UserError(
            f"{field}: {path} cannot be used: {error.strerror}; name another path, or change the permissions of its "
            "folders"
        ) from None


def refuse_unwritable(path: str | Path, field: str) -> None:
    """Refuses a path below which nothing can be made, before the work is done whose results it is for.

    Raises:
        UserError: the folder in which it would be made is none, or may not be written to.
    """
    place = Path(path).absolute()
    while not is_there(place, field) and place != place.parent:
        place = place.parent
    if not is_folder(place, field):
        raise UserError(f"{field}: {path} cannot be made, since {place} is a file; name another place")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(
            f"{field}: {path} cannot be written, since nothing may be written to {place}; name another place, or "
            "change its permissions"
        )


def is_below(path: str | Path, folder: str | Path) -> bool:
    """Says whether a path lies in a folder, or is that folder, whether there is anything or not.

    Links in the folder are its owner's business, but `..` behind a link leads where the link does.
    """
    ways = [os.path.realpath] + [os.path.abspath] * (os.pardir not in Path(path).parts)
    return any(Path(way(path)).is_relative_to(way(folder)) for way in ways)


def are_same(one: str | Path, other: str | Path) -> bool:
    """Says whether two paths lead to one place, whether there is anything or not."""
    try:
        return os.path.realpath(one) == os.path.realpath(other)
    except ValueError:  # a NUL character
        return False


def regular(path: str | Path) -> Path:
    """Returns a path that may be opened and read to its end.

    Raises:
        OSError: it may not, or there is nothing.
    """
    if not str(path).startswith(_GIVEN):
        kind = _KINDS.get(stat.S_IFMT(Path(path).stat().st_mode))
        if kind is not None:
            raise OSError(errno.EINVAL, kind, str(path))
    return Path(path)
