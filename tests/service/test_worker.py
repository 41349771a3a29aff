"""The worker as a real process at the other end of a real pipe, and in a thread."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from hpsearch.contracts.messages import (
    Action,
    Decision,
    EndKind,
    EpochResult,
    Loading,
    Ready,
    SetupFailed,
    Shutdown,
    TrialEnd,
    TrialRun,
    TrialStarted,
    Usage,
    WorkerSetup,
)
from hpsearch.service.worker import resident_mb, serve
from hpsearch.testing import ReferenceEngine
from hpsearch.training.build import ENGINES
from tests.training.trials import make_run

pytestmark = pytest.mark.timeout(300)  # each process imports torch

ROOT = Path(__file__).parents[2]
DEADLINE = 60.0  # seconds; generous, since importing torch on a busy machine is slow

MLP: dict[str, Any] = {"model": {"name": "mlp", "args": {"hidden": [16], "dropout": 0.2}}}


def loop(name: str, **values: Any) -> dict[str, Any]:
    """Returns the tables of a study with a training function of `tests.training.loops`."""
    return {
        "data": {"dataset": "none", "subset": 1.0},
        "train": {"function": f"tests.training.loops:{name}"},
        "function": values,
    }


class Driver:
    """The other end of a worker's pipe."""

    def __init__(self, connection: Connection, process: "subprocess.Popen[bytes] | None" = None) -> None:
        self.connection = connection
        self.process = process

    def send(self, message: Any) -> None:
        self.connection.send(message)

    def receive(self) -> Any:
        assert self.connection.poll(DEADLINE), "the worker says nothing"
        message = self.connection.recv()
        return self.receive() if isinstance(message, Usage) else message

    def expect(self, kind: type) -> Any:
        message = self.receive()
        while isinstance(message, Loading):  # sent where reading takes long, as on a busy machine
            message = self.receive()
        assert isinstance(message, kind), message
        return message

    def decide(self, result: EpochResult, action: Action = Action.CONTINUE) -> None:
        self.send(Decision(result.number, result.epoch, action))

    def train_to_the_end(self, run: TrialRun) -> tuple[list[EpochResult], TrialEnd]:
        """Lets a trial run all its epochs; returns those that it reported, and its end."""
        self.send(run)
        started, results = self.expect(TrialStarted), []
        assert 0 < started.seconds < 60
        if started.curve:
            self.decide(started.curve[-1])
        while not isinstance(message := self.receive(), TrialEnd):
            results.append(message)
            self.decide(message)
        return results, message

    def status(self) -> int:
        assert self.process is not None
        return self.process.wait(DEADLINE)


def setup_of(folder: Path, **tables: Any) -> WorkerSetup:
    return WorkerSetup(
        worker=3,
        spec=make_run(folder, **tables).spec,
        device="cpu",
        cache=str(folder / "cache"),
        import_paths=(str(ROOT),),
    )


def spawn(theirs: socket.socket) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "hpsearch.service.worker", str(theirs.fileno())],
        pass_fds=(theirs.fileno(),),
        cwd=ROOT,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """Starts worker processes for studies with the given tables."""
    drivers = []

    def start(**tables: Any) -> Driver:
        ours, theirs = socket.socketpair()
        with theirs:
            driver = Driver(Connection(ours.detach()), spawn(theirs))
        drivers.append(driver)
        driver.send(setup_of(tmp_path, **tables))
        return driver

    yield start
    for driver in drivers:
        driver.connection.close()
        assert driver.process is not None
        driver.process.kill()
        driver.process.wait()


