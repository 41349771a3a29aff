"""What stages, and rates that fall from block to block, gain in fine-tuning, and what features computed once save.

    python -m tests.benchmarks.tuning FASHION_MNIST_FOLDER [--seeds 3] [--images 300] [--epochs 10]

Trains torchvision's ResNet-18 on images of Fashion-MNIST of 32 pixels, keeps its weights as a file, and starts from
them on a few of two other sets: the digits, and patches of photographs that come with Python packages. Each way is
trained at three learning rates and keeps the one with the lowest validation loss; its error on the sealed test part is
printed, the mean over the seeds and its standard error, and each way's difference from plain fine-tuning over the same
seeds. Then the first stage alone is timed with features and without, in processor time.
"""

import argparse
import gzip
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from hpsearch.contracts.trial import EndKind, EpochResult, TrialRun
from hpsearch.study import parse_study
from hpsearch.training.build import build_engine
from hpsearch.training.saved import load_model

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "the last layer ten times faster": {"lr_multipliers": {"fc.*": 10.0}},
    "stages": {"stages": ["head", "all"]},
    "stages, rate 0.3": {"stages": ["head", {"name": "all", "rate": 0.3}]},
    "layer decay 0.7": {"layer_decay": 0.7},
    "stages, layer decay 0.7": {"stages": ["head", "all"], "layer_decay": 0.7},
    "the head alone": {"stages": ["head"]},
}
RATES = (1e-3, 3e-3)
SIDE = 32

Images = tuple[np.ndarray, np.ndarray]
"""Bytes of shape [N, 32, 32, 3], and class indices."""


