"""Trials at the corners of a search space: what every trial may meet, without sampling one."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpsearch.errors import StudyFileError
from hpsearch.study import conditions
from hpsearch.study.augment import Crop
from hpsearch.study.data import DataSpec
from hpsearch.study.search import Label
from hpsearch.study.section import is_own
from hpsearch.study.sentences import field_errors
from hpsearch.study.specification import METRICS, TOP, StudySpec
from hpsearch.study.train import LABEL_LOSSES, NUMBER_LOSSES, TrainSpec
from hpsearch.text import counted, first_few


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What a data set turned out to be; travels from worker to driver and into the study's attributes.

    Attributes:
        train, val, test: number of samples in each part (the whole training part, before `subset`).
        classes: names of the classes, or of the labels that an image may have; empty for regression.
        channels, height, width: of the images at the study's own image size.
        digest: hexadecimal digits over content, labels and split, and over the files of `model.weights`.
        notes: sentences worth showing: layout found, duplicates, class balance, files skipped.
        digests: of "images", "labels" and "split" apart; the first that differs names what has changed.
        guessing_loss: the loss of the best constant prediction on the training part; None for own training loops.
        class_counts: samples of each class, or with each label, in the training part; empty for regression.
    """

    train: int
    val: int
    test: int
    classes: tuple[str, ...]
    channels: int
    height: int
    width: int
    task: str
    digest: str
    notes: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    guessing_loss: float | None = None
    class_counts: tuple[int, ...] = ()

    def trained(self, subset: float) -> int:
        """Returns how many samples `data.subset` leaves: its share of each class, but at least one."""
        counts = self.class_counts if self.task == "classification" else ()
        return sum(max(1, math.ceil(count * subset - 0.5)) for count in counts or (self.train,))


@dataclass(frozen=True, slots=True)
class Corner:
    """A trial at an end of everything that is searched.

    Attributes:
        spec: the study with the trial's hparams in place.
        named: the hparams that make it another corner than the first.
    """

    spec: StudySpec
    named: Mapping[str, Label]

    @property
    def where(self) -> str:
        """The beginning of a sentence about the trial; "" for the first corner."""
        values = ", ".join(f"{name} = {value}" for name, value in self.named.items())
        return f"search: with {values}: " if values else ""


def corners(spec: StudySpec, matters: Callable[[str], bool]) -> Iterator[Corner]:
    """Yields the trial with the first value of everything, those with one other end, the one with the last.

    The first value of a list is the first that is written, of a range its lower end. So each choice and each
    end of what matters is met, and those that go wrong only together are most likely met by one of the two
    trials at opposite corners.

    Args:
        matters: whether a name's other values are worth a trial.

    Raises:
        StudyFileError: values of different fields that exclude each other.
    """
    first = spec.filled({})
    yield _corner(spec, first, {})
    others: dict[str, Label] = {}
    for named in conditions.at_ends(spec.search):
        name = list(named)[-1]  # before it stands what it needs
        hparams = spec.filled(named)
        if matters(name) and hparams != first:
            others[name] = named[name]
            yield _corner(spec, hparams, named)
    if len(others) > 1:
        last = spec.filled({}, lambda name, values: values[-1] if name in others else values[0])
        yield _corner(spec, last, {name: value for name, value in last.items() if name in others})


def _corner(spec: StudySpec, hparams: Mapping[str, Any], named: Mapping[str, Any]) -> Corner:
    try:
        return Corner(spec.with_hparams(hparams), named)
    except ValueError as error:
        found = field_errors(error, StudySpec).found
        sentences = "; ".join(": ".join(filter(None, pair)) for pair in found)
        raise StudyFileError(f"{Corner(spec, named).where}{sentences}") from error


KINDS = {"classification": ("class", "classes"), "multilabel": ("label", "labels")}
"""What `DataFacts.classes` are called, one and several, by task."""

MOST_NAMED = 20
"""Classes up to which a sentence names all."""


def check_study_against(spec: StudySpec, facts: DataFacts) -> None:
    """Refuses a study that these data do not suit, with the field and its value named.

    A training function of the user's reports what it likes, so only its batch sizes are looked at.

    Raises:
        StudyFileError: batches that no trial could fill, metrics that are not reported, or a trial at a corner
            of the search space that cannot be trained.
    """
    _check_batches(spec, facts)
    if spec.train.function is not None:
        return
    for where, metric in spec.metrics_used().items():
        if metric not in (*reported(facts), *spec.train.metrics) and not spec.is_refit:
            raise StudyFileError(f'{where} = "{metric}": {_why_not(metric, facts)}')
    for corner in corners(spec, _matters):
        try:
            _check_trial(corner.spec, facts)
        except StudyFileError as error:
            raise StudyFileError(f"{corner.where}{error}") from None


