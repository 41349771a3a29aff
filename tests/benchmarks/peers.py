"""The same search as plain Optuna and Ray Tune run it: wall time, epochs, seconds per epoch, best loss.

    python -m tests.benchmarks.peers PEERS_FOLDER [--seeds 5] [--trials 32] [--ray] [--json FILE]

PEERS_FOLDER holds peer_optuna.py and peer_raytune.py. All use the digits, the same small CNN, SGD with momentum
0.9 and cosine decay, the same space and split, two processes. Optuna and hpsearch use the same median pruner with
Optuna's defaults; hpsearch stops early as well, by patience. `auto` is hpsearch's default, which pauses trials instead
of pruning them, with --auto-trials trials. The variants are interleaved, seed by seed.
Whole processes are timed, from start to exit, imports included. `loop` is the busy seconds of one worker per
epoch; what is left of the wall time is start-up, sampling and waiting.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import torch

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


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("peers", type=Path)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--trials", type=int, default=32)
    options.add_argument("--auto-trials", type=int, default=48)
    options.add_argument("--patience", type=int, default=5)
    options.add_argument("--ray", action="store_true", help="run Ray Tune too, once")
    options.add_argument("--json", type=Path)
    args = options.parse_args()
    rows: dict[str, list[dict[str, float]]] = {"hpsearch": [], "auto": [], "optuna": []}
    for seed in range(args.seeds):
        rows["hpsearch"].append(ours(args, seed, "sampled", args.trials))
        rows["auto"].append(ours(args, seed, "auto", args.auto_trials))
        rows["optuna"].append(plain_optuna(args))
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


def ours(args: argparse.Namespace, seed: int, policy: str, trials: int) -> dict[str, float]:
    """Returns the figures of one `hpsearch run` with two workers."""
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
        study = optuna.load_study(study_name="digits", storage=f"sqlite:///{folder}/runs/hpsearch.db")
    epochs = sum(len(trial.intermediate_values) for trial in study.trials)
    busy = sum(trial.user_attrs["seconds"] for trial in study.trials)
    first = min(trial.datetime_start.timestamp() for trial in study.trials) - clock
    return row(wall, epochs, study.best_value, first, busy / epochs)


def plain_optuna(args: argparse.Namespace) -> dict[str, float]:
    """Returns the figures of peer_optuna.py with two processes."""
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
    # Optuna's best_value knows COMPLETE trials alone; the fair comparison is the best epoch of any trial.
    best = min(value for trial in study.trials for value in trial.intermediate_values.values())
    first = min(start for start, _ in spans) - clock
    return row(wall, told["epochs"], best, first, busy / told["epochs"])


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
    names = list(rows["hpsearch"][0])
    for variant, found in rows.items():
        cells = []
        for name in names:
            values = [one[name] for one in found]
            cells.append(f"{name} {statistics.median(values):g} ({min(values):g}-{max(values):g})")
        print(f"{variant:>9} n={len(found)}: " + ", ".join(cells))
    for variant, found in rows.items():
        if variant == "hpsearch":
            continue
        pairs = list(zip(found, rows["hpsearch"], strict=False))
        for name in ("wall", "epochs", "loop_ms"):
            ratios = [theirs[name] / mine[name] for theirs, mine in pairs]
            print(f"{variant} / hpsearch, {name}: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
