"""Asynchronous successive halving with pauses, as published: Li et al., A System for Massively Parallel Hyperparameter
Tuning (MLSys 2020, arXiv 1810.05934)."""

from typing import Any

from hpsearch.search.policy.contract import New, Resume, Step, Wait
from hpsearch.search.policy.pausing import Pausing, Track
from hpsearch.search.policy.pieces import Pieces
from hpsearch.search.view import StudyView


class Halving(Pausing):
    """Trials pause at each rung; the best 1/eta of a rung are resumed, and where none may, a new trial begins.

    When no trial may begin any more, at least one trial of each rung is resumed, so that one is trained to its end.
    """

    def __init__(self, view: StudyView, pieces: Pieces, eta: float = 3.0) -> None:
        super().__init__(view, pieces)
        self._eta = eta

    def choose(self, number: int, new: bool) -> tuple[Step, dict[str, Any] | None]:
        last = not new and not self.running()  # no better estimate will come
        track = self.promotable(self._eta, least=int(last))
        if track is not None:
            return Resume(track.number, f"in {self._best_of(track)}"), None
        return (New("no paused trial is good enough to resume") if new else Wait()), None

    def unwanted(self, track: Track) -> str:
        return f"it was not in {self._best_of(track)}"

    def _best_of(self, track: Track) -> str:
        return f"the best 1/{self._eta:g} of the trials that reached epoch {track.trained}"
