"""The loops that `tests/benchmarks/gpu.py` compares, all on the same random images.

ours      the plain engine
bare      what one writes by hand at its best: normalised floats that lie ready on the device, indexed by
          batch; the same model, number types, memory order and optimizer: the ceiling
common    what most people write: a data set that makes an image of each array and transforms it, a
          DataLoader, float32, the loss fetched at every step
"""

import contextlib
import copy
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import v2

from hpsearch.contracts.trial import EpochResult, TrialRun
from hpsearch.study import parse_study
from hpsearch.training import device as devices
from hpsearch.training.build import build_engine
from hpsearch.training.plain import PlainEngine

WAITS = {"cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy"}
AUGMENT = [{"name": "crop", "padding": 4}, {"name": "flip", "horizontal": 0.5}]


@dataclass(frozen=True)
class Case:
    """A model, its images, and how many steps are timed at once."""

    model: str
    shape: tuple[int, int, int]
    samples: int
    steps: int
    classes: int = 10


CASES = {
    "mlp": Case("mlp", (1, 28, 28), 60_000, 600),
    "cnn": Case("cnn", (1, 28, 28), 60_000, 600),
    "resnet18": Case("resnet18", (3, 32, 32), 50_000, 100),
    "resnet50": Case("resnet50", (3, 224, 224), 4_096, 20),
}


