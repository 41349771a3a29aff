"""Workers that die, hang and are disabled: what the fleet makes of it, and what the run says."""

import io
import json
import os
import signal
import time
from types import SimpleNamespace

import pytest

from hpsearch.contracts.callbacks import Callback
from hpsearch.contracts.executor import WorkerPlace
from hpsearch.contracts.messages import EpochResult, Loading, Ready, TrialRun, Usage, WorkerSetup
from hpsearch.errors import UserError, WorkersFailed
from hpsearch.results.terminal.display import JsonDisplay
from hpsearch.service import fleet, watch
from hpsearch.service.fleet import Fleet
from hpsearch.service.snapshots import worker_rows
from tests.service.curves import CurveExecutor, Script, falling
from tests.service.test_driver import run_here, spec_of, stored


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch):
    monkeypatch.setattr(fleet, "MOST_BACKOFF", 0.0)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_die_while_they_start_end_the_run(tmp_path, workers):
    executor = CurveExecutor(falling, stillborn=set(range(workers)))
    with pytest.raises(WorkersFailed, match=r"[34] workers in a row ended .* killed by SIGKILL"):
        run_here(tmp_path, spec_of(study={"timeout": 5}), workers=workers, executor=executor)


def test_deaths_before_other_workers_trained_are_no_crash_loop(tmp_path):
    """Worker 1 is disabled, worker 0 trains, dies, and dies again before its next epoch."""

    def script(run):
        whole = falling(run)
        deaths = {1: whole.val[:2], 2: ()}
        lethal = run.number == 3 and run.attempt in deaths
        return Script(deaths[run.attempt], "die") if lethal else whole

    executor = CurveExecutor(script, stillborn={1})
    spec = spec_of(study={"trials": 6, "recovery_timeout": 0})
    summary, _ = run_here(tmp_path, spec, workers=2, executor=executor)
    assert executor.starts[1] == fleet.MOST_DEATHS
    assert summary.counts == {"COMPLETE": 6}


@pytest.mark.parametrize("sound", [0, 2])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_crash_loop_burns_no_trial(tmp_path, workers, sound):
    def script(run):
        return falling(run) if run.number < sound else Script((), "die")

    spec = spec_of(study={"trials": 5, "recovery_timeout": 0})
    with pytest.raises(WorkersFailed, match="SIGSEGV"):
        run_here(tmp_path, spec, script, workers=workers)
    assert sum(trial.state.is_finished() for trial in stored(tmp_path).trials) == sound
    summary, _ = run_here(tmp_path, spec, workers=workers)
    assert summary.counts == {"COMPLETE": 5}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_something_outside_kills_are_started_again_once_any_has_trained(tmp_path, workers):
    """Six deaths in a row over several trials, as when memory is short for a while: no trial pays for them."""
    killed = []

    def script(run):
        if run.number >= 2 and len(killed) < 6:
            killed.append(run.number)
            return Script((), "die")
        return falling(run)

    summary, executor = run_here(tmp_path, spec_of(study={"trials": 6}), script, workers=workers)
    assert summary.counts == {"COMPLETE": 6}
    assert len(killed) == 6
    assert sum(executor.starts.values()) == workers + 6


def test_trials_that_kill_every_worker_are_tried_once_more_and_then_fail(tmp_path):
    """Over two such trials the workers' deaths look as if they came from outside, but only once."""

    def script(run):
        return Script((), "die") if run.number in (2, 3) else falling(run)

    summary, _ = run_here(tmp_path, spec_of(study={"trials": 6}), script)
    assert summary.counts == {"COMPLETE": 4, "FAIL": 2}


@pytest.mark.parametrize(
    ("reason", "stderr", "words"),
    [
        ("killed by SIGKILL", "", ["`dmesg`", "GiB are in use", "--workers", "resume"]),
        ("killed by SIGSEGV", "", ["resume"]),
        ("killed by SIGKILL", "MemoryError", ["resume"]),
    ],
)
def test_the_end_of_a_crash_loop_says_what_helps(reason, stderr, words):
    said = fleet.remedy(reason, stderr)
    for word in words:
        assert word in said
    assert ("dmesg" in said) == ("`dmesg`" in words)


@pytest.mark.parametrize("trials", [1, 3])
def test_a_first_trial_that_always_dies_fails_and_the_others_are_trained(tmp_path, trials):
    def script(run):
        return Script((), "die") if run.number == 0 else falling(run)

    summary, _ = run_here(tmp_path, spec_of(study={"trials": trials}), script)
    assert summary.counts == {"FAIL": 1} | ({"COMPLETE": 2} if trials > 1 else {})
    assert stored(tmp_path).trials[0].user_attrs["attempt"] == 3


def test_one_trial_that_kills_its_workers_more_often_than_a_crash_loop_takes_is_a_failed_trial(tmp_path):
    def script(run):
        return Script((), "die") if run.number == 0 else falling(run)

    spec = spec_of(study={"trials": 3, "max_attempts": fleet.LEAST_LOOP + 1})
    summary, _ = run_here(tmp_path, spec, script)
    assert summary.counts == {"FAIL": 1, "COMPLETE": 2}


@pytest.mark.parametrize("sound", [0, 1])
def test_a_trial_that_kills_its_workers_keeps_their_last_words(tmp_path, sound):
    def script(run):
        return Script((), "die") if run.number == sound else falling(run)

    executor = CurveExecutor(script, last_words="Fatal error\n  File model.py\nKilled")
    run_here(tmp_path, spec_of(study={"trials": 2}), executor=executor)
    failed = stored(tmp_path).trials[sound].user_attrs
    assert failed["error"] == "Fatal error\n  File model.py\nKilled"
    assert failed["stop_detail"] == "worker 0 killed by SIGSEGV; last line of its log: Killed"
    assert failed["worker"] == 0


