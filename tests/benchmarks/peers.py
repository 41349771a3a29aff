"""The same search as plain Optuna and Ray Tune run it: wall time, epochs, seconds per epoch, best loss.

    python -m tests.benchmarks.peers PEERS_FOLDER [--seeds 5] [--trials 32] [--variants auto,optuna] [--ray]
    python -m tests.benchmarks.peers PEERS_FOLDER --fashion FOLDER [--variants auto,optuna]

PEERS_FOLDER holds peer_common.py, peer_optuna.py and peer_raytune.py. All use the digits, the same small CNN, SGD with
momentum 0.9 and cosine decay, the same space and split, two processes. Optuna and hpsearch use the same median pruner
with Optuna's defaults; hpsearch stops early as well, by patience. `auto` is hpsearch's default, which pauses trials
instead of pruning them, with --auto-trials trials. The variants are interleaved, seed by seed.

Whole processes are timed, from start to exit, imports included. `reached` is the time from the start until a trial was
as good as Optuna's best of the same turn (inf: never). `loop` is the busy seconds of one worker per epoch; what is left
of the wall time is start-up, sampling and waiting. `test` and `test_error` are of each search's best configuration,
trained anew by one loop, the peers' own, with --repeats seeds; the test part serves for nothing else.

With --fashion the same scripts search 1,200 training and 300 validation images of Fashion-MNIST, whose folder holds
FashionMNIST/raw; 2,000 images of its test part are the sealed ones.
"""

import argparse
import copy
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import torch
from torch.utils.data import DataLoader, TensorDataset

from hpsearch.training.data.arrays import read_idx

ROOT = Path(__file__).parents[2]

STUDY = """
[study]
name = "digits"
trials = {trials}
seed = {seed}
policy = "{policy}"

[data]
dataset = "tests.benchmarks.peer_data:build"
normalize = false

[model]
name = "cnn"
args = {{ width = 16, blocks = 1, hidden = 64 }}

[train]
optimizer = "sgd"
momentum = 0.9
schedule = "cosine"

[search]
learning_rate = {{ low = 1e-4, high = 1.0, log = true }}
batch_size = [16, 32, 64, 128, 256]
epochs = {{ low = 5, high = 50 }}

[early_stopping]
criterion = "patience"
patience = {patience}
"""
MEDIAN = """
[pruner]
name = "median"
warmup_epochs = 0
min_trials = 1
"""
FASHION = """

def splits(seed=0):
    from tests.benchmarks.peers import fashion
    return fashion({folder!r})


def make_model():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 196, 64), nn.ReLU(), nn.Linear(64, 10))
"""


