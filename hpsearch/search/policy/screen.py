"""All trials for a few epochs, then the best to their end: R. Egele et al., arXiv 2404.04111."""

import math
from typing import Any

from hpsearch.search.policy.contract import New, Resume, Step, Wait
from hpsearch.search.policy.pausing import Doing, Pausing, Track
from hpsearch.search.policy.pieces import Pieces
from hpsearch.search.view import StudyView


class FirstEpochs(Pieces):
    """Two pieces: the first epochs, and the rest."""

    def cuts(self, epochs: int) -> tuple[int, ...]:
        return (self.first, epochs) if self.first < epochs else (epochs,)


class Screen(Pausing):
    """Begins all of the study's trials, and resumes the best `top` when all have had their first epochs."""

    def __init__(self, view: StudyView, epochs: int = 1, top: int = 3) -> None:
        super().__init__(view, FirstEpochs(False, 1.0, view.spec.max_epochs, first=epochs))
        self._top = top

    def choose(self, number: int, new: bool) -> tuple[Step, dict[str, Any] | None]:
        if new:
            return New("all trials get their first epochs first"), None
        if any(track.doing is Doing.RUNNING and not track.pieces for track in self.tracks.values()):
            return Wait(), None
        there = self.ranked(
            (track, track.cuts[0]) for track in self.tracks.values() if track.trained >= track.cuts[0]
        )
        for track, epoch in there[: self._top]:
            if track.doing is Doing.PAUSED and math.isfinite(track.best(epoch)):
                return Resume(track.number, self._best_of(track)), None
        return Wait(), None

    def unwanted(self, track: Track) -> str:
        return f"it was not {self._best_of(track)}"

    def _best_of(self, track: Track) -> str:
        return f"among the best {self._top} after epoch {track.cuts[0]}"
