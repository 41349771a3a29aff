"""`hpsearch check`: builds a study's data and models and trains a few batches at the ends of its space."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from operator import attrgetter
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from hpsearch.contracts.engine import Engine
from hpsearch.contracts.trial import EndKind, EpochResult, TrialEnd
from hpsearch.errors import HpsearchError, ModelError
from hpsearch.executors.places import cores
from hpsearch.files.locks import temporary_folder
from hpsearch.results.commands.forecast import START, Sample, between, span, studies
from hpsearch.results.terminal.progress import precision_text
from hpsearch.study.checks import DataFacts, check_study_against
from hpsearch.study.search import SHORT, Choices, Entry, space_rows
from hpsearch.study.specification import StudySpec
from hpsearch.training import device as devices
from hpsearch.training.batches import cut
from hpsearch.training.build import admit, build_corners, build_engine, describe

logger = logging.getLogger(__name__)

STEPS = 8  # per epoch of a probe; the first epoch warms up, the others are timed
EPOCHS, ENOUGH = 9, 0.3  # of a probe at the most, and seconds of timed ones that suffice
CORRECTING, CORRECTING_SECONDS = 8, 10.0  # trials timed as they are sampled, and when to leave it at that
CORRECTING_SHARE = 0.02  # of the study's own time, so that a look at a short study is short


@dataclass(frozen=True, slots=True)
class Probe:
    """Batches trained with one model at one image size and batch size.

    Attributes:
        batch: samples per step.
        image: (channels, height, width).
        step_seconds: of one optimizer step.
        eval_seconds: of one pass over the validation part.
    """

    model: str
    batch: int
    image: tuple[int, int, int]
    parameters: int | None
    memory_mb: float | None
    step_seconds: float
    eval_seconds: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """How many seconds a study takes, start-up included: as trials are stopped, and if none is.

    How often trials are stopped is a guess, see `hpsearch.results.commands.forecast`.

    Attributes:
        expected: the mean of the studies that were acted out.
        span: the shortest and the longest of them.
        most: if no trial is stopped early.
    """

    expected: float
    span: tuple[float, float]
    most: float


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found.

    Attributes:
        precision: number types that trials compute in, for people; empty where the training function decides.
        data: None for a training function that brings its own.
        space: one row per hyperparameter: name, values, how they are drawn.
        estimate: for the whole study with this number of workers; None where nothing was timed.
        elsewhere: what a worker on the cluster has found, for people.
    """

    spec: StudySpec
    device: str
    precision: str
    data: DataFacts | None
    probes: tuple[Probe, ...]
    space: tuple[tuple[str, str, str], ...]
    workers: int
    estimate: Estimate | None
    elsewhere: str = ""


def check_study(
    spec: StudySpec,
    data_root: str | None,
    cache: Path,
    device: str = "auto",
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    waits: Callable[[str], None] | None = None,
    began: float | None = None,
) -> CheckResult:
    """Loads the data, builds a trial at every corner of the search space, and trains some batches.

    Args:
        progress: called with the numbers of images read and of all, if they must be read.
        waits: called with a sentence, now and then, while another process prepares the same images.
        began: when, by `time.monotonic`, this process began to import what a worker imports too.

    Raises:
        UserError: what a run would stop at: data, model, batch size, device.
    """
    chosen = devices.choose(device)
    torch.set_num_threads(spec.train.threads)  # as a worker does
    imported = 0.0 if began is None else time.monotonic() - began
    engine, data, loaded = _load(spec, chosen, data_root, cache, progress, waits)
    probes: tuple[Probe, ...] = ()
    estimate = None
    try:
        if data is not None:
            check_study_against(spec, data)
        if data is not None and spec.train.function is None:
            build_corners(engine, spec, decides_whether_built)
            probes = tuple(_probe(engine, variant, data) for variant in variants(spec, data))
            # The driver starts with the workers, and has as much to import.
            ready = (imported + loaded) * max(1.0, (workers + 1) / cores())
            # Workers on the CPU share its hours, those on GPUs are taken to have one each.
            alone = 1 if chosen.type == "cpu" else workers
            estimate = _estimate(engine, spec, data, probes, ready, workers, alone)
    finally:
        engine.close()
    precision = _precision(spec, chosen)
    return CheckResult(
        spec, str(chosen), precision, data, probes, tuple(space_rows(spec.search)), workers, estimate
    )


