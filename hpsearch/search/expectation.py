"""What a search's best trial can be expected to come to if its configuration is trained anew.

The best value of a search is the luckiest of many. The model of the curves (`hpsearch.search.policy.model`), here of
the best values so far, takes a trial apart: what all trials share, what those of like hyperparameters share, and what
is the trial's own. A new trial has the first two and an own part of its own. How large own parts are, the model learns
from the trials, of which few are alike; a lower bound follows from the number of validation images.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import accumulate

from optuna.trial import FrozenTrial

from hpsearch.search.policy.build import thaw
from hpsearch.search.view import StudyView
from hpsearch.study.checks import DataFacts
from hpsearch.study.direction import best as best_of
from hpsearch.study.direction import sign
from hpsearch.study.specification import StudySpec

LEAST = 8
"""Trials with a value before anything is expected."""
INTERVAL = 0.8


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the mean over so many new trainings of a trial's configuration is expected to be.

    Attributes:
        promised: the trial's value in the search.
        low, high: of the 80 % interval.
    """

    trial: int
    promised: float
    value: float
    low: float
    high: float
    repeats: int


def expect(
    spec: StudySpec, trials: Iterable[FrozenTrial], best: FrozenTrial, facts: DataFacts | None
) -> Expectation | None:
    """Returns what is to be expected of a study's best trial; None where too few trials have a value.

    Args:
        trials: the study's own, finished, paused or running.
        best: one of them.
        facts: of the data; None where they are not known, as for an own training loop.
    """
    factor, metric, repeats = sign(spec.study.better), spec.study.metric, spec.confirm.seeds
    if (
        spec.data.split.trains_all_folds
    ):  # all images are validated on, and a confirmation trains each fold once more
        repeats, facts = 1, facts and replace(facts, val=facts.train + facts.val)
    policy, known = thaw(StudyView(spec)), 0
    for trial in trials:
        policy.add(_so_far(trial, spec))
        known += trial.user_attrs.get("score") is not None

    def noise(cost: float) -> float:
        return image_variance(metric, factor * cost, facts) if facts is not None else 0.0

    anew = policy.anew(best.number, noise) if known >= LEAST else None
    if anew is None:
        return None
    low, high = sorted(factor * cost for cost in anew.interval(INTERVAL, repeats))
    return Expectation(best.number, best.user_attrs["score"], factor * anew.cost, low, high, repeats)


def _so_far(trial: FrozenTrial, spec: StudySpec) -> FrozenTrial:
    """Returns a trial whose values are the best ones up to each epoch, which is what trials are chosen by."""
    found, values = copy.copy(trial), sorted(trial.intermediate_values.items())
    bests = accumulate((value for _, value in values), lambda *pair: best_of(spec.study.better, pair))
    found.intermediate_values = dict(zip((epoch for epoch, _ in values), bests, strict=True))
    return found


def image_variance(metric: str, value: float, facts: DataFacts) -> float:
    """Returns about how far a metric varies between sets of as many images as the validation part has.

    A share of the images is binomial, and so at most is one of answers about several labels, which vary together. An
    image that a classifier gets wrong costs about the loss of guessing, and the others next to nothing; errors of a
    regression are about normal.
    """
    images = max(1, facts.val)
    if facts.task == "regression":
        return 2 * value * value / images
    if metric == "val_loss":
        return max(0.0, value) * (facts.guessing_loss or 0.0) / images
    return max(0.0, value * (1 - value)) / images
