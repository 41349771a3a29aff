"""What surrounds an optimizer's steps: learning rates by group and over time, clipping, averages of weights."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hpsearch.errors import ModelError
from hpsearch.study import StudySpec, TrainSpec
from hpsearch.training import own
from hpsearch.training.layers import matching
from hpsearch.training.optimizers import OPTIMIZERS, Optimizer

AnyOptimizer = Optimizer | torch.optim.Optimizer


def build_optimizer(
    model: nn.Module,
    train: TrainSpec,
    allow: own.Allowed = None,
    depths: Mapping[str, int] | None = None,
    rate: float = 1.0,
) -> AnyOptimizer:
    """Returns the optimizer of the parameters that are trained; frozen ones cost it nothing.

    Each group of parameters with a learning rate of its own (`train.lr_multipliers`, where the first pattern that
    matches counts, times `train.layer_decay` to the power of the depth) holds its highest rate as `base_lr`, which
    the schedule multiplies.

    Args:
        allow: what the study may name as its optimizer, see `import_object`; None trusts all.
        depths: of parameters below the outputs, in blocks; 0 where it is not given.
        rate: factor on the learning rate of all.

    Raises:
        ModelError: a pattern matches no parameter, a multiplier is not above 0, or an optimizer of the user's own
            cannot be built.
    """
    factors = _factors(model, train.lr_multipliers)
    members: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = train.layer_decay ** (depths or {}).get(name, 0)
            members.setdefault(factors.get(name, 1.0) * decay * rate, []).append(parameter)
    groups = [
        {"params": parameters, "base_lr": train.learning_rate * factor}
        for factor, parameters in members.items()
    ]
    if (one := own.builder(train, "optimizer")) is not None:
        return own.build_optimizer(train, one, groups, allow)
    return OPTIMIZERS[train.optimizer](train, groups)


def _factors(model: nn.Module, multipliers: Mapping[str, float]) -> dict[str, float]:
    """Returns the multiplier of each parameter that a pattern matches."""
    names = [name for name, _ in model.named_parameters()]
    factors: dict[str, float] = {}
    for pattern, factor in multipliers.items():
        if factor <= 0:
            raise ModelError(
                f'train.lr_multipliers: "{pattern}" is {factor:g}, which must be above 0; '
                "parameters that must not change belong into model.freeze"
            )
        for name in matching(names, pattern, "train.lr_multipliers"):
            factors.setdefault(name, factor)
    return factors


class Schedule:
    """The learning rate over a trial's own epochs, as a factor on every group's `base_lr`.

    The factor is a closed form of the epoch and the step (only `plateau` remembers more), so that little must
    be saved, warm-up simply multiplies it, and parameter groups that come later (unfrozen ones) are served
    too.

    | name | factor in epoch e of E (from 0) | moves |
    | --- | --- | --- |
    | `constant` | 1 | never |
    | `cosine` | (1 + cos(pi e / E)) / 2 (Loshchilov and Hutter 2017) | each epoch |
    | `step` | gamma^floor(e / every) | each epoch |
    | `plateau` | gamma^k after k times `plateau_patience` + 1 epochs without a lower loss | each epoch |
    | `one_cycle` | from 1/25 up to 1 in 30 % of the steps, down to 4e-6 (Smith, Topin 2018) | each step |
    | `wsd` | 1; in the last steps 1 - sqrt(share of these done) (Hägele et al. 2024, 2405.18392) | each step |
    | of the user's own | what its function of the step gives | each step |

    Warm-up (Goyal et al. 2017) multiplies step s (from 0) by min(1, (s + 1) / S), S the steps in
    `warmup_epochs`: it grows linearly from 0, but no step is wasted at 0 itself.

    Args:
        epochs: of this trial.
        steps_per_epoch: optimizer steps.
        allow: what the study may name as its schedule, see `import_object`; None trusts all.
    """

    def __init__(
        self,
        optimizer: AnyOptimizer,
        train: TrainSpec,
        epochs: int,
        steps_per_epoch: int,
        allow: own.Allowed = None,
    ) -> None:
        self._optimizer = optimizer
        self._train = train
        self._epochs = epochs
        self._steps = epochs * steps_per_epoch
        self._warmup = round(train.warmup_epochs * steps_per_epoch)
        self._step = 0
        self._epoch = 0
        self._best = math.inf
        self._bad_epochs = 0
        self._plateau = 1.0
        one = own.builder(train, "schedule")
        self._own = None if one is None else own.build_schedule(one, epochs, steps_per_epoch, allow)
        self._apply()

    def step(self) -> None:
        """Sets the learning rate for the next step; to be called after each optimizer step."""
        self._step += 1
        if self._step <= self._warmup or self._own is not None or self._train.schedule in MOVING:
            self._apply()

    def epoch_end(self, val_loss: float) -> None:
        """Sets the learning rate for the next epoch, which for `plateau` depends on the validation loss."""
        self._epoch += 1
        # As torch's ReduceLROnPlateau: a loss counts as lower below 0.9999 of the best.
        if val_loss < self._best * (1 - math.copysign(1e-4, self._best)):
            self._best, self._bad_epochs = val_loss, 0
        else:
            self._bad_epochs += 1
        if self._bad_epochs > self._train.plateau_patience:
            self._plateau, self._bad_epochs = self._plateau * self._train.step_gamma, 0
        self._apply()

    def state_dict(self) -> dict[str, float]:
        """Returns what `load_state_dict` restores."""
        return {
            "step": self._step,
            "epoch": self._epoch,
            "best": self._best,
            "bad_epochs": self._bad_epochs,
            "plateau": self._plateau,
        }

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restores a saved state."""
        self._step, self._epoch, self._bad_epochs = (
            int(state[key]) for key in ("step", "epoch", "bad_epochs")
        )
        self._best, self._plateau = float(state["best"]), float(state["plateau"])
        self._apply()

    def _apply(self) -> None:
        warmup = min(1.0, (self._step + 1) / self._warmup) if self._warmup else 1.0
        factor = FACTORS[self._train.schedule](self) if self._own is None else self._own(self._step)
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_lr"] * (warmup * factor)

    def constant(self) -> float:
        return 1.0

    def cosine(self) -> float:
        return _half_cosine(self._epoch / self._epochs)

    def stairs(self) -> float:
        every = self._train.step_every
        length = max(1, round(every * self._epochs if every < 1 else every))
        return float(self._train.step_gamma ** (self._epoch // length))

    def plateau(self) -> float:
        return self._plateau

    def one_cycle(self) -> float:
        last = max(1, self._steps - 1)
        top = max(0.0, 0.3 * self._steps - 1)
        low, end = 1 / 25, 1 / 25 / 1e4
        step = min(self._step, last)
        if step <= top and top > 0:
            return 1 + (low - 1) * _half_cosine(step / top)
        return end + (1 - end) * _half_cosine((step - top) / (last - top))

    def wsd(self) -> float:
        cooldown = cooldown_steps(self._train, self._steps)
        done = self._step - (self._steps - cooldown)
        return 1 - math.sqrt(min(1.0, max(0.0, done / cooldown)))


def last_shared_epoch(spec: StudySpec, steps_per_epoch: int) -> int:
    """Returns the last epoch that a trial trains as one of more epochs would; 0 if there is none."""
    if spec.shared == 0:
        return 0
    steps = spec.train.epochs * steps_per_epoch
    cooldown = cooldown_steps(spec.train, steps) if spec.train.schedule == "wsd" else 0
    return (steps - cooldown) // steps_per_epoch


def cooldown_steps(train: TrainSpec, steps: int) -> int:
    """Returns in how many of a trial's steps, the last ones, `wsd` lowers the learning rate."""
    return max(1, round(train.cooldown * steps))


MOVING = ("one_cycle", "wsd")
"""Schedules that move with each step."""

FACTORS: dict[str, Callable[[Schedule], float]] = {
    "constant": Schedule.constant,
    "cosine": Schedule.cosine,
    "step": Schedule.stairs,
    "plateau": Schedule.plateau,
    "one_cycle": Schedule.one_cycle,
    "wsd": Schedule.wsd,
}


def _half_cosine(share: float) -> float:
    """Returns a smooth fall from 1 (at 0) to 0 (at 1)."""
    return (1 + math.cos(math.pi * min(1.0, share))) / 2


def clip(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scales the whole gradient down to a 2-norm of `max_norm` if it is longer (Pascanu et al. 2013).

    One step into a steep wall of the loss can otherwise throw the weights far away.

    Returns:
        The norm before, on the device.
    """
    return torch.nn.utils.clip_grad_norm_(parameters, max_norm)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields parameters and buffers by name, shared ones once (`state_dict` has them twice)."""
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        yield name, tensor.detach()


class Ema:
    """An exponential moving average of a model's weights (after Polyak and Juditsky 1992).

    After each step a = d a + (1 - d) w.
    The average lies nearer to a minimum than weights that still jump about it. It would start at the random
    weights and forget them only after 1 / (1 - d) steps, so that after n updates d is at most (1 + n) / (10 +
    n), as TensorFlow's ExponentialMovingAverage has it. BatchNorm's running statistics are averaged too;
    counters are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._updates = 0
        self._average = {name: tensor.clone() for name, tensor in _tensors(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards the model's weights as they are now."""
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        self._updates += 1
        floats: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, tensor in _tensors(model):
            if tensor.is_floating_point():
                floats[0].append(self._average[name])
                floats[1].append(tensor)
            else:
                self._average[name].copy_(tensor)
        torch._foreach_lerp_(*floats, 1 - decay)

    @contextlib.contextmanager
    def swapped(self, model: nn.Module) -> Iterator[None]:
        """Puts the average into the model for a while; the model's own weights come back at the end."""
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        for name, tensor in _tensors(model):
            kept = tensor.clone()
            tensor.copy_(self._average[name])
            self._average[name].copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """Returns what `load_state_dict` restores."""
        return {"average": dict(self._average), "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a saved state."""
        self._updates = int(state["updates"])
        for name, tensor in state["average"].items():
            self._average[name].copy_(tensor)
