"""The test part, opened: every kept model of a configuration on the images that nothing was chosen by.

Legend: N test samples, B batch, K classes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpsearch.contracts.trial import TrialRun
from hpsearch.errors import DataError, ModelError
from hpsearch.results.confirm.statistics import Values
from hpsearch.store.study_data import DataRecord
from hpsearch.study.specification import StudySpec
from hpsearch.training import device as devices
from hpsearch.training import models
from hpsearch.training.calibration import Reliability, reliability, to_probabilities, to_shares
from hpsearch.training.context import Trial
from hpsearch.training.data import TrainingData, load
from hpsearch.training.data.cache import Waits
from hpsearch.training.data.pictures import as_png
from hpsearch.training.data.prepared import Batches, Part, Sealed
from hpsearch.training.data.sealed import open_test
from hpsearch.training.function import test_function
from hpsearch.training.losses import EpochMetrics, sample_metrics
from hpsearch.training.own import Judges, build_judges
from hpsearch.training.pretrained import data_table
from hpsearch.training.weights import read_texts, read_weights

BATCH = 256
MOST_CLASSES = 50  # up to which the confusion matrix is kept
MOST_WRONG = 12  # pictures
PICTURE_SIDE = 64  # pixels at the most; the attribute that holds one must stay below 64 kB


@dataclass(frozen=True, slots=True)
class ExamSetup:
    """Where the data are, what may be imported, and what the models run on.

    Attributes:
        digest: of the data that were agreed to be opened; "" does not compare.
        waits: called with a sentence while another process prepares the same images.
    """

    data_root: str | None
    cache: Path
    allow: tuple[str, ...] | None
    device: str = "auto"
    digest: str = ""
    waits: Waits | None = None


@dataclass(frozen=True, slots=True)
class Exam:
    """What the models of one configuration did on the test part.

    Attributes:
        metrics: by trial: `test_loss`, `test_error` ...
        confusion: how often each class (row) was taken for each class, all models together; empty for
            regressions, training functions, several labels and very many classes.
        labels: of several labels each, how often it was said rightly, said wrongly and missed, all models together.
        wrong: the pictures that the models together took for another class with the most confidence: sample,
            name, class, predicted class, probability (the mean over the models). Of several labels: those with the
            most confidently wrong answer to one of them, which is the predicted one.
        pictures: of these samples, by sample: PNG files in base64.
        images: what each image gave, by trial and metric; none of training functions.
        reliability: of the model with the median calibration error, calibrated by its validation part.
    """

    metrics: dict[int, dict[str, float]]
    classes: tuple[str, ...] = ()
    confusion: list[list[int]] = field(default_factory=list)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    pictures: dict[int, str] = field(default_factory=dict)
    images: dict[int, dict[str, Values]] = field(default_factory=dict)
    reliability: Reliability | None = None
    labels: list[list[int]] = field(default_factory=list)


def sealed_part(spec: StudySpec, setup: ExamSetup, attrs: Mapping[str, Any]) -> tuple[str, str]:
    """Looks whether there is a test part to open; opens nothing.

    Args:
        attrs: the search's user attributes, which tell of the data that it began with.

    Returns:
        The digest of the data (empty for a function without them), and a sentence why there is nothing to
        open, or "".

    Raises:
        DataError: the data are missing, or not those of the search.
    """
    if spec.train.function is not None and test_function(spec, setup.allow) is None:
        module = spec.train.function.partition(":")[0]
        return "", f"{module} has no function test(trial, model), so there is no test"
    if spec.data.dataset == "none":
        return "", ""
    facts = _load(spec, setup, attrs).facts
    if facts.test == 0 and spec.train.function is None:
        return (
            facts.digest,
            "the study has no test part (data.split.test is 0); give it a share of the images",
        )
    return facts.digest, ""


def _load(
    spec: StudySpec, setup: ExamSetup, attrs: Mapping[str, Any], device: torch.device | None = None
) -> TrainingData:
    """Loads training and validation part.

    Raises:
        DataError: they are missing, or not those of the search.
    """
    data = load(
        data_table(spec),
        root=setup.data_root,
        cache=setup.cache,
        allow=setup.allow,
        waits=setup.waits,
        device=device,
    )
    record = DataRecord()
    record.load(attrs)
    record.check_parts(data.facts)
    return data


def _open(spec: StudySpec, setup: ExamSetup, device: torch.device) -> Sealed:
    return open_test(
        data_table(spec),
        root=setup.data_root,
        cache=setup.cache,
        allow=setup.allow,
        device=device,
        digest=setup.digest,
        waits=setup.waits,
    )


def examine(
    runs: Mapping[int, TrialRun], weights: Mapping[int, Path], setup: ExamSetup, wanted: Iterable[str] = ()
) -> Exam:
    """Opens the test part once and tries all models of one configuration on it.

    Args:
        runs, weights: by trial; all runs have the same specification but for the repeat and its fold.
        wanted: metrics beside those that the runs' study names.

    Raises:
        HpsearchError: data, weights or model; or the test function raised.
    """
    spec = next(iter(runs.values())).spec
    device = devices.choose(setup.device)
    if spec.train.function is not None:
        return Exam({number: _own_test(runs[number], weights[number], setup, device) for number in weights})
    sealed = _open(spec, setup, device)
    _compute_as_in_training(spec)
    judges = build_judges(spec.train, sealed.task, sealed.outputs, setup.allow)
    metrics: dict[int, dict[str, float]] = {}
    images: dict[int, dict[str, Values]] = {}
    belief_NK: Tensor | None = None
    found: list[Reliability] = []
    several = sealed.task == "multilabel"
    confusion = torch.zeros(len(sealed.classes), 3 if several else len(sealed.classes), dtype=torch.int64)
    fold = spec.data.split.fold
    for number, path in weights.items():
        if (other := runs[number].spec).data.split.fold != fold:  # its images have another mean and deviation
            fold, sealed = other.data.split.fold, _open(other, setup, device)
        model, precision = _model(spec, sealed, path, setup, device)
        outputs, counters = _outputs(spec, model, sealed, sealed.test, precision, device, judges, wanted)
        metrics[number] = {name.replace("val_", "test_", 1): x for name, x in counters.result().items()}
        images[number] = _images(spec, sealed, sealed.test, outputs, judges, "test_")
        if sealed.classes:
            probabilities = to_probabilities(outputs, spec.train.loss, sealed.task)
            heat = float(read_texts(path).get("temperature", 1.0))
            calibrated = to_probabilities(outputs / heat, spec.train.loss, sealed.task)
            found.append(reliability(calibrated, sealed.test.targets.cpu()))
            belief_NK = probabilities if belief_NK is None else belief_NK + probabilities
            confusion += torch.tensor(counters.label_counts() if several else counters.confusion())
    if belief_NK is None:
        return Exam(metrics, images=images)
    few = len(sealed.classes) <= MOST_CLASSES
    counts = confusion.tolist() if few else []
    places, wrong = (_most_wrong_labels if several else _most_wrong)(belief_NK / len(weights), sealed)
    return Exam(
        metrics,
        sealed.classes,
        [] if several else counts,
        wrong,
        {int(sealed.test.index[place]): picture(sealed, place) for place in places},
        images,
        _middle(found),
        counts if several else [],
    )


def _middle(found: Sequence[Reliability]) -> Reliability | None:
    """Returns the one with the median error, of two the worse."""
    return sorted(found, key=lambda one: one.ece)[len(found) // 2] if found else None


def validate(
    runs: Mapping[int, TrialRun], weights: Mapping[int, Path], setup: ExamSetup, attrs: Mapping[str, Any]
) -> dict[int, dict[str, Values]]:
    """Returns what each image of the validation part gives with the kept models of one configuration, by trial.

    Args:
        attrs: the search's user attributes, which tell of the data that it began with.

    Raises:
        HpsearchError: data, weights or model; or the data are not those of the search.
    """
    spec = next(iter(runs.values())).spec
    device = devices.choose(setup.device)
    data = _load(spec, setup, attrs, device)
    _compute_as_in_training(spec)
    found = {}
    for number, path in weights.items():
        batches = data.at(data_table(runs[number].spec))
        judges = build_judges(spec.train, batches.task, batches.outputs, setup.allow)
        model, precision = _model(spec, batches, path, setup, device)
        outputs, _ = _outputs(spec, model, batches, batches.val, precision, device, judges)
        found[number] = _images(spec, batches, batches.val, outputs, judges, "val_")
    return found


@dataclass(frozen=True, slots=True)
class Parts:
    """A part of the data on which models of several configurations are judged.

    Attributes:
        at: gives its batches as a configuration wants them, and the part.
        targets: of all its samples, on the CPU.
    """

    at: Callable[[StudySpec], tuple[Batches, Part]]
    targets: Tensor
    classes: tuple[str, ...]
    task: str
    device: torch.device


def load_parts(spec: StudySpec, setup: ExamSetup, attrs: Mapping[str, Any]) -> Parts:
    """Returns the validation part.

    Args:
        attrs: the search's user attributes, which tell of the data that it began with.

    Raises:
        HpsearchError: the data are missing, or not those of the search.
    """
    device = devices.choose(setup.device)
    data = _load(spec, setup, attrs, device)

    def at(one: StudySpec) -> tuple[Batches, Part]:
        prepared = data.at(data_table(one))
        return prepared, prepared.val

    return Parts(at, at(spec)[1].targets.cpu(), data.classes, data.task, device)


def open_parts(spec: StudySpec, setup: ExamSetup, digest: str) -> Parts:
    """Opens the test part as a configuration wants it, for what is on record already.

    Raises:
        HpsearchError: the data are missing, or others than those named.
    """
    device = devices.choose(setup.device)
    sealed = _open(spec, replace(setup, digest=digest), device)
    return Parts(
        lambda one: (sealed, sealed.test), sealed.test.targets.cpu(), sealed.classes, sealed.task, device
    )


def judged(spec: StudySpec, weights: Path | Mapping[str, Tensor], parts: Parts, setup: ExamSetup) -> Tensor:
    """Returns what a model believes of a part: probabilities [N, K] that sum to 1 (but for several labels), or a
    regression's numbers.

    Args:
        weights: a file, or the weights themselves, in the number type of training.
    """
    _compute_as_in_training(spec)
    batches, part = parts.at(spec)
    model, precision = _model(spec, batches, weights, setup, parts.device)
    judges = build_judges(spec.train, batches.task, batches.outputs, setup.allow)
    outputs, _ = _outputs(spec, model, batches, part, precision, parts.device, judges)
    return to_shares(outputs, spec.train.loss, parts.task) if parts.classes else outputs.double()


def _compute_as_in_training(spec: StudySpec) -> None:
    """Makes the same weights give the same outputs."""
    devices.allow_tf32(spec.train.tf32)
    devices.choose_repeatable_kernels()


def _images(
    spec: StudySpec, batches: Batches, part: Part, outputs: Tensor, judges: Judges, prefix: str
) -> dict[str, Values]:
    found = sample_metrics(spec.train, batches.task, outputs, part.targets.cpu(), judges.loss)
    return {f"{prefix}{name}": values.double().numpy() for name, values in found.items()}


def _model(
    spec: StudySpec,
    batches: Batches,
    path: Path | Mapping[str, Tensor],
    setup: ExamSetup,
    device: torch.device,
) -> tuple[nn.Module, devices.Precision]:
    """Returns a kept model on the device, and the number types of its training, which another device had."""
    size = batches.height, batches.width
    # Built from the specification, not from what the file says of itself.
    model = models.build(spec.model, batches.channels, size, batches.outputs, 0, setup.allow)
    state, facts = read_weights(path) if isinstance(path, Path) else (path, {})
    precision = devices.resolve(facts.get("precision", spec.train.precision), device)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        where = path if isinstance(path, Path) else "the average"
        raise ModelError(f"{where}: the weights do not fit the model {spec.model.name}: {error}") from error
    return model.to(device, precision.dtype).eval(), precision


def _outputs(
    spec: StudySpec,
    model: nn.Module,
    batches: Batches,
    part: Part,
    precision: devices.Precision,
    device: torch.device,
    judges: Judges,
    wanted: Iterable[str] = (),
) -> tuple[Tensor, EpochMetrics]:
    """Returns the outputs for all samples, on the CPU, and what was counted of them.

    Batches that do not fit into memory are halved, as those of the validation are.
    """

    metrics = {*spec.metrics_used().values(), *wanted}

    def attempt(batch: int) -> tuple[Tensor, EpochMetrics]:
        counters = EpochMetrics(spec.train, batches.task, batches.outputs, device, metrics, judges)
        return _all_batches(model, batches, part, precision, device, counters, batch), counters

    return devices.halving(attempt, BATCH, device, "the images to be judged")[0]


@torch.inference_mode()
def _all_batches(
    model: nn.Module,
    batches: Batches,
    part: Part,
    precision: devices.Precision,
    device: torch.device,
    counters: EpochMetrics,
    batch: int,
) -> Tensor:
    """Counts all batches and returns the outputs for all samples, on the CPU."""
    found = []
    for start in range(0, len(part), batch):
        images, targets = batches.batch(part, slice(start, start + batch), precision.dtype)
        autocast = precision.autocast is not None
        with torch.autocast(device.type, precision.autocast, enabled=autocast):
            outputs = model(images)
        counters.update(outputs, targets)
        found.append(outputs.cpu())
    return torch.cat(found)


def _most_wrong(belief_NK: Tensor, sealed: Sealed) -> tuple[list[int], list[dict[str, Any]]]:
    """Returns where the most confidently wrong samples stand in the test part, and what is said of them."""
    targets_N = sealed.test.targets.cpu()
    probability_N, predicted_N = belief_NK.max(1)
    wrong = torch.nonzero(predicted_N != targets_N).flatten()
    worst = wrong[probability_N[wrong].argsort(descending=True, stable=True)][:MOST_WRONG].tolist()
    return worst, [
        {
            "sample": int(sealed.test.index[place]),
            "name": sealed.test.names[place] if sealed.test.names else "",
            "class": sealed.classes[targets_N[place]],
            "predicted": sealed.classes[predicted_N[place]],
            "probability": round(float(probability_N[place]), 4),
        }
        for place in worst
    ]


def _most_wrong_labels(belief_NK: Tensor, sealed: Sealed) -> tuple[list[int], list[dict[str, Any]]]:
    """Returns the same of several labels: for each sample the most confidently wrong answer counts."""
    own_NK = sealed.test.targets.cpu() > 0
    surprise_NK = torch.where(own_NK, 1 - belief_NK, belief_NK)
    surprise_N, label_N = surprise_NK.max(1)
    wrong = torch.nonzero(surprise_N > 0.5).flatten()
    worst = wrong[surprise_N[wrong].argsort(descending=True, stable=True)][:MOST_WRONG].tolist()

    def said(place: int) -> str:
        name = sealed.classes[label_N[place]]
        return f"not {name}" if own_NK[place, label_N[place]] else name

    return worst, [
        {
            "sample": int(sealed.test.index[place]),
            "name": sealed.test.names[place] if sealed.test.names else "",
            "class": ", ".join(sealed.classes[label] for label in torch.nonzero(own_NK[place]).flatten())
            or "none",
            "predicted": said(place),
            "probability": round(float(surprise_N[place]), 4),
        }
        for place in worst
    ]


def picture(sealed: Sealed, place: int) -> str:
    """Returns a test sample as a PNG file in base64: what the models saw, not normalised, at most `PICTURE_SIDE`."""
    image = sealed.pixels(sealed.test, torch.tensor([place], device=sealed.device)).cpu()
    return as_png(image[0].float(), PICTURE_SIDE)


class TestTrial(Trial):
    """What a user's `test(trial, model)` is given: the trial, and the test part if the study has one."""

    __test__ = False  # no test class, whatever pytest may think of the name

    def __init__(self, run: TrialRun, device: torch.device, setup: ExamSetup) -> None:
        super().__init__(run, device)
        self._setup = setup

    def test_data(self) -> Sealed:
        """Returns the test part on the device, normalised as the training part was.

        Raises:
            DataError: the study has no [data], or no test part.
        """
        if self._run.spec.data.dataset == "none":
            raise DataError('trial.test_data() needs a [data] table; this study has dataset = "none"')
        return _open(self._run.spec, self._setup, self.device)


def _own_test(run: TrialRun, weights: Path, setup: ExamSetup, device: torch.device) -> dict[str, float]:
    """Calls the user's `test(trial, model)` with the kept weights as a state dict."""
    function = test_function(run.spec, setup.allow)
    where = f"test of {run.spec.train.function}"
    state = read_weights(weights)[0]
    if function is None:
        raise ModelError(f"{where}: there is no function test(trial, model) beside it")
    try:
        found = function(TestTrial(run, device, setup), state)
        return {str(name): float(value) for name, value in found.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(f'{where}: it must return a dict such as {{"test_loss": 0.1}}: {error}') from error
