"""The study of one driver that loses trials to another one before their ends are written."""

from collections.abc import Iterator

import pytest
from optuna.trial import TrialState
from sqlalchemy import update

from hpsearch.contracts.trial import EpochResult, StopKind
from hpsearch.errors import LeaseLost
from hpsearch.search.outcome import Verdict
from hpsearch.service.opening import open_study
from hpsearch.service.study import Study
from hpsearch.store.connection import open_storage, writing
from hpsearch.store.schema import LEASE
from hpsearch.study import parse_study

SPEC = parse_study(
    {
        "study": {"name": "s", "trials": 9},
        "data": {"dataset": "digits"},
        "search": {"learning_rate": {"low": 1e-4, "high": 1.0}},
    }
)


@pytest.fixture
def study(database_url: str) -> Iterator[Study]:
    opened = open_study(SPEC, database_url, ["cpu"])
    yield opened
    opened.storage.engine.dispose()


def begin(study: Study) -> int:
    trial = study.next_trial(lambda number, attempt: False)
    assert trial is not None
    return trial.number


def end(study: Study, number: int, value: float, kind: StopKind = StopKind.FINISHED) -> TrialState:
    study.report(number, EpochResult(number, 1, 1, {"train_loss": value, "val_loss": value}))
    return study.finish(number, Verdict(kind), None, {}).trial.state


def lose(study: Study, url: str, number: int) -> None:
    """Gives a trial that has ended in memory to another driver, which its own one learns at the next flush."""
    [ticket] = [ticket for ticket, record in study._ended.items() if record.number == number]
    storage = open_storage(url)
    with writing(storage) as connection:
        connection.execute(update(LEASE).where(LEASE.c.ticket == ticket).values(driver="another"))
    storage.engine.dispose()
    with pytest.raises(LeaseLost) as lost:
        study.flush()
    study.drop(lost.value.tickets)


def test_an_end_that_is_lost_counts_as_none(study: Study, database_url: str) -> None:
    first, second = begin(study), begin(study)
    end(study, first, 0.5)
    study.flush()
    assert study.has_ended(first)
    end(study, second, 0.1)
    lose(study, database_url, second)
    assert not study.has_ended(second), "its checkpoints may be another driver's"
    assert not study.has_ended(first), "it would be held against the scores with the lost one"
    study.sync()
    assert study.has_ended(first)
    assert not study.has_ended(second)
    assert study.complete_scores() == {first: 0.5}


@pytest.mark.parametrize("kind", [StopKind.PRUNER, StopKind.OUT_OF_MEMORY, StopKind.ERROR])
def test_what_is_a_record_without_a_lost_end_is_complete(
    study: Study, database_url: str, kind: StopKind
) -> None:
    numbers = [begin(study) for _ in range(4)]
    end(study, numbers[0], 0.5)
    study.flush()
    assert end(study, numbers[1], 0.1) is TrialState.COMPLETE
    assert end(study, numbers[2], 0.2, kind) is not TrialState.COMPLETE
    assert end(study, numbers[3], 0.3, kind) is not TrialState.COMPLETE
    lose(study, database_url, numbers[1])
    assert study.flush()
    assert study.complete_scores() == {numbers[0]: 0.5, numbers[2]: 0.2}
    storage = open_storage(database_url)
    trials = storage.get_all_trials(study.study_id)
    assert [trial.state for trial in trials[:3]] == [
        TrialState.COMPLETE,
        TrialState.RUNNING,
        TrialState.COMPLETE,
    ]
    assert trials[3].state is not TrialState.COMPLETE
    assert storage.get_best_trial(study.study_id).value == 0.2
    assert trials[2].system_attrs == trials[0].system_attrs, "no COMPLETE trial is infeasible"
    storage.engine.dispose()


def test_an_end_whose_commit_was_not_answered_counts_once(study: Study, database_url: str) -> None:
    first, second = begin(study), begin(study)
    end(study, first, 0.5)
    study._writer.write([op for _, op in study._queue])  # committed, and the answer lost: the queue is kept
    end(study, second, 0.1)
    lose(study, database_url, second)
    assert study.flush()
    assert study.view.counts[TrialState.COMPLETE.name] == 1
    assert study.complete_scores() == {first: 0.5}


def test_epochs_of_another_driver_count_once_while_it_trains_and_afterwards(
    study: Study, database_url: str
) -> None:
    other = open_study(SPEC, database_url, ["cpu"])
    theirs, ours = begin(other), begin(study)
    for epoch in (1, 2, 3):
        other.report(theirs, EpochResult(theirs, 1, epoch, {"train_loss": 1.0, "val_loss": 1 / epoch}))
    other.flush()
    end(study, ours, 0.5)
    study.sync()
    assert (study.epochs, study.reached().epochs) == (4, 4)
    other.finish(theirs, Verdict(StopKind.FINISHED), None, {})
    other.flush()
    assert study.epochs == 4
    study.sync()
    assert study.epochs == 4
    other.storage.engine.dispose()
