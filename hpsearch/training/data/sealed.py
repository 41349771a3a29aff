"""The way to the test part: for `hpsearch confirm` alone, which import-linter watches over."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from hpsearch.errors import DataError
from hpsearch.study.data import DataSpec
from hpsearch.training.data.assembly import assemble, open_cache, sealed_store
from hpsearch.training.data.cache import Waits
from hpsearch.training.data.loading import TrainingData
from hpsearch.training.data.prepared import Part, Sealed


def open_test(
    spec: DataSpec,
    *,
    root: str | None = None,
    cache: Path,
    allow: Sequence[str] | None = None,
    device: torch.device | None = None,
    digest: str = "",
    waits: Waits | None = None,
) -> Sealed:
    """Opens the test part at the size and channels of a trial, normalised by the training part's statistics.

    Takes what `load` takes, with the trial's own data table; its images stay in host memory.

    Args:
        digest: of the data that may be opened; "" opens any.

    Raises:
        DataError: the study has no test part, or the data are missing, corrupt, or others than those named.
    """
    device = device or torch.device("cpu")
    assembly = assemble(spec, root, cache, allow, waits=waits)
    found, rows = assembly.catalogue, assembly.rows
    if digest and assembly.digest != digest:
        raise DataError(
            "data.dataset: the data have changed since the confirmation looked at them, so the test part stays "
            "closed; put the old data back, and confirm again"
        )
    if not len(rows.test):
        raise DataError("data.split.test is 0: there is no test part to open; give it a share of the images")
    shelf = open_cache(spec, cache, waits)
    training = TrainingData(spec, assembly, shelf, device).at(spec)
    store = sealed_store(assembly, shelf)
    prepared = training.preparation
    images = torch.from_numpy(store.open(prepared.size, prepared.kept).images)
    names = tuple(found.name(row) for row in rows.test.tolist())
    test = Part(
        images.expand(-1, training.channels, -1, -1),
        torch.from_numpy(found.targets[rows.test]).to(device),
        torch.from_numpy(np.asarray(rows.test)),
        names,
    )
    shared = {name: getattr(training, name) for name in Sealed.__dataclass_fields__ if name != "test"}
    return Sealed(**shared, test=test)