@pytest.fixture
def serve_in_thread(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """Serves in threads of this process, as the in-process executor does."""
    served: list[tuple[Driver, threading.Thread]] = []

    def begin(**tables: Any) -> Driver:
        ours, theirs = Pipe()
        thread = threading.Thread(target=serve, args=(theirs, setup_of(tmp_path, **tables)))
        thread.start()
        served.append((Driver(ours), thread))
        return served[-1][0]

    yield begin
    for driver, thread in served:
        with contextlib.suppress(BrokenPipeError):  # a test has ended it already
            driver.send(Shutdown())
        thread.join(DEADLINE)
        assert not thread.is_alive()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    waiting = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        waiting.wait(0.01)


def test_a_life(start: Callable[..., Driver], tmp_path: Path) -> None:
    driver = start(**MLP)
    ready = driver.expect(Ready)
    assert driver.process is not None
    assert (ready.worker, ready.pid, ready.device) == (3, driver.process.pid, "cpu")
    assert ready.data.classes == tuple("0123456789")
    assert {"python", "torch"} <= ready.versions.keys()
    for number in (0, 1):
        results, end = driver.train_to_the_end(make_run(tmp_path, number=number, **MLP))
        assert [(result.number, result.epoch) for result in results] == [
            (number, epoch) for epoch in (1, 2, 3)
        ]
        assert (end.kind, end.number) == (EndKind.FINISHED, number)
        assert end.weights is not None
        assert Path(end.weights).is_file()
        assert end.facts["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    driver.send(Shutdown())
    assert driver.status() == 0
    with pytest.raises(EOFError):
        driver.receive()


STAGED: dict[str, Any] = {
    **MLP,
    "train": {"stages": ["head", {"name": "all", "rate": 0.3}], "layer_decay": 0.5},
}


@pytest.mark.parametrize("tables", [MLP, STAGED])
def test_killed_at_any_moment_a_trial_goes_on_as_if_nothing_had_happened(
    start: Callable[..., Driver], tmp_path: Path, tables: dict[str, Any]
) -> None:
    driver = start(**tables)
    driver.expect(Ready)
    unbroken, _ = driver.train_to_the_end(make_run(tmp_path / "unbroken", **tables))
    driver.send(make_run(tmp_path, **tables))
    driver.expect(TrialStarted)
    first = driver.expect(EpochResult)
    driver.decide(first)  # the second epoch is in training, or in its checkpoint, when the worker is killed
    assert driver.process is not None
    driver.process.kill()
    driver.status()
    second = start(**tables)
    second.expect(Ready)
    second.send(make_run(tmp_path, attempt=2, **tables))
    started = second.expect(TrialStarted)
    assert len(started.curve) in (1, 2)
    second.decide(started.curve[-1])
    results = list(started.curve)
    while not isinstance(message := second.receive(), TrialEnd):
        results.append(message)
        second.decide(message)
    assert [result.metrics for result in results] == [result.metrics for result in unbroken]


class TestDecisions:
    """What a worker makes of decisions; in a thread, which spares importing torch each time."""

    @pytest.fixture
    def driver(self, serve_in_thread: Callable[..., Driver]) -> Driver:
        driver = serve_in_thread(**loop("dips"))
        assert driver.expect(Ready).data is None
        return driver

    def begin(self, driver: Driver, folder: Path, number: int = 0, attempt: int = 1) -> TrialStarted:
        driver.send(make_run(folder, number=number, attempt=attempt, **loop("dips")))
        started = driver.expect(TrialStarted)
        assert isinstance(started, TrialStarted)
        return started

    def test_a_trial_resumed_behind_its_last_epoch_finishes(self, driver: Driver, tmp_path: Path) -> None:
        self.begin(driver, tmp_path)
        for action in (Action.CONTINUE, Action.CONTINUE, Action.PREEMPT):
            driver.decide(driver.expect(EpochResult), action)
        driver.expect(TrialEnd)
        started = self.begin(driver, tmp_path, attempt=2)
        driver.decide(started.curve[-1])
        assert driver.expect(TrialEnd).kind is EndKind.FINISHED

    def test_decisions_about_others_are_passed_over(self, driver: Driver, tmp_path: Path) -> None:
        self.begin(driver, tmp_path)
        result = driver.expect(EpochResult)
        driver.send(Decision(99, 1, Action.STOP))
        driver.send(Decision(0, 7, Action.CONTINUE))
        assert not driver.connection.poll(0.2)
        driver.decide(result)
        assert driver.expect(EpochResult).epoch == 2

    def test_a_preemption_unasked(self, driver: Driver, tmp_path: Path) -> None:
        self.begin(driver, tmp_path)
        driver.expect(EpochResult)
        driver.send(Decision(0, 0, Action.PREEMPT))
        assert driver.expect(TrialEnd).kind is EndKind.PREEMPTED

    def test_a_trial_that_waits_for_a_slot_comes_next(self, driver: Driver, tmp_path: Path) -> None:
        self.begin(driver, tmp_path)
        result = driver.expect(EpochResult)
        for number in (1, 2):
            driver.send(make_run(tmp_path, number=number, **loop("dips")))
        driver.send(Decision(1, 0, Action.PREEMPT))
        end = driver.expect(TrialEnd)
        assert (end.number, end.kind) == (1, EndKind.PREEMPTED)
        driver.decide(result, Action.STOP)
        assert driver.expect(TrialEnd).number == 0
        assert driver.expect(TrialStarted).number == 2

    def test_shutdown_gives_back_what_is_in_training(self, driver: Driver, tmp_path: Path) -> None:
        self.begin(driver, tmp_path)
        driver.expect(EpochResult)
        driver.send(make_run(tmp_path, number=1, **loop("dips")))
        driver.send(Shutdown())
        ends = [driver.expect(TrialEnd) for _ in range(2)]
        assert [(end.number, end.kind) for end in ends] == [(0, EndKind.PREEMPTED), (1, EndKind.PREEMPTED)]


def test_an_error_ends_the_trial_and_not_the_worker(
    serve_in_thread: Callable[..., Driver], tmp_path: Path
) -> None:
    driver = serve_in_thread(**MLP)
    driver.expect(Ready)
    driver.send(make_run(tmp_path, number=0, model={"name": "mlp", "args": {"hiden": [16]}}))
    end = driver.expect(TrialEnd)
    assert (end.kind, end.number, end.hopeless) == (EndKind.ERROR, 0, True)
    assert "hiden" in end.detail
    results, end = driver.train_to_the_end(make_run(tmp_path, number=1, **MLP))
    assert (len(results), end.kind) == (3, EndKind.FINISHED)


def test_a_trial_with_a_decision_trains_on_while_another_waits(
    serve_in_thread: Callable[..., Driver], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENGINES, "function", lambda *_: (ReferenceEngine(), None))
    driver = serve_in_thread(**loop("steady"))
    assert driver.expect(Ready).capacity == 3
    first: dict[int, EpochResult] = {}
    for number in (0, 1):
        driver.send(make_run(tmp_path, number=number, **loop("steady")))
        driver.expect(TrialStarted)
        first[number] = driver.expect(EpochResult)  # trial 1 does not wait for the decision on trial 0
    driver.decide(first[0])
    second = driver.expect(EpochResult)
    assert (second.number, second.epoch) == (0, 2)
    driver.decide(first[1], Action.STOP)
    assert driver.expect(TrialEnd).number == 1
    driver.decide(second)
    assert driver.expect(EpochResult).last


@pytest.mark.parametrize(
    ("tables", "user_error", "words"),
    [
        ({"data": {"dataset": "digitz", "subset": 1.0}}, "DataError", "digitz"),
        (loop("nowhere"), "ModelError", "nowhere"),
    ],
)
def test_a_worker_that_cannot_begin_says_why(
    serve_in_thread: Callable[..., Driver],
    monkeypatch: pytest.MonkeyPatch,
    tables: dict[str, Any],
    user_error: str,
    words: str,
) -> None:
    driver = serve_in_thread(**tables)
    failed = driver.expect(SetupFailed)
    assert (failed.worker, failed.user_error, failed.traceback) == (3, user_error, "")
    assert words in failed.message


class TestProcess:
    """What only a process can show; each test imports torch anew."""

    def hang(self, start: Callable[..., Driver], folder: Path) -> Driver:
        """Returns the driver of a worker that is in the middle of an epoch that never ends."""
        mark = folder / "mark"
        tables = loop("hangs", mark=str(mark))
        driver = start(**tables)
        driver.expect(Ready)
        driver.send(make_run(folder, **tables))
        driver.expect(TrialStarted)
        driver.decide(driver.expect(EpochResult))
        wait_until(mark.exists)
        return driver

    def test_it_leaves_when_the_driver_is_gone_in_the_middle_of_an_epoch(
        self, start: Callable[..., Driver], tmp_path: Path
    ) -> None:
        driver = self.hang(start, tmp_path)
        driver.connection.close()
        assert driver.status() == -signal.SIGKILL

    def test_it_dies_with_its_driver_though_another_process_holds_the_pipe(self, tmp_path: Path) -> None:
        ours, theirs = socket.socketpair()
        script = (
            "import subprocess, sys, threading; fd = sys.argv[1]\n"
            "worker = subprocess.Popen([sys.executable, '-m', 'hpsearch.service.worker', fd],"
            " pass_fds=(int(fd),), start_new_session=True)\n"
            "print(worker.pid, flush=True); threading.Event().wait()"
        )
        with theirs:
            parent = subprocess.Popen(
                [sys.executable, "-c", script, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                cwd=ROOT,
                stdout=subprocess.PIPE,
            )
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        driver = Driver(Connection(ours.detach()))
        driver.send(setup_of(tmp_path, **loop("steady")))
        driver.expect(Ready)
        parent.kill()
        parent.wait()
        parent.stdout.close()
        with pytest.raises((EOFError, ConnectionResetError)):
            driver.receive()
        wait_until(lambda: not _runs(pid))
        driver.connection.close()

    def test_sigint_is_the_drivers_business_and_sigterm_ends_it_after_the_epoch(
        self, start: Callable[..., Driver], tmp_path: Path
    ) -> None:
        driver = start(**loop("dips"))
        driver.expect(Ready)
        driver.send(make_run(tmp_path, **loop("dips")))
        driver.expect(TrialStarted)
        result = driver.expect(EpochResult)
        assert driver.process is not None
        driver.process.send_signal(signal.SIGINT)
        driver.decide(result)
        assert driver.expect(EpochResult).epoch == 2
        driver.process.send_signal(signal.SIGTERM)
        end = driver.expect(TrialEnd)
        assert (end.kind, end.number) == (EndKind.PREEMPTED, 0)
        assert driver.status() == 128 + signal.SIGTERM

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
    def test_what_a_system_or_scheduler_sends_ends_an_idle_worker(
        self, start: Callable[..., Driver], number: signal.Signals
    ) -> None:
        driver = start(**loop("steady"))
        driver.expect(Ready)
        assert driver.process is not None
        driver.process.send_signal(number)
        assert driver.status() == 128 + signal.SIGTERM

    def test_it_is_not_started_by_hand(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "hpsearch.service.worker"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 2
        assert "hpsearch run" in done.stderr

    def test_it_imports_torch_only_after_it_knows_its_task(self) -> None:
        check = (
            "import sys, hpsearch.service.worker; sys.exit('torch' in sys.modules or 'optuna' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0


def _runs(pid: int) -> bool:
    """Returns whether a process exists and is no zombie (whose parent, here init, has not looked yet)."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


CLOSED = """
import os
from hpsearch.service.worker import leave_with_driver
end, _ = os.pipe()
os.close(end)
leave_with_driver(end, os.getppid())
print("not killed")
"""


def test_a_worker_that_takes_its_time_to_leave_is_not_killed_by_its_own_watch() -> None:
    """Its end of the pipe is closed by then, which is not the driver's end."""
    command = [sys.executable, "-c", CLOSED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, start_new_session=True)
    assert (done.returncode, done.stdout) == (0, "not killed\n")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process's memory there")
def test_a_workers_memory_is_told_in_mib():
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:")
    ]
    assert resident_mb() == pytest.approx(int(line.split()[1]) / 1024, rel=0.02)
