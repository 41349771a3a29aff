"""Kept weights as a model that is ready for use: what `hpsearch.load_best_model` returns."""

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpsearch.contracts.trial import TrialRun
from hpsearch.errors import CheckpointError, ModelError, refusing
from hpsearch.study import ModelSpec
from hpsearch.study.file import digest
from hpsearch.training import device as devices
from hpsearch.training import models, weights
from hpsearch.training.calibration import to_probabilities, to_shares
from hpsearch.training.data import Prepared
from hpsearch.training.data.preparation import from_header
from hpsearch.training.imports import import_object
from hpsearch.version import __version__


class Classifier(nn.Module):
    """What a kept model, or several, say of images in words of the study.

    Attributes:
        classes: names of the classes, or of the labels that an image may have, in the order of the outputs; empty for
            regression.
        task: "classification", "multilabel" or "regression".
    """

    classes: tuple[str, ...]
    task: str

    def to_probabilities(self, outputs: Tensor) -> Tensor:
        """Returns what the outputs mean, as `probabilities` does, calibrated by the validation part."""
        raise NotImplementedError

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Returns what is believed of each class, float64 of shape [B, classes].

        Rows sum to 1, but for a model with a yes or no of its own for each class (binary_cross_entropy), or for each
        of several labels.

        Raises:
            ModelError: it is a regression, which has no classes.
        """
        if not self.classes:
            raise ModelError("this model predicts numbers, not classes; call it with the images instead")
        return self.to_probabilities(self(images))

    @torch.inference_mode()
    def classify(self, images: Tensor) -> list[str]:
        """Returns the most probable class of each image, by name.

        Raises:
            ModelError: it is a regression, or gives an image several labels.
        """
        if self.task == "multilabel":
            raise ModelError(
                "this model gives an image several labels, or none; see its probabilities, one for each"
            )
        return [self.classes[index] for index in self.probabilities(images).argmax(1).tolist()]


class SavedModel(Classifier):
    """A trained model that prepares the images that it is given, in evaluation mode.

    It prepares them as training did, by the very same operations, so that the outputs are equal to the bit:
    another size is brought to that of training by the study's `data.resize`, values are scaled and normalised.
    It returns the model's outputs: one row of logits per image, or the regression's targets. What was trained
    in bfloat16 or float16 computes its products in it again, on any device, so that your own autocast is not
    needed; the outputs are float32 then.

    Args:
        memory_format: that of training, in which sums come out the same to the bit.
        allow: top-level modules that may be imported to prepare a picture; None trusts all.

    Attributes:
        model: the network alone; it takes normalised images of shape [B, channels, height, width].
        preparation: what is done to images before.
        metadata: all texts kept with the weights (study, trial, epoch, val_loss ...).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        metadata: dict[str, str],
        memory_format: torch.memory_format = torch.contiguous_format,
        allow: tuple[str, ...] | None = (),
    ) -> None:
        super().__init__()
        self.model = model
        self._memory_format = memory_format
        self._allow = allow
        # Of files that say nothing, only the weights' number type is known.
        self._precision = devices.PRECISIONS[metadata.get("precision", "float32")]
        self.metadata = metadata
        self.preparation = from_header(metadata)
        self.classes = tuple(json.loads(metadata["classes"]))
        self.task = metadata["task"]
        self.channels = self.preparation.channels
        self.height, self.width = self.preparation.size
        for name, values in (("mean", self.preparation.mean), ("std", self.preparation.std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the model's outputs.

        Args:
            images: of shape [B, channels, H, W]; uint8, or floats in [0, 1]. Of a data set of other numbers,
                those numbers (`model.preparation.accepts` says which).

        Raises:
            ModelError: another shape, or values of which nothing says what is black and white.
        """
        return self._outputs(self.preparation.take(images, self._dtype))

    def judge(self, stored: Tensor) -> Tensor:
        """Returns the model's outputs for what `read` has read."""
        return self._outputs(self.preparation.scale(stored.to(self._dtype, copy=True)))

    def read(self, path: str | Path, predict: str | None = None) -> Tensor:
        """Reads a picture from a file as the training pictures were read, for `judge`.

        Args:
            predict: what prepares a picture of data of one's own, as `package.module:name`; else what the
                study has named.

        Raises:
            OSError, ValueError, SyntaxError: it cannot be decoded, or its scale is not that of training.
            DataError, ModelError: nothing says how a data function prepares a picture, or it may not be run.
        """
        reference = predict or self.preparation.predict
        allow = None if predict else self._allow  # what the caller names was not read from a file
        prepare = import_object(reference, allow, field="data.predict") if reference else None
        return self.preparation.read(Path(path), reference, prepare)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def _outputs(self, pixels: Tensor) -> Tensor:
        images = self.preparation.normalize(pixels, self.mean, self.std)
        images = images.to(memory_format=self._memory_format)
        half = self._precision.autocast
        if half is None:
            outputs: Tensor = self.model(images)
            return outputs
        with torch.autocast(images.device.type, half):
            outputs = self.model(images)
        return outputs.float()

    def to_probabilities(self, outputs: Tensor) -> Tensor:
        """Returns what the model's outputs mean, as `probabilities` does, calibrated by the validation part."""
        return self.to_belief(outputs.double() / float(self.metadata.get("temperature", 1.0)))

    def to_belief(self, outputs: Tensor) -> Tensor:
        """Returns the probabilities as the model was trained to give them, without calibration."""
        return to_probabilities(outputs, self.metadata.get("loss", "cross_entropy"), self.task)

    def to_shares(self, outputs: Tensor) -> Tensor:
        """Returns the same in rows that sum to 1 (but for several labels), as an ensemble takes them."""
        return to_shares(outputs, self.metadata.get("loss", "cross_entropy"), self.task)


def weights_metadata(run: TrialRun, data: Prepared, epoch: int, metrics: dict[str, float]) -> dict[str, str]:
    """Returns what a fresh process needs to use a trial's weights, as the texts of a safetensors header."""
    values: dict[str, Any] = {
        "study": run.study,
        "trial": run.number,
        "epoch": epoch,
        **{name: repr(value) for name, value in metrics.items() if name.startswith("val_")},
        "digest": digest(run.spec),
        "model": json.dumps(run.spec.model.model_dump(mode="json")),
        "hparams": json.dumps(dict(run.hparams)),
        **data.preparation.header(),
        "outputs": data.outputs,
        "classes": json.dumps(data.classes),
        "task": data.task,
        "precision": devices.resolve(run.spec.train.precision, data.device).name,
        "loss": run.spec.train.loss,
        "hpsearch": __version__,
    }
    return {name: str(value) for name, value in values.items()}


def load_model(path: str | Path, allow: tuple[str, ...] | None = None) -> SavedModel:
    """Returns the model whose weights a trial has kept, on the CPU, in evaluation mode.

    Args:
        allow: what the file may name, as its model or to prepare pictures, see `import_object`; None trusts all.

    Raises:
        ModelError: the file cannot be read, was not written by a trial of the plain loop, or does not fit.
    """
    try:
        state, metadata = weights.read_weights(Path(path))
    except CheckpointError as error:
        raise ModelError(f"{error}; copy the file again, or train the model again") from error
    refuse_folds(path, metadata)
    missing = {
        "model",
        "channels",
        "height",
        "width",
        "outputs",
        "classes",
        "mean",
        "std",
        "task",
    } - metadata.keys()
    if missing:
        raise ModelError(
            f"{path}: the header lacks {', '.join(sorted(missing))}, so that the model cannot be rebuilt "
            "from it (weights of your own training function are loaded by your own code)"
        )
    _check_header(path, metadata)
    with refusing(lambda why: ModelError(f"{path}: no model can be built from the header: {why}")):
        return _rebuild(path, state, metadata, allow)


def refuse_folds(path: str | Path, metadata: Mapping[str, str]) -> None:
    """Refuses the weights of a trial that trained a model for each fold, none of which is its result.

    Raises:
        ModelError: they are such.
    """
    if "folds" in metadata:
        raise ModelError(
            f"{path}: these are the models of {metadata['folds']} folds (data.split.folds), each trained without a "
            "part of the images; `hpsearch confirm` and then `hpsearch refit` train one model on all of them"
        )


def _check_header(path: str | Path, texts: dict[str, str]) -> None:
    """Refuses texts of a header that do not say what they should.

    Raises:
        ModelError: names the first one.
    """
    for name, (is_valid, wanted) in _HEADER.items():
        try:
            valid = name not in texts or is_valid(texts[name])
        except (ValueError, TypeError, RecursionError):
            valid = False
        if not valid:
            shown = texts[name] if len(texts[name]) <= 80 else f"{texts[name][:77]}..."
            raise ModelError(
                f"{path}: in the header, {name} is {shown!r} and not {wanted}; the file is damaged, copy it again, or "
                "of a newer version"
            )
    channels, outputs, classes = (
        int(texts["channels"]),
        int(texts["outputs"]),
        len(json.loads(texts["classes"])),
    )
    sizes = {"decoded_channels": int(texts.get("decoded_channels", channels))}
    sizes |= {name: len(json.loads(texts[name])) for name in ("mean", "std")}
    wrong = [name for name, size in sizes.items() if size not in (1, channels)]
    if wrong:
        raise ModelError(
            f"{path}: in the header, {wrong[0]} does not fit {channels} channels; copy the file again"
        )
    if (texts["task"] == "regression") != (classes == 0) or (classes and outputs != classes and outputs != 1):
        raise ModelError(
            f"{path}: in the header, {classes} classes do not fit {outputs} outputs of a {texts['task']}; copy the "
            "file again"
        )


def _is_whole(most: int) -> Callable[[str], bool]:
    return lambda text: text.isdecimal() and len(text) < 12 and 1 <= int(text) <= most


def _is_number(text: str, above: float = -math.inf) -> bool:
    return math.isfinite(float(text)) and float(text) > above


def _are_numbers(text: str, above: float = -math.inf) -> bool:
    values = json.loads(text)
    return (
        isinstance(values, list)
        and bool(values)
        and all(type(one) in (int, float) and math.isfinite(one) and one > above for one in values)
    )


def _are_names(text: str) -> bool:
    values = json.loads(text)
    return isinstance(values, list) and all(isinstance(one, str) for one in values)


def _is_range(text: str) -> bool:
    return text == "null" or (_are_numbers(text) and len(json.loads(text)) == 2)


def _one_of(*names: str) -> tuple[Callable[[str], bool], str]:
    return names.__contains__, f"one of {', '.join(names)}"


_HEADER: dict[str, tuple[Callable[[str], bool], str]] = {
    "precision": _one_of(*devices.PRECISIONS),
    "task": _one_of("classification", "multilabel", "regression"),
    "model": (lambda text: bool(ModelSpec.model_validate_json(text)), "a [model] table as JSON"),
    "channels": (_is_whole(4_096), "a whole number from 1 to 4096"),
    "decoded_channels": (_is_whole(4_096), "a whole number from 1 to 4096"),
    "height": (_is_whole(16_384), "a whole number from 1 to 16384"),
    "width": (_is_whole(16_384), "a whole number from 1 to 16384"),
    "outputs": (_is_whole(1_000_000), "a whole number from 1 to 1000000"),
    "classes": (_are_names, "a JSON list of names"),
    "mean": (_are_numbers, "a JSON list of numbers"),
    "std": (partial(_are_numbers, above=0), "a JSON list of numbers above 0"),
    "scale": (partial(_is_number, above=0), "a number above 0"),
    "temperature": (partial(_is_number, above=0), "a number above 0"),
    "offset": (_is_number, "a number"),
    "range": (_is_range, "null or two numbers"),
    "normalize": _one_of("true", "false"),
    "stored": _one_of("uint8", "float32"),
    "resize": _one_of("crop", "pad", "squash"),
    "layout": _one_of("auto", "HWC", "CHW"),
}
"""Texts of a header: what each must be, in a function and in words."""


def _rebuild(
    path: str | Path, state: dict[str, Tensor], metadata: dict[str, str], allow: tuple[str, ...] | None
) -> SavedModel:
    spec = ModelSpec.model_validate_json(metadata["model"])
    size, outputs = (int(metadata["height"]), int(metadata["width"])), int(metadata["outputs"])
    outline = models.outline(spec, int(metadata["channels"]), size, outputs)
    # Before memory is taken for what the header claims.
    if outline is not None and (faults := weights.misfits(state, outline)):
        raise ModelError(f"{path}: the weights do not fit the model {spec.name}: {faults}")
    model = models.build(spec, int(metadata["channels"]), size, outputs, 0, allow)
    first = next((tensor for tensor in state.values() if tensor.is_floating_point()), None)
    if first is not None:
        model.to(first.dtype)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{path}: the weights do not fit the model {spec.name}: {error}") from error
    channels, cpu = int(metadata["channels"]), torch.device("cpu")
    memory_format = models.choose_memory_format(model, cpu, channels, size, half=False)
    return SavedModel(model, metadata, memory_format, allow).eval()
