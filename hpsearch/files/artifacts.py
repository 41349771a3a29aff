"""A study's checkpoints and weights in a folder of this machine, or of a file system that machines share."""

import shutil
from pathlib import Path

from hpsearch.files.atomic import link, replaced


class FolderArtifacts:
    """Keeps the files of `hpsearch.contracts.artifacts.Artifacts` below one folder.

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
