"""The storage is opened with clear sentences, and what `TrialWriter` stores equals what Optuna stores."""

import os
import sqlite3
import subprocess
import sys
import time
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from sqlalchemy import text

from hpsearch.errors import HpsearchError, StorageAway, StorageError, StudyNotFound
from hpsearch.store import connection as storage_module
from hpsearch.store import writes
from hpsearch.store.connection import open_storage, reading, translated, writing
from hpsearch.store.schema import create_tables
from hpsearch.store.trials import create_trial
from hpsearch.store.url import read_storage_url, redact
from hpsearch.store.writes import Report, TrialWriter
from tests.databases import proxied

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann:s3cr3t@host/db", "postgresql://ann:***@host/db"),
        ("mysql+pymysql://ann:s3cr3t@host:3306/db", "mysql+pymysql://ann:***@host:3306/db"),
        ("postgresql://ann:a@b/s3cr3t@host/db", "postgresql://ann:***@host/db"),
        ("postgresql://ann:a?s3cr3t@host/db", "postgresql://ann:***@host/db"),
        ("postgresql://:s3cr3t@host/db", "postgresql://:***@host/db"),
        (
            "postgresql://host/db?user=ann&password=s3cr3t&x=1",
            "postgresql://host/db?user=ann&password=***&x=1",
        ),
        ("ann:s3cr3t@host", "ann:***@host"),
        ("sqlite:////home/a:b@c/x.db", "sqlite:////home/a:b@c/x.db"),
        ("postgresql://ann@host:5432/db", "postgresql://ann@host:5432/db"),
        ("sqlite:///runs/hpsearch.db", "sqlite:///runs/hpsearch.db"),
    ],
)
def test_redact_hides_every_password(url: str, shown: str) -> None:
    assert redact(url) == shown


@pytest.mark.parametrize(
    ("option", "from_file", "environ", "url"),
    [
        ("mysql://a/b", False, {"HPSEARCH_STORAGE": "no"}, "mysql://a/b"),
        (None, True, {"HPSEARCH_STORAGE": "no"}, "postgresql://in/file"),
        (None, False, {"HPSEARCH_STORAGE": "a/b.db"}, "sqlite:///a/b.db"),
        ("/x/y.sqlite3", False, {}, "sqlite:////x/y.sqlite3"),
        (None, False, {"HPSEARCH_STORAGE_FILE": "FILE"}, "postgresql://in/file"),
        (None, False, {}, "sqlite:///runs/hpsearch.db"),
    ],
)
def test_url_comes_from_the_flags_then_the_environment(
    tmp_path: Path, option: str | None, from_file: bool, environ: dict[str, str], url: str
) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://in/file\n")
    environ = {name: value.replace("FILE", str(file)) for name, value in environ.items()}
    assert read_storage_url(option, file if from_file else None, environ) == url


@pytest.mark.parametrize("content", [None, "", "two\nlines"])
def test_unusable_storage_file_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "url"
    if content is not None:
        file.write_text(content)
    with pytest.raises(StorageError, match=r"--storage-file.*url"):
        read_storage_url(None, file, {})
    with pytest.raises(StorageError, match="only one"):
        read_storage_url("a.db", file, {})


def everything_in(error: BaseException) -> str:
    """All that a traceback, or an error behind the error, could show."""
    shown = "".join(traceback.format_exception(error))
    behind: BaseException | None = error
    while behind is not None:
        shown += f"{behind!r} {behind} {vars(behind)}"
        behind = behind.__cause__ or behind.__context__
    return shown


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"postgresql://ann:{SECRET}@127.0.0.1:1/db", "127.0.0.1"),
        (f"mysql://ann:{SECRET}@127.0.0.1:1/db", "127.0.0.1"),
        (f"postgresql://ann:{SECRET}@host:port/db", "is not a URL"),
        (f"ann:{SECRET}@host", "is not a URL"),
        (f"oracle://ann:{SECRET}@host/db", "unknown database 'oracle'"),
        (f"postgresqll://ann:{SECRET}@host/db", 'did you mean "postgresql"'),
        (f"postgresql://ann:x@{SECRET}@host/db", r"the password holds an unescaped @; write it as %40"),
        (f"postgresql+asyncpg://ann:{SECRET}@host/db", r'pip install "hpsearch\[postgres\]"'),
        (f"mysql+mysqldb://ann:{SECRET}@host/db", r'pip install "hpsearch\[mysql\]"'),
        ("sqlite://", "name a file"),
    ],
)
def test_wrong_urls_give_one_sentence_without_the_password(url: str, words: str) -> None:
    with pytest.raises(StorageError, match=words) as caught:
        open_storage(url, timeout=1.0)
    assert "\n" not in str(caught.value)
    assert SECRET not in everything_in(caught.value)


