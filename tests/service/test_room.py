"""A worker on a GPU that others have filled waits, and says so."""

import threading
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from hpsearch.contracts.executor import WorkerPlace
from hpsearch.contracts.messages import Loading, Shutdown, Waiting, WorkerSetup
from hpsearch.service import worker
from hpsearch.service.fleet import Fleet, Phase
from hpsearch.service.worker import Memory, probe_of, wait_for_room
from hpsearch.testing.in_process import InProcessExecutor
from tests.training.trials import make_run

GIB = 1 << 30
FULL: Memory = (300 << 20, 80 * GIB)


def states(*found: Memory | None) -> Callable[[], Memory | None]:
    """Returns a probe that finds these one after the other, and the last one for ever."""
    left: Iterator[Memory | None] = iter(found)
    return lambda: next(left, found[-1])


@pytest.fixture
def setup(tmp_path: Path) -> WorkerSetup:
    return WorkerSetup(worker=3, spec=make_run(tmp_path).spec, device="cpu")


@pytest.fixture
def pipes() -> Iterator[tuple[Connection, Connection]]:
    ours, theirs = Pipe()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize(
    "found",
    [None, (60 * GIB, 80 * GIB), (GIB, 80 * GIB), (GIB // 2, 8 * GIB)],
    ids=["CPU", "free", "1 GiB of 80", "6 % of 8 GiB"],
)
def test_a_worker_with_room_begins_at_once(
    setup: WorkerSetup, pipes: tuple[Connection, Connection], found: Memory | None
) -> None:
    assert wait_for_room(pipes[1], setup, threading.Event(), states(found))
    assert not pipes[0].poll()


@pytest.mark.parametrize("found", [(GIB - 1, 80 * GIB), (GIB // 4, 8 * GIB)])
def test_a_worker_without_room_says_so_once_and_begins_when_there_is_some(
    setup: WorkerSetup,
    pipes: tuple[Connection, Connection],
    monkeypatch: pytest.MonkeyPatch,
    found: Memory,
) -> None:
    monkeypatch.setattr(worker, "LOOK_UP", 0.01)
    probe = states(found, found, found, (60 * GIB, 80 * GIB))
    assert wait_for_room(pipes[1], setup, threading.Event(), probe)
    message = pipes[0].recv()
    assert isinstance(message, Waiting)
    assert message.worker == 3
    free, total = (f"{number / 2**20:,.0f}" for number in found)
    assert f"waits for memory: its GPU has {free} of {total} MiB free" in message.text
    assert not pipes[0].poll()


def test_it_says_so_again_after_a_while(
    setup: WorkerSetup, pipes: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "LOOK_UP", 0.01)
    monkeypatch.setattr(worker, "SAY_AGAIN", 0.0)
    assert wait_for_room(pipes[1], setup, threading.Event(), states(FULL, FULL, (GIB, GIB)))
    assert [type(pipes[0].recv()) for _ in range(2)] == [Waiting, Waiting]


def test_a_waiting_worker_leaves_when_it_is_told_to(
    setup: WorkerSetup, pipes: tuple[Connection, Connection]
) -> None:
    pipes[0].send(Shutdown())
    assert not wait_for_room(pipes[1], setup, threading.Event(), states(FULL))


def test_a_waiting_worker_leaves_on_sigterm(
    setup: WorkerSetup, pipes: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "LOOK_UP", 0.01)
    terminated = threading.Event()
    terminated.set()
    assert not wait_for_room(pipes[1], setup, terminated, states(FULL))


def test_the_probe_of_a_worker_on_the_cpu_finds_nothing(setup: WorkerSetup) -> None:
    assert probe_of(setup)() is None


def test_a_worker_that_waits_is_not_taken_for_hung(setup: WorkerSetup) -> None:
    fleet = Fleet(InProcessExecutor(), [WorkerPlace(3)], lambda _: setup, stall_timeout=10.0)
    starting = fleet.workers[3]
    starting.phase, starting.active = Phase.STARTING, -1e6
    fleet.note(Waiting(3, "waits for memory"))
    fleet.kill_hung()
    assert 3 not in fleet._killed
    starting.active = -1e6
    fleet.kill_hung()
    assert 3 in fleet._killed


def test_reading_images_is_a_sign_of_life_of_all_that_start(setup: WorkerSetup) -> None:
    places = [WorkerPlace(0), WorkerPlace(1)]
    fleet = Fleet(InProcessExecutor(), places, lambda _: setup, stall_timeout=10.0)
    for starting in fleet.workers.values():
        starting.phase, starting.active = Phase.STARTING, -1e6
    fleet.note(Loading(0, 5, 100))  # worker 1 waits for what worker 0 prepares
    fleet.kill_hung()
    assert not fleet._killed