def random_images(case: Case, folder: Path) -> Path:
    """Writes a data set of random bytes once: all for training, a ninth more to validate, a few to test."""
    path = folder / f"{'x'.join(map(str, case.shape))}-{case.samples}.npz"
    if not path.exists():
        generator, arrays = np.random.default_rng(0), {}
        parts = {"train": case.samples, "val": max(20, case.samples // 9), "test": 20}
        for part, count in parts.items():
            shape = (count, *case.shape)
            arrays[f"x_{part}"] = generator.integers(0, 256, shape, dtype=np.uint8)
            arrays[f"y_{part}"] = np.arange(count) % case.classes
        np.savez(path, **arrays)
    return path


class Ours:
    """The plain engine with one trial in it."""

    def __init__(self, case: Case, batch: int, device: torch.device, folder: Path, **tables: Any) -> None:
        steps = min(case.steps, case.samples // batch)
        tree: dict[str, Any] = {
            "study": {"name": "bench"},
            "data": {"dataset": "npz", "root": str(random_images(case, folder)), "on_duplicates": "warn"},
            "model": {"name": case.model},
            "train": {"batch_size": batch, "epochs": 1000, "steps_per_epoch": steps, "schedule": "constant"},
            "search": {"learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}},
        }
        for name, values in tables.items():
            tree[name] = {**tree[name], **values}
        spec = parse_study(tree)
        built, _ = build_engine(spec, device, cache=str(folder / "cache"))
        assert isinstance(built, PlainEngine)
        self.engine, self.device, self._epoch = built, device, 0
        label = f"{case.model}-{batch}-{time.monotonic_ns()}"
        built.admit(TrialRun("bench", 0, 1, {}, spec, str(folder / "trials" / label)))
        assert built._training is not None
        self.training = built._training
        self.samples = self.training._samples

    def train(self) -> int:
        """Trains an epoch's steps; returns the samples seen."""
        self._epoch += 1
        self.training.train_epoch(self._epoch)
        return self.samples

    def whole_epoch(self) -> EpochResult:
        """Trains, validates and checkpoints an epoch as in a search."""
        result = self.engine.step()[0]
        assert isinstance(result, EpochResult), result
        return result

    def waits(self, work: Callable[[], object]) -> int | None:
        """Counts by the profiler how often the host waits for the device; None on a CPU."""
        if self.device.type != "cuda":
            return None
        counts = []
        for profiled in (work, lambda: None):  # the profiler waits too
            torch.cuda.synchronize()
            with profile(activities=[ProfilerActivity.CUDA]) as found:
                profiled()
            counts.append(sum(one.count for one in found.key_averages() if one.key in WAITS))
        return counts[0] - counts[1]

    def costliest(self, work: Callable[[], object], count: int) -> list[dict[str, Any]]:
        """Returns the kernels (on a CPU: the operations) that take most of some work's time."""
        cuda = self.device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        with profile(activities=activities) as found:
            work()
            if cuda:
                torch.cuda.synchronize()
        # The operations that launch kernels, and named stretches of a step, have the same time once more.
        kind = DeviceType.CUDA if cuda else DeviceType.CPU
        events = [
            one for one in found.key_averages() if one.device_type == kind and not one.is_user_annotation
        ]
        taken = {
            one.key: (one.self_device_time_total if cuda else one.self_cpu_time_total, one.count)
            for one in events
        }
        total = sum(microseconds for microseconds, _ in taken.values())
        return [
            {"operation": name[:70], "ms": microseconds / 1e3, "share": microseconds / total, "calls": calls}
            for name, (microseconds, calls) in sorted(taken.items(), key=lambda item: -item[1][0])[:count]
        ]

    def close(self) -> None:
        self.engine.close()


class Bare:
    """Loops over tensors that lie ready on the device.

    Args:
        ours: whose model, data and number types are taken.
    """

    def __init__(
        self, ours: Ours, batch: int, autocast: torch.dtype | None, channels_last: bool, graph: bool = False
    ) -> None:
        training, device = ours.training, ours.device
        learner, data = training._learner, training._data
        self.images, self.targets = data.batch(data.train, slice(None))
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self.images = self.images.to(memory_format=self._format)
        self.model = copy.deepcopy(learner.model).to(memory_format=self._format).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, fused=True)
        self.device, self.batch, self.autocast = device, batch, autocast
        self.steps = ours.samples // batch
        self._graph = self._capture() if graph else None

    def _step(self, images: Tensor, targets: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            loss = nn.functional.cross_entropy(self.model(images), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def _capture(self) -> "torch.cuda.CUDAGraph":
        """Records one whole step as a CUDA graph, to see what launching kernel by kernel costs."""
        self._inputs = self.images[: self.batch].clone(), self.targets[: self.batch].clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step(*self._inputs)
        return graph

    def train(self) -> int:
        """Trains the same number of steps; returns the samples seen."""
        order = torch.randperm(len(self.images), device=self.device)
        for index in order[: self.steps * self.batch].split(self.batch):
            images, targets = self.images[index], self.targets[index]
            if self._graph is None:
                self._step(images, targets)
            else:
                self._inputs[0].copy_(images)
                self._inputs[1].copy_(targets)
                self._graph.replay()
        return self.steps * self.batch


def pictures(path: Path, part: str, augment: bool = False) -> "Pictures":
    """Returns a part of `random_images`."""
    with np.load(path) as arrays:
        return Pictures(arrays[f"x_{part}"], arrays[f"y_{part}"], augment)


def transform(channels: int, height: int, augment: bool) -> nn.Module:
    """Returns what makes a normalised tensor of an image object."""
    steps: list[nn.Module] = [v2.RandomCrop(height, padding=4)] if augment else []
    steps += [v2.RandomHorizontalFlip()] if augment else []
    mean, std = [0.5] * channels, [0.25] * channels
    return v2.Compose([*steps, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])


class Pictures(Dataset[tuple[Tensor, int]]):
    """A data set as torchvision's are: an image object for each array, then its transforms.

    Args:
        images: bytes of shape [N, C, H, W].
    """

    def __init__(self, images: Any, targets: Any, augment: bool = False) -> None:
        channels, height = images.shape[1:3]
        self.images = images[:, 0] if channels == 1 else np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        self.targets = targets.tolist()
        self.transform = transform(channels, height, augment)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.targets[index]


class Common:
    """The loop of most tutorials.

    What is timed goes at the loaders' own pace: as much is in work at its end as at its beginning, and nothing
    of it was made while others had their turn.

    Args:
        model: on the device; it is trained on.
        steps: to be timed, or a few more: a multiple of what the loaders prefetch.
    """

    def __init__(
        self, data: Pictures, model: nn.Module, batch: int, device: torch.device, steps: int, workers: int
    ) -> None:
        self.ahead = max(1, 2 * workers)  # batches that a DataLoader has in work
        self.steps = max(1, -(-steps // self.ahead)) * self.ahead
        drawn = RandomSampler(data, replacement=True, num_samples=(2 * self.ahead + self.steps) * batch)
        self.loader = DataLoader(
            data, batch, sampler=drawn, num_workers=workers, persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )  # fmt: skip
        self.model, self.device, self.batch = model.train(), device, batch
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        self._batches: Iterator[Any] = iter(())

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Lets the loaders run up before, and run out afterwards."""
        self._batches = iter(self.loader)
        for _ in range(self.ahead):
            next(self._batches)
        yield
        for _ in self._batches:
            pass

    def train(self) -> int:
        """Trains a turn's steps; returns the samples seen."""
        for images, targets in itertools.islice(self._batches, self.steps):
            images, targets = images.to(self.device), targets.to(self.device)
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(images), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            loss.item()
        return self.steps * self.batch


def as_torch_comes(work: Callable[[], int], tf32: bool = True, benchmark: bool = False) -> Callable[[], int]:
    """Lets a contestant run with the kernels that torch chooses by itself, repeatable or not.

    Args:
        tf32: of the study, which is set again afterwards.
        benchmark: lets cuDNN try its kernels and take the fastest.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul

    def freely() -> int:
        cudnn.deterministic, cudnn.benchmark = False, benchmark
        cudnn.allow_tf32, matmul.allow_tf32 = True, False
        try:
            return work()
        finally:
            devices.choose_repeatable_kernels()
            devices.allow_tf32(tf32)

    return freely


def seconds(work: Callable[[], int], device: torch.device) -> tuple[float, int]:
    """Returns how long some work took, to the end of its last kernel, and its samples."""
    if device.type != "cuda":
        began = time.perf_counter()
        samples = work()
        return time.perf_counter() - began, samples
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    samples = work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3, samples


def rates(
    works: Mapping[str, Callable[[], int]],
    device: torch.device,
    rounds: int,
    turns: Mapping[str, Callable[[], contextlib.AbstractContextManager[None]]] | None = None,
) -> dict[str, list[float]]:
    """Returns samples per second of each round, the contestants taking turns, after one round of warm-up.

    Args:
        turns: what contestants do before and after their turns, untimed.
    """
    around = turns or {}
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            with around.get(name, contextlib.nullcontext)():
                taken, samples = seconds(work, device)
            if number:
                found[name].append(samples / taken)
    devices.release(device)
    return found
