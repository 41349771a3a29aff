"""Optimizer steps against numbers worked out by hand, and against torch's own classes to the bit."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from hpsearch.study import TrainSpec
from hpsearch.training import optim
from hpsearch.training.losses import training_loss
from tests.training.test_optim import line


# One sample, x = 2 with target 5; the loss is (y - 5)^2, so dw = 2 (y - 5) x and db = 2 (y - 5).
# At w = b = 1: y = 3, dw = 2 (-2) 2 = -8, db = -4. The learning rate is 0.05 throughout.
#
# SGD        step 1: w = 1 + 0.05 * 8 = 1.4, b = 1 + 0.05 * 4 = 1.2
#            step 2: y = 2.8 + 1.2 = 4, dw = -4, db = -2: w = 1.4 + 0.2 = 1.6, b = 1.2 + 0.1 = 1.3
# momentum   step 1: v = g, as SGD
#   (0.9)    step 2: vw = 0.9 * -8 - 4 = -11.2: w = 1.4 + 0.56 = 1.96
#                    vb = 0.9 * -4 - 2 = -5.6: b = 1.2 + 0.28 = 1.48
# Nesterov   step 1: g + 0.9 v = 1.9 g: w = 1 + 0.05 * 15.2 = 1.76, b = 1 + 0.05 * 7.6 = 1.38
#   (0.9)    step 2: y = 3.52 + 1.38 = 4.9, dw = -0.4, db = -0.2
#                    vw = -7.2 - 0.4 = -7.6, vb = -3.6 - 0.2 = -3.8
#                    w = 1.76 + 0.05 (0.4 + 6.84) = 2.122, b = 1.38 + 0.05 (0.2 + 3.42) = 1.561
# decay 0.5  step 1: dw = -8 + 0.5 * 1 = -7.5, db = -3.5: w = 1.375, b = 1.175
#   (SGD)    step 2: y = 2.75 + 1.175 = 3.925, y - 5 = -1.075; dw = -4.3 + 0.6875 = -3.6125,
#                    db = -2.15 + 0.5875 = -1.5625
#                    w = 1.375 + 0.180625 = 1.555625, b = 1.175 + 0.078125 = 1.253125
# Adam       step 1: m / (1 - 0.9) = g, v / (1 - 0.999) = g^2, so both move by 0.05 g / |g|: w = b = 1.05
#            step 2: y = 3.15, dw = -7.4, db = -3.7 (half of dw, as before, so that b moves as w does)
#                    m = 0.9 (0.1 * -8) + 0.1 * -7.4 = -1.46, / (1 - 0.81) = -7.684210526
#                    v = 0.999 (0.001 * 64) + 0.001 * 54.76 = 0.118696, / (1 - 0.998001) = 59.377688844
#                    w = 1.05 + 0.05 * 7.684210526 / 7.705691976 = 1.05 + 0.05 * 0.997212262 = 1.099860613
# AdamW 0.1  step 1: w = b = 1 - 0.05 * 0.1 * 1 + 0.05 = 1.045
#            step 2: y = 3.135, dw = -7.46; m = -0.72 - 0.746 = -1.466, / 0.19 = -7.715789474
#                    v = 0.063936 + 0.0556516 = 0.1195876, / 0.001999 = 59.823711856, root 7.734579617
#                    w = 1.045 - 0.005 * 1.045 + 0.05 * 0.997570683 = 1.089653534
@pytest.mark.parametrize(
    ("fields", "first", "second"),
    [
        ({"momentum": 0.0}, (1.4, 1.2), (1.6, 1.3)),
        ({"momentum": 0.9}, (1.4, 1.2), (1.96, 1.48)),
        ({"momentum": 0.9, "nesterov": True}, (1.76, 1.38), (2.122, 1.561)),
        ({"momentum": 0.0, "weight_decay": 0.5}, (1.375, 1.175), (1.555625, 1.253125)),
        ({"optimizer": "adam"}, (1.05, 1.05), (1.099860613, 1.099860613)),
        ({"optimizer": "adamw", "weight_decay": 0.1}, (1.045, 1.045), (1.089653534, 1.089653534)),
    ],
)
def test_two_steps_are_those_worked_out_by_hand(
    fields: dict[str, Any], first: tuple[float, float], second: tuple[float, float]
) -> None:
    train = TrainSpec(loss="mse", learning_rate=0.05, **fields)
    model, loss = line(), training_loss(train, "regression")
    optimizer = optim.build_optimizer(model, train)
    x, target = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[5.0]], dtype=torch.float64)
    for expected in (first, second):
        optimizer.zero_grad()
        loss(model(x), target).backward()
        optimizer.step()
        assert (model.weight.item(), model.bias.item()) == pytest.approx(expected, rel=2e-9)


SETTINGS: list[dict[str, Any]] = [
    {"optimizer": "sgd", "momentum": 0.0},
    {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-3},
    {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
    {"optimizer": "adam", "weight_decay": 1e-3},
    {"optimizer": "adam", "momentum": 0.0},
    {"optimizer": "adamw", "weight_decay": 0.05, "beta2": 0.99},
]


def torchs(train: TrainSpec, model: nn.Module) -> torch.optim.Optimizer:
    """Returns torch's own optimizer for the same formula."""
    rate, decay = train.learning_rate, train.weight_decay
    if train.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), rate, train.momentum, weight_decay=decay, nesterov=train.nesterov, fused=True
        )
    kind = torch.optim.Adam if train.optimizer == "adam" else torch.optim.AdamW
    return kind(model.parameters(), rate, (train.momentum, train.beta2), weight_decay=decay, fused=True)


DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ],
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("fields", SETTINGS, ids=str)
def test_weights_are_those_of_torchs_own_classes(
    fields: dict[str, Any], order: torch.memory_format, device: str
) -> None:
    train = TrainSpec(learning_rate=0.05, **fields)
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)
    model = nn.Sequential(*layers).to(device, memory_format=order)
    twin = copy.deepcopy(model)
    pairs = (model, optim.build_optimizer(model, train)), (twin, torchs(train, twin))
    for _ in range(5):
        images = torch.randn(8, 3, 8, 8, device=device)
        for net, optimizer in pairs:
            optimizer.zero_grad()
            net(images).square().mean().backward()
            optimizer.step()
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_step_with_infinite_gradients_is_left_out(name: Any) -> None:
    """As `torch.amp.GradScaler` wants it; the step after goes on as if nothing had been."""
    train = TrainSpec(optimizer=name, learning_rate=0.1)
    models = [nn.Linear(2, 1), nn.Linear(2, 1)]
    models[1].load_state_dict(models[0].state_dict())
    for model, losses in zip(models, ([1.0, float("inf"), 2.0], [1.0, 2.0]), strict=True):
        optimizer, scaler = optim.build_optimizer(model, train), torch.amp.GradScaler("cpu")
        for factor in losses:
            optimizer.zero_grad()
            scaler.scale(model(torch.ones(1, 2)).sum() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict())


def test_an_optimizer_imports_no_compiler() -> None:
    """torch's own classes do at their first step, which takes more than a second."""
    import subprocess
    import sys

    code = (
        "import sys, torch; from hpsearch.study import TrainSpec; from hpsearch.training import optim\n"
        "model = torch.nn.Linear(2, 2); optimizer = optim.build_optimizer(model, TrainSpec())\n"
        "model(torch.ones(1, 2)).sum().backward(); optimizer.step(); optimizer.zero_grad()\n"
        "print('torch._dynamo' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
