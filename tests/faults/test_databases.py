"""Databases that go away, drivers that share a study, drivers that are suspended."""

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.databases import fresh_database, proxied
from tests.faults.bench import Bench, process_state
from tests.faults.drivers import share

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(params=["postgresql", "mysql"])
def server_url(request, tmp_path):
    with fresh_database(request.param, tmp_path) as url:
        yield url


@pytest.mark.slow
def test_two_drivers_meet_the_total_exactly(server_url, tmp_path):
    counted = share(server_url, tmp_path, drivers=2, workers=3, trials=60)
    assert all(counted["by driver"]), "one driver did everything, so nothing was shared"


def test_two_drivers_on_one_sqlite_file(tmp_path):
    share(f"sqlite:///{tmp_path}/s.db", tmp_path, drivers=2, workers=2, trials=40)


def both_train(bench):
    """Waits until both workers have a trial: one may be ready long before the other."""
    bench.wait_for(lambda: len({line["trial"] for line in bench.lines()}) >= 2, "both workers in training")


def progress(bench: Bench, epochs: int) -> None:
    """Waits until so many further epochs are trained."""
    seen = len(bench.lines())
    bench.wait_for(lambda: len(bench.lines()) >= seen + epochs, f"{epochs} epochs more", 60)


@pytest.mark.slow
def test_running_trials_go_on_while_the_database_is_away(server_url, tmp_path):
    with proxied(server_url) as line:
        bench = Bench(tmp_path, trials=4, epochs=40, seconds=0.1, workers=2, storage=line.url)
        try:
            driver = bench.start()
            bench.wait_for_training(driver, epochs=4)
            both_train(bench)
            line.cut()
            progress(bench, 40)
            begun = {entry["trial"] for entry in bench.lines()}
            line.mend()
            assert driver.wait(timeout=120) == 0, bench.output()
            bench.check(faults=0)
            assert len(begun) <= 2, "a trial was begun while the database was away"
        finally:
            bench.end()


@pytest.mark.slow
def test_drivers_that_live_keep_their_trials_over_an_outage_longer_than_their_leases(tmp_path):
    with fresh_database("postgresql", tmp_path) as url, proxied(url) as line, proxied(url) as other:
        flags = ("--lease-seconds", "2")
        bench = Bench(tmp_path, trials=2, epochs=300, seconds=0.1, workers=2, storage=line.url, flags=flags)
        second = tmp_path / "driver-1.out"
        try:
            drivers = [bench.start()]
            bench.wait_for_training(drivers[0], epochs=3)
            both_train(bench)
            bench.storage = other.url
            drivers.append(bench.start())  # has idle workers, which could take the trials over
            bench.wait_for(lambda: second.read_text().count('"ready"') == 2, "ready")
            for one in (line, other):
                one.cut()
            progress(bench, 2 * 40)  # both trials are trained for 4 seconds
            other.mend()
            bench.wait_for(lambda: "the database is back" in second.read_text(), "back")
            progress(bench, 2 * 10)
            line.mend()
            assert [driver.wait(timeout=120) for driver in drivers] == [0, 0], bench.output()
            bench.check(faults=0)
            assert {entry["attempt"] for entry in bench.lines()} == {1}
        finally:
            bench.end()


@pytest.mark.slow
def test_a_database_that_stays_away_ends_the_run_with_checkpoints(tmp_path):
    with fresh_database("postgresql", tmp_path) as url, proxied(url) as line:
        bench = Bench(
            tmp_path, trials=2, epochs=60, seconds=0.1, storage=line.url, flags=("--storage-timeout", "3")
        )
        try:
            driver = bench.start()
            bench.wait_for_training(driver, epochs=4)
            both_train(bench)
            line.cut()
            assert driver.wait(timeout=60) == 1, bench.output()
            assert "the database was unreachable for more than 3 s" in bench.output()
            trained = len(bench.lines())
            line.mend()
            bench.finish()
            counted = bench.check(faults=0)
            assert counted["epochs"] > trained
        finally:
            bench.end()


def suspend(bench: Bench, pid: int) -> None:
    """Suspends a driver while it has no lock on the SQLite file: with one, nobody could write into it."""
    path = bench.storage.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")  # waits for a transaction that the driver is in
        os.kill(pid, signal.SIGSTOP)
        bench.wait_for(lambda: process_state(pid) == "T", "suspended", 10)
        connection.execute("ROLLBACK")


@pytest.mark.slow
def test_a_suspended_driver_gives_up_what_another_has_taken_over(tmp_path):
    bench = Bench(tmp_path, trials=2, epochs=60, seconds=0.1, flags=("--lease-seconds", "3"))
    try:
        sleeper = bench.start()
        bench.wait_for_training(sleeper, epochs=4)
        suspend(bench, sleeper.pid)
        second = bench.start()
        bench.wait_for_training(second, epochs=6)
        os.kill(sleeper.pid, signal.SIGCONT)
        assert second.wait(timeout=120) == 0, bench.output()
        assert sleeper.wait(timeout=60) == 0, bench.output()
        assert "belongs to another driver now" in Path(tmp_path, "driver-0.out").read_text()
        # Its workers trained on while it slept, one epoch each, and had no answer.
        bench.check(faults=4)
    finally:
        bench.end()


def test_stop_asks_the_drivers_from_outside(tmp_path):
    import subprocess
    import sys

    bench = Bench(tmp_path, trials=2, epochs=100, seconds=0.1)
    try:
        driver = bench.start()
        bench.wait_for_training(driver, epochs=2)
        command = [sys.executable, "-m", "hpsearch", "stop", bench.name, "--storage", bench.storage]
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "asked 1 driver" in shown.stdout
        assert driver.wait(timeout=60) == 1, bench.output()  # no trial is finished, so there is no best one
        assert "hpsearch stop" in bench.output()
        assert not any(trial.state.is_finished() for trial in bench.stored())
    finally:
        bench.end()
