"""Fixtures for all tests. Nothing here imports torch, which takes seconds, or Optuna and database drivers.

Tests of the training room alone also run where only torch is installed.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import chromium

__all__ = ["chromium"]


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database: one test each on SQLite, PostgreSQL and MariaDB or MySQL."""
    from tests.databases import fresh_database

    with fresh_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture(params=["postgresql", "mysql"])
def server_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database on a server that can be away."""
    from tests.databases import fresh_database

    with fresh_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of an SQLite database that does not exist yet."""
    return f"sqlite:///{tmp_path / 'study.db'}"
