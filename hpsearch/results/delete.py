"""Removes a study for good: its rows, its checkpoints and weights, its artifacts."""

import logging
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.storages import RDBStorage

from hpsearch.errors import UserError
from hpsearch.results.listing import own_folder
from hpsearch.results.reading import opened
from hpsearch.results.status import driver_rows, find_row
from hpsearch.search.identity import DriverIdentity
from hpsearch.search.ledger import Ledger
from hpsearch.search.storage import translated
from hpsearch.search.tables import DriverState
from hpsearch.spec.folders import RunFolder

logger = logging.getLogger(__name__)

_ARTIFACT = "artifacts:"  # prefix of Optuna's system attributes that describe artifacts


@dataclass(frozen=True, slots=True)
class Deletion:
    """What would go with a study; `folder` is None when there is none on this machine."""

    name: str
    study_id: int
    trials: int
    folder: Path | None
    size: int
    artifacts: tuple[Path, ...]


def plan_deletion(name: str, url: str, run_folder: Path) -> Deletion:
    """Says what would be deleted.

    Raises:
        StudyNotFound: no study of this name.
        UserError: a live driver runs the study.
    """
    with opened(url) as storage:
        row = find_row(name, storage, run_folder)
        for driver in driver_rows(storage, row.study_id):
            if driver.state is DriverState.ALIVE:
                host = driver.identity.host.partition("/")[0]
                raise UserError(
                    f'study "{name}" is being run by process {driver.identity.pid} on {host}; '
                    f"stop it first: hpsearch stop {name}"
                )
        folder = own_folder(RunFolder(run_folder, name))
        artifacts = tuple(_artifact_files(storage, row.study_id, RunFolder(run_folder, name).artifacts))
        return Deletion(
            name, row.study_id, sum(row.counts.values()), folder, row.size if folder else 0, artifacts
        )


def delete_study(deletion: Deletion, url: str) -> None:
    """Deletes what `plan_deletion` found: the rows first, so that nothing refers to files that are gone.

    Raises:
        UserError: files that cannot be removed; the study is gone from the database then.
        StorageError, StorageAway: the database.
    """
    with opened(url, readonly=False) as storage, translated(storage):
        Ledger(storage, DriverIdentity.here()).forget_study(deletion.study_id)
        optuna.delete_study(study_name=deletion.name, storage=storage)
    try:
        if deletion.folder is not None:
            shutil.rmtree(deletion.folder)
        for path in deletion.artifacts:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot remove {error.filename}: {error.strerror}; remove it by hand") from None


def _artifact_files(storage: RDBStorage, study_id: int, folder: Path) -> Iterable[Path]:
    with translated(storage):
        attrs = [storage.get_study_system_attrs(study_id)]
        attrs += [trial.system_attrs for trial in storage.get_all_trials(study_id, deepcopy=False)]
    for keys in attrs:
        for key in keys:
            name = key.removeprefix(_ARTIFACT)
            # A row of the database must not name a file outside of the folder.
            if key.startswith(_ARTIFACT) and _is_uuid(name) and (folder / name).is_file():
                yield folder / name


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
