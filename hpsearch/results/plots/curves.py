"""Learning curves: loss against epochs, of the best trials and by batch size."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from hpsearch.results.plots.chart import (
    COLORS,
    GREY,
    Axis,
    Chart,
    Mark,
    Series,
    wants_log,
)
from hpsearch.results.stored.answer import CONFIRMED
from hpsearch.results.stored.study import StudyRecord, TrialRecord
from hpsearch.results.terminal.progress import hparam, hparams_text, in_words, number

TOP = 10
STAGES = "; a diamond marks the last epoch of the head alone"
STOPPED = ("early_stopping", "pruner", "diverged", "out_of_memory", "infeasible", "error")


def learning_curves(record: StudyRecord, top: int = TOP) -> Chart:
    """Draws training and validation loss of the best trials, with their best epoch and stop point."""
    best = list(record.ranked[:top])
    best += [trial for trial in record.ranked[top:] if record.mark(trial)]  # the confirmed one
    series = list(chain.from_iterable(_trial(record, trial, rank) for rank, trial in enumerate(best)))
    count = min(len(best), top)
    shown = f"the best {count} trials" if count > 1 else "the best trial"
    if record.answer.confirmed is not None and record.answer.is_other:
        shown += f" by the search's own values; trial {record.answer.trial} is confirmed"
    return Chart(
        id="learning-curves",
        title=f"Learning curves of {shown}",
        caption="Solid: validation, dashed: training. A star marks the best epoch, whose weights are kept; a "
        "cross marks where a trial was stopped before its last epoch"
        f"{STAGES if any(map(record.last_stage_after, best)) else ''}."
        + (f" Trials from rank {len(COLORS) + 1} on are grey." if len(best) > len(COLORS) else ""),
        x=Axis("epoch"),
        y=Axis(_loss_title(record), log=_log(series)),
        series=tuple(series),
    )


def _loss_title(record: StudyRecord) -> str:
    has_loss = any(trial.attrs.get("val_loss") for trial in record.ranked[:TOP])
    return "loss" if has_loss else record.metric


def _log(series: Sequence[Series]) -> bool:
    return wants_log([value for one in series for value in one.y])


def _trial(record: StudyRecord, trial: TrialRecord, rank: int) -> list[Series]:
    color = COLORS[rank] if rank < len(COLORS) else GREY
    width = 3.0 if trial.number == record.answer.trial else 2.0 if rank < len(COLORS) else 1.2
    mark = record.mark(trial)
    drawn = record.metric in ("val_loss", _loss_title(record))
    scored = "" if drawn else f"{in_words(record.metric).removeprefix('validation ')} "
    name = f"trial {trial.number}: {scored}{number(trial.score)}{f' ({mark})' if mark == CONFIRMED else ''}"
    group = f"trial {trial.number}"
    about = f"trial {trial.number}, {hparams_text(trial.hparams)}"
    lines = [
        _line(name, trial.val, color, width, group, about),
        _line(f"{name}, training", trial.train, color, width * 0.6, group, about, dashed=True),
    ]
    series = [line for line in lines if line.x] + _points(record, trial, color, group)
    return [replace(one, order=TOP - rank) for one in series]


def _line(
    name: str,
    curve: Sequence[float | None],
    color: str,
    width: float,
    group: str,
    about: str,
    dashed: bool = False,
) -> Series:
    return Series(
        name=name,
        x=tuple(range(1, len(curve) + 1)),
        y=tuple(curve),
        color=color,
        width=width,
        dashed=dashed,
        group=group,
        in_legend=not dashed,
        hover=(about,),
    )


def _points(record: StudyRecord, trial: TrialRecord, color: str, group: str) -> list[Series]:
    points = []
    best, last = trial.best_epoch, trial.epochs_run
    if best is not None and best <= len(trial.val):
        points.append(_point(f"{group}, best epoch", best, trial, color, "star", 13.0, group))
    head = record.last_stage_after(trial)
    if 0 < head <= len(trial.val) and trial.val[head - 1] is not None:
        name = f"{group}, last epoch of the head alone"
        points.append(_point(name, head, trial, color, "diamond", 9.0, group))
    stopped = trial.stop_reason in STOPPED and last < record.planned_epochs(trial)
    if stopped and 0 < last <= len(trial.val) and trial.val[last - 1] is not None:
        name = f"{group}, {trial.stop_reason.replace('_', ' ')}"
        points.append(_point(name, last, trial, color, "x", 9.0, group))
    return points


def _point(
    name: str, epoch: int, trial: TrialRecord, color: str, symbol: str, size: float, group: str
) -> Series:
    return Series(
        name=name,
        x=(epoch,),
        y=(trial.val[epoch - 1],),
        mark=Mark.POINTS,
        color=color,
        symbol=symbol,
        sizes=(size,),
        group=group,
        in_legend=False,
        hover=(f"{name} ({epoch})",),
    )


def batch_size_curves(record: StudyRecord) -> Chart | None:
    """Draws the validation loss of the best trial of each batch size; None if only one was tried."""
    best: dict[object, TrialRecord] = {}
    for trial in record.ranked:
        if "batch_size" in trial.hparams and trial.val:
            best.setdefault(trial.hparams["batch_size"], trial)
    if len(best) < 2:
        return None
    chosen = sorted(list(best)[: len(COLORS)], key=batch_order)
    series = [
        _line(
            f"batch size {size}: trial {best[size].number}",
            best[size].val,
            color,
            2.0,
            f"batch size {size}",
            f"learning rate {hparam(best[size].hparams.get('learning_rate', '-'))}",
        )
        for size, color in zip(chosen, COLORS, strict=False)
    ]
    left_out = f" (the {len(chosen)} best of {len(best)})" if len(chosen) < len(best) else ""
    return Chart(
        id="batch-size-curves",
        title=f"Validation loss against epochs by batch size{left_out}",
        caption="The best trial of each batch size. Small batches take many noisy steps in an epoch, large "
        "ones few smooth ones; a full batch takes one.",
        x=Axis("epoch"),
        y=Axis(f"validation {_loss_title(record)}", log=_log(series)),
        series=tuple(series),
    )


def batch_order(size: object) -> float:
    """Returns where a batch size stands among others; "full" comes last."""
    return float(size) if isinstance(size, int | float) else float("inf")
