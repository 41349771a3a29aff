"""How trials ended, and what their curves say: stop reasons, under- and over-fitting."""

from collections.abc import Sequence

from hpsearch.results.plots.chart import (
    BLUE,
    GREEN,
    GREY,
    MOST_POINTS,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Axis,
    Chart,
    Mark,
    Series,
    thin,
    wants_log,
)
from hpsearch.results.stored.study import StudyRecord, TrialRecord
from hpsearch.results.terminal.progress import hparams_text, number
from hpsearch.text import counted

REASON_COLORS = {
    "finished": BLUE,
    "early_stopping": SKY,
    "pruner": ORANGE,
    "diverged": RED,
    "out_of_memory": PURPLE,
    "infeasible": PURPLE,
    "error": GREY,
    "unknown": GREY,
}
FIT_COLORS = {"good": GREEN, "underfit": ORANGE, "overfit": RED, "unknown": GREY}
FIT_SYMBOLS = {"good": "circle", "underfit": "triangle-up", "overfit": "diamond", "unknown": "x"}
STATE_COLORS = {"COMPLETE": BLUE, "PRUNED": ORANGE, "FAIL": RED}
BINS = 8  # of the epochs that trials ran


def stop_reasons(record: StudyRecord) -> Chart:
    """Counts the finished trials by why they ended and what became of them."""
    reasons = [reason for reason in REASON_COLORS if any(t.stop_reason == reason for t in record.finished)]
    reasons.reverse()  # the first one stands at the top
    places = tuple(float(place) for place in range(len(reasons)))
    series = []
    for state, color in STATE_COLORS.items():
        counts = [
            sum(t.state == state and t.stop_reason == reason for t in record.finished) for reason in reasons
        ]
        if any(counts):
            hover = tuple(f"{count} {state}" for count in counts)
            series.append(Series(state, tuple(map(float, counts)), places, Mark.BAR, color, hover=hover))
    return Chart(
        id="stop-reasons",
        title="Why trials ended",
        caption="Trials by stop reason and state. PRUNED trials are kept with their best score, but no "
        "better trial is ever among them.",
        x=Axis("finished trials"),
        y=Axis("", labels=tuple(reason.replace("_", " ") for reason in reasons)),
        series=tuple(series),
    )


def fit_by_epochs(record: StudyRecord) -> Chart | None:
    """Counts under-fitted, good and over-fitted trials by the epochs that they ran; None without trials."""
    trials = [trial for trial in record.finished if trial.epochs_run > 0]
    if not trials:
        return None
    longest = max(trial.epochs_run for trial in trials)
    width = -(-longest // BINS)
    edges = [(low, low + width - 1) for low in range(1, longest + 1, width)]
    places = tuple(float(place) for place in range(len(edges)))
    series = []
    for fit, color in FIT_COLORS.items():
        counts = [
            float(sum(t.fit == fit and low <= t.epochs_run <= high for t in trials)) for low, high in edges
        ]
        if any(counts):
            hover = tuple(f"{count:g} {fit}" for count in counts)
            series.append(Series(fit, tuple(counts), places, Mark.BAR, color, hover=hover))
    return Chart(
        id="fit-by-epochs",
        title="Fit diagnosis by epochs trained",
        caption="Few epochs leave a network underfit; too many let it learn its training pictures by heart, "
        "and the validation loss rises again.",
        x=Axis("finished trials"),
        y=Axis("epochs trained", labels=tuple(f"{a}-{b}" if a < b else str(a) for a, b in edges)),
        series=tuple(series),
    )


def fit_diagnosis(record: StudyRecord) -> Chart | None:
    """Draws the last validation loss against the last training loss; None without training losses."""
    trials = [t for t in record.finished if _last(t.train) is not None and _last(t.val) is not None]
    if not trials:
        return None
    shown = thin(trials, MOST_POINTS)
    values = [value for trial in shown for value in (_last(trial.train), _last(trial.val))]
    known = [value for value in values if value is not None]
    log = wants_log(known)
    points = [_fit_points(fit, [t for t in shown if t.fit == fit]) for fit in FIT_COLORS]
    ends = (min(known), max(known))
    diagonal = Series("no gap", ends, ends, color=GREY, dashed=True, width=1.0)
    return Chart(
        id="fit-diagnosis",
        title="Fit diagnosis: validation against training loss",
        caption="Above the dashed line the network does worse on pictures it has not seen: the further "
        "above, the more it overfits. Underfit trials lie at the upper right, the best at the lower left.",
        x=Axis("training loss, last epoch", log=log),
        y=Axis("validation loss, last epoch", log=log),
        series=(*(one for one in points if one.x), diagonal),
    )


def _last(curve: Sequence[float | None]) -> float | None:
    return curve[-1] if curve else None


def _fit_points(fit: str, trials: Sequence[TrialRecord]) -> Series:
    return Series(
        fit,
        tuple(_last(trial.train) for trial in trials),
        tuple(_last(trial.val) for trial in trials),
        Mark.POINTS,
        FIT_COLORS[fit],
        symbol=FIT_SYMBOLS[fit],
        sizes=(8.0,),
        hover=tuple(
            f"trial {t.number}: {number(t.score)}, {counted(t.epochs_run, 'epoch')}<br>{hparams_text(t.hparams)}"
            for t in trials
        ),
    )
