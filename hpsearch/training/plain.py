"""The plain engine: one trial at a time, in a loop that is read from top to bottom; the reference for others.

A trial trains one model, or with `data.split.folds` one for each fold: side by side, an epoch of each in an epoch of
the trial, so that from its first epoch on there is one curve of means to stop, pause and compare it by.

Data sits on the device, a batch is an index, and within an epoch the host never waits for the device: the
training loss is summed there and fetched once, with the validation's counters, at the epoch's end.

Legend: N samples of the training part, B batch.
"""

import contextlib
import json
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hpsearch.contracts.trial import EndKind, EpochResult, TrialEnd, TrialRun, TrialStarted
from hpsearch.errors import OF_OWN_CODE
from hpsearch.study import StudySpec
from hpsearch.training import device as devices
from hpsearch.training import failures
from hpsearch.training.augment import Augmentation, Mixed
from hpsearch.training.batches import ByClass, cut, image_size_at
from hpsearch.training.data import TrainingData
from hpsearch.training.data.pictures import as_png
from hpsearch.training.features import Features
from hpsearch.training.footprint import measure
from hpsearch.training.learner import Learner, compile_fact
from hpsearch.training.losses import EpochMetrics
from hpsearch.training.optim import last_shared_epoch
from hpsearch.training.pretrained import data_table
from hpsearch.training.saved import weights_metadata
from hpsearch.training.slot import Slot

AT_ONCE = {"cpu": 32 << 20, "cuda": 512 << 20}
"""Bytes of training images, as floats, up to which an epoch's are gathered and normalised in one go."""

SHOWN = 8  # training images, whose longer side has at most so many pixels; each must stay below 64 kB
SHOWN_SIDE = 64

MOST_CLASSES = 20  # up to which the confusion matrix goes into the trial's facts


class PlainEngine:
    """Trains one trial at a time.

    Args:
        allow: what a study may name as its model, see `import_object`; None trusts all.
    """

    capacity = 1

    def __init__(
        self, device: torch.device, data: TrainingData, allow: tuple[str, ...] | None = None
    ) -> None:
        self._device = device
        self._data = data
        self._allow = allow
        self._attempt: Attempt | None = None

    def fits(self, run: TrialRun) -> bool:
        return self._attempt is None

    def admit(self, run: TrialRun) -> TrialStarted:
        devices.reset_peak(self._device)
        try:
            self._attempt = Attempt(run, self._device, self._data, self._allow)
        finally:
            if self._attempt is None:
                devices.release(self._device)
        return replace(self._attempt.slot.started, footprint=self._attempt.trainings[0].footprint())

    def step(self, numbers: Collection[int] | None = None) -> list[EpochResult | TrialEnd]:
        if self._attempt is None or self._attempt.slot.waits(numbers):
            return []
        try:
            return [self._attempt.epoch()]
        except OF_OWN_CODE as error:
            if failures.spoils_process(error):
                raise
            end = self._attempt.failed(error)
        # Only here, outside the handler, does nothing hold the failed step's tensors any more.
        self.clear()
        return [end]

    def evict(self, number: int, kind: EndKind) -> TrialEnd:
        attempt = self._attempt
        if attempt is None or attempt.slot.run.number != number:
            raise KeyError(f"trial {number} is in no slot")
        try:
            return attempt.end(kind)
        finally:
            del attempt
            self.clear()

    def clear(self) -> None:
        self._attempt = None
        devices.release(self._device)

    def close(self) -> None:
        self.clear()

    @torch.no_grad()
    def sample_pictures(self, spec: StudySpec) -> tuple[str, ...]:
        """Returns some training images as a trial of this study sees them, as PNG files in base64.

        Raises:
            DataError: the augmentation does not suit the images.
        """
        data = self._data.at(data_table(spec.each_fold()[0]))
        generator = torch.Generator(self._device).manual_seed(spec.study.seed)
        chosen = torch.randperm(len(data.train), generator=generator, device=self._device)[:SHOWN]
        (stored,) = data.expect(data.train, [chosen])
        augmentation = Augmentation(spec.data.augment, (data.height, data.width))
        images, _ = augmentation(data.pixels(data.train, stored), data.targets(data.train, chosen), generator)
        return tuple(as_png(image, SHOWN_SIDE) for image in images.cpu())


