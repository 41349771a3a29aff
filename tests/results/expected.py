"""What the graphs of a small study must show, worked out from Optuna's trials alone.

Nothing of the package is used, so that a mistake in reading or drawing is not made twice. It holds for up to ten
trials of one subset and one image size, by one worker, that minimise the validation loss over a choice of batch
sizes; beyond that the graphs leave points out.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from optuna.trial import FrozenTrial

Points = list[tuple[Any, Any]]
Traces = dict[str, Points]

STOPPED = ("early_stopping", "pruner", "diverged", "out_of_memory", "error")
REASONS = ("finished", *STOPPED, "unknown")


def expected(trials: Sequence[FrozenTrial], classes_of_epochs: int = 8) -> dict[str, Traces]:
    """Returns graph -> name of a trace -> its points."""
    done = sorted((t for t in trials if t.state.is_finished()), key=lambda t: (t.datetime_complete, t.number))
    scored = [t for t in done if t.user_attrs["score"] is not None]
    ranked = sorted(scored, key=lambda t: (t.user_attrs["score"], t.number))
    epochs = list(accumulate(t.user_attrs["epochs_run"] for t in done))
    first = min(t.datetime_start for t in done)
    return {
        "learning-curves": learning_curves(ranked),
        "best-by-trials": best_so_far(done, list(range(1, len(done) + 1))),
        "best-by-epochs": best_so_far(done, epochs),
        "best-by-seconds": best_so_far(done, busy_seconds(done)),
        "map": hparam_map(ranked),
        "batch-size-curves": batch_sizes(ranked),
        "loss-by-seconds": costs(ranked),
        "fit-diagnosis": fits(done),
        "fit-by-epochs": fit_bars(done, classes_of_epochs),
        "stop-reasons": reason_bars(done),
        "workers": {
            words(reason): [
                ((moment - first).total_seconds(), 0)
                for t in done
                if t.user_attrs["stop_reason"] == reason
                for moment in (t.datetime_start, t.datetime_complete)
            ]
            for reason in {t.user_attrs["stop_reason"] for t in done}
        },
    }


def words(reason: str) -> str:
    return reason.replace("_", " ")


def curve(values: Iterable[float | None]) -> Points:
    return list(enumerate(values, start=1))


def learning_curves(ranked: Sequence[FrozenTrial]) -> Traces:
    traces: Traces = {}
    for trial in ranked[:10]:
        attrs, name = trial.user_attrs, f"trial {trial.number}"
        traces[f"{name}: {attrs['score']:.4g}"] = curve(attrs["val_loss"])
        traces[f"{name}: {attrs['score']:.4g}, training"] = curve(attrs["train_loss"])
        best, last, reason = attrs["best_epoch"], attrs["epochs_run"], attrs["stop_reason"]
        traces[f"{name}, best epoch"] = [(best, attrs["val_loss"][best - 1])]
        if reason in STOPPED and last < trial.params["epochs"] and attrs["val_loss"][last - 1] is not None:
            traces[f"{name}, {words(reason)}"] = [(last, attrs["val_loss"][last - 1])]
    return traces


def best_so_far(done: Sequence[FrozenTrial], spent: Sequence[float]) -> Traces:
    traces: Traces = defaultdict(list)
    best: Points = []
    for trial, cost in zip(done, spent, strict=True):
        score = trial.user_attrs["score"]
        if score is None:
            continue
        traces[trial.state.name].append((cost, score))
        if not best or score < best[-1][1]:
            best.append((cost, score))
    if spent[-1] > best[-1][0]:
        best.append((spent[-1], best[-1][1]))
    return {**traces, "best so far": best}


def busy_seconds(done: Sequence[FrozenTrial]) -> list[float]:
    """One worker: the trials do not overlap, and what lies between them is not counted."""
    return list(accumulate((t.datetime_complete - t.datetime_start).total_seconds() for t in done))


def hparam_map(ranked: Sequence[FrozenTrial]) -> Traces:
    sizes = sorted({t.params["batch_size"] for t in ranked})
    place = {t.number: (t.params["learning_rate"], sizes.index(t.params["batch_size"])) for t in ranked}
    traces: Traces = defaultdict(list)
    for trial in ranked:
        traces[trial.state.name].append(place[trial.number])
    best = ranked[0].number
    return {**traces, f"best: trial {best}": [place[best]]}


def batch_sizes(ranked: Sequence[FrozenTrial]) -> Traces:
    best: dict[int, FrozenTrial] = {}
    for trial in ranked:
        best.setdefault(trial.params["batch_size"], trial)
    return {
        f"batch size {size}: trial {trial.number}": curve(trial.user_attrs["val_loss"])
        for size, trial in best.items()
    }


def costs(ranked: Sequence[FrozenTrial]) -> Traces:
    traces: Traces = defaultdict(list)
    front: Points = []
    for trial in sorted(ranked, key=lambda t: t.user_attrs["seconds"]):
        point = (trial.user_attrs["seconds"], trial.user_attrs["score"])
        kind = "PRUNED" if trial.state.name == "PRUNED" else "own image size"
        traces[f"30% of the data, {kind}"].append(point)
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return {**traces, "best for its time": front}


def fits(done: Sequence[FrozenTrial]) -> Traces:
    traces: Traces = defaultdict(list)
    for trial in done:
        last = trial.user_attrs["train_loss"][-1:], trial.user_attrs["val_loss"][-1:]
        if last[0] and last[1] and None not in (last[0][0], last[1][0]):
            traces[trial.user_attrs["fit"]].append((last[0][0], last[1][0]))
    values = [value for points in traces.values() for point in points for value in point]
    return {**traces, "no gap": [(end, end) for end in (min(values), max(values))]}


def fit_bars(done: Sequence[FrozenTrial], classes: int) -> Traces:
    longest = max(t.user_attrs["epochs_run"] for t in done)
    width = -(-longest // classes)
    traces: Traces = {}
    for fit in {t.user_attrs["fit"] for t in done}:
        counts = [0] * -(-longest // width)
        for trial in done:
            if trial.user_attrs["fit"] == fit and trial.user_attrs["epochs_run"]:
                counts[(trial.user_attrs["epochs_run"] - 1) // width] += 1
        if any(counts):
            traces[fit] = [(count, place) for place, count in enumerate(counts)]
    return traces


def reason_bars(done: Sequence[FrozenTrial]) -> Traces:
    found = {t.user_attrs["stop_reason"] for t in done}
    reasons = [reason for reason in reversed(REASONS) if reason in found]
    traces: Traces = {}
    for state in {t.state.name for t in done}:
        ended = [t.user_attrs["stop_reason"] for t in done if t.state.name == state]
        traces[state] = [(ended.count(reason), place) for place, reason in enumerate(reasons)]
    return traces
