"""The database loses the study while it runs: nothing is lost, and the next run brings it back."""

import json
import re
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from hpsearch.contracts.executor import Workers
from hpsearch.errors import StorageError, StudyFileError
from hpsearch.files.run_folder import RunFolder
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.store import sqlite as sqlite_file
from hpsearch.store.connection import open_storage, reading
from tests.databases import stored_trials
from tests.service.curves import CurveExecutor, falling
from tests.service.test_driver import spec_of


class Accident(CurveExecutor):
    """`act` happens once so many trials have ended in the database."""

    def __init__(self, act, url, after):
        super().__init__(falling)
        self.act, self.url, self.after, self.seen = act, url, after, {}

    def receive(self, timeout):
        if self.act is not None and self.log:
            self.seen = {t.number: t for t in stored_trials(self.url, "s") if t.state.is_finished()}
            if len(self.seen) >= self.after:
                act, self.act = self.act, None
                act(self.url)
        return super().receive(timeout)


def run_at(url, tmp_path, executor=None, **study):
    workers = Workers(gpus="none", workers=2)
    # Where a study was deleted, its driver counts as alive as long as its process, which is that of the tests.
    options = RunOptions(url, tmp_path, workers=workers, lease_seconds=5.0)
    executor = executor or CurveExecutor(falling)
    return run(spec_of(study={"trials": 9, **study}), options, (), executor)


def file_of(url):
    return Path(url.removeprefix("sqlite:///"))


def remove(url):
    for path in file_of(url).parent.glob("study.db*"):
        path.unlink()


def move(url):
    file_of(url).rename(file_of(url).with_name("elsewhere.db"))


def empty(url):
    file_of(url).write_bytes(b"")


def make_anew(url):
    remove(url)
    optuna.create_study(study_name="another", storage=url)


TABLES = [
    "trials", "trial_params", "trial_values", "trial_intermediate_values", "trial_user_attributes",
    "trial_system_attributes", "hpsearch_lease",
]  # fmt: skip


def older_copy(url):
    """What `sqlite3 hpsearch.db .restore` does: into the open file, as it was before the last trials."""
    old = file_of(url).with_name("old.db")
    with closing(sqlite3.connect(file_of(url))) as here, closing(sqlite3.connect(old)) as there:
        here.backup(there)
        for table in TABLES:
            there.execute(f"DELETE FROM {table} WHERE trial_id > 3")
        there.commit()
        there.backup(here)


class Overwritten(Accident):
    """The file is copied once so many trials have ended, and copied back in place some trials later.

    Args:
        by: makes the copy.
    """

    def __init__(self, url, by, after, later):
        super().__init__(by, url, after)
        self.later = later

    def receive(self, timeout):
        if self.act is None and self.later:
            self.act, self.after, self.later = copy_back, self.later, 0
        return super().receive(timeout)


def copy_file(url):
    """As `cp hpsearch.db old.db` does, which leaves out the log."""
    subprocess.run(["cp", file_of(url), file_of(url).with_name("old.db")], check=True)


def copy_database(url):
    old = file_of(url).with_name("old.db")
    with closing(sqlite3.connect(file_of(url))) as here, closing(sqlite3.connect(old)) as there:
        here.backup(there)


def copy_back(url):
    """Puts the copy back; its driver's process, which is that of the tests, counts as one that has ended."""
    with closing(sqlite3.connect(file_of(url).with_name("old.db"))) as old, old:
        old.execute("UPDATE hpsearch_driver SET pid = 99999999")
    subprocess.run(["cp", file_of(url).with_name("old.db"), file_of(url)], check=True)


def delete_study(url):
    storage = open_storage(url)
    optuna.delete_study(study_name="s", storage=storage)
    storage.engine.dispose()


def check(url, tmp_path, act, after=4, accident=None):
    accident = accident or Accident(act, url, after)
    summary = run_at(url, tmp_path, accident)
    assert accident.act is None
    assert summary.exit_status == 1
    assert summary.can_go_on
    assert summary.lost
    (path,) = RunFolder(tmp_path, "s").unsaved()
    assert str(path) in summary.reason
    assert "run the study again" in summary.reason
    head, *rows = map(json.loads, path.read_text().splitlines())
    assert head["study"] == "s"
    kept = {row["number"]: row["value"] for row in rows if row["state"] != "RUNNING"}
    assert kept.items() >= {number: trial.value for number, trial in accident.seen.items()}.items()
    again, damage = None, ""
    try:
        again = run_at(url, tmp_path)
    except StorageError as error:
        damage = str(error)
    if again is None:  # an empty file is damaged as long as SQLite has its log
        assert act is empty
        assert summary.damaged == str(file_of(url))
        # Which of its words SQLite finds depends on how much of its log it has moved.
        assert re.search("(malformed|not a database); move it away with study.db-wal", damage)
        remove(url)
        again = run_at(url, tmp_path)
    assert again.exit_status == 0
    trials = stored_trials(url, "s")
    assert [trial.number for trial in trials] == list(range(9))
    assert all(trial.state.is_finished() for trial in trials)
    assert {number: trials[number].value for number in kept} == kept
    for number, before in accident.seen.items():
        assert trials[number].params == before.params
        assert trials[number].intermediate_values == before.intermediate_values
        assert trials[number].user_attrs == before.user_attrs
    assert RunFolder(tmp_path, "s").unsaved() == []


@pytest.mark.parametrize("act", [remove, move, empty, make_anew, older_copy, delete_study])
def test_a_study_that_the_sqlite_file_loses_is_kept_and_brought_back(sqlite_url, tmp_path, act):
    check(sqlite_url, tmp_path, act)