class Attempt:
    """One trial in training, from the start or from its newest checkpoint: its models, and the record of them."""

    def __init__(
        self, run: TrialRun, device: torch.device, data: TrainingData, allow: tuple[str, ...] | None
    ) -> None:
        self.slot = Slot(run)
        self._device = device
        self.trainings = tuple(
            Training(replace(run, spec=spec), device, data, self.slot.epoch, allow)
            for spec in run.spec.each_fold()
        )
        if self.slot.resumed is not None:
            self._load_state_dict(self.slot.resumed.state)
        self._seconds: list[float] = []
        self._onward = last_shared_epoch(run.spec, self.trainings[0].steps)

    def epoch(self) -> EpochResult:
        """Trains and validates one epoch of each model, checkpoints them, and returns the means of what they gave."""
        slot, run = self.slot, self.slot.run
        epoch, began, trained = slot.epoch + 1, time.perf_counter(), 0.0
        last = epoch == run.spec.train.ends_after
        found: list[dict[str, float]] = []
        counters: EpochMetrics | None = None
        for training in self.trainings:
            started = time.perf_counter()
            train_loss = float(training.train_epoch(epoch)) / training.samples  # the only wait for the device
            trained += time.perf_counter() - started
            metrics = {"train_loss": train_loss}
            if training.is_judged:
                judged, counted = training.validate()
                metrics |= judged
                if counters is None:
                    counters = counted
                else:
                    counters.add(counted)
            training.learner.schedule.epoch_end(metrics.get("val_loss", train_loss))
            found.append(metrics)
        metrics = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
        # In a refit nothing is left to choose an epoch by.
        if slot.improves(metrics) if counters is not None else last:
            self._keep_best(epoch, metrics, counters)
        taken = time.perf_counter() - began
        self._seconds.append(trained)
        result = EpochResult(
            run.number,
            run.attempt,
            epoch,
            metrics,
            seconds=taken,
            eval_seconds=taken - trained,
            samples=self._samples,
            last=last,
        )
        recorded = slot.record(result, self._state_dict)
        if epoch == self._onward:
            slot.set_aside(self._state_dict())
        return recorded

    def end(self, kind: EndKind) -> TrialEnd:
        """Saves what the end needs, and returns how the trial ended.

        Raises:
            CheckpointError: it cannot be written.
        """
        run = self.slot.run
        self.slot.save(self._state_dict())
        self.slot.save_best()
        return TrialEnd(
            run.number, run.attempt, kind, weights=self.slot.checkpoints.weights, facts=self._facts()
        )

    def failed(self, error: BaseException) -> TrialEnd:
        """Returns how a trial ends that an exception has ended."""
        run = self.slot.run
        end = failures.trial_end(run, error, self.slot.rescue_best())
        if end.kind is not EndKind.OUT_OF_MEMORY:
            return end
        what = "the trial does not fit into memory"  # the optimizer's state, say: smaller batches do not help
        batch = run.spec.train.batch_size
        if 1 in (batch, self._micro_batch):
            what = f"batch_size {batch} does not fit into memory, not even one sample at a time"
        return replace(end, detail=f"{what}: {end.detail}", facts=self._facts())

    @property
    def _samples(self) -> int:
        """Of an epoch, all models together."""
        return sum(training.samples for training in self.trainings)

    @property
    def _micro_batch(self) -> int | None:
        """The smallest of all models; None where none was split."""
        sizes = (training.learner.micro_batch for training in self.trainings)
        return min((size for size in sizes if size is not None), default=None)

    def _state_dict(self) -> dict[str, Any]:
        states = [training.learner.state_dict() for training in self.trainings]
        return {"folds": states} if self.slot.run.spec.data.split.trains_all_folds else states[0]

    def _load_state_dict(self, state: Mapping[str, Any]) -> None:
        for training, one in zip(self.trainings, state.get("folds", [state]), strict=True):
            training.learner.load_state_dict(one)

    def _keep_best(self, epoch: int, metrics: dict[str, float], counters: EpochMetrics | None) -> None:
        run, (first, *others) = self.slot.run, self.trainings
        metadata = weights_metadata(run, first.data, epoch, metrics)
        if counters is not None and (heat := counters.temperature()) is not None:
            metadata["temperature"] = repr(heat)
        if counters is not None and first.data.classes:
            metadata["class_errors"] = counters.class_errors(first.data.classes)
        if counters is not None and counters.has_confusion and len(first.data.classes) <= MOST_CLASSES:
            metadata["confusion"] = json.dumps(counters.confusion())
        value = metrics[run.spec.study.metric]
        with contextlib.ExitStack() as stack:
            for training in self.trainings:
                stack.enter_context(training.learner.averaged())
            weights = first.learner.model.state_dict()
            if others:
                metadata["folds"] = str(len(self.trainings))
                weights = {
                    f"{fold}.{name}": tensor
                    for fold, training in enumerate(self.trainings)
                    for name, tensor in training.learner.model.state_dict().items()
                }
            self.slot.keep(epoch, value, weights, metadata)

    def _facts(self) -> dict[str, str | int | float | list[float]]:
        learner = self.trainings[0].learner
        parameters, trained = learner.parameters()
        facts: dict[str, str | int | float | list[float]] = {
            "parameters": parameters,
            "trainable_parameters": trained,
            "device": devices.describe(self._device),
            "precision": learner.precision.name,
            "compile": compile_fact(self.slot.run.spec.train.compile),
            "peak_memory_mb": devices.peak_memory_mb(self._device),
            "versions": ", ".join(f"{name} {version}" for name, version in devices.versions().items()),
        }
        if learner.started_from:
            facts["weights_file"] = learner.started_from
        if self.trainings[0].has_features:
            facts["features"] = "of the frozen backbone, computed once"
        if self._micro_batch is not None:
            facts["micro_batch"] = self._micro_batch
        if self._seconds:
            facts["samples_per_second"] = round(self._samples * len(self._seconds) / sum(self._seconds), 1)
        known = self.slot.best.metadata if self.slot.best is not None else {}
        return facts | {name: known[name] for name in ("class_errors", "confusion") if name in known}


