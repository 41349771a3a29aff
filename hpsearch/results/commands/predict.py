"""`hpsearch predict`: what a kept model says of pictures in files."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hpsearch.errors import UserError
from hpsearch.files.atomic import write_output
from hpsearch.results.terminal.lines import columns
from hpsearch.results.terminal.progress import number
from hpsearch.text import counted, plain
from hpsearch.training.data.folder import SUFFIXES
from hpsearch.training.data.pictures import why_unreadable
from hpsearch.training.ensemble import SavedEnsemble
from hpsearch.training.saved import SavedModel

_NAMED = 20


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one file.

    Attributes:
        probabilities: of the most probable classes, the most probable first; empty for a regression. Where a picture
            may have several labels, of all of them.
        values: a regression's outputs; empty for classes.
        error: why the file could not be read, if so.
        labels: those of several that are at least as probable as the threshold; None where there are none to have.
    """

    file: str
    probabilities: dict[str, float]
    values: tuple[float, ...] = ()
    error: str = ""
    labels: tuple[str, ...] | None = None


def pictures_in(names: str | Path | Sequence[str | Path]) -> list[str]:
    """Returns the files that names mean: of a folder all pictures in it, in order.

    Raises:
        UserError: a folder has none.
    """
    found: list[str] = []
    for name in map(str, [names] if isinstance(names, str | Path) else names):
        if not os.path.isdir(name):
            found.append(name)
            continue
        inside = [
            os.path.join(place, file)
            for place, _, files in os.walk(name)
            for file in files
            if not file.startswith(".") and Path(file).suffix.lower() in SUFFIXES
        ]
        if not inside:
            raise UserError(
                f"PICTURE: there are no pictures in {name} (looked for {' '.join(sorted(SUFFIXES))})"
            )
        found += sorted(inside)
    return found


def choose_encoder(output: Path) -> Callable[[Sequence[Prediction]], bytes]:
    """Returns what makes a table (.csv) of predictions, one line for each picture, or JSON (.json).

    Raises:
        UserError: another suffix.
    """
    encode = {".csv": _as_csv, ".json": _as_json}.get(output.suffix.lower())
    if encode is None:
        raise UserError(f"--output: {output} ends neither in .csv nor in .json; choose one of them")
    return encode


def write_predictions(predictions: Sequence[Prediction], output: Path) -> None:
    """Writes predictions as the file's suffix says.

    Raises:
        UserError: another suffix, or a file that cannot be written.
    """
    encode = choose_encoder(output)
    write_output(output, encode(predictions), "--output")


