"""How a driver starts workers and exchanges messages with them, wherever they run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from hpsearch.contracts.messages import FromWorker, ToWorker, WorkerSetup


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """Where a worker runs: its number on this machine, what it may see and use.

    Attributes:
        worker: from 0; a worker that is started again keeps its number.
        gpus: names (indices, UUIDs, MIG names) that go into the worker's CUDA_VISIBLE_DEVICES; empty: CPU.
        threads: CPU threads.
        env: further environment variables.
    """

    worker: int
    gpus: tuple[str, ...] = ()
    threads: int = 1
    env: Mapping[str, str] = field(default_factory=dict)


class Executor(Protocol):
    """Starts workers and carries messages; holds no opinion about trials.

    Its workers run `service.worker.serve` and speak as `service.messages` draws it. One thread calls all
    methods. `tests/service/test_executors.py` says whether an executor keeps what is promised here.
    """

    def start(self, place: WorkerPlace, setup: WorkerSetup) -> None:
        """Starts a worker and sends it its setup; returns at once, `Ready` or `SetupFailed` comes as a message.

        A worker may be started again under its number once its WorkerExit has been received.

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

        A worker that is gone, for whatever reason, yields one WorkerExit after all that it sent before.
        """
        ...

    def kill(self, worker: int) -> None:
        """Ends a worker at once, with all processes that it started; its WorkerExit follows within seconds.

        It follows whatever the worker is doing, and no TrialEnd before it: what it trained goes on from its last
        checkpoint. To a worker that is gone, or was never started, it does nothing.
        """
        ...

    def close(self, timeout: float) -> None:
        """Asks all workers to leave, kills those that have not left after `timeout` seconds, and sees them gone.

        Those that leave by themselves checkpoint what they train. What they say meanwhile, their WorkerExits
        too, is dropped. Without workers, so when called again, it does nothing.
        """
        ...