@pytest.mark.parametrize("by", [copy_file, copy_database])
@pytest.mark.parametrize(("after", "later"), [(1, 4), (2, 7), (3, 5)])
def test_an_older_copy_written_into_the_open_sqlite_file_is_noticed(
    sqlite_url, tmp_path, monkeypatch, by, after, later
):
    monkeypatch.setattr(sqlite_file, "CHECKPOINT", 0.0)
    check(sqlite_url, tmp_path, None, accident=Overwritten(sqlite_url, by, after, later))


def test_an_overwritten_file_is_afterwards_what_was_copied_into_it(sqlite_url, tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_file, "CHECKPOINT", 0.0)
    run_at(sqlite_url, tmp_path, Overwritten(sqlite_url, copy_database, 3, 6))
    old = file_of(sqlite_url).with_name("old.db")
    with closing(sqlite3.connect(old)) as there, closing(sqlite3.connect(file_of(sqlite_url))) as here:
        assert list(here.execute("PRAGMA integrity_check")) == [("ok",)]
        for table in TABLES:
            assert list(here.execute(f"SELECT * FROM {table}")) == list(
                there.execute(f"SELECT * FROM {table}")
            ), table


def test_what_others_move_from_the_log_into_the_sqlite_file_is_no_copy(sqlite_url, tmp_path):
    """A plain script of Optuna's, which writes so much that SQLite moves its log."""
    open_storage(sqlite_url).engine.dispose()
    storage = open_storage(sqlite_url)
    writer = open_storage(sqlite_url, readonly=True)
    study = writer.create_new_study([optuna.study.StudyDirection.MINIMIZE], "plain")
    for _ in range(20):
        with reading(storage):
            pass
        writer.set_study_user_attr(study, "x", "y" * 2**21)
    with reading(storage):
        pass
    for one in (storage, writer):
        one.engine.dispose()


def test_a_move_of_the_log_that_a_reader_holds_up_is_no_copy(tmp_path, monkeypatch):
    """It changes the file, and the count that goes with it stays in the log, perhaps for long."""
    monkeypatch.setattr(sqlite_file, "_OTHERS", 0.0)
    path = tmp_path / "study.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("PRAGMA wal_autocheckpoint=0")
        writer.execute("CREATE TABLE t(a)")
        one, other = sqlite_file.DatabaseFile(path), sqlite_file.DatabaseFile(path)
        assert one.check() == other.check() == ""
        writer.execute("INSERT INTO t VALUES (1)")
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM t").fetchall()
            monkeypatch.setattr(sqlite_file, "CHECKPOINT", 0.0)
            before = path.stat().st_mtime_ns
            assert [one.check() for _ in range(2)] == ["", ""]  # sees the other's move, then moves
            assert path.stat().st_mtime_ns != before
        monkeypatch.setattr(sqlite_file, "CHECKPOINT", 3600.0)
        assert [other.check() for _ in range(3)] == ["", "", ""]


def test_a_first_move_of_the_log_that_a_reader_holds_up_is_no_copy(tmp_path):
    """Two drivers begin a new file: the first one's count has not reached the file when the second one counts."""
    path = tmp_path / "study.db"
    sqlite_file.turn_on_wal(path, 5.0)
    one, other = sqlite_file.DatabaseFile(path), sqlite_file.DatabaseFile(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("CREATE TABLE t(a)")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM t").fetchall()
        assert one.check() == ""
        reader.execute("COMMIT")
        assert other.check() == ""
        assert one.check() == ""


def test_a_study_that_a_server_loses_is_kept_and_brought_back(server_database_url, tmp_path):
    check(server_database_url, tmp_path, delete_study)


def test_it_is_noticed_at_the_very_end(sqlite_url, tmp_path):
    check(sqlite_url, tmp_path, remove, after=8)


DAMAGES = [
    (0, "format", 2),
    (0, "attributes", [[1]]),
    (0, "system_attributes", True),
    (1, "number", None),
    (1, "number", "x"),
    (1, "number", -1),
    (1, "number", 10**9),
    (1, "state", "DONE"),
    (1, "value", [[1]]),
    (1, "value", 1e400),
    (1, "params", {"learning_rate": 1e400}),
    (1, "params", {"other": 1.0}),
    (1, "distributions", "x"),
    (1, "distributions", {"learning_rate": "[]"}),
    (1, "values", {"a": 1}),
    (1, "attributes", [[1]]),
    (1, "system_attributes", "x"),
    (1, "started", 10**30),
    (1, "ended", {}),
]


def test_unsaved_trials_of_another_specification_are_not_lost_by_a_new_study(sqlite_url, tmp_path):
    run_at(sqlite_url, tmp_path, Accident(remove, sqlite_url, 4))
    (path,) = RunFolder(tmp_path, "s").unsaved()
    options = RunOptions(sqlite_url, tmp_path, workers=Workers(gpus="none", workers=2))
    with pytest.raises(StudyFileError, match=r"unsaved-.*jsonl: it holds \d+ unsaved trials of a study"):
        run(spec_of(early_stopping={"patience": 4}), options, (), CurveExecutor(falling))
    whole = path.read_text().splitlines()
    for line, field, value in DAMAGES:
        row = json.loads(whole[line]) | {field: value}
        path.write_text("\n".join([*whole[:line], json.dumps(row), *whole[line + 1 :]]))
        with pytest.raises(StudyFileError) as refused:
            run_at(sqlite_url, tmp_path)
        assert f"{path}: it holds unsaved trials, but line {line + 1} cannot be read: " in str(refused.value)
    path.write_text("")
    with pytest.raises(
        StudyFileError, match=r"unsaved-.*jsonl: it holds unsaved trials, but line 1 cannot be read"
    ):
        run_at(sqlite_url, tmp_path)
    assert path.exists()