def reported(facts: DataFacts) -> tuple[str, ...]:
    """Returns the metrics that the plain loop reports for these data, beside the training loss."""
    if facts.task == "regression":
        return ("val_loss", "val_mae")
    of_labels = {"val_hamming_error", "val_subset_error"}
    if facts.task == "multilabel":
        missing = {"val_mae", "val_error", "val_top5_error", "val_balanced_accuracy"}
    else:
        missing = {"val_mae", *of_labels} | (set() if len(facts.classes) > TOP else {"val_top5_error"})
    return tuple(name for name in METRICS if name not in missing)


def _why_not(metric: str, facts: DataFacts) -> str:
    what = f"has {len(facts.classes)} classes" if facts.classes else "has numbers as targets"
    if facts.task == "multilabel":
        what = "has images with several labels"
    return f"it is not reported for this data set, which {what}; choose {', '.join(reported(facts))}"


def _matters(name: str) -> bool:
    return name in (
        "train.label_smoothing",
        "train.class_weights",
        "train.sampling",
        "data.image_size",
        "data.progressive",
    ) or (name.startswith("data.augment"))


def _check_trial(spec: StudySpec, facts: DataFacts) -> None:
    check_loss(spec.train, facts.task)
    if facts.classes:
        check_class_weights(spec.train, len(facts.classes), facts.classes)
    _check_padding(spec.data, facts)


def check_loss(train: TrainSpec, task: str) -> None:
    """Refuses losses and their options that do not suit the task.

    Raises:
        StudyFileError: they are for classes, and the targets are numbers; or for losses of ours.
    """
    if is_own(train.loss) and train.label_smoothing:
        raise StudyFileError(
            f"train.label_smoothing = {train.label_smoothing:g} works only with built-in losses, and train.loss = "
            f'"{train.loss}" is your own; remove it'
        )
    if task == "classification":
        return
    if task == "multilabel":
        _check_loss_of_labels(train)
        return
    if train.loss not in NUMBER_LOSSES and not is_own(train.loss):
        raise StudyFileError(
            f'train.loss = "{train.loss}" is for classes, and these targets are numbers; '
            f"choose {', '.join(NUMBER_LOSSES)}"
        )
    for_classes = {
        "label_smoothing": bool(train.label_smoothing),
        "class_weights": train.class_weights is not None,
        "sampling": train.sampling != "shuffled",
    }
    if any(for_classes.values()):
        field = next(name for name, given in for_classes.items() if given)
        raise StudyFileError(f"train.{field} is for classes, and these targets are numbers; remove it")


def _check_loss_of_labels(train: TrainSpec) -> None:
    if train.loss not in LABEL_LOSSES and not is_own(train.loss):
        raise StudyFileError(
            f'train.loss = "{train.loss}" is for images of one class each, and these may have several labels; choose '
            f"{', '.join(LABEL_LOSSES)}"
        )
    if is_own(train.loss) and train.class_weights is not None:
        raise StudyFileError(
            "train.class_weights works only with built-in losses where images have several labels, and train.loss = "
            f'"{train.loss}" is your own; weight the labels there'
        )
    if train.sampling != "shuffled":
        raise StudyFileError(
            f'train.sampling = "{train.sampling}" draws a class first, and these images may have several labels; '
            'remove it, and let train.class_weights = "balanced" weight them'
        )


def check_class_weights(train: TrainSpec, classes: int, names: Sequence[str] = ()) -> None:
    """Refuses weights that are not one for each class, or mean nothing.

    Args:
        names: of the classes, in the order of the weights.

    Raises:
        StudyFileError: too few, too many, negative ones, or zeros alone.
    """
    given = train.class_weights
    if isinstance(given, tuple) and (len(given) != classes or min(given) < 0 or max(given) == 0):
        raise StudyFileError(
            f"train.class_weights = {list(given)}: give one number for each of the "
            f"{classes} classes{_in_order(names)}, none negative and not all 0"
        )


def _in_order(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f" in the order {first_few(names, MOST_NAMED)}"


def _check_padding(data: DataSpec, facts: DataFacts) -> None:
    side = data.image_size or min(facts.height, facts.width)
    side = min([side, *(size for _, size in data.progressive)])
    for entry in data.augment:
        if isinstance(entry, Crop) and entry.p > 0 and entry.padding >= side:
            raise StudyFileError(
                f"data.augment.crop.padding is {entry.padding} and images are {side} pixels wide or high: a "
                f"crop could miss the image; use less than {side}"
            )


def _check_batches(spec: StudySpec, facts: DataFacts) -> None:
    sizes = [size for size in spec.values_of("batch_size") if size != "full"]
    subset = min(spec.values_of("data.subset"))
    largest, smallest = max(sizes, default=1), facts.trained(subset)
    if largest > smallest:
        field = "search.batch_size" if "batch_size" in spec.search else "train.batch_size"
        of = "" if subset == 1 else f" that data.subset = {subset:g} leaves of {facts.train}"
        raise StudyFileError(
            f"{field}: {largest} is larger than the training part of {counted(smallest, 'sample')}{of}; "
            'lower it, or write "full" for the whole part'
        )
