"""How a driver starts workers and exchanges messages with them, wherever they run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from hpsearch.service.messages import FromWorker, ToWorker, WorkerSetup


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
    """Starts workers and carries messages; holds no opinion about trials."""

    def start(self, place: WorkerPlace, setup: WorkerSetup) -> None:
        """Starts a worker and sends it its setup; returns at once, `Ready` comes as a message."""
        ...

    def send(self, worker: int, message: ToWorker) -> None:
        """Sends a message; to a worker that is gone it does nothing, since its WorkerExit is on the way."""
        ...

    def receive(self, timeout: float) -> list[FromWorker]:
        """Waits up to `timeout` seconds and returns all messages that have come, each worker's in order.

        A worker that is gone yields one WorkerExit after its last message.
        """
        ...

    def kill(self, worker: int) -> None:
        """Ends a worker at once, with all processes that it started; its WorkerExit follows."""
        ...

    def close(self, timeout: float) -> None:
        """Asks all workers to leave, and kills those that have not left after `timeout` seconds."""
        ...
