"""What `TrialWriter` stores equals what Optuna stores; all or nothing, and the same when repeated."""

import math
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import select

from hpsearch.errors import LeaseLost, StudyNotFound
from hpsearch.store import writes
from hpsearch.store.connection import reading, writing
from hpsearch.store.schema import LEASE
from hpsearch.store.trials import create_trial
from hpsearch.store.writes import (
    CloseLease,
    Fence,
    Finish,
    Report,
    SetAttr,
    SetParams,
    SetSystemAttr,
    TrialWriter,
    Truncate,
)

DISTRIBUTIONS: Mapping[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(1e-6, 1.0, log=True),
    "batch_size": CategoricalDistribution([16, 32, 64]),
    "epochs": IntDistribution(1, 50),
    "optimizer": CategoricalDistribution(["adam", "sgd"]),
}
PARAMS = {"learning_rate": 0.1 + 0.2, "batch_size": 64, "epochs": 7, "optimizer": "sgd"}
CURVE = {1: 1 / 3, 2: math.nan, 3: math.inf, 4: -math.inf, 5: 5e-324, 6: 1.7976931348623157e308, 7: -2.0}
ATTRS = {
    "curve": [0.1, None, 1e-17],
    "reason": 'Grüße, "日本"\n\x00',
    "deep": {"a": {"b": True}},
    "none": None,
}


def twin_by_optuna(storage: RDBStorage, study_id: int, state: TrialState, value: float | None) -> FrozenTrial:
    trial_id = storage.create_new_trial(study_id)
    for name, hparam in PARAMS.items():
        internal = DISTRIBUTIONS[name].to_internal_repr(hparam)
        storage.set_trial_param(trial_id, name, internal, DISTRIBUTIONS[name])
    for epoch, loss in CURVE.items():
        storage.set_trial_intermediate_value(trial_id, epoch, loss)
    for key, attr in ATTRS.items():
        storage.set_trial_user_attr(trial_id, key, attr)
        storage.set_trial_system_attr(trial_id, key, attr)
    storage.set_trial_state_values(trial_id, state, None if value is None else [value])
    return storage.get_trial(trial_id)


def whole_trial(trial_id: int, state: TrialState, value: float | None) -> list[writes.Operation]:
    return [
        SetParams(trial_id, PARAMS, DISTRIBUTIONS),
        *(Report(trial_id, epoch, loss) for epoch, loss in CURVE.items()),
        *(SetAttr(trial_id, key, attr) for key, attr in ATTRS.items()),
        *(SetSystemAttr(trial_id, key, attr) for key, attr in ATTRS.items()),
        Finish(trial_id, state, value, datetime.now()),
    ]


def contents(trial: FrozenTrial) -> list[object]:
    """All of a trial but its identity and times; `repr` makes NaN equal to itself and shows every digit."""
    words = [trial.state, trial.values, trial.params, trial.distributions, trial.intermediate_values]
    attrs = [sorted(trial.user_attrs.items()), sorted(trial.system_attrs.items())]
    return [repr(part) for part in [*words, *attrs]] + [list(trial.params)]


@pytest.mark.parametrize(
    ("state", "value"),
    [
        (TrialState.COMPLETE, 0.1 + 0.2),
        (TrialState.COMPLETE, math.inf),
        (TrialState.COMPLETE, -math.inf),
        (TrialState.PRUNED, 5e-324),
        (TrialState.PRUNED, None),
        (TrialState.FAIL, None),
    ],
)
def test_stored_trial_equals_its_twin_by_optuna(
    storage: RDBStorage, study_id: int, database_url: str, state: TrialState, value: float | None
) -> None:
    twins = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "twins")
    twin = twin_by_optuna(storage, twins, state, value)
    trial_id, number, _ = create_trial(storage, study_id, 1)
    TrialWriter(storage).write(whole_trial(trial_id, state, value))
    plain = database_url.replace("postgresql:", "postgresql+psycopg:").replace("mysql:", "mysql+pymysql:")
    fresh = RDBStorage(plain)  # as any other program opens it
    ours = optuna.load_study(study_name="study", storage=fresh).trials[number]
    fresh.engine.dispose()
    assert contents(ours) == contents(twin)
    assert number == twin.number
    for mine, optunas in [
        (ours.datetime_start, twin.datetime_start),
        (ours.datetime_complete, twin.datetime_complete),
    ]:
        assert mine is not None
        assert optunas is not None
        assert abs(mine - optunas) < timedelta(seconds=30)


