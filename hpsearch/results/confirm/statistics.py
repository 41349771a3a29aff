"""What repeated trainings say: means with their intervals, and which differences are more than luck."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from scipy import stats

CERTAINTY = 0.95


@dataclass(frozen=True, slots=True)
class Summary:
    """A sample's mean with what is known of it.

    Attributes:
        std: the sample's standard deviation (n - 1); None for one value.
        low, high: Student's 95 % interval of the mean, mean -+ t(n - 1) * std / sqrt(n); None for one value.
    """

    n: int
    mean: float
    std: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two configurations over equal repeats.

    Attributes:
        one, other: their trials in the search.
        difference: of the mean of `one` minus that of `other`, over the n common repeats, with its interval.
        p: of Student's paired t-test, two-sided: how likely luck alone gives such a difference.
        p_holm: corrected by Holm (1979) for the number of comparisons.
    """

    one: int
    other: int
    difference: Summary
    p: float
    p_holm: float

    @property
    def is_real(self) -> bool:
        """Whether luck alone would hardly give it, all comparisons considered."""
        return self.p_holm < 1 - CERTAINTY


def summarize(values: Sequence[float]) -> Summary:
    """Returns mean, standard deviation and interval.

    Raises:
        ValueError: no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("there are no values to summarize")
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(1, mean)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stats.t.ppf((1 + CERTAINTY) / 2, n - 1)) * std / math.sqrt(n)
    return Summary(n, mean, std, mean - half, mean + half)


def paired_p(differences: Sequence[float]) -> float:
    """Returns the two-sided p of Student's t-test that the differences' mean is 0; 1 for fewer than two."""
    if len(differences) < 2:
        return 1.0
    found = summarize(differences)
    if not found.std:
        return 1.0 if found.mean == 0 else 0.0
    t = found.mean / (found.std / math.sqrt(found.n))
    return float(2 * stats.t.sf(abs(t), found.n - 1))


def holm(ps: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number: the i-th smallest of m times m - i + 1, never falling."""
    corrected = [1.0] * len(ps)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = highest
    return corrected


def compare(values: Mapping[int, Mapping[int, float]]) -> list[Comparison]:
    """Compares all pairs of configurations over the repeats that both have; fewer than 2 are no pair.

    Args:
        values: by configuration, then by repeat.
    """
    pairs = []
    for one, other in combinations(values, 2):
        common = sorted(values[one].keys() & values[other].keys())
        differences = [values[one][repeat] - values[other][repeat] for repeat in common]
        if len(differences) >= 2:
            pairs.append((one, other, summarize(differences), paired_p(differences)))
    corrected = holm([p for *_, p in pairs])
    return [Comparison(*pair, p_holm) for pair, p_holm in zip(pairs, corrected, strict=True)]


def optimism(search: float, confirmed: Sequence[float], better: str) -> Summary:
    """Returns by how much a search's value promised too much: above 0, the confirmed mean is worse.

    That is confirmed mean minus the search's value where less is better, the other way round where more is.
    The search's value is one number, so the interval is that of the confirmed mean.
    """
    sign = 1.0 if better == "minimize" else -1.0
    return summarize([sign * (value - search) for value in confirmed])
