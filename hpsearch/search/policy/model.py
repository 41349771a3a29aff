"""What the curve model is told of a search, and what it expects of trials.

One point for each piece of a trial: the mean of the piece's last three epochs. Costs are taken by logarithm, where some
are not positive that of their distance from a floor below the best: differences among the good ones matter. Those far
above the median count as if they were nearer, since nobody wants to know how bad a bad trial is. The kernel's scales
and lengths are fitted anew whenever the points have grown by a third, always on the first so many points in the order
in which they came: a rebuilt search fits the same.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hpsearch.search.policy.cube import Cube
from hpsearch.search.policy.gp import OWN, Places, Posterior, fit, raised_own
from hpsearch.search.policy.pausing import Track
from hpsearch.search.policy.pieces import Pieces

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

ROUNDS = 5
"""In which a trial's expected cost is found."""
FARTHEST_APART = 1.0
"""Deviation of the logarithm between trials of the same hyperparameters beyond which nothing is expected of them; of
that and of what the hyperparameters make of it together, twice as much."""
BELOW = 0.1
"""By so much of the distance between the best and the median cost does the floor lie below the best."""
MEAN_OF = 3
"""Epochs at a piece's end of which the mean is taken."""

_FARTHEST = 1e150  # squares of what is farther away overflow


@dataclass(frozen=True, slots=True)
class Observation:
    """The end of a piece: cost of a trial at a time, in the order in which pieces ended."""

    order: int
    number: int
    time: float
    cost: float
    weight: float


@dataclass(frozen=True, slots=True)
class CostScale:
    """Costs as the model sees them: by logarithm of what they are above `floor` or not, at most `top`, with mean 0 and
    deviation 1."""

    log: bool
    floor: float
    top: float
    mean: float
    deviation: float

    @classmethod
    def of(cls, costs: Array, lifted: bool = True) -> "CostScale":
        """Returns the scale of costs of which some are finite.

        Args:
            lifted: whether costs of which some are not positive are taken by logarithm too, above a floor.
        """
        finite = np.clip(costs[np.isfinite(costs)], -_FARTHEST, _FARTHEST)
        low = float(finite.min())
        log, floor = low > 0 or lifted, 0.0
        if low <= 0 and lifted:
            below = BELOW * (float(np.median(finite)) - low)
            floor = low - (below if below > 1e-9 * abs(low) else max(1.0, abs(low)))
        values = np.log(finite - floor) if log else finite
        middle = np.median(values)
        top = float(2 * middle - values.min())
        seen = np.minimum(values, top)
        deviation = float(seen.std())
        differ = deviation > 1e-12 * float(np.abs(seen).max())
        return cls(log, floor, top, float(seen.mean()), deviation if differ else 1.0)

    def __call__(self, costs: Array) -> Array:
        finite = np.isfinite(costs)
        values = np.where(finite, np.clip(costs, -_FARTHEST, _FARTHEST) - self.floor, 1.0)
        values = np.log(values) if self.log else values
        seen: Array = (np.where(finite, np.minimum(values, self.top), self.top) - self.mean) / self.deviation
        return seen

    def cost(self, seen: float) -> float:
        """Returns the cost that the model sees as so much."""
        value = seen * self.deviation + self.mean
        return self.floor + math.exp(value) if self.log else value

    def slope(self, cost: float) -> float:
        """Returns by how much what the model sees changes with a cost."""
        return 1 / (self.deviation * (cost - self.floor if self.log else 1.0))


@dataclass(frozen=True, slots=True)
class Anew:
    """What a new trial of some hyperparameters comes to at an epoch, on a scale.

    Attributes:
        mean: of what all such trials have in common.
        common, own: variances of that, and of what is each trial's own.
    """

    scale: CostScale
    mean: float
    common: float
    own: float

    @property
    def cost(self) -> float:
        """The expected cost."""
        return self.scale.cost(self.mean + self._lift(self.common + self.own))

    def interval(self, share: float, repeats: int) -> tuple[float, float]:
        """Returns between which costs the mean over so many trials lies with a probability."""
        middle = self.mean + self._lift(self.own * (1 - 1 / repeats))
        half = NormalDist().inv_cdf((1 + share) / 2) * math.sqrt(self.common + self.own / repeats)
        return self.scale.cost(middle - half), self.scale.cost(middle + half)

    def _lift(self, variance: float) -> float:
        """Returns how far the mean of costs lies above their median: by logarithm, the large ones weigh more."""
        return self.scale.deviation * variance / 2 if self.scale.log else 0.0


