"""What callbacks are told of trials that other drivers train, or that wait for their next attempt."""

import sqlite3

from hpsearch.contracts.callbacks import Callback
from hpsearch.results.terminal.progress import Progress
from hpsearch.service.database import Database
from hpsearch.service.study import Study
from tests.service.curves import Script, falling
from tests.service.test_driver import run_here, spec_of


class Watcher(Progress):
    """Notes how the picture stood just before the run's own summary."""

    def on_study_end(self, summary):
        self.stood = self.finished, self.best.number, dict(self.stop_reasons)
        super().on_study_end(summary)


def level(run):
    """Trial 2 is the best."""
    return Script((1.0 + abs(run.number - 2),) * run.spec.train.epochs)


class Rival(Callback):
    """Runs the same study in the middle of the first trial, until it has trained all but that one."""

    def __init__(self, tmp_path):
        self._tmp_path = tmp_path

    def on_trial_start(self, trial):
        if trial.number == 0:
            run_here(self._tmp_path, spec_of(study={"trials": 4, "timeout": 1}), level)


def test_the_picture_counts_the_trials_of_other_drivers(tmp_path):
    watcher = Watcher()
    summary, executor = run_here(
        tmp_path, spec_of(study={"trials": 4}), level, callbacks=[watcher, Rival(tmp_path)]
    )
    assert {number for number, *_ in executor.log} == {0}
    assert summary.counts == {"COMPLETE": 4}
    assert watcher.stood == (4, 2, summary.stop_reasons)


class Table(Progress):
    """Notes which trials are shown as running while none is in training."""

    shown: frozenset[int] = frozenset()

    def on_message(self, text):
        if "belongs to another" in text:
            self.shown |= self.running.keys()

    def on_worker(self, news):
        if news.kind == "starting":
            self.shown |= self.running.keys()


def test_a_trial_that_waits_for_its_next_attempt_is_not_shown_as_running(tmp_path):
    def script(run):
        whole = falling(run)
        return Script(whole.val[:2], "die") if run.attempt == 1 else whole

    shown = Table()
    run_here(tmp_path, spec_of(study={"trials": 1}), script, callbacks=[shown])
    assert shown.shown == frozenset()


def test_a_trial_that_another_driver_has_is_not_shown_as_running(tmp_path):
    class Thief(Callback):
        def on_epoch(self, trial, result):
            if (trial.number, trial.attempt) == (1, 1):
                with sqlite3.connect(tmp_path / "s.db") as connection:
                    connection.execute(
                        "UPDATE hpsearch_lease SET driver = 'thief', attempt = 2 WHERE number = 1"
                    )
                connection.close()

    def script(run):
        whole = falling(run)
        return Script(whole.val[:1], "hang") if (run.number, run.attempt) == (1, 1) else whole

    shown = Table()
    run_here(tmp_path, spec_of(study={"trials": 3}), script, callbacks=[shown, Thief()])
    assert shown.shown == frozenset()


def test_drivers_that_may_be_back_in_a_moment_keep_their_trials(tmp_path, monkeypatch):
    """The database was away, so that every driver is silent: also at the study's end their trials are theirs."""
    asked = []

    def next_trial(self, has_checkpoint, silent_too=True, claim=True):
        asked.append((silent_too, claim))
        return whole(self, has_checkpoint, silent_too, claim)

    whole = Study.next_trial
    monkeypatch.setattr(Study, "next_trial", next_trial)
    monkeypatch.setattr(Database, "back_for", 1.0)
    run_here(tmp_path, spec_of(study={"trials": 4, "target_value": 99.0}))
    assert asked[-1] == (False, False)
    assert {silent_too for silent_too, _ in asked} == {False}
