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

Array = NDArray[np.float64]


class Axis(Protocol):
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
    """Translates hyperparameters into places in the unit cube and back."""

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self._fixed = {name: _only(d) for name, d in space.items() if d.single()}
        self._axes = {name: axis(d) for name, d in space.items() if not d.single()}
        self._names = list(space)
        self.width = sum(axis.width for axis in self._axes.values())

    def sample(self, rng: np.random.Generator, count: int) -> Array:
        """Returns random places [count, width] of points that exist."""
        return self.snap(rng.random((count, self.width)))

    def snap(self, units: Array) -> Array:
        """Moves places to those of points that exist."""
        parts = [axis.snap(units[:, at]) for axis, at in self._columns()]
        return np.hstack(parts) if parts else units

    def hparams(self, unit: Array) -> dict[str, Any]:
        """Returns the hyperparameters of one place, in the order of the space."""
        found = {name: self._axes[name].value(unit[at]) for name, at in self._slices().items()}
        return {name: found[name] if name in found else self._fixed[name] for name in self._names}

    def unit(self, hparams: Mapping[str, Any]) -> Array:
        """Returns the place of a point."""
        return np.array([u for name, axis in self._axes.items() for u in axis.unit(hparams[name])])

    def wholes(self, units: Array, name: str) -> NDArray[np.int64]:
        """Returns one whole-numbered hyperparameter of places."""
        if name in self._fixed:
            return np.full(len(units), int(self._fixed[name]))
        at = self._slices()[name]
        return np.array([int(self._axes[name].value(unit)) for unit in units[:, at]], dtype=np.int64)

    def _slices(self) -> dict[str, slice]:
        ends = np.cumsum([axis.width for axis in self._axes.values()]).tolist()
        return {
            name: slice(end - axis.width, end)
            for (name, axis), end in zip(self._axes.items(), ends, strict=True)
        }

    def _columns(self) -> list[tuple[Axis, slice]]:
        return [(self._axes[name], at) for name, at in self._slices().items()]


def axis(distribution: BaseDistribution) -> Axis:
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
