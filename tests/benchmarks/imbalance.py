"""What class weights and balanced sampling gain where classes are rare.

    python -m tests.benchmarks.imbalance [--seeds 10] [--ratio 30] [--epochs 20]

Makes the digits imbalanced: of class k of 10 the training part keeps its share ratio^(-k / 9); validation and test stay
balanced. Each way is trained at four learning rates and keeps the one with the highest validation macro F1; its test
macro F1, error and the recall of the three rarest classes are printed, the mean over the seeds and its standard error,
and each way's difference from "none" over the same seeds.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import f1_score

from hpsearch.contracts.trial import EndKind, EpochResult, TrialRun
from hpsearch.study import parse_study
from hpsearch.training.build import build_engine
from hpsearch.training.saved import load_model
from hpsearch.training.weights import read_texts

WAYS: dict[str, dict[str, str]] = {
    "none": {},
    "class weights": {"class_weights": "balanced"},
    "balanced sampling": {"sampling": "balanced"},
    "both": {"class_weights": "balanced", "sampling": "balanced"},
}
RATES = (0.01, 0.03, 0.1, 0.3)


def made(folder: Path, ratio: float, seed: int) -> tuple[Path, np.ndarray, np.ndarray]:
    """Writes training and validation images; returns the file, and the test images with their classes."""
    digits = load_digits()
    images, labels = (digits.images / 16).astype(np.float32)[..., None], digits.target
    rng = np.random.default_rng(seed)
    train: list[int] = []
    val: list[int] = []
    test: list[int] = []
    for place in range(10):
        own = rng.permutation(np.flatnonzero(labels == place))
        test += own[:50].tolist()
        val += own[50:70].tolist()
        train += own[70 : 70 + max(2, round(100 * ratio ** (-place / 9)))].tolist()
    parts = {"train": train, "val": val, "test": test}
    arrays = {f"x_{name}": images[own] for name, own in parts.items()}
    path = folder / f"imbalanced-{seed}.npz"
    np.savez(path, **arrays, **{f"y_{name}": labels[own] for name, own in parts.items()})
    return path, images[test], labels[test]


def trained(folder: Path, path: Path, seed: int, epochs: int, train: dict[str, Any]) -> tuple[float, Path]:
    """Returns the best validation macro F1 of a trial, and its weights."""
    tree: dict[str, Any] = {
        "study": {"name": "imbalance", "seed": seed, "metric": "val_macro_f1"},
        "data": {"dataset": "npz", "root": str(path)},
        "model": {"name": "cnn", "args": {"width": 16}},
        "train": {"epochs": epochs, "batch_size": 32, **train},
        "search": {"learning_rate": [0.1]},
    }
    engine, _ = build_engine(parse_study(tree), torch.device("cpu"), cache=str(folder / "cache"))
    engine.admit(TrialRun("imbalance", 0, 1, {}, parse_study(tree), str(folder / "trial")))
    for _ in range(epochs):
        (result,) = engine.step()
        assert isinstance(result, EpochResult), result
    end = engine.evict(0, EndKind.FINISHED)
    assert end.weights is not None
    return float(read_texts(Path(end.weights))["val_macro_f1"]), Path(end.weights)


def tested(weights: Path, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns what a model does on the test images."""
    with torch.inference_mode():
        found = load_model(weights)(torch.from_numpy(images).permute(0, 3, 1, 2)).argmax(1).numpy()
    rare = labels >= 7
    return {
        "macro F1": float(f1_score(labels, found, average="macro")),
        "error": float((found != labels).mean()),
        "recall of the rarest": float((found == labels)[rare].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--ratio", type=float, default=30.0)
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory(prefix="imbalance-") as name:
            path, images, labels = made(Path(name), args.ratio, seed)
            for way, train in WAYS.items():
                tried = []
                for rate in RATES:
                    folder = Path(name) / f"{way} {rate}"
                    folder.mkdir()
                    chosen = {**train, "learning_rate": rate}
                    tried.append(trained(folder, path, seed, args.epochs, chosen))
                found[way].append(tested(max(tried)[1], images, labels))
    for way, rows in found.items():
        print(way)
        for figure in rows[0]:
            values = [row[figure] for row in rows]
            gains = [row[figure] - plain[figure] for row, plain in zip(rows, found["none"], strict=True)]
            print(f"  {figure:20}  {_shown(values)}   against none {_shown(gains)}")


def _shown(values: list[float]) -> str:
    spread = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{mean(values):+.4f} (standard error {spread:.4f})"


if __name__ == "__main__":
    main()
