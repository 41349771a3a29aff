"""What it gains to refit with several seeds and to take the one with the lowest training loss, and where to end.

    python -m tests.benchmarks.refits FASHION_MNIST_FOLDER PHOTOGRAPH... [--sets fashion,patches] [--seeds 3]
    python -m tests.benchmarks.refits FASHION_MNIST_FOLDER PHOTOGRAPH... --ends

The sets are those of `tuning.py`. Configurations as a search of `hpsearch init` might find them are trained three times
each, on equal pictures, from three seeds; learning rates and lengths are drawn by chance. For each configuration the
mean over all that one seed can give is compared with the mean over what the better of two, and the best of three,
give: by training loss, the error on sealed pictures counts. Printed are differences of the test error and of the test
loss, their standard error over the configurations, and the worst configuration.

With --ends each configuration is trained on the training part, until patience ends it, and then on training and
validation part together. Compared are, by the test part, the refit's weights after as many epochs as the first was
trained, after all that were planned, and after a schedule of its own that is as short as the first's best epoch, with
those after its best epoch.
"""

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Sequence
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


Ends = dict[str, tuple[float, float]]
"""Test error and test loss by where a refit ended."""


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
    parser.add_argument("--ends", action="store_true")
    args = parser.parse_args()
    tasks = [(args, name, seed) for name in args.sets.split(",") for seed in range(args.seeds)]
    with get_context("spawn").Pool(args.processes) as pool:
        if args.ends:
            show_ends(pool.imap_unordered(ended, tasks))
        else:
            show_refits(pool.imap_unordered(refitted, tasks))


def show_refits(done: Iterable[tuple[str, list[list[Refit]]]]) -> None:
    """Prints what several seeds gain."""
    found: dict[str, list[list[Refit]]] = {}
    for name, refits in done:
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


def show_ends(done: Iterable[tuple[str, list[Ends]]]) -> None:
    """Prints what each end gains on each set and on all of them."""
    found: dict[str, list[Ends]] = {}
    for name, ends in done:
        found.setdefault(name, []).extend(ends)
    found["all"] = [one for ends in found.values() for one in ends]
    for name, ends in found.items():
        for place, what in enumerate(("error", "loss")):
            alone = mean(each["best epoch"][place] for each in ends)
            print(f"{name}, {len(ends)} configurations: test {what} at the best epoch {alone:.3f}")
            for end in list(ends[0])[1:]:
                gains = [each[end][place] - each["best epoch"][place] for each in ends]
                print(f"  {end}, in hundredths: {shown(gains)}, worst {100 * max(gains):+.1f}")


def ended(task: tuple[argparse.Namespace, str, int]) -> tuple[str, list[Ends]]:
    """Trains the configurations of one set's pictures of one seed, and then again on both parts."""
    args, name, seed = task
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="refits-") as folder:
        search, both = Path(folder, "search"), Path(folder, "both")
        search.mkdir()
        both.mkdir()
        x_test, y_test = write_set(search / "data.npz", name, args, seed)
        with np.load(search / "data.npz") as parts:
            joined = {
                f"{axis}_train": np.concatenate([parts[f"{axis}_train"], parts[f"{axis}_val"]])
                for axis in "xy"
            }
        np.savez(both / "data.npz", **joined, x_val=x_test, y_val=y_test)
        rng = np.random.default_rng(seed)
        return name, [
            _ends(search, both, 1000 * seed + place, drawn(rng, args.side))
            for place in range(args.configurations)
        ]


def _ends(search: Path, both: Path, seed: int, fields: Fields) -> Ends:
    results, _ = trained(search, seed, fields)
    losses = [one.metrics["val_loss"] for one in results]
    planned = len(losses)
    best = last = 0
    for last, loss in enumerate(losses):
        if loss < losses[best]:
            best = last
        if last - best >= max(3, planned // 5):
            break
    refit, _ = trained(both, seed + 500, fields)
    short, _ = trained(both, seed + 500, {**fields, "train.epochs": best + 1})
    epochs = {
        "best epoch": refit[best],
        "last epoch": refit[last],
        "all": refit[-1],
        "a shorter schedule": short[-1],
    }
    return {end: (one.metrics["val_error"], one.metrics["val_loss"]) for end, one in epochs.items()}


def drawn(rng: np.random.Generator, side: int) -> Fields:
    """Returns a configuration of the space that `hpsearch init` proposes for a small network."""
    return {
        "model.name": "cnn",
        "model.args": {"width": 16, "norm": True, "pool": True},
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
