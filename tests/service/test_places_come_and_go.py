"""Executors whose places come and go, whose workers queue, and whose exits are nobody's fault."""

import time
from dataclasses import dataclass, replace

from hpsearch.contracts.callbacks import Callback
from hpsearch.contracts.executor import WorkerPlace
from hpsearch.contracts.messages import (
    PlaceAdded,
    PlaceRemoved,
    Ready,
    TrialRun,
    Waiting,
    WorkerExit,
    WorkerSetup,
)
from hpsearch.service import fleet
from hpsearch.service.fleet import Fleet
from tests.service.curves import CurveExecutor, Script, falling
from tests.service.test_driver import run_here, spec_of, stored


class News(Callback):
    def __init__(self):
        self.texts = []

    def on_worker(self, news):
        self.texts.append((news.worker, news.kind))


@dataclass
class Cluster(CurveExecutor):
    """Its workers are preempted where a script ends with "preempt"; `after` says what comes of an epoch."""

    after: dict[int, tuple] = None

    def preempt(self, worker):
        self._exit(worker, "was preempted")
        self.messages.append(replace(self.messages.pop(), blameless=True))

    def _run_out(self, worker, run, script):
        if script.end == "preempt":
            self.preempt(worker)
        else:
            super()._run_out(worker, run, script)

    def _play(self, worker):
        super()._play(worker)
        for event in (self.after or {}).pop(len(self.log), ()):
            if isinstance(event, PlaceRemoved):
                self.messages.append(event)
                self.preempt(event.worker)
            else:
                self.messages.append(event)


def test_preemptions_count_for_nothing(tmp_path):
    """Ten in a row, without an epoch between them: more than a trial or a worker may fail."""

    def script(run):
        return Script((), "preempt") if run.number == 1 and run.attempt <= 10 else falling(run)

    began = time.monotonic()
    summary, _ = run_here(tmp_path, spec_of(study={"trials": 3}), executor=Cluster(script))
    assert summary.counts == {"COMPLETE": 3}
    assert time.monotonic() - began < 30, "the worker is started again at once"
    trial = stored(tmp_path).trials[1]
    assert trial.user_attrs["attempt"] == 11
    assert trial.user_attrs["interruptions"].count("worker 0 was preempted") == 10


def test_trials_move_to_a_place_that_comes_when_theirs_goes(tmp_path):
    news = News()
    after = {2: (PlaceAdded(WorkerPlace(5, host="b")),), 8: (PlaceRemoved(0),)}
    executor = Cluster(falling, after=after)
    summary, _ = run_here(tmp_path, spec_of(study={"trials": 6}), callbacks=[news], executor=executor)
    assert summary.counts == {"COMPLETE": 6}
    assert executor.starts == {0: 1, 5: 1}
    assert {trial.user_attrs["worker"] for trial in stored(tmp_path).trials} >= {5}
    assert [kind for worker, kind in news.texts if worker == 0] == ["ready", "removed", "exit"]


def test_a_run_without_places_waits_for_the_next(tmp_path):
    class Returns(Cluster):
        def receive(self, timeout):
            if not self.alive and not self.messages and self.starts[0]:
                self.idle_turns += 1
                if self.idle_turns == 5:
                    self.messages.append(PlaceAdded(WorkerPlace(0)))
            return super().receive(timeout)

    executor = Returns(falling, after={4: (PlaceRemoved(0),)})
    executor.idle_turns = 0
    summary, _ = run_here(tmp_path, spec_of(study={"trials": 3}), executor=executor)
    assert (summary.counts, executor.starts[0]) == ({"COMPLETE": 3}, 2)


def test_a_worker_that_is_queued_is_not_taken_for_hung(tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "START_TIMEOUT", 0.3)

    class Queues(CurveExecutor):
        def start(self, place, setup):
            super().start(place, setup)
            self.queued, self.until = self.messages.pop(), None

        def receive(self, timeout):
            if self.queued is not None:
                time.sleep(0.05)
                self.until = self.until or time.monotonic() + 1.0
                over = time.monotonic() > self.until
                self.messages.append(self.queued if over else Waiting(0, "queued (Priority)"))
                self.queued = None if over else self.queued
            return super().receive(timeout)

    news = News()
    spec = spec_of(study={"trials": 1, "stall_timeout": 0.3})
    summary, executor = run_here(tmp_path, spec, callbacks=[news], executor=Queues(falling))
    assert (summary.counts, executor.starts[0]) == ({"COMPLETE": 1}, 1)
    assert (0, "waiting") in news.texts


def test_the_same_gpu_of_two_hosts_is_two():
    spec = spec_of()
    places = [WorkerPlace(number, ("0",)) for number in range(3)]
    made = Fleet(CurveExecutor(falling), places, lambda place: WorkerSetup(place.worker, spec), 10.0)
    for number, host in enumerate("aab"):
        made.note(Ready(number, 1, "cuda:0", {}, None, 0.0, host=host))
        made.assign(made.workers[number], TrialRun("s", number, 1, {}, spec, "folder"))
    assert [worker.trials[number].company for number, worker in made.workers.items()] == [{1}, {0}, set()]


def test_a_crash_after_a_removal_is_told_of_the_places_that_are_left():
    spec = spec_of()
    places = [WorkerPlace(0), WorkerPlace(1)]
    made = Fleet(CurveExecutor(falling), places, lambda place: WorkerSetup(place.worker, spec), 10.0)
    made.start_due()
    made.note(PlaceRemoved(0))
    made.note(WorkerExit(0, "its node has gone", blameless=True))
    made.refuse_crash_loop("its node has gone", "")
    assert not made.has_others(made.workers[1])
    made.start_due()
    assert made.workers.keys() == {1}


def test_no_more_places_are_queued_for_than_trials_are_left():
    spec = spec_of()
    places = [WorkerPlace(number) for number in range(5)]
    executor = CurveExecutor(falling)
    made = Fleet(executor, places, lambda place: WorkerSetup(place.worker, spec), 10.0)
    made.start_due()
    made.note(Ready(4, 1, "cpu", {}, None, 0.0))
    made.assign(made.workers[4], TrialRun("s", 4, 1, {}, spec, "folder"))
    for queued in range(4):
        made.note(Waiting(queued, "queued: job 7 (Priority)"))
    made.withdraw(6)
    assert executor.alive == {0, 1, 2, 3, 4}
    made.withdraw(2)
    assert executor.alive == {0, 4}, "one trains, and one is queued"
    made.note(PlaceAdded(WorkerPlace(9)))
    made.withdraw(1)
    assert executor.alive == {4}
    for message in executor.receive(0.0):
        if isinstance(message, WorkerExit):
            made.note(message)
    assert made.start_due() == []
    assert made.workers.keys() == {4}


def test_a_run_gives_back_what_it_is_queued_for(tmp_path):
    class Queues(Cluster):
        def start(self, place, setup):
            super().start(place, setup)
            if place.worker:
                self.messages[-1] = Waiting(place.worker, "queued: job 7 (Priority)")

    news, executor = News(), Queues(falling, after={1: tuple(PlaceAdded(WorkerPlace(n)) for n in (1, 2))})
    summary, _ = run_here(tmp_path, spec_of(study={"trials": 2}), callbacks=[news], executor=executor)
    assert summary.counts == {"COMPLETE": 2}
    assert executor.starts == {0: 1, 1: 1}, "there are two trials"
    assert [kind for worker, kind in news.texts if worker == 1] == ["starting", "waiting", "exit"]
