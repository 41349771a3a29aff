"""Opens stored studies to read them, and finds the best trial of one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from hpsearch.errors import StudyNotFound, UserError, nearest
from hpsearch.results.confirm.plan import Candidate, middle_repeat
from hpsearch.results.stored.answer import Answer, answer
from hpsearch.results.stored.study import StudyRecord, read_record
from hpsearch.results.stored.trials import database, foreign_ones, own_best, weights_finder
from hpsearch.service.opening import is_confirmation, is_ours
from hpsearch.store.connection import open_storage, redact, translated
from hpsearch.store.trials import SPECIFICATION
from hpsearch.study.file import refuse_other
from hpsearch.study.specification import LINKED, REFIT_SUFFIX, SUFFIX, StudySpec


@dataclass(frozen=True, slots=True)
class WeightsOf:
    """Whose weights an answer hands out.

    Attributes:
        study, trial: where they were trained: the search, its confirmation or its refit.
        text: the same in words.
        host: the machine that trained them.
        path: None if they were not kept; as that machine named it, if they are not on this one.
        is_here: whether they are on this machine.
    """

    study: str
    trial: int
    text: str
    host: str
    path: str | None
    is_here: bool


@dataclass(frozen=True, slots=True)
class BestTrial:
    """The trial that is a study's answer: the confirmed one if there is one, else the search's first.

    Attributes:
        value: the best value of the study's metric in the search, reached at `best_epoch`.
        weights: path of its weights, see `weights_of`.
        attrs: all else that is known of it.
        answer: what confirms it, and what the search alone would have picked.
        weights_of: whose weights they are.
    """

    number: int
    value: float
    best_epoch: int | None
    hparams: Mapping[str, Any]
    weights: str | None
    attrs: Mapping[str, Any] = field(repr=False)
    answer: Answer = field(default=Answer(None, None))
    weights_of: WeightsOf | None = None

    @property
    def is_here(self) -> bool:
        """Whether its weights are on this machine."""
        return self.weights_of is not None and self.weights_of.is_here


def open_study(name: str | None, url: str, given: StudySpec | None = None) -> optuna.Study:
    """Opens a study to read it; without a name, the only one in the storage, confirmations not counted.

    Args:
        given: what this machine's own study file says, which the stored study must agree with.

    Raises:
        StudyFileError: it does not.
        StudyNotFound: no study of this name (the nearest is named), or no name and not exactly one study.
        UserError: a study of several objectives.
        StorageError, StorageAway: the database.
    """
    storage = open_storage(url, readonly=True)
    try:
        study = _find(name, storage)
    except Exception:
        storage.engine.dispose()
        raise
    if given is not None:
        refuse_other(study.user_attrs.get(SPECIFICATION), given)
    return study


@contextmanager
def reading_study(name: str | None, url: str) -> Iterator[optuna.Study]:
    """Opens a study as `open_study` does, and closes the connections to its database at the end."""
    with opened(url) as storage:
        yield _find(name, storage)


def read_study(name: str | None, url: str) -> StudyRecord:
    """Reads a study.

    Raises:
        StudyNotFound: there is none of this name.
        StorageError, StorageAway: the database.
    """
    with reading_study(name, url) as study:
        return read_record(study)


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
        searches = [one for one in names if linked_to(one, names) is None]
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


def linked_to(name: str, studies: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Returns the search whose confirmation or refit a study is, if it is there too; None for a study of its own.

    Args:
        studies: the user attributes of all studies, by name.
    """
    search = next((name.removesuffix(suffix) for suffix in LINKED if name.endswith(suffix)), None)
    return search if search in studies and is_confirmation(studies[name]) else None


def _not_found(name: str | None, names: list[str], url: str) -> str:
    if not names:
        return f"there are no studies in {url}"
    if name is None:
        return f"there are {len(names)} studies in {url}; name one of them: {', '.join(sorted(names))}"
    return f'no study "{name}" in {url}; {nearest(name, names)}'


def metric_name(study: optuna.Study) -> str:
    """Returns what the study's values measure; "value" for a study that hpsearch did not make."""
    return str(study.user_attrs.get("metric", "value")) if is_ours(study.user_attrs) else "value"


