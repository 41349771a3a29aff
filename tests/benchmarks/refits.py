"""What it gains to refit with several seeds and to take the one with the lowest training loss.

    python -m tests.benchmarks.refits FASHION_MNIST_FOLDER PHOTOGRAPH... [--sets fashion,patches] [--seeds 3]

The sets are those of `tuning.py`. Configurations as a search of `hpsearch init` might find them are trained three times
each, on equal pictures, from three seeds; learning rates and lengths are drawn by chance. For each configuration the
mean over all that one seed can give is compared with the mean over what the better of two, and the best of three,
give: by training loss, the error on sealed pictures counts. Printed are differences of the test error and of the test
loss, their standard error over the configurations, and the worst configuration.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from itertools import combinations
from multiprocessing import get_context
from operator import attrgetter
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from hpsearch.training.saved import load_model
from tests.benchmarks.tuning import Fields, shown, trained, write_set

REFITS = 3


class Refit(NamedTuple):
    train_loss: float
    error: float
    loss: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fashion", type=Path, metavar="FASHION_MNIST_FOLDER")
    parser.add_argument("photographs", type=Path, nargs="*", metavar="PHOTOGRAPH")
    parser.add_argument("--sets", default="fashion,patches,scenes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--configurations", type=int, default=6, help="for each seed")
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    tasks = [(args, name, seed) for name in args.sets.split(",") for seed in range(args.seeds)]
    found: dict[str, list[list[Refit]]] = {}
    with get_context("spawn").Pool(args.processes) as pool:
        for name, refits in pool.imap_unordered(refitted, tasks):
            found.setdefault(name, []).extend(refits)
    for name, refits in found.items():
        for what in ("error", "loss"):
            value = attrgetter(what)
            alone = [mean(map(value, each)) for each in refits]
            print(f"{name}, {len(refits)} configurations: test {what} of one {mean(alone):.3f}")
            for count in range(2, REFITS + 1):
                gains = [
                    mean(value(min(some)) for some in combinations(each, count)) - one
                    for each, one in zip(refits, alone, strict=True)
                ]
                print(f"  the best of {count}, in hundredths: {shown(gains)}, worst {100 * max(gains):+.1f}")


def refitted(task: tuple[argparse.Namespace, str, int]) -> tuple[str, list[list[Refit]]]:
    """Trains the configurations of one set's pictures of one seed."""
    args, name, seed = task
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="refits-") as folder:
        test = write_set(Path(folder) / "data.npz", name, args, seed)
        rng = np.random.default_rng(seed)
        return name, [
            list(_refits(Path(folder), drawn(rng, args.side), seed, test)) for _ in range(args.configurations)
        ]


def drawn(rng: np.random.Generator, side: int) -> Fields:
    """Returns a configuration of the space that `hpsearch init` proposes for a small network."""
    return {
        "model.name": "cnn",
        "model.args": {"width": 16, "norm": True},
        "data.image_size": side,
        "data.augment": ["photo", []][rng.integers(2)],
        "train.learning_rate": float(10 ** rng.uniform(-3.5, -2)),
        "train.batch_size": int(rng.choice([16, 32, 64])),
        "train.epochs": int(rng.choice([8, 12, 20])),
    }


def _refits(folder: Path, fields: Fields, seed: int, test: tuple[np.ndarray, np.ndarray]) -> Iterator[Refit]:
    for refit in range(REFITS):
        results, weights = trained(folder, 1000 * seed + refit, fields)
        last: Sequence[float] = [one.metrics["train_loss"] for one in results]
        outputs = _outputs(weights, test[0])
        labels = torch.from_numpy(test[1])
        wrong = (outputs.argmax(1) != labels).double().mean()
        yield Refit(last[-1], float(wrong), float(cross_entropy(outputs.double(), labels)))


def _outputs(weights: Path, images: np.ndarray) -> torch.Tensor:
    model = load_model(weights)
    with torch.inference_mode():
        return torch.cat([model(one) for one in torch.from_numpy(images).permute(0, 3, 1, 2).split(256)])


if __name__ == "__main__":
    main()
