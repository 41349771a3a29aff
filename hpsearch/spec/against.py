"""What the data decide about a study: whether its metrics, losses and sizes suit them.

Asked once, when the data are known and before anything is trained: what no trial, or not every trial, could do.
"""

from collections.abc import Sequence

from hpsearch.errors import StudyFileError
from hpsearch.spec.augment import Crop
from hpsearch.spec.corners import corners
from hpsearch.spec.data import DataSpec
from hpsearch.spec.study import METRICS, TOP, StudySpec
from hpsearch.spec.train import NUMBER_LOSSES, TrainSpec
from hpsearch.spec.trial import DataFacts

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
    for field, metric in spec.metrics_used().items():
        if metric not in reported(facts) and not spec.is_refit:
            raise StudyFileError(f'{field} = "{metric}": {_why_not(metric, facts)}')
    for corner in corners(spec, _matters):
        try:
            _check_trial(corner.spec, facts)
        except StudyFileError as error:
            raise StudyFileError(f"{corner.where}{error}") from None


def reported(facts: DataFacts) -> tuple[str, ...]:
    """Returns the metrics that the plain loop reports for these data, beside the training loss."""
    if facts.task == "regression":
        return ("val_loss", "val_mae")
    missing = {"val_mae"} if len(facts.classes) > TOP else {"val_mae", "val_top5_error"}
    return tuple(name for name in METRICS if name not in missing)


def _why_not(metric: str, facts: DataFacts) -> str:
    what = f"has {len(facts.classes)} classes" if facts.classes else "has numbers as targets"
    return f"it is not reported for this data set, which {what}; choose {', '.join(reported(facts))}"


def _matters(name: str) -> bool:
    return name in (
        "train.label_smoothing",
        "train.class_weights",
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
        StudyFileError: they are for classes, and the targets are numbers.
    """
    if task != "regression":
        return
    if train.loss not in NUMBER_LOSSES:
        raise StudyFileError(
            f'train.loss = "{train.loss}" is for classes, and these targets are numbers; '
            f"choose {', '.join(NUMBER_LOSSES)}"
        )
    if train.label_smoothing or train.class_weights is not None:
        field = "label_smoothing" if train.label_smoothing else "class_weights"
        raise StudyFileError(f"train.{field} is for classes, and these targets are numbers; remove it")


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
    return f" in the order {', '.join(names[:MOST_NAMED])}{', ...' if len(names) > MOST_NAMED else ''}"


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
    largest, smallest = max(sizes, default=1), int(facts.train * subset)
    if largest > smallest:
        field = "search.batch_size" if "batch_size" in spec.search else "train.batch_size"
        of = "" if subset == 1 else f" that data.subset = {subset:g} leaves of {facts.train}"
        raise StudyFileError(
            f"{field}: {largest} is larger than the training part of {smallest} samples{of}; "
            'lower it, or write "full" for the whole part'
        )
