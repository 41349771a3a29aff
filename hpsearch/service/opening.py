"""Opens a study for its driver: creates it, or makes sure that it is the same study, and reads it in."""

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpsearch.contracts.trial import StopKind
from hpsearch.errors import DigestMismatch, HpsearchError, StudyFileError, nearest
from hpsearch.search.space import distributions
from hpsearch.service.study import Study
from hpsearch.store import trials
from hpsearch.store.archive import restore
from hpsearch.store.connection import open_storage, translated
from hpsearch.store.identity import DriverIdentity, DriverState
from hpsearch.store.keys import GOALS, SPECIFICATION, TOKEN, is_ours, stored_specification
from hpsearch.store.ledger import Ledger
from hpsearch.store.url import redact
from hpsearch.study.conditions import entry_beside, in_order
from hpsearch.study.file import (
    as_resumed,
    differences,
    digest,
    is_same_study,
    parse_stored,
    stored_form,
    taken_name,
)
from hpsearch.study.search import NO_YARDSTICK, SEARCHABLE, Label
from hpsearch.study.specification import StudySpec, linked_suffix
from hpsearch.text import counted

logger = logging.getLogger(__name__)

DIGEST = "digest"
METRIC_NAMES = "study:metric_names"
"""Optuna's own key for the names of objectives, which the dashboard writes on its axes."""


def open_study(
    spec: StudySpec,
    url: str,
    devices: list[str],
    lease_seconds: float = 60.0,
    unsaved: Sequence[Path] = (),
) -> Study:
    """Opens or creates a study as a driver and reads all its trials into memory.

    Args:
        url: storage URL.
        devices: what this driver trains on, shown by `hpsearch status`.
        lease_seconds: how long a silent driver keeps its trials.
        unsaved: files of trials that the database has lost (see `hpsearch.store.archive`); they are brought back.

    Raises:
        DigestMismatch: a study of this name has another specification; the message shows the difference.
        StudyFileError: the name is that of a confirmation, and the study is none.
        StorageError, StorageAway: the database.
    """
    if linked_suffix(spec.study.name) and not spec.is_confirmation:
        raise StudyFileError(taken_name(spec.study.name))
    storage = open_storage(url)
    with ExitStack() as refused:
        refused.callback(storage.engine.dispose)
        for path in unsaved:
            count = restore(storage, spec, path)
            path.replace(path.with_name(path.name.replace("unsaved", "restored", 1)))
            logger.warning("%d trials that the database had lost were brought back from %s", count, path)
        ledger = Ledger(storage, DriverIdentity.here(), lease_seconds)
        with translated(storage):
            past = [trial for name in spec.study.warm_start for trial in _past(storage, name, spec)]
            study_id, is_new = create_or_find(storage, spec)
            if _is_mistaken(storage, ledger, study_id, spec):
                storage.delete_study(study_id)
                study_id, _ = create_or_find(storage, spec)
            attrs = storage.get_study_user_attrs(study_id)
            made_here = is_ours(attrs)
            if is_new:
                refused.callback(discard_empty, storage, ledger, study_id)
            if made_here:
                spec = as_resumed(parse_stored(attrs[SPECIFICATION]), spec)
            _compare(storage, study_id, spec)
        ledger.register(study_id, json.dumps(devices))
        if spec.enqueue:
            trials.enqueue(storage, study_id, spec.enqueued())
        study = Study(spec, storage, study_id, ledger, made_here, past)
        study.load()
        refused.pop_all()
        return study


def discard_empty(storage: RDBStorage, ledger: Ledger, study_id: int) -> None:
    """Removes a study of ours in which nothing was ever begun, and that no other driver is at.

    Its run was refused; a database that is away keeps it.
    """
    try:
        ledger.unregister()
        with translated(storage):
            empty = all(map(trials.is_enqueued, storage.get_all_trials(study_id, deepcopy=False)))
            alive = [row for row in ledger.drivers(study_id) if row.state is DriverState.ALIVE]
            if empty and not alive:
                ledger.forget_study(study_id)
                storage.delete_study(study_id)
    except HpsearchError as error:
        logger.warning("%s; the study has no trials and can be deleted", error)


