"""The policies that one understands at once.

* `sampled`, without pauses: one of Optuna's samplers begins trials, one of its pruners cuts them.
* `halving`: asynchronous successive halving with pauses, as published: Li et al., A System for Massively Parallel
  Hyperparameter Tuning (MLSys 2020, arXiv 1810.05934).
* `screen`: all trials for a few epochs, then the best to their end: R. Egele et al., arXiv 2404.04111.
"""

import math
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial

from hpsearch.contracts.trial import StopKind
from hpsearch.search.outcome import Verdict
from hpsearch.search.policy.contract import CONTINUE, Decision, New, Resume, Step, Stop, Wait
from hpsearch.search.policy.pausing import Doing, Pausing, Track
from hpsearch.search.policy.pieces import Pieces
from hpsearch.search.view import StudyView


class Sampled:
    """Asks the view for everything: it has the sampler, the pruner and the trials."""

    def __init__(self, view: StudyView) -> None:
        self._view = view

    def begin(self, new: bool = True) -> Step:
        return New(f"proposed by {self._view.spec.sampler.name}") if new else Wait()

    def start(self, number: int) -> dict[str, Any]:
        return self._view.ask(number)

    def resume(self, number: int) -> None:
        raise ValueError(f"trial {number} cannot be paused: this policy pauses none")

    def take_back(self, number: int) -> None:
        self.resume(number)

    def report(self, number: int, epoch: int, value: float) -> Decision:
        if not self._view.should_prune(number):
            return CONTINUE
        detail = f"the {self._view.spec.pruner.name} pruner stopped it at epoch {epoch}"
        return Stop(Verdict(StopKind.PRUNER, detail))

    def notes(self, number: int, epochs: int) -> dict[str, Any]:
        return {}

    def finish(self, trial: FrozenTrial) -> None:
        pass

    def add(self, trial: FrozenTrial) -> None:
        pass

    def surplus(self, most: int) -> Sequence[int]:
        return []

    def why_left(self, number: int) -> str:
        return "this policy resumes none"


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
