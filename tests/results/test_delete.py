"""Deleting takes rows, files and artifacts of the study, and nothing else."""

import json
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from sqlalchemy import func, select

from hpsearch.errors import StudyNotFound, UserError
from hpsearch.files.run_folder import RunFolder
from hpsearch.results.commands.delete import delete_study, deletion_text, deletion_warnings, plan_deletion
from hpsearch.results.stored.listing import list_studies
from hpsearch.results.stored.status import request_stop, study_status
from hpsearch.service.keeper import WeightsKeeper
from hpsearch.store.connection import open_storage, opened, reading
from hpsearch.store.identity import DriverIdentity
from hpsearch.store.ledger import Ledger
from hpsearch.store.schema import LEASE
from hpsearch.study import CheckpointSpec
from tests.results.stored import make_study


def with_folder(url: str, runs: Path, name: str) -> optuna.Study:
    """Makes a study whose folder is marked as its own, with weights, as a driver does."""
    study = make_study(url, name)
    ledger = Ledger(open_storage(url), DriverIdentity.here())
    ledger.claim(study._study_id, 4)
    folder = RunFolder(runs, name)
    WeightsKeeper(folder, CheckpointSpec(), "minimize").take_folder(ledger.token(study._study_id), url, {})
    folder.weights(1).parent.mkdir()
    folder.weights(1).write_bytes(b"w")
    return study


