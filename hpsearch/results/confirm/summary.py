"""The result of a confirmation as plain values: what is stored, printed and put into the report."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpsearch.results.confirm.images import possible
from hpsearch.results.confirm.plan import Candidate, broke_off, is_value
from hpsearch.results.confirm.statistics import (
    ANY,
    Comparison,
    Range,
    Summary,
    Values,
    compare,
    optimism,
    stacked,
    summarize,
)
from hpsearch.results.stored.study import TrialRecord
from hpsearch.study.direction import sign
from hpsearch.text import counted

Metrics = Mapping[int, Mapping[str, float]]
"""By repeat."""


@dataclass(frozen=True, slots=True)
class Result:
    """One configuration with what its repeats gave.

    Attributes:
        validation, test: metrics by repeat; `test` is empty while the test part is closed.
        failed: repeats whose training did not come to its end: they count nowhere, even with a value.
        images: what each image gave, [N], by metric and repeat, as far as it is known.
    """

    candidate: Candidate
    validation: Metrics
    test: Metrics
    failed: int = 0
    images: Mapping[str, Mapping[int, Values]] = field(default_factory=dict)

    def values(self, metric: str) -> dict[int, float]:
        """Returns one metric by repeat, over the repeats that have it."""
        known = self.test if metric.startswith("test_") else self.validation
        return {repeat: found[metric] for repeat, found in known.items() if metric in found}


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What a confirmation has found.

    Attributes:
        results: the best confirmed mean first.
        notes: sentences about what is missing, and about earlier openings of the test part.
        details: confusion matrix and most confidently wrong pictures of the first configuration.
        own_loop: whether the metrics are those of a training function, of which little is known.
        by_folds: whether repeats are folds, of which each was trained once, and not trainings with other seeds.
    """

    study: str
    metric: str
    better: str
    results: tuple[Result, ...]
    search_first: int
    seeds: int
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    own_loop: bool = False
    by_folds: bool = False

    @property
    def folds(self) -> int:
        """How many folds there are; 0 where repeats are of other seeds."""
        return self.seeds if self.by_folds else 0

    @property
    def repeat(self) -> str:
        """What a repeat is called."""
        return "fold" if self.by_folds else "repeat"

    @property
    def first(self) -> int | None:
        """The trial of the configuration with the best confirmed mean."""
        return self.results[0].candidate.trial if self.results else None

    @property
    def test_metric(self) -> str:
        """The study's metric on the test part."""
        return (
            self.metric.replace("val_", "test_", 1)
            if self.metric.startswith("val_")
            else f"test_{self.metric}"
        )

    def metrics(self) -> list[str]:
        """Returns all metrics that some repeat has: the study's own first, then validation, then test."""
        names = {
            name
            for result in self.results
            for known in (result.validation, result.test)
            for found in known.values()
            for name in found
        }
        leading = {self.metric: 0, self.test_metric: 1}
        return sorted(names, key=lambda name: (name.startswith("test_"), leading.get(name, 2), name))

    def possible(self, metric: str) -> Range:
        """Returns which values a metric can have; any, where it goes by such a name and has others."""
        low, high = possible(metric, self.own_loop)
        values = [value for result in self.results for value in result.values(metric).values()]
        return (low, high) if all(low <= value <= high for value in values) else ANY

    def summary(self, result: Result, metric: str) -> Summary | None:
        """Returns the mean of one configuration over its repeats, with its interval; None without a repeat."""
        values = result.values(metric)
        if not values:
            return None
        images, given = stacked(self.images(result, metric), list(values)), list(values.values())
        return summarize(given, self.possible(metric), images, self.folds, self._pooled(result, metric))

    def images(self, result: Result, metric: str) -> Mapping[int, Values]:
        """Returns what each image gave in each repeat, where these are the same images in all."""
        apart = self.by_folds and not metric.startswith("test_")
        return {} if apart else result.images.get(metric, {})

    def _pooled(self, result: Result, metric: str) -> int:
        """Returns how many images the folds were validated on; 0 where the repeats share them."""
        apart = self.by_folds and not metric.startswith("test_")
        return sum(map(len, result.images.get(metric, {}).values())) if apart else 0

    def optimisms(self) -> dict[int, Summary]:
        """Returns by how much the search's values were optimistic, by trial (see `statistics.optimism`)."""
        return {
            result.candidate.trial: optimism(
                result.candidate.promised, list(result.values(self.metric).values()), self.better, self.folds
            )
            for result in self.results
            if result.values(self.metric)
        }

    def comparisons(self, metric: str) -> list[Comparison]:
        """Compares all pairs of configurations by one metric."""
        return compare(
            {result.candidate.trial: result.values(metric) for result in self.results},
            self.possible(metric),
            {result.candidate.trial: self.images(result, metric) for result in self.results},
            self.folds,
        )

    def stored(self, findings: Sequence[str]) -> dict[str, Any]:
        """Returns the whole as JSON values: facts, and lists of flat records, which make tables."""
        compared = [metric for metric in (self.metric, self.test_metric) if metric in self.metrics()]
        return {
            "study": self.study,
            "metric": self.metric,
            **({"folds": self.folds} if self.by_folds else {"seeds": self.seeds}),
            "first": self.first,
            "search_first": self.search_first,
            "first_stays_first": self.first == self.search_first,
            "findings": [{"finding": sentence} for sentence in (*findings, *self.notes)],
            "statistics": [
                _row({"trial": result.candidate.trial, "metric": metric}, found)
                for metric in self.metrics()
                for result in self.results
                if (found := self.summary(result, metric))
            ],
            "optimism": [
                _row(
                    {"trial": result.candidate.trial, "search": result.candidate.promised},
                    self.optimisms()[result.candidate.trial],
                )
                for result in self.results
                if result.candidate.trial in self.optimisms()
            ],
            "comparisons": [
                _row({"metric": metric, "trial": one.one, "other": one.other}, one.difference)
                | {"p": one.p, "p_holm": one.p_holm, "real": one.is_real}
                for metric in compared
                for one in self.comparisons(metric)
            ],
            **_details(self.details),
        }