class Training:
    """One model in training, on one training part, judged on one validation part.

    Args:
        done: epochs that a checkpoint has behind it; the caller loads the learner's state afterwards.

    Attributes:
        samples, steps: of an epoch.
    """

    def __init__(
        self,
        run: TrialRun,
        device: torch.device,
        source: TrainingData,
        done: int,
        allow: tuple[str, ...] | None,
    ) -> None:
        self._run = run
        self._device = device
        self.data = data = source.at(data_table(run.spec))
        self._batches = cut(
            len(data.train),
            run.spec.train.batch_size,
            run.spec.train.drop_last,
            run.spec.train.steps_per_epoch,
        )
        self.learner = Learner(run, device, data, len(self._batches), done, allow)
        self._augmentations: dict[int | None, Augmentation] = {}
        for size in (None, *data.smaller):  # a transform that does not suit the images is refused now
            self._augmentation(None if size == data.height else size)
        self.samples, self.steps = self._batches[-1].stop, len(self._batches)
        pixels = self.samples * data.channels * data.height * data.width
        resident = isinstance(data.train.images, Tensor)
        self._at_once = resident and pixels * self.learner.dtype.itemsize <= AT_ONCE[device.type]
        self._source = source
        self._features: Features | None = None
        self._phase: Any = None  # of the learner, that the features are of
        # Whether each epoch shows the same images, so that a frozen backbone makes the same of them.
        is_augmented = any(entry.p > 0 for entry in run.spec.data.augment)
        self._repeats = resident and not is_augmented and not run.spec.data.progressive
        if run.spec.train.sampling == "balanced":
            self._classes = ByClass(data.targets(data.train, slice(None)).to(device))

    def footprint(self) -> dict[str, float]:
        """Returns what the model takes, as far as the study asks for it."""
        learner, data = self.learner, self.data
        names = self._run.spec.measured
        if not names:
            return {}
        image = torch.zeros(
            1, data.channels, data.height, data.width, dtype=learner.dtype, device=self._device
        )
        with learner.validating() as predict:
            return measure(names, learner.model, predict, learner.place(image))

    @property
    def is_judged(self) -> bool:
        """Whether there is a validation part; a refit has none."""
        return len(self.data.val) > 0

    @property
    def has_features(self) -> bool:
        """Whether the head is trained on features, computed once."""
        return self._features is not None

    def train_epoch(self, epoch: int) -> Tensor:
        """Trains one epoch; returns the sum of all samples' losses, still on the device."""
        run, learner = self._run, self.learner
        # Seeded anew for each epoch: the data's order, augmentation and dropout depend on nothing before it.
        generator = devices.seed_everything(run.spec.study.seed, run.stream, epoch, self._device)
        loss_sum = torch.zeros((), dtype=torch.float64, device=self._device)
        learner.begin_epoch(epoch)
        self._find_features()
        for images, targets in self.batches(epoch, generator):
            # PyTorch adds a backward pass's gradients to those that are there, so they are emptied first.
            learner.optimizer.zero_grad()
            # The forward pass records a new graph each time; the backward pass goes through it and frees it.
            for loss, samples in learner.backward(images, targets):
                loss_sum.add_(loss, alpha=samples)
            # The step goes against the gradients; the schedule then sets the next step's learning rate.
            learner.step()
        return loss_sum

    def _find_features(self) -> None:
        """Finds what a backbone that stays as it is makes of the images, each time that other weights are trained."""
        learner = self.learner
        if self._repeats and learner.phase != self._phase:
            self._phase = learner.phase
            self._features = learner.features(self.data, self._source.cache, self._source.facts.digest)

    def batches(self, epoch: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor | Mixed]]:
        """Yields an epoch's batches in a fresh order: augmented, normalised images (or features) and their targets."""
        spec, data, learner = self._run.spec, self.data, self.learner
        size = image_size_at(epoch, spec.train.epochs, spec.data.progressive)
        size = None if size == data.height else size
        if spec.train.sampling == "balanced":
            order_N = self._classes.draw(len(data.train), generator)
        else:
            order_N = torch.randperm(len(data.train), generator=generator, device=self._device)
        if self._features is not None:
            for batch in self._batches:
                yield (
                    _rows(self._features.train, order_N[batch], self._device),
                    data.targets(data.train, order_N[batch], learner.dtype),
                )
            return
        if self._at_once and not spec.data.augment:
            # Few enough to be gathered in one go; each batch is then a view.
            images, targets = data.batch(data.train, order_N[: self.samples], learner.dtype, size)
            sizes = [batch.stop - batch.start for batch in self._batches]
            yield from zip(
                torch.split(learner.place(images), sizes), torch.split(targets, sizes), strict=True
            )
            return
        indices = [order_N[batch] for batch in self._batches]
        stored = data.expect(data.train, indices, size)
        for index_B, stored_B in zip(indices, stored, strict=True):
            images = data.pixels(data.train, stored_B, learner.dtype, size)
            targets = data.targets(data.train, index_B, learner.dtype)
            mixed: Tensor | Mixed = targets
            if spec.data.augment:
                images, mixed = self._augmentation(size)(images, targets, generator)
            yield learner.place(data.normalize(images)), mixed

    def validate(self) -> tuple[dict[str, float], EpochMetrics]:
        """Returns the metrics over the validation part, and the counters that they come from.

        Batches that do not fit into memory are halved, which changes at most the last bits of the metrics.

        Raises:
            torch.OutOfMemoryError: not even one sample fits.
        """
        learner = self.learner
        found, learner.validation_batch = devices.halving(
            self._validate, learner.validation_batch, self._device, "validation"
        )
        return found

    @torch.no_grad()
    def _validate(self, batch_size: int) -> tuple[dict[str, float], EpochMetrics]:
        data, learner = self.data, self.learner
        spec = self._run.spec
        used = spec.metrics_used().values()
        counters = EpochMetrics(spec.train, data.task, data.outputs, self._device, used, learner.judges)
        with learner.validating() as predict:
            batches = cut(len(data.val), batch_size)
            if self._features is not None:
                for batch in batches:
                    inputs = self._features.val[batch].to(self._device)
                    counters.update(predict(inputs), data.targets(data.val, batch, learner.dtype))
                return counters.result(), counters
            data.expect(data.val, batches)
            for batch in batches:
                images, targets = data.batch(data.val, batch, learner.dtype)
                counters.update(predict(learner.place(images)), targets)
        return counters.result(), counters

    def _augmentation(self, size: int | None) -> Augmentation:
        """Returns the augmentation for an image size; None: the final one."""
        if size not in self._augmentations:
            sides = (self.data.height, self.data.width) if size is None else size
            self._augmentations[size] = Augmentation(self._run.spec.data.augment, sides)
        return self._augmentations[size]


def _rows(features: Tensor, index_B: Tensor, device: torch.device) -> Tensor:
    """Returns some rows of features that may lie in host memory, on the device."""
    return features.index_select(0, index_B.to(features.device)).to(device)
