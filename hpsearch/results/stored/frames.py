"""A stored study as tables of pandas: one row per trial, one row per epoch."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hpsearch.results.stored.answer import confirmation_status
from hpsearch.results.stored.best import trial_front
from hpsearch.results.stored.reading import OpenStudy
from hpsearch.store.queries import CURVES, StoredTrial

_HEAD = ("trial", "state")
_FIRST = ("score", "front", "confirmed", "best_epoch", "epochs_run", "stop_reason", "fit")
_LAST = ("stop_detail", "device", "worker", "attempt", "host", "weights", "error")


def trials_frame(study: OpenStudy, run_folder: Path = Path("runs")) -> pd.DataFrame:
    """Returns one row per trial: state, score, hyperparameters under their own names, then everything else.

    Metrics of the best epoch stand in columns of their own (`val_error`, ...); curves are in `epochs_frame`.
    In a study with several goals, `front` says whether no other trial beats it in all of them.
    Once a study is confirmed, `confirmed` is the mean over a trial's repeats.
    Times are in UTC; `weights` names only files that are on this machine.
    """
    trials, ours = study.trials(), study.stored.is_ours
    rows = [_trial_row(trial, ours) for trial in trials]
    if ours:
        for row, trial in zip(rows, trials, strict=True):
            row["weights"] = study.find_weights(trial.number, trial.user_attrs.get("weights"), run_folder)
    complete = {trial.number: trial.hparams for trial in trials if trial.state == "COMPLETE"}
    confirmed = confirmation_status(study.name, study.attrs, complete.get, study.linked_trials()).confirmed
    if confirmed is not None:
        rows = [row | {"confirmed": confirmed.means.get(row["trial"])} for row in rows]
    if len(study.goals) > 1:
        on_front = {one.number for one in trial_front(study, study.foreign())}
        rows = [row | {"front": row["trial"] in on_front} for row in rows]
    found = list(dict.fromkeys(name for row in rows for name in row))
    hparams = sorted({name for trial in trials for name in trial.hparams})
    rest = [name for name in found if name not in {*_HEAD, *_FIRST, *hparams, *_LAST}]
    first = [name for name in _FIRST if name not in ("front", "confirmed") or name in found]
    order = [*_HEAD, *first, *hparams, *rest, *(name for name in _LAST if name in found)]
    return whole_numbers(pd.DataFrame(rows, columns=order), rows)


def whole_numbers(frame: pd.DataFrame, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns a table whose columns of whole numbers stay so where some are missing: pandas makes them floats."""
    for name in frame.columns[frame.dtypes == "float64"]:
        values = [row.get(name) for row in rows]
        found = [value for value in values if value is not None]
        if found and all(type(value) is int and abs(value) < 2**63 for value in found):
            frame[name] = pd.array(values, dtype="Int64")
    return frame


def _trial_row(trial: StoredTrial, ours: bool) -> dict[str, Any]:
    attrs = dict(trial.user_attrs)
    at_best = attrs.pop("metrics_at_best", None) if ours else None
    facts = {key: value for key, value in attrs.items() if isinstance(value, str | int | float | None)}
    metrics = {key: value for key, value in (at_best or {}).items() if key not in facts}
    return {
        **metrics,
        **facts,
        "started": trial.started,
        "finished": trial.ended,
        **trial.hparams,
        "trial": trial.number,
        "state": trial.state,
        "score": attrs.get("score", trial.value) if ours else trial.value,
    }


def epochs_frame(study: OpenStudy) -> pd.DataFrame:
    """Returns one row per epoch of every trial that has begun, running ones included (without train_loss).

    The study's metric has a column of its own when it is not `val_loss`. A study that hpsearch did not make
    has one row per report, under its own step.
    """
    read = _epoch_rows if study.stored.is_ours else _report_rows
    rows = [row for trial in study.trials() for row in read(trial, study.metric)]
    columns = ["trial", "state", "epoch", "train_loss", "val_loss", study.metric, "epoch_seconds"]
    return pd.DataFrame(rows, columns=list(dict.fromkeys(columns)))


def _epoch_rows(trial: StoredTrial, metric: str) -> Iterator[dict[str, Any]]:
    stored = {name: trial.user_attrs.get(name) for name in CURVES}
    curves = {name: curve if isinstance(curve, list) else [] for name, curve in stored.items()}
    count = max([*map(len, curves.values()), *trial.reports], default=0)
    for epoch in range(1, count + 1):
        values = {name: curve[epoch - 1] for name, curve in curves.items() if epoch <= len(curve)}
        reported = trial.reports.get(epoch)
        yield {"trial": trial.number, "state": trial.state, "epoch": epoch, **values, metric: reported}


def _report_rows(trial: StoredTrial, metric: str) -> Iterator[dict[str, Any]]:
    for step, value in sorted(trial.reports.items()):
        yield {"trial": trial.number, "state": trial.state, "epoch": step, metric: value}
