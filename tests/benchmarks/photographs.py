"""`hpsearch auto` on photographs, against plain Optuna with torchvision's recipe and against a hand-written study.

    python -m tests.benchmarks.photographs FOLDER [--minutes 3] [--runs 3] [--side 64]
    python -m tests.benchmarks.photographs FOLDER --patches PHOTOGRAPH...
    python -m tests.benchmarks.photographs FOLDER --garments FASHION PHOTOGRAPH...

FOLDER holds train/CLASS/*.jpg and test/CLASS/*.jpg. The contestants are given the first alone, and so many minutes
each, in turn; their models are then judged on the second, outside of that time. `auto` gives up a part of its pictures
and of its time to a test part and a confirmation of its own.

* optuna: TPE and the median pruner, two processes with a thread each, over learning rate, weight decay and batch size;
  ImageFolder and DataLoader; torchvision's reference recipe for classification (resnet18, SGD with momentum 0.9,
  RandomResizedCrop and flip, a step down by ten after each third of the epochs) at --side pixels, since at its own
  224 a CPU trains no epoch in the time; as many epochs as let two dozen trials begin. The best epoch's weights count.
* optuna-small: the same with the small network that `hpsearch init` proposes for a CPU.
* written: a study such as one who knows the package writes for a CPU (STUDY below), with the pictures that `auto` seals
  for training; the search's best epoch counts.

The second and the third command make FOLDER: patches cut out of photographs, to be told by which one they were cut
from, in grey and unlike in exposure, those for the test from other places; or the garments of Fashion-MNIST (in
FASHION), tinted and pasted onto patches.
"""

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean

import numpy as np
from PIL import Image, ImageOps

from hpsearch.training.data.arrays import read_idx

ROOT = Path(__file__).parents[2]
STUDY = """
[study]
name = "written"
trials = 200

[data]
dataset = "folder"
root = {root}
image_size = {side}
split = {{ train = 0.85, val = 0.15, test = 0.0 }}
augment = "photo"

[model]
name = "cnn"
args = {{ width = 16, norm = true, pool = true }}

[train]
optimizer = "adamw"

[search]
learning_rate = {{ low = 3e-4, high = 3e-2, log = true }}
batch_size = [16, 32, 64]
epochs = {{ low = 10, high = 40 }}
"train.weight_decay" = {{ low = 1e-4, high = 0.1, log = true }}
"data.augment" = [[], "photo", [{{ name = "flip" }}, {{ name = "trivial_augment" }}]]

[early_stopping]
criterion = "patience"
patience = 8
"""
BLOCKS = 4  # along each side of a photograph, taken for training and for the test in turn
PATCH = (40, 72)
TRAIN, TEST = 120, 60  # patches of each photograph
GARMENTS = 1_500, 1_000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--minutes", type=float, default=3.0)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--side", type=int, default=64)
    options.add_argument("--contestants", default="auto,optuna,written")
    options.add_argument(
        "--transcripts", type=Path, help="folder in which each run of auto is kept as it was shown"
    )
    options.add_argument("--patches", type=Path, nargs="+", metavar="PHOTOGRAPH")
    options.add_argument("--garments", type=Path, nargs="+", metavar="FASHION PHOTOGRAPH")
    args = options.parse_args()
    missing = [path for path in (*(args.patches or ()), *(args.garments or ())) if not path.exists()]
    parts = [] if args.patches or args.garments else [args.folder / part for part in ("train", "test")]
    if missing := [*missing, *(path for path in parts if not path.is_dir())]:
        raise SystemExit(f"{missing[0]} does not exist; --help says what the folders hold")
    if args.garments and len(args.garments) < 2:
        raise SystemExit("--garments: name the folder FASHION and one photograph or more")
    if args.patches:
        write(args.folder, lambda part, rng: patches(args.patches, part, rng))
    elif args.garments:
        write(args.folder, lambda part, rng: garments(*args.garments[:1], args.garments[1:], part, rng))
    else:
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """Runs the contestants in turn and prints what each came to."""
    contestants: dict[str, Callable[[argparse.Namespace, Path, int], Path]] = {
        "auto": run_auto,
        "optuna": run_optuna,
        "optuna-small": lambda args, folder, run: run_optuna(args, folder, run, "cnn"),
        "written": run_written,
    }
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in args.contestants.split(",")}
    for run in range(args.runs):
        for name, found in rows.items():
            with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
                began, used = time.monotonic(), cpu_seconds()
                answers = contestants[name](args, Path(folder), run)
                took, used = time.monotonic() - began, cpu_seconds() - used
                found.append((judged(args, answers), used, took))
            error, used, took = found[-1]
            print(f"run {run}, {name}: test error {error:.2%}, {used:.0f} CPU s, {took:.0f} s", flush=True)
    for name, found in rows.items():
        errors, used, took = ([row[column] for row in found] for column in range(3))
        each = " ".join(f"{100 * error:.1f}" for error in errors)
        spent = f"{mean(used):.0f} CPU s, {mean(took):.0f} s of the clock"
        print(f"{name:>8}: test error {mean(errors):.1%} ({each}), {spent}")


