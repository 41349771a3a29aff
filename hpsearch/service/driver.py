"""The driver's loop: answer every worker from memory, write what has queued, begin at most one trial.

It meets training only in messages and the database only through `search.study.Study`.
"""

import logging
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import TrialState

from hpsearch import errors
from hpsearch.errors import DataError, HpsearchError, LeaseLost, WorkersFailed
from hpsearch.search.live import LiveTrial, Verdict
from hpsearch.search.outcome import StopKind
from hpsearch.search.study import Study
from hpsearch.service.callbacks import Callback, WorkerNews
from hpsearch.service.database import Database
from hpsearch.service.fleet import Fleet, Worker
from hpsearch.service.keeper import WeightsKeeper
from hpsearch.service.messages import (
    Action,
    DataFacts,
    Decision,
    EndKind,
    EpochResult,
    FromWorker,
    Ready,
    SetupFailed,
    TrialEnd,
    TrialRun,
    TrialStarted,
    Waiting,
    WorkerExit,
)
from hpsearch.service.records import finished, running, worker_rows
from hpsearch.service.watch import Every, Stops
from hpsearch.spec.against import check_study_against

logger = logging.getLogger(__name__)

SLEEP = 2.0  # seconds between two turns from which on the process counts as suspended
WAIT = 0.2  # seconds of waiting for messages, after which signals and clocks are looked at
MOST_BEAT = 4.0  # seconds between two signs of life; four fit into a lease
RETURN = 15.0  # seconds that other drivers have to tell that they live when the database is back
GATHER = 0.1  # seconds of results that are written together: a transaction costs as much as twenty answers


@dataclass(slots=True)
class Requeued:
    """A trial of this driver that waits for a worker: what it is resumed with."""

    number: int
    failures: int


@dataclass(slots=True)
class Tally:
    """What this run has seen."""

    failures_in_a_row: int = 0
    last_failure: str = ""
    epochs: int = 0
    data: DataFacts | None = None
    versions: dict[str, str] = field(default_factory=dict)


