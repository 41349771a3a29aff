"""Files that can be read to an end: not a FIFO that nobody writes into, and not a device without an end."""

import errno
import stat
from pathlib import Path

_GIVEN = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
"""What the shell's `<(command)` and `< file` are called; somebody writes into these."""

_KINDS = {
    stat.S_IFIFO: "it is a pipe (FIFO), not a file",
    stat.S_IFCHR: "it is a device, not a file",
    stat.S_IFBLK: "it is a device, not a file",
    stat.S_IFSOCK: "it is a socket, not a file",
}


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
