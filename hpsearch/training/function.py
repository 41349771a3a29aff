"""The engine for a user's own training loop: a generator that yields a dict of metrics per epoch.

    def train(trial):
        model, optimizer = ...
        for epoch in trial.remaining():
            ...
            trial.save(model, optimizer)                           # optional: resume, and the best weights
            yield {"train_loss": a, "val_loss": b}

Stopping is not iterating any further: the generator is closed, so that its `finally` blocks run; there is
nothing to catch. A function `test(trial, model)` beside it is used by `hpsearch confirm`.
"""

import contextlib
import inspect
import json
import logging
import sys
import time
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from hpsearch.contracts.trial import EndKind, EpochResult, TrialEnd, TrialRun, TrialStarted
from hpsearch.errors import OF_OWN_CODE, ModelError
from hpsearch.study import StudySpec
from hpsearch.text import one_line
from hpsearch.training import device as devices
from hpsearch.training import failures
from hpsearch.training.context import Trial, seed_epoch
from hpsearch.training.data import TrainingData
from hpsearch.training.imports import import_object
from hpsearch.training.slot import Slot

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Running:
    slot: Slot
    trial: Trial
    epochs: Generator[Any, None, None]


class FunctionEngine:
    """Runs a user's training function, one trial at a time.

    Args:
        function: "pkg.mod:train".
        data: what `trial.data()` gives; None when the study has no [data].

    Raises:
        ModelError: there is no such function, it may not be imported, or it is no generator function.
    """

    capacity = 1

    def __init__(
        self,
        function: str,
        device: torch.device,
        data: TrainingData | None,
        allow: tuple[str, ...] | None = None,
    ) -> None:
        self._name = function
        self._function = training_function(function, allow)
        self._device = device
        self._data = data
        self._running: _Running | None = None

    def fits(self, run: TrialRun) -> bool:
        return self._running is None

    def admit(self, run: TrialRun) -> TrialStarted:
        slot = Slot(run)
        trial = Trial(run, self._device, self._data, slot.resumed)
        self._running = _Running(slot, trial, self._function(trial))
        devices.reset_peak(self._device)
        return slot.started

    def step(self, numbers: Collection[int] | None = None) -> list[EpochResult | TrialEnd]:
        running = self._running
        if running is None or running.slot.waits(numbers):
            return []
        try:
            return [self._epoch(running)]
        except OF_OWN_CODE as error:
            if failures.spoils_process(error):
                raise
            end = replace(
                failures.trial_end(running.slot.run, error, running.slot.rescue_best()),
                hopeless=failures.comes_again(error, first=not running.slot.curve),
            )
        # Only here, outside the handler, does nothing hold the failed step's tensors any more.
        self._close(self._take(end.number))
        return [end]

    def evict(self, number: int, kind: EndKind) -> TrialEnd:
        running = self._take(number)
        try:
            if running.trial.has_saved:
                running.slot.save(running.trial.state())
            running.slot.save_best()
        finally:
            self._close(running)
        return self._end(running, kind)

    def clear(self) -> None:
        if self._running is not None:
            self._close(self._take(self._running.slot.run.number))

    def close(self) -> None:
        self.clear()

    def _epoch(self, running: _Running) -> EpochResult | TrialEnd:
        slot, run = running.slot, running.slot.run
        epoch = slot.epoch + 1
        seed_epoch(run, epoch, self._device)
        running.trial.forget_saved()
        began = time.perf_counter()
        try:
            yielded = next(running.epochs)
        except StopIteration:
            self._refuse_no_epochs(slot)
            slot.save_best()
            self._close(self._take(run.number))
            return self._end(running, EndKind.FINISHED)
        seconds = time.perf_counter() - began
        metrics = check_metrics(yielded, run.spec.study.metric, self._name)
        running.trial.refuse_unread_checkpoint()
        if running.trial.has_saved and slot.improves(metrics):
            slot.keep(
                epoch,
                metrics[run.spec.study.metric],
                running.trial.weights(),
                self._metadata(run, epoch, metrics),
            )
        result = EpochResult(
            run.number,
            run.attempt,
            epoch,
            metrics,
            seconds=seconds,
            last=epoch == run.spec.train.ends_after,
        )
        return slot.record(result, running.trial.state if running.trial.has_saved else None)

    def _refuse_no_epochs(self, slot: Slot) -> None:
        if not slot.curve:
            raise ModelError(
                f'train.function "{self._name}" returned without a single yield; yield a dict of metrics '
                f'after each epoch, such as {{"train_loss": a, "{slot.run.spec.study.metric}": b}}'
            )

    def _metadata(self, run: TrialRun, epoch: int, metrics: Mapping[str, float]) -> dict[str, str]:
        return {
            **{name: repr(value) for name, value in metrics.items() if name.startswith("val_")},
            "study": run.study,
            "trial": str(run.number),
            "epoch": str(epoch),
            "function": self._name,
            "hparams": json.dumps(dict(run.hparams)),
        }

    def _take(self, number: int) -> _Running:
        running = self._running
        if running is None or running.slot.run.number != number:
            raise KeyError(f"trial {number} is in no slot")
        self._running = None
        return running

    def _close(self, running: _Running) -> None:
        """Lets the generator's `finally` blocks run; what they raise is told, but changes no outcome."""
        try:
            running.epochs.close()
        except OF_OWN_CODE:
            number = running.slot.run.number
            logger.exception("trial %d: %s raised while it was closed", number, self._name)
        running.trial.forget_saved()
        devices.release(self._device)

    def _end(self, running: _Running, kind: EndKind) -> TrialEnd:
        run = running.slot.run
        facts: dict[str, str | int | float | list[float]] = {
            "device": str(self._device),
            "peak_memory_mb": devices.peak_memory_mb(self._device),
        }
        return TrialEnd(run.number, run.attempt, kind, weights=running.slot.checkpoints.weights, facts=facts)


