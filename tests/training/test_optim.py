"""Schedules against closed forms and torch's own, learning rates by group, clipping, averages."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils._python_dispatch import TorchDispatchMode

from hpsearch.errors import ModelError
from hpsearch.study import TrainSpec
from hpsearch.training import optim
from hpsearch.training.losses import EpochMetrics, training_loss
from tests.gpu.waiting import no_waiting
from tests.training.nets import Tied

CPU = torch.device("cpu")


def line() -> nn.Linear:
    """The model y = w x + b with w = b = 1."""
    model = nn.Linear(1, 1, dtype=torch.float64)
    nn.init.ones_(model.weight)
    nn.init.ones_(model.bias)
    return model


def test_clipping_keeps_the_direction() -> None:
    # The gradient (3, 4) has the norm 5; scaled to 1 it is (0.6, 0.8).
    parameter = nn.Parameter(torch.zeros(2))
    for limit, expected in ((1.0, [0.6, 0.8]), (10.0, [3.0, 4.0])):
        parameter.grad = torch.tensor([3.0, 4.0])
        assert optim.clip([parameter], limit) == 5.0
        assert parameter.grad.tolist() == pytest.approx(expected, rel=1e-5)


EPOCHS, STEPS = 7, 5


def optimizer_at(rate: float) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate, "base_lr": rate}])


def rates_of(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def rates(
    train: TrainSpec, losses: list[float] | None = None, epochs: int = EPOCHS, steps: int = STEPS
) -> list[float]:
    """Returns the learning rate of each step of a trial, for a validation loss of each epoch."""
    optimizer, found = optimizer_at(train.learning_rate), list[float]()
    schedule = optim.Schedule(optimizer, train, epochs, steps)
    for epoch in range(epochs):
        for _ in range(steps):
            found += rates_of(optimizer)
            schedule.step()
        schedule.epoch_end(losses[epoch] if losses else 1.0)
    return found


def torchs(
    make: Callable[[torch.optim.Optimizer], Any], losses: list[float] | None = None, per_step: bool = False
) -> list[float]:
    """Returns the learning rates of one of torch's schedulers, stepped per epoch or per step."""
    optimizer = optimizer_at(0.2)
    scheduler, found = make(optimizer), []
    for epoch in range(EPOCHS):
        for step in range(STEPS):
            found.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            if per_step and (epoch, step) != (EPOCHS - 1, STEPS - 1):
                scheduler.step()
        if not per_step:
            scheduler.step(*([losses[epoch]] if losses else []))
    return found


WAVES = [1.0, 0.9, 0.95, 0.9, 0.90001, 0.89, 0.899999]


@pytest.mark.parametrize(
    ("fields", "make", "per_step"),
    [
        ({"schedule": "constant"}, lambda o: lr_scheduler.ConstantLR(o, 1.0), False),
        ({"schedule": "cosine"}, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=EPOCHS), False),
        (
            {"schedule": "step", "step_every": 0.3, "step_gamma": 0.5},  # 0.3 of 7 epochs is 2
            lambda o: lr_scheduler.StepLR(o, step_size=2, gamma=0.5),
            False,
        ),
        (
            {"schedule": "step", "step_every": 3.0},
            lambda o: lr_scheduler.StepLR(o, step_size=3, gamma=0.1),
            False,
        ),
        (
            {"schedule": "one_cycle"},
            lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=EPOCHS * STEPS, cycle_momentum=False),
            True,
        ),
    ],
)
def test_schedules_are_torchs_own(
    fields: dict[str, Any], make: Callable[[torch.optim.Optimizer], Any], per_step: bool
) -> None:
    assert rates(TrainSpec(learning_rate=0.2, **fields)) == pytest.approx(
        torchs(make, None, per_step), rel=1e-9
    )


