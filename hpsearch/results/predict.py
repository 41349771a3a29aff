"""`hpsearch predict`: what a kept model says of pictures in files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hpsearch.results.looks import columns
from hpsearch.results.progress import number
from hpsearch.training.data.decode import read_file
from hpsearch.training.data.pixels import to_channels
from hpsearch.training.saved import SavedModel


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one file.

    Attributes:
        probabilities: of the most probable classes, the most probable first; empty for a regression.
        values: a regression's outputs; empty for classes.
        error: why the file could not be read, if so.
    """

    file: str
    probabilities: dict[str, float]
    values: tuple[float, ...] = ()
    error: str = ""


def predict(model: SavedModel, files: Sequence[str], top: int = 5) -> list[Prediction]:
    """Returns one prediction for each file, in order; a file that cannot be read gets its error."""
    return [_predict(model, file, top) for file in files]


def _predict(model: SavedModel, file: str, top: int) -> Prediction:
    try:
        image = read_picture(model, Path(file))
    except (OSError, ValueError, SyntaxError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Prediction(file, {}, error=reason.strip() or type(error).__name__)
    if not model.classes:
        with torch.inference_mode():
            return Prediction(file, {}, tuple(model(image)[0].tolist()))
    found = model.probabilities(image)[0].topk(min(top, len(model.classes)))
    names = [model.classes[index] for index in found.indices.tolist()]
    return Prediction(file, dict(zip(names, found.values.tolist(), strict=True)))


def read_picture(model: SavedModel, path: Path) -> Tensor:
    """Reads a picture as the training pictures were read: bytes of shape [1, channels, height, width].

    Raises:
        OSError, ValueError, SyntaxError: it cannot be decoded.
    """
    decoded = int(model.metadata.get("decoded_channels", model.channels))
    # In colour even for a grey model: training data are decoded so and then made grey (`data.channels = 1`).
    array = to_channels(read_file(path, (model.height, model.width), 3)[None], decoded)
    # Grey pictures may be shown in three equal channels (`data.channels = 3`).
    return torch.tensor(array).expand(-1, model.channels, -1, -1)


def prediction_lines(predictions: Sequence[Prediction]) -> list[str]:
    """Returns a table: one line per file, its classes with their probabilities."""
    rows = [(one.file, _answer(one), _others(one)) for one in predictions]
    return columns(("file", "prediction", "then"), rows, most=1000)


def _answer(prediction: Prediction) -> str:
    if prediction.error:
        return f"error: {prediction.error}"
    if prediction.values:
        return " ".join(map(number, prediction.values))
    name, probability = next(iter(prediction.probabilities.items()))
    return f"{name} {probability:.1%}"


def _others(prediction: Prediction) -> str:
    return ", ".join(f"{name} {value:.1%}" for name, value in list(prediction.probabilities.items())[1:])