def _as_json(predictions: Sequence[Prediction]) -> bytes:
    text = json.dumps([plain(one) for one in predictions], indent=1, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")  # of a name that is not UTF-8: JSON's own \udce9


def _as_csv(predictions: Sequence[Prediction]) -> bytes:
    """Returns the columns file, class, probability, class_2, probability_2 ... and error; of numbers their values.

    Of several labels: file, labels (joined by |), the probability of each, as p_cat, and error.
    """
    several = next((one for one in predictions if one.labels is not None), None)
    if several is not None:
        return _as_csv_of_labels(predictions, sorted(several.probabilities))
    most = max((len(one.probabilities) for one in predictions), default=0)
    values = max((len(one.values) for one in predictions), default=0)
    ranks = ["", *(f"_{rank}" for rank in range(2, most + 1))][:most]
    head = ["file", *(f"{name}{rank}" for rank in ranks for name in ("class", "probability"))]
    head += [*(f"value_{place + 1}" for place in range(values)), "error"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for one in predictions:
        cells = [str(cell) for pair in one.probabilities.items() for cell in pair] + list(
            map(str, one.values)
        )
        blank = [""] * (len(head) - 2 - len(cells))
        writer.writerow([one.file, *cells, *blank, one.error])
    return text.getvalue().encode(errors="surrogateescape")  # names as they are on the disk


def _as_csv_of_labels(predictions: Sequence[Prediction], names: Sequence[str]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "labels", *(f"p_{name}" for name in names), "error"])
    for one in predictions:
        shares = [str(one.probabilities.get(name, "")) for name in names]
        writer.writerow([one.file, "|".join(one.labels or ()), *shares, one.error])
    return text.getvalue().encode(errors="surrogateescape")


def predict_files(
    model: SavedModel | SavedEnsemble,
    files: Sequence[str],
    top: int = 5,
    prepare: str | None = None,
    threshold: float | None = None,
) -> list[Prediction]:
    """Returns one prediction for each file, in order; a file that cannot be read gets its error.

    Args:
        threshold: probability from which a picture has a label, where it may have several; None: a half.
        prepare: what prepares one picture of data of one's own; else what the study has named.

    Raises:
        DataError, ModelError: nothing says how the study's data function prepares a picture, or it failed.
    """
    if threshold is not None and not 0 < threshold < 1:
        raise UserError(f"--threshold: must be between 0 and 1, got {threshold:g}")
    if threshold is not None and model.task != "multilabel":
        raise UserError(
            "--threshold: is for models that give a picture several labels, and this one gives "
            f"{'one class' if model.classes else 'numbers'}; leave it out"
        )
    return [_predict(model, file, top, prepare, threshold or 0.5) for file in files]


def _predict(
    model: SavedModel | SavedEnsemble, file: str, top: int, prepare: str | None, threshold: float
) -> Prediction:
    try:
        image: Any = model.read(file, prepare)  # for a member each, in an ensemble
    except (OSError, ValueError, SyntaxError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else why_unreadable(error)
        return Prediction(file, {}, error=reason.strip() or type(error).__name__)
    except UserError as error:
        if prepare is None:
            raise
        raise type(error)(
            str(error).replace("data.predict", "--prepare", 1)
        ) from error  # which was given instead
    with torch.inference_mode():
        outputs = model.judge(image)
    if not model.classes:
        return Prediction(file, {}, tuple(outputs[0].tolist()))
    several = model.task == "multilabel"
    found = model.to_probabilities(outputs)[0].topk(
        len(model.classes) if several else min(top, len(model.classes))
    )
    names = [model.classes[index] for index in found.indices.tolist()]
    shares = dict(zip(names, found.values.tolist(), strict=True))
    if not several:
        return Prediction(file, shares)
    return Prediction(
        file, shares, labels=tuple(name for name, share in shares.items() if share >= threshold)
    )


def prediction_lines(predictions: Sequence[Prediction], top: int = 5) -> list[str]:
    """Returns a table: one line per file, its classes with their probabilities, or its labels and then others.

    Args:
        top: labels that are shown for each picture, beside those that it has.
    """
    rows = [(one.file, _answer(one), _others(one, top)) for one in predictions]
    return columns(("file", "prediction", "then"), rows, most=1000)


def unread_lines(predictions: Sequence[Prediction]) -> list[str]:
    """Returns which files could not be read, and why; nothing if all could."""
    unread = [one for one in predictions if one.error]
    if not unread:
        return []
    more = len(unread) - _NAMED
    return [
        f"{len(unread)} of {counted(len(predictions), 'picture')} cannot be read:",
        *(f"  {one.file}: {one.error}" for one in unread[:_NAMED]),
        *([f"  and {more} more, each with its error in the output"] if more > 0 else []),
    ]


def _answer(prediction: Prediction) -> str:
    if prediction.error:
        return f"error: {prediction.error}"
    if prediction.values:
        return " ".join(map(number, prediction.values))
    if prediction.labels is not None:
        return _listed((name, prediction.probabilities[name]) for name in prediction.labels) or "no label"
    return _listed([next(iter(prediction.probabilities.items()))])


def _others(prediction: Prediction, top: int) -> str:
    first = 1 if prediction.labels is None else len(prediction.labels)
    return _listed(list(prediction.probabilities.items())[first : max(first, top)])


def _listed(shares: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in shares)
