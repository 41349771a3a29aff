"""A study with several drivers, whose clock the test sets."""

import os
from dataclasses import dataclass, field

from optuna.storages import RDBStorage

from hpsearch.store.identity import DriverIdentity
from hpsearch.store.ledger import Ledger
from hpsearch.store.trials import create_trial


@dataclass
class Clock:
    """A clock that stands still until it is set."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Scene:
    """A study and the means to add drivers to it."""

    storage: RDBStorage
    study_id: int
    clock: Clock = field(default_factory=Clock)

    def driver(self, identity: DriverIdentity | None = None) -> Ledger:
        ledger = Ledger(self.storage, identity or DriverIdentity.here(), 60.0, self.clock)
        ledger.register(self.study_id, '["cpu"]')
        return ledger

    def trial(self, ledger: Ledger, ticket: int) -> int:
        fence = ledger.fence(self.study_id, [ticket])
        return create_trial(self.storage, self.study_id, ticket, fence)[0]


def elsewhere() -> DriverIdentity:
    return DriverIdentity(host="another machine", pid=os.getpid(), started="")
