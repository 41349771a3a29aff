"""All studies of a storage at a glance: counted by the database, so that no curve is read."""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from hpsearch.errors import StorageError, StudyFileError, StudyNotFound, nearest
from hpsearch.files.run_folder import RunFolder
from hpsearch.results.stored.answer import (
    ConfirmationStatus,
    Confirmed,
    HparamsOf,
    Linked,
    confirmation_status,
    read_expected,
)
from hpsearch.results.stored.attributes import ended_words, learnt_words
from hpsearch.results.stored.reading import complete_hparams, linked_to, read_linked
from hpsearch.store import queries
from hpsearch.store.keys import SPECIFICATION
from hpsearch.store.queries import StoredStudy, TrialCounts
from hpsearch.store.reader import Reader, read_database
from hpsearch.study.direction import best
from hpsearch.study.file import parse_stored
from hpsearch.study.specification import RESERVED_NAMES, StudySpec


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One study.

    Attributes:
        total: finished trials that it asks for; None for a study that hpsearch did not make.
        what: the network or training function and the data set; "" as for `total`.
        best: the search's own best value; None before a trial is COMPLETE, and for a study of several objectives.
        confirmed: what the last confirmation put first.
        status: "confirmed", "not confirmed", or "" for a study that cannot be.
        counts: own trials by state, states without trials left out.
        ended: which of its own limits ended it, as a sentence; "" if none did (see `ended_words`).
        paused: after which epoch the trials were paused that may be resumed, by number.
        notes: sentences about whose trials it has, and about what was confirmed and is gone or damaged.
        expected: what its best is expected to come to when trained anew, as a sentence; "" once it is confirmed.
        foreign: trials of other programs, which are left out of all else (see `hpsearch.store.queries`).
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
    expected: str = ""
    paused: Mapping[int, int] = field(default_factory=dict)
    ended: str = ""
    what: str = ""

    @property
    def value(self) -> float | None:
        """The confirmed mean; the search's own best value before a trial is confirmed."""
        return self.best if self.confirmed is None else self.confirmed.mean

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
    with read_database(url) as reader:
        rows = study_rows(reader, run_folder)
    earliest = datetime.min.replace(tzinfo=UTC)
    last: dict[str, datetime] = {}
    for row in rows:
        group, moment = row.confirms or row.name, row.changed or row.started or earliest
        last[group] = max(last.get(group, earliest), moment)
    rows.sort(key=lambda row: row.confirms is not None)
    rows.sort(key=lambda row: row.confirms or row.name)
    return sorted(rows, key=lambda row: last[row.confirms or row.name], reverse=True)


def study_rows(reader: Reader, run_folder: Path | None, only: str | None = None) -> list[StudyRow]:
    """Returns all studies of an open database, or the one of a name.

    Args:
        run_folder: None leaves out how much lies in it.

    Raises:
        StudyNotFound: there is none of this name; the nearest is named.
    """
    studies = {study.name: study for study in queries.studies(reader)}
    if only is not None and only not in studies:
        known = nearest(only, studies) if studies else "there are none"
        raise StudyNotFound(f'no study "{only}" in {reader.url}; {known}')
    foreign = queries.foreign_trials(reader)
    counts = queries.count_trials(reader, foreign)
    linked = read_linked(reader, studies.values())
    rows = []
    for study in studies.values() if only is None else [studies[only]]:
        others = foreign.get(study.study_id, {})
        found = _confirmation_status(study, partial(complete_hparams, reader, study.study_id, others), linked)
        counted = counts.get(study.study_id, TrialCounts())
        rows.append(_row(study, counted, len(others), found, linked_to(study.name, studies), run_folder))
    return rows


def _confirmation_status(study: StoredStudy, hparams_of: HparamsOf, linked: Linked) -> ConfirmationStatus:
    """Returns whether a study is confirmed; where that is damaged, the others must be listed all the same."""
    try:
        learnt = learnt_words(study.name, study.user_attrs)
        found = confirmation_status(study.name, study.user_attrs, hparams_of, linked)
    except StorageError as error:
        return ConfirmationStatus("", notes=(str(error),))
    return replace(found, notes=tuple(f'study "{study.name}": {note}' for note in (*learnt, *found.notes)))


def _row(
    study: StoredStudy,
    counts: TrialCounts,
    foreign: int,
    found: ConfirmationStatus,
    confirms: str | None,
    run_folder: Path | None,
) -> StudyRow:
    attrs, ours = study.user_attrs, study.is_ours
    ends = [value for value in (counts.lowest, counts.highest) if value is not None]
    spec = _read_spec(attrs[SPECIFICATION]) if ours else None
    return StudyRow(
        name=study.name,
        study_id=study.study_id,
        metric=str(attrs.get("metric", "value")) if ours else "value",
        total=_total(spec, counts.continued) if spec is not None else None,
        counts=counts.states,
        paused=counts.paused,
        # Of several values none is the best; of our goals the first has the trial that commands take.
        best=best(study.directions[0], ends) if ends and (ours or len(study.directions) == 1) else None,
        started=counts.started,
        changed=counts.ended,
        size=_size(own_folder(RunFolder(run_folder, study.name))) if run_folder is not None else 0,
        confirms=confirms,
        confirmed=found.confirmed,
        status=found.status,
        notes=found.notes,
        foreign=foreign,
        expected=_expected(study, ends, found),
        ended=ended_words(attrs) if ours else "",
        what=f"{' or '.join(spec.trained)} on {spec.data.dataset}" if spec is not None else "",
    )


def _expected(study: StoredStudy, ends: Sequence[float], found: ConfirmationStatus) -> str:
    """Returns what is expected of the best; "" where another trial has become the best since that was reckoned."""
    if not study.is_ours or found.confirmed is not None:
        return ""
    try:
        expected = read_expected(study.name, study.user_attrs)
    except StorageError as error:
        return str(error)
    return expected.text if expected is not None and expected.promised in ends else ""


def _read_spec(specification: str) -> StudySpec | None:
    """Returns a stored specification; None for one of another version."""
    try:
        return parse_stored(specification)
    except (StudyFileError, TypeError):
        return None


def _total(spec: StudySpec, continued: int) -> int:
    """Returns the trials that a study asks for, and those beside them that continue others."""
    return spec.total_trials + (0 if spec.is_continuation else continued)


def own_folder(folder: RunFolder) -> Path | None:
    """Returns the study's folder; None if it has none, or a name that leads elsewhere."""
    return folder.home if makes_folder(folder.study) and os.path.isdir(folder.home) else None


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
