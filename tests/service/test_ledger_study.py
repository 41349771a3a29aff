"""What the ledger tells of a whole study: its drivers, a stop, its end, its number used again."""

import time

import optuna
import pytest
from sqlalchemy import func, select

from hpsearch.errors import StudyNotFound
from hpsearch.store.connection import reading
from hpsearch.store.identity import DriverIdentity, DriverState
from hpsearch.store.ledger import Ledger
from hpsearch.store.schema import DRIVER, LEASE
from hpsearch.store.writes import Report, TrialWriter
from tests.store.scenes import Scene, elsewhere


def test_study_under_the_number_of_a_deleted_one_starts_anew(scene: Scene) -> None:
    driver = scene.driver()
    driver.claim(scene.study_id, 1)
    scene.storage.delete_study(scene.study_id)  # as the dashboard does it
    new_id = scene.storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "new")
    if scene.storage.engine.dialect.name == "sqlite":
        assert new_id == scene.study_id
    heir = Ledger(scene.storage, DriverIdentity.here(), 60.0, scene.clock)
    heir.register(new_id)
    assert heir.adopt(new_id) is None
    assert heir.claim(new_id, 1) == 1
    with pytest.raises(StudyNotFound):
        heir.claim(new_id + 1, 1)


def test_forgotten_study_leaves_no_rows_and_fences_fail(scene: Scene) -> None:
    driver = scene.driver()
    driver.claim(scene.study_id, 2)
    trial_id = scene.trial(driver, 1)
    fence = driver.fence(scene.study_id, [1])
    scene.driver().forget_study(scene.study_id)
    with reading(scene.storage) as connection:
        for table in (LEASE, DRIVER):
            assert connection.scalar(select(func.count()).select_from(table)) == 0
    with pytest.raises(StudyNotFound, match="no longer knows ticket"):
        TrialWriter(scene.storage).write([Report(trial_id, 1, 0.5)], fence)
    with pytest.raises(StudyNotFound, match=r"was deleted from .* while it was run"):
        driver.beat("[]")


def test_a_driver_does_not_go_on_in_the_study_that_has_the_number_of_its_own(scene: Scene) -> None:
    driver, name = scene.driver(), "new"
    driver.claim(scene.study_id, 2)
    scene.storage.delete_study(scene.study_id)  # as the dashboard does it
    new_id = scene.storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], name)
    if new_id != scene.study_id:
        pytest.skip("only SQLite gives a number twice")
    heir = scene.driver()
    heir.claim(new_id, 2)
    for change in (lambda: driver.claim(new_id, 2), lambda: driver.beat("[]")):
        with pytest.raises(StudyNotFound, match="was deleted"):
            change()
    assert len(heir.unfinished(new_id)) == 1


def test_status_shows_who_is_alive_stale_or_dead(scene: Scene, ended: DriverIdentity) -> None:
    alive = scene.driver()
    alive.claim(scene.study_id, 5)
    silent = scene.driver(elsewhere())
    dead = scene.driver(ended)
    dead.claim(scene.study_id, 5)  # a dead driver with a lease is kept in the list
    scene.clock.now += 100
    alive.register(scene.study_id, '["cuda:0"]')
    alive.beat('[{"device": "cuda:0"}]')
    rows = {row.identity.id: row for row in alive.drivers(scene.study_id)}
    states = {row.identity: row.state for row in rows.values()}
    assert states == {
        alive._driver: DriverState.ALIVE,
        silent._driver: DriverState.STALE,
        ended: DriverState.DEAD,
    }
    assert [row.silence for row in rows.values()] == [0.0, 100.0, 100.0]
    mine = rows[alive._driver.id]
    assert (mine.devices, mine.workers, mine.seen) == (
        '["cuda:0"]',
        '[{"device": "cuda:0"}]',
        scene.clock.now,
    )


def test_registering_removes_dead_drivers_without_leases(scene: Scene, ended: DriverIdentity) -> None:
    old = scene.driver(elsewhere())
    scene.driver(ended)
    assert len(old.drivers(scene.study_id)) == 2
    scene.clock.now += 25 * 3600
    newest = scene.driver()
    assert [row.identity for row in newest.drivers(scene.study_id)] == [newest._driver]


def test_stop_is_meant_for_the_drivers_that_are_there(scene: Scene) -> None:
    driver, anyone = scene.driver(), Ledger(scene.storage, elsewhere(), 60.0, scene.clock)
    began = driver.now()
    assert not driver.stop_requested(scene.study_id, began)
    scene.clock.now += 5
    anyone.request_stop(scene.study_id)
    assert driver.stop_requested(scene.study_id, began)
    assert not driver.stop_requested(scene.study_id, driver.now() + 1)
    assert driver.stop_requested(scene.study_id, driver.registered_at)
    scene.clock.now += 1
    later = scene.driver()
    assert not later.stop_requested(scene.study_id, later.registered_at)


def test_clock_of_the_database_is_near_ours(scene: Scene) -> None:
    ledger = Ledger(scene.storage, DriverIdentity.here())
    assert abs(ledger.now() - time.time()) < 30