def fashion(folder: Path, count: int) -> Images:
    """Returns the first training images."""
    raw = folder / "FashionMNIST" / "raw"
    with gzip.open(raw / "train-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(16 + count * 784)[16:], np.uint8).reshape(-1, 28, 28)
    with gzip.open(raw / "train-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(8 + count)[8:], np.uint8)
    return _coloured(np.pad(images, ((0, 0), (2, 2), (2, 2)))), labels.astype(np.int64)


def digits() -> Images:
    """Returns scikit-learn's digits, magnified."""
    known = load_digits()
    large = [
        np.asarray(
            Image.fromarray((one * 15.9).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        )
        for one in known.images
    ]
    return _coloured(np.stack(large)), known.target.astype(np.int64)


def patches(seed: int = 0) -> Images:
    """Returns patches of three photographs, of any size and turned, by the fifth of the picture that they are from."""
    import matplotlib

    hopper = np.asarray(Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"))
    photographs = [*load_sample_images().images, hopper]
    rng = np.random.default_rng(seed)
    found, labels = [], []
    for _ in range(2500):
        photograph = photographs[place := int(rng.integers(len(photographs)))]
        side = int(rng.integers(40, 80))
        top = int(rng.integers(photograph.shape[0] - side))
        left = int(rng.integers(photograph.shape[1] - side))
        half = int(top + side / 2 > photograph.shape[0] / 2)
        patch = Image.fromarray(photograph[top : top + side, left : left + side])
        found.append(np.asarray(patch.rotate(int(rng.integers(-20, 20))).resize((SIDE, SIDE))))
        labels.append(2 * place + half)
    return np.stack(found), np.array(labels)


def _coloured(images: np.ndarray) -> np.ndarray:
    return np.repeat(images[..., None], 3, 3)


def written(path: Path, images: Images, train: int, seed: int) -> Images:
    """Writes so many images for training and 300 for validation; returns the others."""
    order = np.random.default_rng(seed).permutation(len(images[1]))
    x, y = images[0][order], images[1][order]
    ends = (0, train, train + 300)
    parts = {name: slice(*ends[place : place + 2]) for place, name in enumerate(("train", "val"))}
    test = slice(ends[-1], ends[-1] + 1000)
    arrays = {f"x_{name}": x[rows] for name, rows in {**parts, "test": test}.items()}
    np.savez(path, **arrays, **{f"y_{name}": y[rows] for name, rows in {**parts, "test": test}.items()})
    return x[test], y[test]


def trained(
    folder: Path, data: Path, seed: int, train: dict[str, Any], weights: str | None, **more: Any
) -> tuple[list[EpochResult], Path]:
    """Returns a trial's epochs and its best weights."""
    tree: dict[str, Any] = {
        "study": {"name": "tuning", "seed": seed},
        "data": {"dataset": "npz", "root": str(data), **more},
        "model": {"name": "resnet18", **({"weights": weights} if weights else {})},
        "train": {"optimizer": "adamw", "batch_size": 32, "weight_decay": 0.01, **train},
        "checkpoint": {"every_seconds": 1e6},  # what a disk takes is not measured
        "search": {"learning_rate": [0.1]},
    }
    spec = parse_study(tree)
    engine, _ = build_engine(spec, torch.device("cpu"), cache=str(folder / "cache"))
    trial = tempfile.mkdtemp(dir=folder)
    engine.admit(TrialRun("tuning", 0, 1, {}, spec, trial))
    results = list(_epochs(engine, spec.train.epochs))
    end = engine.evict(0, EndKind.FINISHED)
    assert end.weights is not None
    return results, Path(end.weights)


def _epochs(engine: Any, count: int) -> Iterator[EpochResult]:
    for _ in range(count):
        (result,) = engine.step()
        assert isinstance(result, EpochResult), result
        yield result


def error(weights: Path, images: Images) -> float:
    """Returns the share of test images that a model gets wrong."""
    model = load_model(weights)
    with torch.inference_mode():
        found = [model(one).argmax(1) for one in torch.from_numpy(images[0]).permute(0, 3, 1, 2).split(256)]
    return float((torch.cat(found).numpy() != images[1]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--pretrained", type=Path, help="where the weights are kept, and found the next time")
    parser.add_argument("--sets", default="digits,patches")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="tuning-") as name:
        folder = Path(name)
        start = args.pretrained or folder / "fashion.safetensors"
        if not start.is_file():
            written(folder / "fashion.npz", fashion(args.folder, 4300), 4000, 0)
            schedule = {"epochs": 6, "learning_rate": 1e-3, "batch_size": 64}
            results, found = trained(folder, folder / "fashion.npz", 0, schedule, None)
            start.write_bytes(found.read_bytes())
            print(f"Fashion-MNIST: validation error {results[-1].metrics['val_error']:.3f}", flush=True)
        sets = {"digits": digits, "patches": patches}
        for one in args.sets.split(",") if args.seeds else ():
            compare(one, sets[one](), folder, str(start), args.seeds, args.images, args.epochs)
        time_features(folder, str(start), args.images)


def compare(name: str, images: Images, folder: Path, start: str, seeds: int, count: int, epochs: int) -> None:
    """Prints the test errors of all ways on one set."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in range(seeds):
        data = folder / f"{name}-{seed}.npz"
        test = written(data, images, count, seed)
        for way, train in WAYS.items():
            tried = []
            for rate in RATES:
                results, weights = trained(
                    folder, data, seed, {**train, "epochs": epochs, "learning_rate": rate}, start
                )
                tried.append((min(one.metrics["val_loss"] for one in results), rate, weights))
            _, rate, weights = min(tried)
            found[way].append(error(weights, test))
            print(f"  {name}, seed {seed}, {way}: {found[way][-1]:.4f} at {rate:g}", flush=True)
    for way, values in found.items():
        gains = [value - plain for value, plain in zip(values, found["plain"], strict=True)]
        print(f"{name}, {way}: test error {_shown(values)}, against plain {_shown(gains)}", flush=True)


def time_features(folder: Path, start: str, count: int) -> None:
    """Prints the processor time of ten epochs of the first stage, with features and without."""
    data = folder / "timed.npz"
    written(data, digits(), count, 0)
    train = {"stages": ["head"], "epochs": 10}
    large = {"image_size": 64}
    trained(
        folder,
        data,
        0,
        {**train, "epochs": 1, "learning_rate": 0.5},
        start,
        augment=[{"name": "flip"}],
        **large,
    )
    taken: dict[str, float] = {}
    # Without room the images are trained on; then the features are computed, and then found.
    for way, more in (("images", {"cache_limit_gb": 1e-6}), ("features", {}), ("found", {})):
        began = time.process_time()
        trained(folder, data, 0, train, start, **large, **more)
        taken[way] = time.process_time() - began
    times = {way: f"{taken['images'] / seconds:.1f} times" for way, seconds in taken.items()}
    print(f"10 epochs of the head, images of 64 pixels, on images: {taken['images']:.1f} s")
    print(f"with features: {taken['features']:.1f} s ({times['features']})")
    print(f"where they are known: {taken['found']:.1f} s ({times['found']})")


def _shown(values: list[float]) -> str:
    spread = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{mean(values):+.4f} (standard error {spread:.4f})"


if __name__ == "__main__":
    main()
