"""The plain engine against a bare loop over resident tensors: samples per second in training, as a ratio.

    python -m tests.benchmarks.plain_loop [batch size] [rounds]

Digits, the small cnn, SGD with momentum and cosine decay; the two take turns, epoch by epoch, on one CPU
thread, so that a busy machine slows both.
"""

import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpsearch.contracts.trial import EpochResult, TrialRun
from hpsearch.study import parse_study
from hpsearch.training.build import build_engine
from hpsearch.training.data import Prepared, load

EPOCHS = 200


def study(batch_size: int) -> Any:
    return parse_study(
        {
            "study": {"name": "bench"},
            "data": {"dataset": "digits"},
            "model": {"name": "cnn", "args": {"width": 16, "blocks": 1, "hidden": 64}},
            "train": {"batch_size": batch_size, "epochs": EPOCHS},
            "search": {"learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}},
        }
    )


def bare_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


class BareLoop:
    """What one writes by hand, at its best: normalised floats that lie ready, indexed by batch."""

    def __init__(self, data: Prepared, batch_size: int) -> None:
        self.images, self.targets = data.batch(data.train, slice(None))
        self.batch_size = batch_size
        self.model = bare_model()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, EPOCHS)

    def epoch(self) -> float:
        """Returns the seconds of one epoch."""
        began = time.perf_counter()
        self.model.train()
        for index in torch.randperm(len(self.images)).split(self.batch_size):
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(self.images[index]), self.targets[index])
            loss.backward()
            self.optimizer.step()
        self.schedule.step()
        return time.perf_counter() - began


def main() -> None:
    batch_size = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 30
    torch.set_num_threads(1)
    spec, device = study(batch_size), torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        engine, _ = build_engine(spec, device, cache=str(cache))
        bare = BareLoop(load(spec.data, cache=cache, device=device).at(spec.data), batch_size)
        engine.admit(TrialRun("bench", 0, 1, {}, spec, f"{folder}/00000"))
        ours, theirs, validation, saving = [], [], [], []
        for _ in range(rounds + 2):
            theirs.append(bare.epoch())
            result = engine.step()[0]
            assert isinstance(result, EpochResult)
            ours.append(result.seconds - result.eval_seconds - result.checkpoint_seconds)
            validation.append(result.eval_seconds)
            saving.append(result.checkpoint_seconds)
        engine.close()
    # The first two rounds warm both up.
    ratios = [b / a for a, b in zip(ours[2:], theirs[2:], strict=True)]
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, 1 thread, n = {rounds}")
    print(
        f"batch {batch_size}: bare loop {_ms(theirs)}, plain engine {_ms(ours)} ms per epoch (median, best)"
    )
    median, best = statistics.median(ratios), min(theirs[2:]) / min(ours[2:])
    print(f"share of the bare loop's samples/s: median {median:.3f}, best {best:.3f}")
    print(f"validation {_ms(validation)}, checkpoint {_ms(saving)} ms per epoch")


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds[2:]) * 1e3:.1f} ({min(seconds[2:]) * 1e3:.1f})"


if __name__ == "__main__":
    main()