def test_moments_are_naive_utc_in_the_database(storage: RDBStorage, study_id: int) -> None:
    trial_id, _, _ = create_trial(storage, study_id, 1)
    ended = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=5)))
    TrialWriter(storage).write([Finish(trial_id, TrialState.COMPLETE, 1.0, ended)])
    with reading(storage) as connection:
        assert connection.scalar(select(writes.TRIALS.c.datetime_complete)) == datetime(2026, 1, 1, 22, 4, 5)
    assert storage.get_trial(trial_id).datetime_complete == ended.astimezone().replace(tzinfo=None)


def test_batch_written_twice_changes_nothing(storage: RDBStorage, study_id: int) -> None:
    trial_id, _, _ = create_trial(storage, study_id, 1)
    writer = TrialWriter(storage)
    batch = whole_trial(trial_id, TrialState.COMPLETE, 0.5)
    writer.write(batch[:-1])
    running = contents(storage.get_trial(trial_id))
    writer.write(batch[:-1])
    assert contents(storage.get_trial(trial_id)) == running
    writer.write(batch)
    finished = storage.get_trial(trial_id)
    writer.write(batch)
    late = [Report(trial_id, 1, 9.0), Finish(trial_id, TrialState.FAIL, None, datetime.now())]
    writer.write(late)
    again = storage.get_trial(trial_id)
    assert contents(again) == contents(finished)
    assert again.datetime_complete == finished.datetime_complete


def test_last_value_wins_and_nothing_follows_the_end(storage: RDBStorage, study_id: int) -> None:
    first, second = (create_trial(storage, study_id, ticket)[0] for ticket in (1, 2))
    TrialWriter(storage).write(
        [
            Report(first, 1, 0.1),
            SetAttr(first, "key", "old"),
            Report(second, 1, 7.0),
            Report(first, 1, 0.2),
            SetAttr(first, "key", "new"),
            Finish(first, TrialState.COMPLETE, 0.2, datetime.now()),
            Report(first, 2, 0.3),
            Finish(first, TrialState.FAIL, None, datetime.now()),
            Report(second, 2, 8.0),
        ]
    )
    trial = storage.get_trial(first)
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.2)
    assert trial.intermediate_values == {1: 0.2}
    assert trial.user_attrs == {"key": "new"}
    assert storage.get_trial(second).intermediate_values == {1: 7.0, 2: 8.0}


def test_batch_is_all_or_nothing(storage: RDBStorage, study_id: int) -> None:
    trial_id, _, _ = create_trial(storage, study_id, 1)
    writer = TrialWriter(storage)
    with pytest.raises(StudyNotFound, match="study was deleted"):
        writer.write([Report(trial_id, 1, 0.5), Report(trial_id + 1, 1, 0.5)])
    with pytest.raises(TypeError, match="JSON"):
        writer.write([Report(trial_id, 1, 0.5), SetAttr(trial_id, "set", {1})])
    assert storage.get_trial(trial_id).intermediate_values == {}


