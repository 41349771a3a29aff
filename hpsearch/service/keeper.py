"""Which weights stay on disk, and when a trial's checkpoints may go."""

import logging
import os
import shutil
from pathlib import Path

from optuna.trial import TrialState

from hpsearch.spec.folders import RunFolder
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

    def keep(self, number: int, weights: str | None) -> str | None:
        """Gives a trial's best weights their place beside the other finished trials'; returns the path.

        A link rather than a move: until the trial's end is in the database, its checkpoint must stay whole.

        Args:
            weights: as the engine told; None when its worker died, and then the checkpoint's are taken.
        """
        weights = weights or self._in_checkpoint(number)
        if weights is None:
            return None
        target = self.folder.weights(number)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(weights, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(weights, target)
        return str(target)

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
            shutil.rmtree(self.folder.trial(number), ignore_errors=True)
        self._drop_surplus()

    def _drop_surplus(self) -> None:
        if self._spec.keep == "all":
            return
        count = 1 if self._spec.keep == "best" else self._spec.keep
        waiting = set(self._tickets.values())
        kept = {number for _, number in self._scores[:count]} | waiting
        for path in self._kept_files():
            if _number_of(path) not in kept:
                path.unlink(missing_ok=True)

    def know(self, scores: dict[int, float]) -> None:
        """Takes note of the COMPLETE trials of earlier runs, by number."""
        self._scores = sorted((self._sign * score, number) for number, score in scores.items())

    def _kept_files(self) -> list[Path]:
        return list(self.folder.weights(0).parent.glob("trial-*.safetensors"))


def _number_of(path: Path) -> int:
    return int(path.stem.removeprefix("trial-"))
