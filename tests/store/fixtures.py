"""Storages and studies on every database."""

import subprocess
import sys
from collections.abc import Iterator

import optuna
import pytest
from optuna.storages import RDBStorage

from hpsearch.store.connection import open_storage
from hpsearch.store.identity import DriverIdentity, host_identity, process_start
from hpsearch.store.schema import create_tables
from tests.store.scenes import Scene


@pytest.fixture
def storage(database_url: str) -> Iterator[RDBStorage]:
    opened = open_storage(database_url)
    yield opened
    opened.engine.dispose()


@pytest.fixture
def study_id(storage: RDBStorage) -> int:
    create_tables(storage)
    return storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "study")


@pytest.fixture
def scene(database_url: str) -> Iterator[Scene]:
    storage = open_storage(database_url)
    yield Scene(storage, storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "study"))
    storage.engine.dispose()


@pytest.fixture
def ended() -> DriverIdentity:
    """The identity of a driver of this machine whose process has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_start(process.pid)
    process.communicate()
    assert started
    return DriverIdentity(host=host_identity(), pid=process.pid, started=started)