def test_a_run_that_ends_with_an_error_tells_its_end(tmp_path):
    output = io.StringIO()
    executor = CurveExecutor(lambda run: Script((), "die"), last_words="out of luck")
    with pytest.raises(WorkersFailed) as raised:
        run_here(tmp_path, spec_of(), callbacks=[JsonDisplay(output)], executor=executor)
    last = json.loads(output.getvalue().splitlines()[-1])
    assert (last["event"], last["exit_status"]) == ("study_end", 1)
    assert last["reason"] == str(raised.value)
    assert "killed by SIGSEGV\nout of luck\n" in last["reason"]
    assert last["reason"].endswith("run the study again to resume it")


def test_workers_that_have_begun_end_when_another_cannot_be_started(tmp_path):
    class Full(CurveExecutor):
        def start(self, place, setup):
            if place.worker == 1:
                raise UserError("no space")
            super().start(place, setup)

    executor = Full(falling)
    with pytest.raises(UserError, match="no space"):
        run_here(tmp_path, spec_of(), workers=2, executor=executor)
    assert (executor.starts[0], executor.alive) == (1, set())


def test_no_worker_is_started_again_while_the_run_stops(tmp_path):
    """SIGTERM reaches all processes: worker 1 leaves by itself, worker 0 is still in its epoch."""

    class Terminated(Callback):
        def on_epoch(self, trial, result):
            if result.epoch == 1:
                os.kill(os.getpid(), signal.SIGTERM)
                executor.leave(1)

    def script(run):
        return falling(run) if run.number == 1 else Script((), "hang")

    executor = CurveExecutor(script)
    spec = spec_of(study={"trials": 4, "grace": 0.3})
    summary, _ = run_here(tmp_path, spec, workers=2, callbacks=[Terminated()], executor=executor)
    assert (summary.exit_status, summary.counts) == (143, {"RUNNING": 2})
    assert executor.starts == {0: 1, 1: 1}


def staffed(workers=1, stall_timeout=10.0):
    """Returns a fleet whose workers have a trial each, all silent for a minute, and its executor."""
    executor = CurveExecutor(lambda run: Script((), "hang"))
    spec = spec_of()
    places = [WorkerPlace(number) for number in range(workers)]
    made = Fleet(executor, places, lambda place: WorkerSetup(place.worker, spec), stall_timeout)
    made.start_due()
    for message in made.receive(0.0):
        made.note(message)
    for worker in made.with_room():
        made.assign(worker, TrialRun("s", worker.place.worker, 1, {}, spec, "folder"))
        worker.active = time.monotonic() - 60.0
    return made, executor


def test_workers_that_read_images_for_a_trial_or_wait_for_them_do_not_hang():
    """Worker 0 reads images of a new size, worker 1 waits for the same ones."""
    made, executor = staffed(workers=2)
    made.note(Loading(0, 100, 1000))
    made.kill_hung()
    assert executor.alive == {0, 1}


def test_a_trial_had_company_though_the_other_has_just_ended():
    made, _ = staffed(workers=2)
    made.free(made.workers[0], 0)
    assert made.workers[1].trials[1].company == {0}
    assert made.beside(made.workers[0]) == {1}
    made.assign(made.workers[0], TrialRun("s", 2, 1, {}, spec_of(), "folder"))
    assert [made.workers[n].trials[t].company for n, t in ((0, 2), (1, 1))] == [{1}, {0, 2}]


def test_a_worker_with_several_seats_is_filled_and_shown_with_all_its_trials():
    made, _ = staffed()
    worker = made.workers[0]
    made.note(Ready(0, 1, "cpu", {}, None, 0.0, capacity=3))
    made.assign(worker, TrialRun("s", 5, 2, {}, spec_of(), "folder"))
    assert made.with_room() == [worker]
    made.assign(worker, TrialRun("s", 6, 1, {}, spec_of(), "folder"))
    assert made.with_room() == []
    made.note(Usage(0, 123.4))
    made.note(EpochResult(5, 2, 7, {"val_loss": 1.0}))
    rows = json.loads(worker_rows(made, SimpleNamespace(live={})))
    shown = ("worker", "trial", "epoch", "memory_mb")
    assert [tuple(row[name] for name in shown) for row in rows] == [
        (0, 0, 0, 123.4),
        (0, 5, 7, 123.4),
        (0, 6, 0, 123.4),
    ]
    assert worker.trials[0].company == {5, 6}
    assert made.free(worker, 5).attempt == 2
    assert made.with_room() == [worker]


def test_deaths_that_one_trial_shares_are_its_own():
    hit = [frozenset({1, 2}), frozenset({1, 3}), frozenset({1})]
    assert not fleet._several(hit)
    assert fleet._several([*hit, frozenset({2})])
    assert fleet._several([frozenset()])
    assert not fleet._several([])


def test_a_worker_that_leaves_after_a_long_epoch_has_its_time_to_exit(monkeypatch):
    monkeypatch.setattr(fleet, "LEAVE_TIMEOUT", 10.0)
    made, executor = staffed()
    worker = made.workers[0]
    made.free(worker, 0, leaving=True)
    made.kill_hung()
    assert executor.alive == {0}
    worker.active -= 60.0
    made.kill_hung()
    assert executor.alive == set()


def test_a_signal_that_came_before_the_run_began_stops_it(tmp_path, monkeypatch):
    """An import may swallow what a signal raises."""
    monkeypatch.setattr(watch, "came", [signal.SIGTERM])
    summary, executor = run_here(tmp_path, spec_of())
    assert summary.exit_status == 128 + signal.SIGTERM
    assert "SIGTERM" in summary.reason
    assert executor.log == []