@pytest.mark.parametrize("patience", [0, 1, 2])
def test_plateau_is_torchs_own(patience: int) -> None:
    train = TrainSpec(learning_rate=0.2, schedule="plateau", plateau_patience=patience, step_gamma=0.5)
    expected = torchs(lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=patience), WAVES)
    assert rates(train, WAVES) == pytest.approx(expected)
    assert len(set(expected)) > 1


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1]),
        ("cosine", [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        ("step", [1, 0.1, 0.01, 0.001]),
        ("plateau", [1, 1, 0.1, 0.01]),  # of a flat validation loss, patience 0: the first is the best so far
    ],
)
def test_schedules_are_their_closed_forms(schedule: Any, expected: list[float]) -> None:
    train = TrainSpec(learning_rate=1.0, schedule=schedule, step_every=0.25, plateau_patience=0)
    assert rates(train, epochs=4, steps=1) == pytest.approx(expected)


def test_one_cycle_climbs_and_falls() -> None:
    # 20 steps: the peak is at step 0.3 * 20 - 1 = 5, the start at 1/25, the end at 1/25/10^4.
    found = rates(TrainSpec(learning_rate=1.0, schedule="one_cycle"), epochs=4, steps=5)
    assert found[0] == pytest.approx(1 / 25)
    assert found[5] == pytest.approx(1.0) == max(found)
    assert found[-1] == pytest.approx(4e-6)


def test_wsd_is_constant_until_its_cooldown() -> None:
    # 20 steps, of which the last 0.2 * 20 = 4 cool down.
    found = rates(TrainSpec(learning_rate=1.0, schedule="wsd"), epochs=4, steps=5)
    assert found == pytest.approx([1.0] * 17 + [0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75)])


def test_a_short_trial_of_wsd_is_the_beginning_of_a_long_one() -> None:
    train = TrainSpec(learning_rate=1.0, schedule="wsd")
    assert rates(train, epochs=10, steps=5)[:40] == rates(train, epochs=40, steps=5)[:40]


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 2), (2, 1), (1, 3), (1, 4)])
@pytest.mark.parametrize("schedule", list(optim.FACTORS))
def test_the_shortest_trials_have_rates(schedule: Any, epochs: int, steps: int) -> None:
    found = rates(TrainSpec(learning_rate=1.0, schedule=schedule), epochs=epochs, steps=steps)
    assert all(0 < rate <= 1 for rate in found)


def test_warmup_grows_linearly_over_its_steps() -> None:
    # 0.8 epochs of 5 steps are 4 steps.
    train = TrainSpec(learning_rate=2.0, schedule="constant", warmup_epochs=0.8)
    assert rates(train, epochs=2) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    cosine = TrainSpec(learning_rate=2.0, schedule="cosine", warmup_epochs=0.8)
    assert rates(cosine, epochs=2) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("schedule", list(optim.FACTORS))
def test_a_schedule_goes_on_from_its_state(schedule: Any) -> None:
    train = TrainSpec(schedule=schedule, warmup_epochs=1.5, plateau_patience=0)
    one = optimizer_at(0.05)
    unbroken = optim.Schedule(one, train, EPOCHS, STEPS)
    for epoch in range(EPOCHS):
        other = optimizer_at(0.05)
        resumed = optim.Schedule(other, train, EPOCHS, STEPS)
        resumed.load_state_dict(unbroken.state_dict())
        assert rates_of(other) == rates_of(one)
        for _ in range(STEPS):
            unbroken.step()
        unbroken.epoch_end(WAVES[epoch])


def test_a_loss_that_is_no_number_is_no_improvement() -> None:
    train = TrainSpec(learning_rate=1.0, schedule="plateau", plateau_patience=0, step_gamma=0.5)
    assert rates(train, [math.nan, 1.0, math.nan, 0.5], epochs=4, steps=1) == [1.0, 0.5, 0.5, 0.25]


def test_learning_rates_by_pattern() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    train = TrainSpec(learning_rate=0.1, schedule="cosine", lr_multipliers={"1.bias": 5.0, "1.*": 10.0})
    optimizer = optim.build_optimizer(model, train)
    schedule = optim.Schedule(optimizer, train, 2, 1)
    sizes = [sum(parameter.numel() for parameter in group["params"]) for group in optimizer.param_groups]
    assert sizes == [6, 4, 2]
    assert rates_of(optimizer) == pytest.approx([0.1, 1.0, 0.5])
    schedule.epoch_end(1.0)
    assert rates_of(optimizer) == pytest.approx([0.05, 0.5, 0.25])


