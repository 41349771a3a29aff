"""What becomes of a trial that has ended: its score and its state.

One invariant holds at all times: no finished trial ever reached a better value than the study's best value.
It holds because an unbeaten trial, whatever ended it, is COMPLETE. With several goals, no finished trial beats one of
the front of the COMPLETE trials, since what none of these is as good as in all goals is COMPLETE.

Trials that take more than the study allows are left out of it: no score of theirs counts. Optuna passes over
infeasible trials in `study.best_trial`, so `constraints` marks no COMPLETE trial.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self, TypeGuard

from optuna.trial import FrozenTrial, TrialState

from hpsearch.contracts.trial import BEST_AT, DEVICE_SECONDS, EndKind, StopKind, TrialEnd
from hpsearch.study.direction import Direction, Point, beats, covers, sign
from hpsearch.study.stopping import OutcomeSwitch

FEW = 5
"""While fewer trials than this are finished, every score is competitive."""


class Scoreboard:
    """The scores of a study's finished trials, best first."""

    def __init__(self, direction: Direction) -> None:
        self._sign = sign(direction)
        self._costs: list[float] = []
        self._points: list[Point] = []
        self._front: list[Point] = []
        self._best_cost = math.inf
        self._finished = 0

    def add(self, score: float | None, state: TrialState, beside: Point = ()) -> None:
        """Enters a finished trial; only a COMPLETE one can become the best.

        Args:
            score: best value over the trial's epochs; None, NaN or infinite if it reached none.
            state: COMPLETE, PRUNED or FAIL.
            beside: its other goals, lower is better.
        """
        self._finished += 1
        if not _is_finite(score):
            return
        cost = self._sign * score
        point = (cost, *beside)
        if beside:
            self._points.append(point)
        else:
            insort(self._costs, cost)
        if state is TrialState.COMPLETE:
            self._best_cost = min(self._best_cost, cost)
            if self.is_unbeaten(score, beside):
                self._front = [one for one in self._front if not covers(point, one)] + [point]

    @property
    def finished(self) -> int:
        """Number of finished trials, those without a finite score included."""
        return self._finished

    @property
    def best(self) -> float | None:
        """The best score of the COMPLETE trials, the study's `best_value`; None before the first."""
        return None if self._best_cost == math.inf else self._sign * self._best_cost

    def is_best(self, score: float | None) -> bool:
        """Says whether a score is better than `best`, or the first finite one; a tie is not."""
        return _is_finite(score) and self._sign * score < self._best_cost

    def is_unbeaten(self, score: float | None, beside: Point = ()) -> bool:
        """Says whether no COMPLETE trial is as good as a trial in every goal; with one goal, whether it is the best."""
        if not _is_finite(score):
            return False
        return not any(covers(one, (self._sign * score, *beside)) for one in self._front)

    def is_competitive(self, score: float | None, beside: Point = ()) -> bool:
        """Says whether fewer than five trials are finished or a score is in their better half.

        In the better half: at most half of the finished trials' finite scores are strictly better, so ties
        count for the trial. Trials without a finite score count as finished, but not in the half: a study
        that diverges often would otherwise call everything else good. They are not competitive themselves.
        With several goals, better is who beats it in all of them.
        """
        if not _is_finite(score):
            return False
        cost = self._sign * score
        if beside:
            better, count = sum(beats(one, (cost, *beside)) for one in self._points), len(self._points)
        else:
            better, count = bisect_left(self._costs, cost), len(self._costs)
        return self._finished < FEW or 2 * better <= count


