"""A study ends by its own limits, says which one, and goes on when that is raised."""

import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial

from hpsearch.contracts.messages import TrialRun
from hpsearch.results.report.content import report
from hpsearch.results.report.document import markdown
from hpsearch.results.stored.reading import read_study
from hpsearch.results.stored.status import study_status
from hpsearch.results.terminal.lines import status_lines
from hpsearch.results.terminal.progress import closing_lines
from hpsearch.service.run import run
from hpsearch.service.watch import Reached, Stops
from hpsearch.study.specification import StudySection
from tests.service.curves import CurveExecutor, Script
from tests.service.test_pausing import driver_of, options_in, spec_of
from tests.service.test_pausing import rough as noisy
from tests.service.test_runs import Interrupt

SINCE = "patience_trials = {} ended since the best value 0.5 was reached"


def rough(run: TrialRun) -> Script:
    """A falling curve at a level that is the trial's own."""
    level = random.Random(run.number).random()
    return Script(tuple(level + 1 / epoch for epoch in range(1, run.spec.train.epochs + 1)))


def trials_in(folder: Path) -> list[FrozenTrial]:
    return optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/s.db").trials


@pytest.mark.parametrize(
    ("limits", "reached", "reason"),
    [
        ({"target_value": 0.5}, (0.5, 0, 0, 0.0), "the target value 0.5 has been reached: 0.5"),
        ({"target_value": 0.5}, (0.51, 0, 0, 0.0), None),
        ({"target_value": 0.5, "metric": "val_macro_f1"}, (0.51, 0, 0, 0.0),
         "the target value 0.5 has been reached: 0.51"),
        ({"target_value": 0.5}, (None, 0, 0, 0.0), None),
        ({"patience_trials": 3}, (0.5, 2, 0, 0.0), None),
        ({"patience_trials": 3}, (0.5, 3, 0, 0.0), SINCE.format("3: 3 trials")),
        ({"patience_trials": 1}, (0.5, 1, 0, 0.0), SINCE.format("1: 1 trial")),
        ({"patience_trials": 3}, (None, 3, 0, 0.0), "patience_trials = 3: 3 trials ended and none has a finite value"),
        ({"improvement": {"by": 0.01}}, (0.5, 0, 8, 0.0, None), None),
        ({"improvement": {"by": 0.01}}, (0.5, 0, 8, 0.0, (0.1, 40)), None),
        ({"improvement": {"by": 0.01}}, (0.5, 0, 8, 0.0, (0.0991, 40)),
         "improvement: the chance that the best value 0.5 improves by more than 0.01 within the next 40 epochs "
         "is 9.9%, less than 10.0%"),
        ({"max_epochs_total": 9}, (0.5, 0, 8, 0.0), None),
        ({"max_epochs_total": 9}, (0.5, 0, 9, 0.0), "max_epochs_total = 9 epochs have been trained"),
        ({"max_device_hours": 0.5}, (0.5, 0, 0, 1799.0), None),
        ({"max_device_hours": 0.5}, (0.5, 0, 0, 1800.0), "max_device_hours = 0.5 h of training are used up"),
    ],
)  # fmt: skip
def test_each_limit_ends_the_study_with_a_sentence(limits: Any, reached: Any, reason: str | None) -> None:
    stops = Stops(StudySection(**limits))
    stops.judge(lambda: Reached(*reached))
    assert stops.reason == reason
    assert stops.ends_study == (reason is not None)


@pytest.mark.parametrize(("at_timeout", "paused"), [("wait", True), ("end", False)])
def test_paused_trials_wait_for_the_next_run_or_end_with_the_time(
    tmp_path: Path, at_timeout: str, paused: bool
) -> None:
    spec = spec_of("auto", trials=5_000, timeout=1.0, at_timeout=at_timeout)
    summary = run(spec, options_in(tmp_path), executor=CurveExecutor(rough))
    assert summary.reason == "the timeout of 1 s has been reached"
    assert bool(summary.counts.get("PAUSED")) == paused
    if paused:
        return
    ended = trials_in(tmp_path)
    assert all(trial.state.is_finished() for trial in ended)
    best = min(min(trial.intermediate_values.values()) for trial in ended)
    assert summary.best is not None  # also where it was paused
    assert summary.best.score == best
    run(spec, options_in(tmp_path), executor=CurveExecutor(rough))
    assert len(trials_in(tmp_path)) > len(ended)