def best_trial(
    study: optuna.Study, run_folder: Path = Path("runs"), by_search: bool = False
) -> BestTrial | None:
    """Returns the trial that is a study's answer, with its weights; None before a trial is COMPLETE.

    Args:
        run_folder: where its weights are looked for.
        by_search: take the best COMPLETE trial, of equal ones the first, whose weights the search has kept,
            whatever a confirmation says.
    """
    if is_ours(study.user_attrs):
        return _our_best(study, run_folder, by_search)
    try:
        trial = study.best_trial
    except ValueError:  # Optuna's word for "no trial is COMPLETE"
        return None
    # Others may mean anything by our names.
    return _best(trial, {}, Answer(trial.number, trial.number), None)


def _our_best(study: optuna.Study, run_folder: Path, by_search: bool) -> BestTrial | None:
    foreign = foreign_ones(study)
    searched = own_best(study, foreign)
    if searched is None:
        return None
    complete = _Complete(study, foreign)
    found = answer(study.study_name, study.user_attrs, searched.number, complete.hparams, by_search)
    trial = complete.trial(found.trial) or searched
    return _best(trial, trial.user_attrs, found, _weights(study, trial, found, run_folder))


def _best(
    trial: FrozenTrial, known: Mapping[str, Any], found: Answer, weights: WeightsOf | None
) -> BestTrial:
    return BestTrial(
        number=trial.number,
        value=float(trial.values[0]),
        best_epoch=known.get("best_epoch"),
        hparams=dict(trial.params),
        weights=weights.path if weights is not None else None,
        attrs=trial.user_attrs,
        answer=found,
        weights_of=weights,
    )


class _Complete:
    """A study's own COMPLETE trials by number, each read when it is asked for."""

    def __init__(self, study: optuna.Study, foreign: Mapping[int, TrialState]) -> None:
        self._storage, self._study_id, self._foreign = database(study), study._study_id, foreign

    def trial(self, number: int | None) -> FrozenTrial | None:
        if number is None:
            return None
        try:
            found = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        except KeyError:
            return None
        if found in self._foreign:
            return None
        trial = self._storage.get_trial(found)
        return trial if trial.state is TrialState.COMPLETE else None

    def hparams(self, number: int) -> Mapping[str, Any] | None:
        trial = self.trial(number)
        return None if trial is None else trial.params


def _weights(study: optuna.Study, trial: FrozenTrial, found: Answer, run_folder: Path) -> WeightsOf:
    """Returns whose weights an answer hands out.

    Those of its refit. Else, once confirmed, those of the repeat with the median validation score: the search's
    own weights of this trial are the lucky ones, and need not be kept. The test part has no say. Without a
    repeat, as after the confirmation was deleted, those of the search.
    """
    name, number = study.study_name, trial.number
    if found.refit is not None and (refits := _linked(study, [name + REFIT_SUFFIX])) is not None:
        for refit in read_record(refits).trials:
            if refit.number == found.refit.number:
                text = f"the refit of trial {number}"
                return _weights_of(refits, refit.number, refit.attrs, text, run_folder)
    if found.confirmed is not None:
        linked = _linked(study, [name + SUFFIX, found.confirmed.study + SUFFIX])
        candidate = Candidate(number, float(trial.values[0]), trial.params)
        middle = middle_repeat(read_record(linked), candidate) if linked is not None else None
        if linked is not None and middle is not None:
            repeat, metric = middle.hparams["train.repeat"], found.confirmed.metric
            text = f"trial {number}, repeat {repeat}, the median of its repeats by {metric}"
            return _weights_of(linked, middle.number, middle.attrs, text, run_folder)
    text = f"trial {number}" if found.confirmed is None else f"trial {number} as the search trained it"
    return _weights_of(study, number, trial.user_attrs, text, run_folder)


def _weights_of(
    study: optuna.Study, trial: int, attrs: Mapping[str, Any], text: str, run_folder: Path
) -> WeightsOf:
    named = attrs.get("weights") or None
    here = weights_finder(study, run_folder)(trial, named) if named else None
    host = str(attrs.get("host", "another machine"))
    return WeightsOf(study.study_name, trial, text, host, here or named, here is not None)


def _linked(study: optuna.Study, names: Sequence[str]) -> optuna.Study | None:
    """Returns the first of these linked studies that is there."""
    storage = database(study)
    known = {one.study_name: one.user_attrs for one in storage.get_all_studies()}
    name = next((one for one in names if one in known and is_confirmation(known[one])), None)
    return None if name is None else optuna.load_study(study_name=name, storage=storage)
