"""A whole search for `tests/benchmarks/gpu.py`: `hpsearch run` beside plain Optuna with a DataLoader loop.

    python -m tests.benchmarks.gpu_search DATA TRIALS SECONDS DEVICE LOADERS

is the peer, one process: Optuna with its defaults and the median pruner, validation after each epoch. The data
are a .npz file, or the folder of FashionMNIST/.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EPOCHS = (1, 3)
BATCHES = (128, 256, 512)

STUDY = """
[study]
name = "bench"
trials = {trials}

[data]
dataset = "{dataset}"
root = "{data}"

[model]
name = "cnn"

[search]
learning_rate = {{ low = 1e-3, high = 0.3, log = true }}
batch_size = {batches}
epochs = {{ low = {low}, high = {high} }}

[early_stopping]
criterion = "none"

[pruner]
name = "median"
"""


def ours(
    data: Path, folder: Path, trials: int, limit: float, workers: int, flags: list[str]
) -> dict[str, Any]:
    """Runs a whole search by the command, for `limit` seconds at most; returns what became of it.

    Args:
        workers: that `flags` ask for.
    """
    file = folder / "bench.toml"
    batches, (low, high) = list(BATCHES), EPOCHS
    tables = {"dataset": "FashionMNIST" if data.is_dir() else "npz", "data": data, "trials": trials}
    file.write_text(STUDY.format(**tables, batches=batches, low=low, high=high))
    command = [
        sys.executable,
        "-m",
        "hpsearch",
        "run",
        str(file),
        "--json",
        "--timeout",
        f"{limit:.0f}s",
        *flags,
    ]
    command += ["--run-folder", str(folder / f"runs-{time.monotonic_ns()}")]
    began, first_step, busy, summary = time.monotonic(), None, 0.0, {}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "epoch":
                busy += event["seconds"]
                first_step = first_step or time.monotonic() - began - event["seconds"]
            if event["event"] == "study_end":
                summary = event
    wall = time.monotonic() - began
    if process.returncode != 0:
        raise RuntimeError(f"hpsearch run ended with status {process.returncode}")
    return {
        "wall_s": wall,
        "trials": sum(summary["counts"].get(state, 0) for state in ("COMPLETE", "PRUNED", "FAIL")),
        "epochs": summary["epochs"],
        "first_step_s": first_step,
        "driver_cpu_share": summary["driver_seconds"] / summary["seconds"],
        "not_training_share": 1 - busy / workers / (wall - (first_step or 0.0)),
        "best": summary["best"]["score"],
    }


def peer(data: Path, trials: int, limit: float, device: str, loaders: int) -> dict[str, Any]:
    """Runs the peer as a process; when `limit` seconds are over it begins no more trials."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu_search", str(data), str(trials), str(limit)]
    began = time.monotonic()
    done = subprocess.run(
        [*command, device, str(loaders)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"wall_s": time.monotonic() - began, **told}


def main() -> None:
    """The peer's own process."""
    import optuna
    import torch
    from torch import nn
    from torch.utils.data import DataLoader

    data, trials, limit = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    device, loaders = torch.device(sys.argv[4]), int(sys.argv[5])
    began, parts = time.monotonic(), both_parts(data)
    epochs_run = 0

    def objective(trial: optuna.Trial) -> float:
        nonlocal epochs_run
        rate = trial.suggest_float("learning_rate", 1e-3, 0.3, log=True)
        batch = trial.suggest_categorical("batch_size", BATCHES)
        epochs = trial.suggest_int("epochs", *EPOCHS)
        model = small_cnn().to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        best = float("inf")
        for epoch in range(1, epochs + 1):
            train_loader, val_loader = (
                DataLoader(part, batch, shuffle=part is parts[0], num_workers=loaders) for part in parts
            )
            model.train()
            for images, targets in train_loader:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(images.to(device)), targets.to(device))
                loss.backward()
                optimizer.step()
            schedule.step()
            epochs_run += 1
            best = min(best, validated(model, val_loader, device))
            trial.report(best, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return best

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner())
    while len(study.trials) < trials and time.monotonic() - began < limit:
        study.optimize(objective, n_trials=1)
    best = min(v for trial in study.trials for v in trial.intermediate_values.values())
    print(json.dumps({"trials": len(study.trials), "epochs": epochs_run, "best": best}))


def both_parts(data: Path) -> list[Any]:
    """Returns the training and the validation part, as torchvision's data sets are."""
    from hpsearch.training.data.arrays import read_idx
    from tests.benchmarks.gpu_loops import Pictures, pictures

    if not data.is_dir():
        return [pictures(data, part) for part in ("train", "val")]
    images, targets = (
        read_idx(str(next((data / "FashionMNIST" / "raw").glob(f"train-{kind}-ubyte*"))))
        for kind in ("images-idx3", "labels-idx1")
    )
    cut = len(images) * 8 // 9  # as many as of ours: 8 parts of 9 train
    return [Pictures(images[part, None], targets[part]) for part in (slice(cut), slice(cut, None))]


def validated(model: Any, loader: Any, device: Any) -> float:
    """Returns the mean loss over the validation part."""
    import torch

    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for images, targets in loader:
            outputs, targets = model(images.to(device)), targets.to(device)
            total += torch.nn.functional.cross_entropy(outputs, targets, reduction="sum").item()
            count += len(targets)
    return total / count


def small_cnn() -> Any:
    """Returns the `cnn` for images of 28 x 28, written out."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


if __name__ == "__main__":
    main()
