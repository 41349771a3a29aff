"""The parts of `tests/benchmarks/gpu.py` that start worker processes, or whole searches."""

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from hpsearch.contracts.executor import Workers
from hpsearch.contracts.trial import TrialRun
from hpsearch.executors.mps import CONTROL, shared
from hpsearch.executors.places import choose_gpus, plan
from hpsearch.training import device as devices
from tests.benchmarks import gpu_search
from tests.benchmarks.gpu_bench import Bench, Cases, Row
from tests.benchmarks.gpu_loops import CASES, Ours, random_images
from tests.gpu.fleet import Crew

COUNTS = (1, 2, 4, 8)
EPOCHS = 3  # the first warms up


def workers(bench: Bench) -> Cases:
    """Worker processes that train at once: what they reach together, and what they take."""
    shares = ["time", *(["nvidia-mps"] if bench.cuda and shutil.which(CONTROL) else [])]
    for name in ("cnn",) if bench.quick else ("cnn", "resnet18"):
        for share in shares:
            yield f"{name}, {share}", _together(bench, name, share)


def _together(bench: Bench, name: str, share: str) -> Iterator[Row]:
    """Starts as many workers as will ever train at once, and lets ever more of them train."""
    counts = (1, 2) if bench.quick else COUNTS
    # On the CPU there is nothing to share: the workers just run beside one another.
    wanted = Workers(gpus="none", workers=counts[-1])
    if bench.cuda:
        wanted = Workers(gpus=choose_gpus("auto", os.environ)[0], workers_per_gpu=counts[-1])
    folder, case = bench.folder / f"{name}-{share}", bench.cases[name]
    # Also puts the images into the cache, for all workers.
    half = replace(case, steps=max(1, case.steps // 2))
    ours = Ours(half, bench.batch, torch.device("cpu"), bench.folder)
    spec = ours.training.slot.run.spec
    ours.close()
    spec = spec.model_copy(update={"train": spec.train.model_copy(update={"epochs": EPOCHS})})
    before = devices.memory(bench.device)
    with (
        shared(share, plan(wanted, 1), folder / "mps") as places,
        Crew(folder, places, TrialRun("bench", 0, 1, {}, spec, ""), bench.folder / "cache") as crew,
    ):
        held = devices.memory(bench.device)
        for count in counts:
            if bench.late(f"workers: {name}, {share}, {count}"):
                continue
            numbers = {worker: 100 * count + worker for worker in range(count)}
            crew.train(
                {w: TrialRun("bench", n, 1, {}, spec, str(folder / f"{n:05d}")) for w, n in numbers.items()}
            )
            # All train the same, so they end at about the same time.
            later = [crew.results[number][1:] for number in numbers.values()]
            rate = sum(sum(r.samples for r in found) / sum(r.seconds for r in found) for found in later)
            row: Row = {"model": name, "workers": count, "share": share, "rate": rate}
            if before and held:
                row["context_and_data_mb_each"] = (before[0] - held[0]) / 2**20 / counts[-1]
            peaks = [float(str(crew.ends[number].facts["peak_memory_mb"])) for number in numbers.values()]
            row["peak_tensors_mb"] = sum(peaks)
            yield row


def search(bench: Bench) -> Cases:
    """A whole search beside the peer; both on the same images."""
    yield "whole searches", _searches(bench)


def _searches(bench: Bench) -> Iterator[Row]:
    import optuna  # noqa: F401  # the peer's; said now and not after minutes

    case = replace(CASES["cnn"], samples=1200) if bench.quick else CASES["cnn"]
    data = bench.args.root or random_images(case, bench.folder)
    trials = 2 if bench.quick else 50
    counts = (1,) if bench.quick else (1, 4)
    for turn, count in enumerate(counts):
        # The time that is left is the same for all that have not run yet, the peer among them.
        rest = max(20.0, (bench.part_ends_at - time.monotonic()) / (len(counts) + 1 - turn))
        flags = ["--workers", str(count), "--gpus", "none"]
        if bench.cuda:
            gpu = choose_gpus("auto", os.environ)[0]
            flags = ["--gpus", gpu, "--workers-per-gpu", str(count)]
        found = gpu_search.ours(data, bench.folder, trials, rest, count, flags)
        yield _per_trial(f"hpsearch, {count} workers", found, trials)
    rest = max(20.0, bench.part_ends_at - time.monotonic())
    peer = gpu_search.peer(data, trials, rest, str(bench.device), bench.args.loaders)
    yield _per_trial("plain Optuna, 1 process", peer, trials)


def _per_trial(who: str, found: Row, trials: int) -> Row:
    row = {"who": who, **found}
    row["s_per_epoch"] = row["wall_s"] / row["epochs"]
    row["s_for_all_trials"] = row["wall_s"] * trials / row["trials"]
    return row
