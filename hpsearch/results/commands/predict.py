"""`hpsearch predict`: what a kept model says of pictures in files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hpsearch.results.terminal.lines import columns
from hpsearch.results.terminal.progress import number
from hpsearch.training.ensemble import SavedEnsemble
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


def predict_files(
    model: SavedModel | SavedEnsemble, files: Sequence[str], top: int = 5, prepare: str | None = None
) -> list[Prediction]:
    """Returns one prediction for each file, in order; a file that cannot be read gets its error.

    Args:
        prepare: what prepares one picture of data of one's own; else what the study has named.

    Raises:
        DataError, ModelError: nothing says how the study's data function prepares a picture, or it failed.
    """
    return [_predict(model, file, top, prepare) for file in files]


def _predict(model: SavedModel | SavedEnsemble, file: str, top: int, prepare: str | None) -> Prediction:
    try:
        image: Any = model.read(file, prepare)  # for a member each, in an ensemble
    except (OSError, ValueError, SyntaxError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Prediction(file, {}, error=reason.strip() or type(error).__name__)
    with torch.inference_mode():
        outputs = model.judge(image)
    if not model.classes:
        return Prediction(file, {}, tuple(outputs[0].tolist()))
    found = model.to_probabilities(outputs)[0].topk(min(top, len(model.classes)))
    names = [model.classes[index] for index in found.indices.tolist()]
    return Prediction(file, dict(zip(names, found.values.tolist(), strict=True)))


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
