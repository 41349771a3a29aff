"""Freeze and thaw: after each piece of a trial, a model of all curves or a simple rule picks what is trained next.

After Swersky, Snoek and Adams (arXiv 1406.3896), with the choice of Rakotoarison et al., In-Context Freeze-Thaw
Bayesian Optimization (arXiv 2404.16795): the most probable improvement by a random margin at a random horizon.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr
from threadpoolctl import ThreadpoolController

from hpsearch.search.policy.contract import New, Resume, Step, Wait
from hpsearch.search.policy.cube import Array, Cube
from hpsearch.search.policy.gp import Places
from hpsearch.search.policy.model import Anew, Belief, CurveModel
from hpsearch.search.policy.pausing import Doing, Pausing, Track
from hpsearch.search.policy.pieces import Pieces, epochs_of
from hpsearch.search.view import StudyView
from hpsearch.study.direction import Point, covers

Ints = NDArray[np.int64]

STARTUP = 8
"""Random trials before the model is asked."""
FRESH, NEAR = 100, 60
"""Points that the model chooses among: random ones, and some near the best trials."""
BASES, APART, SPREAD = 8, 0.05, 0.15
"""So many best trials, none closer to a better one than so far, are varied by at most so much (root mean square)."""
ABOUT = 1.05
"""What models take is guessed so well that a new one may seem to take so many times its budget."""
DRAWN = 20
"""Random points of which the first is tried whose model seems to keep the study's limits."""
SHOWN = 60
"""Paused trials that the model chooses among: those with the best expected end."""
MARGIN = (-1.5, 0.5)
"""Logarithms of the least and the largest improvement that is hoped for, in deviations of the costs."""
HOPELESS = 0.05
"""When no trial may begin any more: a trial is resumed while it becomes the best with this probability."""
RIDGE = 1e-3
"""Weight of the squared coefficients of what models take, which are drawn to 0, per known model."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Who picks.

    Attributes:
        rule: probability that the rule picks a piece rather than the model. With a half, configurations that are
            slow at first were never resumed; with a fifth, single searches believed a wrong model for long.
        random: probability that a new trial of the model's is a random point instead.
        eta: the rule resumes the best 1/eta of a rung.
    """

    rule: float = 1 / 3
    random: float = 0.33
    eta: float = 3.0


