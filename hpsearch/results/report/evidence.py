"""What advice rests on: claims, how likely luck alone gives what they are drawn from, and which may stand.

The comparisons rank the trials' scores and ask by a permutation test whether one group of trials scores better
than another. Whatever the sampler preferred, that asks how those trials did, not how many there are of them.
A sampler that learns chases luck, which such a test does not know of; `tests.benchmarks.advice` measures what
comes of it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from scipy import stats

from hpsearch.results.confirm.statistics import CERTAINTY, holm
from hpsearch.results.stored.study import StudyRecord, TrialRecord
from hpsearch.results.terminal.progress import number
from hpsearch.text import counted

FEWEST = 3
"""Trials that a group needs before anything is said of it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing that may be said.

    Attributes:
        seen: what was observed, with its numbers.
        remedy: what to do.
        fields: of the study file, which the remedy is about.
        p: how likely luck alone gives what was seen; None for what was counted and is so.
    """

    seen: str
    remedy: str
    fields: tuple[str, ...]
    p: float | None = None


def chosen(claims: Sequence[Claim]) -> list[str]:
    """Returns the sentences of the claims that hold, all that were tested considered (Holm 1979).

    A claim gives way to those before it that are about one of its fields, or about a table that holds it
    (`data.augment` and `data.augment.rotate.p`): so no two contradict each other.
    """
    tested = [claim.p for claim in claims if claim.p is not None]
    corrected = iter(holm(tested))
    sentences: list[str] = []
    spoken_of: set[str] = set()
    for claim in claims:
        p = None if claim.p is None else next(corrected)
        if (p is not None and p > 1 - CERTAINTY) or _overlap(spoken_of, claim.fields):
            continue
        spoken_of.update(claim.fields)
        luck = (
            "" if p is None else f" ({_p_words(p)} after correction for {counted(len(tested), 'comparison')})"
        )
        sentences.append(f"{claim.seen}{luck}: {claim.remedy}.")
    return sentences


def _overlap(some: Iterable[str], others: Iterable[str]) -> bool:
    return any(
        f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")
        for one in some
        for other in others
    )


def _p_words(p: float) -> str:
    return f"p = {p:.2g}" if p >= 0.0001 else "p < 0.0001"


def judged(record: StudyRecord) -> tuple[TrialRecord, ...]:
    """Returns the trials that say something of their hyperparameters, in the order in which they ended."""
    return tuple(trial for trial in record.finished if trial.state != "FAIL")


def cost(record: StudyRecord, trial: TrialRecord) -> float:
    """Returns a trial's score so that less is better; what diverged, did not fit or took too much is the worst."""
    if trial.score is None or trial.is_unfit:
        return math.inf
    return record.cost(trial.score)


def luck(better: Sequence[float], others: Sequence[float]) -> float:
    """Returns how likely luck alone ranks one group so far before the other: Mann and Whitney's test.

    1 where a group is too small to tell.
    """
    if len(better) < FEWEST or len(others) < FEWEST:
        return 1.0
    if min(better) == max(others) == max(better) == min(others):
        return 1.0
    return float(stats.mannwhitneyu(better, others, alternative="less").pvalue)


def luck_of_share(count: int, total: int, share: float) -> float:
    """Returns how likely so many of all come about if no more than `share` do in the long run."""
    return float(stats.binomtest(count, total, share, alternative="greater").pvalue) if total else 1.0


def medians(record: StudyRecord, groups: Iterable[Sequence[float]]) -> str:
    """Returns the median scores of two groups of costs in words."""
    middle = [median(group) for group in groups]
    words = [number(record.cost(value)) if math.isfinite(value) else "none" for value in middle]
    return f"median {record.metric} {' against '.join(words)}"
