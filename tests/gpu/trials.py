"""Trials, data and models of the GPU tests. Imports torch only where it is used."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch.contracts.trial import EndKind, EpochResult, TrialEnd, TrialRun
from tests.training.trials import make_run

if TYPE_CHECKING:
    from hpsearch.training.plain import PlainEngine

BASE: dict[str, Any] = {
    "data": {"dataset": "digits", "subset": 0.5},
    "model": {"name": "cnn", "args": {"width": 8, "hidden": 32, "dropout": 0.3, "norm": True}},
    "train": {"learning_rate": 0.05, "batch_size": 64, "epochs": 4},
}

AUGMENT = [
    {"name": "crop", "padding": 1},
    {"name": "rotate", "degrees": 10.0},
    {"name": "elastic", "alpha": 2.0},
    {"name": "contrast", "strength": 0.2},
    {"name": "erasing"},
    {"name": "mixup", "alpha": 0.4},
]


@dataclass(frozen=True)
class GpuData:
    """Data for a whole search: its line in the study file, its root, and what it is in words."""

    line: str
    root: str
    words: str


def made_up_fashion(path: Path) -> None:
    """Writes 60,000 training and 10,000 test images of 28 x 28 bytes: ten patterns under much noise."""
    import numpy as np

    generator = np.random.default_rng(0)
    patterns = generator.integers(0, 256, (10, 28, 28))
    arrays = {}
    for part, count in (("train", 60_000), ("test", 10_000)):
        labels = np.arange(count) % 10
        noise = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"x_{part}"] = (noise // 4 * 3 + patterns[labels] // 4).astype(np.uint8)
        arrays[f"y_{part}"] = labels
    np.savez(path, **arrays)


def run_of(folder: Path, *, number: int = 0, attempt: int = 1, **tables: Any) -> TrialRun:
    """Returns a trial of `BASE`, its tables changed where `tables` say so."""
    tree = {name: {**BASE.get(name, {}), **tables.get(name, {})} for name in {*BASE, *tables}}
    if "model" in tables:
        tree["model"] = tables["model"]
    return make_run(folder, number=number, attempt=attempt, **tree)


def train(engine: "PlainEngine", run: TrialRun, epochs: int | None = None) -> list[dict[str, float]]:
    """Admits a trial and trains so many epochs, or all that remain; returns all its metrics so far."""
    started = engine.admit(run)
    left = run.spec.train.epochs - len(started.curve)
    results = [item for _ in range(left if epochs is None else epochs) for item in engine.step()]
    assert all(isinstance(item, EpochResult) for item in results), results
    return [dict(r.metrics) for r in (*started.curve, *results) if isinstance(r, EpochResult)]


def finished(engine: "PlainEngine", run: TrialRun) -> tuple[list[dict[str, float]], dict[str, Any], TrialEnd]:
    """Trains a trial to its end; returns its metrics, its last weights and its end."""
    metrics = train(engine, run)
    assert engine._attempt is not None
    state = engine._attempt.trainings[0].learner.model.state_dict()
    weights = {name: tensor.clone() for name, tensor in state.items()}
    return metrics, weights, engine.evict(run.number, EndKind.FINISHED)


def different_sizes(folder: Path) -> Iterator[TrialRun]:
    """Yields 20 trials of different models, batches, optimizers and number types."""
    for number in range(20):
        yield run_of(
            folder / str(number),
            number=number,
            model={"name": "cnn", "args": {"width": 4 * 2 ** (number % 5), "hidden": 16 * (1 + number % 7)}},
            train={
                "batch_size": ("full", 512, 128, 33)[number % 4],
                "optimizer": ("sgd", "adam", "adamw")[number % 3],
                "precision": ("bfloat16", "float32", "float16", "float64")[number // 2 % 4],
                "ema_decay": 0.9 if number % 2 else None,
                "learning_rate": 0.001,
                "epochs": 2,
            },
        )
