"""Which engine trains a study: its own loop where it names one, the plain one otherwise."""

from collections.abc import Callable
from pathlib import Path

import torch

from hpsearch.spec import StudySpec
from hpsearch.spec.trial import DataFacts
from hpsearch.training import data
from hpsearch.training.engine import Engine
from hpsearch.training.function import FunctionEngine
from hpsearch.training.plain import PlainEngine


def build_engine(
    spec: StudySpec,
    device: torch.device,
    data_root: str | None = None,
    cache: str = "runs/cache",
    allow: tuple[str, ...] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Engine, DataFacts | None]:
    """Loads a study's data and returns the engine for its trials, with the facts of the data.

    Args:
        data_root: overrides `spec.data.root`.
        allow: top-level modules that the study may name; None trusts all.
        progress: called with the numbers of images read and of all, if they must be read.

    Raises:
        HpsearchError: the data or the training function cannot be loaded.
    """
    loaded = None
    if spec.data.dataset != "none":
        loaded = data.load(
            spec.data, root=data_root, cache=Path(cache), allow=allow, device=device, progress=progress
        )
    facts = loaded.facts if loaded else None
    if spec.train.function is not None:
        return FunctionEngine(spec.train.function, device, loaded, allow), facts
    assert loaded is not None  # a study without data names a function, says StudySpec
    return PlainEngine(device, loaded, allow), facts
