"""A stored study as tables: one row per trial, one row per epoch, and the best trial."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import optuna
import pandas as pd
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from hpsearch.errors import StudyNotFound, nearest
from hpsearch.search.storage import open_storage, redact, translated
from hpsearch.service.callbacks import RunSummary

CURVES = ("train_loss", "val_loss", "epoch_seconds")
"""Trial attributes that hold one value per epoch."""

_FIRST = ("score", "best_epoch", "epochs_run", "stop_reason", "fit")
_LAST = ("stop_detail", "device", "worker", "attempt", "host", "weights", "error")


@dataclass(frozen=True, slots=True)
class BestTrial:
    """The best trial of a study.

    Attributes:
        value: the best value of the study's metric, reached at `best_epoch`.
        weights: path of its weights on the machine that trained it, if they were kept.
        attrs: all else that is known of it.
    """

    number: int
    value: float
    best_epoch: int | None
    hparams: Mapping[str, Any]
    weights: str | None
    attrs: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What a study has found, read from its database when asked.

    Attributes:
        summary: of the run that has just ended; None for a study that was opened later.
    """

    name: str
    storage: str = field(repr=False)
    summary: RunSummary | None = None

    @property
    def best(self) -> BestTrial | None:
        """The best trial; None while no trial is COMPLETE."""
        with reading_study(self.name, self.storage) as study:
            return best_trial(study)

    def dataframe(self) -> pd.DataFrame:
        """Returns one row per trial."""
        with reading_study(self.name, self.storage) as study:
            return trials_frame(study)

    def epochs(self) -> pd.DataFrame:
        """Returns one row per epoch of every trial."""
        with reading_study(self.name, self.storage) as study:
            return epochs_frame(study)


def open_study(name: str | None, url: str) -> optuna.Study:
    """Opens a study to read it; without a name, the only one in the storage.

    Raises:
        StudyNotFound: no study of this name (the nearest is named), or no name and not exactly one study.
        StorageError, StorageAway: the database.
    """
    return _find(name, open_storage(url, readonly=True))


@contextmanager
def reading_study(name: str | None, url: str) -> Iterator[optuna.Study]:
    """Opens a study as `open_study` does, and closes the connections to its database at the end."""
    with opened(url) as storage:
        yield _find(name, storage)


@contextmanager
def opened(url: str, readonly: bool = True) -> Iterator[RDBStorage]:
    """Opens a storage and closes its connections at the end."""
    storage = open_storage(url, readonly=readonly)
    try:
        yield storage
    finally:
        storage.engine.dispose()


def _find(name: str | None, storage: RDBStorage) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with translated(storage):
        names = [study.study_name for study in storage.get_all_studies()]
        if name is None and len(names) == 1:
            name = names[0]
        if name not in names:
            raise StudyNotFound(_not_found(name, names, redact(storage.url)))
        return optuna.load_study(study_name=name, storage=storage)


def _not_found(name: str | None, names: list[str], url: str) -> str:
    if not names:
        return f"there are no studies in {url}"
    if name is None:
        return f"there are {len(names)} studies in {url}; name one of them: {', '.join(sorted(names))}"
    return f'no study "{name}" in {url}; {nearest(name, names)}'


def metric_name(study: optuna.Study) -> str:
    """Returns what the study's values measure; "value" for a study that hpsearch did not make."""
    return str(study.user_attrs.get("metric", "value"))


def best_trial(study: optuna.Study) -> BestTrial | None:
    """Returns the best COMPLETE trial, or None."""
    try:
        trial = study.best_trial
    except ValueError:  # Optuna's word for "no trial is COMPLETE"
        return None
    attrs = trial.user_attrs
    return BestTrial(
        number=trial.number,
        value=float(trial.values[0]),
        best_epoch=attrs.get("best_epoch"),
        hparams=dict(trial.params),
        weights=attrs.get("weights") or None,
        attrs=attrs,
    )


def trials_frame(study: optuna.Study) -> pd.DataFrame:
    """Returns one row per trial: state, score, hyperparameters under their own names, then everything else.

    Metrics of the best epoch stand in columns of their own (`val_error`, ...); curves are in `epochs_frame`.
    """
    trials = study.get_trials(deepcopy=False)
    rows = [_trial_row(trial) for trial in trials]
    found = list(dict.fromkeys(name for row in rows for name in row))
    hparams = sorted({name for trial in trials for name in trial.params})
    rest = [name for name in found if name not in {*_HEAD, *_FIRST, *hparams, *_LAST}]
    order = [*_HEAD, *_FIRST, *hparams, *rest, *(name for name in _LAST if name in found)]
    return pd.DataFrame(rows, columns=order)


_HEAD = ("trial", "state")


def _trial_row(trial: FrozenTrial) -> dict[str, Any]:
    attrs = dict(trial.user_attrs)
    at_best = attrs.pop("metrics_at_best", None)
    facts = {key: value for key, value in attrs.items() if isinstance(value, str | int | float | None)}
    metrics = {key: value for key, value in (at_best or {}).items() if key not in facts}
    return {
        **metrics,
        **facts,
        "started": trial.datetime_start,
        "finished": trial.datetime_complete,
        **trial.params,
        "trial": trial.number,
        "state": trial.state.name,
        "score": attrs.get("score", trial.values[0] if trial.values else None),
    }


def epochs_frame(study: optuna.Study) -> pd.DataFrame:
    """Returns one row per epoch of every trial that has begun, running ones included (without train_loss).

    The study's metric has a column of its own when it is not `val_loss`.
    """
    metric = metric_name(study)
    rows = [row for trial in study.get_trials(deepcopy=False) for row in _epoch_rows(trial, metric)]
    columns = ["trial", "state", "epoch", "train_loss", "val_loss", metric, "epoch_seconds"]
    return pd.DataFrame(rows, columns=list(dict.fromkeys(columns)))


def _epoch_rows(trial: FrozenTrial, metric: str) -> Iterator[dict[str, Any]]:
    curves = {name: trial.user_attrs.get(name) or [] for name in CURVES}
    count = max([*map(len, curves.values()), *trial.intermediate_values], default=0)
    for epoch in range(1, count + 1):
        values = {name: curve[epoch - 1] for name, curve in curves.items() if epoch <= len(curve)}
        reported = trial.intermediate_values.get(epoch)
        yield {"trial": trial.number, "state": trial.state.name, "epoch": epoch, **values, metric: reported}


def count_states(study: optuna.Study) -> dict[str, int]:
    """Returns the number of trials by state, states without trials left out."""
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    return {state.name: states.count(state) for state in TrialState if state in states}