class Thaw(Pausing):
    """Picks by the model, a part of the pieces by asynchronous halving of all trials."""

    def __init__(self, view: StudyView, pieces: Pieces, mixture: Mixture) -> None:
        super().__init__(view, pieces)
        self._mixture = mixture
        self._cube = Cube(view.space)
        self._model = CurveModel(self._cube, pieces, view.spec.study.seed)

    def choose(self, number: int, new: bool) -> tuple[Step, dict[str, Any] | None]:
        # More threads take longer over matrices of this size, and add up in another order on another machine.
        with _threads().limit(limits=1, user_api="blas"):
            return self._choose(number, new)

    def _choose(self, number: int, new: bool) -> tuple[Step, dict[str, Any] | None]:
        rng = self.rng(number)
        if (given := self._first_given()) is not None:
            return Resume(given.number, "the first of the given points is trained to its end"), None
        if new and (len(self.tracks) < STARTUP or not self._model.knows_any):
            return New("the first trials are random"), self._random(rng)
        if rng.random() < self._mixture.rule:
            track = self.promotable(self._mixture.eta)
            if track is not None:
                why = f"in the best 1/{self._mixture.eta:g} of the trials that {self.reached(track)}"
                return Resume(track.number, why), None
            if new:
                return New("a random point, as no paused trial is good enough to resume"), self._random(rng)
        if not new:
            return self._last(), None
        return self._modelled(rng)

    def _first_given(self) -> Track | None:
        """Returns the first point that was given and did not fail, while it is paused and no trial is COMPLETE.

        What someone knows to be good may be slow at first, and a short search could end before it shows.
        """
        if self.view.complete:
            return None
        # Of a trial that has ended the view no longer says that it was given.
        given = (number for number in self.tracks if self.view.is_queued(number))
        first = self.tracks.get(min(given, default=-1))
        return first if first is not None and first.doing is Doing.PAUSED else None

    def unwanted(self, track: Track) -> str:
        return (
            f"it was neither in the best 1/{self._mixture.eta:g} of those that {self.reached(track)}, nor likely to "
            f"become the best (below {HOPELESS:.0%})"
        )

    def anew(self, number: int, noise: Callable[[float], float]) -> Anew | None:
        """Returns what a new trial of a trial's hyperparameters would come to, see `CurveModel.anew`."""
        with _threads().limit(limits=1, user_api="blas"):
            return self._model.anew(self.tracks[number], noise) if number in self.tracks else None

    def propose(self, number: int) -> dict[str, Any] | None:
        return self._random(self.rng(number))

    def _enter(self, track: Track) -> None:
        super()._enter(track)
        self._model.know(track)

    def _modelled(self, rng: np.random.Generator) -> tuple[Step, dict[str, Any] | None]:
        budget = self._budget(rng)
        within = None if budget is None else {n for n in self.tracks if covers(self.beside(n), budget)}
        belief = self._model.posterior(self.running(), within)
        paused = [track for track in self._shown(belief) if within is None or track.number in within]
        units = self._candidates(rng, within, budget)
        at = self._places(rng, paused, units)
        mean, deviation = belief.posterior.predict(at)
        goal = belief.best - 10 ** rng.uniform(*MARGIN) * max(1.0, -belief.best)
        pick = int(np.argmax(log_ndtr((goal - mean) / deviation)))
        if pick < len(paused):
            why = f"of {len(paused)} paused and {len(units)} new trials the model finds this one the most promising"
            return Resume(paused[pick].number, why), None
        if rng.random() < self._mixture.random:
            return New("a random point, so that the model sees what it does not expect"), self._random(rng)
        return New("the most promising point by the model"), self._cube.hparams(units[pick - len(paused)])

    def _budget(self, rng: np.random.Generator) -> Point | None:
        """Returns how much the next piece may take in the goals beside the metric: as much as a random trial.

        So all the front is improved in turn, each time by the best that is as small: Haimes, Lasdon and Wismer's
        epsilon constraints (1971) with random bounds. None without such goals.
        """
        if not self.spec.study.beside:
            return None
        known = [
            n
            for n, track in self.tracks.items()
            if n in self.view.beside and math.isfinite(self.point(track)[0])
        ]
        if not known:
            return None
        return self.view.beside[known[rng.integers(len(known))]]

    def _last(self) -> Step:
        """Returns what is worth resuming when no trial may begin any more."""
        if not self.running():
            track = self.promotable(self._mixture.eta, least=1)
            if track is not None:
                return Resume(track.number, f"the best of those that {self.reached(track)}")
        paused = [track for track in self.paused() if math.isfinite(track.best(track.trained))]
        if not paused or self.spec.study.beside:  # with several goals, all are resumed that no other beats
            return Wait()
        belief = self._model.posterior(self.running())
        ends = [track.epochs for track in paused]
        mean, deviation = belief.posterior.predict(self._model.places(paused, ends))
        chance = log_ndtr((belief.best - mean) / deviation)
        pick = int(np.argmax(chance))
        if chance[pick] < math.log(HOPELESS):
            return Wait()
        return Resume(
            paused[pick].number, f"it becomes the best with a probability of {math.exp(chance[pick]):.0%}"
        )

    def _shown(self, belief: Belief) -> list[Track]:
        paused = [track for track in self.paused() if math.isfinite(track.best(track.trained))]
        if len(paused) <= SHOWN:
            return paused
        mean = belief.posterior.mean(self._model.places(paused, [track.epochs for track in paused]))
        return [paused[i] for i in np.argsort(mean, kind="stable")[:SHOWN]]

    def _candidates(
        self, rng: np.random.Generator, within: Collection[int] | None, budget: Point | None
    ) -> Array:
        bases: list[Array] = []
        known = [track for track in self.tracks.values() if within is None or track.number in within]
        for track in sorted(known, key=lambda track: (track.best(track.trained), track.number)):
            unit = self._model.unit(track.number)
            if math.isinf(track.best(track.trained)) or len(bases) == BASES:
                break
            if not bases or (((np.array(bases) - unit) ** 2).sum(1) > APART**2 * len(unit)).all():
                bases.append(unit)
        units = rng.random((FRESH, self._cube.width))
        if bases:
            base = np.array([bases[i % len(bases)] for i in range(NEAR)])
            scale = SPREAD * 10 ** -rng.random((NEAR, 1))
            moved = base + (rng.random(base.shape) < 0.5) * rng.standard_normal(base.shape) * scale
            units = np.vstack([units, np.clip(moved, 0, 1)])
        units = self._allowed(self._cube.snap(units), budget)
        tried = {_rounded(self._model.unit(number)) for number in self.tracks}
        untried = [_rounded(unit) not in tried for unit in units]
        return units[untried] if any(untried) else units

    def _places(self, rng: np.random.Generator, paused: list[Track], units: Array) -> Places:
        """Returns trials and new points at a horizon: so many more epochs, or so large a share of their own."""
        ends = np.array([track.epochs for track in paused] + self._lengths(units), dtype=np.int64)
        now = np.array([track.trained for track in paused] + [0] * len(units), dtype=np.int64)
        if self.pieces.by_share:
            more = np.round(rng.random() * ends)
        else:
            more = np.full(len(ends), rng.integers(1, self.pieces.longest + 1))
        epochs = np.minimum(now + np.maximum(1, more), ends)
        new = Places(units, np.zeros(len(units)), -np.arange(1, len(units) + 1))
        at = self._model.places(paused, [track.trained for track in paused]) + new
        return Places(at.x, self.pieces.time(epochs.astype(float), ends), at.trial)

    def _lengths(self, units: Array) -> list[int]:
        if "epochs" not in self.view.space:
            return [epochs_of(self.spec, {})] * len(units)
        ends = self._cube.wholes(units, "epochs", self.spec.train.epochs)
        return [epochs_of(self.spec, {"epochs": end}) for end in ends]

    def _random(self, rng: np.random.Generator) -> dict[str, Any]:
        count = DRAWN if self.view.footprints else 1
        return self._cube.hparams(self._allowed(self._cube.sample(rng, count))[0])

    def _allowed(self, units: Array, budget: Point | None = None) -> Array:
        """Returns those of some new points whose models seem to keep the study's limits; all if none does.

        Args:
            budget: further limits to the goals beside the metric.
        """
        limits = {name: limit.most for name, limit in self.spec.study.limits.items()}
        if budget is not None:
            goals = zip(self.spec.study.beside, budget, strict=True)
            limits |= {name: min(ABOUT * most, limits.get(name, math.inf)) for name, most in goals}
        limits = {name: most for name, most in limits.items() if name in self.spec.measured}
        if not limits or not self.view.footprints:
            return units
        guessed = dict(zip(self.spec.measured, self._guessed(units).T, strict=True))
        keep = np.all([guessed[name] <= most for name, most in limits.items()], axis=0)
        return units[keep] if keep.any() else units

    def _guessed(self, units: Array) -> Array:
        """Returns what the models of new points take, [M, names of `measured`]."""
        numbers = [number for number in self.tracks if number in self.view.footprints]
        known = np.array([self._model.unit(number) for number in numbers])
        values = [[self.view.footprints[number][name] for name in self.spec.measured] for number in numbers]
        return guess(known, np.array(values), units)


@cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def _rounded(unit: Array) -> bytes:
    return unit.round(9).tobytes()


def guess(known: Array, values: Array, units: Array) -> Array:
    """Returns what models are going to take that have not been built: guessed from those that were.

    The logarithm of what a model takes is fitted by a parabola along each axis of the cube: sizes are about products
    of powers of widths and depths, and what they do not depend on comes out flat.

    Args:
        known: places of models that were built, [N, width] with N of at least 1.
        values: what these take, [N, K], not negative.
        units: places [M, width].

    Returns:
        [M, K].
    """
    logs = np.log(np.maximum(values, 1e-9))
    middle = logs.mean(0)
    features, at = (np.hstack([x - 0.5, (x - 0.5) ** 2]) for x in (known, units))
    center = features.mean(0)
    features, at = features - center, at - center
    weights = np.linalg.solve(
        features.T @ features + RIDGE * len(known) * np.eye(features.shape[1]), features.T @ (logs - middle)
    )
    found: Array = np.exp(np.clip(middle + at @ weights, -700, 700))
    return found
