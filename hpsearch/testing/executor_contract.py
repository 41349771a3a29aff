"""One contract for all executors: what a driver may rely on, wherever its workers run."""

import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpsearch.contracts.executor import Executor, WorkerPlace, Workers
from hpsearch.contracts.messages import (
    Action,
    Decision,
    EndKind,
    EpochResult,
    FromWorker,
    Ready,
    SetupFailed,
    Shutdown,
    TrialEnd,
    TrialRun,
    TrialStarted,
    Usage,
    Waiting,
    WorkerExit,
    WorkerSetup,
)
from hpsearch.files.run_folder import RunFolder
from hpsearch.study import parse_study

DEADLINE = 120.0  # seconds; generous, since importing torch on a busy machine is slow
SOON = 10.0  # seconds; for what needs no import
CLOSE = 20.0  # seconds in which workers that can leave must have left


def make_run(
    folder: Path, number: int = 0, attempt: int = 1, then: str = "", function: str = "obeys", **tables: Any
) -> TrialRun:
    """Returns an attempt at a trial that reports three epochs, or does something else in its second."""
    spec = parse_study(
        {
            "study": {"name": "contract"},
            "data": {"dataset": "none"},
            "train": {"function": f"hpsearch.testing.loops:{function}", "epochs": 3},
            "function": {"then": then, "mark": str(folder / "mark"), "go": str(folder / "go")},
            "search": {"learning_rate": {"low": 1e-4, "high": 1.0, "log": True}},
            **tables,
        }
    )
    return TrialRun("contract", number, attempt, {}, spec, str(folder / f"{number:05d}"))


class ExecutorClient:
    """Uses an executor as a driver does, and hears every message once."""

    def __init__(self, executor: Executor, folder: Path) -> None:
        self.executor = executor
        self._folder = folder
        self._heard: deque[FromWorker] = deque()

    def start(self, worker: int, function: str = "obeys") -> None:
        spec = make_run(self._folder, function=function).spec
        setup = WorkerSetup(worker, spec, device="cpu", cache=str(self._folder / "cache"))
        self.executor.start(WorkerPlace(worker), setup)

    def send(self, worker: int, run: TrialRun) -> None:
        """Sends a trial, whose folder lies where the executor's workers may write."""
        trials = RunFolder(self._folder, "s").trials
        self.executor.send(worker, replace(run, folder=str(trials.joinpath(*Path(run.folder).parts[-2:]))))

    def begin(self, worker: int, run: TrialRun) -> EpochResult:
        """Sends a trial; returns the result of its first epoch."""
        self.send(worker, run)
        assert self.expect(TrialStarted).number == run.number
        result: EpochResult = self.expect(EpochResult)
        return result

    def hang(self, worker: int, folder: Path) -> None:
        """Brings a worker into an epoch that does not end before `folder / "go"` is there."""
        first = self.begin(worker, make_run(folder, number=9, then="hang"))
        self.decide(worker, first)
        deadline = time.monotonic() + SOON
        while not (folder / "mark").exists():
            assert time.monotonic() < deadline, "the second epoch does not begin"
            self.hear(0.01)

    def decide(self, worker: int, result: EpochResult, action: Action = Action.CONTINUE) -> None:
        self.executor.send(worker, Decision(result.number, result.epoch, action))

    def hear(self, seconds: float) -> list[FromWorker]:
        """Returns what comes, but for what may come at any time."""
        messages = self.executor.receive(seconds)
        heard: list[FromWorker] = [
            message for message in messages if not isinstance(message, Usage | Waiting)
        ]
        self._heard.extend(heard)
        return heard

    def next(self, seconds: float = DEADLINE) -> FromWorker:
        deadline = time.monotonic() + seconds
        while not self._heard:
            assert time.monotonic() < deadline, "nothing more comes"
            self.hear(0.1)
        return self._heard.popleft()

    def expect(self, kind: type, seconds: float = DEADLINE) -> Any:
        message = self.next(seconds)
        assert isinstance(message, kind), message
        return message

    def is_silent(self, seconds: float = 0.2) -> bool:
        return not self._heard and not self.hear(seconds)


Started = tuple[ExecutorClient, dict[int, Ready]]


