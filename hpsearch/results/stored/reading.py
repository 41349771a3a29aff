"""Opens stored studies to read them, by plain SQL: whoever looks must not wait for Optuna's import."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpsearch.errors import StudyNotFound, UserError, nearest
from hpsearch.files.run_folder import RunFolder
from hpsearch.results.stored.answer import Linked
from hpsearch.results.stored.study import StudyRecord, as_record
from hpsearch.store import queries
from hpsearch.store.keys import GOALS, SPECIFICATION, TOKEN, check_record, is_confirmation
from hpsearch.store.queries import StoredStudy, StoredTrial
from hpsearch.store.reader import Reader, read_database
from hpsearch.store.url import sqlite_file
from hpsearch.study.file import refuse_other
from hpsearch.study.specification import CONFIRMS, StudySpec, linked_suffix


@dataclass(frozen=True, slots=True)
class OpenStudy:
    """A stored study of one objective, or of ours with several goals, whose trials are read when they are asked for.

    Attributes:
        stored: the study itself.
        others: all studies of the database, this one too, by name.
    """

    reader: Reader = field(repr=False)
    stored: StoredStudy
    others: Mapping[str, StoredStudy] = field(repr=False)

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def attrs(self) -> Mapping[str, Any]:
        """User attributes."""
        return self.stored.user_attrs

    @property
    def metric(self) -> str:
        """What the study's values measure; "value" for a study that hpsearch did not make."""
        return str(self.attrs.get("metric", "value")) if self.stored.is_ours else "value"

    @property
    def goals(self) -> tuple[str, ...]:
        """The names of its goals, the metric first."""
        return (self.metric, *_texts(self.attrs.get(GOALS))) if self.stored.is_ours else (self.metric,)

    def system_attrs(self) -> dict[str, Any]:
        """Reads the system attributes, in which the dashboard keeps notes and graphs."""
        return queries.system_attrs(self.reader, self.stored.study_id)

    def foreign(self) -> Mapping[int, str]:
        """Reads which trials other programs have added to a study of ours: their states by id."""
        if not self.stored.is_ours:
            return {}
        return queries.foreign_trials(self.reader, self.stored.study_id).get(self.stored.study_id, {})

    def trials(self) -> list[StoredTrial]:
        """Reads the study's own trials by number; in a study that hpsearch did not make, all are its own.

        Raises:
            StorageError: an own trial's attributes are damaged.
        """
        foreign = self.foreign()
        found = queries.trials(self.reader, self.stored.study_id)
        own = [trial for trial in found if trial.trial_id not in foreign]
        if self.stored.is_ours:
            for trial in own:
                check_record(self.name, trial.number, trial.user_attrs)
        return own

    def find_weights(self, number: int, named: object, run_folder: Path) -> str | None:
        """Returns where a trial's weights are on this machine: in the run folder, or in one at an SQLite file.

        Args:
            named: what the trial calls them.
        """
        token = queries.system_attrs(self.reader, self.stored.study_id, TOKEN).get(TOKEN)
        database = sqlite_file(self.reader.url)
        # As `runs/hpsearch.db` lies in its run folder, or `study.db` beside it.
        beside = [] if database is None else [database.parent, database.parent / "runs"]
        folders = [RunFolder(root, self.name) for root in (run_folder, *beside)]
        found = (folder.find_weights(number, named, token) for folder in folders)
        return next((str(path) for path in found if path is not None), None)

    def linked(self, *names: str) -> "OpenStudy | None":
        """Returns the first of these confirmations or refits that is there."""
        known = (self.others[name] for name in names if name in self.others)
        found = next((one for one in known if is_confirmation(one.user_attrs)), None)
        return None if found is None else OpenStudy(self.reader, found, self.others)

    def linked_trials(self) -> Linked:
        """Reads which trials the confirmations and refits of the database have."""
        return read_linked(self.reader, self.others.values())

    def record(self, storage: str = "") -> StudyRecord:
        """Reads the study and all its trials.

        Args:
            storage: the database's URL as it may be shown.
        """
        linked = self.linked_trials() if self.stored.is_ours else {}
        return as_record(self.stored, self.trials(), storage, linked)


@contextmanager
def reading_study(name: str | None, url: str, given: StudySpec | None = None) -> Iterator[OpenStudy]:
    """Opens a study to read it; without a name, the only one in the storage, confirmations not counted.

    Args:
        given: what this machine's own study file says, which the stored study must agree with.

    Raises:
        StudyFileError: it does not.
        StudyNotFound: no study of this name (the nearest is named), or no name and not exactly one study.
        UserError: a study of several objectives that hpsearch did not make.
        StorageError, StorageAway: the database.
    """
    with read_database(url) as reader:
        study = find_study(name, reader)
        count = len(study.stored.directions)
        if count != 1 and not study.stored.is_ours:
            raise UserError(
                f'study "{study.name}" has {count} objectives, so that no trial is the best, and '
                "of such studies hpsearch reads its own only; look at it with `hpsearch dashboard`"
            )
        if given is not None:
            refuse_other(study.attrs.get(SPECIFICATION), given)
        yield study


def find_study(name: str | None, reader: Reader) -> OpenStudy:
    """Returns a study of an open database, see `reading_study`; it may have several objectives."""
    studies = {study.name: study for study in queries.studies(reader)}
    searches = [one for one in studies if linked_to(one, studies) is None]
    if name is None and len(searches) == 1:
        name = searches[0]
    if name is None or name not in studies:
        raise StudyNotFound(_not_found(name, searches if name is None else list(studies), reader.url))
    return OpenStudy(reader, studies[name], studies)


def _texts(value: Any) -> list[str]:
    return list(map(str, value)) if isinstance(value, list) else []


def complete_trial(
    reader: Reader, study_id: int, foreign: Mapping[int, str], number: int | None
) -> StoredTrial | None:
    """Reads one of a study's own COMPLETE trials; None if there is none of this number."""
    trial = None if number is None else queries.trial_of_number(reader, study_id, number)
    return (
        trial if trial is not None and trial.trial_id not in foreign and trial.state == "COMPLETE" else None
    )


def complete_hparams(
    reader: Reader, study_id: int, foreign: Mapping[int, str], number: int
) -> Mapping[str, Any] | None:
    """Reads the hyperparameters of such a trial."""
    trial = complete_trial(reader, study_id, foreign, number)
    return None if trial is None else trial.hparams


def read_study(name: str | None, url: str, storage: str = "") -> StudyRecord:
    """Reads a study, see `reading_study` and `OpenStudy.record`."""
    with reading_study(name, url) as study:
        return study.record(storage)


def read_linked(reader: Reader, studies: Iterable[StoredStudy]) -> Linked:
    """Returns which of a database's studies are confirmations or refits, by name and form; no curve is read."""
    return {
        study.name: queries.complete_attribute(reader, study.study_id, CONFIRMS)
        for study in studies
        if linked_suffix(study.name) and is_confirmation(study.user_attrs)
    }


def linked_to(name: str, studies: Mapping[str, StoredStudy]) -> str | None:
    """Returns the search whose confirmation or refit a study is, if it is there too; None for a study of its own."""
    search = name.removesuffix(linked_suffix(name) or name)
    return search if search in studies and is_confirmation(studies[name].user_attrs) else None


def _not_found(name: str | None, names: list[str], url: str) -> str:
    if not names:
        return f"there are no studies in {url}"
    if name is None:
        return f"there are {len(names)} studies in {url}; name one of them: {', '.join(sorted(names))}"
    return f'no study "{name}" in {url}; {nearest(name, names)}'
