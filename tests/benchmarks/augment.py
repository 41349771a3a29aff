"""Throughput of the augmentation beside torchvision v2 and kornia.

    python tests/benchmarks/augment.py --device cpu --json figures.json

Contestants, on the same batch and with the same ranges of parameters:
    ours              hpsearch.training.augment, parameters for each image
    torchvision each  a v2 Compose over the images one by one, then stacked, as a DataLoader does it
    torchvision batch the same Compose over the whole batch: one set of parameters for all images
    kornia            kornia.augmentation, parameters for each image; left out where it cannot be imported

Rounds are interleaved; the figures are medians over rounds, and ratios are ours over theirs (above 1: ours is
faster).
"""

import argparse
import importlib
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Generator, Tensor
from torchvision.transforms import v2

from hpsearch.study.augment import Augment
from hpsearch.training.augment import Augmentation

BATCH = 128
SHAPES = ((3, 32, 32), (1, 28, 28))

CROP_FLIP = [{"name": "crop", "padding": 4}, {"name": "flip", "horizontal": 0.5}]
AFFINE = [
    {"name": "rotate", "degrees": 15.0},
    {"name": "translate", "fraction": 0.1},
    {"name": "scale", "low": 0.9, "high": 1.1},
    {"name": "shear", "degrees": 10.0},
]
ELASTIC = [{"name": "elastic", "alpha": 20.0, "sigma": 4.0}]
COLOUR = [{"name": "contrast", "strength": 0.2}, {"name": "brightness", "strength": 0.2}]
ERASING = [{"name": "erasing", "low": 0.02, "high": 0.33}]
PIPELINES: dict[str, list[dict[str, Any]]] = {
    "crop flip": CROP_FLIP,
    "affine": AFFINE,
    "elastic": ELASTIC,
    "colour erasing": COLOUR + ERASING,
    "all": CROP_FLIP + AFFINE + ELASTIC + COLOUR + ERASING,
}


def torchvision_steps(names: set[str], side: int) -> list[torch.nn.Module]:
    """Returns the torchvision transforms for the tables above, in the order of ours."""
    steps: list[torch.nn.Module] = []
    if "flip" in names:
        steps.append(v2.RandomHorizontalFlip(0.5))
    if "rotate" in names:
        bilinear = v2.InterpolationMode.BILINEAR
        steps.append(
            v2.RandomAffine(15.0, translate=(0.1, 0.1), scale=(0.9, 1.1), shear=10.0, interpolation=bilinear)
        )
    if "crop" in names:
        steps.append(v2.RandomCrop(side, padding=4))
    if "elastic" in names:
        steps.append(v2.ElasticTransform(alpha=40.0, sigma=4.0))  # torchvision halves alpha
    if "contrast" in names:
        steps.append(v2.ColorJitter(brightness=0.2, contrast=0.2))
    if "erasing" in names:
        steps.append(v2.RandomErasing(p=1.0, scale=(0.02, 0.33)))
    return steps


def kornia_steps(kornia: Any, names: set[str], side: int) -> list[torch.nn.Module]:
    """Returns the kornia transforms for the tables above, in the order of ours."""
    steps: list[torch.nn.Module] = []
    if "flip" in names:
        steps.append(kornia.RandomHorizontalFlip(p=0.5))
    if "rotate" in names:
        steps.append(kornia.RandomAffine(15.0, translate=(0.1, 0.1), scale=(0.9, 1.1), shear=10.0, p=1.0))
    if "crop" in names:
        steps.append(kornia.RandomCrop((side, side), padding=4, p=1.0))
    if "elastic" in names:
        # Kornia's displacement is alpha in units of half the image.
        alpha = (40.0 / side, 40.0 / side)
        steps.append(kornia.RandomElasticTransform((33, 33), (4.0, 4.0), alpha, p=1.0))
    if "contrast" in names:
        steps.append(kornia.RandomContrast((0.8, 1.2), p=1.0))
        steps.append(kornia.RandomBrightness((0.8, 1.2), p=1.0))
    if "erasing" in names:
        steps.append(kornia.RandomErasing(p=1.0, scale=(0.02, 0.33), ratio=(0.3, 3.3)))
    return steps


def contestants(
    tables: list[dict[str, Any]], shape: tuple[int, int, int], device: torch.device, kornia: Any
) -> dict[str, Callable[[], Tensor]]:
    """Returns what each contestant does to one batch."""
    names, side = {table["name"] for table in tables}, shape[1]
    images = torch.rand(BATCH, *shape, device=device)
    labels = torch.arange(BATCH, device=device)
    generator = Generator(device).manual_seed(0)
    ours = Augmentation(TypeAdapter(list[Augment]).validate_python(tables), side)
    theirs = v2.Compose(torchvision_steps(names, side))
    runs: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: ours(images, labels, generator)[0],
        "torchvision each": lambda: torch.stack([theirs(image) for image in images]),
        "torchvision batch": lambda: theirs(images),
    }
    if kornia is not None:
        chain = torch.nn.Sequential(*kornia_steps(kornia, names, side)).to(device)
        runs["kornia"] = lambda: chain(images)
    return runs


def measure(
    runs: dict[str, Callable[[], Tensor]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Returns the seconds of each round, the contestants taking turns; a round lasts at least 20 ms."""

    def seconds(run: Callable[[], Tensor], repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - start) / repeats

    for run in runs.values():
        seconds(run, 2)
    repeats = {name: max(1, round(0.02 / seconds(run, 1))) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run, repeats[name]))
    return times


def summarise(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Returns samples per second (median, lowest and highest round) and the ratio of ours to each."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        name: {
            "samples_per_second": BATCH / medians[name],
            "lowest": BATCH / max(values),
            "highest": BATCH / min(values),
            "ours_is_faster_by": medians[name] / medians["ours"],
        }
        for name, values in times.items()
    }


def find_kornia() -> Any:
    """Returns kornia.augmentation, or None where kornia cannot be imported."""
    try:
        return importlib.import_module("kornia.augmentation")
    except ImportError as error:
        print(f"kornia is not measured: {error}")
        return None


def versions(device: torch.device, threads: int) -> dict[str, str]:
    """Returns what the figures depend on."""
    found = {}
    for package in ("torch", "torchvision", "kornia"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    cuda = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": cuda or f"{platform.machine()} CPU",
        "threads": str(threads),
        "python": platform.python_version(),
    } | found


def main() -> None:
    """Measures every pipeline on every shape and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, kornia = torch.device(arguments.device), find_kornia()
    environment = versions(device, arguments.threads)
    print(", ".join(f"{key} {value}" for key, value in environment.items()), f"batch {BATCH}", sep=", ")
    print("images    pipeline        contestant          samples/s     lowest  ours faster")
    figures: list[dict[str, Any]] = []
    for shape in SHAPES:
        for pipeline, tables in PIPELINES.items():
            runs = contestants(tables, shape, device, kornia)
            label = "x".join(str(side) for side in shape)
            for name, row in summarise(measure(runs, arguments.rounds, device)).items():
                figures.append({"images": label, "pipeline": pipeline, "contestant": name, **row})
                print(
                    f"{label:9} {pipeline:15} {name:18} {row['samples_per_second']:10,.0f} "
                    f"{row['lowest']:10,.0f} {row['ours_is_faster_by']:11.2f}x"
                )
    if arguments.json:
        document = {"environment": environment, "batch": BATCH, "figures": figures}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
