"""Samplers that can be repeated, and what they are told of a finished trial.

TPE, random and GP are seeded anew for each trial from (study seed, trial number): a study that is stopped and
continued samples what an unbroken one samples. QMC and grid keep the study's seed, since reseeding destroys
their evenness; their point is a function of the trial's place among the study's own trials.
"""

import hashlib
import itertools
import math
import random
import warnings
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpsearch.errors import HpsearchError
from hpsearch.search.space import Space
from hpsearch.study.conditions import When, holds
from hpsearch.study.direction import Direction, sign
from hpsearch.study.search import GivenPoint, SamplerSpec

Distributions = dict[str, BaseDistribution]


def derived_seed(seed: int, number: int) -> int:
    """Returns 32 bits from (study seed, trial number), the same on every machine and Python version."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4], "big")


@dataclass(frozen=True)
class Sampling:
    """Makes the sampler for each trial of a study."""

    spec: SamplerSpec
    seed: int
    space: Space

    def sampler(self, number: int, place: int) -> BaseSampler:
        """Returns the sampler for one trial.

        Args:
            place: of the trial among the study's own ones; its number if other programs have added none.
        """
        return _SAMPLERS[self.spec.name](self, number, place)

    @cached_property
    def grid(self) -> "Grid":
        """All combinations in an order shuffled by the study's seed, made once for all trials."""
        return Grid(list(_branches(self.space)), self.seed)


def _branches(space: Space) -> Iterator[dict[str, Sequence[Any]]]:
    """Yields all combinations of what conditions are about, each with all values of what is sampled beside it."""
    deciding = {name for term in space.terms for name in term.when}
    found: list[dict[str, Sequence[Any]]] = [{}]
    for term in space.terms:
        more: list[dict[str, Sequence[Any]]] = []
        for branch in found:
            values = grid_values(term.distribution)
            if not holds(term.when, {name: branch[name][0] for name in term.when if name in branch}):
                more.append(branch)
            elif term.name in deciding:
                more += [{**branch, term.name: [value]} for value in values]
            else:
                more.append({**branch, term.name: values})
        found = more
    yield from found


class Grid:
    """All combinations of some values, in a shuffled order; a combination is made when it is asked for.

    Args:
        branches: the values by name, of each part of the space that has other names than the rest.
    """

    def __init__(self, branches: Sequence[Mapping[str, Sequence[Any]]], seed: int) -> None:
        sizes = [math.prod(map(len, branch.values())) for branch in branches]
        self._ends = list(itertools.accumulate(sizes))
        self.size = self._ends[-1]
        self._branches = branches
        self._seed = seed

    def point(self, number: int) -> dict[str, Any]:
        """Returns one combination; after the last one they begin again."""
        rank, point = self._order[number % self.size], dict[str, Any]()
        place = bisect_right(self._ends, rank)
        branch = self._branches[place]
        rank -= self._ends[place] - math.prod(map(len, branch.values()))
        for name in reversed(list(branch)):  # the last one changes fastest, as in nested loops
            rank, at = divmod(rank, len(branch[name]))
            point[name] = branch[name][at]
        return point

    @cached_property
    def _order(self) -> Sequence[int]:
        order = array("l", range(self.size))
        random.Random(self._seed).shuffle(order)
        return order


class _ConditionedStudy:
    """A study of which only the trials are seen in which a condition holds."""

    def __init__(self, study: Study, when: When) -> None:
        self._study, self._when = study, when

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        return [t for t in self._study._get_trials(*args, **kwargs) if holds(self._when, t.params)]


class SpaceTPE(TPESampler):
    """TPE over a space that is known: it need not be inferred from all past trials at every ask.

    It samples the same as the original at half the cost.

    Attributes:
        beside: where what is sampled has a meaning; it learns from the trials in which it had one.
    """

    beside: When = MappingProxyType({})

    def __init__(self, space: Space, seed: int, startup_trials: int) -> None:
        super().__init__(seed=seed, n_startup_trials=startup_trials)
        self._space = space

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Distributions:
        return varying(self._space)

    def _sample(self, study: Study, trial: FrozenTrial, search_space: Distributions) -> dict[str, Any]:
        seen: Any = _ConditionedStudy(study, self.beside) if self.beside else study
        return super()._sample(seen, trial, search_space)


