"""Which weights stay on disk, and when a trial's checkpoints may go."""

import logging
import os
import shutil
from pathlib import Path

from optuna.trial import TrialState

from hpsearch.errors import CheckpointError
from hpsearch.spec.folders import RunFolder, attempt_folder
from hpsearch.spec.study import Direction
from hpsearch.spec.train import CheckpointSpec

logger = logging.getLogger(__name__)


class WeightsKeeper:
    """Keeps the weights of the best trials; deletes checkpoints once the trial's end is in the database."""

    def __init__(self, folder: RunFolder, spec: CheckpointSpec, better: Direction) -> None:
        self.folder = folder
        self._spec = spec
        self._sign = 1.0 if better == "minimize" else -1.0
        self._scores: list[tuple[float, int]] = []
        self._tickets: dict[int, int] = {}
        self._ended: set[int] = set()

    def keep(self, number: int, weights: str | None) -> str | None:
        """Gives a trial's best weights their place beside the other finished trials'; returns the path.

        A link rather than a move: until the trial's end is in the database, its checkpoint must stay whole.

        Args:
            weights: as the engine told; None when its worker died, and then the checkpoint's are taken.

        Raises:
            CheckpointError: they cannot be kept, for want of room or rights.
        """
        weights = weights or self._in_checkpoint(number)
        if weights is None:
            return None
        target = self.folder.weights(number)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            _link(Path(weights), target)
        except OSError as error:
            raise CheckpointError(
                f"trial {number}: its weights cannot be kept in {target}: {error.strerror or error}; its "
                "checkpoint is intact, make room and run the study again"
            ) from error
        return str(target)

    def has_checkpoint(self, number: int, attempt: int) -> bool:
        """Says whether an attempt at a trial has left a checkpoint here."""
        return any(attempt_folder(self.folder.trial(number), attempt).glob("*.json"))

    def _in_checkpoint(self, number: int) -> str | None:
        found = self.folder.trial(number).glob("attempt-*/best-*.safetensors")
        newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
        return None if newest is None else str(newest)

    def finished(self, number: int, ticket: int, score: float | None, state: TrialState) -> None:
        """Notes a finished trial. Only COMPLETE ones are kept, since one of them is the study's best."""
        self._tickets[ticket] = number
        if score is not None and state is TrialState.COMPLETE:
            self._scores.append((self._sign * score, number))
            self._scores.sort()

    def recorded(self, tickets: list[int]) -> None:
        """Deletes what is not needed any more, now that these trials' ends are in the database."""
        for ticket in tickets:
            number = self._tickets.pop(ticket)
            self._ended.add(number)
            shutil.rmtree(self.folder.trial(number), ignore_errors=True)
        self._drop_surplus()

    def _drop_surplus(self) -> None:
        if self._spec.keep == "all":
            return
        count = 1 if self._spec.keep == "best" else self._spec.keep
        kept = {number for _, number in self._scores[:count]} | set(self._tickets.values())
        # Only what is known to have ended: another driver of this folder may just be linking its own.
        ended = self._ended | {number for _, number in self._scores}
        for number in ended - kept:
            self.folder.weights(number).unlink(missing_ok=True)
        self._ended &= kept

    def know(self, scores: dict[int, float]) -> None:
        """Takes note of the COMPLETE trials of earlier runs, by number."""
        self._scores = sorted((self._sign * score, number) for number, score in scores.items())


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
