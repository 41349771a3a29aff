"""What becomes of the front of a study with several goals: continued, confirmed, refitted, joined."""

import json
import sqlite3
from pathlib import Path

import optuna
import pytest

from hpsearch.contracts.trial import StopKind
from hpsearch.errors import UserError
from hpsearch.results.confirm.confirm import confirm
from hpsearch.results.confirm.continuation import continue_trial
from hpsearch.results.confirm.ensemble import join
from hpsearch.results.confirm.refit import refit
from hpsearch.results.confirm.words import confirmation_lines
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.study import StudySpec
from hpsearch.testing.in_process import InProcessExecutor
from tests.results.digits import searched, small_spec
from tests.results.searches import record_of


def spec_of(**study: object) -> StudySpec:
    return small_spec(
        "f",
        study={"trials": 4, "metrics": ["val_error", "parameters"], **study},
        model={"name": "cnn", "args": {"hidden": 8}},
        data={"subset": 0.5},
        train={"epochs": 5, "schedule": "wsd", "cooldown": 0.4},
        search={"learning_rate": [0.1], "model.args.width": [2, 8], "train.repeat": [0, 1]},
    )


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunOptions]:
    folder = tmp_path_factory.mktemp("front")
    return folder, searched(folder, spec_of(policy="sampled"))


def test_a_trial_of_the_front_is_continued(front: tuple[Path, RunOptions]) -> None:
    folder, options = front
    record = record_of(folder, "f")
    small = record.front[-1]
    assert small.number != record.front[0].number
    found = continue_trial("f", options, 12, trial=small.number, executor=InProcessExecutor())
    after = record_of(folder, "f")
    longer = next(one for one in after.trials if one.number == found.trial)
    assert longer.taken["parameters"] == small.taken["parameters"]
    assert longer.state == "COMPLETE"
    assert longer.score is not None
    assert small.score is not None
    numbers, is_better = {one.number for one in after.front}, longer.score < small.score
    assert (longer.number in numbers) == is_better, (
        "both take as much, so that the better one beats the other"
    )
    assert (small.number in numbers) != is_better
    said = f"no other trial beats trial {longer.number} in all goals: val_error, parameters"
    assert (said in found.lines) == (is_better and after.front[0].number != longer.number)


def test_a_front_is_confirmed_refitted_and_joined(front: tuple[Path, RunOptions]) -> None:
    folder, options = front
    record = record_of(folder, "f")
    outcome = confirm("f", options, top=2, seeds=2, executor=InProcessExecutor())
    assert outcome.confirmation is not None
    chosen = [result.candidate.trial for result in outcome.confirmation.results]
    assert {*chosen} <= {trial.number for trial in record.front}
    said = "\n".join(confirmation_lines(outcome.confirmation, outcome.record))
    taken = {n: f"{record.trials[n].attrs['parameters']:,} (trial {n})" for n in chosen}
    assert f"they are compared by val_error alone; what they take: parameters {taken[chosen[0]]}" in said
    found = refit("f", options, executor=InProcessExecutor()).refit
    assert found is not None
    assert found.trial == outcome.confirmation.first
    study = optuna.load_study(study_name="f.refit", storage=options.storage)
    losses = [
        *study.trials[0].user_attrs["train_loss"][:-1],
        9.0,
    ]  # as if its learning rate had been too large
    with sqlite3.connect(folder / "s.db") as database:
        change = "UPDATE trial_user_attributes SET value_json = ? WHERE trial_id = ? AND key = 'train_loss'"
        database.execute(change, (json.dumps(losses), study.trials[0]._trial_id))
    again = refit("f", options, executor=InProcessExecutor())
    assert (again.refit, again.exit_status) == (None, 1)
    assert "ended with a training loss of 9, and the trainings that it repeats had at most" in again.lines[0]
    joined = join("f", options, "ensemble", 3)
    assert len(joined.members) >= 1


def test_seconds_of_a_continued_trial_are_those_of_the_whole(tmp_path: Path) -> None:
    spec = spec_of(metrics=["val_error", "seconds"], policy="sampled", require={"seconds": "< 1e4"})
    options = searched(tmp_path, spec)
    number = record_of(tmp_path, "f").front[0].number
    continue_trial("f", options, 8, trial=number, executor=InProcessExecutor())
    longer = record_of(tmp_path, "f").trials[-1]
    assert longer.taken["seconds"] == pytest.approx(sum(longer.attrs["epoch_seconds"]), abs=0.01)
    assert longer.attrs["device_seconds"] < longer.taken["seconds"]
    strict = spec.model_copy(
        update={"study": spec.study.model_copy(update={"require": {"seconds": "< 1e-6"}, "name": "t"})}
    )
    run(strict, options, executor=InProcessExecutor())
    broken = next(one for one in record_of(tmp_path, "t").trials if one.stop_reason == StopKind.INFEASIBLE)
    with pytest.raises(UserError, match=r"ended as PRUNED .infeasible.*keeps the study.s limits"):
        continue_trial("t", options, 8, trial=broken.number, executor=InProcessExecutor())
