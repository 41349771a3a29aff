"""What each image gave: the numbers whose means are the metrics, kept in the run folder beside the weights.

The intervals need them (see `statistics`). They are no attributes of the study, since a database's column would not
hold them; where they are missing, intervals cover new seeds alone.
"""

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hpsearch.results.confirm.statistics import ANY, POSITIVE, SHARE, Range, Values

_SHARES = (
    "error",
    "top5_error",
    "hamming_error",
    "subset_error",
    "macro_f1",
    "balanced_accuracy",
    "auc",
    "average_precision",
    "ece",
)
_POSSIBLE = {**dict.fromkeys(_SHARES, SHARE), "mae": POSITIVE}


def possible(metric: str, own_loop: bool) -> Range:
    """Returns which values a metric can have.

    Args:
        own_loop: a training function's loss may be anything, and shares go by what it calls so.
    """
    name = metric.partition("_")[2]
    return POSITIVE if name == "loss" and not own_loop else _POSSIBLE.get(name, ANY)


def write_images(path: Path, images: Mapping[str, Values]) -> None:
    """Keeps what each image gave, by metric.

    Raises:
        OSError: no room, or no permission.
    """
    from hpsearch.files.atomic import write_whole

    file = io.BytesIO()
    small = {name: values.astype(np.float32) for name, values in images.items()}
    np.savez_compressed(file, **small)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, file.getbuffer())


def read_images(path: Path, metrics: Mapping[str, float]) -> dict[str, Values]:
    """Returns what each image gave, by metric, as far as it is kept and belongs to these metrics.

    What lies there may be another study's of the same name, or of another device: then the means differ.
    """
    try:
        with path.open("rb") as file, np.load(file) as kept:
            found = {name: kept[name].astype(np.float64) for name in kept.files if name in metrics}
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}
    return {
        name: values
        for name, values in found.items()
        if math.isclose(values.mean(), metrics[name], rel_tol=0.01, abs_tol=1e-4)
    }
