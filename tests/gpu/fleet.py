"""Worker processes on a GPU, driven over their pipes as the driver does it; neither Optuna nor a database."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hpsearch.contracts.executor import WorkerPlace
from hpsearch.contracts.messages import (
    Action,
    Decision,
    EpochResult,
    FromWorker,
    Loading,
    Ready,
    SetupFailed,
    TrialEnd,
    TrialStarted,
    Usage,
    Waiting,
    WorkerSetup,
)
from hpsearch.contracts.trial import TrialRun
from hpsearch.errors import DeviceError
from hpsearch.executors.local import LocalExecutor
from hpsearch.files.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
DEADLINE = 180.0  # seconds; several processes import torch at once


class Crew:
    """Some workers, each of which trains the trials that it is given to their end.

    Args:
        cache: folder of decoded images; None: one below `folder`.

    Raises:
        DeviceError: a worker says that it cannot train.
    """

    def __init__(
        self, folder: Path, places: Sequence[WorkerPlace], run: TrialRun, cache: Path | None = None
    ) -> None:
        self.executor = LocalExecutor(RunFolder(folder, "gpu"))
        self.places = places
        self.ready: dict[int, Ready] = {}
        self._worker_of: dict[int, int] = {}  # trial number: who trains it
        self.results: dict[int, list[EpochResult]] = {}
        self.ends: dict[int, TrialEnd] = {}
        for place in places:
            setup = WorkerSetup(
                worker=place.worker,
                spec=run.spec,
                device="cuda" if place.gpus else "cpu",
                cache=str(cache or folder / "cache"),
                import_paths=(str(ROOT),),
            )
            self.executor.start(place, setup)
        try:
            self.until(lambda: len(self.ready) == len(places))
        except BaseException:
            self.executor.close(timeout=5.0)
            raise

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.close(timeout=5.0)

    def train(self, runs: dict[int, TrialRun]) -> None:
        """Lets each worker train its trial to the end; all at the same time."""
        self._worker_of |= {run.number: worker for worker, run in runs.items()}
        for worker, run in runs.items():
            self.executor.send(worker, run)
        self.until(lambda: all(run.number in self.ends for run in runs.values()))

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not done():
            assert time.monotonic() < deadline, "the workers say nothing"
            for message in self.executor.receive(1.0):
                self._take(message)

    def _take(self, message: FromWorker) -> None:
        match message:
            case Loading() | Usage():
                pass  # images that are not in the cache yet, memory
            case Waiting() if "images" in message.text:
                pass  # which another worker reads
            case Ready():
                self.ready[message.worker] = message
            case EpochResult():
                self.results.setdefault(message.number, []).append(message)
                self._answer(message.number, message.epoch)
            case TrialStarted():
                if message.curve:
                    self._answer(message.number, message.curve[-1].epoch)
            case TrialEnd():
                self.ends[message.number] = message
            case SetupFailed():
                raise DeviceError(f"worker {message.worker}: {message.message}\n{message.traceback}".strip())
            case Waiting():
                raise AssertionError(f"no test can run: {message.text}")
            case _:
                raise AssertionError(message)

    def _answer(self, number: int, epoch: int) -> None:
        self.executor.send(self._worker_of[number], Decision(number, epoch, Action.CONTINUE))


def run_worker(folder: Path, place: WorkerPlace, run: TrialRun) -> tuple[Ready, list[EpochResult]]:
    """Starts one worker and lets it train one trial to its end."""
    with Crew(folder, [place], run) as crew:
        crew.train({place.worker: run})
        return crew.ready[place.worker], crew.results[run.number]
