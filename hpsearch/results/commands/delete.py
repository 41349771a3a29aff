"""Removes a study for good: its rows, its checkpoints and weights, its artifacts, and what belongs to it."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage

from hpsearch.errors import StorageError, StudyNotFound, UserError
from hpsearch.files.run_folder import RunFolder, read_owner
from hpsearch.results.confirm.linked import OPENINGS
from hpsearch.results.stored.answer import REFIT
from hpsearch.results.stored.attributes import decoded
from hpsearch.results.stored.listing import own_folder, study_rows
from hpsearch.results.stored.reading import find_study, linked_to
from hpsearch.results.stored.status import living_drivers
from hpsearch.results.terminal.lines import size
from hpsearch.store import queries
from hpsearch.store.connection import opened, reading, translated
from hpsearch.store.identity import DriverIdentity
from hpsearch.store.keys import ARTIFACT, TOKEN, is_artifact
from hpsearch.store.ledger import Ledger
from hpsearch.store.reader import Reader, reader_of
from hpsearch.store.trials import shared_weights
from hpsearch.store.url import redact
from hpsearch.study.specification import REFIT_SUFFIX, linked_kind
from hpsearch.text import counted


@dataclass(frozen=True, slots=True)
class Deletion:
    """What would go with a study.

    Attributes:
        folder: None when it has none on this machine.
        foreign: a folder of the study's name that stays, since it is not known to be the study's.
        shared: its folder that stays, since a copy of the study in the database names weights in it.
        openings: how often the test part was opened; the record of that goes with the study.
        linked: the study's confirmation and refit, which go too.
    """

    name: str
    study_id: int
    trials: int
    folder: Path | None
    foreign: Path | None
    size: int
    artifacts: tuple[Path, ...]
    shared: Path | None = None
    openings: int = 0
    linked: "tuple[Deletion, ...]" = ()


def plan_deletion(name: str, url: str, run_folder: Path) -> Deletion:
    """Says what would be deleted.

    Raises:
        StudyNotFound: no study of this name.
        UserError: a live driver runs the study, its confirmation or its refit.
    """
    with opened(url) as storage, reader_of(storage) as reader:
        studies = {study.name: study for study in queries.studies(reader)}
        go_too = [other for other in studies if linked_to(other, studies) == name]
        linked = tuple(_plan(other, storage, reader, run_folder) for other in go_too)
        return _plan(name, storage, reader, run_folder, linked)


def _plan(
    name: str, storage: RDBStorage, reader: Reader, run_folder: Path, linked: tuple[Deletion, ...] = ()
) -> Deletion:
    (row,) = study_rows(reader, run_folder, name)
    _refuse_running(reader, name, row.study_id)
    openings = _openings(name, find_study(name, reader).attrs)
    token = queries.system_attrs(reader, row.study_id, TOKEN).get(TOKEN)
    place = RunFolder(run_folder, name)
    folder = own_folder(place)
    is_owner = folder is not None and token is not None and (read_owner(folder) or {}).get("token") == token
    with reading(storage) as connection:
        named = shared_weights(connection, row.study_id)
    is_shared = is_owner and any(place.names(path) & named for _, path in place.kept_weights())
    goes = is_owner and not is_shared
    return Deletion(
        name,
        row.study_id,
        sum(row.counts.values()) + row.foreign,
        folder if goes else None,
        None if is_owner else folder,
        row.size if goes else 0,
        tuple(_artifact_files(reader, row.study_id, place.artifacts)),
        folder if is_shared else None,
        openings,
        linked,
    )


def _openings(name: str, attrs: Mapping[str, Any]) -> int:
    """Returns how often the test part was opened; a damaged record of that must not keep a study from going."""
    try:
        return len(decoded(name, attrs, OPENINGS, list, []))
    except StorageError:
        return 0


def _refuse_running(reader: Reader, name: str, study_id: int) -> None:
    for driver in living_drivers(reader, study_id):
        host = driver.identity.host.partition("/")[0]
        raise UserError(
            f'study "{name}" is being run by process {driver.identity.pid} on {host}; '
            f"stop it first: `hpsearch stop {name}`"
        )


def delete_study(deletion: Deletion, url: str) -> None:
    """Deletes what `plan_deletion` found; those linked to it first, so that a second try finds all.

    Raises:
        StudyNotFound: it was deleted meanwhile.
        UserError: a driver has begun to run it meanwhile; or files that cannot be removed, and then the study
            is gone from the database.
        StorageError, StorageAway: the database.
    """
    for linked in deletion.linked:
        delete_study(linked, url)
    # The rows first, so that nothing refers to files that are gone.
    with opened(url, readonly=False) as storage, translated(storage):
        with reader_of(storage) as reader:
            _refuse_running(reader, deletion.name, deletion.study_id)
            _forget_refit(storage, reader, deletion.name)
        Ledger(storage, DriverIdentity.here()).forget_study(deletion.study_id)
        try:
            optuna.delete_study(study_name=deletion.name, storage=storage)
        except KeyError:
            where = redact(storage.url)
            raise StudyNotFound(f'study "{deletion.name}" was deleted from {where} meanwhile') from None
    try:
        if deletion.folder is not None:
            shutil.rmtree(deletion.folder)
        for path in deletion.artifacts:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot remove {error.filename}: {error.strerror}; remove it by hand") from None


def _forget_refit(storage: RDBStorage, reader: Reader, name: str) -> None:
    """Lets a search no longer name the refit that goes."""
    studies = {study.name: study for study in queries.studies(reader)}
    search = linked_to(name, studies)
    if search is not None and name.endswith(REFIT_SUFFIX) and REFIT in studies[search].user_attrs:
        storage.set_study_user_attr(studies[search].study_id, REFIT, None)


def _artifact_files(reader: Reader, study_id: int, folder: Path) -> Iterable[Path]:
    """Yields the files of the study's artifacts that no other study names; a copy of it names the same."""
    for key in queries.artifacts(reader, study_id) - queries.artifacts(reader, study_id, elsewhere=True):
        name = key.removeprefix(ARTIFACT)
        # A row of the database must not name a file outside of the folder.
        if is_artifact(name) and (folder / name).is_file():
            yield folder / name


def deletion_text(deletion: Deletion) -> str:
    """Returns what would go, for a question and an answer."""
    parts = [f'study "{deletion.name}" with {counted(deletion.trials, "trial")}']
    if deletion.folder is not None:
        parts.append(f"{deletion.folder} ({size(deletion.size)})")
    if deletion.artifacts:
        parts.append(counted(len(deletion.artifacts), "artifact"))
    if deletion.openings:
        parts.append(f"the record of {counted(deletion.openings, 'opening')} of the test part")
    linked = [f"its {linked_kind(one.name)}: {deletion_text(one)}" for one in deletion.linked]
    return "; ".join([", ".join(parts), *linked])


def deletion_warnings(deletion: Deletion) -> list[str]:
    """Returns what stays although it bears the study's name."""
    shared = [
        f'{one.shared} stays: a copy of the study "{one.name}" in the database names weights in it'
        for one in (deletion, *deletion.linked)
        if one.shared is not None
    ]
    return shared + [
        f'{one.foreign} stays: nothing in it says that it belongs to this study "{one.name}" and not to one '
        "of another database; remove it by hand if nobody needs it"
        for one in (deletion, *deletion.linked)
        if one.foreign is not None
    ]
