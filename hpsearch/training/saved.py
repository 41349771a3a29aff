"""Kept weights as a model that is ready for use: what `hpsearch.load_best_model` returns."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import hpsearch
from hpsearch.errors import ModelError
from hpsearch.spec import ModelSpec
from hpsearch.spec.load import digest
from hpsearch.spec.trial import TrialRun
from hpsearch.training import models, weights
from hpsearch.training.data import Batches


class SavedModel(nn.Module):
    """A trained model that takes images as they come, in evaluation mode.

    It resizes to the size of training (with antialiasing), normalises as in training, and returns the model's
    outputs: one row of logits per image, or the regression's targets.

    Attributes:
        model: the network alone; it takes normalised images of shape [B, channels, height, width].
        classes: names in the order of the outputs; empty for regression.
        metadata: all texts kept with the weights (study, trial, epoch, val_loss ...).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, metadata: dict[str, str]) -> None:
        super().__init__()
        self.model = model
        self.metadata = metadata
        self.classes: tuple[str, ...] = tuple(json.loads(metadata["classes"]))
        self.task = metadata["task"]
        self.channels, self.height, self.width = (
            int(metadata[key]) for key in ("channels", "height", "width")
        )
        for name in ("mean", "std"):
            values = torch.tensor(json.loads(metadata[name]))
            self.register_buffer(name, values[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the model's outputs.

        Args:
            images: of shape [B, channels, H, W]; uint8, or floats in [0, 1].
        """
        if images.dim() != 4 or images.shape[1] != self.channels:
            raise ModelError(
                f"images have the shape {list(images.shape)}; this model takes [B, {self.channels}, H, W]"
            )
        dtype = next(self.model.parameters()).dtype
        pixels = images.to(dtype) / 255 if images.dtype == torch.uint8 else images.to(dtype)
        if pixels.shape[-2:] != (self.height, self.width):
            pixels = functional.interpolate(
                pixels, (self.height, self.width), mode="bilinear", antialias=True
            )
        outputs: Tensor = self.model((pixels - self.mean.to(dtype)) / self.std.to(dtype))
        return outputs

    @torch.inference_mode()
    def classify(self, images: Tensor) -> list[str]:
        """Returns the most probable class of each image, by name.

        Raises:
            ModelError: the model is a regression's.
        """
        if not self.classes:
            raise ModelError("this model predicts numbers, not classes; call it with the images instead")
        return [self.classes[index] for index in self(images).argmax(1).tolist()]


def weights_metadata(run: TrialRun, data: Batches, epoch: int, metrics: dict[str, float]) -> dict[str, str]:
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
        "normalize": json.dumps(run.spec.data.normalize),
        "hpsearch": hpsearch.__version__,
    }
    return {name: str(value) for name, value in values.items()}


def load_model(path: str | Path, allow: tuple[str, ...] | None = None) -> SavedModel:
    """Returns the model whose weights a trial has kept, on the CPU, in evaluation mode.

    Args:
        allow: top-level modules that the file may name as its model; None trusts all.

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
            f"{path}: the header lacks {', '.join(sorted(missing))}, so that the model cannot be rebuilt from "
            "it (weights of your own training function are loaded by your own code)"
        )
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
    return SavedModel(model, metadata).eval()