@pytest.mark.parametrize(
    ("state", "value", "words"),
    [
        (TrialState.RUNNING, None, "RUNNING"),
        (TrialState.COMPLETE, None, "missing"),
        (TrialState.PRUNED, math.nan, "NaN"),
    ],
)
def test_end_that_optuna_could_not_read_is_refused(
    state: TrialState, value: float | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Finish(1, state, value, datetime.now())


def add_lease(storage: RDBStorage, study_id: int, ticket: int, driver: str | None, attempt: int = 1) -> None:
    flags = {"preempted": False, "done": False, "failures": 0, "expires": 0.0}
    row = {"study_id": study_id, "ticket": ticket, "driver": driver, "attempt": attempt}
    with writing(storage) as connection:
        connection.execute(LEASE.insert(), [row | flags])


@pytest.mark.parametrize(("driver", "attempt"), [("other", 2), ("me", 3), (None, 2)])
def test_fence_refuses_the_whole_batch(
    storage: RDBStorage, study_id: int, driver: str | None, attempt: int
) -> None:
    add_lease(storage, study_id, 1, "me", 1)
    add_lease(storage, study_id, 2, driver, attempt)
    add_lease(storage, study_id, 3, "other", 1)
    trial_id, number, _ = create_trial(storage, study_id, 1)
    create_trial(storage, study_id, 2)
    fence = Fence("me", study_id, {1: 1, 2: 2, 3: 1})
    with pytest.raises(LeaseLost, match=r"trial 1, ticket 3 now") as caught:
        TrialWriter(storage).write([Report(trial_id, 1, 0.5)], fence)
    assert caught.value.tickets == {2, 3}
    assert number == 0
    assert storage.get_trial(trial_id).intermediate_values == {}


def test_end_and_lease_close_together_and_may_be_written_again(storage: RDBStorage, study_id: int) -> None:
    add_lease(storage, study_id, 1, "me")
    fence = Fence("me", study_id, {1: 1})
    trial_id, number, _ = create_trial(storage, study_id, 1, fence)
    batch = [Finish(trial_id, TrialState.COMPLETE, 0.5, datetime.now()), CloseLease(study_id, 1)]
    for _ in range(2):
        TrialWriter(storage).write(batch, fence)
        with reading(storage) as connection:
            row = connection.execute(select(LEASE)).one()
        assert (row.done, row.trial_id, row.number) == (True, trial_id, number)
    assert storage.get_trial(trial_id).state is TrialState.COMPLETE


def test_trial_of_a_ticket_is_created_once(storage: RDBStorage, study_id: int) -> None:
    storage.create_new_trial(study_id)
    add_lease(storage, study_id, 7, "me")
    fence = Fence("me", study_id, {7: 1})
    made = create_trial(storage, study_id, 7, fence)[:2]
    assert made[1] == 1
    assert create_trial(storage, study_id, 7, fence) == (*made, True)
    trial = storage.get_trial(made[0])
    assert trial.state is TrialState.RUNNING
    assert trial.system_attrs == {}
    with pytest.raises(StudyNotFound):
        create_trial(storage, 999, 1)


def test_a_trial_that_goes_on_from_an_older_epoch_loses_the_later_ones(
    storage: RDBStorage, study_id: int
) -> None:
    first, second = (create_trial(storage, study_id, ticket)[0] for ticket in (1, 2))
    writer = TrialWriter(storage)
    writer.write([Report(trial, epoch, float(epoch)) for trial in (first, second) for epoch in (1, 2, 3, 4)])
    batch = [
        Report(first, 5, 5.0),
        Truncate(first, 2),
        Report(first, 3, 0.3),
        Truncate(first, 1),
        Report(first, 2, 0.2),
    ]
    for _ in range(2):  # the second time as if the answer to the first had got lost
        writer.write(batch)
        assert storage.get_trial(first).intermediate_values == {1: 1.0, 2: 0.2}
    assert storage.get_trial(second).intermediate_values == {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}


def test_trial_is_not_created_behind_a_lost_lease(storage: RDBStorage, study_id: int) -> None:
    add_lease(storage, study_id, 1, "other")
    with pytest.raises(LeaseLost):
        create_trial(storage, study_id, 1, Fence("me", study_id, {1: 1}))
    assert storage.get_all_trials(study_id) == []
