"""Opens stored studies to read them, and finds the best trial of one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import select

from hpsearch.errors import StudyNotFound, UserError, nearest
from hpsearch.search.opening import is_confirmation, is_ours
from hpsearch.search.storage import open_storage, reading, redact, translated
from hpsearch.search.writes import TRIALS, VALUES
from hpsearch.spec.study import SUFFIX


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


def open_study(name: str | None, url: str) -> optuna.Study:
    """Opens a study to read it; without a name, the only one in the storage, confirmations not counted.

    Raises:
        StudyNotFound: no study of this name (the nearest is named), or no name and not exactly one study.
        UserError: a study of several objectives.
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
        with translated(storage):
            yield storage
    finally:
        storage.engine.dispose()


def _find(name: str | None, storage: RDBStorage) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with translated(storage):
        names = {study.study_name: study.user_attrs for study in storage.get_all_studies()}
        searches = [one for one in names if confirmed_by(one, names) is None]
        if name is None and len(searches) == 1:
            name = searches[0]
        if name not in names:
            known = searches if name is None else list(names)
            raise StudyNotFound(_not_found(name, known, redact(storage.url)))
        study = optuna.load_study(study_name=name, storage=storage)
    if len(study.directions) != 1:
        raise UserError(
            f'study "{name}" has {len(study.directions)} objectives, so that no trial is the best, and '
            "hpsearch reads studies of one objective only; look at it with hpsearch dashboard"
        )
    return study


def confirmed_by(name: str, studies: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Returns the search that a study confirms, if it is there too; None for a study of its own.

    Args:
        studies: the user attributes of all studies, by name.
    """
    search = name.removesuffix(SUFFIX)
    return search if search != name and search in studies and is_confirmation(studies[name]) else None


def _not_found(name: str | None, names: list[str], url: str) -> str:
    if not names:
        return f"there are no studies in {url}"
    if name is None:
        return f"there are {len(names)} studies in {url}; name one of them: {', '.join(sorted(names))}"
    return f'no study "{name}" in {url}; {nearest(name, names)}'


def metric_name(study: optuna.Study) -> str:
    """Returns what the study's values measure; "value" for a study that hpsearch did not make."""
    return str(study.user_attrs.get("metric", "value")) if is_ours(study.user_attrs) else "value"


def _first_of_equal(study: optuna.Study, trial: FrozenTrial) -> FrozenTrial:
    """Returns the first of the COMPLETE trials that are as good as this one, of which a database gives any.

    Asks the database, as Optuna would read all trials with their curves: seconds for thousands of them.
    """
    storage = study._storage
    database = storage._backend if isinstance(storage, _CachedStorage) else storage
    assert isinstance(database, RDBStorage)
    complete = (TRIALS.c.study_id == study._study_id) & (TRIALS.c.state == TrialState.COMPLETE)
    query = select(TRIALS.c.trial_id, VALUES.c.value).join(VALUES).where(complete).order_by(TRIALS.c.number)
    with reading(database) as connection:
        equal = (one for one, value in connection.execute(query) if value == trial.value)
        first = next(equal, trial._trial_id)
    return database.get_trial(first)


def best_trial(study: optuna.Study) -> BestTrial | None:
    """Returns the best COMPLETE trial, of equal ones the first, whose weights are kept; or None."""
    try:
        trial = study.best_trial
    except ValueError:  # Optuna's word for "no trial is COMPLETE"
        return None
    ours = is_ours(study.user_attrs)
    if ours:
        trial = _first_of_equal(study, trial)
    attrs = trial.user_attrs
    known = attrs if ours else {}  # others may mean anything by these names
    return BestTrial(
        number=trial.number,
        value=float(trial.values[0]),
        best_epoch=known.get("best_epoch"),
        hparams=dict(trial.params),
        weights=known.get("weights") or None,
        attrs=attrs,
    )
