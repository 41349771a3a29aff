"""What all policies share that pause trials: the trials, their pieces, and the order in which these ended.

A trial is trained in pieces. Policies look at the ends of pieces alone, so what a worker lost within a piece changes
no decision. The order of the ends is counted over the whole study and stored with each trial: whatever depends on
what was known at an earlier moment can be found again.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpsearch.contracts.trial import PAUSED, PIECES, StopKind
from hpsearch.search.policy.contract import (
    CONTINUE,
    Continue,
    Decision,
    New,
    Pause,
    Resume,
    Step,
    Wait,
)
from hpsearch.search.policy.pieces import Pieces, epochs_of
from hpsearch.search.view import StudyView, is_chosen
from hpsearch.study.direction import Point, front, sign

Array = NDArray[Any]

_UNFIT = (StopKind.DIVERGED, StopKind.OUT_OF_MEMORY, StopKind.INFEASIBLE)


class Doing(Enum):
    """What a trial does."""

    RUNNING = auto()
    PAUSED = auto()
    ENDED = auto()


@dataclass(slots=True)
class Track:
    """A trial as a policy that pauses sees it.

    Attributes:
        cuts: epochs after which its pieces end.
        costs: of its epochs, lower is better; infinite where the value is not finite.
        pieces: (last epoch, order) of the pieces that have ended.
        unfit: whether it ended since its hyperparameters cannot be trained: it diverged, no memory was enough, or it
            took more than the study allows.
    """

    number: int
    hparams: Mapping[str, Any]
    cuts: tuple[int, ...]
    costs: list[float] = field(default_factory=list)
    pieces: list[tuple[int, int]] = field(default_factory=list)
    doing: Doing = Doing.RUNNING
    unfit: bool = False

    @property
    def epochs(self) -> int:
        """Epochs after which it ends by itself."""
        return self.cuts[-1]

    @property
    def trained(self) -> int:
        """Epochs of the pieces that have ended."""
        return self.pieces[-1][0] if self.pieces else 0

    @property
    def next_cut(self) -> int:
        """Where the piece ends that is trained, or would be."""
        return next((cut for cut in self.cuts if cut > self.trained), self.epochs)

    def best(self, epoch: int) -> float:
        """Returns the best cost up to an epoch; infinite if it is unfit, so that it takes the place of no other."""
        return math.inf if self.unfit else min(self.costs[:epoch], default=math.inf)


class Pausing(ABC):
    """A policy whose subclass says what comes next."""

    def __init__(self, view: StudyView, pieces: Pieces) -> None:
        self.view = view
        self.spec = view.spec
        self.pieces = pieces
        self.tracks: dict[int, Track] = {}
        self._sign = sign(view.spec.study.better)
        self._goals = view.spec.study.beside
        self._chosen: tuple[int, bool, Step, dict[str, Any] | None] | None = None

    @abstractmethod
    def unwanted(self, track: Track) -> str:
        """Says why a paused trial is not resumed now that the search is over."""

    @abstractmethod
    def choose(self, number: int, new: bool) -> tuple[Step, dict[str, Any] | None]:
        """Says what comes next, and for a new trial its hyperparameters, None to ask the study's sampler.

        Args:
            number: of the next new trial.
            new: whether a trial may still be begun.
        """

    # The contract.

    def begin(self, new: bool = True) -> Step:
        return self._choice(self.view.next_number, new)[0]

    def start(self, number: int) -> dict[str, Any]:
        hparams = self._proposed(number)
        if hparams is None:
            hparams = self.view.ask(number)
        elif number in self.view:
            self.view.set_params(number, hparams)
        else:
            space = self.view.space.of(hparams)
            trial = create_trial(state=TrialState.RUNNING, params=hparams, distributions=space)
            trial.number = number
            self.view.add(trial)
        self._enter(Track(number, hparams, self.pieces.cuts(epochs_of(self.spec, hparams))))
        return hparams

    def resume(self, number: int) -> None:
        self._enter(replace(self.tracks[number], doing=Doing.RUNNING))

    def take_back(self, number: int) -> None:
        track = self.tracks[number]
        self._enter(replace(track, pieces=track.pieces[:-1], doing=Doing.RUNNING))

    def report(self, number: int, epoch: int, value: float) -> Decision:
        track = self.tracks[number]
        # What is repeated from an older checkpoint leaves the pieces that have ended as they were.
        del track.costs[max(epoch, track.trained) :]
        track.costs[epoch - 1 : epoch] = [self._cost(value)]
        if epoch not in track.cuts or epoch <= track.trained or epoch == track.epochs:
            return CONTINUE
        track.pieces.append((epoch, self.order))
        track.doing = Doing.PAUSED
        self._enter(track)
        match self._choice(self.view.next_number, self.view.may_begin)[0]:
            case Resume(chosen) if chosen == number:
                self.resume(number)
                return Continue(self.notes(number, epoch))
        return Pause({**self.notes(number, epoch), PAUSED: epoch})

    def notes(self, number: int, epochs: int) -> dict[str, Any]:
        track = self.tracks[number]
        pieces = list(track.pieces)
        if epochs > track.trained:
            pieces.append((epochs, self.order))
        return {PIECES: [list(piece) for piece in pieces], PAUSED: None}

    def finish(self, trial: FrozenTrial) -> None:
        self.add(trial)

    def add(self, trial: FrozenTrial) -> None:
        if not is_chosen(trial, self.view.space):
            return  # begun by a driver that was lost before it chose them, or failed without
        values = trial.intermediate_values
        costs = [self._cost(values.get(epoch, math.nan)) for epoch in range(1, 1 + max(values, default=0))]
        attrs = trial.user_attrs
        pieces = [(int(epoch), int(order)) for epoch, order in attrs.get(PIECES) or ()]
        doing = Doing.PAUSED if attrs.get(PAUSED) is not None else Doing.RUNNING
        if trial.state.is_finished():
            doing = Doing.ENDED
            if not pieces and costs:  # stored by a policy without pauses
                pieces = [(len(costs), trial.number)]
        unfit = doing is Doing.ENDED and attrs.get("stop_reason") in _UNFIT
        cuts = self.pieces.cuts(epochs_of(self.spec, trial.params))
        self._enter(Track(trial.number, dict(trial.params), cuts, costs, pieces, doing, unfit))

    def surplus(self, most: int) -> Sequence[int]:
        if not most:  # the best first
            return [
                track.number
                for track in sorted(
                    self.paused(), key=lambda track: (track.best(track.trained), track.number)
                )
            ]
        paused = self.paused()
        if self._goals:
            kept = {track.number for track in self.unbeaten()}  # what is on the front is not cut
            most -= sum(track.number in kept for track in paused)
            paused = [track for track in paused if track.number not in kept]
        over = len(paused) - max(0, most)
        if over <= 0:
            return []
        ranks = self._ranks(paused)
        paused.sort(key=lambda track: (ranks[track.number], track.best(track.trained), track.number))
        return [track.number for track in paused[::-1][:over]]

    def why_left(self, number: int) -> str:
        return "another is as good in all goals" if self._goals else self.unwanted(self.tracks[number])

    # For subclasses.

    @property
    def order(self) -> int:
        """The order of the piece that ends next."""
        return 1 + max((track.pieces[-1][1] for track in self.tracks.values() if track.pieces), default=-1)

    @property
    def begun(self) -> int:
        """Pieces begun so far: the number of this decision."""
        return sum(len(t.pieces) + (t.doing is Doing.RUNNING) for t in self.tracks.values())

    def paused(self) -> list[Track]:
        return [track for track in self.tracks.values() if track.doing is Doing.PAUSED]

    def running(self) -> list[Track]:
        return [track for track in self.tracks.values() if track.doing is Doing.RUNNING]

    def rng(self, number: int) -> np.random.Generator:
        """Returns the random numbers of one decision."""
        return np.random.default_rng([self.spec.study.seed, self.begun, number])

    def rungs(self) -> Iterator[list[tuple[float, Track, bool]]]:
        """Yields who reached each rung, the highest rung and the best trials first.

        Each entry is the best cost up to the rung, the trial, and whether it waits there. With several goals those come
        first that few others of the rung beat in all of them.
        """
        found: dict[int, list[tuple[Track, int]]] = {}
        for track in self.tracks.values():
            for place, cut in enumerate(track.cuts[:-1]):
                if track.trained < cut:
                    break
                found.setdefault(self.pieces.rung(track.cuts, place), []).append((track, cut))
        for rung in sorted(found, reverse=True):
            yield [
                (track.best(cut), track, track.doing is Doing.PAUSED and track.trained == cut)
                for track, cut in self.ranked(found[rung])
            ]

    def ranked(self, reached: Iterable[tuple[Track, int]]) -> list[tuple[Track, int]]:
        """Returns trials and the epochs that they have reached, the best up to there first.

        With several goals those come first that few others beat in all of them. Of trials that continue each other
        only the best is there, and none of which nobody knows how it stood at that epoch.
        """
        standing = self._standing(reached)
        if self._goals:
            points = np.array([point for point, _, _ in standing])
            beaten = [int(_beaten_by(points, point).sum()) for point in points]
            standing = [standing[i] for i in sorted(range(len(standing)), key=beaten.__getitem__)]
        return [(track, epoch) for _, track, epoch in standing]

    def promotable(self, eta: float, least: int = 0) -> Track | None:
        """Returns the best trial that waits in the best 1/eta of its rung, of the highest such rung.

        Args:
            least: trials of a rung that may continue however few have reached it.
        """
        for reached in self.rungs():
            for cost, track, waits in reached[: max(least, int(len(reached) / eta))]:
                if waits and math.isfinite(cost):
                    return track
        return None

    def beside(self, number: int) -> Point:
        """Returns a trial's goals beside the metric; infinite while they are not known."""
        return self.view.beside.get(number, (math.inf,) * len(self._goals))

    def point(self, track: Track) -> Point:
        """Returns all goals of a trial as it stands, lower is better."""
        return track.best(len(track.costs)), *self.beside(track.number)

    def unbeaten(self) -> list[Track]:
        """Returns the paused trials that no other trial is as good as in all goals, of equal ones the first."""
        points = {track.number: self.point(track) for track in self.tracks.values()}
        first = front({number: point for number, point in points.items() if math.isfinite(point[0])})
        return [self.tracks[number] for number in first if self.tracks[number].doing is Doing.PAUSED]

    def reached(self, track: Track) -> str:
        """Returns in words what the trials have in common that a paused one is compared with."""
        far = "the same share of their epochs" if self.pieces.by_share else f"epoch {track.trained}"
        return f"reached {far}"

    # Inside.

    def _cost(self, value: float) -> float:
        return self._sign * value if math.isfinite(value) else math.inf

    def _standing(self, reached: Iterable[tuple[Track, int]]) -> list[tuple[Point, Track, int]]:
        """Returns all goals of trials up to the epochs that they have reached, the best by the metric first.

        Of trials that continue each other only the best, and none of which nobody knows how it stood there.
        """
        known = [
            ((track.best(epoch), *self.beside(track.number)), track, epoch)
            for track, epoch in reached
            if not _has_no_curve(track, epoch)
        ]
        first: dict[int, tuple[Point, Track, int]] = {}
        for one in sorted(known, key=lambda one: (one[0], one[1].number)):
            first.setdefault(self.view.origin(one[1].number), one)
        return list(first.values())

    def _ranks(self, paused: Iterable[Track]) -> dict[int, float]:
        """Returns which share of all that came as far beats each of some paused trials."""
        points: dict[tuple[int, int], Array] = {}
        found = {}
        for track in paused:
            there = track.trained, track.epochs
            if there not in points:
                reached = ((one, self.pieces.as_far(*there, one.epochs)) for one in self.tracks.values())
                standing = self._standing((one, epoch) for one, epoch in reached if one.trained >= epoch)
                points[there] = np.array([point for point, _, _ in standing])
            mine = np.array([track.best(track.trained), *self.beside(track.number)])
            found[track.number] = float(_beaten_by(points[there], mine).mean())
        return found

    def _enter(self, track: Track) -> None:
        self.tracks[track.number] = track
        self._chosen = None

    def _choice(self, number: int, new: bool) -> tuple[Step, dict[str, Any] | None]:
        if self._chosen is None or self._chosen[:2] != (number, new):
            step, hparams = self.choose(number, new)
            if self._goals and not new and isinstance(step, Wait) and (left := self.unbeaten()):
                step = Resume(left[0].number, "no other trial is as good in all goals")
            self._chosen = number, new, step, hparams
        return self._chosen[2], self._chosen[3]

    def _proposed(self, number: int) -> dict[str, Any] | None:
        """Returns what the policy itself proposes for a new trial."""
        if number in self.view and self.view.is_queued(number):
            return None  # some of its hyperparameters are given
        step, hparams = self._choice(number, True)
        return hparams if isinstance(step, New) else self.propose(number)

    def propose(self, number: int) -> dict[str, Any] | None:
        """Returns hyperparameters for a trial that begins though another step was chosen; None asks the sampler."""
        return None


def _beaten_by(points: Array, point: Array) -> Array:
    """Says which of some points, [N, goals], beat another one."""
    beats: Array = (points <= point).all(1) & (points != point).any(1)
    return beats


def _has_no_curve(track: Track, epoch: int) -> bool:
    """Says whether a trial was imported without its curve, so that nobody knows how it stood at an epoch."""
    return math.isinf(track.best(epoch)) and math.isfinite(track.best(track.trained))
