"""What a study takes from the user's own modules for our loop, each built by a function that it names.

A builder is given those of these facts that it declares, and the study's arguments for it:

| field | facts | returns |
| --- | --- | --- |
| `model.name` | `channels`, `image_size`, `classes` | an `nn.Module` |
| `train.loss` | `classes`, `task` | (outputs_BK, targets) to the loss of each sample, [B] |
| `train.metrics` | `classes`, `task` | (outputs_NK, targets) of a whole part to a number |
| `train.optimizer` | `params`, `lr`, `weight_decay` | a `torch.optim.Optimizer` |
| `train.schedule` | `epochs`, `steps_per_epoch` | step (from 0) to a factor on the learning rate |

`classes` is the number of outputs; `params` are groups as torch's optimizers take them, so that `torch.optim:RAdam` is
a builder too. Targets are class indices, numbers of shape [B, T], or 1 and 0 of shape [B, K] where images may have
several labels (`task` is "multilabel"). The validation loss is the own loss, unweighted.

Legend: B batch, N samples of a part, K outputs, T regression targets.
"""

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hpsearch.errors import OF_OWN_CODE, ModelError, nearest
from hpsearch.study import TrainSpec
from hpsearch.study.section import is_own
from hpsearch.training.device import is_out_of_memory
from hpsearch.training.imports import import_object

Allowed = Collection[str] | None
Loss = Callable[[Tensor, Tensor], Tensor]
Metric = Callable[[Tensor, Tensor], Any]


@dataclass(frozen=True, slots=True)
class Builder:
    """What a field of a study names, and the arguments that the study gives it.

    Attributes:
        table: the field of the arguments, such as `model.args`.
    """

    field: str
    name: str
    table: str
    args: Mapping[str, Any]

    def __str__(self) -> str:
        return f'{self.field} = "{self.name}"'

    def build(self, facts: Mapping[str, Any], allow: Allowed) -> Any:
        """Imports and calls a builder of the user's own.

        Args:
            allow: what the study may name, see `import_object`; None trusts all.

        Raises:
            ModelError: it may not be imported, its arguments do not suit, or it raised.
        """
        return self.call(import_object(self.name, allow, self.field), facts)

    def call(self, function: Callable[..., Any], facts: Mapping[str, Any]) -> Any:
        """Calls a builder with those of the facts that it declares and the study's arguments."""
        declared = inspect.signature(function).parameters
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in declared.values())
        given = {name: value for name, value in facts.items() if takes_all or name in declared}
        for name in self.args:
            if name in facts:
                raise ModelError(f"{self.table}.{name}: is known from the study and its data; remove it")
            if name not in declared and not takes_all:
                known = [known for known in declared if known not in facts]
                raise ModelError(
                    f'{self.table}.{name}: "{self.name}" has no such argument; {nearest(name, known)}'
                )
        for name, parameter in declared.items():
            needed = parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            )
            if needed and name not in given and name not in self.args:
                raise ModelError(f"{self} needs the argument {name}; add {self.table}.{name}")
        return self.guarded(function, {**given, **self.args})

    def guarded(self, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Calls a builder; what it raises becomes the cause of a ModelError, but for a lack of memory."""
        shown = ", ".join(f"{name} = {value!r}" for name, value in self.args.items()) or "none"
        return self.tried(lambda: function(**arguments), f"cannot be built ({self.table}: {shown})")

    def tried(self, call: Callable[[], Any], what: str) -> Any:
        """Returns what a call of the user's code returns.

        Raises:
            ModelError: it raised, for which `what` stands in the sentence.
        """
        try:
            return call()
        except ModelError:
            raise
        except OF_OWN_CODE as error:
            if is_out_of_memory(error):
                raise
            raise ModelError(f"{self} {what}: {type(error).__name__}: {error}") from error


def builder(train: TrainSpec, part: str) -> Builder | None:
    """Returns the builder that `train.optimizer`, `train.schedule` or `train.loss` names; None for one of ours."""
    name = str(getattr(train, part))
    return (
        Builder(f"train.{part}", name, f"train.args.{part}", getattr(train.args, part))
        if is_own(name)
        else None
    )


@dataclass(frozen=True, slots=True)
class Judges:
    """The user's own loss and metrics; empty for those of ours alone."""

    loss: Loss | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)


