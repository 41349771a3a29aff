"""The parts of `tests/benchmarks/gpu.py` that train in its own process."""

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from tests.benchmarks.gpu_bench import Bench, Cases, Row
from tests.benchmarks.gpu_loops import (
    AUGMENT,
    Bare,
    Case,
    Common,
    Ours,
    as_torch_comes,
    pictures,
    random_images,
    rates,
)

PROFILED = 50  # steps: the profiler notes each kernel
OPERATIONS = 12  # of a model, in the profile's table


def loops(bench: Bench) -> Cases:
    """The plain engine, the bare loop and the common loop."""
    for name, case in bench.cases.items():
        for batch in bench.batches:
            for augment in (False, True):
                what = f"{name}, batch {batch}{', augmented' if augment else ''}"
                yield what, _compare(bench, name, case, batch, augment)


def _compare(bench: Bench, name: str, case: Case, batch: int, augment: bool) -> Iterator[Row]:
    ours = Ours(case, batch, bench.device, bench.folder, data={"augment": AUGMENT if augment else []})
    learner = ours.training._learner
    works: dict[str, Callable[[], int]] = {"ours": ours.train}
    if not augment:
        bare = Bare(ours, batch, learner.precision.autocast, learner.memory_format is torch.channels_last)
        works["bare"] = as_torch_comes(bare.train)
    model = copy.deepcopy(learner.model).to(memory_format=torch.contiguous_format)
    data = pictures(random_images(case, bench.folder), "train", augment)
    common = Common(data, model, batch, bench.device, case.steps // 10, bench.args.loaders)
    works["common"] = as_torch_comes(common.train)
    timed = rates(works, bench.device, bench.rounds, turns={"common": common.turn})
    found = {who: statistics.median(values) for who, values in timed.items()}
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
    row["micro_batch"] = learner.micro_batch
    yield row


def rules(bench: Bench) -> Cases:
    """Bare loops that differ in one choice, and the compiled engine with what compiling takes."""
    for name in ("mlp", "cnn", "resnet18"):
        yield name, _choices(bench, name)
        if not bench.quick:
            yield f"{name}, compiled", _compiled(bench, name)


def _choices(bench: Bench, name: str) -> Iterator[Row]:
    ours = Ours(bench.cases[name], bench.batch, bench.device, bench.folder)
    choices: dict[str, tuple[torch.dtype | None, bool, bool]] = {
        "float32": (None, False, False),
        "float32, channels last": (None, True, False),
        "bfloat16": (torch.bfloat16, False, False),
        "bfloat16, channels last": (torch.bfloat16, True, False),
    }
    if bench.cuda:
        choices["bfloat16, CUDA graph"] = (torch.bfloat16, False, True)
    works: dict[str, Callable[[], int]] = {}
    for what, (autocast, channels_last, graph) in choices.items():
        if not (channels_last and name == "mlp"):
            works[what] = Bare(ours, bench.batch, autocast, channels_last, graph).train
    works["float32, cuDNN's choice"] = as_torch_comes(works["float32"], benchmark=True)
    works["ours"] = ours.train
    for what, values in rates(works, bench.device, bench.rounds).items():
        yield {"model": name, "batch": bench.batch, "rule": what, "rate": statistics.median(values)}
    ours.close()


def _compiled(bench: Bench, name: str) -> Iterator[Row]:
    ours = Ours(bench.cases[name], bench.batch, bench.device, bench.folder, train={"compile": "on"})
    began = time.perf_counter()
    ours.whole_epoch()  # compiles for training and for validation
    first = time.perf_counter() - began
    again = ours.whole_epoch().seconds
    rate = statistics.median(rates({"ours": ours.train}, bench.device, bench.rounds)["ours"])
    ours.close()
    row: Row = {"model": name, "batch": bench.batch, "rule": "compiled", "rate": rate}
    yield {**row, "compiling_s": first - again}


def epochs(bench: Bench) -> Cases:
    """Where an epoch's time goes, over the whole training part, and the host's waits."""
    for name, case in bench.cases.items():
        for augment in (False, True):
            what = f"{name}{', augmented' if augment else ''}"
            yield what, _epoch(bench, name, case, augment)


def _epoch(bench: Bench, name: str, case: Case, augment: bool) -> Iterator[Row]:
    tables = {"data": {"augment": AUGMENT if augment else []}}
    whole = replace(case, steps=case.samples // bench.batch)
    ours = Ours(whole, bench.batch, bench.device, bench.folder, **tables)
    results = [ours.whole_epoch() for _ in range(2 + bench.rounds)][2:]
    ours.close()
    medians = {
        field: statistics.median(getattr(result, field) for result in results)
        for field in ("seconds", "eval_seconds", "checkpoint_seconds")
    }
    row: Row = {"model": name, "batch": bench.batch, "augment": augment, "epoch_s": medians["seconds"]}
    row["validation_share"] = medians["eval_seconds"] / medians["seconds"]
    row["checkpoint_share"] = medians["checkpoint_seconds"] / medians["seconds"]
    short = Ours(_short(case), bench.batch, bench.device, bench.folder, **tables)
    short.whole_epoch()
    row["waits_training"] = short.waits(short.train)
    row["waits_epoch"] = short.waits(short.whole_epoch)
    row["of_steps"] = short.samples // bench.batch
    short.close()
    yield row


def profile(bench: Bench) -> Cases:
    """The kernels that take most of a training epoch's time."""
    for name in ("cnn", "resnet18"):
        yield name, _profile(bench, name)


def _profile(bench: Bench, name: str) -> Iterator[Row]:
    ours = Ours(_short(bench.cases[name]), bench.batch, bench.device, bench.folder)
    ours.whole_epoch()
    for row in ours.costliest(ours.train, OPERATIONS):
        yield {"model": name, "batch": bench.batch, **row}
    ours.close()


def _short(case: Case) -> Case:
    return replace(case, steps=min(case.steps, PROFILED))
