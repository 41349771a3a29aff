"""What one trial trains: model, optimizer, schedule, precision, and what of it a checkpoint holds."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hpsearch.contracts.trial import TrialRun
from hpsearch.errors import ModelError
from hpsearch.study.train import Stage
from hpsearch.training import device as devices
from hpsearch.training import features, layers, losses, models, optim, own, pretrained, weights
from hpsearch.training.augment import Mixed
from hpsearch.training.batches import pieces
from hpsearch.training.data import Part, Prepared
from hpsearch.training.data.cache import Cache
from hpsearch.training.features import Backbone, Features

logger = logging.getLogger(__name__)

VALIDATION_BATCH = {"cpu": 256, "cuda": 1024}


class Learner:
    """The parts of a trial's training, built from its specification.

    Args:
        steps_per_epoch: optimizer steps.
        done: epochs that a checkpoint has behind it; the caller loads its state afterwards.
        allow: what the study may name, see `import_object`; None trusts all.

    Attributes:
        judges: loss and metrics of the user's own.
        started_from: the file of `model.weights`, what it held and what of it was taken; "" without one.
        memory_format: of weights and images, whichever is faster.
        phase: what decides about which weights are trained; another one begins with an epoch.

    Raises:
        HpsearchError: the model cannot be built, cannot take the images, or the device lacks the number type.
    """

    def __init__(
        self,
        run: TrialRun,
        device: torch.device,
        data: Prepared,
        steps_per_epoch: int,
        done: int,
        allow: tuple[str, ...] | None,
    ) -> None:
        spec = run.spec
        self._spec = spec
        self._device = device
        self._steps_per_epoch = steps_per_epoch
        self.precision = devices.resolve(spec.train.precision, device)
        devices.allow_tf32(spec.train.tf32)
        devices.choose_repeatable_kernels()
        # Weights are drawn from (study seed, trial number, 0): the zeroth epoch, before the first.
        seed = devices.seed_everything(spec.study.seed, run.stream, 0, device).initial_seed()
        size = data.height, data.width
        self.model = models.build(spec.model, data.channels, size, data.outputs, seed, allow)
        for side in data.smaller:
            models.check_images(self.model, spec.model.name, data.channels, (side, side), data.outputs)
        self.model.to(device, self.precision.dtype)
        half = self.precision.autocast is not None
        self.memory_format = models.choose_memory_format(self.model, device, data.channels, size, half)
        self.started_from, fresh = "", tuple[str, ...]()
        if (path := pretrained.weights_file(spec.model)) is not None:
            found = weights.load_weights(self.model, path)
            self.started_from, fresh = f"{weights.describe(path)}: {found.text}", found.fresh
        name = spec.model.name
        self._head = layers.head_of(self.model, name, data.outputs, fresh) if spec.train.stages else ()
        self._depths = layers.depths_of(self.model, name, fresh) if spec.train.layer_decay < 1 else {}
        # As it was when epoch `done` ended: at its boundary, the next epoch's beginning is still to unfreeze.
        self.phase = self._phase_of(done)
        self._choose_trained()
        if self._asks_for_single_samples:
            self._check_single_samples(data.channels, [size, *((side, side) for side in data.smaller)])
        self._whole = _compiled(self.model, spec.train.compile, device)
        self._predict = self._whole
        self._allow = allow
        self.judges = own.build_judges(spec.train, data.task, data.outputs, allow)
        self.optimizer, self.schedule = self._optimization()
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision.scaler)
        self.ema = optim.Ema(self.model, spec.train.ema_decay) if spec.train.ema_decay else None
        self._loss = losses.training_loss(
            spec.train, data.task, data.class_counts, self.judges.loss, len(data.train)
        )
        self.micro_batch = spec.train.micro_batch
        self.validation_batch = VALIDATION_BATCH.get(device.type, 256)

    @property
    def dtype(self) -> torch.dtype:
        """The number type of weights and images."""
        return self.precision.dtype

    @property
    def _asks_for_single_samples(self) -> bool:
        return 1 in (self._spec.train.batch_size, self._spec.train.micro_batch)

    def _check_single_samples(self, channels: int, sizes: Iterable[models.Size]) -> None:
        """Refuses single samples where BatchNorm would be left with one number per channel.

        Raises:
            ModelError: it would.
        """
        if self._spec.train.stages and self._spec.train.stages[-1].name == "head":
            return  # below the head, BatchNorm computes as in validation
        layers.train_mode(self.model)
        field = "batch_size" if self._spec.train.batch_size == 1 else "micro_batch"
        for height, width in sizes:
            if not models.takes_single_samples(self.model, channels, (height, width)):
                raise ModelError(
                    f'train.{field} = 1: model.name = "{self._spec.model.name}" has BatchNorm layers that would '
                    f"see a single number per channel of images of {height} x {width}, and cannot train on "
                    "that; use 2 or more"
                )

    @property
    def _trains_head_alone(self) -> bool:
        """Whether all below the head stays as it is, in this stage."""
        _, stage = self.phase
        return stage is not None and stage.name == "head"

    @property
    def _trained_part(self) -> str:
        """The path of the smallest module that holds all weights that are trained; "" if no weights lie outside it."""
        names = [name for name, one in self.model.named_parameters() if one.requires_grad]
        levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
        path = ".".join(level[0] for level in takewhile(lambda level: len({*level}) == 1, levels))
        lies_outside = any(not name.startswith(f"{path}.") for name, _ in self.model.named_parameters())
        return path if lies_outside else ""

    def _phase_of(self, epoch: int) -> tuple[bool, Stage | None]:
        """Returns what decides about which weights are trained: whether `model.freeze` counts, and the stage."""
        model = self._spec.model
        thawed = model.unfreeze_after is not None and epoch > model.unfreeze_after
        return bool(model.freeze) and not thawed, self._spec.train.stage_at(epoch)

    def begin_epoch(self, epoch: int) -> None:
        """Puts the model into training mode, and trains more of it when its time has come."""
        if (phase := self._phase_of(epoch)) != self.phase:
            self.phase = phase
            self._enter()
        if self._trains_head_alone:
            layers.train_mode_of(self.model, self._head)
        else:
            layers.train_mode(self.model)

    def features(self, data: Prepared, cache: Cache, contents: str) -> Features | None:
        """Returns what the backbone makes of the images, and trains and judges the head on that from now on.

        None, and nothing changes, where all is trained, or where that cannot stand in for the images: the head's
        outputs are not the network's, what lies below it is not the same each time, or there is no room.

        Args:
            contents: digest of the images and their split.
        """
        path = self._trained_part
        if not path:
            return None
        head = self.model.get_submodule(path)
        modes = {module: module.training for module in self.model.modules()}

        def predict(images: Tensor) -> Tensor:
            with self._autocast():
                outputs: Tensor = self.model(images)
            return outputs

        def as_trained(images: Tensor) -> Tensor:
            buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
            _set_modes(modes)
            try:
                with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
                    with self._autocast():
                        outputs: Tensor = functional_call(self.model, buffers, images)
                    return outputs
            finally:
                self.model.eval()

        def prepare(part: Part, rows: slice) -> Tensor:
            return self.place(data.batch(part, rows, self.dtype)[0])

        self.model.eval()
        try:
            backbone = Backbone(self.model, head, predict, as_trained, prepare)
            found = features.find(
                backbone, head, self._autocast, data, cache, contents, self.precision, self.validation_batch
            )
        finally:
            _set_modes(modes)
        if found is not None:
            self._predict = head
        return found

    def _choose_trained(self) -> None:
        is_frozen, _ = self.phase
        if self._trains_head_alone:
            layers.train_alone(self.model, self._head)
        if is_frozen:
            layers.freeze(self.model, self._spec.model.freeze)

    def _enter(self) -> None:
        """Trains what the new stage trains; what is remembered of the weights trained so far is kept."""
        layers.unfreeze(self.model)
        self._choose_trained()
        self._predict = self._whole
        known, schedule = self.optimizer.state, self.schedule.state_dict()
        self.optimizer, self.schedule = self._optimization()
        self.optimizer.state.update(known)
        self.schedule.load_state_dict(schedule)

    def _optimization(self) -> tuple[optim.AnyOptimizer, optim.Schedule]:
        """Returns a fresh optimizer of what is trained, and its schedule."""
        train = self._spec.train
        _, stage = self.phase
        rate = 1.0 if stage is None else stage.rate
        optimizer = optim.build_optimizer(self.model, train, self._allow, self._depths, rate)
        return optimizer, optim.Schedule(optimizer, train, train.epochs, self._steps_per_epoch, self._allow)

    def backward(self, images_B: Tensor, targets_B: Tensor | Mixed) -> list[tuple[Tensor, int]]:
        """Adds a batch's gradients; returns the micro-batches' mean losses, on the device, and their sizes.

        A batch that does not fit into memory is split into ever smaller micro-batches, whose gradients add up
        to the batch's own (exactly, but for BatchNorm, whose statistics are then those of the micro-batches).

        Raises:
            torch.OutOfMemoryError: not even one sample fits, or not two where BatchNorm needs them.
        """
        samples = len(images_B)
        while True:
            size = min(self.micro_batch or samples, samples)
            try:
                return self._accumulate(images_B, targets_B, pieces(samples, size))
            except Exception as error:
                if size == 1 and models.is_too_few(error) and not self._asks_for_single_samples:
                    self.micro_batch = 2  # what was tried last
                    raise torch.OutOfMemoryError(
                        "two samples do not fit, and BatchNorm cannot train on a single one"
                    ) from error
                if size == 1 or not devices.is_out_of_memory(error):
                    raise
            # Outside the handler: the exception's traceback held the graph and its tensors.
            self.optimizer.zero_grad()
            devices.release(self._device)
            self.micro_batch = -(-size // 2)
            logger.warning(
                "a batch of %d does not fit into memory; micro-batches of %d", size, self.micro_batch
            )

    def _accumulate(
        self, images_B: Tensor, targets_B: Tensor | Mixed, cuts: list[slice]
    ) -> list[tuple[Tensor, int]]:
        if len(cuts) == 1:
            return [(self._backward(images_B, targets_B, 1.0), len(images_B))]
        sizes = [part.stop - part.start for part in cuts]
        # The mean over the batch is the sum of the micro-batches' means, weighted by their sizes.
        return [
            (self._backward(images_B[part], targets_B[part], size / len(images_B)), size)
            for part, size in zip(cuts, sizes, strict=True)
        ]

    def _backward(self, images: Tensor, targets: Tensor | Mixed, share: float) -> Tensor:
        with self._autocast():
            loss = self._loss(self._predict(images), targets)
        self.scaler.scale(loss if share == 1.0 else loss * share).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def step(self) -> None:
        """Changes the weights by the gradients gathered, then the learning rate for the next step."""
        train = self._spec.train
        if train.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)  # type: ignore[arg-type]
            optim.clip(self.model.parameters(), train.clip_norm)
        self.scaler.step(self.optimizer)  # type: ignore[arg-type]  # it has what is asked of torch's own
        self.scaler.update()
        self.schedule.step()
        if self.ema is not None:
            self.ema.update(self.model)

    @contextlib.contextmanager
    def validating(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Gives the model as it is judged and kept: in evaluation mode, averaged if the study asks for it."""
        self.model.eval()
        with self.averaged(), self._autocast():
            yield self._predict

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Puts the averaged weights into the model for a while."""
        if self.ema is None:
            yield
        else:
            with self.ema.swapped(self.model):
                yield

    def place(self, images: Tensor) -> Tensor:
        """Returns images in the memory order that the model computes in."""
        return images.to(memory_format=self.memory_format)

    def state_dict(self) -> dict[str, Any]:
        """Returns all that changes in training, as tensors and plain values; they are not copied."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "micro_batch": self.micro_batch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state that `state_dict` has given."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.micro_batch = state["micro_batch"]

    def parameters(self) -> tuple[int, int]:
        """Returns the number of weights, and of those that are trained."""
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in self.model.parameters()]
        return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, self.precision.autocast)


def _set_modes(modes: Mapping[nn.Module, bool]) -> None:
    for module, training in modes.items():
        module.training = training


def _compiled(model: nn.Module, choice: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Returns what predicts: the model, or its compiled form with the same weights.

    "auto" does not compile. The first batches of a compiled trial take seconds to minutes, for training and
    for validation, and again for another image size: a trial of a search must be long before that is paid
    back, and from when on it is has not been measured on a GPU yet (`tests/benchmarks/gpu.py` does).
    """
    if choice != "on":
        return model
    devices.require_compiler(device)
    # Dynamo keeps what it compiled by code, not by model, and stops compiling a forward method after some
    # variants: the trials before this one must not use up its share.
    torch.compiler.reset()
    compiled: Callable[[Tensor], Tensor] = torch.compile(model)
    return compiled


def compile_fact(choice: str) -> str:
    """Returns what a trial says of `train.compile`: what was done, and why where it was left to us."""
    if choice == "auto":
        return 'off (auto: compiling takes longer than it saves in most trials; set train.compile = "on")'
    return choice
