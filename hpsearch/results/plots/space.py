"""Where in the search space the good trials lie, and what they cost."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

from hpsearch.results.plots.chart import (
    COLORS,
    GREY,
    MOST_POINTS,
    Axis,
    Chart,
    ColorScale,
    Mark,
    Series,
    is_number,
    thin,
    wants_log,
)
from hpsearch.results.plots.curves import batch_order
from hpsearch.results.plots.history import about
from hpsearch.results.stored.study import StudyRecord, TrialRecord
from hpsearch.text import counted

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star")
CROSS = "x"  # marks PRUNED trials


def hparam_map(record: StudyRecord) -> Chart | None:
    """Draws learning rate against batch size, the score as colour and the epochs as size.

    Where one of the two is not searched, the study's other hyperparameters take its place; None if fewer than
    two are searched.
    """
    names = record.hparam_names()
    preferred = [name for name in ("learning_rate", "batch_size") if name in names]
    others = [name for name in names if name not in (*preferred, "epochs")]
    others.sort(key=lambda name: -sum(name in trial.hparams for trial in record.ranked))
    chosen = (preferred + others + (["epochs"] if "epochs" in names else []))[:2]
    trials = [t for t in record.ranked if all(name in t.hparams for name in chosen)]
    if len(chosen) < 2 or not trials:
        return None
    shown = sorted(
        _with_marked(record, _best_and_spread(trials), trials),
        key=lambda trial: record.ranked.index(trial),
        reverse=True,
    )
    axes = [_axis(record, name, shown) for name in chosen]
    longest = max(max(trial.epochs_run for trial in shown), 1)
    x, y = (
        tuple(_place(trial.hparams[n], axis) for trial in shown) for n, axis in zip(chosen, axes, strict=True)
    )
    every = Series(
        "trials",
        x,
        y,
        Mark.POINTS,
        sizes=tuple(round(6 + 14 * trial.epochs_run / longest, 1) for trial in shown),
        hover=tuple(f"{about(trial)}<br>{counted(trial.epochs_run, 'epoch')}" for trial in shown),
        scale=_score_scale(record, shown),
    )
    states = [s for s in ("COMPLETE", "PRUNED") if any(trial.state == s for trial in shown)]
    points = [_chosen(every, [trial.state == s for trial in shown], s, s == states[0]) for s in states]
    stars = [
        Series(
            f"{record.mark(trial)}: trial {trial.number}",
            (across,),
            (up,),
            Mark.POINTS,
            GREY if trial.number != record.answer.trial else COLORS[1],
            symbol="star",
            sizes=(16.0,),
            hover=(about(trial),),
        )
        for trial, across, up in zip(shown, x, y, strict=True)
        if record.mark(trial)
    ]
    words = " and ".join(name.replace("_", " ") for name in chosen)
    return Chart(
        id="map",
        title=f"{words.capitalize()}: where the good trials lie",
        caption=f"One point per trial, larger with more epochs trained, brighter with a better "
        f"{record.metric}; PRUNED trials are crosses. {_star_words(record)}",
        x=axes[0],
        y=axes[1],
        series=(*points, *stars),
    )


def _star_words(record: StudyRecord) -> str:
    answer = record.answer
    if answer.confirmed is None or not answer.is_other:
        return "The star is the best trial."
    return (
        f"The coloured star is trial {answer.trial}, which is confirmed; the grey one is trial {answer.searched}, the "
        "best by the search's own values."
    )


def _chosen(series: Series, mask: Sequence[bool], state: str, is_first: bool) -> Series:
    """Returns the points of one state under its name and with its symbol; the first has the scale beside it."""
    scale = series.scale
    values = () if scale is None else tuple(compress(scale.values, mask))
    return replace(
        series,
        name=state,
        x=tuple(compress(series.x, mask)),
        y=tuple(compress(series.y, mask)),
        sizes=tuple(compress(series.sizes, mask)),
        hover=tuple(compress(series.hover, mask)),
        scale=None if scale is None else replace(scale, values=values, in_margin=is_first),
        symbol=CROSS if state == "PRUNED" else series.symbol,
    )


def _best_and_spread(ranked: Sequence[TrialRecord]) -> list[TrialRecord]:
    best = list(ranked[: MOST_POINTS // 2])
    return best + thin(ranked[MOST_POINTS // 2 :], MOST_POINTS - len(best))


def _with_marked(
    record: StudyRecord, shown: Sequence[TrialRecord], trials: Sequence[TrialRecord]
) -> list[TrialRecord]:
    """Returns the trials to draw with the study's answer among them."""
    there = {trial.number for trial in shown}
    return [*shown, *(trial for trial in trials if record.mark(trial) and trial.number not in there)]


