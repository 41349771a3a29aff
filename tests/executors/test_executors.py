"""Our executors keep what is promised of executors."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpsearch.contracts.executor import Executor
from hpsearch.contracts.places import Cluster
from hpsearch.executors.local import LocalExecutor
from hpsearch.executors.slurm import SlurmExecutor
from hpsearch.files.run_folder import RunFolder
from hpsearch.testing import ExecutorContract, InProcessExecutor
from tests.executors.by_hand import HandExecutor
from tests.ray_cluster import connected

pytestmark = pytest.mark.timeout(300)  # workers import torch


class TestInProcess(ExecutorContract):
    @classmethod
    def make(cls, folder: Path) -> Executor:
        return InProcessExecutor()


class TestLocal(ExecutorContract):
    @classmethod
    def make(cls, folder: Path) -> Executor:
        return LocalExecutor(RunFolder(folder, "s"))


class TestDial(ExecutorContract):
    @classmethod
    def make(cls, folder: Path) -> Executor:
        return HandExecutor(RunFolder(folder, "s"))


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
class TestSlurm(ExecutorContract):
    @classmethod
    def make(cls, folder: Path) -> Executor:
        return SlurmExecutor(RunFolder(folder, "s"), Cluster())


@pytest.mark.slow
@pytest.mark.ray
class TestRay(ExecutorContract):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _connected(cls, ray_cluster: Any) -> Iterator[None]:
        cls.address = ray_cluster.address
        with connected(ray_cluster.address):
            yield

    @classmethod
    def make(cls, folder: Path) -> Executor:
        from hpsearch.executors.ray import RayExecutor

        return RayExecutor(RunFolder(folder, "s"), Cluster(listen="127.0.0.1", address=cls.address))
