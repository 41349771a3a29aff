"""A study's checkpoints and weights in a folder of this machine, or of a file system that machines share."""

import shutil
from pathlib import Path
from typing import Protocol

from hpsearch.files.atomic import link, replaced


class FolderArtifacts:
    """Keeps the files of `hpsearch.files.artifacts.Artifacts` below one folder.

    A kept file is a link rather than a copy where the file system has links: it costs no room.
    """

    def __init__(self, home: Path) -> None:
        self._home = home

    def names(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self._home / folder).glob("*"))

    def keep(self, source: str, name: str) -> None:
        target = self._home / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with replaced(target) as beside:
            link(Path(source), beside)

    def locate(self, name: str) -> str:
        return str(self._home / name)

    def remove(self, name: str) -> None:
        path = self._home / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


class Artifacts(Protocol):
    """The files of one study, by names with slashes such as `weights/trial-00012.safetensors`.

    Workers write checkpoints where `TrialRun.folder` says, below `trials/`; the driver reads no content.
    All methods raise OSError where the store cannot be read or written.
    """

    def names(self, folder: str) -> list[str]:
        """Returns the names directly below a folder, sorted, without its own; none if it is not there."""
        ...

    def keep(self, source: str, name: str) -> None:
        """Gives a file that a worker has written a second name, in one step; both are whole at any time.

        Args:
            source: as the worker has told it (`TrialEnd.weights`).
        """
        ...

    def locate(self, name: str) -> str:
        """Returns what `keep` takes as the source of a file of this store."""
        ...

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all that is in it; does nothing if it is not there."""
        ...
