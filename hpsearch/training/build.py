"""Which engine trains a study: its own loop where it names one, the plain one otherwise."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from hpsearch.contracts.engine import Engine
from hpsearch.contracts.trial import TrialRun
from hpsearch.errors import DeviceError, ModelError, UserError
from hpsearch.study import ModelSpec, StudySpec
from hpsearch.study.checks import DataFacts, corners
from hpsearch.training import data, models
from hpsearch.training.device import is_out_of_memory, resolve
from hpsearch.training.function import FunctionEngine
from hpsearch.training.losses import guessing_loss
from hpsearch.training.plain import PlainEngine
from hpsearch.training.pretrained import sized, weights_file
from hpsearch.training.weights import describe as describe_file
from hpsearch.training.weights import file_digest, match_weights

Data = data.TrainingData | None
Allowed = tuple[str, ...] | None
Built = tuple[Engine, DataFacts | None]


def build_engine(
    spec: StudySpec,
    device: torch.device,
    data_root: str | None = None,
    cache: str = "runs/cache",
    allow: tuple[str, ...] | None = None,
    progress: Callable[[int, int], None] | None = None,
    waits: Callable[[str], None] | None = None,
) -> tuple[Engine, DataFacts | None]:
    """Loads a study's data and returns the engine for its trials, with the facts of the data.

    Args:
        data_root: overrides `spec.data.root`.
        allow: what the study may name, see `import_object`; None trusts all.
        progress: called with the numbers of images read and of all, if they must be read.
        waits: called with a sentence, now and then, while another process prepares the same images.

    Raises:
        HpsearchError: the data, the training function or a file of weights cannot be loaded, or the device
            lacks a number type that trials may have.
    """
    name = "plain" if spec.train.function is None else "function"
    if name == "plain":
        _refuse_missing_types(spec, device)
    loaded = None
    if spec.data.dataset != "none":
        loaded = data.load(
            sized(spec),
            root=data_root,
            cache=Path(cache),
            allow=allow,
            device=device,
            progress=progress,
            waits=waits,
        )
    return ENGINES[name](spec, device, loaded, allow)


def _plain(spec: StudySpec, device: torch.device, loaded: Data, allow: Allowed) -> Built:
    assert loaded is not None  # a study without data names a function, says StudySpec
    guessing = guessing_loss(spec.train, loaded.training_targets, loaded.classes)
    outputs = len(loaded.classes) or loaded.training_targets.shape[1]
    facts = _with_weights(replace(loaded.facts, guessing_loss=guessing), spec, outputs)
    return PlainEngine(device, loaded, allow), facts


def _function(spec: StudySpec, device: torch.device, loaded: Data, allow: Allowed) -> Built:
    assert spec.train.function is not None
    return FunctionEngine(spec.train.function, device, loaded, allow), loaded.facts if loaded else None


ENGINES: dict[str, Callable[[StudySpec, torch.device, Data, Allowed], Built]] = {
    "plain": _plain,
    "function": _function,
}
"""What builds each engine, by its name, from the study, the device, the data and what may be imported."""


def _refuse_missing_types(spec: StudySpec, device: torch.device) -> None:
    """Tries every number type that the study names: what fails here would fail in every such trial."""
    for name in spec.values_of("train.precision"):
        try:
            resolve(name, device)
        except DeviceError as error:
            where = "search: " if "train.precision" in spec.search else ""
            raise DeviceError(f"{where}{error}") from None


def _with_weights(facts: DataFacts, spec: StudySpec, outputs: int) -> DataFacts:
    """Returns the facts with the files that trials start from: another content would be another study."""
    starts = list(_starts(spec))
    if not starts:
        return facts
    found = {path: file_digest(path) for path, _ in starts}
    digest = hashlib.sha256(" ".join([facts.digest, *found.values()]).encode()).hexdigest()
    notes = (
        f"trials start from {describe_file(path)}{_taken(facts, one, path, outputs)}" for path, one in starts
    )
    return replace(facts, digest=digest[: len(facts.digest)], notes=(*facts.notes, *dict.fromkeys(notes)))


def _starts(spec: StudySpec) -> Iterator[tuple[str, ModelSpec]]:
    """Yields each file that trials start from, with the model of the first trial that does."""
    ends = spec.ends()
    named = {name: ends[name] for name in ("model.weights", "model.name") if name in ends}
    known: set[str] = set()
    for chosen in product(*named.values()):
        hparams = spec.filled(dict(zip(named, chosen, strict=True)))
        given = {name: spec.search[name].decode(value) for name, value in hparams.items()}
        args = {key.removeprefix("model.args."): given[key] for key in given if key.startswith("model.args.")}
        weights = given.get("model.weights", spec.model.weights)
        model = spec.model.model_copy(
            update={
                "name": given.get("model.name", spec.model.name),
                "weights": None if weights == "none" else weights,
                "args": spec.model.args | args,
            }
        )
        path = weights_file(model)
        if path is not None and path not in known:
            known.add(path)
            yield path, model


def _taken(facts: DataFacts, model: ModelSpec, path: str, outputs: int) -> str:
    """Returns what a model takes of a file, in words; nothing of one of the user's own, which is not built here."""
    shapes = models.outline(model, facts.channels, (facts.height, facts.width), outputs)
    if shapes is None:
        return ""
    try:
        return f": {match_weights(path, shapes).text}"
    except ModelError as error:
        return f", which {str(error).partition('; ')[0]}"


_NOWHERE = os.path.join(os.devnull, "trial")
"""The folder of a trial that is not trained: it holds no checkpoint, and nothing can be left in it."""


def build_corners(engine: Engine, spec: StudySpec, matters: Callable[[str], bool]) -> None:
    """Builds a trial at every corner of the search space, and trains none of them.

    Args:
        matters: says of a searchable field whether its values decide if a trial can be built.

    Raises:
        UserError: one cannot be built; the sentence begins with the values that make it another trial than
            the first that can.
    """
    for corner in corners(spec, matters):
        try:
            admit(engine, corner.spec, _NOWHERE)
        except UserError as error:
            raise type(error)(f"{corner.where}{error}") from error
        finally:
            engine.clear()


def sample_pictures(engine: Engine, spec: StudySpec) -> tuple[str, ...]:
    """Returns some training images as a trial with the most augmentation sees them, PNG files in base64.

    It is the trial with the last values of all that is searched of the augmentation, and the first of all else. None
    of a training function of the user's, which augments as it likes.
    """
    if not isinstance(engine, PlainEngine):
        return ()
    *_, corner = corners(spec, lambda name: name.startswith("data.augment"))
    return engine.sample_pictures(corner.spec)


def admit(engine: Engine, spec: StudySpec, folder: str) -> None:
    """Builds a trial that is no study's.

    Raises:
        ModelError: not enough memory.
        HpsearchError: what the engine raises.
    """
    try:
        engine.admit(TrialRun(spec.study.name, 0, 1, {}, spec, folder))
    except Exception as error:
        if is_out_of_memory(error):
            raise ModelError(f"{describe(spec)}: not enough memory for the model: {error}") from error
        raise


def describe(spec: StudySpec) -> str:
    """Returns what a sentence about a trial's size names."""
    arguments = "".join(f", {name} = {value}" for name, value in spec.model.args.items())
    return f"model.name = {spec.model.name}{arguments}, batch size {spec.train.batch_size}"
