"""A stored study's own trials, and where their weights are on this machine."""

from collections.abc import Callable, Mapping
from pathlib import Path

import optuna
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import select

from hpsearch.files.run_folder import RunFolder
from hpsearch.service.opening import is_ours
from hpsearch.store.connection import reading
from hpsearch.store.trials import TOKEN, foreign_trials
from hpsearch.store.writes import TRIALS, VALUES

FindWeights = Callable[[int, object], str | None]
"""Gives where a trial's weights are on this machine, by its number and what it calls them; None if nowhere."""


def database(study: optuna.Study) -> RDBStorage:
    """Returns the storage behind a study's cache."""
    storage = study._storage
    found = storage._backend if isinstance(storage, _CachedStorage) else storage
    assert isinstance(found, RDBStorage)
    return found


def foreign_ones(study: optuna.Study) -> Mapping[int, TrialState]:
    """Returns the trials of a study of ours that other programs have added, their states by id."""
    if isinstance(study._storage, InMemoryStorage):  # of this process alone
        return {}
    return foreign_trials(database(study), study._study_id).get(study._study_id, {})


def own_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Returns a study's trials by number without those of other programs (see `hpsearch.store.trials`).

    In a study that hpsearch did not make, all are its own.
    """
    trials = study.get_trials(deepcopy=False)
    if not is_ours(study.user_attrs):
        return trials
    foreign = foreign_ones(study)
    return [trial for trial in trials if trial._trial_id not in foreign]


def own_best(study: optuna.Study, foreign: Mapping[int, TrialState]) -> FrozenTrial | None:
    """Returns the best of the COMPLETE trials of a study of ours, of equal ones the first; None without one.

    Asks the database, as Optuna would read all trials with their curves: seconds for thousands of them.

    Args:
        foreign: trials that are left out, by id.
    """
    storage = database(study)
    complete = (TRIALS.c.study_id == study._study_id) & (TRIALS.c.state == TrialState.COMPLETE)
    query = select(TRIALS.c.trial_id, VALUES.c.value).join(VALUES).where(complete).order_by(TRIALS.c.number)
    with reading(storage) as connection:
        own = [(trial_id, value) for trial_id, value in connection.execute(query) if trial_id not in foreign]
    sign = -1.0 if study.direction is StudyDirection.MAXIMIZE else 1.0
    finite = [(sign * value, trial_id) for trial_id, value in own if value is not None]
    return storage.get_trial(min(finite, key=lambda pair: pair[0])[1]) if finite else None


def weights_finder(study: optuna.Study, run_folder: Path) -> FindWeights:
    """Returns what finds the weights of a study's trials: in the run folder, or in one at an SQLite file."""
    storage = database(study)
    token = storage.get_study_system_attrs(study._study_id).get(TOKEN)
    roots = [run_folder]
    if storage.engine.dialect.name == "sqlite":
        beside = Path(storage.engine.url.database or "").parent
        roots += [
            beside,
            beside / "runs",
        ]  # as `runs/hpsearch.db` lies in its run folder, or `study.db` beside it
    folders = [RunFolder(root, study.study_name) for root in roots]

    def find(number: int, named: object) -> str | None:
        found = (folder.find_weights(number, named, token) for folder in folders)
        return next((str(path) for path in found if path is not None), None)

    return find
