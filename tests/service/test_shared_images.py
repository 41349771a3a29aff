"""Two drivers on one machine, whose workers want the same images: one prepares them, the others say they wait."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpsearch.contracts.callbacks import Callback, WorkerNews
from hpsearch.contracts.executor import WorkerPlace
from hpsearch.contracts.messages import FromWorker, Loading, Ready, Waiting, WorkerSetup
from hpsearch.executors.local import LocalExecutor
from hpsearch.files.run_folder import RunFolder
from tests.service.curves import CurveExecutor, falling
from tests.service.test_driver import run_here, spec_of
from tests.training.trials import make_run

pytestmark = pytest.mark.timeout(300)  # workers import torch

ROOT = Path(__file__).parents[2]
DEADLINE = 120.0  # seconds; generous, since importing torch on a busy machine is slow


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], LocalExecutor]]:
    """Starts a worker of a driver of its own; all of them share a cache of decoded images."""
    executors = []

    def start(study: str) -> LocalExecutor:
        executor = LocalExecutor(RunFolder(tmp_path, study))
        executors.append(executor)
        data = {"dataset": "tests.service.slow_images:build", "root": str(tmp_path), "subset": 1.0}
        spec = make_run(tmp_path, data=data, model={"name": "mlp"}).spec
        cache = str(tmp_path / "cache")
        executor.start(WorkerPlace(0), WorkerSetup(0, spec, "cpu", cache=cache, import_paths=(str(ROOT),)))
        return executor

    yield start
    (tmp_path / "go").touch()
    for executor in executors:
        executor.close(5.0)


def first(executor: LocalExecutor) -> FromWorker:
    """Returns the next message of a worker that is not about its own reading."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        for message in executor.receive(0.1):
            if not isinstance(message, Loading):
                return message
    raise AssertionError("the worker says nothing")


def test_a_worker_says_that_it_waits_for_the_images_that_another_driver_prepares(
    start: Callable[[str], LocalExecutor], tmp_path: Path
) -> None:
    prepares = start("one")
    deadline = time.monotonic() + DEADLINE
    while not (tmp_path / "reading").exists():
        assert time.monotonic() < deadline, "the first worker does not begin to read"
        assert all(isinstance(message, Loading) for message in prepares.receive(0.1))
    waits = start("two")
    message = first(waits)
    assert isinstance(message, Waiting), message
    assert message.worker == 0
    assert re.match(r"waits for process \d+ on \S+, which prepares the same images", message.text)
    (tmp_path / "go").touch()
    assert isinstance(first(prepares), Ready)
    assert isinstance(first(waits), Ready)


class Listener(Callback):
    """Notes why workers wait."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def on_worker(self, news: WorkerNews) -> None:
        if news.kind == "waiting":
            self.reasons.append(news.text)


def test_the_user_is_told_once_why_a_worker_waits(tmp_path: Path) -> None:
    class Waits(CurveExecutor):
        def start(self, place: WorkerPlace, setup: WorkerSetup) -> None:
            self.messages.extend(Waiting(place.worker, text) for text in ("images", "images", "memory"))
            super().start(place, setup)

    listener = Listener()
    run_here(tmp_path, spec_of(), callbacks=[listener], executor=Waits(falling))
    assert listener.reasons == ["images", "memory"]
