"""The driver's loop: answer every worker from memory, write what has queued, begin at most one trial.

It meets training only in messages and the database only through `service.study.Study`.
"""

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from hpsearch.contracts.callbacks import Callback, Calls, WorkerNews
from hpsearch.contracts.messages import (
    Action,
    DataFacts,
    Decision,
    EndKind,
    EpochResult,
    FromWorker,
    Loading,
    PlaceRemoved,
    Ready,
    SetupFailed,
    TrialEnd,
    TrialRun,
    TrialStarted,
    Waiting,
    WorkerExit,
)
from hpsearch.contracts.trial import Origin, StopKind
from hpsearch.errors import LeaseLost, StudyFileError
from hpsearch.search.outcome import Verdict
from hpsearch.search.policy.contract import Pause
from hpsearch.service.admission import Admission, Doubtful
from hpsearch.service.database import Database
from hpsearch.service.ends import Postponed, after_end, after_exit, given_back
from hpsearch.service.fleet import Fleet, Worker
from hpsearch.service.keeper import WeightsKeeper
from hpsearch.service.live import LiveTrial
from hpsearch.service.readiness import Readiness
from hpsearch.service.snapshots import finished, health, running, standing, worker_rows
from hpsearch.service.study import Study
from hpsearch.service.watch import Every, Stops
from hpsearch.study.checks import check_study_against
from hpsearch.study.specification import CONTINUES, STREAM
from hpsearch.text import counted

logger = logging.getLogger(__name__)

SLEEP = 2.0  # seconds between two turns from which on the process counts as suspended
WAIT = 0.2  # seconds of waiting for messages, after which signals and clocks are looked at
MOST_BEAT = 4.0  # seconds between two signs of life; four fit into a lease
RETURN = 15.0  # seconds that other drivers have to tell that they live when the database is back
GATHER = 0.1  # seconds of results that are written together: a transaction costs as much as twenty answers


