"""How the search went: best score so far, against trials, epochs and seconds; who trained what when."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate

from hpsearch.contracts.trial import PAUSES
from hpsearch.results.plots.chart import (
    BLUE,
    GREEN,
    GREY,
    MOST_POINTS,
    ORANGE,
    PURPLE,
    Axis,
    Chart,
    Mark,
    Series,
    thin,
    wants_log,
)
from hpsearch.results.plots.outcomes import REASON_COLORS, STATE_COLORS
from hpsearch.results.stored.answer import CONFIRMED
from hpsearch.results.stored.study import StudyRecord, TrialRecord
from hpsearch.results.terminal.progress import hparams_text, number

ALL_COLORS = {**STATE_COLORS, "PAUSED": PURPLE, "RUNNING": GREEN}
MOST_SPANS = 400

UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))


def trials_used(record: StudyRecord) -> list[float]:
    """Returns, for each finished trial in the order of their ends, how many had ended with it."""
    return [float(count) for count in range(1, len(record.finished) + 1)]


def epochs_used(record: StudyRecord) -> list[float]:
    """Returns the epochs of all trials that had ended, at the end of each."""
    return [float(total) for total in accumulate(trial.epochs_run for trial in record.finished)]


def seconds_used(record: StudyRecord) -> list[float]:
    """Returns the wall time at the end of each finished trial, less the hours in which none was training."""
    spans = sorted(
        (t.started, t.ended) for t in record.finished if t.started is not None and t.ended is not None
    )
    busy: list[tuple[float, float]] = []
    for start, end in spans:
        if busy and start <= busy[-1][1]:
            busy[-1] = (busy[-1][0], max(busy[-1][1], end))
        else:
            busy.append((start, end))
    return [sum(min(end, trial.ended or 0.0) - start for start, end in busy if start <= (trial.ended or 0.0))
            for trial in record.finished]  # fmt: skip


COSTS: Mapping[str, tuple[str, Callable[[StudyRecord], list[float]]]] = {
    "trials": ("finished trials", trials_used),
    "epochs": ("epochs of finished trials", epochs_used),
    "seconds": ("wall time in seconds", seconds_used),
}


def best_so_far(record: StudyRecord, cost: str) -> Chart:
    """Draws the best score after each finished trial, and the trials' own scores.

    Args:
        cost: what it is drawn against, one of `COSTS`.
    """
    title, measure = COSTS[cost]
    spent = measure(record)
    pairs = list(zip(record.finished, spent, strict=True))
    points = [_scores(record, pairs, state) for state in STATE_COLORS]
    line = best_line(record, spent)
    confirmed = [_star(trial, cost) for trial, cost in pairs if record.mark(trial) == CONFIRMED]
    series = [*(one for one in points if one.x), line, *confirmed]
    return Chart(
        id=f"best-by-{cost}",
        title=f"Best {record.metric} so far against {title.split(' in ')[0]}",
        caption="The line is the best score so far, by the search's own values; a dot is the score of one trial (its "
        "best epoch), a cross that of a PRUNED one."
        + (" The star is the confirmed trial." if confirmed else ""),
        x=Axis(title),
        y=Axis(record.metric, log=wants_log([value for one in series for value in one.y])),
        series=tuple(series),
    )


def _star(trial: TrialRecord, cost: float) -> Series:
    return Series(
        f"confirmed: trial {trial.number}",
        (cost,),
        (trial.score,),
        Mark.POINTS,
        ORANGE,
        symbol="star",
        sizes=(14.0,),
        hover=(about(trial),),
    )


def _scores(record: StudyRecord, pairs: Sequence[tuple[TrialRecord, float]], state: str) -> Series:
    own = [(trial, spent) for trial, spent in pairs if trial.state == state and trial.score is not None]
    shown = thin(own, MOST_POINTS)
    return Series(
        name=state if len(shown) == len(own) else f"{state} ({len(shown)} of {len(own)} shown)",
        x=tuple(spent for _, spent in shown),
        y=tuple(trial.score for trial, _ in shown),
        mark=Mark.POINTS,
        color=STATE_COLORS[state],
        sizes=(6.0 if state == "COMPLETE" else 8.0,),
        symbol="circle" if state == "COMPLETE" else "x",
        hover=tuple(about(trial) for trial, _ in shown),
    )


def best_line(
    record: StudyRecord, spent: Sequence[float], name: str = "best so far", color: str = BLUE
) -> Series:
    """Draws where the best score improved, up to the last finished trial."""
    points: list[tuple[float, float, str]] = []
    for trial, cost in zip(record.finished, spent, strict=True):
        if trial.score is not None and (not points or record.is_better(trial.score, points[-1][1])):
            points.append((cost, trial.score, about(trial)))
    if points and spent[-1] > points[-1][0]:
        points.append((spent[-1], *points[-1][1:]))
    x, y, hover = zip(*points, strict=True) if points else ((), (), ())
    return Series(name, tuple(x), tuple(y), Mark.STEP, color, width=2.5, hover=tuple(hover))


def about(trial: TrialRecord) -> str:
    """Returns one line about a trial, shown when the pointer is on it."""
    return f"trial {trial.number}: {number(trial.score)}<br>{hparams_text(trial.hparams)}"


def timeline(record: StudyRecord) -> Chart | None:
    """Draws what each worker trained when; None while no trial has ended."""
    known = [t for t in record.finished if t.started is not None and t.ended is not None]
    if not known:
        return None
    shown = known[-MOST_SPANS:]
    places = tuple(sorted({trial.place for trial in shown}, reverse=True))
    begin = min(trial.started or 0.0 for trial in shown)
    length = max(trial.ended or 0.0 for trial in shown) - begin
    unit, seconds = next(((n, s) for n, s in UNITS if length >= 2 * s), UNITS[-1])
    reasons = [reason for reason in REASON_COLORS if any(t.stop_reason == reason for t in shown)]
    return Chart(
        id="workers",
        title="Workers' timeline" + (f" (the last {len(shown)} trials)" if len(shown) < len(known) else ""),
        caption="A bar is one trial, from its first attempt to its end, coloured by why it stopped. "
        + _between(record),
        x=Axis(f"{unit} since the first trial"),
        y=Axis("", labels=places),
        series=tuple(
            _spans(r, (t for t in shown if t.stop_reason == r), places, begin, seconds) for r in reasons
        ),
    )


def _between(record: StudyRecord) -> str:
    """Returns what a worker did where no bar is, or more than one."""
    if any(trial.attrs.get(PAUSES) for trial in record.trials):
        return (
            "In its pauses and in the gaps, workers trained other trials, of which some may not have ended."
        )
    return "Gaps are time in which a worker had nothing to train."


def pieces(record: StudyRecord) -> Chart | None:
    """Draws which trial got the study's epochs; None where no trial was ever paused."""
    ended = sorted(
        (
            (order, begin, end, trial)
            for trial in record.trials
            for begin, (end, order) in zip([0, *(end for end, _ in trial.pieces)], trial.pieces, strict=False)
        ),
        key=lambda piece: (*piece[:3], piece[3].number),  # drivers beside each other count for themselves
    )
    if len({trial.number for *_, trial in ended}) == len(ended):
        return None
    lines: dict[str, list[tuple[float | None, float | None, str]]] = {}
    spent = 0
    for _, begin, end, trial in ended:
        row, hover = float(trial.number), f"trial {trial.number}, epochs {begin + 1} to {end}"
        bar = lines.setdefault(trial.state, [])
        bar += [
            (float(spent), row, hover),
            (float(spent := spent + end - begin), row, hover),
            (None, None, hover),
        ]
    series = []
    for state in [state for state in ALL_COLORS if state in lines]:
        x, y, texts = zip(*lines[state], strict=True)
        series.append(Series(state, x, y, color=ALL_COLORS[state], width=6.0, hover=texts))
    return Chart(
        id="pieces",
        title="Which trial got the epochs",
        caption="A bar is one piece: a trial is trained, paused while others are more promising, and resumed or "
        "ended. Trials with many bars stayed promising.",
        x=Axis("epochs trained by the study"),
        y=Axis("trial"),
        series=tuple(series),
    )


def _spans(
    reason: str, trials: Iterable[TrialRecord], places: Sequence[str], begin: float, unit: float
) -> Series:
    x: list[float | None] = []
    y: list[float | None] = []
    hover: list[str] = []
    for trial in trials:
        start, end = (trial.started or begin) - begin, (trial.ended or begin) - begin
        # A sliver is left between neighbours, so that trials can be counted.
        inset = min(0.04 * (end - start), 0.5)
        row = float(places.index(trial.place))
        x += [round((start + inset) / unit, 6), round((end - inset) / unit, 6), None]
        y += [row, row, None]
        hover += [about(trial)] * 3
    return Series(
        reason.replace("_", " "),
        tuple(x),
        tuple(y),
        color=REASON_COLORS.get(reason, GREY),
        width=14.0,
        hover=tuple(hover),
    )
