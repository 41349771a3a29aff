"""A study's best model, ready for inference in any process: loaded, saved into a folder, exported."""

import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpsearch.errors import ModelError, UserError
from hpsearch.files.atomic import replaced, write_whole
from hpsearch.files.model_folder import (
    CARD,
    DESCRIPTION,
    MANIFEST,
    ONNX,
    PROGRAM,
    WEIGHTS,
    refuse_foreign,
    remove_others,
)
from hpsearch.files.model_folder import member as member_file
from hpsearch.results.commands.arguments import checked
from hpsearch.results.commands.card import joined_card, model_card
from hpsearch.results.confirm.ensemble import Joined, joined_lines
from hpsearch.results.stored.best import BestTrial, best_trial
from hpsearch.results.stored.reading import reading_study
from hpsearch.results.terminal.lines import headline
from hpsearch.store.url import database_in
from hpsearch.training.data.preparation import from_header
from hpsearch.training.ensemble import SavedEnsemble, load_ensemble
from hpsearch.training.saved import SavedModel, load_model, refuse_folds
from hpsearch.training.weights import read_texts, read_weights, save_weights


@checked
def load_best_model(
    study: str | Path | None = None,
    storage: str | None = None,
    allow: Sequence[str] = (),
    search: bool = False,
    run_folder: str | Path = "runs",
    trial: int | None = None,
) -> SavedModel | SavedEnsemble:
    """Returns a study's best model, in evaluation mode, on the CPU.

    Before `hpsearch confirm` that is the search's first trial with the weights of its best epoch. Afterwards it
    is the confirmed configuration: its refit (`hpsearch refit`) if there is one, else the repeat with the median
    validation score. `model.metadata["answer"]` says which trial it is and what confirms it.

    It takes tensors of shape [B, channels, H, W], of any size, in the values that `model.preparation.accepts` names:
    bytes, or floats in [0, 1], for pictures of 8 bits; their own numbers for deeper ones; for data of your own
    function what that gives, at its size. Others are refused. It resizes and normalises them itself, and computes in
    the number type of training (`model.metadata["precision"]`); `model.classes` names its outputs, `model.metadata`
    holds what is known of it.

    Args:
        study: name of a study in the storage, a folder that `hpsearch best --save` wrote (of an ensemble too), or
            a `.safetensors` file of a trial.
        storage: URL of the database, or a path that ends in .db; by default it lies in the run folder.
        allow: top-level modules that the weights file may name as the model's builder; a file must not run
            code that you did not choose.
        search: what the search alone would pick, whatever a confirmation has found.
        trial: the number of another COMPLETE trial whose weights are kept, such as one of the front of several goals.
        run_folder: where the study's weights are; they are also looked for beside an SQLite database.

    Raises:
        UserError: no such study, no COMPLETE trial, weights that are gone, a model that may not be built.
        CheckpointError: the file is damaged.
    """
    if study is not None and os.path.isfile(Path(study) / MANIFEST):
        return load_ensemble(Path(study), tuple(allow))
    url = storage or database_in(Path(run_folder))
    path, facts = model_file(study, url, search, Path(run_folder), trial)
    model = load_model(path, tuple(allow))
    model.metadata.update(facts)
    return model


def model_file(
    study: str | Path | None,
    storage: str,
    search: bool = False,
    run_folder: Path = Path("runs"),
    trial: int | None = None,
) -> tuple[Path, dict[str, str]]:
    """Returns the weights file that a study's name, a folder or a file means, and what the study says of it.

    Raises:
        UserError: no COMPLETE trial, or its weights are not on this machine.
    """
    if study is not None and str(study).endswith(".safetensors"):
        return Path(study), {}
    if study is not None and os.path.isfile(Path(study) / WEIGHTS):
        return Path(study) / WEIGHTS, {}
    with reading_study(None if study is None else str(study), storage) as opened:
        best, name, metric = best_trial(opened, run_folder, search, trial), opened.name, opened.metric
    path = weights_of(best, name)
    assert best is not None
    return path, _facts(best, name, metric)


def _facts(best: BestTrial, study: str, metric: str) -> dict[str, str]:
    """Returns what is known of a study's answer beside its weights, which another study's trial may have kept."""
    whose = f"; weights of {best.weights_of.text}" if best.weights_of is not None else ""
    facts = {"study": study, "trial": str(best.number), "answer": f"{headline(metric, best)}{whose}"}
    if best.weights_of is not None and best.weights_of.calibrated_by is not None:
        texts = read_texts(Path(best.weights_of.calibrated_by))
        facts |= {key: texts[key] for key in ("temperature",) if key in texts}
    return facts