@dataclass(frozen=True, slots=True)
class Effort:
    """How much work a decision may be.

    Attributes:
        points: that a decision looks at, see `chosen`.
        fitted: points that scales and lengths are fitted to.
        first: points at the first fit.
        growth: of the points from one fit to the next.
    """

    points: int = 300
    fitted: int = 150
    first: int = 8
    growth: float = 1.3


class CurveModel:
    """Knows the curves of a search's trials so far, and expects the others'."""

    def __init__(self, cube: Cube, pieces: Pieces, seed: int, limits: Effort = Effort()) -> None:
        self._cube, self._pieces, self._seed, self._limits = cube, pieces, seed, limits
        self._units: dict[int, Array] = {}
        self._points: dict[int, list[Observation]] = {}
        self._theta: tuple[int, Array] | None = None
        self._last = (-1, -1)  # order and trial of the newest point

    @property
    def knows_any(self) -> bool:
        """Whether a finite cost is known."""
        return any(math.isfinite(point.cost) for points in self._points.values() for point in points)

    def know(self, track: Track) -> None:
        """Takes note of a trial's pieces."""
        if track.number not in self._units:
            self._units[track.number] = self._cube.unit(track.hparams)
        before = self._points.pop(track.number, [])
        points = list(self._ends(track))
        if points:
            self._points[track.number] = points
        changed = [(one.order, one.number) for one in {*before} ^ {*points}]
        if changed and min(changed) < self._last:  # what is fitted to the first so many points is out of date
            self._theta = None
        self._last = max([self._last, *changed])

    def posterior(self, running: Sequence[Track], within: Collection[int] | None = None) -> "Belief":
        """Returns what is believed of all curves; pieces in training count as if they ended as expected.

        Args:
            within: numbers of the trials among which the best is looked for; None for all.
        """
        points = chosen(self._points, self._limits.points)
        costs = np.array([point.cost for point in points])
        scale, weight = CostScale.of(costs), np.array([point.weight for point in points])
        pending = self.places(running, [track.next_cut for track in running]) if running else None
        posterior = Posterior(self._fitted(), self._at(points), scale(costs), weight, pending)
        counts = np.isfinite(costs)
        trainable = counts & [math.isfinite(self._points[point.number][-1].cost) for point in points]
        counts = trainable if trainable.any() else counts
        if within is not None:
            inside = counts & np.array([point.number in within for point in points])
            counts = inside if inside.any() else counts
        best = float(posterior.smooth[counts].min())
        return Belief(posterior, best)

    def anew(self, track: Track, noise: Callable[[float], float]) -> Anew | None:
        """Returns what a new trial of a trial's hyperparameters comes to where that ended.

        None if it has no piece, or if new trials would lie too far apart to say anything.

        Args:
            noise: gives for a cost the least variance between trials of the same hyperparameters.
        """
        if track.number not in self._points:
            return None
        # Repeats of a good trial scatter about it by more than its distance from a floor: none is lifted.
        theta = self._fit(sum(map(len, self._points.values())), lifted=False)
        at = self.places([track], [track.trained])
        points = chosen(self._points, self._limits.points)
        costs, weight = np.array([p.cost for p in points]), np.array([point.weight for point in points])
        scale, new = CostScale.of(costs, lifted=False), Places(at.x, at.t, np.array([-1]))
        found = None
        for _ in range(ROUNDS):  # the least variance depends on the cost that is to be found
            least = 0.0 if found is None else math.sqrt(noise(found.cost)) * scale.slope(found.cost)
            if scale.log and least * scale.deviation > FARTHEST_APART:
                return None
            raised = raised_own(theta, least)
            mean, deviation = Posterior(raised, self._at(points), scale(costs), weight).predict(new)
            own = math.exp(2 * raised[OWN])
            found = Anew(scale, float(mean[0]), max(0.0, float(deviation[0]) ** 2 - own), own)
            if scale.log and math.sqrt(found.common + own) * scale.deviation > 2 * FARTHEST_APART:
                return None
        return found

    def places(self, tracks: Sequence[Track], epochs: Sequence[int] | Ints) -> Places:
        """Returns the places of trials at epochs."""
        x = np.array([self._units[track.number] for track in tracks]).reshape(len(tracks), self._cube.width)
        ends = np.array([track.epochs for track in tracks], dtype=np.int64)
        time = self._pieces.time(np.asarray(epochs, dtype=float), ends)
        return Places(x, time, np.array([track.number for track in tracks], dtype=np.int64))

    def unit(self, number: int) -> Array:
        """Returns a trial's place in the cube."""
        return self._units[number]

    def _ends(self, track: Track) -> Sequence[Observation]:
        found, start = [], 0
        for end, order in track.pieces:
            costs = [cost for cost in track.costs[max(start, end - MEAN_OF) : end] if math.isfinite(cost)]
            if costs:
                middle = end - (len(costs) - 1) / 2
                found.append(self._point(track, order, middle, sum(costs) / len(costs), 1 / len(costs)))
            start = end
        if track.unfit:
            order = track.pieces[-1][1] if track.pieces else track.number
            found.append(self._point(track, order, track.epochs, math.inf, 1.0))
        return found

    def _point(self, track: Track, order: int, epoch: float, cost: float, weight: float) -> Observation:
        [time] = self._pieces.time(np.array([epoch]), np.array([track.epochs]))
        return Observation(order, track.number, float(time), cost, weight)

    def _at(self, points: Sequence[Observation]) -> Places:
        x = np.array([self._units[point.number] for point in points]).reshape(len(points), self._cube.width)
        time = np.array([point.time for point in points])
        return Places(x, time, np.array([point.number for point in points], dtype=np.int64))

    def _fitted(self) -> Array:
        count = sum(map(len, self._points.values()))
        first, growth = self._limits.first, self._limits.growth
        stage = math.floor(math.log(max(1.0, count / first)) / math.log(growth) + 1e-9)
        known = min(count, math.ceil(first * growth**stage - 1e-9))
        if self._theta is None or self._theta[0] != known:
            self._theta = known, self._fit(known)
        return self._theta[1]

    def _fit(self, known: int, lifted: bool = True) -> Array:
        every = [point for points in self._points.values() for point in points]
        early: dict[int, list[Observation]] = {}
        for point in sorted(every, key=lambda point: (point.order, point.number))[:known]:
            early.setdefault(point.number, []).append(point)
        points = chosen(early, self._limits.points)
        if len(points) > self._limits.fitted:
            rng = np.random.default_rng([self._seed, known])
            points = [points[i] for i in rng.choice(len(points), self._limits.fitted, replace=False)]
        costs = np.array([point.cost for point in points])
        if not np.isfinite(costs).any():
            costs = np.zeros_like(costs)
        return fit(
            self._at(points), CostScale.of(costs, lifted)(costs), np.array([point.weight for point in points])
        )


@dataclass(frozen=True, slots=True)
class Belief:
    """What the model believes now; `best` is the best cost seen, without its noise, on the model's scale."""

    posterior: Posterior
    best: float


def chosen(points: dict[int, list[Observation]], most: int) -> list[Observation]:
    """Returns at most so many points: all of the best trials, the last one of the others.

    Where there are too many trials, at least half of the points are those of the best, and of the others, from good
    to bad, every so many-th is left out.
    """
    ranked = sorted(points, key=lambda number: (min(point.cost for point in points[number]), number))
    found: list[Observation] = []
    for place, number in enumerate(ranked):
        others = len(ranked) - place - 1
        if len(found) + len(points[number]) > max(most - others, most // 2):
            break
        found += points[number]
    else:
        return found
    rest = ranked[place:]
    kept = np.unique(np.linspace(0, len(rest) - 1, min(len(rest), most - len(found))).round().astype(int))
    return found + [points[rest[i]][-1] for i in kept]
