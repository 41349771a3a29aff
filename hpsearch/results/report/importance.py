"""How much each hyperparameter matters, as far as the trials of a study can tell.

A forest of extremely randomised trees (Geurts 2006) predicts the trials' ranks from their hyperparameters. Each
tree is judged by the trials that it has not seen, so what the forest explains is out of sample. The importance
of a hyperparameter is how much less is explained once its values are exchanged among those trials (Breiman
2001); intervals come from drawing the trials anew. The method was chosen by `tests.benchmarks.importances`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpsearch.results.plots.chart import Axis, Chart, Mark, Series
from hpsearch.results.stored.study import StudyRecord, TrialRecord

TREES = 100
LEAF = 3
"""Trials in a leaf at least."""
DRAWS = 500
"""Bootstrap draws for the intervals."""
FEWEST = 10
"""Trials without which there is nothing to learn from."""
MOST = 2000
"""Newest trials that are used: beyond that the order no longer changes, and the time grows."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the differences between the trials' ranks, with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Importances:
    """What a model explains.

    Attributes:
        trials: COMPLETE and PRUNED ones with a score.
        explained: by all hyperparameters together, out of sample; below 0, worse than guessing the mean.
        shares: lost without each hyperparameter, the largest first; empty where the model explains nothing
            beyond chance.
    """

    trials: int
    explained: Share | None = None
    shares: tuple[tuple[str, Share], ...] = ()


def importances(record: StudyRecord) -> Importances:
    """Returns the importances of a study's hyperparameters, none where they explain nothing beyond chance."""
    found = measured(record)
    return replace(found, shares=()) if found.explained is None or found.explained.low <= 0 else found


def importance_chart(record: StudyRecord) -> Chart | None:
    """Draws the importances with their intervals; None where no hyperparameter is ranked."""
    shares = importances(record).shares[::-1]  # the largest stands at the top
    if not shares:
        return None
    places = [float(place) for place in range(len(shares))]
    values = tuple(share.value for _, share in shares)
    intervals = [
        Series("", (share.low, share.high), (place, place), width=4.0, in_legend=False)
        for place, (_, share) in zip(places, shares, strict=True)
    ]
    hover = tuple(f"{name}: {share.value:.1%}" for name, share in shares)
    points = Series("", values, tuple(places), Mark.POINTS, sizes=(12.0,), hover=hover, in_legend=False)
    return Chart(
        id="importances",
        title="Importance of the hyperparameters",
        caption="The share of the differences between trials that is lost when a hyperparameter's values are "
        "shuffled, with its 95 % interval. Where that includes 0, it may be chance.",
        x=Axis("importance"),
        y=Axis("", labels=tuple(name for name, _ in shares)),
        series=(*intervals, points),
    )


def measured(record: StudyRecord) -> Importances:
    """Returns what each hyperparameter explains, also where that may be chance."""
    trials = scored(record)
    names = [
        name
        for name in record.hparam_names()
        if len({str(t.hparams[name]) for t in trials if name in t.hparams}) > 1
    ]
    if len(trials) < FEWEST or not names or len({trial.score for trial in trials}) < 2:
        return Importances(len(trials))
    goal = _normal_ranks([trial.score or 0.0 for trial in trials])
    whole, without = _squared_errors([[t.hparams.get(name) for t in trials] for name in names], goal)
    spread = (goal - goal.mean()) ** 2
    weights = np.random.default_rng(0).multinomial(len(goal), np.full(len(goal), 1 / len(goal)), DRAWS)
    explained = _share(spread - whole, spread, weights)
    shares = [
        (name, _share(errors - whole, spread, weights)) for name, errors in zip(names, without, strict=True)
    ]
    return Importances(len(trials), explained, tuple(sorted(shares, key=lambda pair: -pair[1].value)))


def scored(record: StudyRecord) -> list[TrialRecord]:
    """Returns the trials whose score tells of their hyperparameters: not what failed, did not fit or took too much."""
    told = [
        trial
        for trial in record.finished
        if trial.score is not None and trial.state != "FAIL" and not trial.is_unfit
    ]
    return told[-MOST:]


def _share(part: Floats, whole: Floats, weights: NDArray[np.int64]) -> Share:
    drawn = (weights @ part) / (weights @ whole)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Share(float(part.sum() / whole.sum()), float(low), float(high))


def _normal_ranks(values: Sequence[float]) -> Floats:
    """Returns ranks as normal scores: one trial that nearly diverged must not outweigh all others."""
    from scipy import stats

    ranks = stats.norm.ppf((stats.rankdata(values) - 0.5) / len(values))
    return np.asarray(ranks, dtype=np.float64)


def _squared_errors(columns: Sequence[Sequence[Any]], goal: Floats) -> tuple[Floats, Floats]:
    """Returns each trial's squared error by the trees that have not seen it: as it is, and without each column.

    Args:
        columns: the values of each hyperparameter, None where a trial has none; values are exchanged among the
            trials that have one.

    Returns:
        One error per trial, and one row of them per hyperparameter.
    """
    from sklearn.ensemble import ExtraTreesRegressor

    blocks = [_encoded(column) for column in columns]
    places = np.cumsum([0, *(block.shape[1] for block in blocks)])
    table = np.concatenate(blocks, axis=1)
    forest = ExtraTreesRegressor(TREES, bootstrap=True, min_samples_leaf=LEAF, random_state=0).fit(
        table, goal
    )
    rng = np.random.default_rng(0)
    total, judges = np.zeros((len(columns) + 1, len(goal))), np.zeros(len(goal))
    for tree, seen in zip(forest.estimators_, forest.estimators_samples_, strict=True):
        unseen = np.setdiff1d(np.arange(len(goal)), seen)
        if not len(unseen):
            continue
        exchanged = [table[unseen]]
        for start, end in pairwise(places):
            exchanged.append(table[unseen])
            having = np.flatnonzero(~np.isnan(exchanged[-1][:, start]))
            exchanged[-1][having, start:end] = exchanged[-1][rng.permutation(having), start:end]
        total[:, unseen] += tree.predict(np.concatenate(exchanged)).reshape(len(exchanged), -1)
        judges[unseen] += 1
    predicted = np.where(judges > 0, total / np.maximum(judges, 1), goal.mean())
    errors = (goal - predicted) ** 2
    return errors[0], errors[1:]


def _encoded(values: Sequence[Any]) -> NDArray[np.float32]:
    """Returns numbers as their ranks, so that scales do not matter, and choices as one column each; NaN without."""
    from scipy import stats

    known = [value for value in values if value is not None]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        encoded = np.asarray(stats.rankdata(known) / len(known), dtype=np.float32).reshape(-1, 1)
    else:
        labels = [str(value) for value in known]
        encoded = np.array(
            [[label == other for other in sorted(set(labels))] for label in labels], np.float32
        )
    table = np.full((len(values), encoded.shape[1]), np.nan, dtype=np.float32)
    table[[value is not None for value in values]] = encoded
    return table