@dataclass(frozen=True, slots=True)
class Search:
    """One search: its figures, its best configuration, and when each trial had its best value."""

    figures: dict[str, float]
    best: Mapping[str, Any]
    reached: list[tuple[float, float]] = field(default_factory=list)
    """Pairs of value and seconds since the start."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("peers", type=Path)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--first-seed", type=int, default=0)
    options.add_argument("--trials", type=int, default=32)
    options.add_argument("--auto-trials", type=int, default=48)
    options.add_argument("--patience", type=int, default=5)
    options.add_argument(
        "--repeats", type=int, default=3, help="trainings of each search's best configuration"
    )
    options.add_argument("--variants", default="auto,hpsearch,optuna", help="ratios are to the first")
    options.add_argument("--ray", action="store_true", help="run Ray Tune too, once")
    options.add_argument("--json", type=Path)
    options.add_argument("--fashion", type=Path, help="search Fashion-MNIST, which lies in this folder")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as copied:
        if args.fashion:
            args.peers = Path(shutil.copytree(args.peers, copied, dirs_exist_ok=True))
            with (args.peers / "peer_common.py").open("a") as common:
                common.write(FASHION.format(folder=str(args.fashion.resolve())))
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """Runs the variants in turn and prints their figures."""
    sys.path.append(str(args.peers))
    os.environ["PEERS"] = str(args.peers.resolve())
    os.environ["PYTHONPATH"] = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    variants = {
        "hpsearch": lambda seed: ours(args, seed, "sampled", args.trials),
        "auto": lambda seed: ours(args, seed, "auto", args.auto_trials),
        "optuna": lambda seed: plain_optuna(args),
    }
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in args.variants.split(",")}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        found = {name: variants[name](seed) for name in rows}
        for name, search in found.items():
            if search.reached and "optuna" in found:
                target = found["optuna"].figures["best"]
                times = [seconds for value, seconds in search.reached if value <= target]
                search.figures["reached"] = round(min(times, default=math.inf), 2)
            rows[name].append(search.figures | judged(search.best, args.repeats))
        print({name: found[-1] for name, found in rows.items()}, file=sys.stderr, flush=True)
    if args.ray:
        rows["ray tune"] = [ray(args)]
    facts = {
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "optuna": optuna.__version__,
    }
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    table(rows)
    if args.json:
        args.json.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1))


def fashion(folder: str) -> list[TensorDataset]:
    """Returns 1,200, 300 and 2,000 images of Fashion-MNIST: of its training part, and of its test part."""
    sets = []
    for part, count in (("train", 1500), ("t10k", 2000)):
        images, labels = (
            torch.tensor(read_idx(str(next(Path(folder, "FashionMNIST", "raw").glob(f"{part}-{kind}*")))))
            for kind in ("images", "labels")
        )
        chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
        sets.append((images[chosen, None].float() / 255, labels[chosen].long()))
    (images, labels), test = sets
    return [
        TensorDataset(images[:1200], labels[:1200]),
        TensorDataset(images[1200:], labels[1200:]),
        TensorDataset(*test),
    ]


def ours(args: argparse.Namespace, seed: int, policy: str, trials: int) -> Search:
    """Returns one `hpsearch run` with two workers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "digits.toml"
        text = STUDY.format(trials=trials, seed=seed, patience=args.patience, policy=policy)
        file.write_text(text + MEDIAN * (policy == "sampled"))
        command = [
            "run",
            file,
            "--run-folder",
            folder / "runs",
            "--workers",
            "2",
            "--gpus",
            "none",
            "--quiet",
        ]
        begun, clock = time.monotonic(), time.time()
        subprocess.run([sys.executable, "-m", "hpsearch", *map(str, command)], cwd=ROOT, check=True)
        wall = time.monotonic() - begun
        found = optuna.load_study(study_name="digits", storage=f"sqlite:///{folder}/runs/hpsearch.db").trials
    epochs = sum(len(trial.intermediate_values) for trial in found)
    busy = sum(trial.user_attrs["seconds"] for trial in found)
    first = min(trial.datetime_start.timestamp() for trial in found) - clock
    best = min(found, key=lowest)
    reached = [
        (lowest(trial), trial.user_attrs["best_at"] - clock)
        for trial in found
        if "best_at" in trial.user_attrs
    ]
    return Search(row(wall, epochs, lowest(best), first, busy / epochs), best.params, reached)


def plain_optuna(args: argparse.Namespace) -> Search:
    """Returns one run of peer_optuna.py with two processes."""
    with tempfile.TemporaryDirectory() as folder:
        database = f"{folder}/peer.db"
        begun, clock = time.monotonic(), time.time()
        command = [sys.executable, "peer_optuna.py", str(args.trials), "2", database]
        shown = subprocess.run(command, cwd=args.peers, check=True, capture_output=True, text=True)
        wall = time.monotonic() - begun
        study = optuna.load_study(study_name="digits", storage=f"sqlite:///{database}")
    told = json.loads(shown.stdout.strip().splitlines()[-1])
    spans = [(t.datetime_start.timestamp(), t.datetime_complete.timestamp()) for t in study.trials]
    busy = sum(end - start for start, end in spans)
    best = min(study.trials, key=lowest)
    first = min(start for start, _ in spans) - clock
    return Search(row(wall, told["epochs"], lowest(best), first, busy / told["epochs"]), best.params)


