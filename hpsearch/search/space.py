"""The search space as Optuna's distributions."""

from collections.abc import Mapping
from typing import assert_never

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hpsearch.study.search import Choices, Entry, FloatRange, IntRange


def distributions(search: Mapping[str, Entry]) -> dict[str, BaseDistribution]:
    """Returns the search space, sorted by name so that samplers draw in the same order everywhere."""
    return {name: distribution(search[name]) for name in sorted(search)}


def distribution(entry: Entry) -> BaseDistribution:
    """Returns what Optuna samples one entry from; lists of lists become their labels."""
    match entry:
        case FloatRange():
            return FloatDistribution(entry.low, entry.high, log=entry.log, step=entry.step)
        case IntRange():
            return IntDistribution(entry.low, entry.high, log=entry.log, step=entry.step or 1)
        case Choices():
            return CategoricalDistribution(entry.labels())
    assert_never(entry)
