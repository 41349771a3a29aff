"""Faults against a running study; the ground truth is the training function's own log, not the database."""

import fcntl
import os
import pty
import select
import signal
import subprocess
import termios
import threading

import pytest

from tests.databases import proxied
from tests.faults.bench import ROOT, Bench, alive
from tests.faults.storm import storm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.end()


def test_a_storm_loses_nothing(bench):
    faults = storm(bench, faults=12, seed=2)
    bench.check(sum(faults.values()))


def test_a_storm_over_a_server_loses_nothing(server_database_url, tmp_path):
    with proxied(server_database_url) as line:
        bench = Bench(tmp_path, trials=4, storage=line.url)
        try:
            faults = storm(bench, faults=5, seed=2, line=line)
            bench.check(sum(faults.values()))
        finally:
            bench.end()


def test_one_worker_under_fire_trains_what_an_undisturbed_one_trains(tmp_path):
    calm, storming = (
        Bench(tmp_path / name, trials=3, epochs=8, workers=1, seconds=0.05) for name in ("calm", "storming")
    )
    try:
        calm.finish()
        driver = storming.start()
        for stop in (signal.SIGKILL, signal.SIGTERM):
            storming.wait_for_training(driver, epochs=3)
            if driver.poll() is None:
                driver.send_signal(stop)
                driver.wait(timeout=60)
            driver = storming.start()
        assert driver.wait(timeout=120) == 0, storming.output()
        storming.check(faults=2)
        losses = [
            {(line["trial"], line["epoch"]): line["loss"] for line in b.lines()} for b in (calm, storming)
        ]
        assert losses[0] == losses[1]
    finally:
        calm.end()
        storming.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_warm_stop_leaves_trials_that_can_be_resumed(bench, number):
    driver = bench.start()
    bench.wait_for_training(driver, epochs=4)
    driver.send_signal(number)
    assert driver.wait(timeout=60) == 128 + number, bench.output()
    bench.wait_for(lambda: not bench.living(), "workers gone", 20)
    trained = len(bench.lines())
    bench.trials = 3
    bench.write()
    bench.finish()
    # A warm stop costs no epoch at all: nothing was trained twice.
    assert bench.check(faults=0)["epochs"] > trained


def test_a_terminal_that_closes_ends_the_run_gracefully(bench):
    """Its SIGHUP comes with a terminal that takes no more words."""
    ours, theirs = pty.openpty()
    driver = subprocess.Popen(
        bench.command(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    bench.drivers.append(driver)
    closing = threading.Event()
    window = threading.Thread(target=_show, args=(ours, closing))
    window.start()
    bench.wait_for_training(driver, epochs=4)
    closing.set()
    window.join()
    assert driver.wait(timeout=60) == 128 + signal.SIGHUP
    bench.wait_for(lambda: not bench.living(), "workers gone", 20)
    bench.finish()
    bench.check(faults=0)


def _show(terminal, closing):
    """Reads what is written to a terminal, as a window does that shows it, and closes it."""
    while not closing.is_set():
        if select.select([terminal], [], [], 0.1)[0]:
            os.read(terminal, 65536)
    os.close(terminal)


def test_workers_killed_from_outside_again_and_again_cost_no_trial(tmp_path):
    bench = Bench(tmp_path, trials=3, epochs=4, seconds=0.5, workers=1, max_attempts=3)
    try:
        driver = bench.start()
        out = tmp_path / "driver-0.out"
        bench.wait_for(lambda: '"event": "epoch"' in out.read_text(), "the first epoch's decision", 60)
        for _ in range(5):
            bench.wait_for(lambda: bench.worker_processes(driver), "a worker", 60)
            [worker] = bench.worker_processes(driver)
            os.kill(worker, signal.SIGKILL)
            bench.wait_for(lambda gone=worker: gone not in bench.worker_processes(driver), "it gone", 20)
        assert driver.wait(timeout=120) == 0, bench.output()
        bench.check(faults=5)
    finally:
        bench.end()


def test_a_second_signal_ends_at_once_and_loses_nothing_that_was_saved(tmp_path):
    bench = Bench(tmp_path, trials=2, epochs=4, seconds=1.0)
    try:
        driver = bench.start()
        bench.wait_for_training(driver, epochs=2)
        driver.send_signal(signal.SIGTERM)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(timeout=20) in (130, 143), bench.output()
        bench.wait_for(lambda: not bench.living(), "workers gone", 20)
        bench.finish()
        bench.check(faults=2)
    finally:
        bench.end()


def test_an_epoch_is_given_up_when_the_grace_has_run_out(tmp_path):
    bench = Bench(tmp_path, trials=1, epochs=3, seconds=1.0, workers=1, grace="0.1s")
    try:
        driver = bench.start()
        out = tmp_path / "driver-0.out"
        # Decided, so that the next epoch has begun: a signal during the decision would end the trial in time.
        bench.wait_for(lambda: '"event": "epoch"' in out.read_text(), "the first epoch's decision", 60)
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(timeout=20) == 143, bench.output()
        said = out.read_text()
        assert "the epoch was abandoned when study.grace ran out" in said
        bench.finish()
        bench.check(faults=1)
    finally:
        bench.end()


@pytest.mark.parametrize("suspended", [False, True])
def test_workers_leave_when_their_driver_is_killed(bench, suspended):
    driver = bench.start()
    bench.wait_for_training(driver, epochs=2)
    if suspended:
        os.kill(bench.lines()[0]["pid"], signal.SIGSTOP)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    bench.wait_for(lambda: not bench.living(), "workers gone", 10)


@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_what_a_training_function_has_started_ends_with_it(tmp_path, victim):
    bench = Bench(tmp_path, trials=1, epochs=1000, seconds=0.1, workers=1, function="with_a_child")
    try:
        driver = bench.start()
        bench.wait_for_training(driver, epochs=3)
        child, *lines = bench.lines()
        os.kill(driver.pid if victim == "driver" else lines[0]["pid"], signal.SIGKILL)
        bench.wait_for(lambda: not alive(child["pid"]), "the child gone", 10)
    finally:
        bench.end()


def test_a_trial_that_kills_its_driver_every_time_fails_in_the_end(tmp_path):
    options = {"function": "kill_the_driver", "max_attempts": 2}
    bench = Bench(tmp_path, trials=3, epochs=2, seconds=0.01, workers=1, **options)
    try:
        statuses = [bench.start().wait(timeout=60) for _ in range(3)]
        assert statuses == [-signal.SIGKILL, -signal.SIGKILL, 0], bench.output()
        assert [trial.state.name for trial in bench.stored()] == ["COMPLETE", "FAIL", "COMPLETE"]
        assert "2 attempts in a row (max_attempts)" in bench.stored()[1].user_attrs["stop_detail"]
    finally:
        bench.end()
