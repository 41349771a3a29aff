"""The interface of a training engine: slots for trials, and epochs of those that may continue.

`hpsearch.testing.EngineContract` tests what is promised here; `hpsearch.testing.ReferenceEngine` is the
shortest engine that keeps it, with three slots.
"""

from collections.abc import Collection
from typing import Protocol

from hpsearch.contracts.trial import EndKind, EpochResult, TrialEnd, TrialRun, TrialStarted


class Engine(Protocol):
    """Trains up to `capacity` trials at once; the worker's loop is the same for every engine.

    An engine decides nothing about trials: it trains an epoch, reports it, and is told to continue or to evict.
    """

    capacity: int

    def fits(self, run: TrialRun) -> bool:
        """Says whether a trial can join those in the slots; it is not asked while all slots are free."""
        ...

    def admit(self, run: TrialRun) -> TrialStarted:
        """Puts a trial into a free slot, resumed from its newest whole checkpoint if there is one.

        Raises:
            HpsearchError: the trial cannot be built (model, data, weights).
        """
        ...

    def step(self, numbers: Collection[int] | None = None) -> list[EpochResult | TrialEnd]:
        """Trains until one or more of these trials have finished an epoch; checkpoints and reports those.

        A trial that ends by itself (error, out of memory, a training function that returns) is reported as
        its TrialEnd and has left its slot; the others train on. One whose checkpoint cannot be written ends as
        UNSAVED, with the reason in `detail`. A trial whose result is `last` stays until it is evicted.

        Args:
            numbers: the trials that may train; the others in slots wait for a decision. None: all in slots.

        Raises:
            EngineError: nothing can be trained in this process any more, because of the trial that it names.
            Exception: the same, and every trial in a slot counts as failed.
        """
        ...

    def evict(self, number: int, kind: EndKind) -> TrialEnd:
        """Takes a trial out of its slot: FINISHED, STOPPED (best weights kept) or PREEMPTED (checkpointed).

        Raises:
            KeyError: the trial is in no slot; its number is in the message.
        """
        ...

    def clear(self) -> None:
        """Empties all slots without saving anything, such as after trials that were only built to try them."""
        ...

    def close(self) -> None:
        """Gives back memory and files; the engine is not used any more."""
        ...
