"""Why a run may have to end before its study is finished: signals, limits, a request."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from hpsearch.service.signals import came, heeded, on_hang_up
from hpsearch.study.direction import is_better
from hpsearch.study.specification import LIMITS, StudySection
from hpsearch.text import counted

logger = logging.getLogger(__name__)


class Every:
    """Says at most every so many seconds that something is due."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = 0.0

    def due(self) -> bool:
        """Says whether the time has come, and begins the next interval if so."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a study has come, over all machines and restarts.

    Attributes:
        best: the best value, that of a paused trial included; None before the first.
        since_best: trials that have finished since it was reached.
        device_seconds: how long devices were busy with its trials.
        outlook: the chance of an improvement, and the epochs within which it would come; None if nothing can be said.
    """

    best: float | None
    since_best: int
    epochs: int
    device_seconds: float
    outlook: tuple[float, int] | None = None


class Stops:
    """Gathers the reasons to stop; the first one counts.

    Attributes:
        reason: one sentence, None while the run continues. Running trials are then checkpointed at the end of
            their epoch and can be resumed.
        exit_status: what the process should exit with; None leaves it to the study's result.
        ends_study: the study is at its end, so that running trials end with it rather than wait for the next
            run, which would begin nothing.
        is_late: the time is over, and nothing else came before.
        cold: a second signal came: everything ends at once, as it was last checkpointed.
    """

    def __init__(self, limits: StudySection) -> None:
        self._limits = limits
        self._is_limited = any(getattr(limits, name) is not None for name in LIMITS)
        self._begun = time.monotonic()
        self._stopped_at: float | None = None
        self._reason: str | None = None
        self.exit_status: int | None = None
        self.ends_study = False
        self.is_late = False
        self.cold = False
        self._is_signalled = False
        self._failures_in_a_row = 0

    @property
    def reason(self) -> str | None:
        timeout = self._limits.timeout
        if self._reason is None and timeout is not None and time.monotonic() - self._begun > timeout:
            self.stop(f"the timeout of {timeout:g} s has been reached")
            self.is_late = True
            self.ends_study = self._limits.at_timeout == "end"
        return self._reason

    def stop(self, reason: str, exit_status: int | None = None) -> None:
        """Asks for a warm stop; a later reason does not replace an earlier one."""
        if self._reason is None:
            self._reason, self.exit_status = reason, exit_status
            self._stopped_at = time.monotonic()

    def on_end(self, has_failed: bool, sentence: str) -> None:
        """Stops when too many trials in a row have failed; `sentence` tells of this one."""
        self._failures_in_a_row = self._failures_in_a_row + 1 if has_failed else 0
        if has_failed and self._failures_in_a_row >= self._limits.max_failures:
            count = self._failures_in_a_row
            self.stop(
                f"{count} trials in a row failed (max_failures), the last one {sentence}", exit_status=1
            )

    def judge(self, reached: Callable[[], Reached]) -> None:
        """Ends the study by the first of its own limits that is reached; asks how far only where one is set."""
        if not self._is_limited or self._reason is not None:
            return  # this is asked after every epoch of every worker
        sentence = next(self._limits_reached(reached()), None)
        if sentence is not None:
            self.stop(sentence)
            self.ends_study = True

    def _limits_reached(self, reached: Reached) -> Iterator[str]:
        limits, best = self._limits, reached.best
        target, patience = limits.target_value, limits.patience_trials
        if target is not None and best is not None and not is_better(limits.better, target, best):
            yield f"the target value {target:g} has been reached: {best:g}"
        if patience is not None and reached.since_best >= patience:
            how = (
                "and none has a finite value"
                if best is None
                else f"since the best value {best:g} was reached"
            )
            yield f"patience_trials = {patience}: {counted(reached.since_best, 'trial')} ended {how}"
        if limits.improvement is not None and reached.outlook is not None and best is not None:
            rule, (chance, within) = limits.improvement, reached.outlook
            if chance < rule.chance:
                yield (
                    f"improvement: the chance that the best value {best:g} improves by more than {rule.by:g} within "
                    f"the next {counted(within, 'epoch')} is {chance:.1%}, less than {rule.chance:.1%}"
                )
        if limits.max_epochs_total is not None and reached.epochs >= limits.max_epochs_total:
            yield f"max_epochs_total = {limits.max_epochs_total} epochs have been trained"
        hours = limits.max_device_hours
        if hours is not None and reached.device_seconds >= 3600 * hours:
            yield f"max_device_hours = {hours:g} h of training are used up"

    def grace_is_over(self) -> bool:
        """Says whether running epochs should be given up."""
        if self._stopped_at is None:
            return False
        return time.monotonic() - self._stopped_at > self._limits.grace

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Turns the first of the graceful signals into a warm stop and the second into a cold one.

        Outside the main thread Python allows no signal handlers; then signals keep their meaning.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in heeded()}
        try:
            if came:  # an import that it interrupted went on all the same
                self._on_signal(came[-1], None)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        on_hang_up(number)
        if self._is_signalled:
            self.cold = True
            return
        name = signal.Signals(number).name
        self._reason = None  # a signal outranks other reasons: it decides the exit status
        self.ends_study = self.is_late = False
        self._is_signalled = True
        self.stop(f"{name}: running trials are checkpointed, run the study again to resume it", 128 + number)