def _row(head: Mapping[str, Any], summary: Summary) -> dict[str, Any]:
    interval = [summary.low, summary.high] if summary.low is not None else None
    return {
        **head,
        "n": summary.n,
        "mean": summary.mean,
        "std": summary.std,
        "interval_95": interval,
        "covers": summary.covers or None,
    }


def _details(details: Mapping[str, Any]) -> dict[str, Any]:
    if not details:
        return {}
    classes, confusion = details["classes"], details["confusion"]
    return {
        "class_errors": label_errors(details["labels"], classes)
        if details.get("labels")
        else class_errors(confusion, classes),
        "confusion": {"classes": classes, "counts": confusion} if confusion else None,
        "most_wrong": details["wrong"],
        "reliability": details.get("reliability"),  # of an older version there is none
    }


def class_errors(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Returns by class: how many answers of all models were asked for, and what was wrong with them.

    The precision is the share of right ones among the answers that name the class, the recall the share of its
    pictures that are named so.
    """
    rows = []
    for place, counts in enumerate(confusion):
        asked, right = sum(counts), counts[place]
        named = sum(row[place] for row in confusion)
        rows.append(
            {
                "class": classes[place],
                "answers": asked,
                "wrong": asked - right,
                "error": (asked - right) / asked if asked else None,
                "precision": right / named if named else None,
                "recall": right / asked if asked else None,
            }
        )
    return rows


def label_errors(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the same of several labels: `answers` are those about images that have the label.

    Args:
        counts: of each, how often it was said rightly, said wrongly and missed.
    """
    return [
        {
            "label": name,
            "answers": right + missed,
            "precision": right / (right + extra) if right + extra else None,
            "recall": right / (right + missed) if right + missed else None,
            "f1": 2 * right / (2 * right + extra + missed) if right + extra + missed else None,
        }
        for name, (right, extra, missed) in zip(labels, counts, strict=True)
    ]


def result_of(
    candidate: Candidate, trials: Mapping[int, TrialRecord], tested: Mapping[str, Mapping[str, float]]
) -> Result:
    """Gathers what the repeats of a configuration gave.

    Args:
        tested: test metrics by the number of the linked study's trial, as text.
    """
    full = {repeat: trial for repeat, trial in trials.items() if is_value(trial)}
    validation = {repeat: _finite(trial.attrs.get("metrics_at_best") or {}) for repeat, trial in full.items()}
    test = {
        repeat: _finite(tested[str(trial.number)])
        for repeat, trial in full.items()
        if str(trial.number) in tested
    }
    return Result(candidate, validation, test, len(trials) - len(full))


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in metrics.items()
        if name != "train_loss" and isinstance(value, int | float) and math.isfinite(value)
    }


def ordered(results: Sequence[Result], metric: str, better: str) -> tuple[Result, ...]:
    """Returns the configurations by their confirmed mean, best first; those without one last."""

    def cost(result: Result) -> float:
        values = list(result.values(metric).values())
        return sign(better) * summarize(values).mean if values else math.inf

    return tuple(sorted(results, key=cost))


def shortfalls(
    result: Result, trials: Mapping[int, TrialRecord], metric: str, seeds: int, repeat: str = "repeat"
) -> list[str]:
    """Returns sentences about the repeats of a configuration that are missing from its means, and why.

    Args:
        repeat: what one is called.
    """
    trial, have = result.candidate.trial, result.values(metric)
    said = []
    if result.failed:
        lost = [one for one in trials.values() if not is_value(one)]
        again = "; confirm again to retry" if any(map(broke_off, lost)) else ""
        said.append(f"trial {trial}: {result.failed} of {counted(seeds, repeat)} failed: {_why(lost)}{again}")
    if len(have) < seeds:
        said.append(f"trial {trial}: {metric} is over {counted(len(have), repeat)} instead of {seeds}")
    return said


def trained_again(
    trial: int, tries: Mapping[int, Sequence[TrialRecord]], repeat: str = "repeat"
) -> list[str]:
    """Returns a sentence for each repeat of a configuration that was tried before.

    Args:
        tries: the linked study's trials by repeat, of which the last one counts.
    """
    return [
        f"trial {trial}: {repeat} {number} was trained again after it failed: {_why(found[:-1])}"
        for number, found in sorted(tries.items())
        if len(found) > 1
    ]


def _why(trials: Sequence[TrialRecord]) -> str:
    reasons = Counter(str(one.attrs.get("stop_detail") or one.stop_reason) for one in trials)
    return "; ".join(f"{reason} ({count})" if count > 1 else reason for reason, count in reasons.items())
