"""The interface of a training engine: slots for trials, one epoch of every busy slot per step."""

from typing import Protocol

from hpsearch.contracts.trial import EndKind, EpochResult, TrialEnd, TrialRun, TrialStarted


class Engine(Protocol):
    """Trains up to `capacity` trials at once; the worker's loop is the same for every engine.

    An engine decides nothing about trials: it trains an epoch, reports it, and is told to go on or to evict.
    """

    capacity: int

    @property
    def busy(self) -> int:
        """Number of trials in slots."""
        ...

    def admit(self, run: TrialRun) -> TrialStarted:
        """Puts a trial into a free slot, resumed from its newest whole checkpoint if there is one.

        Raises:
            HpsearchError: the trial cannot be built (model, data, weights).
        """
        ...

    def step(self) -> list[EpochResult | TrialEnd]:
        """Trains one epoch of every busy slot, checkpoints it, and reports it.

        A trial that ends by itself (error, out of memory, a training function that returns) is reported as
        its TrialEnd and has left its slot. A trial whose result is `last` stays until it is evicted.
        """
        ...

    def evict(self, number: int, kind: EndKind) -> TrialEnd:
        """Takes a trial out of its slot: FINISHED, STOPPED (best weights kept) or PREEMPTED (checkpointed)."""
        ...

    def close(self) -> None:
        """Gives back memory and files."""
        ...