@pytest.mark.parametrize(("module", "extra"), [("psycopg", "postgres"), ("pymysql", "mysql")])
def test_driver_that_is_not_installed_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "hpsearch.store.postgres", raising=False)
    kind = "postgresql" if extra == "postgres" else "mysql"
    with pytest.raises(StorageError, match=rf"hpsearch\[{extra}\]") as caught:
        open_storage(f"{kind}://ann:{SECRET}@127.0.0.1/db")
    assert SECRET not in everything_in(caught.value)


def test_wrong_password_is_said_without_it(server_database_url: str) -> None:
    # Needs a user of its own: the servers of the tests trust their administrators.
    kind = server_database_url.split(":")[0]
    admin = open_storage(server_database_url)
    account = "hpsearch_test_ann" if kind == "postgresql" else "hpsearch_test_ann@'127.0.0.1'"
    make = (
        "CREATE USER hpsearch_test_ann NOLOGIN"
        if kind == "postgresql"
        else f"CREATE USER IF NOT EXISTS {account} IDENTIFIED BY 'another'"
    )
    with admin.engine.begin() as connection:
        connection.execute(text(make))
    host = server_database_url.split("@")[1]
    try:
        with pytest.raises(
            StorageError, match=r"not permitted|Access denied|authentication failed"
        ) as caught:
            open_storage(f"{kind}://hpsearch_test_ann:{SECRET}@{host}")
    finally:
        with admin.engine.begin() as connection:
            connection.execute(text(f"DROP USER {account}"))
        admin.engine.dispose()
    assert SECRET not in everything_in(caught.value)


def test_password_with_any_characters_reaches_the_server(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("SQLite has no passwords")
    seen: list[str] = []

    def remember(url: str, **options: Any) -> RDBStorage:
        seen.append(url.format(SCHEMA_VERSION=12))
        raise RuntimeError("enough")

    monkeypatch.setattr(storage_module, "_Storage", remember)
    user = database_url.replace("@", ":p%40{}%25@")
    with pytest.raises(StorageError, match="enough"):
        open_storage(user)
    assert storage_module.make_url(seen[0]).password == "p@{}%"


def unwritable_folder(tmp_path: Path) -> Path:
    if os.geteuid() == 0:
        return Path("/proc")  # the administrator may write into every folder but a virtual one
    (tmp_path / "folder").mkdir(mode=0o555)
    return tmp_path / "folder"


def test_sqlite_files_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database at all, " * 100)
    (tmp_path / "file").write_text("")
    for path, words in [
        (tmp_path / "text.db", "not a database"),
        (tmp_path / "file" / "x.db", "Not a directory|File exists"),
        (tmp_path, "unable to open"),
        (unwritable_folder(tmp_path) / "x.db", "unable to open|readonly|read-only"),
    ]:
        with pytest.raises(StorageError, match=words) as caught:
            open_storage(f"sqlite:///{path}", timeout=0.5)
        assert str(path) in str(caught.value)


def test_sqlite_parent_folder_is_made_and_wal_is_on(tmp_path: Path) -> None:
    storage = open_storage(f"{tmp_path}/a/b/study.db")
    with storage.engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA synchronous")) == 1
    storage.engine.dispose()


def test_readers_refuse_a_database_without_studies(database_url: str) -> None:
    with pytest.raises(StudyNotFound, match="no studies yet") as caught:
        open_storage(database_url, readonly=True)
    assert "study.db" in str(caught.value) or "hpsearch_test" in str(caught.value)
    open_storage(database_url).engine.dispose()
    open_storage(database_url, readonly=True).engine.dispose()


def test_the_versions_of_the_tables_are_read_once(sqlite_url: str) -> None:
    storage_module._versions.cache_clear()
    for _ in range(2):
        open_storage(sqlite_url).engine.dispose()
    read = storage_module._versions.cache_info()
    assert read.misses == 1
    assert read.hits > 0


def test_newer_tables_are_refused(storage: RDBStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes, "KNOWN_SCHEMA", (12, "v2.6.0.a"))
    with pytest.raises(StorageError, match=r"v3\.2\.0\.a.*optuna"):
        TrialWriter(storage)
    with storage.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'v9'"))
    with pytest.raises(StorageError, match="compatible"):
        open_storage(storage.engine.url.render_as_string(hide_password=False), timeout=0.5)


OPEN = """
import sys
from hpsearch.store.connection import open_storage
from hpsearch.store.schema import create_tables
print("ready", flush=True)
sys.stdin.readline()
storage = open_storage(sys.argv[1])
create_tables(storage)
print(storage.get_current_version())
"""


@pytest.mark.slow
def test_several_processes_create_the_tables_at_once(database_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", OPEN, database_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(4)
    ]
    for process in processes:  # all have imported what they need before the first one begins
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60) for process in processes]
    assert [out.strip() for out, _ in answers] == ["v3.2.0.a"] * 4, answers[0][1]


