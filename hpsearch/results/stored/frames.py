"""A stored study as tables of pandas: one row per trial, one row per epoch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from hpsearch.contracts.callbacks import RunSummary
from hpsearch.results.stored.answer import standing
from hpsearch.results.stored.linked import linked_beside
from hpsearch.results.stored.reading import BestTrial, best_trial, metric_name, reading_study
from hpsearch.results.stored.trials import own_trials, weights_finder
from hpsearch.service.opening import is_ours

CURVES = ("train_loss", "val_loss", "epoch_seconds")
"""Trial attributes that hold one value per epoch."""

_HEAD = ("trial", "state")
_FIRST = ("score", "confirmed", "best_epoch", "epochs_run", "stop_reason", "fit")
_LAST = ("stop_detail", "device", "worker", "attempt", "host", "weights", "error")


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What a study has found, read from its database when asked.

    Attributes:
        summary: of the run that has just ended; None for a study that was opened later.
    """

    name: str
    storage: str = field(repr=False)
    summary: RunSummary | None = None
    run_folder: Path = Path("runs")

    @property
    def best(self) -> BestTrial | None:
        """The study's answer: its confirmed trial, else the search's first; None while no trial is COMPLETE."""
        with reading_study(self.name, self.storage) as study:
            return best_trial(study, self.run_folder)

    @property
    def search_best(self) -> BestTrial | None:
        """What the search alone would pick, whatever a confirmation has found."""
        with reading_study(self.name, self.storage) as study:
            return best_trial(study, self.run_folder, by_search=True)

    def dataframe(self) -> pd.DataFrame:
        """Returns one row per trial."""
        with reading_study(self.name, self.storage) as study:
            return trials_frame(study, self.run_folder)

    def epochs(self) -> pd.DataFrame:
        """Returns one row per epoch of every trial."""
        with reading_study(self.name, self.storage) as study:
            return epochs_frame(study)


def trials_frame(study: optuna.Study, run_folder: Path = Path("runs")) -> pd.DataFrame:
    """Returns one row per trial: state, score, hyperparameters under their own names, then everything else.

    Metrics of the best epoch stand in columns of their own (`val_error`, ...); curves are in `epochs_frame`.
    Once a study is confirmed, `confirmed` is the mean over a trial's repeats.
    Times are in UTC; `weights` names only files that are on this machine.
    """
    trials = own_trials(study)
    ours = is_ours(study.user_attrs)
    rows = [_trial_row(trial, ours) for trial in trials]
    if ours:
        find = weights_finder(study, run_folder)
        for row, trial in zip(rows, trials, strict=True):
            row["weights"] = find(trial.number, trial.user_attrs.get("weights"))
    complete = {trial.number: trial.params for trial in trials if trial.state is TrialState.COMPLETE}
    confirmed = standing(study.study_name, study.user_attrs, complete.get, linked_beside(study)).confirmed
    if confirmed is not None:
        rows = [row | {"confirmed": confirmed.means.get(row["trial"])} for row in rows]
    found = list(dict.fromkeys(name for row in rows for name in row))
    hparams = sorted({name for trial in trials for name in trial.params})
    rest = [name for name in found if name not in {*_HEAD, *_FIRST, *hparams, *_LAST}]
    first = [name for name in _FIRST if name != "confirmed" or confirmed is not None]
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


def _trial_row(trial: FrozenTrial, ours: bool) -> dict[str, Any]:
    attrs = dict(trial.user_attrs)
    at_best = attrs.pop("metrics_at_best", None) if ours else None
    facts = {key: value for key, value in attrs.items() if isinstance(value, str | int | float | None)}
    metrics = {key: value for key, value in (at_best or {}).items() if key not in facts}
    score = trial.values[0] if trial.values else None
    return {
        **metrics,
        **facts,
        "started": aware(trial.datetime_start),
        "finished": aware(trial.datetime_complete),
        **trial.params,
        "trial": trial.number,
        "state": trial.state.name,
        "score": attrs.get("score", score) if ours else score,
    }


def aware(moment: datetime | None) -> datetime | None:
    """Returns a time of Optuna's, which is local and does not say so, in UTC."""
    return None if moment is None else moment.astimezone(UTC)


def epochs_frame(study: optuna.Study) -> pd.DataFrame:
    """Returns one row per epoch of every trial that has begun, running ones included (without train_loss).

    The study's metric has a column of its own when it is not `val_loss`. A study that hpsearch did not make
    has one row per report, under its own step.
    """
    metric = metric_name(study)
    read = _epoch_rows if is_ours(study.user_attrs) else _report_rows
    rows = [row for trial in own_trials(study) for row in read(trial, metric)]
    columns = ["trial", "state", "epoch", "train_loss", "val_loss", metric, "epoch_seconds"]
    return pd.DataFrame(rows, columns=list(dict.fromkeys(columns)))


def _epoch_rows(trial: FrozenTrial, metric: str) -> Iterator[dict[str, Any]]:
    curves = {name: trial.user_attrs.get(name) or [] for name in CURVES}
    count = max([*map(len, curves.values()), *trial.intermediate_values], default=0)
    for epoch in range(1, count + 1):
        values = {name: curve[epoch - 1] for name, curve in curves.items() if epoch <= len(curve)}
        reported = trial.intermediate_values.get(epoch)
        yield {"trial": trial.number, "state": trial.state.name, "epoch": epoch, **values, metric: reported}


def _report_rows(trial: FrozenTrial, metric: str) -> Iterator[dict[str, Any]]:
    for step, value in sorted(trial.intermediate_values.items()):
        yield {"trial": trial.number, "state": trial.state.name, "epoch": step, metric: value}
