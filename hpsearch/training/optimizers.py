"""Optimizers: how one step moves the weights w against the gradient g of the loss, by the learning rate lr.

They call the kernels that update all weights of a group at once, 1.4 to 5 times as fast on CPUs as weight by
weight (measured, ResNet-18); on GPUs that is one launch instead of many. The classes of torch.optim call the
same kernels, and give the same weights to the bit. They are not used because each worker would import torch's
compiler for them (1.2 s), and spend 0.1 ms of Python on each step, a tenth of a small network's (measured).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from hpsearch.study import TrainSpec

Group = dict[str, Any]
"""Parameters that share a learning rate: "params", "lr" as it is now, and "base_lr", its highest."""


class Optimizer(ABC):
    """Groups of parameters, and what is remembered of each parameter's gradients.

    It has what `torch.amp.GradScaler` asks of an optimizer: gradients that are scaled are unscaled by the
    kernel, and a step with infinite ones is left out there, so that the host need not wait for the device.

    Args:
        groups: tables of "params" and "base_lr".

    Attributes:
        state: for each parameter tensors by name, zero at first.
    """

    _step_supports_amp_scaling = True
    _remembers: ClassVar[tuple[str, ...]]

    def __init__(self, train: TrainSpec, groups: Iterable[Mapping[str, Any]]) -> None:
        self._train = train
        self.param_groups: list[Group] = [{**group, "lr": group["base_lr"]} for group in groups]
        self.state = {parameter: self._fresh(parameter) for parameter in self._parameters()}

    @torch.no_grad()
    def step(self) -> None:
        """Moves the weights that have a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._move(parameters, [parameter.grad for parameter in parameters], group["lr"])

    def zero_grad(self) -> None:
        """Lets go of all gradients: the next backward pass stores its own instead of adding to them."""
        for parameter in self._parameters():
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Returns what `load_state_dict` restores; the tensors are not copied."""
        return {"state": [self.state[parameter] for parameter in self._parameters()]}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restores a saved state of the same parameters."""
        for parameter, tensors in zip(self._parameters(), saved["state"], strict=True):
            for name, tensor in tensors.items():
                self.state[parameter][name].copy_(tensor)

    @abstractmethod
    def _move(self, parameters: list[Tensor], gradients: list[Tensor], lr: float) -> None:
        """Moves some parameters in one kernel call."""

    def _fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        return {name: torch.zeros_like(parameter, requires_grad=False) for name in self._remembers}

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _remembered(self, name: str, parameters: list[Tensor]) -> list[Tensor]:
        return [self.state[parameter][name] for parameter in parameters]

    def _scaling(self) -> dict[str, Tensor | None]:
        """Returns what the scaler has left here for one step, in the kernels' words."""
        return {name: getattr(self, name, None) for name in ("grad_scale", "found_inf")}


class SGD(Optimizer):
    """Stochastic gradient descent with momentum m (Polyak 1964; Sutskever et al. 2013).

    v = m v + g, w = w - lr v: steps in one direction add up to 1 / (1 - m) of their size, steps to and fro
    cancel. Nesterov's variant steps by g + m v, the gradient as if one had gone on. Weight decay d adds d w
    to g, which pulls weights towards 0 (L2 regularisation). v starts at 0.
    """

    _remembers = ("momentum",)

    def _fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        return super()._fresh(parameter) if self._train.momentum else {}

    def _move(self, parameters: list[Tensor], gradients: list[Tensor], lr: float) -> None:
        torch._fused_sgd_(
            parameters,
            gradients,
            self._remembered("momentum", parameters) if self._train.momentum else [],
            lr=lr,
            momentum=self._train.momentum,
            nesterov=self._train.nesterov,
            weight_decay=self._train.weight_decay,
            dampening=0.0,
            maximize=False,
            is_first_step=False,
            **self._scaling(),
        )


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015): every weight has a step size of its own.

    m = b1 m + (1 - b1) g and v = b2 v + (1 - b2) g^2 follow the gradient's mean and its mean square; divided
    by 1 - b1^t and 1 - b2^t, since they start at 0, they give w = w - lr m / (sqrt(v) + 1e-8). b1 is
    `train.momentum`, b2 `train.beta2`. Weight decay d adds d w to g.
    """

    _remembers = ("mean", "mean_square")
    _kernel: ClassVar[Callable[..., None]] = staticmethod(torch._fused_adam_)

    def _fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        # Counted for each parameter: those that are unfrozen later begin at 0. On the device, since a step
        # that the scaler leaves out, which only the device knows, must not count.
        steps = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return super()._fresh(parameter) | {"steps": steps}

    def _move(self, parameters: list[Tensor], gradients: list[Tensor], lr: float) -> None:
        steps, scaling = self._remembered("steps", parameters), self._scaling()
        torch._foreach_add_(steps, 1)
        self._kernel(
            parameters,
            gradients,
            self._remembered("mean", parameters),
            self._remembered("mean_square", parameters),
            [],
            steps,
            lr=lr,
            beta1=self._train.momentum,
            beta2=self._train.beta2,
            weight_decay=self._train.weight_decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
            **scaling,
        )
        if scaling["found_inf"] is not None:
            torch._foreach_sub_(steps, [scaling["found_inf"]] * len(steps))


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    w = w - lr d w is done beside Adam's step; inside g, as `adam` does it, the division by sqrt(v) would undo
    it for weights with large gradients.
    """

    _kernel: ClassVar[Callable[..., None]] = staticmethod(torch._fused_adamw_)


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