class Driver:
    """Runs one study on one fleet of workers until it is finished or stopped.

    Args:
        study: opened, owned by this driver alone.
        stops: why the run may have to end: signals, limits, `hpsearch stop`.
        storage_timeout: seconds that the database may be away before the run ends.

    Attributes:
        epochs: trained in this run.
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
        self.epochs = 0
        self.call = Calls(callbacks)
        self._storage_timeout = storage_timeout
        self._verdicts: dict[int, Verdict] = {}
        self.admission = Admission(study, fleet, keeper.has_checkpoint)
        self._readiness = Readiness(
            self._know_data, study.data.changed_code, study.data.keep_pictures, self.call
        )
        self.database = Database(self._lost, lambda text: self.call("on_message", text), stops)
        self._flush = Every(GATHER)
        self._beat = Every(min(MOST_BEAT, study.ledger.lease_seconds / 4))
        self._sync = Every(2.0)
        self._tick = Every(0.5)
        self._health = Every(2.0)
        self._last_turn = time.time()

    def run(self) -> None:
        """Works until nothing is left to do; leaves workers and leases to `service.run`.

        Raises:
            HpsearchError: the study cannot be trained, or the run cannot continue.
        """
        while not self._is_over():
            self.turn()

    def turn(self) -> None:
        """One round: answers first, then writes, then supervision, then at most one new trial."""
        self.fleet.withdraw(self.study.total - self.study.view.board.finished)
        for worker in self.fleet.start_due() if self.stops.reason is None else ():
            self.call("on_worker", WorkerNews(worker.place.worker, "starting", "starting"))
        messages = self.fleet.receive(self._patience())
        self._look_at_the_clock()
        for message in messages:
            self.fleet.note(message)
            self.handle(message)
        self._write()
        self._supervise()
        self._fail_doubtful()
        self._begin_one()
        if self._tick.due():
            self.call("on_tick")
        if self._health.due():
            self.call("on_health", health(self.fleet, self.study, self.database))

    def _look_at_the_clock(self) -> None:
        """After a sleep (a suspended process, a closed laptop): is what we train still ours?"""
        now = time.time()  # monotonic time does not count sleep
        if now - self._last_turn > SLEEP:
            self.database.was_silent()  # other drivers may have slept too
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
            case Waiting() | Loading() | Ready() | SetupFailed() | PlaceRemoved():
                self._readiness.hear(message, len(self.fleet.workers))
            case WorkerExit():
                self._on_exit(message)

    def _know_data(self, facts: DataFacts) -> None:
        check_study_against(self.study.spec, facts)
        self.study.know_data(facts)
        self.keeper.keep_split(Path(self.study.spec.data.cache or self.keeper.folder.cache), facts.digest)

    def _on_epoch(self, result: EpochResult) -> None:
        worker = self.fleet.with_trial(result.number)
        trial = self.study.live.get(result.number)
        if worker is None or trial is None or trial.attempt != result.attempt:
            return  # a trial that another driver has taken over; its worker is being ended
        trial.charge(result, max(1, len(worker.place.gpus)), max(1, len(self.fleet.beside(worker))))
        judged = self.study.report(result.number, result)
        self.stops.judge(self.study.reached)
        self._answer(worker, trial, judged, result.epoch)
        self.epochs += 1
        self.call("on_epoch", running(trial, worker), result)

    def _on_started(self, started: TrialStarted) -> None:
        worker, trial = self.fleet.with_trial(started.number), self.study.live.get(started.number)
        if worker is None or trial is None:
            return
        trial.start_seconds += started.seconds
        judged = self.study.resume(started.number, started.curve, started.footprint)
        if started.curve or started.footprint:
            self._answer(worker, trial, judged, len(started.curve))
        self.call("on_trial_start", running(trial, worker))

    def _answer(self, worker: Worker, trial: LiveTrial, judged: Verdict | Pause | None, epoch: int) -> None:
        action = Action.CONTINUE
        if isinstance(judged, Verdict):
            self._verdicts[trial.number] = judged
            action = Action.STOP
        elif self.stops.ends_study:
            self._verdicts[trial.number] = self._study_end()
            action = Action.STOP
        elif judged is not None or self.stops.reason is not None:
            action = Action.PREEMPT
        self.fleet.send(worker, Decision(trial.number, epoch, action))

    def _study_end(self) -> Verdict:
        return Verdict(StopKind.STUDY_END, self.stops.reason or "")

    def _on_end(self, end: TrialEnd) -> None:
        worker = self.fleet.with_trial(end.number)
        company: set[int] = set()
        if worker is not None:
            company = self.fleet.free(worker, end.number, end.leaving).company
        trial = self.study.live.get(end.number)
        if trial is None or trial.attempt != end.attempt:
            return
        beside = self.fleet.beside(worker) if worker is not None else frozenset()
        decided = self._verdicts.pop(end.number, None)
        if trial.pausing is not None and end.kind is EndKind.PREEMPTED:
            self._pause(trial, end, worker)
            return
        attempts = self.study.spec.study.max_attempts
        self._act(after_end(end, trial, decided, company, beside, attempts), end, worker)
        if end.kind is EndKind.UNSAVED:
            self.stops.stop(end.detail, exit_status=1)

    def _act(self, found: Verdict | Postponed, end: TrialEnd, worker: Worker | None) -> None:
        if isinstance(found, Verdict):
            self._finish(end.number, found, end, worker)
            return
        if found.text:
            self.call("on_message", found.text)
        if found.why:
            self.study.live[found.number].interruptions.append(found.why)
        self.admission.put_back(found)  # judged anew when it is resumed
        self.call("on_trial_interrupted", found.number)

    def _pause(self, trial: LiveTrial, end: TrialEnd | None, worker: Worker | None) -> None:
        if not self.keeper.drop_older(trial.number, trial.attempt):
            raise StudyFileError(
                f'study.policy: "{self.study.spec.policy}" pauses trials, but trial {trial.number} has left no '
                'checkpoint to resume it from; call trial.save() in train.function, or use "sampled"'
            )
        if worker is not None:
            self.call("on_trial_paused", running(trial, worker))
        self.study.pause(trial.number, end, _facts(end, worker))
        self.admission.ask_again()
        self.stops.judge(self.study.reached)

    def _fail_doubtful(self) -> None:
        for one in self.admission.judge(at_once=self.stops.ends_study):
            self._finish(one.end.number, Verdict(StopKind.ERROR, one.end.detail), one.end, one.worker)

    def _finish(self, number: int, verdict: Verdict, end: TrialEnd | None, worker: Worker | None) -> None:
        facts = _facts(end, worker)
        facts["weights"] = self.keeper.keep(number, end.weights if end else None) or ""
        trial, study = self.study.live[number], self.study.spec
        if study.is_continuation or not study.is_confirmation:
            shared = trial.spec.shared * trial.spec.train.epochs
            self.keeper.keep_onward(number, 0 < len(trial.results) <= shared)
        ended = self.study.finish(number, verdict, end, facts)
        self.stops.on_end(ended.trial.state is TrialState.FAIL, f"trial {number}: {verdict.detail}")
        record = finished(ended.trial, number, ended.is_best, self.keeper.folder)
        self.admission.ask_again()
        self.stops.judge(self.study.reached)
        self.call("on_trial_end", record)

    def _on_exit(self, left: WorkerExit) -> None:
        worker = self.fleet.workers[left.worker]
        reason, seats = self.fleet.explain(left), dict(worker.trials)
        for number in seats:
            self.fleet.free(worker, number)
        if self.stops.cold:
            return
        pause = worker.start_at - time.monotonic()
        again = f"; it is started again in {pause:.0f} s" if 0.5 < pause < math.inf else ""
        self.call("on_worker", WorkerNews(left.worker, "exit", reason + again))
        for number, seat in seats.items():
            trial = self.study.live.get(number)
            if trial is not None and trial.attempt == seat.attempt:
                logger.warning("trial %d: worker %d %s\n%s", number, left.worker, reason, left.stderr)
                self._interrupt(trial, left, reason, worker, has_company=len(seats) > 1)
        if self.stops.reason is None:
            self.fleet.refuse_crash_loop(reason, left.stderr)

    def _interrupt(
        self, trial: LiveTrial, left: WorkerExit, reason: str, worker: Worker, has_company: bool
    ) -> None:
        """Tries a trial again whose worker has gone, or fails it."""
        last_words = f"; last line of its log: {left.stderr.splitlines()[-1]}" if left.stderr else ""
        detail = f"worker {left.worker} {reason}{last_words}"
        end = TrialEnd(trial.number, trial.attempt, EndKind.ERROR, detail, traceback=left.stderr)
        self._verdicts.pop(trial.number, None)
        if trial.pausing is not None and trial.saved == len(trial.results):  # nothing of it is lost
            self._pause(trial, None, worker)
            return
        if self.stops.reason is not None:  # killed by us when the grace ran out, or on its way out
            self._act(Postponed(trial.number, trial.failures), end, worker)
            return
        trial.interruptions.append(f"{detail} (attempt {trial.attempt}, after epoch {len(trial.results)})")
        if left.blameless or worker.leaves:  # a worker that leaves gives back what it has begun
            self._act(given_back(trial), end, worker)
            return
        avoid = None if worker.proven else left.worker
        found = after_exit(trial, detail, avoid, has_company, self.study.spec.study.max_attempts)
        if isinstance(found, Verdict) and avoid is not None and not self.fleet.is_sound:
            self.admission.doubt(Doubtful(end, worker))
            self.call("on_trial_interrupted", trial.number)
            return
        self._act(found, end, worker)

    def _write(self) -> None:
        # A call with nothing to write would not touch the database, and pass for a sign that it is back.
        if not self.study.unwritten or (self.fleet.training() and not self._flush.due()):
            return
        if self.database(self.study.flush):
            self.tidy()

    def tidy(self) -> None:
        """Deletes the files of trials that have ended, but for what is kept of the best."""
        study = self.study
        self.keeper.tidy(study.complete_scores(), study.has_ended, study.shared_weights, study.front())

    def _supervise(self) -> None:
        if self.database.due() and self._beat.due():
            self.database(lambda: self.study.beat(worker_rows(self.fleet, self.study)))
        if self.database.due() and self._sync.due():
            self.database(self._look_around)
        if self.stops.reason is None:
            self.fleet.kill_hung()
        elif self.stops.grace_is_over():
            for worker in self.fleet.training():
                self.fleet.kill(worker, "the epoch was abandoned when study.grace ran out")
        if self.database.away_for > self._storage_timeout:
            self.stops.stop(
                f"the database was unreachable for more than {self._storage_timeout:g} s; checkpoints are kept, run "
                "the study again to resume it",
                exit_status=1,
            )

    def _catch_up(self) -> None:
        self.study.sync()
        self.call("on_standing", standing(self.study, self.keeper.folder))

    def _look_around(self) -> None:
        self._catch_up()
        self.stops.judge(self.study.reached)
        self.admission.exhausted = False
        if self.study.stop_requested():
            self.stops.stop("`hpsearch stop` asked for it")

    def _begin_one(self) -> None:
        if self.stops.ends_study:
            self._end_one()
        if self.stops.reason is not None:
            return
        most = self.study.spec.study.max_paused
        if len(self.study.paused) > most:
            self._end_paused(
                most, f"the least promising of more than {counted(most, 'paused trial')} (study.max_paused)"
            )
        able = next((worker for worker in self.fleet.with_room() if self.admission.is_possible(worker)), None)
        if able is None:
            return
        trial = self.database(lambda: self.admission.next(able, self._silent_too))
        if trial is None:
            return
        if trial.problem is not None:
            self._finish(trial.number, Verdict(StopKind.ERROR, trial.problem), None, None)
            return
        run = TrialRun(
            study=self.study.spec.study.name,
            number=trial.number,
            attempt=trial.attempt,
            hparams=dict(trial.hparams),
            spec=trial.spec,
            folder=str(self.keeper.folder.trial(trial.number)),
            origin=self._origin(trial),
        )
        self.fleet.assign(able, run, trial.alone)

    def _origin(self, trial: LiveTrial) -> Origin | None:
        """Returns the trial that one continues, if it does."""
        number = trial.given.get(CONTINUES)
        if number is None:
            return None
        return Origin(int(number), str(self.keeper.folder.origin(int(number))), int(trial.given[STREAM]))

    def _end_one(self) -> None:
        """Ends a trial that waits, of this driver or of one that has gone, with the study."""
        number = self.database(lambda: self.admission.next_unfinished(self._silent_too))
        if number is not None:
            self._finish(number, self._study_end(), None, None)

    def _end_paused_unless_wanted(self) -> None:
        """Ends one of the paused trials that no driver is going to resume."""
        self.database(self.study.sync)  # another driver may just have paused what is to be resumed
        if self.study.wants_to_resume():
            self.admission.ask_again()
        else:
            self._end_paused(0)

    def _end_paused(self, most: int, why: str = "") -> None:
        """Ends one of more than so many paused trials; the policy says why, unless that is given."""
        trial = self.database(lambda: self.study.next_surplus(most))
        if trial is not None:
            why = why or self.study.policy.why_left(trial.number)
            detail = f"paused at epoch {len(trial.results)} and not resumed: {why}"
            self._finish(trial.number, Verdict(StopKind.PRUNER, detail), None, None)

    @property
    def _silent_too(self) -> bool:
        """Whether silent drivers count as gone: not until they could tell that they live."""
        return self.database.back_for > RETURN

    def _lost(self, error: LeaseLost) -> None:
        numbers = self.study.drop(error.tickets)
        self.admission.forget(numbers)
        for number in numbers:
            self._verdicts.pop(number, None)
            worker = self.fleet.with_trial(number)
            self.call("on_trial_interrupted", number)
            self.call("on_message", f"trial {number} belongs to another driver now; dropped here")
            if worker is not None and len(worker.trials) > 1:
                self.fleet.send(worker, Decision(number, 0, Action.PREEMPT))
            elif worker is not None:
                self.fleet.kill(worker, f"ended: trial {number} belongs to another driver now")

    def _patience(self) -> float:
        """Seconds to wait for messages: none when a trial can be begun at once."""
        can_begin = self.stops.reason is None and any(map(self.admission.is_possible, self.fleet.with_room()))
        return 0.0 if can_begin and self.database.due() else WAIT

    def _is_over(self) -> bool:
        if self.stops.cold:
            return True
        if self.stops.reason is not None:
            done = not self.study.unwritten and (self.admission.exhausted or not self.stops.ends_study)
            return not self.fleet.training() and (self.database.away_for > 0 or done)
        if self.study.live or self.study.unwritten or not self.admission.exhausted:
            return False
        if self.database(self.study.others_unfinished) != 0:
            return False
        if self.study.paused:
            self._end_paused_unless_wanted()
            return False
        self.database(self._catch_up)  # the last trials of other drivers, one of which may be the best
        return True


def _facts(end: TrialEnd | None, worker: Worker | None) -> dict[str, Any]:
    """Returns what is stored of where a trial was trained, and of its error."""
    facts: dict[str, Any] = {}
    if worker is not None:
        facts["host"] = worker.host
        told = end.facts if end is not None else {}  # the engine's word names the GPU's model
        facts |= {"worker": worker.place.worker, "device": told.get("device", worker.device)}
    if end is not None and end.traceback:
        facts["error"] = end.traceback
    return facts