@pytest.mark.parametrize(
    ("multipliers", "message"),
    [
        ({"fc.*": 2.0}, r'train\.lr_multipliers: "fc\.\*" matches no parameter'),
        ({"weight": 0.0}, r'"weight" is 0, which must be above 0; .* belong into model\.freeze'),
    ],
)
def test_multipliers_that_make_no_sense_are_refused(multipliers: dict[str, float], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        optim.build_optimizer(line(), TrainSpec(lr_multipliers=multipliers))


def test_the_average_is_that_of_its_formula() -> None:
    # Weights 1, then 2, 3, 4; d = 0.15: at most (1 + n) / (10 + n) = 1/10, 2/11, 3/12.
    # 0.1 * 1 + 0.9 * 2 = 1.9; 0.15 * 1.9 + 0.85 * 3 = 2.835; 0.15 * 2.835 + 0.85 * 4 = 3.82525
    model = line()
    ema = optim.Ema(model, 0.15)
    for weight, expected in ((2.0, 1.9), (3.0, 2.835), (4.0, 3.82525)):
        nn.init.constant_(model.weight, weight)
        ema.update(model)
        with ema.swapped(model):
            assert model.weight.item() == pytest.approx(expected, rel=1e-12)
        assert model.weight.item() == weight


def test_a_constant_is_its_own_average() -> None:
    model = Tied()
    before = copy.deepcopy(model.state_dict())
    ema = optim.Ema(model, 0.9)
    for _ in range(5):
        ema.update(model)
    with ema.swapped(model):
        torch.testing.assert_close(model.state_dict(), before)


def test_own_weights_come_back_even_when_tied_and_after_errors() -> None:
    model = Tied()
    ema = optim.Ema(model, 0.9)
    with torch.no_grad():
        model.first.weight.add_(1)
    model(torch.rand(4, 4))  # moves BatchNorm's statistics and its counter
    ema.update(model)
    before = copy.deepcopy(model.state_dict())

    def fail_inside() -> None:
        with ema.swapped(model):
            assert not torch.equal(model.first.weight, before["first.weight"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    after = model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_an_average_goes_on_from_its_state() -> None:
    model = line()
    first, second = optim.Ema(model, 0.99), optim.Ema(model, 0.99)
    nn.init.constant_(model.weight, 3.0)
    first.update(model)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    nn.init.constant_(model.weight, 4.0)
    for ema in (first, second):
        ema.update(model)
    assert torch.equal(first.state_dict()["average"]["weight"], second.state_dict()["average"]["weight"])
    assert second.state_dict()["updates"] == 2


class HostReads(TorchDispatchMode):
    """Counts reads of tensors by the host, which on a GPU would make it wait."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def one_step(device: torch.device, train: TrainSpec) -> Callable[[], Tensor]:
    """Returns a training step and a validation batch, with everything on."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)).to(device)
    optimizer = optim.build_optimizer(model, train)
    schedule = optim.Schedule(optimizer, train, 3, 2)
    counts = torch.ones(8, dtype=torch.int64, device=device)
    loss, ema = training_loss(train, "classification", counts), optim.Ema(model, 0.9)
    metrics = EpochMetrics(train, "classification", 8, device)
    images, targets = torch.rand(4, 16, device=device), torch.arange(4, device=device)

    def step() -> Tensor:
        optimizer.zero_grad()
        value = loss(model(images), targets)
        value.backward()
        optim.clip(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.update(model)
        with ema.swapped(model), torch.no_grad():
            metrics.update(model(images), targets)
        return value

    return step


FULL = [
    TrainSpec(optimizer=optimizer, schedule="one_cycle", class_weights="balanced", label_smoothing=0.1)
    for optimizer in ("sgd", "adam", "adamw")
]


@pytest.mark.parametrize("train", FULL, ids=lambda train: train.optimizer)
def test_the_host_reads_nothing_within_an_epoch(train: TrainSpec) -> None:
    step = one_step(CPU, train)
    with HostReads() as reads:
        value = step()
        assert reads.count == 0
        value.item()
    assert reads.count == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("train", FULL, ids=lambda train: train.optimizer)
def test_the_host_never_waits_for_the_gpu(train: TrainSpec) -> None:
    step = one_step(torch.device("cuda"), train)
    step()
    with no_waiting():
        step()
