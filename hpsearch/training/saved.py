"""Kept weights as a model that is ready for use: what `hpsearch.load_best_model` returns."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpsearch.errors import ModelError
from hpsearch.spec import ModelSpec
from hpsearch.spec.load import digest
from hpsearch.spec.trial import TrialRun
from hpsearch.training import device as devices
from hpsearch.training import models, weights
from hpsearch.training.data import Prepared
from hpsearch.version import __version__


class SavedModel(nn.Module):
    """A trained model that takes images as they come, in evaluation mode.

    It resizes to the size of training (with antialiasing), normalises by the very operations of training, so
    that the outputs are equal to the bit, and returns the model's outputs: one row of logits per image, or
    the regression's targets. What was trained in bfloat16 or float16 computes its products in it again, on
    any device, so that your own autocast is not needed; the outputs are float32 then.

    Args:
        memory_format: that of training, in which sums come out the same to the bit.

    Attributes:
        model: the network alone; it takes normalised images of shape [B, channels, height, width].
        classes: names in the order of the outputs; empty for regression.
        metadata: all texts kept with the weights (study, trial, epoch, val_loss ...).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        metadata: dict[str, str],
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        super().__init__()
        self.model = model
        self._memory_format = memory_format
        # Of files that say nothing, only the weights' number type is known.
        self._precision = devices.PRECISIONS[metadata.get("precision", "float32")]
        self.metadata = metadata
        self.classes: tuple[str, ...] = tuple(json.loads(metadata["classes"]))
        self.task = metadata["task"]
        self.channels, self.height, self.width = (
            int(metadata[key]) for key in ("channels", "height", "width")
        )
        self._normalizes = json.loads(metadata.get("normalize", "true"))
        # Data sets of floats outside [0, 1] are brought there; bytes become floats by 1/255.
        self._is_float = metadata.get("stored") == "float32"
        self._scale, self._offset = (
            float(metadata.get(key, at)) for key, at in (("scale", 1), ("offset", 0))
        )
        self._mean, self._std = (json.loads(metadata[key]) for key in ("mean", "std"))
        for name, values in (("mean", self._mean), ("std", self._std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the model's outputs.

        Args:
            images: of shape [B, channels, H, W]; uint8, or floats in [0, 1] (as in the data set if it
                was one of floats).
        """
        if images.dim() != 4 or images.shape[1] != self.channels:
            raise ModelError(
                f"images have the shape {list(images.shape)}; this model takes [B, {self.channels}, H, W]"
            )
        pixels = self._pixels(images)
        if pixels.shape[-2:] != (self.height, self.width):
            pixels = functional.interpolate(
                pixels, (self.height, self.width), mode="bilinear", antialias=True
            )
        pixels = self._normalize(pixels).to(memory_format=self._memory_format)
        half = self._precision.autocast
        if half is None:
            outputs: Tensor = self.model(pixels)
            return outputs
        with torch.autocast(pixels.device.type, half):
            outputs = self.model(pixels)
        return outputs.float()

    def _pixels(self, images: Tensor) -> Tensor:
        """Returns images in [0, 1], in the weights' number type."""
        pixels = images.to(next(self.model.parameters()).dtype)
        if images.dtype == torch.uint8:
            return pixels * (1 / 255)
        if not self._is_float:
            return pixels
        shifted = pixels - self._offset if self._offset != 0.0 else pixels
        return shifted * self._scale if self._scale != 1.0 else shifted

    def _normalize(self, pixels: Tensor) -> Tensor:
        if not self._normalizes:
            return pixels
        if self.channels == 1:
            scaled: Tensor = (pixels - self._mean[0]) * (1 / self._std[0])
            return scaled
        return (pixels - self.mean.to(pixels.dtype)) / self.std.to(pixels.dtype)

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Returns what the model believes of each class, float64 of shape [B, classes].

        Rows sum to 1, but for a model with a yes or no of its own for each class (binary_cross_entropy).

        Raises:
            ModelError: the model is a regression's.
        """
        if not self.classes:
            raise ModelError("this model predicts numbers, not classes; call it with the images instead")
        return to_probabilities(self(images), self.metadata.get("loss", "cross_entropy"))

    @torch.inference_mode()
    def classify(self, images: Tensor) -> list[str]:
        """Returns the most probable class of each image, by name.

        Raises:
            ModelError: the model is a regression's.
        """
        return [self.classes[index] for index in self.probabilities(images).argmax(1).tolist()]


def to_probabilities(outputs_BK: Tensor, loss: str) -> Tensor:
    """Returns the probabilities that a model's raw outputs mean under the loss that it was trained with.

    One output is the logit of the second of two classes.
    """
    outputs_BK = outputs_BK.double()
    if outputs_BK.shape[1] == 1:
        second_B1 = outputs_BK.sigmoid()
        return torch.cat([1 - second_B1, second_B1], 1)
    return outputs_BK.sigmoid() if loss == "binary_cross_entropy" else outputs_BK.softmax(1)


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
        "channels": data.channels,
        "height": data.height,
        "width": data.width,
        "outputs": data.outputs,
        "classes": json.dumps(data.classes),
        "mean": json.dumps(data.mean),
        "std": json.dumps(data.std),
        "task": data.task,
        "precision": devices.resolve(run.spec.train.precision, data.device).name,
        "normalize": json.dumps(run.spec.data.normalize),
        "stored": str(data.train.images.dtype).removeprefix("torch."),
        "scale": repr(data.statistics.scale),
        "offset": repr(data.statistics.offset),
        "decoded_channels": len(data.statistics.mean),
        "loss": run.spec.train.loss,
        "hpsearch": __version__,
    }
    return {name: str(value) for name, value in values.items()}


def load_model(path: str | Path, allow: tuple[str, ...] | None = None) -> SavedModel:
    """Returns the model whose weights a trial has kept, on the CPU, in evaluation mode.

    Args:
        allow: what the file may name as its model, see `import_object`; None trusts all.

    Raises:
        ModelError: the file cannot be read, was not written by a trial of the plain loop, or does not fit.
    """
    state, metadata = weights.read_weights(Path(path))
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
    if (precision := metadata.get("precision", "float32")) not in devices.PRECISIONS:
        raise ModelError(f'{path}: it was trained with the precision "{precision}", which is unknown here')
    spec = ModelSpec.model_validate_json(metadata["model"])
    size = int(metadata["height"]), int(metadata["width"])
    model = models.build(spec, int(metadata["channels"]), size, int(metadata["outputs"]), 0, allow)
    first = next((tensor for tensor in state.values() if tensor.is_floating_point()), None)
    if first is not None:
        model.to(first.dtype)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{path}: the weights do not fit the model {spec.name}: {error}") from error
    channels, cpu = int(metadata["channels"]), torch.device("cpu")
    memory_format = models.choose_memory_format(model, cpu, channels, size, half=False)
    return SavedModel(model, metadata, memory_format).eval()
