"""Why a run may have to end before its study is finished: signals, limits, a request."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hpsearch.service.signals import came, heeded, on_hang_up
from hpsearch.study.direction import is_better
from hpsearch.study.specification import StudySection

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


class Stops:
    """Gathers the reasons to stop; the first one counts.

    Attributes:
        reason: one sentence, None while the run continues. Running trials are then checkpointed at the end of
            their epoch and can be resumed.
        exit_status: what the process should exit with; None leaves it to the study's result.
        ends_study: the study is at its end, so that running trials end with it rather than wait for the next
            run, which would begin nothing.
        cold: a second signal came: everything ends at once, as it was last checkpointed.
    """

    def __init__(self, limits: StudySection) -> None:
        self._limits = limits
        self._begun = time.monotonic()
        self._stopped_at: float | None = None
        self._reason: str | None = None
        self.exit_status: int | None = None
        self.ends_study = False
        self.cold = False
        self._is_signalled = False
        self._failures_in_a_row = 0

    @property
    def reason(self) -> str | None:
        timeout = self._limits.timeout
        if self._reason is None and timeout is not None and time.monotonic() - self._begun > timeout:
            self.stop(f"study.timeout = {timeout:g} s is over")
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

    def on_best(self, best: float | None) -> None:
        """Stops when the target value is reached."""
        target = self._limits.target_value
        if best is None or target is None:
            return
        if not is_better(self._limits.better, target, best):
            self._end_study(f"the target value {target:g} is reached: {best:g}")

    def on_epochs(self, epochs: int) -> None:
        """Stops when finished trials have used up the epochs of the study."""
        limit = self._limits.max_epochs_total
        if limit is not None and epochs >= limit:
            self._end_study(f"max_epochs_total = {limit} epochs are trained")

    def _end_study(self, reason: str) -> None:
        if self._reason is None:
            self.stop(reason)
            self.ends_study = True

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
        self.ends_study = False
        self._is_signalled = True
        self.stop(f"{name}: running trials are checkpointed, run the study again to resume it", 128 + number)