def cpu_seconds() -> float:
    """Returns the processor time of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_auto(args: argparse.Namespace, folder: Path, run: int) -> Path:
    shown = started(
        "auto", args.folder / "train", "--minutes", args.minutes, "--output", folder / "auto.toml",
        "--save", folder / "model", "--run-folder", folder / "runs", "--seed", run,
    )  # fmt: skip
    if args.transcripts:
        args.transcripts.mkdir(parents=True, exist_ok=True)
        (args.transcripts / f"{run}.txt").write_text(shown)
    return folder / "model"


def run_written(args: argparse.Namespace, folder: Path, run: int) -> Path:
    study = folder / "written.toml"
    text = STUDY.format(root=f'"{(args.folder / "train").absolute()}"', side=min(48, args.side))
    study.write_text(text.replace("[study]", f"[study]\nseed = {run}"))
    place = ("--run-folder", folder / "runs")
    search = ("--timeout", f"{60 * args.minutes - 10:.0f}s", "--at-timeout", "end")
    started("run", study, *search, "--workers", 2, "--quiet", *place)
    started("best", "written", "--save", folder / "model", *place)
    return folder / "model"


def run_optuna(args: argparse.Namespace, folder: Path, run: int, network: str = "resnet18") -> Path:
    command = [
        sys.executable, "-m", "tests.benchmarks.photographs_optuna", args.folder / "train", folder / "best.pt",
        60 * args.minutes, args.side, run, network,
    ]  # fmt: skip
    subprocess.run(list(map(str, command)), cwd=ROOT, env=environment(), check=True)
    return folder / "best.pt"


def judged(args: argparse.Namespace, model: Path) -> float:
    """Returns the share of the sealed pictures that a model takes for another class."""
    if model.suffix == ".pt":
        from tests.benchmarks.photographs_optuna import answers

        found = answers(model, args.folder / "test")
    else:
        table = model.parent / "answers.csv"
        started("predict", model, args.folder / "test", "--output", table)
        with table.open(newline="") as file:
            found = {row["file"]: row["class"] for row in csv.DictReader(file)}
    return mean(Path(file).parent.name != name for file, name in found.items())


def started(*words: object) -> str:
    """Runs a command of hpsearch; returns what it has shown."""
    command = [sys.executable, "-m", "hpsearch", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def write(
    folder: Path, make: Callable[[str, np.random.Generator], Iterator[tuple[str, Image.Image]]]
) -> None:
    """Writes both parts as JPEG files in folders of their classes."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for place, (name, picture) in enumerate(make(part, rng)):
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            picture.save(folder / part / name / f"{place:05}.jpg", quality=90)


def patches(
    photographs: Sequence[Path], part: str, rng: np.random.Generator
) -> Iterator[tuple[str, Image.Image]]:
    for path in photographs:
        whole = Image.open(path).convert("L")
        for _ in range(TRAIN if part == "train" else TEST):
            yield path.stem, exposed(patch(whole, part, rng), rng)


def patch(whole: Image.Image, part: str, rng: np.random.Generator) -> Image.Image:
    """Returns a square that lies within one block of a photograph, turned."""
    wide, high = (side // BLOCKS for side in whole.size)
    parity = 0 if part == "train" else 1
    row, column = rng.choice([(r, c) for r in range(BLOCKS) for c in range(BLOCKS) if (r + c) % 2 == parity])
    side = int(min(rng.integers(*PATCH), wide, high))
    left, top = column * wide + rng.integers(wide - side + 1), row * high + rng.integers(high - side + 1)
    cut = whole.crop((int(left), int(top), int(left) + side, int(top) + side))
    return cut.rotate(90 * int(rng.integers(4)), expand=True)


def exposed(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Returns a picture as another exposure, another development and a noisy sensor would have made it."""
    values = np.asarray(picture, np.float64) / 255
    values = rng.uniform(0.5, 1.3) * values ** rng.uniform(0.7, 1.4) + rng.normal(0, 0.04, values.shape)
    return Image.fromarray((np.clip(values, 0, 1) * 255).astype(np.uint8))


def garments(
    fashion: Path, photographs: Sequence[Path], part: str, rng: np.random.Generator
) -> Iterator[tuple[str, Image.Image]]:
    """Yields garments in a colour, at some size and place, before patches of photographs."""
    names = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
    kind = "train" if part == "train" else "t10k"
    count = GARMENTS[part == "test"]
    raw = fashion / "FashionMNIST" / "raw"
    files = [next(raw.glob(f"{kind}-{what}*"), None) for what in ("images", "labels")]
    if None in files:
        raise SystemExit(f"{raw}: {kind}-images* and {kind}-labels* are not there; name the folder above")
    images, labels = map(read_idx, map(str, files))
    whole = [Image.open(path).convert("RGB") for path in photographs]
    for row in rng.permutation(len(images))[:count]:
        ground = patch(whole[rng.integers(len(whole))], part, rng)
        side = int(rng.integers(64, 112))
        ground = ground.resize((side, side))
        grown = Image.fromarray(images[row]).resize([int(side * rng.uniform(0.5, 0.9))] * 2)
        tint = tuple(int(level) for level in rng.integers(90, 256, 3))
        place = (int(rng.integers(side - grown.width + 1)), int(rng.integers(side - grown.height + 1)))
        ground.paste(
            ImageOps.colorize(grown, (0, 0, 0), tint), place, grown.point(lambda level: min(255, 6 * level))
        )
        yield names[labels[row]], ground


if __name__ == "__main__":
    main()
