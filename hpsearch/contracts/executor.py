"""How a driver finds places for workers, starts them and exchanges messages with them, wherever they run."""

from typing import Protocol

from hpsearch.contracts.messages import FromWorker, ToWorker, WorkerSetup
from hpsearch.contracts.places import WorkerPlace, Workers

__all__ = ["Executor", "WorkerPlace", "Workers"]


class Executor(Protocol):
    """Owns places, starts workers there and carries messages; holds no opinion about trials.

    Its workers run `hpsearch.service.worker.serve` and speak as `hpsearch.contracts.messages` draws it. One
    thread calls all methods. `hpsearch.testing.ExecutorContract` tests what is promised here.

    `--executor NAME` finds it by the entry point NAME of the group `hpsearch.executors`, which is called with
    the study's RunFolder.
    """

    def places(self, wanted: Workers, threads: int, share: str) -> list[WorkerPlace]:
        """Returns the places of the workers, and provides what they need to share until `close`.

        It is called once, before any worker is started, and starts none. Later, places come and go by
        messages: PlaceAdded, PlaceRemoved.

        Args:
            threads: CPU threads of each worker.
            share: how workers share a GPU, see `--share`.

        Raises:
            DeviceError: a GPU that is not there, or numbers that do not fit together.
        """
        ...

    def start(self, place: WorkerPlace, setup: WorkerSetup) -> None:
        """Starts a worker and sends it its setup; returns at once, `Ready` or `SetupFailed` comes as a message.

        While the worker is queued somewhere, the executor sends Waiting, with the reason, every few minutes: a
        worker that says nothing for `study.stall_timeout` counts as hung and is killed. A worker may be started
        again under its number once its WorkerExit has been received.

        Raises:
            UserError: this machine does not let it start, for a reason that the user can mend.
        """
        ...

    def send(self, worker: int, message: ToWorker) -> None:
        """Sends a message; to a worker that is gone it does nothing, since its WorkerExit is on the way.

        Nor does it to one that was never started.
        """
        ...

    def receive(self, timeout: float) -> list[FromWorker]:
        """Waits up to `timeout` seconds for a message and returns all that have come, each worker's in order.

        A worker that is gone, for whatever reason, yields one WorkerExit after all that it sent before;
        `blameless` if it was preempted or its machine has gone.
        """
        ...

    def kill(self, worker: int) -> None:
        """Ends a worker at once, with all processes that it started; its WorkerExit follows within seconds.

        It follows whatever the worker is doing, and no TrialEnd before it: what it trained continues from its last
        checkpoint. To a worker that is gone, or was never started, it does nothing.
        """
        ...

    def close(self, timeout: float) -> None:
        """Asks all workers to leave, kills those that have not left after `timeout` seconds, and sees them gone.

        Those that leave by themselves checkpoint what they train. What they say meanwhile, their WorkerExits
        too, is dropped. Without workers, so when called again, it does nothing.
        """
        ...