class ExecutorContract:
    """Subclass it in a test module and say how your executor is made; pytest does the rest.

        class TestMyExecutor(ExecutorContract):
            @classmethod
            def make(cls, folder):
                return MyExecutor(folder)

    Its workers are started on `place`, on the CPU. They import torch, so all tests together take a minute.
    """

    @classmethod
    def make(cls, folder: Path) -> Executor:
        """Returns an executor without workers; files go into `folder`, which is the run folder of a study `s`."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def standing(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
        """Two workers that stay for all tests which leave them idle, and what they said when they were ready."""
        folder = tmp_path_factory.mktemp("standing")
        driver = ExecutorClient(cls.make(folder), folder)
        began = time.monotonic()
        for worker in (4, 7):
            driver.start(worker)
        returned = time.monotonic() - began
        ready: dict[int, Ready] = {}
        for _ in (4, 7):
            message = driver.expect(Ready)
            ready[message.worker] = message
        assert returned < max(1.0, (time.monotonic() - began) / 2), "start waits for the worker"
        yield driver, ready
        driver.executor.close(CLOSE)

    @pytest.fixture
    def two(self, standing: Started) -> Iterator[ExecutorClient]:
        driver, _ = standing
        yield driver
        assert driver.is_silent(), "the test was to leave idle workers"

    @pytest.fixture
    def driver(self, tmp_path: Path) -> Iterator[ExecutorClient]:
        """An executor without workers."""
        driver = ExecutorClient(self.make(tmp_path), tmp_path)
        yield driver
        (tmp_path / "go").touch()  # lets go of what hangs
        driver.executor.close(CLOSE)

    def test_every_worker_says_once_that_it_is_ready(self, standing: Started, two: ExecutorClient) -> None:
        ready = standing[1]
        assert sorted(ready) == [4, 7]
        assert all(message.device == "cpu" and message.pid > 0 for message in ready.values())
        assert all(message.host and message.capacity == 1 for message in ready.values())

    def test_places_are_told_before_anything_is_started(self, driver: ExecutorClient) -> None:
        places = driver.executor.places(Workers("none", 2), threads=1, share="time")
        assert places
        assert len({place.worker for place in places}) == len(places)
        assert driver.is_silent()

    def test_a_trial_on_each_worker(self, two: ExecutorClient, tmp_path: Path) -> None:
        """Each one's messages come in order, and a decision reaches the worker that it is sent to."""
        owners = {1: 4, 2: 7}
        for number, worker in owners.items():
            two.send(worker, make_run(tmp_path, number=number))
        heard: dict[int, list[Any]] = defaultdict(list)
        while sum(isinstance(messages[-1], TrialEnd) for messages in heard.values()) < len(owners):
            message = two.next()
            assert isinstance(message, TrialStarted | EpochResult | TrialEnd), message
            heard[message.number].append(message)
            if isinstance(message, EpochResult):
                two.decide(owners[message.number], message)
        for started, *results, end in heard.values():
            assert isinstance(started, TrialStarted)
            assert started.curve == ()
            assert [(result.epoch, result.last) for result in results] == [(1, False), (2, False), (3, True)]
            assert (end.kind, end.leaving) == (EndKind.FINISHED, False)

    def test_a_worker_waits_for_the_decision_and_stops(self, two: ExecutorClient, tmp_path: Path) -> None:
        first = two.begin(4, make_run(tmp_path))
        assert two.is_silent(1.0), "an epoch was trained that nobody had asked for"
        two.decide(4, first)
        two.decide(4, two.expect(EpochResult), Action.STOP)
        end = two.expect(TrialEnd)
        assert (end.kind, end.leaving) == (EndKind.STOPPED, False)
        assert Path(end.weights).is_file()

    def test_a_trial_that_is_given_back_goes_on_at_another_worker(
        self, two: ExecutorClient, tmp_path: Path
    ) -> None:
        first = two.begin(4, make_run(tmp_path))
        two.decide(4, first, Action.PREEMPT)
        assert two.expect(TrialEnd).kind is EndKind.PREEMPTED
        two.send(7, make_run(tmp_path, attempt=2))
        assert epochs(two.expect(TrialStarted)) == [1]
        assert two.is_silent(), "its last epoch was to be judged anew"
        two.decide(7, first, Action.STOP)
        end = two.expect(TrialEnd)
        assert (end.kind, end.attempt) == (EndKind.STOPPED, 2)
        assert Path(end.weights).is_file()

    def test_an_exception_ends_the_trial_and_not_the_worker(
        self, two: ExecutorClient, tmp_path: Path
    ) -> None:
        two.decide(4, two.begin(4, make_run(tmp_path, then="raise")))
        end = two.expect(TrialEnd)
        assert (end.kind, end.hopeless, end.leaving) == (EndKind.ERROR, False, False)
        assert end.detail.startswith("ZeroDivisionError")
        assert "loops.py" in end.traceback
        two.decide(4, two.begin(4, make_run(tmp_path, number=1)), Action.STOP)
        assert two.expect(TrialEnd).number == 1

    def test_receive_waits_no_longer_than_it_is_told(self, two: ExecutorClient) -> None:
        for seconds in (0.0, 0.2):
            began = time.monotonic()
            assert two.executor.receive(seconds) == []
            assert seconds <= time.monotonic() - began + 0.01 < seconds + 1.0

    def test_receive_returns_with_the_first_message(self, two: ExecutorClient, tmp_path: Path) -> None:
        began = time.monotonic()
        two.send(4, make_run(tmp_path))
        assert two.hear(DEADLINE)
        assert time.monotonic() - began < SOON
        two.expect(TrialStarted)
        two.decide(4, two.expect(EpochResult), Action.STOP)
        two.expect(TrialEnd)

    def test_a_worker_that_was_never_started_is_as_one_that_is_gone(self, two: ExecutorClient) -> None:
        two.executor.send(5, Shutdown())
        two.executor.kill(5)

    def test_shutdown_gives_the_trial_back_and_ends_the_worker(
        self, driver: ExecutorClient, tmp_path: Path
    ) -> None:
        driver.start(3)
        driver.expect(Ready)
        first = driver.begin(3, make_run(tmp_path))
        driver.executor.send(3, Shutdown())
        end = driver.expect(TrialEnd)
        assert (end.kind, end.leaving) == (EndKind.PREEMPTED, True)
        left = driver.expect(WorkerExit, SOON)
        assert left.worker == 3
        assert left.reason
        for message in (Shutdown(), Decision(0, first.epoch, Action.CONTINUE)):
            driver.executor.send(3, message)  # to one that is gone
        driver.executor.kill(3)
        assert driver.is_silent()

    def test_a_killed_worker_gives_nothing_back_and_its_successor_goes_on(
        self, driver: ExecutorClient, tmp_path: Path
    ) -> None:
        driver.start(3)
        driver.expect(Ready)
        driver.begin(3, make_run(tmp_path))
        for _ in range(2):
            driver.executor.kill(3)
        driver.executor.send(3, Shutdown())
        assert driver.expect(WorkerExit, SOON).worker == 3
        assert driver.is_silent()
        driver.start(3)
        driver.expect(Ready)
        driver.send(3, make_run(tmp_path, attempt=2))
        assert epochs(driver.expect(TrialStarted)) == [1]

    def test_a_worker_is_killed_in_the_middle_of_an_epoch(
        self, driver: ExecutorClient, tmp_path: Path
    ) -> None:
        driver.start(3)
        driver.expect(Ready)
        driver.hang(3, tmp_path)
        driver.executor.kill(3)
        assert driver.expect(WorkerExit, SOON).worker == 3
        (tmp_path / "go").touch()
        assert driver.is_silent(), "the epoch's end was heard"

    def test_what_was_sent_before_the_kill_is_not_lost(self, driver: ExecutorClient, tmp_path: Path) -> None:
        driver.start(3)
        driver.expect(Ready)
        run = make_run(tmp_path)
        driver.send(3, run)
        deadline = time.monotonic() + SOON
        while not list(tmp_path.rglob("checkpoint.json")):
            assert time.monotonic() < deadline, "the first epoch does not end"
            time.sleep(0.01)
        driver.executor.kill(3)
        driver.expect(TrialStarted, SOON)
        last = driver.next(SOON)
        if isinstance(last, EpochResult):  # it is told just after its checkpoint
            last = driver.next(SOON)
        assert isinstance(last, WorkerExit)

    def test_a_worker_that_cannot_begin_says_why_and_leaves(self, driver: ExecutorClient) -> None:
        driver.start(3, function="nowhere")
        failed = driver.expect(SetupFailed)
        assert (failed.worker, failed.user_error) == (3, "ModelError")
        assert "nowhere" in failed.message
        assert driver.expect(WorkerExit, SOON).worker == 3

    def test_close_checkpoints_what_is_in_training_and_leaves_nothing(
        self, driver: ExecutorClient, tmp_path: Path
    ) -> None:
        before = set(threading.enumerate())
        for worker in (3, 5):
            driver.start(worker)
        pids = [driver.expect(Ready).pid for _ in (3, 5)]
        run = make_run(tmp_path, checkpoint={"every_seconds": 3600.0})
        driver.begin(3, run)
        assert not list(tmp_path.rglob("checkpoint.json"))
        began = time.monotonic()
        driver.executor.close(CLOSE)
        assert time.monotonic() - began < CLOSE, "workers that leave are waited for longer than they need"
        assert list(tmp_path.rglob("checkpoint.json"))
        assert driver.is_silent(), "exits at the end are nobody's business"
        assert_gone(pids)
        assert set(threading.enumerate()) <= before
        began = time.monotonic()
        driver.executor.close(CLOSE)
        assert time.monotonic() - began < 1.0

    def test_close_does_not_wait_for_one_that_hangs(self, driver: ExecutorClient, tmp_path: Path) -> None:
        driver.start(3)
        pids = [driver.expect(Ready).pid]
        driver.hang(3, tmp_path)
        began = time.monotonic()
        driver.executor.close(0.2)
        assert time.monotonic() - began < SOON
        assert_gone(pids)
        assert driver.is_silent()

    def test_close_ends_workers_that_have_not_begun(self, driver: ExecutorClient) -> None:
        driver.start(3)
        driver.executor.close(0.0)
        assert driver.is_silent()

    def test_close_without_workers_does_nothing(self, driver: ExecutorClient) -> None:
        began = time.monotonic()
        driver.executor.close(CLOSE)
        assert time.monotonic() - began < 1.0


def epochs(started: TrialStarted) -> list[int]:
    return [result.epoch for result in started.curve]


def assert_gone(pids: list[int]) -> None:
    """Checks that processes are gone, or are in a moment: one elsewhere is ended by somebody else.

    Workers may also live in this process.
    """
    deadline = time.monotonic() + SOON
    for pid in set(pids) - {os.getpid()}:
        while _is_there(pid):
            assert time.monotonic() < deadline, f"process {pid} is left"
            time.sleep(0.02)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