def weights_of(best: BestTrial | None, study: str) -> Path:
    """Returns the path of a study's best weights.

    Raises:
        UserError: no COMPLETE trial, or its weights are not on this machine.
    """
    if best is None:
        raise UserError(f'study "{study}" has no COMPLETE trial yet, so there is no best model')
    whose = best.weights_of
    if whose is None or not whose.path:
        raise UserError(
            f'study "{study}": trial {best.number} kept no weights; '
            "a training function keeps them with trial.save(model)"
        )
    if not whose.is_here:
        raise UserError(
            f"the weights of {whose.text} are not here: {whose.path}, trained on {whose.host}; copy them into the "
            f"run folder (--run-folder){_other_ways(best, study)}"
        )
    return Path(whose.path)


def _other_ways(best: BestTrial, study: str) -> str:
    """Returns what else gives a confirmed model; a search keeps the weights of its own first alone."""
    if best.answer.confirmed is None:
        return ""
    return f", or train the model again: `hpsearch refit {study}`"


def save_best(
    study: str | None,
    storage: str,
    folder: Path,
    run_folder: Path = Path("runs"),
    *,
    export: bool = False,
    onnx: bool = False,
    allow: Sequence[str] = (),
    search: bool = False,
    trial: int | None = None,
) -> list[Path]:
    """Writes the best model into a folder: weights, a description and a card for people; returns the files.

    Args:
        run_folder: where the study's weights are.
        export: write it as a program of `torch.export` too, which runs without hpsearch.
        onnx: write it as an ONNX model too, which runs without PyTorch.
        search: what the search alone would pick.
        trial: the number of another COMPLETE trial.

    Raises:
        UserError: no such study, no weights, a folder that cannot be written or is another program's, a package of
            the extra `onnx` is missing, or a model that torch cannot export (the other files are there then).
        CheckpointError: the weights are damaged.
    """
    if onnx:
        _require_onnx()
    with reading_study(study, storage) as opened:
        best, name = best_trial(opened, run_folder, search, trial), opened.name
        attrs, metric = opened.attrs, opened.metric
    source = weights_of(best, name)
    state, metadata = read_weights(source)
    refuse_folds(source, metadata)
    assert best is not None
    found = {"study": name, "digest": attrs.get("digest"), "metric": metric}
    files = [folder / WEIGHTS, folder / DESCRIPTION, folder / CARD]
    described = found | _described(best, metadata)
    exported = [name for name, wanted in ((PROGRAM, export), (ONNX, onnx)) if wanted]
    try:
        refuse_foreign(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with replaced(folder / WEIGHTS) as beside:
            save_weights(beside, state, metadata | _facts(best, name, metric))
        write_whole(folder / DESCRIPTION, _as_json(described))
        write_whole(folder / CARD, model_card(described, attrs).encode())
        remove_others(folder, files)
    except OSError as error:
        raise _refused(folder, error) from None
    for name in exported:
        write = export_program if name == PROGRAM else export_onnx
        write(load_model(folder / WEIGHTS, tuple(allow)), folder / name)
        files.append(folder / name)
    if exported:  # only now is it certain that they are there
        write_whole(folder / CARD, model_card(described, attrs, exported).encode())
    return files


def save_joined(found: Joined, folder: Path) -> list[Path]:
    """Writes several models that were made one into a folder, with a card for people; returns the files.

    `predict` and `load_best_model` take the folder.

    Raises:
        UserError: the folder cannot be written, or is another program's.
    """
    try:
        refuse_foreign(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if found.state is not None:
            metadata = _of_all(read_weights(found.members[0][0].path)[1])
            said = {"answer": joined_lines(found)[0], "temperature": repr(found.temperature)}
            save_weights(folder / WEIGHTS, found.state, metadata | said)
            return _with_card(found, folder, [folder / WEIGHTS])
        files = []
        for place, (member, _) in enumerate(found.members, 1):
            files.append(member_file(folder, place))
            save_weights(files[-1], *read_weights(member.path))
        listed: list[dict[str, Any]] = [
            {"file": file.name, "count": count, "of": member.text}
            for file, (member, count) in zip(files, found.members, strict=True)
        ]
        table = {"study": found.study, "temperature": found.temperature, "members": listed}
        write_whole(folder / MANIFEST, _as_json(table))
        return _with_card(found, folder, [*files, folder / MANIFEST])
    except OSError as error:
        raise _refused(folder, error) from None


def _refused(folder: Path, error: OSError) -> UserError:
    place = error.filename or folder  # a full disk is found out by a file that is open, and names none
    return UserError(f"--save: cannot write {place}: {error.strerror}; choose another folder")


def _as_json(table: Mapping[str, Any]) -> bytes:
    return (json.dumps(table, indent=2, ensure_ascii=False) + "\n").encode()


def _with_card(found: Joined, folder: Path, files: list[Path]) -> list[Path]:
    texts = [read_texts(member.path) for member, _ in found.members]
    write_whole(folder / CARD, joined_card(found, texts).encode())
    files = [*files, folder / CARD]
    remove_others(folder, files)
    return files


def _of_all(metadata: Mapping[str, str]) -> dict[str, str]:
    """Returns what a kept model says of itself without what is true of its own training alone."""
    own = ("trial", "epoch", "hparams", "digest", "class_errors", "confusion")
    return {name: text for name, text in metadata.items() if name not in own and not name.startswith("val_")}


def _described(best: BestTrial, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Returns what a person, or another program, wants to know of a kept model.

    The metrics are of these very weights: none for a refit, which has no validation part.
    """
    assert best.weights_of is not None
    known = {key: _read(text) for key, text in metadata.items()}
    described: dict[str, Any] = {
        "value": best.value,
        "search_value": best.search_value,
        "trial": best.number,
        "answer": asdict(best.answer),
        "weights_of": best.weights_of.text,
        "epoch": int(known["epoch"]) if "epoch" in known else best.best_epoch,
        "hparams": dict(best.hparams),
        "metrics": {name: one for name, one in known.items() if name.startswith("val_")},
        "versions": {"hpsearch": metadata.get("hpsearch"), "training": best.weights_of.versions},
    }
    if "model" not in known:  # of a training function, whose author knows the model
        return described | {"function": known.get("function")}
    prepared = from_header(metadata)
    black, white = prepared.statistics.range
    elsewhere = ("channels", "height", "width", "mean", "std", "normalize")
    header = {key: _read(str(value)) for key, value in prepared.header().items() if key not in elsewhere}
    return described | {
        "model": known["model"],
        "task": known["task"],
        "precision": known.get("precision"),
        "classes": known["classes"],
        "channels": known["channels"],
        "image_size": [known["height"], known["width"]],
        "preparation": {"accepts": prepared.accepts, "black": black, "white": white, **header},
        "normalization": {
            "applied": known.get("normalize", True),
            "mean": known["mean"],
            "std": known["std"],
            "of": "(value - offset) * scale, which is in [0, 1], per channel: (pixel - mean) / std",
        },
    }


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def export_program(model: SavedModel, path: Path) -> None:
    """Writes a model as a program of `torch.export`, and runs it to see that it gives the same outputs.

    It takes float32 images in [0, 1] of shape [B, channels, height, width] for any B (in the data set's own unit
    if that was another, see `model.preparation.accepts`), normalises them itself and returns the outputs.
    `torch.export.load(path).module()(images)` runs it.

    Raises:
        ModelError: torch cannot export the model, or the program gives something else.
    """

    def written(images: Tensor) -> Callable[[Tensor], Tensor]:
        program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(program, path)
        return torch.export.load(path).module()

    _export(model, path, "--torch-export", written)


def export_onnx(model: SavedModel, path: Path) -> None:
    """Writes a model as ONNX, and runs it by onnxruntime to see that it gives the same outputs.

    It takes and returns what the program of `export_program` does, as "images" and "outputs". Its metadata have the
    classes, the task, and the temperature that the outputs are divided by before softmax (before sigmoid where the task
    is "multilabel").

    Raises:
        UserError: a package of the extra `onnx` is missing.
        ModelError: torch cannot export the model, or what was written gives something else.
    """
    _require_onnx()
    import onnxruntime

    def written(images: Tensor) -> Callable[[Tensor], Tensor]:
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=["outputs"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
        assert program is not None
        kept = {"classes": json.dumps(model.classes), "accepts": model.preparation.accepts}
        program.model.metadata_props.update(
            kept
            | {key: model.metadata[key] for key in ("task", "loss", "temperature") if key in model.metadata}
        )
        program.save(path, external_data=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(["outputs"], {"images": images.numpy()})[0])

    _export(model, path, "--onnx", written)


def _require_onnx() -> None:
    """Refuses to write ONNX where its packages are missing.

    Raises:
        UserError: naming them.
    """
    missing = [
        name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise UserError(f'--onnx needs {", ".join(missing)}; run pip install "hpsearch[onnx]"')


def _export(
    model: SavedModel, path: Path, flag: str, written: Callable[[Tensor], Callable[[Tensor], Tensor]]
) -> None:
    """Exports a model by way of two images, and compares what was written with it on one and on three.

    Args:
        written: writes the file by way of some images, and returns what it computes once it is read again.
    """
    model.to(memory_format=torch.contiguous_format)  # the only one that torch.export.save takes silently
    generator = torch.Generator().manual_seed(0)
    low, high = model.preparation.float_range
    images = (
        torch.rand(3, model.channels, model.height, model.width, generator=generator) * (high - low) + low
    )
    try:
        loaded = written(images[:2])
        pairs = [(loaded(part), _outputs(model, part)) for part in (images[:1], images)]
    except Exception as error:  # an export fails in as many ways as models can be written
        path.unlink(missing_ok=True)
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{flag}: torch cannot export this model: {first}") from error
    if not all(torch.allclose(one, other, rtol=1e-4, atol=1e-5) for one, other in pairs):
        path.unlink(missing_ok=True)
        raise ModelError(f"{flag}: what was exported gives other outputs than the model")


@torch.inference_mode()
def _outputs(model: SavedModel, images: Tensor) -> Tensor:
    outputs: Tensor = model(images)
    return outputs
