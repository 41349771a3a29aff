"""Tickets are given out exactly once, and a trial belongs to one driver at a time: on every database."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from hpsearch.errors import LeaseLost, StorageAway
from hpsearch.store.identity import DriverIdentity
from hpsearch.store.schema import Lease
from hpsearch.store.trials import create_trial
from hpsearch.store.writes import CloseLease, Finish, Report, TrialWriter
from tests.store.scenes import Scene, elsewhere

ROOT = Path(__file__).parents[2]


def test_tickets_run_from_one_to_the_total_and_more_when_it_is_raised(scene: Scene) -> None:
    first, second = scene.driver(), scene.driver()
    assert [first.claim(scene.study_id, 3), second.claim(scene.study_id, 3)] == [1, 2]
    assert [first.claim(scene.study_id, 3), first.claim(scene.study_id, 3)] == [3, None]
    TrialWriter(scene.storage).write([CloseLease(scene.study_id, 1)], first.fence(scene.study_id, [1]))
    assert second.claim(scene.study_id, 3) is None
    assert second.claim(scene.study_id, 4) == 4
    assert [lease.ticket for lease in second.unfinished(scene.study_id)] == [2, 3, 4]


CLAIM = """
import json
import sys
import time
from hpsearch.errors import StorageAway
from hpsearch.store.identity import DriverIdentity
from hpsearch.store.ledger import Ledger
from hpsearch.store.connection import open_storage
storage = open_storage(sys.argv[1], timeout=20)
ledger = Ledger(storage, DriverIdentity.here())
print("ready", flush=True)
sys.stdin.readline()
study_id = int(sys.argv[2])
began = time.monotonic()
ledger.register(study_id)
tickets = []
while (ticket := ledger.claim(study_id, 200)) is not None:
    tickets.append(ticket)
