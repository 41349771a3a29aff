"""What the fragments of `studies/README.md` name: photographs, arrays, stacks, modules and weights.

`make_materials` fills a folder in which every fragment can be run as it stands.
"""

import csv
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.scenes import BROKEN, TWIN, write_scenes

ROOT = Path(__file__).parents[1]


def make_materials(folder: Path, modules: Mapping[str, str]) -> None:
    """Writes all of it.

    Args:
        modules: source texts by dotted name.
    """
    write_scenes(folder / "photos", count=48)
    write_snapshots(folder)
    write_mosaics(folder / "mosaics", 120)
    write_arrays(folder)
    write_particles(folder / "particles")
    write_weights(folder / "pretrained.safetensors")
    write_published("mobilenet_v3_small", folder / "torch")
    write_short_study(folder / "studies")
    for name, text in modules.items():
        path = folder / Path(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text, encoding="utf-8")


def write_snapshots(folder: Path) -> None:
    """Copies photographs into one folder, named by evening and number, with a table of what they show."""
    (folder / "snapshots").mkdir()
    rows = []
    for kind in ("day", "night"):
        photos = sorted(p for p in (folder / "photos" / kind).iterdir() if p.name not in (BROKEN, TWIN))
        for number, photo in enumerate(photos[:20]):
            name = f"e{number % 5:02d}-{kind[0]}{number:04d}{photo.suffix}"
            shutil.copy(photo, folder / "snapshots" / name)
            rows.append({"picture": name, "what": kind, "evening": number % 5})
    with (folder / "snapshots" / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_mosaics(folder: Path, count: int, seed: int = 0) -> None:
    """Writes pictures of up to four of scikit-learn's digits, and a table of which digits are in each.

    A third of the places is empty, so that some pictures have no label, and a 0 is ten times as common as a 9.
    `labels.csv` has the columns file, digits (3|7), part, and one of 0 and 1 for each digit: has_3.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    digits, rng = load_digits(), np.random.default_rng(seed)
    shares = 10.0 ** -np.linspace(0, 1, 10)
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        picture, own = np.zeros((16, 16), np.uint8), set()
        for place in range(4):
            if rng.random() < 1 / 3:
                continue
            digit = int(rng.choice(10, p=shares / shares.sum()))
            top, left = 8 * (place // 2), 8 * (place % 2)
            chosen = rng.choice(np.flatnonzero(digits.target == digit))
            picture[top : top + 8, left : left + 8] = digits.images[chosen] * 15
            own.add(digit)
        name = f"{number:04d}.png"
        Image.fromarray(picture).resize((32, 32), Image.Resampling.BILINEAR).save(folder / name)
        part = ("train", "train", "train", "val", "test")[number % 5]
        joined = "|".join(map(str, sorted(own)))
        rows.append(
            {"file": name, "digits": joined, "part": part} | {f"has_{d}": int(d in own) for d in range(10)}
        )
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_arrays(folder: Path) -> None:
    """Writes coloured pictures of four classes, height-width-channel, and bars with their angles."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 4
    pictures = rng.integers(0, 128, (400, 8, 8, 3), np.uint8)
    pictures[np.arange(400), 2 * labels] += 100  # a bright row, by the class
    np.savez(folder / "pictures.npz", x=pictures, y=labels)
    angles = rng.uniform(-1.0, 1.0, 400).astype(np.float32)
    rows, columns = np.mgrid[-1:1:12j, -1:1:12j]
    distance = columns * np.cos(angles)[:, None, None] - rows * np.sin(angles)[:, None, None]
    np.savez(folder / "angles.npz", x=(np.abs(distance) < 0.25).astype(np.float32), y=angles)


def write_particles(folder: Path) -> None:
    """Writes two stacks of noisy particles, round ones and rods, and a STAR file that tells them apart."""
    import mrcfile

    folder.mkdir()
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[-1:1:20j, -1:1:20j]
    shapes = [rows**2 + columns**2 < 0.3, np.abs(rows) + 0.2 * np.abs(columns) < 0.3]
    lines = ["data_particles", "", "loop_", "_rlnImageName #1", "_rlnClassNumber #2"]
    for stack in ("a.mrcs", "b.mrcs"):
        kinds = np.arange(30) % 2
        images = np.stack([shapes[kind] + rng.normal(0.0, 0.5, rows.shape) for kind in kinds])
        with mrcfile.new(folder / stack) as file:
            file.set_data(images.astype(np.float32))
        lines += [f"{number:06d}@{stack} {kind + 1}" for number, kind in enumerate(kinds, 1)]
    (folder / "particles.star").write_text("\n".join([*lines, ""]), encoding="utf-8")


def write_weights(path: Path) -> None:
    """Writes the digits study's network as one that was trained on letters would be: with 26 outputs."""
    from hpsearch.study import ModelSpec
    from hpsearch.training import models
    from hpsearch.training.weights import save_weights

    model = models.build(ModelSpec(name="cnn", args={"width": 16}), 1, (8, 8), 26, seed=1)
    save_weights(path, model.state_dict(), {})


def write_published(name: str, torch_home: Path) -> Path:
    """Writes random weights where torchvision keeps the published ones of a network; returns the file."""
    import torch
    from torchvision import models

    file = torch_home / "hub" / "checkpoints" / models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]
    file.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(models.get_model(name).state_dict(), file)
    return file


def write_short_study(folder: Path) -> None:
    """Writes the digits study with few short trials."""
    folder.mkdir()
    text = (ROOT / "studies" / "digits.toml").read_text(encoding="utf-8")
    for long, short in (("trials = 80", "trials = 3"), ("low = 5, high = 50", "low = 1, high = 2")):
        assert long in text
        text = text.replace(long, short)
    (folder / "digits.toml").write_text(text, encoding="utf-8")
