"""A study as its driver holds it: decided in memory, written behind, owned by leases.

`Study` answers at once from its view; what it decides is queued and written by `flush`, in order and in one
transaction, guarded by the leases of the trials in question. The database may be away meanwhile: then nothing
is begun, running trials continue, and the queue waits.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from hpsearch.contracts.trial import PAUSED, PAUSES, WHY, EpochResult, StopKind, TrialEnd
from hpsearch.errors import LeaseLost
from hpsearch.search import improvement
from hpsearch.search.expectation import expect
from hpsearch.search.outcome import Verdict, constraints, decide
from hpsearch.search.policy.build import build_policy
from hpsearch.search.policy.contract import Continue, New, Pause, Resume, Stop
from hpsearch.search.view import StudyView, is_chosen
from hpsearch.service.live import (
    Ended,
    LiveTrial,
    as_record,
    attributes,
    begun,
    breach,
    clean,
    completed,
    end_operations,
    judge,
    told,
)
from hpsearch.service.watch import Reached
from hpsearch.store import trials, writes
from hpsearch.store.archive import Archive, unfinished
from hpsearch.store.connection import reading, translated
from hpsearch.store.keys import ENDED, EXPECTED, SPECIFICATION, check_record
from hpsearch.store.ledger import Ledger
from hpsearch.store.schema import Lease
from hpsearch.store.study_data import DataRecord
from hpsearch.study.checks import DataFacts
from hpsearch.study.file import stored_form
from hpsearch.study.footprint import taken
from hpsearch.study.specification import StudySpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Pending:
    """A ticket that was taken and whose trial is still to be begun: the database may go away between.

    Attributes:
        failures: attempts in a row without a new checkpoint.
        why: why the policy chose it; "" for an orphan, None for a paused trial that is to be ended.
    """

    ticket: int
    attempt: int
    failures: int
    why: str | None = ""


class Study:
    """One study of one driver; see `hpsearch.service.opening` for how it is opened."""

    def __init__(
        self,
        spec: StudySpec,
        storage: RDBStorage,
        study_id: int,
        ledger: Ledger,
        made_here: bool = True,
        past: Sequence[FrozenTrial] = (),
    ) -> None:
        self.spec = spec
        self.study_id = study_id
        self.live: dict[int, LiveTrial] = {}
        self._past = past
        self.view = StudyView(spec, past)
        self.policy = build_policy(spec.policy, self.view)
        self.storage = storage
        self.ledger = ledger
        self._writer = writes.TrialWriter(storage)
        self._queue: list[tuple[int, writes.Operation]] = []
        self._foreign: dict[int, int] = {}
        # Records by ticket that are in the view and not yet in the database.
        self._ended: dict[int, FrozenTrial] = {}
        self._stale = False
        self._epochs_elsewhere: dict[int, int] = {}  # by number, of trials that other drivers train
        # Epochs of the paused trials by number: ours, and those of other drivers as last seen.
        self.paused: dict[int, int] = {}
        # Records by ticket of paused trials whose leases are still ours in the database.
        self._pausing: dict[int, FrozenTrial] = {}
        self._pending: _Pending | None = None
        self._given_out = False  # whether other drivers have taken the last tickets
        self._guessing_loss: float | None = None
        self._outlook_at: int | None = None  # how many times the chance of an improvement was due
        self._outlook_is: tuple[float, int] | None = None
        self.data = DataRecord()
        self.made_here = made_here
        self._told_of_foreign = False
        self.archive = Archive()
        self._newest: int | None = None  # the last trial whose end was written
        self.shared_weights: frozenset[str] = frozenset()

    @property
    def total(self) -> int:
        """Trials that the study asks for, of which a grid may have fewer points, and those that continue others."""
        return self.view.total

    @property
    def token(self) -> str:
        """What tells this study from all others, of whatever database and name."""
        return self.ledger.token(self.study_id)

    def others(self) -> dict[str, str]:
        """Returns the tokens of the other studies of the database, by their names."""
        with reading(self.storage) as connection:
            return trials.other_tokens(connection, self.study_id)

    @property
    def counts(self) -> dict[str, int]:
        """Trials by state; those that are paused do not count as RUNNING."""
        counts, paused = self.view.counts, len(self.paused)
        return {**counts, "RUNNING": counts["RUNNING"] - paused, "PAUSED": paused}

    @property
    def epochs(self) -> int:
        """Epochs of all trials: those of other drivers as last seen."""
        running = sum(len(trial.results) for trial in self.live.values())
        elsewhere = sum(epochs for n, epochs in self._epochs_elsewhere.items() if self._is_elsewhere(n))
        return self.view.epochs + sum(self.paused.values()) + running + elsewhere

    def reached(self) -> Reached:
        """Returns what the study's own limits are judged by."""
        course = self.view.course
        live = {number: trial.device_seconds for number, trial in self.live.items()}
        seconds = course.device_seconds(live)
        return Reached(course.best, course.since_best, self.epochs, seconds, self._outlook())

    def _outlook(self) -> tuple[float, int] | None:
        """Returns the chance of an improvement as `study.improvement` asks for it; not after every single epoch."""
        rule = self.spec.study.improvement
        if rule is None:
            return None
        within = rule.epochs or 2 * self.spec.max_epochs
        every = max(1, within // 20)
        # At multiples, so that a study that was interrupted asks when an unbroken one does.
        asked = max(0, self.epochs - 1) // every if self._outlook_at is None else self._outlook_at
        if self.epochs // every > asked:
            self._outlook_at = self.epochs // every
            found = improvement.chance(self.view, self.policy, rule.by, within)
            self._outlook_is = None if found is None else (found, within)
        return self._outlook_is

    @property
    def unwritten(self) -> int:
        """Number of operations that wait for the database."""
        return len(self._queue) + self.data.unwritten

    def load(self) -> None:
        """Fills the view from the database.

        Raises:
            StorageAway: the database does not answer.
        """
        with translated(self.storage):
            stored = self.storage.get_all_trials(self.study_id, deepcopy=False)
            attrs = self.storage.get_study_user_attrs(self.study_id)
            self.archive.know_study(attrs, self.storage.get_study_system_attrs(self.study_id))
        self.data.load(attrs)
        own = [trial for trial in stored if trials.is_own(trial, self.token, self.spec.search)]
        trials.enter_copies(self.storage, self.study_id, own)
        for trial in stored:
            self._see(trial)
        self.sync()

    def complete_scores(self) -> dict[int, float]:
        """Returns the scores of the COMPLETE trials by number, as far as they are in the database."""
        unwritten = {record.number for record in self._ended.values()}
        return {n: score for n, score in self.view.complete.items() if n not in unwritten}

    def front(self) -> list[int]:
        """Returns the trials of the front, where the study has several goals; their weights are kept."""
        return self.view.front() if self.spec.study.beside else []

    def has_ended(self, number: int) -> bool:
        """Says whether a trial's end is in the database; of none while the view holds an end that is lost."""
        unwritten = {record.number for record in self._ended.values()}
        return not self._stale and self.view.is_finished(number) and number not in unwritten

    def sync(self) -> None:
        """Reads in what other drivers, and other programs, did.

        Raises:
            StorageAway: the database does not answer.
        """
        if self._stale:
            self._rebuild()
        with reading(self.storage) as connection:
            trials.check_end(connection, self.study_id, self._newest)
            self.shared_weights = trials.shared_weights(connection, self.study_id)
            rows = trials.trial_states(
                connection, self.study_id, self.view.next_number, self._foreign.values()
            )
            paused = trials.paused_epochs(connection, self.study_id) if self.spec.pauses else {}
        self._see_pauses(paused)
        for trial_id, number, state in rows:
            known = number in self.view
            awaited = state is TrialState.WAITING or (known and self.view.params(number))
            if known and awaited and not state.is_finished():
                continue
            with translated(self.storage):
                trial = self.storage.get_trial(trial_id)
            if not known or not trials.is_own(trial, self.token, self.spec.search):
                self._see(trial)
            elif state.is_finished():
                check_record(self.spec.study.name, number, trial.user_attrs)
                self.archive.add(trial)
                self.view.replace(trial)
                self.policy.add(trial)
                del self._foreign[number]
            elif is_chosen(trial, self.view.space):
                self.view.set_params(number, trial.params)
                self.policy.add(trial)
            else:
                self.view.begin(number)
        self._epochs_elsewhere = {}
        if numbers := {trial_id: n for n, trial_id in self._foreign.items() if self._is_elsewhere(n)}:
            with reading(self.storage) as connection:
                found = trials.reported_epochs(connection, numbers)
            self._epochs_elsewhere = {numbers[trial_id]: epochs for trial_id, epochs in found.items()}

    def _is_elsewhere(self, number: int) -> bool:
        """Says whether another driver trains a trial, or has left it."""
        return number in self._foreign and number not in self.paused

    def _see_pauses(self, stored: Mapping[int, int]) -> None:
        """Takes note of what other drivers have paused and resumed.

        Args:
            stored: after which epoch each trial is paused, in the database.
        """
        unwritten = {record.number for record in self._pausing.values()}
        for number in self.paused.keys() - stored.keys() - unwritten:
            del self.paused[number]
            self.policy.resume(number)
        for number in stored.keys() & self._foreign.keys():
            if self.paused.get(number) == stored[number]:
                continue
            with translated(self.storage):
                trial = self.storage.get_trial(self._foreign[number])
            if not trial.state.is_finished():
                self._enter(trial)

    def _enter(self, trial: FrozenTrial) -> None:
        """Tells the policy of an own trial as stored."""
        self.view.know(trial.number, taken(trial.user_attrs))
        self.policy.add(trial)
        if trials.is_paused(trial):
            self.view.course.add(trial)
            self.paused[trial.number] = trial.user_attrs[PAUSED]
            self.archive.add(trial)

    def _rebuild(self) -> None:
        """Makes the view anew, since it holds the end of a trial that another driver continues."""
        with translated(self.storage):
            stored = self.storage.get_all_trials(self.study_id, deepcopy=False)
        before = self.policy
        self.view, self._foreign, self.paused = StudyView(self.spec, self._past), {}, {}
        self.policy = build_policy(self.spec.policy, self.view)
        for trial in stored:
            self._see(trial)
        for number, live in self.live.items():
            self._foreign.pop(number, None)
            self.paused.pop(number, None)
            self.view.set_params(number, live.hparams)
            self.view.restart(number)
            self.view.know(number, live.footprint)
            for epoch, value in enumerate(live.values(self.spec.study.metric), start=1):
                self.view.report(number, epoch, value)
            self.policy.add(
                self._as_stored(live, live.pausing.notes if live.pausing else before.notes(number, 0))
            )
        for record in self._pausing.values():
            self._enter(record)
        for ticket, record in self._ended.items():
            self._foreign.pop(record.number, None)
            if self.view.is_finished(record.number):
                continue  # it was committed though the answer was lost: the database's end cannot change
            beside = self.spec.beside(taken(record.user_attrs)) or ()
            infeasible = record.user_attrs["stop_reason"] == StopKind.INFEASIBLE
            # Perhaps it was beaten by what is lost.
            if self.view.board.is_unbeaten(record.user_attrs["score"], beside) and not infeasible:
                self._queue = completed(record, ticket, self._queue, beside)
            self.view.replace(record)
            self.policy.finish(record)
        self._stale = False

    def next_trial(
        self, has_checkpoint: Callable[[int, int], bool], silent_too: bool = True, claim: bool = True
    ) -> LiveTrial | None:
        """Takes over an orphaned trial, or what the policy wants next; None when there is nothing to train now.

        Args:
            has_checkpoint: says of a trial's number and an attempt whether it has left a checkpoint.
            silent_too: whether trials of drivers that are only silent may be taken over.
            claim: whether the policy is asked.

        Raises:
            StorageAway: the database does not answer; the call may be repeated.
            StudyNotFound: an older copy of the database was put in its place.
        """
        if self._stale:
            self._rebuild()
        if self._pending is None:
            self._pending = self._adopt(has_checkpoint, silent_too) or (self._take_next() if claim else None)
        return None if self._pending is None else self._begin(self._pending)

    def next_surplus(self, most: int) -> LiveTrial | None:
        """Takes the least promising of more than so many paused trials, to be ended; None without any.

        Raises:
            StorageAway: the database does not answer; the call may be repeated.
        """
        if self._stale:
            self._rebuild()
        for number in self.policy.surplus(most) if self._pending is None else ():
            if number not in self.live and self._take_paused(number, None):
                break
        pending = self._pending
        return self._begin(pending) if pending is not None and pending.why is None else None

    def _begin(self, pending: "_Pending") -> LiveTrial:
        ticket = pending.ticket
        fence = self.ledger.fence(self.study_id, [ticket])
        trial_id, number, was_there = trials.create_trial(self.storage, self.study_id, ticket, fence)
        if self.view.is_finished(number):  # the database has given a number twice
            raise writes.older_copy([ticket])
        if number not in self.view and (was_there or self.view.next_number < number):
            self.sync()
        stored = None
        if was_there:
            with translated(self.storage):
                stored = self.storage.get_trial(trial_id)
            known = self.view.params(number) or number in self.view.misfits
            if not known and is_chosen(stored, self.view.space):
                self.view.set_params(number, stored.params)  # written since the last look
        if number in self.view and (hparams := self.view.params(number)):
            self._foreign.pop(number, None)
        else:
            hparams = self.policy.start(number)
            self._foreign.pop(number, None)
            self._queue.append((ticket, writes.SetParams(trial_id, hparams, self.view.space)))
        self._pending = None
        given = self.spec.sampler.attrs(self.view.place(number))
        trial = begun(self.spec, number, trial_id, ticket, hparams, self.view.misfits.get(number), given)
        trial.take_up(pending.attempt, pending.failures, self.view.reported(number))
        if stored is not None:
            trial.footprint = self.spec.built(taken(stored.user_attrs))
        self.live[number] = trial
        if self.spec.pauses:
            queued = pending.why and self.view.is_queued(number) and not trial.results
            self._take_piece(trial, stored, "its hyperparameters were given" if queued else pending.why)
        return trial

    def _take_piece(self, trial: LiveTrial, stored: FrozenTrial | None, why: str | None) -> None:
        """Lets a trial begin, or resume, as the policy wanted it.

        Args:
            stored: as the database has it; None if it is new.
        """
        if stored is not None and is_chosen(stored, self.view.space):
            trial.remember(stored.user_attrs)
            reported = stored.intermediate_values
            values = [reported[epoch] for epoch in range(1, 1 + len(reported)) if epoch in reported]
            trial.take_up(trial.attempt, trial.failures, values)
            self.view.know(trial.number, trial.footprint)
            self.policy.add(stored)  # another driver may have trained it meanwhile
        if trial.kept:
            self.paused.pop(trial.number, None)
            self.policy.resume(trial.number)
            self._note(trial, {PAUSED: None})
        if why or (why is not None and not trial.why):
            trial.why.append(why or "its driver was gone before it had stored the reason")
            self._note(trial, {WHY: trial.why})

    def _note(self, trial: LiveTrial, attrs: Mapping[str, Any]) -> None:
        for key, value in clean(attrs).items():
            self._queue.append((trial.ticket, writes.SetAttr(trial.trial_id, key, value)))

    def resume(
        self, number: int, curve: Sequence[EpochResult], footprint: Mapping[str, float]
    ) -> Verdict | Pause | None:
        """Enters the epochs of the checkpoint that a trial continues from, and judges the last of them.

        Args:
            footprint: what its model takes.
        """
        trial = self.live[number]
        self._know_footprint(trial, footprint)
        trial.results, trial.kept = [], {}
        # The checkpoint may be older than what was reported: pruners must not see the epochs that are gone.
        self.view.restart(number)
        self._queue.append((trial.ticket, writes.Truncate(trial.trial_id, 0)))
        trained = sum(result.seconds for result in curve[trial.inherited :])
        trial.device_seconds = trial.device_seconds or trained
        trial.saved = max(trial.saved, len(curve))  # what an earlier attempt saved is no progress
        verdict: Verdict | Pause | None = breach(trial.taken, self.spec)
        for result in curve:
            if trial.pausing is not None:  # it was trained beyond this piece
                trial.pausing = None
                self.policy.resume(number)
            verdict = self.report(number, result)
        return verdict

    def _know_footprint(self, trial: LiveTrial, footprint: Mapping[str, float]) -> None:
        new = {name: value for name, value in footprint.items() if name not in trial.footprint}
        trial.footprint = {**trial.footprint, **new}
        self._note(trial, new)
        self.view.know(trial.number, trial.footprint)

    def report(self, number: int, result: EpochResult) -> Verdict | Pause | None:
        """Enters one epoch and says whether the trial ends, or pauses, with it."""
        trial = self.live[number]
        del trial.results[result.epoch - 1 :]
        trial.results.append(result)
        if result.checkpointed and result.epoch > trial.saved:
            trial.saved, trial.progress = result.epoch, True
        value = result.metrics.get(self.spec.study.metric, math.nan)
        self._queue.append((trial.ticket, writes.Report(trial.trial_id, result.epoch, value)))
        self.view.report(number, result.epoch, value)
        verdict = breach(trial.taken, self.spec) or judge(trial, self.spec, value)
        if verdict is not None:
            return verdict
        match self.policy.report(number, result.epoch, value):
            case Stop(verdict):
                return verdict
            case Pause() as decision:
                trial.pausing = decision
                return decision
            case Continue(notes):
                self._note(trial, notes)
        return None

    def pause(self, number: int, end: TrialEnd | None, facts: Mapping[str, Any]) -> None:
        """Lets a trial wait until the policy resumes it, under this driver or another.

        All that is known of it is stored, so that it can be ended without being trained again. Its lease is
        nobody's meanwhile: no driver needs to live for it, and the first to claim it resumes it.

        Args:
            end: what the engine said of this attempt, if there was an engine to say it.
            facts: further user attributes.
        """
        trial = self.live.pop(number)
        assert trial.pausing is not None
        found = attributes(trial, None, trial.best(), end, self.spec.fit, self._guessing_loss)
        attrs = clean({**found, **facts, **trial.pausing.notes, PAUSES: trial.pauses + 1})
        self._note(trial, attrs)
        self._queue.append((trial.ticket, writes.PauseLease(self.study_id, trial.ticket)))
        record = self._as_stored(trial, attrs)
        self._pausing[trial.ticket] = record
        self.paused[number] = attrs[PAUSED]
        self._foreign[number] = trial.trial_id
        self.archive.add(record)
        self.view.course.add(record)

    def _as_stored(self, trial: LiveTrial, attrs: Mapping[str, Any]) -> FrozenTrial:
        """Returns a trial that has not ended as the database will have it."""
        values = trial.values(self.spec.study.metric)
        space, token = self.view.space, self.token
        return unfinished(trial.number, trial.hparams, space, token, trial.attempt, values, attrs)

    def finish(self, number: int, verdict: Verdict, end: TrialEnd | None, facts: Mapping[str, Any]) -> Ended:
        """Ends a trial: decides its state, enters it into the view, and queues its record.

        Args:
            end: what the engine said of the last attempt, if there was an engine to say it.
            facts: further user attributes (worker, host, weights ...).
        """
        trial = self.live.pop(number)
        best = trial.best()
        value = best[0] if best else None
        epochs = len(trial.results)
        beside = self.spec.beside(trial.taken)
        reached = None if beside is None else value  # without all goals it is comparable with none
        switch = self.spec.early_stopping.outcome
        state = decide(verdict.kind, reached, self.view.board, switch, beside or ())
        if trial.kept:
            found = {**trial.kept, **told(verdict)}
        else:
            found = attributes(trial, verdict, best, end, self.spec.fit, self._guessing_loss)
        attrs = {**found, **trial.given, **self.policy.notes(number, epochs), **facts}
        metric = self.spec.study.metric
        values = None if reached is None else (reached, *(beside or ()))
        record = as_record(trial, metric, state, values, attrs, self.view.space, self.view.rungs(number))
        is_best = state is TrialState.COMPLETE and self.view.board.is_best(value)
        broken = constraints(verdict.kind, state, self.spec.excesses(trial.taken))
        for operation in end_operations(trial, record, broken):
            self._queue.append((trial.ticket, operation))
        self._queue.append((trial.ticket, writes.CloseLease(self.study_id, trial.ticket)))
        self._ended[trial.ticket] = record
        self.archive.add(record)
        self.view.replace(record)
        self.policy.finish(record)
        return Ended(record, is_best)

    def flush(self) -> bool:
        """Writes what is queued; says whether the end of a trial was among it.

        Raises:
            StorageAway: the database does not answer; the queue is kept.
            LeaseLost: leases are gone; nothing was written, call `drop` for them and flush again.
            DataError: another driver of the study has begun with other data.
        """
        self.data.write(self.storage, self.study_id)
        if not self._queue:
            return False
        if self._stale:
            self._rebuild()
        batch = list(self._queue)
        tickets = {ticket for ticket, _ in batch}
        self._writer.write([op for _, op in batch], self.ledger.fence(self.study_id, tickets))
        del self._queue[: len(batch)]
        closed = [op.ticket for _, op in batch if isinstance(op, writes.CloseLease)]
        ends = [op.trial_id for _, op in batch if isinstance(op, writes.Finish)]
        self._newest = ends[-1] if ends else self._newest
        for ticket in closed:
            del self._ended[ticket]
        given_back = [op.ticket for _, op in batch if isinstance(op, writes.PauseLease)]
        self.ledger.let_go(self.study_id, given_back)
        for ticket in given_back:
            del self._pausing[ticket]
        return bool(closed)

    def retry(self, number: int, failures: int) -> LiveTrial:
        """Begins the next attempt at a trial whose worker is gone.

        Raises:
            StorageAway: the database does not answer; the call may be repeated.
            LeaseLost: another driver owns the trial.
        """
        trial = self.live[number]
        trial.attempt = self.ledger.retry(self.study_id, trial.ticket, failures)
        trial.failures, trial.progress = failures, False
        if trial.pausing is not None:  # its worker could not give it back
            trial.pausing = None
            self.policy.take_back(number)
        return trial

    def beat(self, workers: str) -> None:
        """Tells that this driver lives and renews its leases.

        Raises:
            StorageAway: the database does not answer.
            LeaseLost: some leases are gone; call `drop` for them.
        """
        lost = self.ledger.beat(workers)
        if lost:
            raise LeaseLost(f"tickets {sorted(lost)} belong to another driver now", lost)

    def drop(self, tickets: Iterable[int]) -> list[int]:
        """Forgets trials that another driver owns, with all that was queued for them; returns their numbers."""
        gone = set(tickets)
        if self._pending is not None and self._pending.ticket in gone:
            self._pending = None
        numbers = [number for number, trial in self.live.items() if trial.ticket in gone]
        for number in numbers:
            self._foreign[number] = self.live.pop(number).trial_id
        self._queue = [(ticket, op) for ticket, op in self._queue if ticket not in gone]
        for ticket in gone & self._ended.keys():
            del self._ended[ticket]
            self._stale = True
        for ticket in gone & self._pausing.keys():
            number = self._pausing.pop(ticket).number
            del self.paused[number]
            self.policy.resume(number)
        return numbers

    def release(self) -> None:
        """Gives all trials of this driver back, to be adopted by the next run, and leaves the study.

        Raises:
            StorageAway: the database does not answer; the leases then run out by themselves.
        """
        tickets = [trial.ticket for trial in self.live.values()]
        if self._pending is not None:
            tickets.append(self._pending.ticket)
        self.ledger.release(self.study_id, tickets)
        self.ledger.unregister()

    def note_end(self, sentence: str) -> None:
        """Keeps with the study which of its own limits ended it; "" if none did.

        Raises:
            StorageAway: the database does not answer.
        """
        with translated(self.storage):
            if self.storage.get_study_user_attrs(self.study_id).get(ENDED, "") != sentence:
                self.storage.set_study_user_attr(self.study_id, ENDED, sentence)

    def note_expectation(self) -> None:
        """Keeps with the study what its best trial is expected to come to when trained anew, if that can be said.

        Raises:
            StorageAway: the database does not answer.
        """
        best = self.view.best
        if best is None or self.spec.is_confirmation:
            return
        with translated(self.storage):
            stored = self.storage.get_all_trials(self.study_id, deepcopy=False)
            own = [trial for trial in stored if trials.is_own(trial, self.token, self.spec.search)]
            found = expect(self.spec, own, best, self.data.facts)
            if found is not None:
                self.storage.set_study_user_attr(self.study_id, EXPECTED, asdict(found))

    def stop_requested(self) -> bool:
        """Says whether `hpsearch stop` has asked this driver to stop."""
        return self.ledger.stop_requested(self.study_id, self.ledger.registered_at)

    def others_unfinished(self) -> int:
        """Returns how many trials other drivers have in work."""
        mine = {one.ticket for one in (*self.live.values(), self._pending) if one is not None}
        return sum(lease.ticket not in mine for lease in self.ledger.unfinished(self.study_id))

    def know_data(self, facts: DataFacts) -> None:
        """Takes note of the data, and of the loss of guessing, by which a trial's fit is judged.

        Raises:
            DataError: the data have changed since the study began.
        """
        self.data.check(facts)
        self._guessing_loss = facts.guessing_loss

    def _adopt(self, has_checkpoint: Callable[[int, int], bool], silent_too: bool) -> "_Pending | None":
        def progressed(lease: Lease) -> bool:
            if lease.number is None:
                return False
            # Another machine's checkpoints may not be here; that it reported epochs tells as much.
            return has_checkpoint(lease.number, lease.attempt) or (
                lease.elsewhere and bool(self.view.reported(lease.number))
            )

        while (lease := self.ledger.adopt(self.study_id, progressed, silent_too)) is not None:
            if lease.trial_id is None or not self._was_hardly_taken(lease.ticket, lease.trial_id):
                return _Pending(lease.ticket, lease.attempt, lease.failures)
        return None

    def _was_hardly_taken(self, ticket: int, trial_id: int) -> bool:
        """Pauses an orphan again whose driver died before it could say that the trial is not paused any more.

        Perhaps the trial was not to be resumed but to be ended; the policy knows.
        """
        if not self.spec.pauses:
            return False
        with translated(self.storage):
            trial = self.storage.get_trial(trial_id)
        if not trials.is_paused(trial):
            return False
        self._queue.append((ticket, writes.PauseLease(self.study_id, ticket)))
        self._pausing[ticket] = trial
        self._foreign[trial.number] = trial_id
        self._enter(trial)
        self.flush()
        return True

    def wants_to_resume(self) -> bool:
        """Says whether the policy wants a paused trial, where no trial may begin any more."""
        return isinstance(self.policy.begin(new=False), Resume)

    def _take_next(self) -> "_Pending | None":
        """Takes what the policy wants next, until no other driver was first; None if it wants to wait."""
        while True:
            # Without pauses the tickets alone decide; a policy that pauses must decide after a restart as before.
            new = not self._given_out and (self.view.may_begin or not self.spec.pauses)
            match self.policy.begin(new):
                case New(why):
                    ticket = self.ledger.claim(self.study_id, self.total)
                    if ticket is not None:
                        return _Pending(ticket, 1, 0, why)
                    if self._given_out:
                        return None
                    self._given_out = True
                case Resume(number, why) if number not in self.live:
                    if self._take_paused(number, why):
                        return self._pending
                case _:  # to wait, be it for the worker that has yet to give back what is to be resumed
                    return None

    def _take_paused(self, number: int, why: str | None) -> bool:
        """Takes a paused trial's lease; says whether this driver was the first."""
        if any(record.number == number for record in self._pausing.values()):
            self.flush()
        lease = self.ledger.resume(self.study_id, number)
        if lease is None:
            self.paused.pop(number, None)
            self.policy.resume(number)
            return False
        self._pending = _Pending(lease.ticket, lease.attempt, 0, why)
        return True

    def save(self, path: Path) -> int:
        """Writes what memory holds into a file, for a database that has lost it; returns the finished trials.

        Raises:
            OSError: the file cannot be written.
        """
        running = [(n, self.view.params(n), 1) for n in self._foreign] + [
            (n, trial.hparams, trial.attempt) for n, trial in self.live.items()
        ]
        space, token, spec = self.view.space, self.token, self.spec
        left = [unfinished(n, hparams, space, token, attempt) for n, hparams, attempt in running if hparams]
        changes = {SPECIFICATION: stored_form(spec), **self.data.attrs}
        return self.archive.write(path, spec.study.name, changes, left)

    def _see(self, trial: FrozenTrial) -> None:
        if trial.state.is_finished():
            self.archive.add(trial)
        if not trials.is_own(trial, self.token, self.spec.search):
            if not self._told_of_foreign:
                logger.warning("trial %d was begun by another program; %s", trial.number, trials.LEFT_OUT)
            self._told_of_foreign = True
            self._foreign.pop(trial.number, None)
            self.view.leave_out(trial.number)
            return
        check_record(self.spec.study.name, trial.number, trial.user_attrs)
        self.view.add(trial)
        self._enter(trial)
        if not trial.state.is_finished():
            self._foreign[trial.number] = trial._trial_id