def lowest(trial: optuna.trial.FrozenTrial) -> float:
    """Returns a trial's best epoch: Optuna's best_value knows COMPLETE trials alone."""
    return min(trial.intermediate_values.values(), default=math.inf)


def judged(hparams: Mapping[str, Any], repeats: int) -> dict[str, float]:
    """Returns test loss and error at the epoch of the lowest validation loss, means over new seeds."""
    rate = hparams["lr"] if "lr" in hparams else hparams["learning_rate"]
    found = [
        judged_once(rate, hparams["batch_size"], hparams["epochs"], 1000 + seed) for seed in range(repeats)
    ]
    means = [statistics.mean(values) for values in zip(*found, strict=True)]
    return {"test": round(means[0], 4), "test_error": round(means[1], 4)}


def judged_once(rate: float, batch_size: int, epochs: int, seed: int) -> tuple[float, float]:
    """Trains as peer_common.train does; returns test loss and test error."""
    import peer_common

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    train, val, test = peer_common.splits()
    loader = DataLoader(train, batch_size=batch_size, shuffle=True)
    model = peer_common.make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    least, best = math.inf, model
    for _ in range(epochs):
        for images, targets in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), targets).backward()
            optimizer.step()
        schedule.step()
        loss, _ = loss_and_error(model, val)
        if loss < least:
            least, best = loss, copy.deepcopy(model)
    return loss_and_error(best, test)


@torch.no_grad()
def loss_and_error(model: torch.nn.Module, part: TensorDataset) -> tuple[float, float]:
    images, targets = part.tensors
    outputs = model(images)
    loss = torch.nn.functional.cross_entropy(outputs, targets).item()
    return loss, (outputs.argmax(1) != targets).float().mean().item()


def ray(args: argparse.Namespace) -> dict[str, float]:
    """Returns the figures of peer_raytune.py, run once."""
    begun = time.monotonic()
    command = [sys.executable, "peer_raytune.py", str(args.trials)]
    shown = subprocess.run(command, cwd=args.peers, check=True, capture_output=True, text=True)
    told = json.loads(shown.stdout.strip().splitlines()[-1])
    nan = float("nan")
    return row(time.monotonic() - begun, told["epochs"], told["best"], nan, nan)


def row(wall: float, epochs: int, best: float, start: float, loop: float) -> dict[str, float]:
    """Returns one run's figures: seconds, epochs, loss, seconds, milliseconds per epoch of one worker."""
    return {
        "wall": round(wall, 2),
        "epochs": epochs,
        "best": round(best, 4),
        "start": round(start, 2),
        "loop_ms": round(loop * 1e3, 1),
    }


def table(rows: dict[str, list[dict[str, float]]]) -> None:
    """Prints medians with minimum and maximum, and the ratios to the first variant seed by seed."""
    for variant, found in rows.items():
        cells = []
        for name in found[0]:
            values = [one[name] for one in found]
            cells.append(f"{name} {statistics.median(values):g} ({min(values):g}-{max(values):g})")
        print(f"{variant:>9} n={len(found)}: " + ", ".join(cells))
    first, *others = rows
    for variant in others:
        pairs = list(zip(rows[variant], rows[first], strict=False))
        for name in ("wall", "epochs", "loop_ms"):
            ratios = [theirs[name] / mine[name] for theirs, mine in pairs]
            print(f"{variant} / {first}, {name}: {statistics.median(ratios):.2f}")
        if all("reached" in mine for _, mine in pairs):
            ratios = [theirs["wall"] / mine["reached"] for theirs, mine in pairs]
            reached = sum(ratio > 0 for ratio in ratios)
            print(
                f"{variant}, wall / {first}, reached (in {reached} of {len(ratios)}; 0: never): "
                f"{statistics.median(ratios):.2f} {[round(ratio, 2) for ratio in ratios]}"
            )


if __name__ == "__main__":
    main()