@pytest.mark.parametrize("at_timeout", ["wait", "end"])
def test_a_finished_study_is_not_late(tmp_path: Path, at_timeout: str) -> None:
    spec = spec_of("sampled", trials=3)
    run(spec, options_in(tmp_path), executor=CurveExecutor(rough))
    late = spec_of("sampled", trials=3, timeout=1e-6, at_timeout=at_timeout)
    again = run(late, options_in(tmp_path), executor=CurveExecutor(rough))
    assert (again.reason, again.can_go_on) == ("all 3 trials are finished", False)
    status = study_status(spec.study.name, options_in(tmp_path).storage, tmp_path)
    assert status.row.ended == ""


def test_a_trial_that_the_time_interrupts_is_not_said_to_run(tmp_path: Path) -> None:
    spec = spec_of("sampled", trials=5_000, timeout=0.5)
    summary = run(spec, options_in(tmp_path, 2), executor=CurveExecutor(rough))
    assert summary.interrupted == summary.counts["RUNNING"] > 0
    said = closing_lines(summary)[1]
    assert f"{summary.interrupted} interrupted" in said
    assert "RUNNING" not in said
    status = study_status(spec.study.name, options_in(tmp_path).storage, tmp_path)
    assert f", {summary.interrupted} interrupted" in status_lines(status)[0]


def test_a_signal_that_came_first_is_no_end_of_the_study() -> None:
    stops = Stops(StudySection(target_value=0.5))
    stops.stop("`hpsearch stop` asked for it")
    stops.judge(lambda: Reached(0.1, 0, 0, 0.0))
    assert not stops.ends_study
    assert stops.reason == "`hpsearch stop` asked for it"


def since_best(trials: list[FrozenTrial]) -> int:
    """Counts anew, from what is stored, the trials that finished after the best one."""
    ended = sorted(trials, key=lambda trial: (trial.datetime_complete, trial.number))
    scores = [trial.user_attrs["score"] for trial in ended]
    return len(scores) - 1 - scores.index(min(score for score in scores if score is not None))


@pytest.mark.parametrize("cut", [17, 40])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("patience", [1, 4])
def test_a_study_ends_when_no_trial_improves_it_however_it_is_interrupted(
    tmp_path: Path, patience: int, workers: int, cut: int
) -> None:
    spec = spec_of("sampled", trials=60, patience_trials=patience)
    executor = CurveExecutor(rough)
    run(spec, options_in(tmp_path, workers), [Interrupt(cut)], executor=executor)
    summary = run(spec, options_in(tmp_path, workers), executor=executor)
    trials = trials_in(tmp_path)
    assert all(trial.state.is_finished() for trial in trials)
    assert summary.reason.startswith(f"patience_trials = {patience}: ")
    assert not summary.can_go_on
    # What other workers had just trained to its end, or what ended with the study, comes on top of the patience.
    judged = [trial for trial in trials if trial.user_attrs["stop_reason"] != "study_end"]
    assert patience <= since_best(judged) < patience + workers
    assert len(trials) - len(judged) < workers
    log = list(executor.log)
    again = run(spec, options_in(tmp_path, workers), executor=executor)
    if since_best(trials) >= patience:  # no trial became the best as it ended with the study
        assert executor.log == log
        # What ended with the study counts as well by then.
        assert again.reason.startswith(f"patience_trials = {patience}: ")
        assert again.reason.endswith(summary.reason.partition(" since ")[2])


@pytest.mark.parametrize(("policy", "workers"), [("halving", 1), ("auto", 3)])
@pytest.mark.parametrize(
    "limit",
    [
        {"patience_trials": 2},
        {"max_device_hours": 0.5 / 3600},
        {"target_value": 0.3},
        {"improvement": {"chance": 0.4, "epochs": 20}},
    ],
)
def test_paused_trials_end_with_the_study(
    tmp_path: Path, policy: str, workers: int, limit: dict[str, Any]
) -> None:
    spec = spec_of(policy, trials=60, **limit)
    executor = CurveExecutor(rough)
    summary = run(spec, options_in(tmp_path, workers), executor=executor)
    trials = trials_in(tmp_path)
    assert next(iter(limit)).split("_")[0] in summary.reason
    assert all(trial.state.is_finished() for trial in trials)
    assert any(trial.user_attrs["stop_detail"] == summary.reason for trial in trials)
    again = run(spec, options_in(tmp_path, workers), executor=executor)
    assert again.counts == summary.counts