class NumberedQMC(QMCSampler):
    """A scrambled Sobol sequence whose index is the trial's place.

    Optuna's own index counts asks in the study's attributes, which a continued study or a second driver
    would count anew.
    """

    def __init__(self, space: Space, seed: int, place: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(qmc_type="sobol", scramble=True, seed=seed)
        self._space = space
        self._place = place

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Distributions:
        return varying(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Distributions
    ) -> dict[str, Any]:
        if not self._space.is_conditional:
            return super().sample_relative(study, trial, search_space)
        # One axis for each term, whether it has a meaning or not: axes of their own would not be even together.
        terms = {str(place): term for place, term in enumerate(self._space.terms)}
        axes = varying({place: term.distribution for place, term in terms.items()})
        return {
            terms[place].name: value
            for place, value in super().sample_relative(study, trial, axes).items()
            if search_space.get(terms[place].name) == axes[place]
        }

    def _find_sample_id(self, study: Study, search_space: Distributions) -> int:
        return self._place


class NumberedGrid(BaseSampler):
    """All combinations in a given order; the trial's place picks one."""

    def __init__(self, space: Space, grid: Grid, place: int) -> None:
        self._space = space
        self._point = grid.point(place)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Distributions:
        return dict(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Distributions
    ) -> dict[str, Any]:
        return self._point

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise HpsearchError(f"{param_name} is not part of the grid")


class GivenPoints(BaseSampler):
    """The points of the study file, in order; the trial's place picks one."""

    def __init__(self, space: Space, points: Sequence[GivenPoint], place: int) -> None:
        self._space = space
        self._point = points[place % len(points)]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Distributions:
        return dict(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Distributions
    ) -> dict[str, Any]:
        return dict(self._point.hparams)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise HpsearchError(f"{param_name} is not given by sampler.points")


def grid_values(distribution: BaseDistribution) -> Sequence[Any]:
    """Returns every value that a distribution can take.

    Raises:
        HpsearchError: it is continuous.
    """
    match distribution:
        case CategoricalDistribution(choices=choices):
            return choices
        case IntDistribution(log=True):
            return range(distribution.low, distribution.high + 1)
        case IntDistribution():
            return range(distribution.low, distribution.high + 1, distribution.step)
        case FloatDistribution() if distribution.step is not None:
            count = math.floor((distribution.high - distribution.low) / distribution.step + 1e-8) + 1
            return [distribution.low + i * distribution.step for i in range(count)]
        case FloatDistribution() if distribution.single():
            return [distribution.low]
    raise HpsearchError(f"{distribution} has no finite list of values for a grid")


def varying(space: Mapping[str, BaseDistribution]) -> Distributions:
    """Returns the part of the space that has more than one value."""
    return {name: distribution for name, distribution in space.items() if not distribution.single()}


def sample_in_groups(
    sampler: BaseSampler, study: Study, trial: FrozenTrial, space: Space, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the hyperparameters of a trial in a conditional space: of each condition that holds, together.

    Args:
        given: hyperparameters that are not to be sampled.
    """
    found: dict[str, Any] = {}
    for when, group in space.groups():
        if not holds(when, found):
            continue
        if isinstance(sampler, SpaceTPE):
            sampler.beside = when
        sampled = {**sampler.sample_relative(study, trial, varying(group)), **given}
        for name, distribution in group.items():
            if name in sampled:
                found[name] = sampled[name]
            elif distribution.single():
                found[name] = grid_values(distribution)[0]
            else:
                found[name] = sampler.sample_independent(study, trial, name, distribution)
    return found


@dataclass(frozen=True, slots=True)
class Seen:
    """A finished trial as the sampler sees it.

    Attributes:
        broken: the constraints that it breaks, see `hpsearch.search.outcome.constraints`.
    """

    state: TrialState
    value: float | None
    broken: Mapping[str, float] = field(default_factory=dict)


def seen_by_sampler(
    state: TrialState, score: float | None, broken: Mapping[str, float], worst: float | None, sampler: str
) -> Seen:
    """Returns what the sampler is told of a finished trial; the database keeps the true words.

    Every trial with a finite score is told as COMPLETE with that score, also when it was stopped: Optuna's
    TPE ranks PRUNED trials by how many epochs they ran before how good they were (0.90 stopped at epoch 40
    counts as good, 0.10 stopped at epoch 5 as bad), which misleads it where epochs are sampled.
    Without a finite score a trial is PRUNED without a value, the worst that TPE knows but for infeasible
    ones. GP sees COMPLETE trials alone, so it is told the worst score so far.

    Args:
        broken: the constraints that it breaks.
        worst: the worst finite score before this trial, None if there was none.
    """
    if state is TrialState.FAIL:
        return Seen(TrialState.FAIL, None)
    if score is not None and not broken:
        return Seen(TrialState.COMPLETE, score)
    if sampler == "gp":
        return Seen(TrialState.COMPLETE, worst) if worst is not None else Seen(TrialState.FAIL, None)
    return Seen(TrialState.PRUNED, None, broken)


def worse(direction: Direction, first: float | None, second: float | None) -> float | None:
    """Returns the worse of two scores; None counts as unknown."""
    known = [score for score in (first, second) if score is not None]
    return max(known, key=lambda score: sign(direction) * score, default=None)


_SAMPLERS: dict[str, Callable[[Sampling, int, int], BaseSampler]] = {
    "tpe": lambda sampling, number, place: SpaceTPE(
        sampling.space, derived_seed(sampling.seed, number), sampling.spec.startup_trials
    ),
    "gp": lambda sampling, number, place: GPSampler(
        seed=derived_seed(sampling.seed, number), n_startup_trials=sampling.spec.startup_trials
    ),
    "random": lambda sampling, number, place: RandomSampler(seed=derived_seed(sampling.seed, number)),
    "qmc": lambda sampling, number, place: NumberedQMC(sampling.space, sampling.seed, place),
    "grid": lambda sampling, number, place: NumberedGrid(sampling.space, sampling.grid, place),
    "points": lambda sampling, number, place: GivenPoints(sampling.space, sampling.spec.points, place),
}
"""How each is made, from the trial's number and its place among the study's own."""
