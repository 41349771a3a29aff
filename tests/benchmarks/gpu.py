"""What a GPU gets out of hpsearch, and what it could: one command, a table, JSON.

    python -m tests.benchmarks.gpu [--json FILE] [--only loops,rules,epochs,workers,search] [--limit 450]
    python -m tests.benchmarks.gpu --device cpu --quick      checks the code, measures nothing worth keeping

Parts, in this order; each has its share of the limit and of what the parts before it left over. What is cut off
is named:
    loops     samples/s of the plain engine beside a bare loop (goal 90 %) and the common loop (goal 5x)
    rules     number types, memory order, cuDNN's choice, CUDA graphs and torch.compile, each on and off
    epochs    shares of validation and checkpoint in an epoch; how often the host waits for the device
    workers   1, 2, 4 and 8 worker processes on one GPU: samples/s in all, and memory
    search    `hpsearch run` of 50 trials beside plain Optuna with a DataLoader loop, one process

Random images; contestants take turns; medians over the rounds after one of warm-up; CUDA events.
"""

import argparse
import copy
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hpsearch.service.mps import CONTROL, shared
from hpsearch.service.places import Workers, choose_gpus, plan
from hpsearch.spec.trial import TrialRun
from hpsearch.training import device as devices
from tests.benchmarks import gpu_search
from tests.benchmarks.gpu_loops import (
    AUGMENT,
    CASES,
    Bare,
    Case,
    Common,
    Ours,
    Pictures,
    random_images,
    rates,
)
from tests.gpu.fleet import Crew

BATCHES = (32, 128, 512)
# Of the time limit; a case that has begun is ended, so a part may take a case longer.
SHARES = {"loops": 0.4, "rules": 0.15, "epochs": 0.1, "workers": 0.15, "search": 0.2}
Row = dict[str, Any]


class Bench:
    """What all parts share: device, folder, sizes, and the clock."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.device = devices.choose(args.device)
        self.quick, self.rounds = args.quick, 1 if args.quick else 3
        self.cases = {n: _small(case) if args.quick else case for n, case in CASES.items()}
        self.batches = (32,) if args.quick else BATCHES
        self.ends_at = time.monotonic() + args.limit
        self.part_ends_at = self.ends_at
        self.left_out: list[str] = []

    def begin(self, part: str, following: list[str]) -> None:
        """Gives a part its share of the time that is left, in proportion to `SHARES`."""
        now = time.monotonic()
        shares = SHARES[part] + sum(SHARES[name] for name in following)
        self.part_ends_at = now + max(0.0, self.ends_at - now) * SHARES[part] / shares

    def late(self, what: str) -> bool:
        """Says whether the part's time is up, and notes what is left out because of it."""
        if time.monotonic() < self.part_ends_at:
            return False
        self.left_out.append(what)
        return True


def _small(case: Case) -> Case:
    return replace(case, samples=192, steps=3)


def loops(bench: Bench) -> list[Row]:
    """The plain engine, the bare loop and the common loop."""
    rows = []
    for name, case in bench.cases.items():
        if bench.quick and name == "resnet50":
            continue
        for batch in bench.batches:
            for augment in (False, True):
                if not bench.late(f"loops: {name}, batch {batch}{', augmented' if augment else ''}"):
                    rows.append(_compare(bench, name, case, batch, augment))
    return rows