NO_JUDGES = Judges()


def build_judges(train: TrainSpec, task: str, outputs: int, allow: Allowed) -> Judges:
    """Builds the own loss and the own metrics of a study, and tries each on made-up outputs.

    Raises:
        ModelError: one cannot be built, raises, or returns something else than it should.
    """
    facts = {"classes": outputs, "task": task}
    given = _made_up(task, outputs)
    loss = None
    if (one := builder(train, "loss")) is not None:
        loss = _checked_loss(one, one.build(facts, allow))
        loss(*given)
    metrics: dict[str, Metric] = {}
    for name, own in train.metrics.items():
        args = train.args.metrics.get(name, {})
        one = Builder(f"train.metrics.{name}.build", own.build, f"train.args.metrics.{name}", args)
        metrics[name] = _checked_metric(one, one.build(facts, allow))
        metrics[name](*given)
    return Judges(loss, metrics)


def _made_up(task: str, outputs: int) -> tuple[Tensor, Tensor]:
    """Returns outputs and targets in which each class occurs twice."""
    targets_N = torch.arange(2 * max(2, outputs)) % max(2, outputs)
    outputs_NK = torch.zeros(len(targets_N), outputs)
    if task == "multilabel":
        return outputs_NK, torch.eye(outputs)[targets_N]
    return outputs_NK, targets_N if task != "regression" else outputs_NK + targets_N[:, None]


def _checked_loss(one: Builder, loss: Loss) -> Loss:
    def checked(outputs: Tensor, targets: Tensor) -> Tensor:
        found = one.tried(lambda: loss(outputs, targets), "failed")
        if not isinstance(found, Tensor) or found.shape != (len(targets),):
            shape = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ModelError(
                f"{one} returned {shape} for {len(targets)} samples; return one loss for each, of shape "
                f'[{len(targets)}], as torch\'s losses do with reduction = "none"'
            )
        return found

    return checked


def _checked_metric(one: Builder, metric: Metric) -> Metric:
    def checked(outputs: Tensor, targets: Tensor) -> Tensor:
        found = one.tried(lambda: metric(outputs, targets), "failed")
        try:
            return torch.as_tensor(found, dtype=torch.float64, device=outputs.device).reshape(())
        except (TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"{one} returned {type(found).__name__}, not a number; return one") from error

    return checked


def build_optimizer(
    train: TrainSpec, one: Builder, groups: list[dict[str, Any]], allow: Allowed
) -> torch.optim.Optimizer:
    """Builds an optimizer of the user's own.

    Args:
        groups: tables of "params" and "base_lr".

    Raises:
        ModelError: it is none of torch's kind, or asks for a closure.
    """
    params = [{**group, "lr": group["base_lr"]} for group in groups]
    found = one.build(
        {"params": params, "lr": train.learning_rate, "weight_decay": train.weight_decay}, allow
    )
    if not isinstance(found, torch.optim.Optimizer):
        raise ModelError(f"{one} returned {type(found).__name__}, not a torch.optim.Optimizer")
    closure = inspect.signature(found.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ModelError(
            f"{one}: its step needs a closure, which the built-in loop does not give; choose another"
        )
    for group in found.param_groups:
        group.setdefault("base_lr", group["lr"])
    return found


def build_schedule(one: Builder, epochs: int, steps_per_epoch: int, allow: Allowed) -> Callable[[int], float]:
    """Builds a schedule of the user's own: step (from 0) to the factor on the learning rate.

    Raises:
        ModelError: it returns no number of 0 or more.
    """
    factor = one.build({"epochs": epochs, "steps_per_epoch": steps_per_epoch}, allow)

    def checked(step: int) -> float:
        found = one.tried(lambda: float(factor(step)), f"failed at step {step}")
        if not (math.isfinite(found) and found >= 0):
            raise ModelError(f"{one} returned {found} at step {step}; return a factor of 0 or more")
        return float(found)

    return checked