def test_sqlite_writer_locks_at_the_start_and_readers_do_not_wait(sqlite_url: str) -> None:
    storage = open_storage(sqlite_url, timeout=0.2)
    reader = open_storage(sqlite_url, readonly=True, timeout=0.2)
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert reader.get_all_studies() == []
        with reading(storage) as connection:
            assert connection.scalar(text("SELECT count(*) FROM studies")) == 0
        with pytest.raises(StorageAway, match=r"study\.db.*locked.*Ctrl-Z"), writing(storage):
            pass
        with pytest.raises(StorageAway, match="locked"), translated(storage):
            storage.get_all_studies()  # Optuna's own wrapping of the error
        other.execute("ROLLBACK")
    assert storage.get_all_studies() == []
    storage.engine.dispose()
    reader.engine.dispose()


def test_defects_are_not_taken_for_absence(storage: RDBStorage) -> None:
    with pytest.raises(Exception, match="SELEC") as caught, writing(storage) as connection:
        connection.execute(text("SELEC 1"))
    assert not isinstance(caught.value, HpsearchError)


def test_what_the_database_has_lost_is_told_from_its_absence(storage: RDBStorage) -> None:
    with (
        pytest.raises(StudyNotFound, match=r"was damaged or replaced: .*nowhere"),
        writing(storage) as connection,
    ):
        connection.execute(text("SELECT * FROM nowhere"))
    with pytest.raises(StudyNotFound, match="the study is gone from"), translated(storage):
        storage.get_trial(99)


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["cut", "freeze"])
def test_server_away_is_noticed_in_time_and_comes_back(server_database_url: str, trouble: str) -> None:
    with proxied(server_database_url) as line:
        storage = open_storage(line.url, timeout=4.0)
        study_id = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "study")
        create_tables(storage)
        writer = TrialWriter(storage)
        trial_id, _, _ = create_trial(storage, study_id, 1)
        getattr(line, trouble)()
        for epoch in (1, 2):  # a broken connection, then no connection
            began = time.monotonic()
            with pytest.raises(StorageAway, match="does not answer") as caught:
                writer.write([Report(trial_id, epoch, 0.5)])
            assert time.monotonic() - began < 4.0 + 1.0
            assert "\n" not in str(caught.value)
        if trouble == "cut":
            line.mend()
        line.thaw()
        writer.write([Report(trial_id, 1, 0.5), Report(trial_id, 2, 0.25)])
        assert storage.get_trial(trial_id).intermediate_values == {1: 0.5, 2: 0.25}
        storage.engine.dispose()


def test_server_restarted_between_two_writes_is_not_noticed(server_database_url: str) -> None:
    with proxied(server_database_url) as line:
        storage = open_storage(line.url)
        study_id = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "study")
        create_tables(storage)
        line.cut()
        line.mend()
        assert create_trial(storage, study_id, 1)[1] == 0
        storage.engine.dispose()


def test_statement_that_takes_too_long_is_given_up(server_database_url: str) -> None:
    storage = open_storage(server_database_url, timeout=2.0)
    sleep = "SELECT pg_sleep(30)" if server_database_url.startswith("postgres") else "SELECT SLEEP(30)"
    began = time.monotonic()
    with (
        pytest.raises(StorageAway, match=r"timeout|timed out|Lost connection"),
        writing(storage) as connection,
    ):
        connection.execute(text(sleep))
    assert time.monotonic() - began < 2.0
    storage.engine.dispose()
