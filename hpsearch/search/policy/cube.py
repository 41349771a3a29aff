"""The search space as a unit cube, for models.

Numbers lie on one axis from 0 to 1, logarithmic ones by their logarithm; choices of numbers by their rank; other
choices have an axis each, of which one is 1. What has a single value has no axis.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hpsearch.search.space import Space, Term
from hpsearch.study.conditions import holds

Array = NDArray[np.float64]

ABSENT = 0.5
"""Where on its axes a hyperparameter lies that has no meaning."""


class Encoding(Protocol):
    """One hyperparameter's axes of the cube."""

    @property
    def width(self) -> int:
        """Number of axes."""

    def unit(self, value: Any) -> Sequence[float]:
        """Returns where a value lies."""

    def value(self, u: Array) -> Any:
        """Returns the value at, or next to, a place."""

    def snap(self, units: Array) -> Array:
        """Moves places [N, width] to those of values that exist."""


class Ranked:
    """Values in order, each with an equal share of the axis."""

    width = 1

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = values
        self._rank = {} if isinstance(values, range) else {value: rank for rank, value in enumerate(values)}

    def unit(self, value: Any) -> Sequence[float]:
        rank = self.values.index(value) if isinstance(self.values, range) else self._rank[value]
        return ((rank + 0.5) / len(self.values),)

    def value(self, u: Array) -> Any:
        return self.values[self.ranks(u)[0]]

    def snap(self, units: Array) -> Array:
        places: Array = (self.ranks(units) + 0.5) / len(self.values)
        return places

    def ranks(self, units: Array) -> NDArray[np.int64]:
        return np.clip((units * len(self.values)).astype(np.int64), 0, len(self.values) - 1)


class Stepped:
    """Floats in steps."""

    width = 1

    def __init__(self, low: float, high: float, step: float) -> None:
        self._low, self._high, self._step = low, high, step
        self._ranks = Ranked(range(math.floor((high - low) / step + 1e-8) + 1))

    def unit(self, value: Any) -> Sequence[float]:
        return self._ranks.unit(round((value - self._low) / self._step))

    def value(self, u: Array) -> Any:
        return min(self._low + self._step * self._ranks.value(u), self._high)

    def snap(self, units: Array) -> Array:
        return self._ranks.snap(units)


class Scaled:
    """A range of floats, or of whole numbers on a logarithmic scale."""

    width = 1

    def __init__(self, low: float, high: float, log: bool, whole: bool) -> None:
        self._low, self._high, self._log, self._whole = low, high, log, whole
        margin = 0.499 if whole else 0.0
        self._from, self._to = (math.log(x) if log else x for x in (low - margin, high + margin))

    def unit(self, value: Any) -> Sequence[float]:
        place = math.log(value) if self._log else value
        return ((place - self._from) / (self._to - self._from),)

    def value(self, u: Array) -> Any:
        value = float(self.values(u)[0])
        return int(value) if self._whole else value

    def values(self, units: Array) -> Array:
        places = self._from + units * (self._to - self._from)
        values = np.exp(places) if self._log else places
        found: Array = np.clip(np.round(values) if self._whole else values, self._low, self._high)
        return found

    def snap(self, units: Array) -> Array:
        if not self._whole:
            return units
        places: Array = (np.log(self.values(units)) - self._from) / (self._to - self._from)
        return places


class OneHot:
    """Choices without an order."""

    def __init__(self, choices: Sequence[Any]) -> None:
        self._choices = choices
        self.width = len(choices)

    def unit(self, value: Any) -> Sequence[float]:
        return [float(choice is value or choice == value) for choice in self._choices]

    def value(self, u: Array) -> Any:
        return self._choices[int(np.argmax(u))]

    def snap(self, units: Array) -> Array:
        places: Array = np.eye(self.width)[np.argmax(units, axis=1)]
        return places


class Cube:
    """Translates hyperparameters into places in the unit cube and back.

    Each term of the space has axes of its own. Where it has no meaning, a place lies in their middle, so that two
    trials without it are no farther apart than their other hyperparameters are.
    """

    def __init__(self, space: Space) -> None:
        self._terms: list[tuple[Term, Encoding | None, slice]] = []
        self.width = 0
        for term in space.terms:
            own = None if term.distribution.single() else axis(term.distribution)
            end = self.width + (own.width if own else 0)
            self._terms.append((term, own, slice(self.width, end)))
            self.width = end
        deciding = {name for term in space.terms for name in term.when}
        self._deciding = [one for one in self._terms if one[0].name in deciding]

    def sample(self, rng: np.random.Generator, count: int) -> Array:
        """Returns random places [count, width] of points that exist."""
        return self.snap(rng.random((count, self.width)))

    def snap(self, units: Array) -> Array:
        """Moves places to those of points that exist."""
        snapped = units.copy()
        for _, own, at in self._terms:
            if own is not None:
                snapped[:, at] = own.snap(units[:, at])
        for unit in snapped if self._deciding else ():
            decided = self._decided(unit)
            absent = [at for term, _, at in self._terms if not holds(term.when, decided)]
            for at in absent:
                unit[at] = ABSENT
        return snapped

    def hparams(self, unit: Array) -> dict[str, Any]:
        """Returns the hyperparameters of one place, in the order of the space."""
        found: dict[str, Any] = {}
        for term, own, at in self._terms:
            if holds(term.when, found):
                found[term.name] = _only(term.distribution) if own is None else own.value(unit[at])
        return found

    def unit(self, hparams: Mapping[str, Any]) -> Array:
        """Returns the place of a point."""
        place = np.full(self.width, ABSENT)
        for term, own, at in self._terms:
            if own is not None and holds(term.when, hparams):
                place[at] = own.unit(hparams[term.name])
        return place

    def wholes(self, units: Array, name: str, absent: int) -> NDArray[np.int64]:
        """Returns one whole-numbered hyperparameter of places, `absent` where it has no meaning."""
        found = np.full(len(units), absent, dtype=np.int64)
        for term, own, at in self._terms:
            if term.name == name:
                there = [not term.when or holds(term.when, self._decided(unit)) for unit in units]
                values = [
                    _only(term.distribution) if own is None else own.value(u) for u in units[there][:, at]
                ]
                found[there] = np.array(values, dtype=np.int64)
        return found

    def _decided(self, unit: Array) -> dict[str, Any]:
        """Returns what conditions are about, at a place."""
        found: dict[str, Any] = {}
        for term, own, at in self._deciding:
            if holds(term.when, found):
                found[term.name] = _only(term.distribution) if own is None else own.value(unit[at])
        return found


def axis(distribution: BaseDistribution) -> Encoding:
    """Returns the axes of a distribution that has more than one value."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            if all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices):
                return Ranked(sorted(choices))
            return OneHot(choices)
        case IntDistribution(low=low, high=high, log=True):
            return Scaled(low, high, log=True, whole=True)
        case IntDistribution(low=low, high=high, step=step):
            return Ranked(range(low, high + 1, step))
        case FloatDistribution(low=low, high=high, step=float() as step):
            return Stepped(low, high, step)
        case FloatDistribution(low=low, high=high, log=log):
            return Scaled(low, high, log=log, whole=False)
    raise TypeError(f"{distribution} has no place in the cube")


def _only(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low