def _load(
    spec: StudySpec,
    device: torch.device,
    data_root: str | None,
    cache: Path,
    progress: Callable[[int, int], None] | None,
    waits: Callable[[str], None] | None,
) -> tuple[Engine, DataFacts | None, float]:
    """Returns the engine, the facts of the data, and the seconds that a worker needs to load both."""
    read = False

    def noted(done: int, total: int) -> None:
        nonlocal read
        read = True
        if progress:
            progress(done, total)

    began = time.monotonic()
    engine, data = build_engine(spec, device, data_root, str(cache), progress=noted, waits=waits)
    if read and ":" not in spec.data.dataset:  # the workers of the run will find the images prepared
        engine.close()
        began = time.monotonic()
        engine, data = build_engine(spec, device, data_root, str(cache), waits=waits)
    return engine, data, time.monotonic() - began


def _precision(spec: StudySpec, device: torch.device) -> str:
    if spec.train.function is not None:
        return ""
    asked = map(str, spec.values_of("train.precision"))
    return ", ".join(precision_text(name, devices.resolve(name, device).name) for name in asked)


def decides_whether_built(name: str) -> bool:
    """Says of a searchable field whether some of its values may give no trial: shapes, names, patterns, files."""
    fields = (
        *("optimizer", "schedule", "lr_multipliers", "class_weights", "micro_batch"),
        *("stages", "layer_decay"),
    )
    return name in [f"train.{field}" for field in fields] or (
        name.startswith(("model.", "data.", "train.args.")) and name != "data.subset"
    )


def variants(spec: StudySpec, data: DataFacts) -> Iterator[StudySpec]:
    """Yields the study at its largest and its smallest batch, for every model and image size in its space.

    The largest batch comes with the largest arguments of the model, the smallest with the smallest. All else
    that is searched has its first value, the subset its largest.
    """
    ends = spec.ends()
    shown = {name: ends[name] for name in ("model.name", "data.image_size") if name in ends}
    full = data.trained(max(spec.values_of("data.subset")))
    batches = [full if size == "full" else int(size) for size in spec.values_of("batch_size")]
    found: list[tuple[int, dict[str, Any]]] = []
    for chosen in product(*shown.values()):
        beside = dict(zip(shown, chosen, strict=True))
        for batch, pick in ((max(batches), _largest), (min(batches), _smallest)):
            one = batch, spec.filled(beside, pick)
            if one not in found:
                found.append(one)
                yield _shortened(spec.with_hparams(one[1]), data, batch)


def _shortened(spec: StudySpec, data: DataFacts, batch: int | None = None) -> StudySpec:
    """Returns a trial of few and short epochs, of this batch size if one is given."""
    full = data.trained(spec.data.subset)
    size = batch or (full if spec.train.batch_size == "full" else spec.train.batch_size)
    short: dict[str, Any] = {
        "batch_size": size,
        "epochs": EPOCHS,
        "steps_per_epoch": STEPS,
        "warmup_epochs": 0.0,
    }
    short["stages"] = spec.train.stages[-1:]  # of which an epoch takes longest
    return spec.model_copy(update={"train": spec.train.model_copy(update=short)})


def _largest(name: str, values: list[Any]) -> Any:
    """Returns the largest of a model's argument, and of the subset; the first value of all else."""
    if name == "data.subset":
        return max(values)
    return _sorted(values)[-1] if name.startswith("model.args.") else values[0]


def _smallest(name: str, values: list[Any]) -> Any:
    """Returns the smallest of a model's argument; all else is as in the largest."""
    return _sorted(values)[0] if name.startswith("model.args.") else _largest(name, values)


def _sorted(values: list[Any]) -> list[Any]:
    return sorted(values) if all(isinstance(value, int | float) for value in values) else values


def _probe(engine: Engine, spec: StudySpec, data: DataFacts) -> Probe:
    with temporary_folder("hpsearch-check") as folder:
        admit(engine, spec, folder)
        _epoch(engine, spec)
        timed = [_epoch(engine, spec)]
        while len(timed) < EPOCHS - 1 and sum(result.seconds for result in timed) < ENOUGH:
            timed.append(_epoch(engine, spec))
        end = engine.evict(0, EndKind.FINISHED)
    batch = int(spec.train.batch_size)
    count = data.trained(spec.data.subset)
    steps = len(cut(count, batch, spec.train.drop_last, STEPS))
    height, width = (spec.data.image_size,) * 2 if spec.data.image_size else (data.height, data.width)
    return Probe(
        model=spec.model.name,
        batch=batch,
        image=(data.channels, height, width),
        parameters=_fact(end, "parameters"),
        memory_mb=_fact(end, "peak_memory_mb"),
        step_seconds=median(one.seconds - one.eval_seconds - one.checkpoint_seconds for one in timed) / steps,
        eval_seconds=median(one.eval_seconds for one in timed),
    )


