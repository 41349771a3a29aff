"""Where checkpoints and weights lie: a local folder, or a store that drivers on several machines share."""

from typing import Protocol


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
