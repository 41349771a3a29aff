"""Which memory format a CPU trains a model faster in: what `models.choose_memory_format` goes by.

    python tests/benchmarks/memory_order.py [--rounds 7]

One thread, random images; the formats take turns, medians of the milliseconds of a whole training step.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from hpsearch.study import ModelSpec, TrainSpec
from hpsearch.training import models, optim
from hpsearch.training.device import describe

CASES = {  # name: arguments, channels, side, batch size
    "cnn": ({"width": 16}, 1, 8, 16),
    "cnn ": ({"width": 32}, 1, 28, 128),
    "resnet18": ({}, 3, 32, 16),
    "resnet18 ": ({}, 3, 32, 64),
    "resnet50": ({}, 3, 64, 8),
    "mobilenet_v3_small": ({}, 3, 32, 32),
    "efficientnet_b0": ({}, 3, 64, 8),
    "shufflenet_v2_x0_5": ({}, 3, 64, 32),
    "squeezenet1_1": ({}, 3, 64, 32),
    "densenet121": ({}, 3, 32, 8),
    "resnext50_32x4d": ({}, 3, 64, 4),
    "convnext_tiny": ({}, 3, 64, 4),
    "vgg11": ({}, 3, 32, 16),
}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def step(model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> Callable[[], None]:
    """Returns one training step."""
    optimizer = optim.build_optimizer(model, TrainSpec(learning_rate=0.001))

    def run() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), targets).backward()
        optimizer.step()

    return run


def measure(name: str, rounds: int) -> str:
    """Returns a line about one model: both formats, their ratio, and which one is chosen."""
    arguments, channels, side, batch = CASES[name]
    spec, size = ModelSpec(name=name.strip(), args=arguments), (side, side)
    steps = {}
    for kind, memory_format in FORMATS.items():
        model = models.build(spec, channels, size, 10, seed=0).to(memory_format=memory_format)
        images = torch.randn(batch, channels, side, side).to(memory_format=memory_format)
        steps[kind] = step(model, images, torch.randint(0, 10, (batch,)))
    times: dict[str, list[float]] = {kind: [] for kind in steps}
    for run in steps.values():
        run()
    for _ in range(rounds):
        for kind, run in steps.items():
            began, count = time.perf_counter(), 0
            while time.perf_counter() - began < 0.2 or count < 2:
                run()
                count += 1
            times[kind].append((time.perf_counter() - began) / count * 1e3)
    found = {kind: statistics.median(values) for kind, values in times.items()}
    model = models.build(spec, channels, size, 10, seed=0)
    chosen = models.choose_memory_format(model, torch.device("cpu"), channels, size, half=False)
    share = found["channels_last"] / found["contiguous"]
    name = f"{spec.name} {channels} x {side} x {side}, batch {batch}"
    return f"{name:44} {found['contiguous']:8.2f} {found['channels_last']:8.2f} ms  {share:.2f}  {chosen}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--rounds", type=int, default=7)
    rounds = options.parse_args().rounds
    torch.set_num_threads(1)
    print(f"{describe(torch.device('cpu'))}, torch {torch.__version__}, python {platform.python_version()}")
    for name in CASES:
        print(measure(name, rounds), flush=True)


if __name__ == "__main__":
    main()
