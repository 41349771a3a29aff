"""`[track]`: each trial as a run in TensorBoard, MLflow or Weights & Biases, with hyperparameters, curves and weights.

A tracker may be slow, or away: it is told in a thread of its own, so that no decision waits for it. One that fails is
told of no more in this run, which is said once. A trial that is resumed, after a pause or an interruption, here or by
another driver, continues its run.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from hpsearch.contracts.callbacks import Callback, FinishedTrial, RunningTrial, RunSummary, StudyInfo
from hpsearch.contracts.trial import EpochResult
from hpsearch.errors import UserError
from hpsearch.study.specification import TrackSpec
from hpsearch.text import one_line

logger = logging.getLogger(__name__)

WAIT = 30.0
"""Seconds that the end of a run waits until a tracker has been told everything."""


class Tracker(Protocol):
    """A place where a study's trials are runs; all its methods are called in one thread."""

    def begin(self, number: int, hparams: Mapping[str, Any], curve: Iterable[EpochResult]) -> None:
        """A trial's run begins, or continues after these epochs."""

    def epoch(self, number: int, result: EpochResult) -> None:
        """The trial has trained an epoch."""

    def leave(self, number: int) -> None:
        """The trial is trained no further in this run; it may be resumed."""

    def end(self, trial: FinishedTrial) -> None:
        """The trial has ended; perhaps it had not begun in this run."""


