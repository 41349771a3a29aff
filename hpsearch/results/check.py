"""`hpsearch check`: builds a study's data and models and trains a few batches at the ends of its space."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from hpsearch.errors import HpsearchError, ModelError
from hpsearch.results.progress import precision_text
from hpsearch.spec.against import check_study_against
from hpsearch.spec.locks import temporary_folder
from hpsearch.spec.search import Choices, Entry, FloatRange, IntRange
from hpsearch.spec.study import StudySpec
from hpsearch.spec.trial import DataFacts, EndKind, EpochResult, TrialEnd
from hpsearch.training import device as devices
from hpsearch.training.build import admit, build_corners, build_engine, describe
from hpsearch.training.engine import Engine

logger = logging.getLogger(__name__)

STEPS = 8  # per epoch of a probe; the first epoch warms up, the second is timed


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

    @property
    def sample_seconds(self) -> float:
        """Training time per sample."""
        return self.step_seconds / self.batch


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found.

    Attributes:
        precision: number types that trials compute in, for people; empty where the training function decides.
        data: None for a training function that brings its own.
        space: one row per hyperparameter: name, values, scale.
        seconds: estimate for the whole study with this number of workers if no trial is stopped early; None
            where nothing was timed.
    """

    spec: StudySpec
    device: str
    precision: str
    data: DataFacts | None
    probes: tuple[Probe, ...]
    space: tuple[tuple[str, str, str], ...]
    workers: int
    seconds: float | None


def check_study(
    spec: StudySpec,
    data_root: str | None,
    cache: Path,
    device: str = "auto",
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    waits: Callable[[str], None] | None = None,
) -> Report:
    """Loads the data, builds a trial at every corner of the search space, and trains some batches.

    Args:
        progress: called with the numbers of images read and of all, if they must be read.
        waits: called with a sentence, now and then, while another process prepares the same images.

    Raises:
        UserError: what a run would stop at: data, model, batch size, device.
    """
    chosen = devices.choose(device)
    torch.set_num_threads(spec.train.threads)  # as a worker does
    engine, data = build_engine(spec, chosen, data_root, str(cache), progress=progress, waits=waits)
    try:
        probes: tuple[Probe, ...] = ()
        if data is not None:
            check_study_against(spec, data)
        if data is not None and spec.train.function is None:
            build_corners(engine, spec, decides_whether_built)
            probes = tuple(_probe(engine, variant, data) for variant in variants(spec, data))
    finally:
        engine.close()
    seconds = estimate(spec, data, probes, workers) if data is not None and probes else None
    precision = _precision(spec, chosen)
    return Report(spec, str(chosen), precision, data, probes, space_table(spec), workers, seconds)


def _precision(spec: StudySpec, device: torch.device) -> str:
    if spec.train.function is not None:
        return ""
    asked = map(str, spec.values_of("train.precision"))
    return ", ".join(precision_text(name, devices.resolve(name, device).name) for name in asked)


def decides_whether_built(name: str) -> bool:
    """Says of a searchable field whether some of its values may give no trial: shapes, names, patterns, files."""
    return name in ("train.lr_multipliers", "train.class_weights", "train.micro_batch") or (
        name.startswith(("model.", "data.")) and name != "data.subset"
    )


def variants(spec: StudySpec, data: DataFacts) -> Iterator[StudySpec]:
    """Yields the study at its largest and its smallest batch, for every model and image size in its space.

    The largest batch comes with the largest arguments of the model, the smallest with the smallest. All else
    that is searched has its first value, the subset its largest.
    """
    ends = spec.ends()
    rest = {name: values[0] for name, values in ends.items()}
    if "data.subset" in ends:
        rest["data.subset"] = max(ends["data.subset"])
    shown = [name for name in ("model.name", "data.image_size") if name in ends]
    share = rest.get("data.subset", spec.data.subset)
    full = math.floor(data.train * share)
    batches = [full if size == "full" else int(size) for size in spec.values_of("batch_size")]
    for chosen in product(*(ends[name] for name in shown)):
        cases = [(max(batches), _arguments(ends, -1)), (min(batches), _arguments(ends, 0))]
        for batch, arguments in cases if cases[0] != cases[1] else cases[:1]:
            resolved = spec.with_hparams(rest | arguments | dict(zip(shown, chosen, strict=True)))
            short = {"batch_size": batch, "epochs": 2, "steps_per_epoch": STEPS, "warmup_epochs": 0.0}
            yield resolved.model_copy(update={"train": resolved.train.model_copy(update=short)})


def _arguments(ends: Mapping[str, list[Any]], place: int) -> dict[str, Any]:
    """Returns the smallest (0) or the largest (-1) of what is searched of the model's arguments."""
    found = {name: values for name, values in ends.items() if name.startswith("model.args.")}
    return {
        name: (sorted(values) if all(isinstance(value, int | float) for value in values) else values)[place]
        for name, values in found.items()
    }


def _probe(engine: Engine, spec: StudySpec, data: DataFacts) -> Probe:
    with temporary_folder("hpsearch-check") as folder:
        admit(engine, spec, folder)
        last = [_epoch(engine, spec) for _ in range(spec.train.epochs)][-1]
        end = engine.evict(0, EndKind.FINISHED)
    trained = last.seconds - last.eval_seconds - last.checkpoint_seconds
    steps = max(1, min(STEPS, math.ceil(data.train * spec.data.subset / int(spec.train.batch_size))))
    height, width = (spec.data.image_size,) * 2 if spec.data.image_size else (data.height, data.width)
    return Probe(
        model=spec.model.name,
        batch=int(spec.train.batch_size),
        image=(data.channels, height, width),
        parameters=_fact(end, "parameters"),
        memory_mb=_fact(end, "peak_memory_mb"),
        step_seconds=trained / steps,
        eval_seconds=last.eval_seconds,
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


def estimate(spec: StudySpec, data: DataFacts, probes: tuple[Probe, ...], workers: int) -> float:
    """Returns the seconds that the study takes if no trial is stopped early.

    From the middle of the timings: every image size, model and batch size counts alike.
    """
    subsets = [float(share) for share in spec.values_of("data.subset")]
    samples = data.train * sum(subsets) / len(subsets)
    per_epoch = [samples * probe.sample_seconds + probe.eval_seconds for probe in probes]
    epochs = middle(spec.search["epochs"]) if "epochs" in spec.search else float(spec.train.epochs)
    return spec.study.trials * epochs * (sum(per_epoch) / len(per_epoch)) / max(1, workers)


def middle(entry: Entry) -> float:
    """Returns the mean of what an entry of numbers is sampled to, before any trial is known."""
    ends = entry.extremes()
    if not isinstance(entry, Choices) and entry.log and ends[1] > ends[0]:
        return float(ends[1] - ends[0]) / math.log(ends[1] / ends[0])
    return float(sum(ends) / len(ends))


def space_table(spec: StudySpec) -> tuple[tuple[str, str, str], ...]:
    """Returns one row per hyperparameter: name, values, how they are drawn."""
    return tuple((name, *_described(entry)) for name, entry in spec.search.items())


def _described(entry: Entry) -> tuple[str, str]:
    match entry:
        case Choices():
            return ", ".join(map(str, entry.labels())), f"one of {len(entry.choices)}"
        case FloatRange() | IntRange():
            kind = "whole numbers" if isinstance(entry, IntRange) else "numbers"
            scale = ", logarithmic" if entry.log else f" in steps of {entry.step}" if entry.step else ""
            return f"{entry.low:g} to {entry.high:g}", f"{kind}{scale}"