def training_function(
    name: str, allow: tuple[str, ...] | None
) -> Callable[[Trial], Generator[Any, None, None]]:
    """Returns the function that `train.function` names.

    Raises:
        ModelError: there is none, it may not be imported, or it is no generator function.
    """
    function = import_object(name, allow, field="train.function")
    if not inspect.isgeneratorfunction(function):
        raise ModelError(
            f'train.function "{name}" is not a generator function; write `def train(trial):` with a '
            '`yield {"train_loss": a, "val_loss": b}` after each epoch'
        )
    return function


def test_function(spec: StudySpec, allow: tuple[str, ...] | None) -> Callable[[Trial, Any], Any] | None:
    """Returns the function `test(trial, model)` beside a study's training function, or None.

    Raises:
        ModelError: the module cannot be imported.
    """
    if spec.train.function is None:
        return None
    import_object(spec.train.function, allow, field="train.function")
    found = getattr(sys.modules[spec.train.function.partition(":")[0]], "test", None)
    return found if callable(found) else None


def check_metrics(yielded: Any, metric: str, function: str) -> dict[str, float]:
    """Returns what a training function has yielded, as floats.

    Raises:
        ModelError: it is no dict, lacks the study's metric, or holds something that is no number.
    """
    where = f'train.function "{function}" yielded'
    if not isinstance(yielded, Mapping):
        raise ModelError(f'{where} {yielded!r}; yield a dict, such as {{"train_loss": a, "{metric}": b}}')
    if metric not in yielded:
        names = ", ".join(f'"{name}"' for name in yielded) or "nothing"
        raise ModelError(
            f'{where} {names}, but study.metric is "{metric}"; yield it too, or name another metric'
        )
    metrics = {}
    for name, value in yielded.items():
        number = _number(value)
        if number is None:
            raise ModelError(
                f'{where} "{name}": {one_line(repr(value), 200)}, which is not a number; use float(...) or .item()'
            )
        metrics[str(name)] = number
    return metrics


def _number(value: Any) -> float | None:
    """Returns a Python, NumPy or one-element tensor number as a float; None for anything else."""
    if isinstance(value, bool | str | bytes):
        return None
    with contextlib.suppress(TypeError, ValueError, OverflowError, RuntimeError):
        return float(value)
    return None
