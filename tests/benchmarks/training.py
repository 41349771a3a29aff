"""Training on CPUs: an epoch beside the DataLoader's, shared memory, the price of checkpoints.

    python -m tests.benchmarks.training --root FOLDER [--rounds 2] [--json FILE] [--samples 60000]

FOLDER holds FashionMNIST/raw with the original files. Parts (`--only epoch,memory,checkpoint`):
    epoch       Fashion-MNIST, the `cnn` at batch 128: seconds of one epoch over all 60,000 training images (no
                validation, no checkpoint) on `--threads` cores, beside the same model and optimizer with
                torchvision's data set and a DataLoader (2 workers); the two take turns
    memory      processes that share the data set: proportional set size of each, and of the images alone
    checkpoint  share of an epoch's time that its checkpoint takes, for digits and for Fashion-MNIST
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpsearch.contracts.trial import EpochResult, TrialRun
from hpsearch.study import parse_study
from hpsearch.study.specification import StudySpec
from hpsearch.training import device as devices
from hpsearch.training.build import build_engine
from hpsearch.training.plain import PlainEngine

CPU = torch.device("cpu")
BATCH = 128
KEEPER = """
import json, sys
from pathlib import Path
from hpsearch.study import parse_study
from hpsearch.training.data import load
spec = parse_study(json.loads(sys.argv[1])).data
prepared = load(spec, cache=Path(sys.argv[2])).at(spec)
touched = int(prepared.train.images.sum()) + int(prepared.val.images.sum())
print("ready", touched, flush=True)
sys.stdin.read()
"""


def study(dataset: str, root: str, samples: int, threads: int) -> dict[str, Any]:
    """Returns a study file's tables; of Fashion-MNIST nearly all of the training part is trained on."""
    data: dict[str, Any] = {"dataset": dataset, "root": root}
    if dataset == "FashionMNIST":
        # All but a dozen, which must be left to validate on; the official test part stays what it is.
        data["split"] = {"train": 0.9998 * 0.5, "val": 0.0002 * 0.5, "test": 0.5}
        data["subset"] = samples / 60_000
    return {
        "study": {"name": "bench"},
        "data": data,
        "model": {"name": "cnn"},
        "train": {"batch_size": BATCH, "epochs": 1000, "threads": threads},
        "search": {"learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}},
    }


def admit(spec: StudySpec, folder: Path, name: str) -> PlainEngine:
    """Returns an engine with one trial in it."""
    engine, _ = build_engine(spec, CPU, cache=str(folder / "cache"))
    assert isinstance(engine, PlainEngine)
    engine.admit(TrialRun("bench", 0, 1, {}, spec, str(folder / name / "00000")))
    return engine


class DataLoaderEpoch:
    """An epoch of the common loop: torchvision's data set, a DataLoader, the loss fetched at every step."""

    def __init__(self, root: str, model: nn.Module, samples: int, workers: int) -> None:
        from torch.utils.data import DataLoader, Subset
        from torchvision.datasets import FashionMNIST
        from torchvision.transforms import v2

        to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.286], [0.353])]
        data = FashionMNIST(root, train=True, transform=v2.Compose(to_tensor), download=False)
        part = Subset(data, range(samples)) if samples < len(data) else data
        self.loader: Any = DataLoader(part, BATCH, shuffle=True, num_workers=workers)
        self.model = model.train()
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def __call__(self) -> int:
        seen = 0
        for images, targets in self.loader:
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(images), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            loss.item()
            seen += len(targets)
        return seen


