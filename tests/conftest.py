"""Fixtures for all tests. Nothing here imports torch, which takes seconds, or Optuna and database drivers.

Tests of the training room alone also run where only torch is installed.
"""

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import chromium

__all__ = ["chromium"]

# Tensors of tests are small: a second thread would only spin while others of these processes want the core.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def is_whole(config: pytest.Config) -> bool:
    """Says whether all tests are meant, and no files or names of some."""
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads its options
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Runs `pytest` and `pytest -m slow` in two processes, file by file, where pytest-xdist is installed.

    Half of the time is spent waiting for the processes, servers and browsers of the tests. A part of the suite
    runs in this process as usual, and so does all of it with `-n 0`.
    """
    if hasattr(config, "workerinput"):  # one of the two
        return
    options = config.option
    is_half = options.markexpr in ("", "slow") and not (options.usepdb or options.collectonly)
    if is_half and is_whole(config) and getattr(options, "numprocesses", 0) is None:
        options.numprocesses, options.dist, options.loadscopereorder = 2, "loadfile", False


def pytest_configure(config: pytest.Config) -> None:
    """Leaves the slow tests out of `pytest` alone; pytest-xdist's processes come here as well."""
    if is_whole(config):
        config.option.markexpr = config.option.markexpr or "not slow"


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


@pytest.fixture(scope="session")
def slurm() -> Iterator[Any]:
    """A real Slurm, which all of the session share; see `tests.slurm`."""
    from tests import slurm as cluster

    if reason := cluster.missing():
        pytest.skip(reason)
    with cluster.slurm() as running, pytest.MonkeyPatch.context() as patch:
        for name in ("PATH", "SLURM_CONF"):
            patch.setenv(name, running.environ[name])
        yield running


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """A Ray cluster, which all of the session share; see `tests.ray_cluster`."""
    from tests import ray_cluster as cluster

    if reason := cluster.missing():
        pytest.skip(reason)
    with cluster.ray_cluster() as running:
        yield running


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of an SQLite database that does not exist yet."""
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of published weights, on a machine that reaches nothing."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # urllib keeps the proxies of its first use: later tests of this process would be refused as well.
    monkeypatch.setattr(urllib.request, "_opener", None)
    return tmp_path / "torch"
