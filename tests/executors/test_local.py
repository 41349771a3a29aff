"""The local executor with real processes: exits are told with their reason and their last words."""

import contextlib
import os
import re
import signal
import time

import pytest

from hpsearch.contracts.executor import WorkerPlace
from hpsearch.contracts.messages import Ready, SetupFailed, Shutdown, WorkerExit, WorkerSetup
from hpsearch.errors import UserError
from hpsearch.executors import local
from hpsearch.executors.local import LocalExecutor
from hpsearch.files.run_folder import RunFolder
from hpsearch.study import parse_study

SPEC = parse_study({"study": {"name": "s"}, "data": {"dataset": "digits"}, "search": {"epochs": [1]}})


@pytest.fixture
def executor(tmp_path, monkeypatch):
    monkeypatch.setenv("PULSE_SECONDS", "0.01")
    monkeypatch.setenv("PULSE_LOG", str(tmp_path))
    executor = LocalExecutor(RunFolder(tmp_path, "s"), module="tests.benchmarks.pulse")
    yield executor
    executor.close(timeout=5)


def receive(executor, kind, seconds=60.0):
    """Waits for a message of a kind."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for message in executor.receive(0.1):
            if isinstance(message, kind):
                return message
    raise AssertionError(f"no {kind.__name__} within {seconds} s")


def start(executor, worker=0):
    executor.start(WorkerPlace(worker), WorkerSetup(worker, SPEC))
    return receive(executor, Ready)


def test_a_killed_worker_is_told_by_its_signal(executor):
    ready = start(executor)
    os.kill(ready.pid, signal.SIGKILL)
    left = receive(executor, WorkerExit, 5)
    assert (left.worker, left.reason) == (0, "killed by SIGKILL")


@pytest.fixture
def odd(tmp_path, request, monkeypatch):
    monkeypatch.setenv("LINGERS", "60" if "lives_on" in request.node.name else "0.5")
    executor = LocalExecutor(RunFolder(tmp_path, "s"), module="tests.service.odd_worker")
    ready = start(executor)
    yield executor, ready
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(ready.device), signal.SIGKILL)
    executor.close(timeout=5)


def test_a_dead_worker_is_noticed_while_a_process_of_its_own_holds_the_pipe(odd):
    executor, ready = odd
    os.kill(ready.pid, signal.SIGKILL)
    assert receive(executor, WorkerExit, 5).reason == "killed by SIGKILL"
    os.kill(int(ready.device), 0)  # that process still lives


def test_a_worker_that_closes_its_pipe_and_lives_on_is_killed_and_said_to_be(odd, monkeypatch):
    executor, _ = odd
    monkeypatch.setattr(local, "PATIENCE", 1.0)
    executor.send(0, Shutdown())
    assert (
        receive(executor, WorkerExit, 10).reason == "closed its pipe and did not end, so that it was killed"
    )


def test_a_worker_is_given_the_time_to_exit(odd):
    executor, _ = odd
    executor.send(0, Shutdown())
    assert receive(executor, WorkerExit, 5).reason == "exited with status 143"


def test_kill_ends_a_worker_that_is_stopped(executor):
    ready = start(executor)
    os.kill(ready.pid, signal.SIGSTOP)
    executor.kill(0)
    assert receive(executor, WorkerExit, 5).reason == "killed by SIGKILL"


@pytest.fixture
def stillborn(tmp_path):
    """Makes executors, as of several drivers, whose workers end at once with a word."""
    made = []

    def make(word):
        made.append(LocalExecutor(RunFolder(tmp_path, "s"), module=f"tests.no_such_module_{word}"))
        return made[-1]

    yield make
    for executor in made:
        executor.close(timeout=5)


def end(executor, worker=0):
    """Starts a worker that ends at once."""
    executor.start(WorkerPlace(worker), WorkerSetup(worker, SPEC))
    return receive(executor, WorkerExit)


def test_a_worker_that_cannot_start_leaves_its_last_words(stillborn):
    left = end(stillborn("a"))
    assert left.reason == "exited with status 1"
    assert "no_such_module_a" in left.stderr


def words(log):
    """Returns which executors' workers wrote into a log, in order."""
    return re.findall(r"no_such_module_(\w)", log.read_text())


def test_drivers_that_share_a_folder_have_their_own_logs(tmp_path, stillborn):
    logs = RunFolder(tmp_path, "s").home / "logs"
    first, second = stillborn("a"), stillborn("b")
    end(first)
    assert "no_such_module_b" in end(second).stderr
    end(first)  # between its workers the log is still its own
    end(second)
    end(second, worker=1)
    assert {log.name: words(log) for log in logs.iterdir()} == {
        "worker-0.log": ["a", "a"],
        "worker-0.2.log": ["b", "b"],
        "worker-1.log": ["b"],
    }
    first.close(timeout=5)
    end(stillborn("c"))
    assert words(logs / "worker-0.log") == ["a", "a", "c"]


def test_a_log_that_has_grown_too_long_begins_anew(tmp_path, monkeypatch, stillborn):
    log = RunFolder(tmp_path, "s").worker_log(0)
    log.parent.mkdir(parents=True)
    log.write_text("old " * 10)
    monkeypatch.setattr(local, "MOST_LOG", 39)
    executor = stillborn("a")
    for _ in range(3):
        assert end(executor).stderr.count("no_such_module_a") == 1
        assert words(log) == ["a"]
    assert "old" not in log.read_text()


@pytest.mark.parametrize(
    ("tables", "error", "words"),
    [
        ({"data": {"dataset": "folder", "root": "nowhere"}}, "DataError", "nowhere"),
        ({"model": {"name": "resnet19"}}, "ModelError", 'did you mean "resnet18"'),
        ({"search": {"model.name": ["cnn", "alexnet"]}}, "ModelError", "search: with model.name = alexnet: "),
    ],
    ids=["data", "model", "one of the models"],
)
def test_the_real_worker_says_what_the_user_can_mend(tmp_path, tables, error, words):
    executor = LocalExecutor(RunFolder(tmp_path, "s"))
    plain = {"study": {"name": "s"}, "data": {"dataset": "digits"}, "search": {"epochs": [1]}}
    spec = parse_study(plain | tables)
    try:
        executor.start(WorkerPlace(0), WorkerSetup(0, spec, device="cpu", cache=str(tmp_path)))
        failed = receive(executor, SetupFailed, 100)
        assert failed.user_error == error
        assert words in failed.message
    finally:
        executor.close(timeout=5)


def test_a_logs_folder_that_cannot_be_made_is_said(tmp_path):
    folder = RunFolder(tmp_path, "s")
    folder.home.mkdir()
    (folder.home / "logs").touch()
    with pytest.raises(UserError, match=r"s/logs: the workers' logs cannot be written there: File exists"):
        LocalExecutor(folder).start(WorkerPlace(0), WorkerSetup(0, SPEC))
    (folder.home / "logs").unlink()
    folder.worker_log(0).mkdir(parents=True)
    with pytest.raises(UserError, match=r"s/logs: .* Is a directory; free some space, make it writable, or"):
        LocalExecutor(folder).start(WorkerPlace(0), WorkerSetup(0, SPEC))
