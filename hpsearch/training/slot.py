"""What every engine keeps of a trial in a slot: its curve, its best epoch, its checkpoints."""

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from hpsearch.contracts.trial import EpochResult, TrialRun, TrialStarted
from hpsearch.errors import HpsearchError
from hpsearch.study.direction import is_better
from hpsearch.training import device
from hpsearch.training.checkpoint import Best, Checkpoint, Checkpoints

logger = logging.getLogger(__name__)


class Slot:
    """The record of one attempt at a trial, from the newest whole checkpoint of any attempt on."""

    def __init__(self, run: TrialRun) -> None:
        self.run = run
        self.checkpoints = Checkpoints(run, device.versions())
        self.resumed = self.checkpoints.newest()
        self.curve = self.resumed.curve if self.resumed else ()
        self.best = self.resumed.best if self.resumed else None

    @property
    def epoch(self) -> int:
        """The last epoch that is done; 0 before the first."""
        return self.curve[-1].epoch if self.curve else 0

    @property
    def started(self) -> TrialStarted:
        """The message that this attempt begins with."""
        return TrialStarted(self.run.number, self.run.attempt, self.curve)

    def waits(self, numbers: Collection[int] | None) -> bool:
        """Says whether the trial is not among those that may train; None stands for all."""
        return numbers is not None and self.run.number not in numbers

    def improves(self, metrics: Mapping[str, float]) -> bool:
        """Returns whether these metrics are the best so far by the study's metric; NaN and infinity never are."""
        study = self.run.spec.study
        value = metrics[study.metric]
        return math.isfinite(value) and (self.best is None or is_better(study.better, value, self.best.value))

    def keep(
        self, epoch: int, value: float, weights: Mapping[str, Tensor], metadata: Mapping[str, str]
    ) -> None:
        """Takes these weights for the best so far; they are copied."""
        copies = {name: tensor.detach().clone() for name, tensor in weights.items()}
        self.best = Best(epoch, value, copies, metadata)

    def record(self, result: EpochResult, state: Callable[[], Mapping[str, Any]] | None) -> EpochResult:
        """Adds an epoch to the curve, in a checkpoint if one is due, and returns it as it is to be reported.

        Args:
            state: makes what the checkpoint must hold; None when there is nothing to save.

        Raises:
            CheckpointError: the checkpoint cannot be written.
        """
        self.curve = (*self.curve, result)
        if state is None or not self.checkpoints.due(self.run.spec.checkpoint.every_seconds):
            return result
        began = time.perf_counter()
        self.save(state())
        taken = time.perf_counter() - began
        return replace(self.curve[-1], seconds=result.seconds + taken, checkpoint_seconds=taken)

    def save(self, state: Mapping[str, Any]) -> None:
        """Saves the trial as it is after its last epoch, unless that is done already.

        Raises:
            CheckpointError: the checkpoint cannot be written.
        """
        done = max(self.checkpoints.epoch, self.resumed.epoch if self.resumed else 0)
        if self.epoch > done:
            self.curve = (*self.curve[:-1], replace(self.curve[-1], checkpointed=True))
            self.checkpoints.save(Checkpoint(self.curve, state, self.best))

    def set_aside(self, state: Mapping[str, Any]) -> None:
        """Keeps a checkpoint of the last epoch for a longer trial to continue from.

        Raises:
            CheckpointError: it cannot be written.
        """
        self.save(state)
        self.checkpoints.set_aside()

    def save_best(self) -> None:
        """Writes the best epoch's weights, unless that is done already.

        Raises:
            CheckpointError: they cannot be written.
        """
        if self.best is not None:
            self.checkpoints.save_best(self.best)

    def rescue_best(self) -> str | None:
        """Returns the path of the best weights of a trial that an error ended, if they can still be had."""
        try:
            self.save_best()
        except (HpsearchError, RuntimeError) as error:
            logger.warning("trial %d: its best weights are lost: %s", self.run.number, error)
        return self.checkpoints.weights