class Told(Callback):
    """Tells one tracker of a run.

    Args:
        name: its field in the study file.
        make: makes the tracker, in its thread.
    """

    def __init__(self, name: str, make: Callable[[StudyInfo], Tracker], wait: float = WAIT) -> None:
        self._name, self._make, self._wait = name, make, wait
        self._calls: SimpleQueue[Callable[[Tracker], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._begun: set[int] = set()

    def on_study_start(self, info: StudyInfo) -> None:
        self._thread = threading.Thread(target=self._tell, args=(info,), name=self._name, daemon=True)
        self._thread.start()

    def on_trial_start(self, trial: RunningTrial) -> None:
        self._begun.add(trial.number)
        self._calls.put(lambda tracker: tracker.begin(trial.number, trial.hparams, trial.curve))

    def on_epoch(self, trial: RunningTrial, result: EpochResult) -> None:
        self._calls.put(lambda tracker: tracker.epoch(trial.number, result))

    def on_trial_paused(self, trial: RunningTrial) -> None:
        self.on_trial_interrupted(trial.number)

    def on_trial_interrupted(self, number: int) -> None:
        self._begun.discard(number)
        self._calls.put(lambda tracker: tracker.leave(number))

    def on_trial_end(self, trial: FinishedTrial) -> None:
        if trial.number not in self._begun:  # it was paused, or a worker has never begun it
            self._calls.put(lambda tracker: tracker.begin(trial.number, trial.hparams, ()))
        self._begun.discard(trial.number)
        self._calls.put(lambda tracker: tracker.end(trial))

    def on_study_end(self, summary: RunSummary) -> None:
        for number in sorted(self._begun):
            self.on_trial_interrupted(number)
        self._calls.put(None)
        if self._thread is None:
            return
        self._thread.join(0.0 if summary.cold else self._wait)
        if self._thread.is_alive():
            logger.warning(
                "track.%s: not everything was told within %g s; this run, or its last epochs, may be missing there",
                self._name,
                self._wait,
            )

    def _tell(self, info: StudyInfo) -> None:
        try:
            tracker = self._make(info)
            while (call := self._calls.get()) is not None:
                call(tracker)
        except Exception as error:  # whatever a tracker's package raises costs the study nothing
            reason = one_line(str(error) or type(error).__name__, 300)
            logger.warning(
                "track.%s: %s; the study continues without it, and the next run tries again",
                self._name,
                reason,
            )
            logger.debug("track.%s", self._name, exc_info=error)


def trackers(spec: TrackSpec) -> list[Callback]:
    """Returns what tells a study's trackers of a run.

    Raises:
        UserError: the package of one is not installed.
    """
    require(spec)
    made: list[Callback] = []
    for name, target in _targets(spec):
        made.append(Told(name, lambda info, name=name, target=target: TRACKERS[name](target, info)))  # type: ignore[misc]
    return made


def require(spec: TrackSpec) -> None:
    """Makes sure that the packages are there which a study's trackers need.

    Raises:
        UserError: one is not.
    """
    for name, _ in _targets(spec):
        if find_spec(name) is None:
            raise UserError(f'track.{name}: {name} is not installed; run pip install "hpsearch[{name}]"')


def _targets(spec: TrackSpec) -> Iterator[tuple[str, str]]:
    for name in TRACKERS:
        if (target := getattr(spec, name)) is not None:
            yield name, target


class TensorBoard:
    """Event files, a folder for each trial; a resumed trial replaces what it repeats."""

    def __init__(self, folder: str, info: StudyInfo) -> None:
        self._folder = Path(folder) / info.spec.study.name
        self._writers: dict[int, Any] = {}

    def begin(self, number: int, hparams: Mapping[str, Any], curve: Iterable[EpochResult]) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        name = f"trial-{number:05d}"
        self._writers[number] = EventFileWriter(str(self._folder / name))
        if last := max((result.epoch for result in curve), default=0):
            self._add(number, last + 1, session_log=SessionLog(status=SessionLog.START))
        values = {
            key: value if isinstance(value, bool | int | float) else str(value)
            for key, value in hparams.items()
        }
        self._add(number, 0, summary=hparams_pb(values, trial_id=name))

    def epoch(self, number: int, result: EpochResult) -> None:
        self._scalars(number, result.epoch, result.metrics)

    def leave(self, number: int) -> None:
        self._writers.pop(number).close()

    def end(self, trial: FinishedTrial) -> None:
        if trial.score is not None:
            self._scalars(trial.number, trial.best_epoch or 0, {"score": trial.score})
        self.leave(trial.number)

    def _scalars(self, number: int, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        entries = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(number, step, summary=Summary(value=entries))

    def _add(self, number: int, step: int, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writers[number].add_event(Event(wall_time=time.time(), step=step, **content))
        self._writers[number].flush()


class MLflow:
    """An experiment of the study's name; a trial's run is found again by its tags."""

    def __init__(self, uri: str, info: StudyInfo) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("urllib3").setLevel(
            logging.ERROR
        )  # each try at a server that is away is a line otherwise
        self._client, self._study, self._metric = MlflowClient(uri), info.token, info.spec.study.metric
        name = info.spec.study.name
        try:
            self._experiment = self._client.create_experiment(name)
        except MlflowException:
            known = self._client.get_experiment_by_name(name)
            if known is None:  # it could not be made for another reason
                raise
            self._experiment = known.experiment_id
        self._runs: dict[int, tuple[str, int]] = {}  # run, last epoch that it has

    def begin(self, number: int, hparams: Mapping[str, Any], curve: Iterable[EpochResult]) -> None:
        tags = {"hpsearch.study": self._study, "hpsearch.trial": str(number)}
        which = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found, last = self._client.search_runs([self._experiment], which, max_results=1), 0
        if found:
            run = found[0].info.run_id
            self._client.update_run(run, status="RUNNING")
            last = max((one.step for one in self._client.get_metric_history(run, self._metric)), default=0)
        else:
            made = self._client.create_run(self._experiment, run_name=f"trial {number}", tags=tags)
            run = made.info.run_id
            for name, value in hparams.items():
                self._client.log_param(run, name, value)
        self._runs[number] = run, last
        for result in curve:
            self.epoch(number, result)

    def epoch(self, number: int, result: EpochResult) -> None:
        from mlflow.entities import Metric

        run, last = self._runs[number]
        if result.epoch <= last:  # repeated from a checkpoint
            return
        now = round(1000 * time.time())
        self._client.log_batch(run, [Metric(*item, now, result.epoch) for item in result.metrics.items()])
        self._runs[number] = run, result.epoch

    def leave(self, number: int) -> None:
        self._client.update_run(self._runs.pop(number)[0], status="SCHEDULED")

    def end(self, trial: FinishedTrial) -> None:
        run, _ = self._runs.pop(trial.number)
        for key in ("state", "stop_reason", "detail"):
            self._client.set_tag(run, f"hpsearch.{key}", getattr(trial, key))
        if trial.score is not None:
            self._client.log_metric(run, "score", trial.score, step=trial.best_epoch or 0)
        for path in _weights(trial):
            self._client.log_artifact(run, path)
        self._client.set_terminated(run, "FAILED" if trial.state == "FAIL" else "FINISHED")


class WandB:
    """A group of the study's name in a project; `WANDB_MODE=offline` keeps the runs in `wandb/`, to be synced later."""

    def __init__(self, project: str, info: StudyInfo) -> None:
        self._project, self._info = project, info
        self._runs: dict[int, Any] = {}

    def begin(self, number: int, hparams: Mapping[str, Any], curve: Iterable[EpochResult]) -> None:
        import wandb

        text = f"{self._info.token} {number}"
        run = wandb.init(
            project=self._project,
            group=self._info.spec.study.name,
            name=f"trial {number}",
            id=hashlib.sha256(text.encode()).hexdigest()[:16],
            resume="allow",
            reinit="create_new",
            config=dict(hparams),
            settings=wandb.Settings(silent=True, console="off", disable_git=True),
        )
        self._runs[number] = run
        for result in curve:
            if not run.offline and result.epoch >= run.step:  # offline, nobody knows what it has already
                self.epoch(number, result)

    def epoch(self, number: int, result: EpochResult) -> None:
        self._runs[number].log(dict(result.metrics), step=result.epoch)

    def leave(self, number: int) -> None:
        self._runs.pop(number).finish()

    def end(self, trial: FinishedTrial) -> None:
        run = self._runs[trial.number]
        known = {"state": trial.state, "stop_reason": trial.stop_reason, "score": trial.score}
        run.summary.update(known | {"best_epoch": trial.best_epoch})
        for path in _weights(trial):
            run.log_artifact(path, name=f"weights-{run.id}", type="model")
        self.leave(trial.number)


def _weights(trial: FinishedTrial) -> list[str]:
    """Returns a trial's weights, if they are still here: a better trial may have taken their place meanwhile."""
    return [trial.weights] if trial.weights and Path(trial.weights).is_file() else []


TRACKERS: Mapping[str, Callable[[str, StudyInfo], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}