print(json.dumps([tickets, began, time.monotonic()]))
"""


@pytest.mark.slow
def test_two_processes_claim_exactly_the_total(scene: Scene, database_url: str) -> None:
    command = [sys.executable, "-W", "error", "-c", CLAIM, database_url, str(scene.study_id)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    told = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert sorted(told[0][0] + told[1][0]) == list(range(1, 201))
    assert max(began for _, began, _ in told) < min(ended for _, _, ended in told)  # both were at it


def test_unfinished_trial_of_an_ended_process_is_adopted_at_once(scene: Scene, ended: DriverIdentity) -> None:
    dead, heir = scene.driver(ended), scene.driver()
    ticket = dead.claim(scene.study_id, 5)
    assert ticket == 1
    trial_id = scene.trial(dead, ticket)
    lease = heir.adopt(scene.study_id)
    assert lease is not None
    assert (lease.ticket, lease.trial_id, lease.number, lease.attempt) == (1, trial_id, 0, 2)
    assert not lease.preempted
    assert heir.adopt(scene.study_id) is None
    assert dead.beat("[]") == {1}
    assert heir.beat("[]") == set()


@pytest.mark.parametrize("kind", ["alive", "elsewhere"])
def test_trial_of_a_driver_that_may_live_is_adopted_when_its_lease_runs_out(scene: Scene, kind: str) -> None:
    owner = scene.driver(elsewhere() if kind == "elsewhere" else DriverIdentity.here())
    heir = scene.driver()
    owner.claim(scene.study_id, 5)
    scene.clock.now += 59
    assert heir.adopt(scene.study_id) is None
    assert owner.beat("[]") == set()
    scene.clock.now += 59
    assert heir.adopt(scene.study_id) is None
    scene.clock.now += 2
    lease = heir.adopt(scene.study_id)
    assert lease is not None
    assert (lease.ticket, lease.attempt, lease.expires) == (1, 2, scene.clock.now + 60)


def test_process_number_used_again_is_not_taken_for_the_driver(scene: Scene) -> None:
    me = DriverIdentity.here()
    namesake = dataclasses.replace(me, started="1", id="namesake")
    owner, heir = scene.driver(namesake), scene.driver(me)
    owner.claim(scene.study_id, 5)
    assert heir.adopt(scene.study_id) is not None


def test_one_of_two_that_saw_the_same_lease_adopts_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, first, second = scene.driver(elsewhere()), scene.driver(), scene.driver()
    owner.claim(scene.study_id, 5)
    scene.clock.now += 61
    seen = second._adoptable(scene.study_id, True)
    assert len(seen) == 1
    monkeypatch.setattr(second, "_adoptable", lambda *_: seen)
    assert first.adopt(scene.study_id) is not None
    assert second.adopt(scene.study_id) is None
    assert second.beat("[]") == set()
    assert first.beat("[]") == set()


def test_renewed_lease_is_not_adopted_on_an_old_sight(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, heir = scene.driver(elsewhere()), scene.driver()
    owner.claim(scene.study_id, 5)
    scene.clock.now += 61
    seen = heir._adoptable(scene.study_id, True)
    assert owner.beat("[]") == set()
    monkeypatch.setattr(heir, "_adoptable", lambda *_: seen)
    assert heir.adopt(scene.study_id) is None
    assert owner.beat("[]") == set()


def test_suspended_driver_finds_its_leases_gone_and_cannot_write(scene: Scene) -> None:
    sleeper, heir = scene.driver(), scene.driver()
    tickets = [sleeper.claim(scene.study_id, 2), sleeper.claim(scene.study_id, 2)]
    assert tickets == [1, 2]
    trial_id = scene.trial(sleeper, 1)
    fence = sleeper.fence(scene.study_id, [1])
    late = sleeper.fence(scene.study_id, [2])
    scene.clock.now += 61
    adopted = [heir.adopt(scene.study_id), heir.adopt(scene.study_id)]
    assert [lease.ticket for lease in adopted if lease] == [1, 2]
    with pytest.raises(LeaseLost, match="trial 0"):
        TrialWriter(scene.storage).write([Report(trial_id, 1, 0.5)], fence)
    with pytest.raises(LeaseLost, match="ticket 2"):
        create_trial(scene.storage, scene.study_id, 2, late)
    with pytest.raises(LeaseLost):
        sleeper.retry(scene.study_id, 1, failures=1)
    sleeper.release(scene.study_id, [1, 2])
    assert sleeper.beat("[]") == set()  # released: nothing is held any more
    assert heir.beat("[]") == set()
    with pytest.raises(LeaseLost) as caught:
        sleeper.fence(scene.study_id, [1])
    assert caught.value.tickets == {1}
    heir_writes = heir.fence(scene.study_id, [1])
    TrialWriter(scene.storage).write([Report(trial_id, 1, 0.25)], heir_writes)
    assert scene.storage.get_trial(trial_id).intermediate_values == {1: 0.25}


def test_beat_names_the_lost_tickets_once(scene: Scene) -> None:
    sleeper, heir = scene.driver(), scene.driver()
    for _ in range(3):
        sleeper.claim(scene.study_id, 3)
    scene.clock.now += 61
    heir.adopt(scene.study_id)
    assert sleeper.beat("[]") == {1}
    assert sleeper.beat("[]") == set()
    assert heir.adopt(scene.study_id) is None  # the beat has renewed the other two


def test_beat_whose_answer_got_lost_names_the_tickets_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper, heir = scene.driver(), scene.driver()
    sleeper.claim(scene.study_id, 1)
    scene.clock.now += 61
    heir.adopt(scene.study_id)
    mend = break_after_commit(monkeypatch, scene.storage)
    with pytest.raises(StorageAway):
        sleeper.beat("[]")
    mend()
    assert sleeper.beat("[]") == {1}


def test_released_trials_are_adopted_at_once_and_it_is_no_death(scene: Scene) -> None:
    owner, heir = scene.driver(), scene.driver()
    owner.claim(scene.study_id, 5)
    trial_id = scene.trial(owner, 1)
    owner.release(scene.study_id, [1])
    lease = heir.adopt(scene.study_id)
    assert lease is not None
    assert (lease.trial_id, lease.attempt, lease.preempted) == (trial_id, 2, True)
    scene.clock.now += 61
    died = owner.adopt(scene.study_id)
    assert died is not None
    assert (died.attempt, died.preempted) == (3, False)


def test_unregistering_releases_what_is_left(scene: Scene) -> None:
    owner, heir = scene.driver(), scene.driver()
    owner.claim(scene.study_id, 5)
    owner.unregister()
    assert len(heir.drivers(scene.study_id)) == 1
    lease = heir.adopt(scene.study_id)
    assert lease is not None
    assert lease.preempted


def test_attempts_and_failures_outlive_the_driver(scene: Scene, ended: DriverIdentity) -> None:
    dead, heir = scene.driver(ended), scene.driver()
    dead.claim(scene.study_id, 5)
    assert dead.retry(scene.study_id, 1, failures=1) == 2
    assert dead.retry(scene.study_id, 1, failures=2) == 3
    dead.fence(scene.study_id, [1])
    trial_id = scene.trial(dead, 1)
    TrialWriter(scene.storage).write([Report(trial_id, 1, 1.0)], dead.fence(scene.study_id, [1]))
    lease = heir.adopt(scene.study_id)
    assert lease is not None
    assert (lease.attempt, lease.failures) == (4, 3)  # the death of the driver was one more


@pytest.mark.parametrize(
    ("left_checkpoint", "released", "expected"),
    [(False, False, 3), (True, False, 0), (False, True, 2), (True, True, 0)],
)
def test_only_attempts_without_a_checkpoint_count(
    scene: Scene, ended: DriverIdentity, left_checkpoint: bool, released: bool, expected: int
) -> None:
    owner, heir = scene.driver(ended), scene.driver()
    owner.claim(scene.study_id, 5)
    scene.trial(owner, 1)
    assert owner.retry(scene.study_id, 1, failures=2) == 2
    if released:
        owner.release(scene.study_id, [1])
    asked = []

    def progressed(lease: Lease) -> bool:
        asked.append((lease.number, lease.attempt))
        return left_checkpoint

    lease = heir.adopt(scene.study_id, progressed)
    assert lease is not None
    assert asked == [(0, 2)]
    assert lease.failures == expected
    assert [stored.failures for stored in heir.unfinished(scene.study_id)] == [expected]


def test_silent_drivers_can_be_given_time(scene: Scene) -> None:
    silent, heir = scene.driver(), scene.driver()
    silent.claim(scene.study_id, 5)
    silent.claim(scene.study_id, 5)
    silent.release(scene.study_id, [2])
    scene.clock.now += 100
    lease = heir.adopt(scene.study_id, silent_too=False)
    assert lease is not None
    assert lease.ticket == 2  # given back, so nobody is silent about it
    assert heir.adopt(scene.study_id, silent_too=False) is None
    assert silent.beat("[]") == set()
    assert heir.adopt(scene.study_id) is None


def test_closed_lease_is_neither_lost_nor_adopted(scene: Scene) -> None:
    owner, heir = scene.driver(), scene.driver()
    owner.claim(scene.study_id, 1)
    trial_id = scene.trial(owner, 1)
    end = [Finish(trial_id, TrialState.COMPLETE, 0.5, datetime.now()), CloseLease(scene.study_id, 1)]
    for _ in range(2):  # the second time as if the answer to the first had got lost
        TrialWriter(scene.storage).write(end, owner.fence(scene.study_id, [1]))
        assert owner.beat("[]") == set()
    assert owner._held == {scene.study_id: {}}  # a beat does not renew what is done
    scene.clock.now += 100
    assert heir.adopt(scene.study_id) is None
    assert heir.unfinished(scene.study_id) == []
    assert heir.claim(scene.study_id, 1) is None


def break_after_commit(monkeypatch: pytest.MonkeyPatch, storage: RDBStorage) -> Callable[[], None]:
    """Lets the next commit succeed and its answer get lost; returns a function that mends it."""
    real = storage.engine.dialect.do_commit

    def commit_and_vanish(connection: object) -> None:
        real(connection)
        raise OperationalError("COMMIT", None, ConnectionError("the answer got lost"))

    monkeypatch.setattr(storage.engine.dialect, "do_commit", commit_and_vanish)
    return monkeypatch.undo


def test_claim_whose_answer_got_lost_is_found_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = scene.driver()
    mend = break_after_commit(monkeypatch, scene.storage)
    with pytest.raises(StorageAway, match="answer got lost"):
        driver.claim(scene.study_id, 1)
    mend()
    assert driver.claim(scene.study_id, 1) is None
    lease = driver.adopt(scene.study_id)
    assert lease is not None
    assert (lease.ticket, lease.preempted) == (1, True)
    assert driver.beat("[]") == set()
    driver.fence(scene.study_id, [1])


def test_lost_answers_are_mended_by_asking_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = scene.driver()
    driver.claim(scene.study_id, 1)
    calls: list[Callable[[], object]] = [
        lambda: scene.trial(driver, 1),
        lambda: driver.retry(scene.study_id, 1, failures=1),
        lambda: driver.beat("[]"),
        lambda: driver.release(scene.study_id, [1]),
    ]
    for call in calls:
        mend = break_after_commit(monkeypatch, scene.storage)
        with pytest.raises(StorageAway):
            call()
        mend()
        call()
    assert len(scene.storage.get_all_trials(scene.study_id)) == 1
    lease = driver.adopt(scene.study_id)
    assert lease is not None
    assert (lease.failures, lease.preempted) == (1, True)