def epoch(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of one epoch of each, the two taking turns after one round of warm-up."""
    spec = parse_study(study("FashionMNIST", args.root, args.samples, args.threads))
    engine = admit(spec, folder, "epoch")
    assert engine._attempt is not None
    training = engine._attempt.trainings[0]
    samples, numbers = training.samples, iter(range(1, 1000))
    theirs = DataLoaderEpoch(
        unpacked(args.root, folder), _copy(training.learner.model), samples, args.loaders
    )

    def ours() -> int:
        training.train_epoch(next(numbers))
        return samples

    taken: dict[str, list[float]] = {"hpsearch": [], "DataLoader": []}
    works: dict[str, Callable[[], int]] = {"hpsearch": ours, "DataLoader": theirs}
    for number in range(args.rounds + 1):
        for name, work in works.items():
            began = time.perf_counter()
            assert work() == samples
            if number:
                taken[name].append(time.perf_counter() - began)
    engine.close()
    medians = {name: statistics.median(values) for name, values in taken.items()}
    ratio = statistics.median(b / a for a, b in zip(*taken.values(), strict=True))
    return {"samples": samples, "median_s": medians, "all_s": taken, "dataloader_over_hpsearch": ratio}


def _copy(model: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(model)


def unpacked(root: str, folder: Path) -> str:
    """Returns a root with the files as torchvision wants them, unpacked; the given one is not written to."""
    import gzip

    raw = folder / "unpacked" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (Path(root) / "FashionMNIST" / "raw").glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    return str(folder / "unpacked")


def memory(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What one, and what four processes take that all have read every image."""
    found: dict[str, Any] = {}
    tables = json.dumps(study("FashionMNIST", args.root, 60_000, 1))
    for count in (1, 4):
        command = [sys.executable, "-c", KEEPER, tables, str(folder / "cache")]
        keepers: list[subprocess.Popen[str]] = []
        try:
            for _ in range(count):
                keepers.append(
                    subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                )
            for keeper in keepers:
                assert keeper.stdout
                assert keeper.stdout.readline().startswith("ready"), "a process could not load the data"
            whole = [proportional_kib(keeper.pid) for keeper in keepers]
            images = [proportional_kib(keeper.pid, "images.npy") for keeper in keepers]
        finally:
            for keeper in keepers:
                keeper.communicate("")
        found[f"{count} processes"] = {
            "images_mib_each": round(statistics.mean(images) / 1024, 2),
            "images_mib_together": round(sum(images) / 1024, 2),
            "all_mib_each": round(statistics.mean(whole) / 1024, 1),
        }
    return found


def proportional_kib(pid: int, mapping: str = "") -> int:
    """Returns a process's share of memory (shared pages divided by their users), or that of some mappings."""
    if not mapping:
        return _pss(Path(f"/proc/{pid}/smaps_rollup").read_text())
    blocks = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text())
    return sum(_pss(block) for block in blocks if mapping in block.splitlines()[0])


def _pss(text: str) -> int:
    found = re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)
    assert found, f"the kernel tells no proportional set size: {text[:200]}"
    return int(found[1])


def checkpoint(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Where the time of an epoch goes, with a checkpoint after each, as by default."""
    found: dict[str, Any] = {}
    for dataset in ("digits", "FashionMNIST"):
        tables = study(dataset, args.root, args.samples, args.threads)
        tables["data"].pop("split", None)
        engine = admit(parse_study(tables), folder, f"checkpoint-{dataset}")
        results = []
        for _ in range(max(3, args.rounds) * (10 if dataset == "digits" else 1) + 1):
            result = engine.step()[0]
            assert isinstance(result, EpochResult), result
            results.append(result)
        engine.close()
        parts = {
            field: statistics.median(getattr(result, field) for result in results[1:])
            for field in ("seconds", "eval_seconds", "checkpoint_seconds")
        }
        found[dataset] = {
            "epoch_s": parts["seconds"],
            "checkpoint_share": parts["checkpoint_seconds"] / parts["seconds"],
            "validation_share": parts["eval_seconds"] / parts["seconds"],
        }
    return found


PARTS = {"epoch": epoch, "memory": memory, "checkpoint": checkpoint}


def main() -> None:
    """Measures the parts asked for, and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--loaders", type=int, default=2)
    parser.add_argument("--samples", type=int, default=60_000, help="fewer only to check the code")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    facts = {
        **devices.versions(),
        "cores": os.cpu_count(),
        "threads": args.threads,
        "system": platform.machine(),
    }
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    found: dict[str, Any] = {"facts": facts}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only.split(","):
            found[name] = PARTS[name](args, Path(folder))
            print(f"{name}: {json.dumps(found[name], indent=1)}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