def _compare(bench: Bench, name: str, case: Case, batch: int, augment: bool) -> Row:
    ours = Ours(case, batch, bench.device, bench.folder, data={"augment": AUGMENT if augment else []})
    learner = ours.training._learner
    works: dict[str, Callable[[], int]] = {"ours": ours.train}
    if not augment:
        bare = Bare(ours, batch, learner.precision.autocast, learner.memory_format is torch.channels_last)
        works["bare"] = bare.train
    common_steps = min(ours.samples // batch, max(4, case.steps // 10))
    model = copy.deepcopy(learner.model).to(memory_format=torch.contiguous_format)
    pictures = Pictures(case, bench.folder, augment)
    common = Common(pictures, model, batch, bench.device, common_steps, bench.args.loaders)
    works["common"] = common.train
    found = {
        who: statistics.median(values) for who, values in rates(works, bench.device, bench.rounds).items()
    }
    ours.close()
    row: Row = {
        "model": name,
        "batch": batch,
        "augment": augment,
        "precision": learner.precision.name,
        **found,
    }
    row["of_bare"] = found["ours"] / found["bare"] if "bare" in found else None
    row["of_common"] = found["ours"] / found["common"]
    return row


def rules(bench: Bench) -> list[Row]:
    """Bare loops that differ in one choice, and the compiled engine with what compiling takes."""
    rows = []
    cuda = bench.device.type == "cuda"
    for name in ("mlp", "cnn", "resnet18"):
        case, batch = bench.cases[name], 32 if bench.quick else 128
        if bench.late(f"rules: {name}"):
            continue
        ours = Ours(case, batch, bench.device, bench.folder)
        choices: dict[str, tuple[torch.dtype | None, bool, bool]] = {
            "float32": (None, False, False),
            "float32, channels last": (None, True, False),
            "bfloat16": (torch.bfloat16, False, False),
            "bfloat16, channels last": (torch.bfloat16, True, False),
        }
        if cuda:
            choices["bfloat16, CUDA graph"] = (torch.bfloat16, False, True)
        works: dict[str, Callable[[], int]] = {}
        for what, (autocast, channels_last, graph) in choices.items():
            if not (channels_last and name == "mlp"):
                works[what] = Bare(ours, batch, autocast, channels_last, graph).train
        works["float32, cuDNN's choice"] = _free_choice(works["float32"])
        works["ours"] = ours.train
        for what, values in rates(works, bench.device, bench.rounds).items():
            rows.append({"model": name, "batch": batch, "rule": what, "rate": statistics.median(values)})
        ours.close()
        if not bench.quick:
            rows.append(_compiled(bench, name, case, batch))
    return rows


def _free_choice(work: Callable[[], int]) -> Callable[[], int]:
    """Lets cuDNN try its kernels and take the fastest, repeatable or not."""

    def freely() -> int:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
        try:
            return work()
        finally:
            devices.choose_repeatable_kernels()

    return freely


def _compiled(bench: Bench, name: str, case: Case, batch: int) -> Row:
    ours = Ours(case, batch, bench.device, bench.folder, train={"compile": "on"})
    began = time.perf_counter()
    ours.whole_epoch()  # compiles for training and for validation
    first = time.perf_counter() - began
    again = ours.whole_epoch().seconds
    rate = statistics.median(rates({"ours": ours.train}, bench.device, bench.rounds)["ours"])
    ours.close()
    return {"model": name, "batch": batch, "rule": "compiled", "rate": rate, "compiling_s": first - again}


def epochs(bench: Bench) -> list[Row]:
    """Where an epoch's time goes, over the whole training part, and the host's waits."""
    rows = []
    for name, case in bench.cases.items():
        if (bench.quick and name == "resnet50") or bench.late(f"epochs: {name}"):
            continue
        for augment in (False, True):
            batch = 32 if bench.quick else 128
            whole = replace(case, steps=case.samples // batch)
            tables = {"data": {"augment": AUGMENT if augment else []}}
            ours = Ours(whole, batch, bench.device, bench.folder, **tables)
            results = [ours.whole_epoch() for _ in range(2 + bench.rounds)][2:]
            medians = {
                field: statistics.median(getattr(result, field) for result in results)
                for field in ("seconds", "eval_seconds", "checkpoint_seconds")
            }
            row = {"model": name, "batch": batch, "augment": augment, "epoch_s": medians["seconds"]}
            row["validation_share"] = medians["eval_seconds"] / medians["seconds"]
            row["checkpoint_share"] = medians["checkpoint_seconds"] / medians["seconds"]
            row["waits_training"] = ours.waits(ours.train)
            row["waits_epoch"] = ours.waits(ours.whole_epoch)
            rows.append(row)
            ours.close()
    return rows


def workers(bench: Bench) -> list[Row]:
    """Worker processes that train at once: what they reach together, and what they take."""
    rows = []
    shares = ["time", *(["nvidia-mps"] if bench.device.type == "cuda" and shutil.which(CONTROL) else [])]
    for name in ("cnn", "resnet18"):
        for count in (1, 2) if bench.quick else (1, 2, 4, 8):
            for share in shares if count > 1 else ["time"]:
                if not bench.late(f"workers: {name}, {count}, {share}"):
                    rows.append(_together(bench, name, count, share))
        if bench.quick:
            break
    return rows


def _together(bench: Bench, name: str, count: int, share: str) -> Row:
    # On the CPU there is nothing to share: the workers just run beside one another.
    wanted = Workers(gpus="none", workers=count)
    if bench.device.type == "cuda":
        wanted = Workers(gpus=choose_gpus("auto", os.environ)[0], workers_per_gpu=count)
    folder = bench.folder / f"{name}-{count}-{share}"
    case = bench.cases[name]
    ours = Ours(case, 32 if bench.quick else 128, torch.device("cpu"), bench.folder)
    spec = ours.training.slot.run.spec
    ours.close()
    train = spec.train.model_copy(update={"epochs": 4 if bench.quick else 10})
    spec = spec.model_copy(update={"train": train})
    runs = {n: TrialRun("bench", n, 1, {}, spec, str(folder / f"{n:05d}")) for n in range(count)}
    before = devices.memory(bench.device)
    with (
        shared(share, plan(wanted, 1), folder / "mps") as places,
        Crew(folder, places, runs[0]) as crew,
    ):
        held = devices.memory(bench.device)
        crew.train(runs)
    # The first epoch warms up. All train the same, so they end at about the same time.
    later = {n: crew.results[n][1:] for n in runs}
    rate = sum(sum(r.samples for r in found) / sum(r.seconds for r in found) for found in later.values())
    row: Row = {"model": name, "workers": count, "share": share, "rate": rate}
    if before and held:
        row["contexts_and_data_mb"] = (before[0] - held[0]) / 2**20
    row["peak_tensors_mb"] = sum(float(str(end.facts["peak_memory_mb"])) for end in crew.ends.values())
    return row


def search(bench: Bench) -> list[Row]:
    """A whole search beside the peer; both on the same images."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        bench.left_out.append(f"search: {error}")
        return []
    if bench.late("search"):
        return []
    case = replace(CASES["cnn"], samples=1200) if bench.quick else CASES["cnn"]
    data = random_images(case, bench.folder)
    trials = 2 if bench.quick else 50
    cuda = bench.device.type == "cuda"
    rows: list[Row] = []
    counts = (1,) if bench.quick else (1, 4)
    for turn, count in enumerate(counts):
        # The time that is left is the same for all that have not run yet, the peer among them.
        rest = max(20.0, (bench.part_ends_at - time.monotonic()) / (len(counts) + 1 - turn))
        flags = ["--workers", str(count), "--gpus", "none"]
        if cuda:
            gpu = choose_gpus("auto", os.environ)[0]
            flags = ["--gpus", gpu, "--workers-per-gpu", str(count)]
        found = gpu_search.ours(data, bench.folder, trials, rest, flags)
        rows.append({"who": f"hpsearch, {count} workers", **found})
    rest = max(20.0, bench.part_ends_at - time.monotonic())
    peer = gpu_search.peer(data, trials, rest, str(bench.device), bench.args.loaders)
    rows.append({"who": "plain Optuna, 1 process", **peer})
    for row in rows:
        row["s_per_epoch"] = row["wall_s"] / row["epochs"]
        row["s_for_all_trials"] = row["wall_s"] * trials / row["trials"]
    return rows


PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    "loops": loops, "rules": rules, "epochs": epochs, "workers": workers, "search": search
}  # fmt: skip


def main() -> int:
    """Measures the parts asked for; returns 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--loaders", type=int, default=4, help="workers of the DataLoaders")
    parser.add_argument("--limit", type=float, default=450.0, help="seconds for all parts together")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    facts = {"device": devices.describe(devices.choose(args.device)), **devices.versions()}
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    found: dict[str, Any] = {"facts": facts, "quick": args.quick}
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        parts = args.only.split(",")
        for place, name in enumerate(parts):
            began = time.monotonic()
            try:
                bench.begin(name, parts[place + 1 :])
                found[name] = PARTS[name](bench)
            except Exception:  # the other parts' figures are not lost with it
                failed.append(name)
                traceback.print_exc()
            print(f"\n{name} ({time.monotonic() - began:.0f} s)", flush=True)
            show(found.get(name, []))
            found["left_out"], found["failed"] = bench.left_out, failed
            if args.json:
                args.json.write_text(json.dumps(found, indent=1))
    if bench.left_out:
        print("\nleft out:", "; ".join(bench.left_out))
    if failed:
        print("\nfailed:", ", ".join(failed), file=sys.stderr)
    return 1 if failed else 0


def show(rows: list[Row]) -> None:
    """Prints rows as a table; one that lacks a column leaves it empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), flush=True)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