def create_or_find(storage: RDBStorage, spec: StudySpec) -> tuple[int, bool]:
    """Returns the number of the study of this name, and whether it was made since there was none."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it tells of each study that it makes
    try:
        study_id = trials.create_study(storage, spec)
    except optuna.exceptions.DuplicatedStudyError:
        return storage.get_study_id_from_name(spec.study.name), False
    storage.set_study_system_attr(study_id, METRIC_NAMES, [spec.study.metric, *spec.study.beside])
    _keep(storage, study_id, spec)
    return study_id, True


def _past(storage: RDBStorage, name: str, spec: StudySpec) -> Iterator[FrozenTrial]:
    """Yields the finished trials of another study of the database, in the space of this one.

    Raises:
        StudyFileError: there is no such study, its values mean something else, or no trial of it fits.
    """
    known = {one.study_name: one._study_id for one in storage.get_all_studies()}
    attrs = storage.get_study_user_attrs(known[name]) if name in known else {}
    if not is_ours(attrs):
        what = "was not made by hpsearch" if name in known else f"was not found; {nearest(name, known)}"
        raise StudyFileError(f'study.warm_start: "{name}" {what}')
    other = stored_specification(attrs, name)
    if unlike := _unlike(other, spec):
        raise StudyFileError(f'study.warm_start: "{name}" {unlike}, so its values cannot be used; remove it')
    space, fits = distributions(spec.search), 0
    token = storage.get_study_system_attrs(known[name]).get(TOKEN, "")
    for trial in storage.get_all_trials(known[name], deepcopy=False):
        kind, value = trial.user_attrs.get("stop_reason"), trial.user_attrs.get("score")
        ended = trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and kind in list(StopKind)
        if not ended or not trials.is_own(trial, token, other.search):
            continue
        hparams = in_space(trial.params, other, spec)
        if hparams is None or not isinstance(value, int | float) or not math.isfinite(value):
            continue
        fits += 1
        yield create_trial(
            state=TrialState.PRUNED,
            params=hparams,
            distributions=space.of(hparams),
            user_attrs={"score": value, "stop_reason": kind},
        )
    if not fits:
        raise StudyFileError(
            f'study.warm_start: no finished trial of "{name}" lies in [search]; widen [search], or remove it'
        )


def _unlike(other: StudySpec, spec: StudySpec) -> str:
    """Returns in what another study's values cannot be compared with those of this one; "" if they can."""
    if other.study.metric != spec.study.metric:
        return f"has study.metric = {other.study.metric!r}"
    for name in NO_YARDSTICK:
        if other.values_of(name) != spec.values_of(name):
            return f"has another {name}"
    foreign = [name for name in other.search if name not in spec.search]
    open_ended = [name for name in spec.search if name not in other.search and name not in SEARCHABLE]
    if foreign:
        return f"searches {', '.join(foreign)}"
    return f"does not search {', '.join(open_ended)}" if open_ended else ""


def in_space(params: Mapping[str, Any], other: StudySpec, spec: StudySpec) -> dict[str, Label] | None:
    """Returns a trial's hyperparameters in this study's space; None if they lie outside.

    What the other study does not search, or has not sampled in this trial, it has fixed.
    """
    if params.keys() != other.meaningful(params).keys():
        return None
    found: dict[str, Label] = {}
    for name in in_order(spec.search):
        entry = entry_beside(spec.search[name], found)
        if entry is None:
            continue
        value = other.search[name].decode(params[name]) if name in params else other.written(name)
        try:
            entry.encode(value)
            found[name] = spec.search[name].encode(value)
        except ValueError:
            return None
    return found


