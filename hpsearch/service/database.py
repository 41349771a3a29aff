"""How the driver talks to its database: never for long, and only now and then while it is away."""

import math
import time
from collections.abc import Callable
from typing import TypeVar

from hpsearch.errors import LeaseLost, StorageAway, StudyNotFound
from hpsearch.service.watch import Stops

Result = TypeVar("Result")

MOST_PAUSE = 5.0  # seconds between two tries while the database is away


class Database:
    """Makes calls and keeps account of whether the database answers.

    Args:
        on_lost: called when leases turn out to belong to another driver.
        on_message: called with a sentence when the database goes away and when it is back.
        stops: asked to stop the run when the study is gone.

    Attributes:
        gone: why the study is not in the database any more, as a sentence; "" as long as it is.
        damaged: the database's file, if that is why, so that it is in the way; "" if not.
        latency: seconds that the last call took which was answered.
    """

    def __init__(
        self, on_lost: Callable[[LeaseLost], None], on_message: Callable[[str], None], stops: Stops
    ) -> None:
        self.gone = ""
        self.damaged = ""
        self.latency = 0.0
        self._stops = stops
        self._on_lost = on_lost
        self._on_message = on_message
        self._away_since: float | None = None
        self._back_since = -math.inf
        self._try_again_at = 0.0

    @property
    def away_for(self) -> float:
        """Seconds since the database stopped answering; 0 while it answers, infinite when the study is gone."""
        if self.gone:
            return math.inf
        return 0.0 if self._away_since is None else time.monotonic() - self._away_since

    @property
    def back_for(self) -> float:
        """Seconds since the database came back; infinite if it was never away, 0 while it is."""
        return 0.0 if self._away_since is not None else time.monotonic() - self._back_since

    def was_silent(self) -> None:
        """Notes that this process could not call for a while, as if the database had been away."""
        self._back_since = time.monotonic()

    def due(self) -> bool:
        """Says whether a call would be made now."""
        return not self.gone and time.monotonic() >= self._try_again_at

    def __call__(self, call: Callable[[], Result]) -> Result | None:
        """Makes one call; returns None when the database is away or the leases are gone."""
        if not self.due():
            return None
        began = time.monotonic()
        try:
            result = call()
            self.latency = time.monotonic() - began
        except StorageAway as error:
            self._went_away(error)
            return None
        except LeaseLost as error:
            self._on_lost(error)
            return None
        except StudyNotFound as error:
            self.lose(error)
            return None
        if self._away_since is not None:
            self._on_message(f"the database is back after {self.away_for:.0f} s")
            self._away_since, self._back_since = None, time.monotonic()
        return result

    def lose(self, error: StudyNotFound) -> None:
        """Notes that the study is gone: no call is made any more, and running trials end at their checkpoints."""
        self.gone = str(error)
        self._stops.stop(self.gone, exit_status=1)
        self._on_message(f"{error}; running trials are checkpointed")

    def _went_away(self, error: StorageAway) -> None:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            self._on_message(f"{error}; running trials continue, no new one begins")
        self._try_again_at = now + min(1.0 + (now - self._away_since) / 10, MOST_PAUSE)