def _epoch(engine: Engine, spec: StudySpec) -> EpochResult:
    (result,) = engine.step()
    if isinstance(result, EpochResult):
        return result
    where = describe(spec)
    if result.kind is EndKind.OUT_OF_MEMORY:
        raise ModelError(f"{where}: not enough memory: {result.detail}; choose a smaller one")
    raise HpsearchError(f"{where}: {result.detail}\n{result.traceback}")


def _fact(end: TrialEnd, name: str) -> Any:
    return end.facts.get(name)


def _estimate(
    engine: Engine,
    spec: StudySpec,
    data: DataFacts,
    probes: Sequence[Probe],
    ready: float,
    workers: int,
    device_count: int,
) -> Estimate:
    """Returns how long the study takes: trials as they are sampled, each at the pace of the probes like it.

    Args:
        ready: seconds until the workers are ready.
        device_count: devices that the workers have together.
    """
    acted = studies(spec)
    paces = [[epoch_seconds(trial.spec, data, probes) for trial in trials] for trials in acted]
    scale = 1.0
    if any(_changes_pace(name, entry) for name, entry in spec.search.items()):
        enough = min(CORRECTING_SECONDS, CORRECTING_SHARE * (spec.study.timeout or math.inf))
        scale = _correction(engine, acted[0], paces[0], data, enough)
    limits = spec.study
    longest = 3600 * (limits.max_device_hours or math.inf) / device_count

    def lasts(trials: Sequence[Sample], paces: Sequence[float], counts: Sequence[int]) -> float:
        seconds = [
            scale * pace * count + START * trial.starts
            for pace, count, trial in zip(paces, counts, trials, strict=True)
        ]
        epochs = mean(counts) * spec.total_trials
        share = min(1.0, (limits.max_epochs_total or math.inf) / epochs)
        training = min(share * span(seconds, spec.total_trials, workers), longest)
        return min(ready + training, limits.timeout or math.inf)

    expected, most = (
        [
            lasts(trials, pace, [count(trial) for trial in trials])
            for trials, pace in zip(acted, paces, strict=True)
        ]
        for count in (attrgetter("trained"), attrgetter("epochs"))
    )
    return Estimate(mean(expected), (min(expected), max(expected)), mean(most))


def epoch_seconds(spec: StudySpec, data: DataFacts, probes: Sequence[Probe]) -> float:
    """Returns how long an epoch of a trial takes, by the probes of its model and image size.

    Between the smallest and the largest batch that were timed, the time of a step lies on a line.
    """
    size = (spec.data.image_size,) * 2 if spec.data.image_size else (data.height, data.width)
    like = [probe for probe in probes if (probe.model, probe.image[1:]) == (spec.model.name, size)] or probes
    small, large = (pick(like, key=lambda probe: probe.batch) for pick in (min, max))
    ends = [(probe.batch, probe.step_seconds) for probe in (small, large)]
    train = spec.train
    batches = cut(data.trained(spec.data.subset), train.batch_size, train.drop_last, train.steps_per_epoch)
    steps = sum(between(batch.stop - batch.start, *ends) for batch in batches)
    return max(steps, 0.0) + (small.eval_seconds + large.eval_seconds) / 2


def _changes_pace(name: str, entry: Entry) -> bool:
    """Says of a searched field whether a trial's speed may depend on it, and the probes do not show it."""
    if name in (*SHORT, "model.name", "data.image_size", "data.subset"):
        return False
    return isinstance(entry, Choices) or name.startswith(("model.", "data."))


def _correction(
    engine: Engine, trials: Sequence[Sample], paces: Sequence[float], data: DataFacts, enough: float
) -> float:
    """Returns how much longer than by the probes an epoch takes, from some trials as they are sampled.

    Args:
        enough: seconds after which no further trial is looked at.
    """
    began, measured, predicted = time.monotonic(), 0.0, 0.0
    for trial, pace in zip(trials[:CORRECTING], paces, strict=False):
        measured += epoch_seconds(trial.spec, data, [_probe(engine, _shortened(trial.spec, data), data)])
        predicted += pace
        if time.monotonic() - began > enough:
            break
    return measured / predicted if predicted else 1.0