def _keep(storage: RDBStorage, study_id: int, spec: StudySpec) -> None:
    storage.set_study_user_attr(study_id, SPECIFICATION, stored_form(spec))
    storage.set_study_user_attr(study_id, DIGEST, digest(spec))
    storage.set_study_user_attr(study_id, "metric", spec.study.metric)
    if spec.study.beside:
        storage.set_study_user_attr(study_id, GOALS, list(spec.study.beside))


def _is_mistaken(storage: RDBStorage, ledger: Ledger, study_id: int, spec: StudySpec) -> bool:
    """Says whether the stored specification was a first try: another one, under which nothing was trained."""
    stored_text = storage.get_study_user_attrs(study_id).get(SPECIFICATION)
    if stored_text is None or is_same_study(stored_text, spec):
        return False
    if not all(map(trials.is_enqueued, storage.get_all_trials(study_id, deepcopy=False))):
        return False
    return all(driver.state is not DriverState.ALIVE for driver in ledger.drivers(study_id))


def _compare(storage: RDBStorage, study_id: int, spec: StudySpec) -> None:
    """Makes sure that the study of this name is the one that is meant, and keeps its specification up to date.

    Raises:
        StudyFileError: it is another program's, or looks for the other end of its values.
        DigestMismatch: it has another specification.
    """
    stored_text = storage.get_study_user_attrs(study_id).get(SPECIFICATION)
    if stored_text is None:
        # Queued trials alone (`study.enqueue_trial`) are what hpsearch is to begin with.
        found = storage.get_all_trials(study_id, deepcopy=False)
        if any(trial.state is not TrialState.WAITING for trial in found):
            raise StudyFileError(
                f'study.name: a study "{spec.study.name}" that hpsearch did not make is in '
                f"{redact(storage.url)}; choose another name or another --storage"
            )
    elif not is_same_study(stored_text, spec):
        fields = differences(parse_stored(stored_text), spec)
        lines = "\n".join(f"  {line}" for line in fields)
        taken = (
            f". To go on in the changed space, give the study file another study.name, run `hpsearch import "
            f'"{spec.study.name}" FILE`, which takes the trials that lie in it, and then `hpsearch run FILE`'
            if fields and all(field.startswith("search.") for field in fields)
            else ""
        )
        raise DigestMismatch(
            f'study.name: a study "{spec.study.name}" with another specification is in '
            f"{redact(storage.url)}; choose another name, restore these fields, or remove it with "
            f'`hpsearch delete "{spec.study.name}"`{taken}:\n{lines}'
        )
    _compare_directions(storage, study_id, spec)
    # Without one: another driver has created the study this very moment and not yet said what it is, or died
    # before it could, or somebody made it in the dashboard; the same words twice do no harm. With one: a raised
    # total, another timeout, another name since it was renamed: `status` and `list` show them.
    if stored_text != stored_form(spec):
        _keep(storage, study_id, spec)


def _compare_directions(storage: RDBStorage, study_id: int, spec: StudySpec) -> None:
    found = [direction.name.lower() for direction in storage.get_study_directions(study_id)]
    if found != spec.directions and len(spec.directions) > 1:
        raise StudyFileError(
            f'study.name: the study "{spec.study.name}" in {redact(storage.url)} was made for '
            f"{counted(len(found), 'objective')}, but study.metrics names {len(spec.directions)}; choose another name, "
            f'or remove it with `hpsearch delete "{spec.study.name}"`'
        )
    if found != spec.directions:
        what = f"to {found[0]} its value" if len(found) == 1 else f"for {len(found)} objectives"
        raise StudyFileError(
            f'study.name: the study "{spec.study.name}" in {redact(storage.url)} was made {what}, but '
            f"{spec.study.metric} (study.metric) is to {spec.study.better}; choose another name, or remove it "
            f'with `hpsearch delete "{spec.study.name}"`'
        )