class Driver:
    """Runs one study on one fleet of workers until it is finished or stopped.

    Args:
        study: opened, owned by this driver alone.
        stops: why the run may have to end: signals, limits, `hpsearch stop`.
        storage_timeout: seconds that the database may be away before the run ends.
    """

    def __init__(
        self,
        study: Study,
        fleet: Fleet,
        keeper: WeightsKeeper,
        stops: Stops,
        callbacks: Sequence[Callback] = (),
        storage_timeout: float = 600.0,
    ) -> None:
        self.study = study
        self.fleet = fleet
        self.keeper = keeper
        self.stops = stops
        self.tally = Tally()
        self.callbacks = list(callbacks)
        self._storage_timeout = storage_timeout
        self._requeued: list[Requeued] = []
        self._verdicts: dict[int, Verdict] = {}
        self._exhausted = False
        self.database = Database(self._lost, lambda text: self.call("on_message", text))
        self._flush = Every(GATHER)
        self._beat = Every(min(MOST_BEAT, study.lease_seconds / 4))
        self._sync = Every(2.0)
        self._tick = Every(0.5)
        self._started = study.clock()
        self._last_turn = time.time()

    def run(self) -> None:
        """Works until nothing is left to do; leaves workers and leases to `service.run`.

        Raises:
            HpsearchError: the study cannot be trained, or the run cannot go on.
        """
        while not self._is_over():
            self.turn()

    def turn(self) -> None:
        """One round: answers first, then writes, then supervision, then at most one new trial."""
        for worker in self.fleet.start_due():
            self.call("on_worker", WorkerNews(worker.place.worker, "starting", "starting"))
        messages = self.fleet.receive(self._patience())
        self._look_at_the_clock()
        for message in messages:
            self.fleet.note(message)
            self.handle(message)
        self._write()
        self._supervise()
        self._begin_one()
        if self._tick.due():
            self.call("on_tick")

    def _look_at_the_clock(self) -> None:
        """After a sleep (a suspended process, a closed laptop): is what we train still ours?"""
        now = time.time()  # monotonic time does not count sleep
        if now - self._last_turn > SLEEP:
            self.database(lambda: self.study.beat(worker_rows(self.fleet, self.study)))
        self._last_turn = now

    def handle(self, message: FromWorker) -> None:
        """Acts on one message from a worker."""
        match message:
            case EpochResult():
                self._on_epoch(message)
            case TrialStarted():
                self._on_started(message)
            case TrialEnd():
                self._on_end(message)
            case Ready():
                self._on_ready(message)
            case Waiting():
                self.call("on_worker", WorkerNews(message.worker, "waiting", message.text))
            case SetupFailed():
                self._on_setup_failed(message)
            case WorkerExit():
                self._on_exit(message)

    def _on_epoch(self, result: EpochResult) -> None:
        worker = self.fleet.with_trial(result.number)
        trial = self.study.live.get(result.number)
        if worker is None or trial is None or trial.attempt != result.attempt:
            return  # a trial that another driver has taken over; its worker is being ended
        self._answer(worker, trial, self.study.report(result.number, result), result.epoch)
        self.tally.epochs += 1
        self.call("on_epoch", running(trial, worker), result)

    def _on_started(self, started: TrialStarted) -> None:
        worker, trial = self.fleet.with_trial(started.number), self.study.live.get(started.number)
        if worker is None or trial is None:
            return
        verdict = self.study.resume(started.number, started.curve)
        if started.curve:
            self._answer(worker, trial, verdict, len(started.curve))
        self.call("on_trial_start", running(trial, worker))

    def _answer(self, worker: Worker, trial: LiveTrial, verdict: Verdict | None, epoch: int) -> None:
        action = Action.CONTINUE
        if verdict is not None:
            self._verdicts[trial.number] = verdict
            action = Action.STOP
        elif self.stops.reason is not None:
            action = Action.PREEMPT
        self.fleet.send(worker, Decision(trial.number, epoch, action))

    def _on_end(self, end: TrialEnd) -> None:
        worker = self.fleet.with_trial(end.number)
        if worker is not None:
            self.fleet.free(worker, end.leaving)
        trial = self.study.live.get(end.number)
        if trial is None or trial.attempt != end.attempt:
            return
        match end.kind:
            case EndKind.FINISHED | EndKind.STOPPED:
                verdict = self._verdicts.pop(end.number, Verdict(StopKind.FINISHED))
                self._finish(end.number, verdict, end, worker)
            case EndKind.OUT_OF_MEMORY:
                self._finish(end.number, Verdict(StopKind.OUT_OF_MEMORY, end.detail), end, worker)
            case EndKind.PREEMPTED:
                self._requeue(end.number, 0 if trial.progress else trial.failures)
            case EndKind.UNSAVED:
                self._requeue(end.number, trial.failures)
                self.stops.stop(end.detail, exit_status=1)
            case EndKind.ERROR:
                self._on_failure(end.number, end.detail, end, worker)

    def _on_failure(self, number: int, detail: str, end: TrialEnd | None, worker: Worker | None) -> None:
        """Tries a trial again, unless too many attempts in a row brought no new checkpoint."""
        trial = self.study.live[number]
        failures = trial.failures_with_this
        if failures < self.study.spec.study.max_attempts:
            self.call("on_message", f"trial {number}, attempt {trial.attempt}: {detail}; it is tried again")
            self._requeue(number, failures)
            return
        self._verdicts.pop(number, None)
        self._finish(number, Verdict(StopKind.ERROR, detail), end, worker)

    def _requeue(self, number: int, failures: int) -> None:
        self._verdicts.pop(number, None)  # judged anew when it is resumed
        self._requeued.append(Requeued(number, failures))

    def _finish(self, number: int, verdict: Verdict, end: TrialEnd | None, worker: Worker | None) -> None:
        facts: dict[str, Any] = {"host": socket.gethostname(), **self.study.spec.sampler.attrs(number)}
        if worker is not None:
            facts |= {"worker": worker.place.worker, "device": worker.device}
        if end is not None and end.traceback:
            facts["error"] = end.traceback
        trial = self.study.live[number]
        facts["weights"] = self.keeper.keep(number, end.weights if end else None) or ""
        ended = self.study.finish(number, verdict, end, facts)
        self.keeper.finished(number, trial.ticket, ended.trial.user_attrs.get("score"), ended.trial.state)
        self._count_failure(ended.trial.state, number, verdict.detail)
        record = finished(ended.trial, number, ended.is_best, facts["weights"])
        self.stops.on_best(self.study.view.board.best)
        self.stops.on_epochs(self.study.view.epochs)
        self.call("on_trial_end", record)

    def _count_failure(self, state: TrialState, number: int, detail: str) -> None:
        tally = self.tally
        tally.failures_in_a_row = tally.failures_in_a_row + 1 if state is TrialState.FAIL else 0
        if state is TrialState.FAIL:
            tally.last_failure = f"trial {number}: {detail}"
        if tally.failures_in_a_row >= self.study.spec.study.max_failures:
            self.stops.stop(
                f"{tally.failures_in_a_row} trials in a row failed (max_failures), the last one "
                f"{tally.last_failure}",
                exit_status=1,
            )

    def _on_ready(self, ready: Ready) -> None:
        if ready.data is not None:
            self._check_data(ready.data)
        self.tally.versions = dict(ready.versions)
        text = f"ready on {ready.device} after {ready.seconds:.1f} s"
        self.call("on_worker", WorkerNews(ready.worker, "ready", text))

    def _check_data(self, facts: DataFacts) -> None:
        if self.tally.data is not None:
            if facts.digest != self.tally.data.digest:
                raise DataError(
                    "data.dataset: two workers found different data under the same root; "
                    "it must not change while a study runs"
                )
            return
        self.tally.data = facts
        check_study_against(self.study.spec, facts)
        self.study.know_data(facts)
        for note in facts.notes:
            self.call("on_message", f"data: {note}")

    def _on_setup_failed(self, failed: SetupFailed) -> None:
        if self.tally.versions:  # it has worked before, so the study is in order: this worker is not
            self.call("on_message", f"worker {failed.worker} cannot begin: {failed.message}")
            return
        if failed.user_error is not None:
            kind: type[HpsearchError] = getattr(errors, failed.user_error, errors.UserError)
            raise kind(failed.message)
        raise WorkersFailed(f"worker {failed.worker} cannot train: {failed.message}\n{failed.traceback}")

    def _on_exit(self, left: WorkerExit) -> None:
        worker = self.fleet.workers[left.worker]
        reason, number = self.fleet.explain(left), worker.number
        self.fleet.free(worker)
        if self.stops.cold:
            return
        self.call("on_worker", WorkerNews(left.worker, "exit", reason))
        if number is not None and number in self.study.live:
            trial = self.study.live[number]
            logger.warning("trial %d: worker %d %s\n%s", number, left.worker, reason, left.stderr)
            if self.stops.reason is not None:
                self._requeue(
                    number, trial.failures
                )  # killed by us when the grace ran out, or on its way out
            else:
                last_words = f"; its last words: {left.stderr.splitlines()[-1]}" if left.stderr else ""
                self._on_failure(number, f"worker {left.worker} {reason}{last_words}", None, worker)
        if self.stops.reason is None:
            self.fleet.refuse_crash_loop(reason, left.stderr)

    def _write(self) -> None:
        # A call with nothing to write would not touch the database, and pass for a sign that it is back.
        if not self.study.unwritten or (self.fleet.training() and not self._flush.due()):
            return
        closed = self.database(self.study.flush)
        if closed:
            self.keeper.recorded(closed)

    def _supervise(self) -> None:
        if self.database.due() and self._beat.due():
            self.database(lambda: self.study.beat(worker_rows(self.fleet, self.study)))
        if self.database.due() and self._sync.due():
            self.database(self._look_around)
        if self.stops.reason is None:
            self.fleet.kill_hung()
        elif self.stops.grace_is_over():
            for worker in self.fleet.training():
                self.fleet.kill(worker, "the epoch was given up when study.grace ran out")
        if self.database.away_for > self._storage_timeout:
            self.stops.stop(
                f"the database was away for more than {self._storage_timeout:g} s; checkpoints are kept, run "
                "the study again to go on",
                exit_status=1,
            )

    def _look_around(self) -> None:
        self.study.sync()
        self.keeper.know(self.study.complete_scores())
        self.stops.on_best(self.study.view.board.best)
        self.stops.on_epochs(self.study.view.epochs)
        self._exhausted = False
        if self.study.stop_requested(self._started):
            self.stops.stop("`hpsearch stop` asked for it")

    def _begin_one(self) -> None:
        worker = self.fleet.idle()
        if worker is None or self.stops.reason is not None or self._nothing_to_begin():
            return
        trial = self.database(self._next)
        if trial is None:
            return
        run = TrialRun(
            study=self.study.spec.study.name,
            number=trial.number,
            attempt=trial.attempt,
            hparams=dict(trial.hparams),
            spec=trial.spec,
            folder=str(self.keeper.folder.trial(trial.number)),
        )
        self.fleet.assign(worker, run)

    def _next(self) -> LiveTrial | None:
        if self._requeued:
            waiting = self._requeued[0]
            self.keeper.recorded(self.study.flush())
            trial = self.study.retry(waiting.number, waiting.failures)
            del self._requeued[0]
            return trial
        new = self.study.next_trial(self.keeper.has_checkpoint, self.database.back_for > RETURN)
        self._exhausted = new is None
        problem = None if new is None else self._problem(new)
        if new is None or problem is None:
            return new
        self._finish(new.number, Verdict(StopKind.ERROR, problem), None, None)
        return None

    def _problem(self, trial: LiveTrial) -> str | None:
        """Returns why a trial must not be trained: its hparams, or what it did to the drivers before."""
        if trial.failures < self.study.spec.study.max_attempts:
            return trial.problem
        return f"{trial.failures} attempts in a row (max_attempts) ended, with their driver, without a new checkpoint"

    def _lost(self, error: LeaseLost) -> None:
        for number in self.study.drop(error.tickets):
            self._requeued = [waiting for waiting in self._requeued if waiting.number != number]
            worker = self.fleet.with_trial(number)
            self.call("on_message", f"trial {number} belongs to another driver now; it is given up here")
            if worker is not None:
                self.fleet.kill(worker, f"ended: trial {number} belongs to another driver now")

    def _patience(self) -> float:
        """Seconds to wait for messages: none when a trial can be begun at once."""
        can_begin = self.fleet.idle() is not None and self.stops.reason is None
        can_begin = can_begin and not self._nothing_to_begin()
        return 0.0 if can_begin and self.database.due() else WAIT

    def _nothing_to_begin(self) -> bool:
        return self._exhausted and not self._requeued

    def _is_over(self) -> bool:
        if self.stops.cold:
            return True
        if self.stops.reason is not None:
            return not self.fleet.training() and (self.database.away_for > 0 or not self.study.unwritten)
        if self.study.live or self.study.unwritten or not self._exhausted:
            return False
        if self.database(self.study.others_unfinished) != 0:
            return False
        self.database(self.study.sync)  # the last trials of other drivers, one of which may be the best
        return True

    def call(self, name: str, *arguments: Any) -> None:
        """Calls one method of every callback; one that raises is reported and left out from then on."""
        for callback in list(self.callbacks):
            try:
                getattr(callback, name)(*arguments)
            except Exception:
                logger.exception(
                    "callback %s.%s failed; it is not called again", type(callback).__name__, name
                )
                self.callbacks.remove(callback)