@pytest.mark.parametrize("epochs", [33, 47])
def test_an_interruption_moves_not_when_the_chance_of_an_improvement_is_asked(
    tmp_path: Path, epochs: int
) -> None:
    spec = spec_of("auto", 5, trials=60, improvement={"by": 0.05, "chance": 0.8, "epochs": 400})
    ends = []
    for name, interrupts in (("whole", []), ("parts", [Interrupt(epochs)])):
        (tmp_path / name).mkdir()
        for callback in interrupts:
            run(spec, options_in(tmp_path / name), [callback], executor=CurveExecutor(noisy))
        summary = run(spec, options_in(tmp_path / name), executor=CurveExecutor(noisy))
        trained = [len(trial.intermediate_values) for trial in trials_in(tmp_path / name)]
        ends.append((summary.reason, trained))
    assert ends[0] == ends[1]
    assert ends[0][0].startswith("improvement: ")


def test_the_time_of_devices_counts_over_restarts_and_is_shared_by_trials_beside_each_other(
    tmp_path: Path,
) -> None:
    """An epoch takes 0.01 s here; two workers share the machine's CPU."""
    spec = spec_of("sampled", trials=60, max_device_hours=0.5 / 3600)
    executor = CurveExecutor(rough)
    run(spec, options_in(tmp_path, 2), [Interrupt(30)], executor=executor)
    summary = run(spec, options_in(tmp_path, 2), executor=executor)
    assert summary.reason == "max_device_hours = 0.000138889 h of training are used up"
    spent = sum(trial.user_attrs["device_seconds"] for trial in trials_in(tmp_path))
    assert spent == pytest.approx(0.5, abs=0.03)
    assert 50 < len(executor.log) <= 101


@pytest.mark.parametrize("policy", ["sampled", "auto"])
def test_the_sentence_stands_in_status_and_report_until_the_limit_is_raised(
    tmp_path: Path, policy: str
) -> None:
    executor = CurveExecutor(rough)
    url = f"sqlite:///{tmp_path}/s.db"
    run(spec_of(policy, trials=60, max_epochs_total=20), options_in(tmp_path), executor=executor)
    sentence = "ended by itself: max_epochs_total = 20 epochs have been trained"
    assert sentence in status_lines(study_status("s", url, tmp_path))
    assert f"It {sentence}." in markdown(report(read_study("s", url), None))
    run(
        spec_of(policy, trials=60, max_epochs_total=40),
        options_in(tmp_path),
        [Interrupt(3)],
        executor=executor,
    )
    assert not any("by itself" in line for line in status_lines(study_status("s", url, tmp_path)))
    assert "by itself" not in markdown(report(read_study("s", url), None))
    summary = run(spec_of(policy, trials=60, max_epochs_total=40), options_in(tmp_path), executor=executor)
    assert summary.reason == "max_epochs_total = 40 epochs have been trained"


@pytest.mark.parametrize(
    ("policy", "limit"), [("sampled", {"patience_trials": 4}), ("halving", {"max_device_hours": 0.3 / 3600})]
)
def test_two_drivers_end_a_study_together(
    tmp_path: Path, database_url: str, policy: str, limit: dict[str, Any]
) -> None:
    spec = spec_of(policy, trials=60, **limit)
    first, second = CurveExecutor(rough), CurveExecutor(rough)
    second.saved = first.saved
    drivers = [driver_of(spec, database_url, tmp_path, executor, 2) for executor in (first, second)]
    over = [False, False]
    while not all(over):
        for place, driver in enumerate(drivers):
            over[place] = over[place] or driver._is_over()
            if not over[place]:
                driver.turn()
            if driver.stops.reason is None:
                driver.database(driver._look_around)
    trials = drivers[0].study.storage.get_all_trials(drivers[0].study.study_id)
    for driver in drivers:
        driver.study.release()
        driver.study.storage.engine.dispose()
    assert len(trials) < 60
    assert all(trial.state.is_finished() for trial in trials)
    assert all(driver.stops.ends_study for driver in drivers)
    assert all(next(iter(limit)) in driver.stops.reason for driver in drivers if driver.stops.reason)
    if policy == "sampled":
        judged = [trial for trial in trials if trial.user_attrs["stop_reason"] != "study_end"]
        # Each of the four workers may be at a trial, and a driver sees what the other has ended a turn later.
        assert 4 <= since_best(judged) <= 4 + 2 * 4
    assert first.log
    assert second.log
