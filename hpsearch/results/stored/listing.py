"""All studies of a storage at a glance: counted by the database, so that no curve is read."""

import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import and_, func, select

from hpsearch.errors import StorageError, StudyFileError
from hpsearch.files.run_folder import RunFolder
from hpsearch.results.stored.answer import Confirmed, HparamsOf, Linked, Standing, standing
from hpsearch.results.stored.linked import read_linked
from hpsearch.results.stored.reading import CompleteTrials, linked_to, opened
from hpsearch.search.sampler import total_trials
from hpsearch.service.opening import is_ours
from hpsearch.store.connection import reading, translated
from hpsearch.store.trials import SPECIFICATION, foreign_trials
from hpsearch.store.writes import TRIALS, VALUES
from hpsearch.study.file import parse_stored
from hpsearch.study.specification import RESERVED_NAMES


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One study.

    Attributes:
        total: finished trials that it asks for; None for a study that hpsearch did not make.
        best: the search's own best value; None before a trial is COMPLETE, and for a study of several objectives.
        confirmed: what the last confirmation put first.
        status: "confirmed", "not confirmed", or "" for a study that cannot be.
        counts: own trials by state, states without trials left out.
        notes: sentences about what was confirmed and is gone or damaged.
        foreign: trials of other programs, which are left out of all else (see `hpsearch.store.trials`).
        started, changed: begin of the first trial and end of the last one, in UTC.
        size: bytes in its run folder on this machine: checkpoints, weights, logs.
        confirms: the search whose confirmation or refit it is; None for a study of its own.
    """

    name: str
    study_id: int
    metric: str
    total: int | None
    counts: Mapping[str, int]
    best: float | None
    started: datetime | None
    changed: datetime | None
    size: int
    confirms: str | None = None
    confirmed: Confirmed | None = None
    status: str = ""
    notes: tuple[str, ...] = ()
    foreign: int = 0

    @property
    def finished(self) -> int:
        """COMPLETE, PRUNED and FAIL together."""
        return sum(self.counts.get(state, 0) for state in ("COMPLETE", "PRUNED", "FAIL"))


def list_studies(url: str, run_folder: Path) -> list[StudyRow]:
    """Returns all studies of a storage, the one that changed last first, each followed by its confirmation.

    Raises:
        StudyNotFound: there is no database, or nothing in it.
        StorageError, StorageAway: the database.
    """
    with opened(url) as storage:
        rows = study_rows(storage, run_folder)
    earliest = datetime.min.replace(tzinfo=UTC)
    last: dict[str, datetime] = {}
    for row in rows:
        group, moment = row.confirms or row.name, row.changed or row.started or earliest
        last[group] = max(last.get(group, earliest), moment)
    rows.sort(key=lambda row: row.confirms is not None)
    rows.sort(key=lambda row: row.confirms or row.name)
    return sorted(rows, key=lambda row: last[row.confirms or row.name], reverse=True)


def study_rows(storage: RDBStorage, run_folder: Path) -> list[StudyRow]:
    """Returns all studies of an open storage."""
    with translated(storage):
        studies = storage.get_all_studies()
    attrs = {study.study_name: study.user_attrs for study in studies}
    foreign = foreign_trials(storage)
    counts, spans, values = _counts(storage, foreign)
    linked = read_linked(storage)
    rows = []
    for study in studies:
        number, others = study._study_id, foreign.get(study._study_id, {})
        found = _standing(
            study.study_name, study.user_attrs, CompleteTrials(storage, number, others).hparams, linked
        )
        row = replace(
            _row(study, counts.get(number, {}), spans, values, run_folder),
            confirms=linked_to(study.study_name, attrs),
            confirmed=found.confirmed,
            status=found.status,
            notes=found.notes,
            foreign=len(others),
        )
        rows.append(row)
    return rows


def _standing(name: str, attrs: Mapping[str, Any], hparams_of: HparamsOf, linked: Linked) -> Standing:
    """Returns whether a study is confirmed; where that is damaged, the others must be listed all the same."""
    try:
        found = standing(name, attrs, hparams_of, linked)
    except StorageError as error:
        return Standing("", notes=(str(error),))
    return replace(found, notes=tuple(f'study "{name}": {note}' for note in found.notes))


def _row(
    study: Any,
    counts: Mapping[str, int],
    spans: Mapping[int, Any],
    values: Mapping[int, Any],
    run_folder: Path,
) -> StudyRow:
    number = study._study_id
    attrs = study.user_attrs
    span = spans.get(number, (None, None))
    lowest, highest = values.get(number, (None, None))
    if len(study.directions) > 1:  # none of several values is the best
        lowest = highest = None
    ours = is_ours(attrs)
    return StudyRow(
        name=study.study_name,
        study_id=number,
        metric=str(attrs.get("metric", "value")) if ours else "value",
        total=_total(attrs[SPECIFICATION]) if ours else None,
        counts=counts,
        best=highest if study.directions[0] is StudyDirection.MAXIMIZE else lowest,
        started=span[0],
        changed=span[1],
        size=_size(own_folder(RunFolder(run_folder, study.study_name))),
    )


def _counts(
    storage: RDBStorage, foreign: Mapping[int, Mapping[int, TrialState]]
) -> tuple[dict[int, dict[str, int]], dict[int, Any], dict[int, Any]]:
    """Returns by study: own trials by state, (first start, last end), (lowest, highest) own COMPLETE value."""
    group = TRIALS.c.study_id
    states = select(group, TRIALS.c.state, func.count()).group_by(group, TRIALS.c.state)
    spans = select(group, func.min(TRIALS.c.datetime_start), func.max(TRIALS.c.datetime_complete))
    complete = and_(VALUES.c.trial_id == TRIALS.c.trial_id, TRIALS.c.state == TrialState.COMPLETE)
    values = select(group, func.min(VALUES.c.value), func.max(VALUES.c.value)).join(VALUES, complete)
    mixed = select(group, TRIALS.c.trial_id, VALUES.c.value).join(VALUES, complete).where(group.in_(foreign))
    counts: dict[int, dict[str, int]] = {}
    with reading(storage) as connection:
        for number, state, count in connection.execute(states):
            counts.setdefault(number, {})[state.name] = count
        moments = {
            number: (_utc(first), _utc(last))
            for number, first, last in connection.execute(spans.group_by(group))
        }
        extremes = {n: (low, high) for n, low, high in connection.execute(values.group_by(group))}
        found = connection.execute(mixed).all() if foreign else []
    for number, others in foreign.items():
        for state, count in Counter(state.name for state in others.values()).items():
            counts[number][state] -= count
        counts[number] = {state: count for state, count in counts[number].items() if count > 0}
        own = [
            value
            for study, trial_id, value in found
            if study == number and trial_id not in others and value is not None
        ]
        extremes[number] = (min(own, default=None), max(own, default=None))
    return counts, moments, extremes


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)


def _total(specification: str) -> int | None:
    """Returns the trials that a study asks for; None for a specification of another version."""
    try:
        return total_trials(parse_stored(specification))
    except (StudyFileError, TypeError):
        return None


def own_folder(folder: RunFolder) -> Path | None:
    """Returns the study's folder; None if it has none, or a name that leads elsewhere."""
    return folder.home if makes_folder(folder.study) and folder.home.is_dir() else None


def makes_folder(name: str) -> bool:
    """Says whether a study of this name may have a folder in the run folder; others' may lead elsewhere."""
    return Path(name).name == name and name not in ("", ".", "..", *RESERVED_NAMES)


def _size(folder: Path | None) -> int:
    """Returns the bytes below a folder; a file that goes away meanwhile, or may not be looked at, counts nothing."""
    if folder is None:
        return 0
    sizes = []
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except OSError:
            continue
        # A kept file may have two names, in the checkpoint and among the weights.
        sizes.append(status.st_size / max(status.st_nlink, 1) if stat.S_ISREG(status.st_mode) else 0)
    return round(sum(sizes))
