"""A study's best model, ready for inference in any process."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from hpsearch.errors import CheckpointError, UserError
from hpsearch.results.tables import best_trial, reading_study
from hpsearch.spec.train import ModelSpec
from hpsearch.training.models import build
from hpsearch.training.weights import read_weights


def load_best_model(
    study: str | Path | None = None,
    storage: str = "sqlite:///runs/hpsearch.db",
    allow: Sequence[str] = (),
) -> nn.Module:
    """Returns the best trial's model with the weights of its best epoch, in evaluation mode, on the CPU.

    Its inputs are images as the study normalised them: `model.hpsearch` holds what is known of them (mean,
    std, classes, size ...), as text.

    Args:
        study: name of a study in the storage, or the path of a `.safetensors` file that hpsearch wrote.
        allow: top-level modules that the weights file may name as the model's builder; a file must not run
            code that you did not choose.

    Raises:
        UserError: no such study, no COMPLETE trial, weights that are gone.
        CheckpointError: the file is damaged or not made by hpsearch.
    """
    is_file = study is not None and str(study).endswith(".safetensors")
    path = Path(str(study)) if is_file else best_weights(study, storage)
    state, metadata = read_weights(path)
    try:
        spec = ModelSpec.model_validate_json(metadata["model"])
        size = int(metadata["height"]), int(metadata["width"])
        channels, outputs = int(metadata["channels"]), int(metadata["outputs"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} does not say which model it belongs to: {error}") from None
    model = build(spec, channels, size, outputs, seed=0, allow=tuple(allow))
    floats = [tensor.dtype for tensor in state.values() if tensor.is_floating_point()]
    model.to(floats[0] if floats else None)
    model.load_state_dict(state)
    model.hpsearch = _described(metadata)  # type: ignore[assignment]
    return model.eval()


def best_weights(study: str | Path | None, storage: str) -> Path:
    """Returns the path of a study's best weights.

    Raises:
        UserError: no COMPLETE trial, or its weights are not on this machine.
    """
    with reading_study(None if study is None else str(study), storage) as opened:
        best, name = best_trial(opened), opened.study_name
    if best is None:
        raise UserError(f'study "{name}" has no COMPLETE trial yet, so there is no best model')
    if not best.weights:
        raise UserError(
            f'study "{name}": trial {best.number} kept no weights; '
            "a training function keeps them with trial.save(model)"
        )
    path = Path(best.weights)
    if not path.is_file():
        host = best.attrs.get("host", "another machine")
        raise UserError(
            f"the weights of trial {best.number} are not here: {path}, trained on {host}; copy them"
        )
    return path


def _described(metadata: Mapping[str, str]) -> dict[str, object]:
    """Returns the metadata with its JSON values read."""
    found: dict[str, object] = {}
    for key, text in metadata.items():
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text
    return found