def test_everything_of_the_study_goes_and_nothing_else(sqlite_url: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("one", "two"):
        study = with_folder(sqlite_url, runs, name)
        (runs / "artifacts").mkdir(exist_ok=True)
        upload_artifact(
            file_path=str(runs / name / "weights" / "trial-00001.safetensors"),
            study_or_trial=study,
            artifact_store=FileSystemArtifactStore(str(runs / "artifacts")),
        )
    assert len(list((runs / "artifacts").iterdir())) == 2

    deletion = plan_deletion("one", sqlite_url, runs)
    assert (deletion.trials, len(deletion.artifacts)) == (5, 1)
    delete_study(deletion, sqlite_url)

    assert not (runs / "one").exists()
    assert (runs / "two" / "weights" / "trial-00001.safetensors").exists()
    assert len(list((runs / "artifacts").iterdir())) == 1
    with pytest.raises(StudyNotFound):
        plan_deletion("one", sqlite_url, runs)
    assert plan_deletion("two", sqlite_url, runs).trials == 5
    with reading(open_storage(sqlite_url)) as connection:
        assert connection.scalar(select(func.count()).select_from(LEASE)) == 1


def test_the_confirmation_and_the_record_of_openings_go_too(sqlite_url: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with_folder(sqlite_url, runs, "one").set_user_attr("test_openings", json.dumps([{"time": "t"}] * 2))
    with_folder(sqlite_url, runs, "one.confirm")
    with_folder(sqlite_url, runs, "one.more")
    deletion = plan_deletion("one", sqlite_url, runs)
    text = deletion_text(deletion)
    assert "the record of 2 openings of the test part" in text
    assert 'its confirmation: study "one.confirm" with 5 trials' in text
    delete_study(deletion, sqlite_url)
    assert [path.name for path in runs.iterdir()] == ["one.more"]
    with opened(sqlite_url) as storage:
        assert [study.study_name for study in storage.get_all_studies()] == ["one.more"]


def test_a_study_of_its_own_is_not_taken_for_a_confirmation(sqlite_url: str, tmp_path: Path) -> None:
    make_study(sqlite_url, "one")
    make_study(sqlite_url, "one.confirm", own=True)
    assert [row.confirms for row in list_studies(sqlite_url, tmp_path)] == [None, None]
    deletion = plan_deletion("one", sqlite_url, tmp_path)
    assert deletion.linked == ()
    delete_study(deletion, sqlite_url)
    assert plan_deletion("one.confirm", sqlite_url, tmp_path).trials == 5


def test_a_confirmation_is_deleted_alone(sqlite_url: str, tmp_path: Path) -> None:
    for name in ("one", "one.confirm"):
        with_folder(sqlite_url, tmp_path, name)
    delete_study(plan_deletion("one.confirm", sqlite_url, tmp_path), sqlite_url)
    assert plan_deletion("one", sqlite_url, tmp_path).linked == ()
    assert RunFolder(tmp_path, "one").weights(1).exists()


def test_the_folder_of_another_databases_study_stays(sqlite_url: str, tmp_path: Path) -> None:
    """Two databases, one run folder, one name: the folder goes with the study that it belongs to."""
    runs, other = tmp_path / "runs", f"sqlite:///{tmp_path}/other.db"
    with_folder(sqlite_url, runs, "one")
    make_study(other, "one")
    deletion = plan_deletion("one", other, runs)
    assert (deletion.folder, deletion.size) == (None, 0)
    (warning,) = deletion_warnings(deletion)
    assert f"{runs / 'one'} stays" in warning
    delete_study(deletion, other)
    assert RunFolder(runs, "one").weights(1).exists()
    deletion = plan_deletion("one", sqlite_url, runs)
    assert (deletion.folder, deletion_warnings(deletion)) == (runs / "one", [])


@pytest.mark.parametrize("owner", [None, "", "[]", "{}", '{"token": null}'])
def test_a_folder_that_does_not_say_whose_it_is_stays(
    sqlite_url: str, tmp_path: Path, owner: str | None
) -> None:
    with_folder(sqlite_url, tmp_path, "one")
    path = RunFolder(tmp_path, "one").owner
    path.unlink()
    if owner is not None:
        path.write_text(owner, encoding="utf-8")
    assert plan_deletion("one", sqlite_url, tmp_path).foreign == tmp_path / "one"


def test_a_study_deleted_or_begun_meanwhile(sqlite_url: str, tmp_path: Path) -> None:
    study = make_study(sqlite_url, "one")
    deletion = plan_deletion("one", sqlite_url, tmp_path)
    ledger = Ledger(open_storage(sqlite_url), DriverIdentity.here())
    ledger.register(study._study_id, json.dumps(["cpu x1"]))
    with pytest.raises(UserError, match="being run by process"):
        delete_study(deletion, sqlite_url)
    ledger.unregister()
    delete_study(deletion, sqlite_url)
    with pytest.raises(StudyNotFound, match=r'study "one" was deleted from .* meanwhile'):
        delete_study(deletion, sqlite_url)


@pytest.mark.parametrize("name", ["..", "../elsewhere", "cache", "artifacts", "sub/other"])
def test_a_name_that_leads_elsewhere_takes_no_files(sqlite_url: str, tmp_path: Path, name: str) -> None:
    runs = tmp_path / "a" / "runs"
    runs.mkdir(parents=True)
    victim = runs / name
    victim.mkdir(parents=True, exist_ok=True)
    (victim / "precious").write_text("x", encoding="utf-8")
    with opened(sqlite_url, readonly=False) as storage:
        study = optuna.create_study(study_name=name, storage=storage)
        storage.set_study_system_attr(study._study_id, f"artifacts:../{name}/precious", "{}")
    deletion = plan_deletion(name, sqlite_url, runs)
    assert (deletion.folder, deletion.artifacts) == (None, ())
    delete_study(deletion, sqlite_url)
    assert (victim / "precious").exists()


def test_a_running_study_is_not_deleted_but_asked_to_stop(sqlite_url: str, tmp_path: Path) -> None:
    study = make_study(sqlite_url, "one")
    ledger = Ledger(open_storage(sqlite_url), DriverIdentity.here())
    assert request_stop("one", sqlite_url, tmp_path) == 0
    ledger.register(study._study_id, json.dumps(["cpu x1"]))
    begun = ledger.now()
    with pytest.raises(
        UserError, match=r"being run by process \d+ on .*; stop it first: `hpsearch stop one`"
    ):
        plan_deletion("one", sqlite_url, tmp_path)
    assert not ledger.stop_requested(study._study_id, begun)
    assert request_stop("one", sqlite_url, tmp_path) == 1
    assert ledger.stop_requested(study._study_id, begun)
    ledger.unregister()
    assert plan_deletion("one", sqlite_url, tmp_path).trials == 5

    linked = make_study(sqlite_url, "one.confirm")
    ledger.register(linked._study_id, json.dumps(["cpu x1"]))
    with pytest.raises(UserError, match=r'study "one.confirm" is being run .*: `hpsearch stop one.confirm`'):
        plan_deletion("one", sqlite_url, tmp_path)


def test_the_status_shows_drivers_and_workers(sqlite_url: str, tmp_path: Path) -> None:
    study = make_study(sqlite_url, "one")
    assert study_status("one", sqlite_url, tmp_path).drivers == ()
    ledger = Ledger(open_storage(sqlite_url), DriverIdentity.here())
    ledger.register(study._study_id, json.dumps(["cpu x1"]))
    worker = {
        "worker": 0, "phase": "training", "device": "cpu", "trial": 4, "epoch": 3, "epochs": 9,
        "since": 0.0, "attempt": 2, "pid": 1,
    }  # fmt: skip
    ledger.beat(json.dumps([worker]))
    status = study_status("one", sqlite_url, tmp_path)
    (driver,) = status.drivers
    (shown,) = driver.workers
    assert (driver.state, driver.devices) == ("alive", ("cpu x1",))
    assert (shown.trial, shown.epoch, shown.epochs, shown.attempt, shown.memory_mb) == (4, 3, 9, 2, None)
    assert shown.seconds is not None
    assert shown.seconds > 1e9
    with pytest.raises(StudyNotFound, match='did you mean "one"'):
        study_status("onne", sqlite_url, tmp_path)
