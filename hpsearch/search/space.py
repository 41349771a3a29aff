"""The search space as Optuna's distributions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hpsearch.study.conditions import When, holds, in_order, labels_of
from hpsearch.study.search import Choices, Entry, FloatRange, IntRange


@dataclass(frozen=True)
class Term:
    """What one hyperparameter is sampled from, in every trial or where a condition holds."""

    name: str
    distribution: BaseDistribution
    when: When = field(default_factory=dict)


class Space(dict[str, BaseDistribution]):
    """One distribution for each hyperparameter, as the database keeps it, in the order of sampling.

    Attributes:
        terms: what trials are sampled from; of one hyperparameter several, under conditions that exclude each other.
    """

    def __init__(self, whole: Mapping[str, BaseDistribution], terms: Iterable[Term] = ()) -> None:
        super().__init__(whole)
        self.terms = tuple(terms) or tuple(Term(name, distribution) for name, distribution in whole.items())

    @property
    def is_conditional(self) -> bool:
        """Whether some hyperparameters have a meaning in a part of the trials only."""
        return any(term.when for term in self.terms)

    def groups(self) -> list[tuple[When, dict[str, BaseDistribution]]]:
        """Returns what is sampled together: the hyperparameters of each condition, behind what it is about."""
        conditions: list[When] = []
        for term in self.terms:
            conditions += [] if term.when in conditions else [term.when]
        return [
            (when, {term.name: term.distribution for term in self.terms if term.when == when})
            for when in conditions
        ]

    def of(self, hparams: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        """Returns the distributions of what has a meaning in a trial."""
        found: dict[str, Any] = {}
        for term in self.terms:
            if holds(term.when, found):
                found[term.name] = hparams.get(term.name)
        return {name: self[name] for name in found}


def distributions(search: Mapping[str, Entry]) -> Space:
    """Returns the search space, sorted by name so that samplers draw in the same order everywhere.

    What others depend on comes before them.
    """
    names = in_order(search)
    terms = (term for name in names for term in _terms(name, search[name]))
    return Space({name: distribution(search[name]) for name in names}, terms)


def _terms(name: str, whole: Entry) -> Iterable[Term]:
    if not whole.cases:
        return [Term(name, distribution(whole))]
    return [Term(name, _of_case(whole, case.entry), case.when) for case in whole.cases]


def _of_case(whole: Entry, entry: Entry) -> BaseDistribution:
    # As Optuna stores the choices of the whole field.
    return (
        CategoricalDistribution(labels_of(whole, entry))
        if isinstance(entry, Choices)
        else distribution(entry)
    )


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