def _score_scale(record: StudyRecord, trials: Sequence[TrialRecord]) -> ColorScale:
    """Colours by score, from the best to the upper quartile: diverged trials must not use up the scale."""
    scores = [trial.score or 0.0 for trial in trials]
    ordered = sorted(scores, key=record.cost)
    limit = ordered[min(len(ordered) - 1, 3 * len(ordered) // 4)]
    return ColorScale(record.metric, tuple(scores), ordered[0], limit)


def _axis(record: StudyRecord, name: str, trials: Sequence[TrialRecord]) -> Axis:
    values = [trial.hparams[name] for trial in trials]
    title = name.replace("_", " ")
    entry = record.spec.search.get(name) if record.spec is not None else None
    categorical = any(not is_number(value) for value in values)
    if categorical or (name == "batch_size" and len(set(values)) <= 12) or hasattr(entry, "choices"):
        ordered = sorted(set(values), key=lambda value: (batch_order(value), str(value)))
        return Axis(title, labels=tuple(map(str, ordered)))
    return Axis(title, log=record.is_log(name) or (entry is None and wants_log(values)))


def _place(value: Any, axis: Axis) -> float:
    return float(axis.labels.index(str(value))) if axis.labels else float(value)


def loss_by_seconds(record: StudyRecord) -> Chart | None:
    """Draws each trial's score against its training time, subsets as colours and image sizes as symbols."""
    trials = [trial for trial in record.ranked if trial.seconds is not None]
    if not trials:
        return None
    shown = _best_and_spread(trials)
    whole, cut = ([t for t in shown if (t.state == "PRUNED") is pruned] for pruned in (False, True))
    subsets = sorted({_subset(record, trial) for trial in shown})
    sizes = sorted({_image_size(record, trial) for trial in shown})
    series = [
        _cost_points(record, whole, subset, size, COLORS[i % len(COLORS)], SYMBOLS[j % len(SYMBOLS)])
        for i, subset in enumerate(subsets)
        for j, size in enumerate(sizes)
    ]
    series += [
        replace(_cost_points(record, cut, subset, None, COLORS[i % len(COLORS)], CROSS), sizes=(9.0,))
        for i, subset in enumerate(subsets)
    ]
    front = _front(record, trials)
    everything = [*(one for one in series if one.x), front]
    return Chart(
        id="loss-by-seconds",
        title="Score against training time",
        caption="What a better score costs: the line joins the trials that no other beats in both. Colour is "
        "the share of the training data, the symbol is the image size, a cross is a PRUNED trial.",
        x=Axis("training time of the trial in seconds", log=wants_log([t.seconds for t in shown])),
        y=Axis(record.metric, log=wants_log([t.score for t in shown])),
        series=tuple(everything),
    )


def _subset(record: StudyRecord, trial: TrialRecord) -> float:
    fixed = record.spec.data.subset if record.spec is not None else 1.0
    return float(trial.hparams.get("data.subset", fixed))


def _image_size(record: StudyRecord, trial: TrialRecord) -> int:
    """Returns the side of the images in pixels; 0 for the data's own size."""
    fixed = record.spec.data.image_size if record.spec is not None else None
    size = trial.hparams.get("data.image_size", fixed)
    return 0 if size in (None, "none") else int(size)


def _cost_points(
    record: StudyRecord,
    trials: Sequence[TrialRecord],
    subset: float,
    size: int | None,
    color: str,
    symbol: str,
) -> Series:
    """Draws the trials of one subset and one image size; None for PRUNED trials of any size."""
    own = [t for t in trials if _subset(record, t) == subset and size in (None, _image_size(record, t))]
    pixels = "PRUNED" if size is None else f"{size} x {size} pixels" if size else "own image size"
    return Series(
        f"{subset:.0%} of the data, {pixels}",
        tuple(trial.seconds for trial in own),
        tuple(trial.score for trial in own),
        Mark.POINTS,
        color,
        symbol=symbol,
        sizes=(8.0,),
        hover=tuple(about(trial) for trial in own),
    )


def _front(record: StudyRecord, trials: Sequence[TrialRecord]) -> Series:
    """Draws the best score reached by any trial of at most so many seconds."""
    points: list[tuple[float, float]] = []
    for trial in sorted(trials, key=lambda trial: trial.seconds or 0.0):
        score = trial.score or 0.0
        if not points or record.is_better(score, points[-1][1]):
            points.append((trial.seconds or 0.0, score))
    x, y = zip(*points, strict=True)
    return Series("best for its time", x, y, Mark.STEP, GREY, width=1.5)
