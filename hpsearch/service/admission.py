"""Which trial a worker gets next: one that waits to be tried again, an orphan, or a new one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hpsearch.contracts.messages import TrialEnd
from hpsearch.service.ends import Postponed
from hpsearch.service.fleet import Fleet, Worker
from hpsearch.service.live import LiveTrial
from hpsearch.service.study import Study


@dataclass(frozen=True, slots=True)
class Doubtful:
    """A trial whose workers have all died: is it its fault, or that of the machine?"""

    end: TrialEnd
    worker: Worker


class Admission:
    """The trials that wait, and whether the study has more to give.

    Args:
        has_checkpoint: says of a trial's number and an attempt whether it has left a checkpoint.

    Attributes:
        exhausted: whether the study had nothing to train when it was last asked.
    """

    def __init__(self, study: Study, fleet: Fleet, has_checkpoint: Callable[[int, int], bool]) -> None:
        self.exhausted = False
        self._study = study
        self._fleet = fleet
        self._has_checkpoint = has_checkpoint
        self._waiting: list[Postponed] = []
        self._doubtful: dict[int, Doubtful] = {}
        self._pardoned: set[int] = set()

    def ask_again(self) -> None:
        """Notes that a trial has paused or ended: a policy that pauses may want something else now."""
        self.exhausted = self.exhausted and not self._study.spec.pauses

    def put_back(self, waiting: Postponed) -> None:
        """Lets a trial wait for its next attempt."""
        self._waiting.append(waiting)

    def doubt(self, doubtful: Doubtful) -> None:
        """Keeps a trial that has killed all its workers, until it is clear whether the machine has."""
        self._doubtful[doubtful.end.number] = doubtful

    def judge(self, at_once: bool) -> list[Doubtful]:
        """Returns the trials to be failed, now that workers live through others.

        Where the deaths hit several trials, something outside may have ended the workers: then each trial is
        tried once more. In a crash loop it never gets clear: the run ends and the next one trains these trials.

        Args:
            at_once: whether the study ends, so that nothing is tried again.
        """
        nothing_else = self.exhausted and self._doubtful.keys() == self._study.live.keys()
        if not (self._fleet.is_sound or at_once or nothing_else):
            return []
        guilty = []
        while self._doubtful:
            number, doubtful = self._doubtful.popitem()
            if (
                self._fleet.is_sound
                and self._fleet.hit_several
                and not at_once
                and number not in self._pardoned
            ):
                self._pardoned.add(number)
                self.put_back(Postponed(number, 0))
            else:
                guilty.append(doubtful)
        return guilty

    def forget(self, numbers: Iterable[int]) -> None:
        """Lets go of trials that are another driver's now."""
        gone = set(numbers)
        self._waiting = [waiting for waiting in self._waiting if waiting.number not in gone]
        for number in gone:
            self._doubtful.pop(number, None)

    def is_possible(self, worker: Worker) -> bool:
        """Says whether there may be a trial for a worker."""
        if worker.trials and any(waiting.alone for waiting in self._waiting):
            return False  # it empties, so that it can take that one
        return not self.exhausted or self._waiting_for(worker) is not None

    def next(self, worker: Worker, silent_too: bool) -> LiveTrial | None:
        """Returns the next trial for a worker, its lease held; one with a `problem` is not to be trained.

        Args:
            silent_too: whether trials of drivers that are only silent may be taken over.

        Raises:
            StorageAway: the database does not answer; the call may be repeated.
            LeaseLost: another driver owns the trial, or one whose results were to be written first.
        """
        waiting = self._waiting_for(worker)
        if waiting is not None:
            self._study.flush()
            trial = self._study.retry(waiting.number, waiting.failures)
            trial.alone = waiting.alone
            self._waiting.remove(waiting)
            return trial
        new = self._study.next_trial(self._has_checkpoint, silent_too)
        self.exhausted = new is None
        if new is not None and new.failures >= self._study.spec.study.max_attempts:
            new.problem = f"{new.failures} attempts in a row (max_attempts) ended with their driver"
        return new

    def next_unfinished(self, silent_too: bool) -> int | None:
        """Returns the number of a trial that waits, here, paused, or because its driver has gone; None without any.

        Args:
            silent_too: whether drivers that are only silent count as gone.

        Raises:
            StorageAway: the database does not answer; the call may be repeated.
        """
        if self._waiting:
            return self._waiting.pop(0).number
        left = self._study.next_trial(self._has_checkpoint, silent_too, claim=False)
        left = left or self._study.next_surplus(0)
        self.exhausted = left is None
        return None if left is None else left.number

    def _waiting_for(self, worker: Worker) -> Postponed | None:
        for waiting in self._waiting:
            avoided = waiting.avoid == worker.place.worker and self._fleet.has_others(worker)
            crowded = waiting.beside and waiting.beside <= self._fleet.beside(worker)
            if not (avoided or crowded):
                return waiting
        return None