class Course:
    """What a study's trials have reached and cost, paused ones with what they had: its limits are judged by it."""

    def __init__(self, direction: Direction) -> None:
        self._sign = sign(direction)
        self._best: tuple[float, float, int] | None = None  # cost, when it was reached, trial
        self._reached: dict[int, tuple[float, float, int]] = {}  # the same of each trial
        self._ends: list[float] = []
        self._ended: dict[int, float] = {}
        self._seconds: dict[int, float] = {}
        self._total = 0.0

    def add(self, trial: FrozenTrial) -> None:
        """Enters a trial as stored, perhaps once more: finished, paused, or resumed after a pause."""
        attrs, ended = trial.user_attrs, trial.datetime_complete
        if trial.state.is_finished() and ended is not None:
            self._ended[trial.number] = ended.timestamp()
            insort(self._ends, ended.timestamp())
        value = attrs.get("score")
        if attrs.get("stop_reason") == StopKind.INFEASIBLE:
            # When it was paused nobody knew that it would break a limit.
            if self._reached.pop(trial.number, None) == self._best:
                self._best = min(self._reached.values(), default=None)
        elif _is_finite(value):
            reached = attrs.get(BEST_AT) or (ended.timestamp() if ended is not None else 0.0)
            found = (self._sign * value, reached, trial.number)
            self._reached[trial.number] = min(found, self._reached.get(trial.number, found))
            self._best = found if self._best is None else min(self._best, found)
        seconds = float(attrs.get(DEVICE_SECONDS, attrs.get("seconds")) or 0.0)
        self._total += seconds - self._seconds.get(trial.number, 0.0)
        self._seconds[trial.number] = seconds

    @property
    def best(self) -> float | None:
        """The best score, that of a paused trial included; None before the first."""
        return None if self._best is None else self._sign * self._best[0]

    @property
    def since_best(self) -> int:
        """Number of other trials that have finished since the best score was reached."""
        if self._best is None:
            return len(self._ends)
        _, reached, number = self._best
        later = len(self._ends) - bisect_right(self._ends, reached)
        return later - (self._ended.get(number, reached) > reached)

    def device_seconds(self, live: Mapping[int, float]) -> float:
        """Returns how long devices were busy with the study's trials.

        Args:
            live: of the trials that run here, by number.
        """
        return self._total + sum(
            max(0.0, now - self._seconds.get(number, 0.0)) for number, now in live.items()
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a trial ends after its last epoch, with a readable sentence."""

    kind: StopKind
    detail: str = ""

    @classmethod
    def of(cls, end: TrialEnd) -> Self:
        """Returns why a trial ends that nobody judged: all its epochs are done, or its own loop gave it up."""
        return cls(StopKind.PRUNER if end.kind is EndKind.PRUNED else StopKind.FINISHED, end.detail)


def decide(
    kind: StopKind, score: float | None, board: Scoreboard, switch: OutcomeSwitch, beside: Point = ()
) -> TrialState:
    """Returns the state of a trial that ended.

    COMPLETE needs a finite score, since Optuna takes no NaN as a value: without one, a trial is PRUNED (after
    an error, FAIL).

    Args:
        kind: why it ended.
        score: best value over its epochs, None if no epoch had a finite one.
        board: the trials that finished before; not changed.
        switch: `early_stopping.outcome`.
        beside: its other goals, lower is better.
    """
    if kind is StopKind.INFEASIBLE:
        return TrialState.PRUNED
    if board.is_unbeaten(score, beside):
        return TrialState.COMPLETE
    if kind is StopKind.ERROR:
        return TrialState.FAIL
    if not _is_finite(score):
        return TrialState.PRUNED
    if kind is StopKind.FINISHED:
        return TrialState.COMPLETE
    if kind is StopKind.EARLY_STOPPING and _keeps(score, board, switch, beside):
        return TrialState.COMPLETE
    return TrialState.PRUNED


def constraints(kind: StopKind, state: TrialState, excesses: Mapping[str, float]) -> Mapping[str, float]:
    """Returns the values of the constraints, as Optuna calls them, that a trial breaks; all are above 0.

    The sampler learns to avoid what breaks them: too large a batch, too large a model. A COMPLETE trial breaks none, as
    Optuna would no longer offer it as the best.

    Args:
        excesses: see `StudySpec.excesses`.
    """
    if state is not TrialState.PRUNED:
        return {}
    if kind is StopKind.INFEASIBLE:
        return excesses
    return {"memory": 1.0} if kind is StopKind.OUT_OF_MEMORY else {}


def score(values: Iterable[float], direction: Direction) -> tuple[float, int] | None:
    """Returns the best value of a metric over a trial's epochs and its epoch, from 1.

    Values that are not finite are skipped, of equal ones the earliest wins; None if none is finite.
    """
    factor = sign(direction)
    finite = [(factor * value, epoch) for epoch, value in enumerate(values, start=1) if math.isfinite(value)]
    if not finite:
        return None
    cost, epoch = min(finite)
    return factor * cost, epoch


def _keeps(score: float, board: Scoreboard, switch: OutcomeSwitch, beside: Point) -> bool:
    return switch == "complete" or (switch == "auto" and board.is_competitive(score, beside))


def _is_finite(score: float | None) -> TypeGuard[float]:
    return score is not None and math.isfinite(score)
