"""The `[data]` table: what is trained on, how it is split and how it is varied."""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from hpsearch.study.augment import Augment, check_unique, expand_preset
from hpsearch.study.section import Bool, Float, Int, OrNone, Section


class Split(Section):
    """Shares of the three parts; stratified by label, seeded, the same for every trial and worker.

    The training part teaches, the validation part chooses between trials and stops them, the test part is
    opened by `hpsearch confirm` alone. A data set's official test part is used as it is unless
    `official_test = false`; `train` and `val` then share what remains in their proportion.
    """

    train: Float = Field(0.8, gt=0, le=1)
    val: Float = Field(0.1, gt=0, lt=1)
    test: Float = Field(0.1, ge=0, lt=1)
    seed: Int = 0
    official_test: Bool = True
    group_by: str | None = None
    """Samples that must not be torn apart: `"column:patient"` of the labels CSV (an array of this name in a
    .npz file, an attribute of data sets of your own with one value per item), or a regular expression on the
    file name (`names` of your own data sets) whose first group, or whole match, names the group."""
    folds: Int | None = Field(None, ge=2)
    """For small data: the training and the validation part together are cut into so many folds, and each trial trains
    a model for each, side by side, that is validated on it; all its metrics are means over the folds."""
    fold: Int | None = Field(None, ge=0)
    """Trains one model, validated on the fold of this number (from 0; with `train.repeat`, on that of the repeat's),
    instead of one for each; `hpsearch confirm --folds` sets it."""
    join_val: Bool = False
    """Trains on the validation part too, so that nothing is left to choose by; `hpsearch refit` sets it."""

    @field_validator("group_by")
    @classmethod
    def _is_a_column_or_an_expression(cls, group_by: str | None) -> str | None:
        if group_by == "column:":
            raise ValueError('"column:" names no column; complete it, as in "column:patient"')
        try:
            re.compile("" if group_by is None or group_by.startswith("column:") else group_by)
        except re.error as error:
            raise ValueError(
                f'"{group_by}" is not a valid regular expression ({error}); correct it, or use "column:<name>"'
            ) from error
        return group_by

    @model_validator(mode="after")
    def _sums_to_one(self) -> "Split":
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + val + test must be 1, got {total:g}")
        return self

    @model_validator(mode="after")
    def _fold_is_one_of_them(self) -> "Split":
        if self.fold is not None and self.fold >= (self.folds or 0):
            known = f"folds are numbered 0 to {self.folds - 1}" if self.folds else "folds is not given"
            raise ValueError(f"fold is {self.fold}, and {known}; change it, or remove it")
        if self.folds is not None and self.join_val:
            raise ValueError(f"folds = {self.folds} leaves join_val nothing to join; remove one of them")
        return self

    @property
    def trains_all_folds(self) -> bool:
        """Whether a trial trains a model for each fold."""
        return self.folds is not None and self.fold is None

    @property
    def each_trial(self) -> tuple[str, ...]:
        """What a trial does that others do not, in a sentence; of a confirmation or a refit nothing."""
        if not self.trains_all_folds:
            return ()
        return (f"each trial trains {self.folds} models side by side, and its metrics are their means",)


class Normalization(Section):
    """What is subtracted from each channel of pixels in [0, 1], and what that is divided by."""

    mean: tuple[Float, ...] = Field(min_length=1)
    std: tuple[Annotated[Float, Field(gt=0)], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _belong_together(self) -> "Normalization":
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has {len(self.mean)} values and std {len(self.std)}; give both for each channel"
            )
        return self


def _form(value: Any) -> str:
    return (
        "str" if isinstance(value, str) else "Normalization" if not isinstance(value, bool | int) else "bool"
    )


class DataSpec(Section):
    """The data set, its parts, its size in pixels, and its augmentation."""

    dataset: str = "none"
    """`digits`, a torchvision classification set such as `FashionMNIST`, `folder`, `npz`, `mrc`, or
    `my_package.data:build` (a function that returns data sets, see the README). `none` is for a training
    function that brings its own data."""
    root: str | None = None
    """Folder or file that holds the data (default `data`); `--data-root` and `HPSEARCH_DATA` override it."""
    download: Bool = False
    """Lets torchvision fetch a set that is not there."""
    subset: Float = Field(1.0, gt=0, le=1)
    """Stratified share of the training part; a smaller subset is part of every larger one."""
    split: Split = Split()
    image_size: Annotated[Annotated[Int, Field(ge=1, le=4096)] | None, OrNone] = None
    """Side of the square images in pixels; resized with antialiasing once. None keeps the data's own size, or with
    `model.weights = "imagenet"` takes the one of the weights."""
    resize: Literal["crop", "pad", "squash"] = "crop"
    """How images of another shape become square: `crop` scales the shorter side and cuts the edges of the longer
    one off, `pad` scales the longer side and adds bars (black, or a deep picture's darkest value), `squash`
    scales both sides and distorts."""
    range: tuple[Float, Float] | None = None
    """Values that become 0 and 1, such as `[0, 4095]` for cameras of 12 bits; the same for all images, and values
    outside stay outside. None: 0 to 255 for images of 8 bits, the training part's own range for deeper ones."""
    channels: Annotated[Literal[1, 3] | None, OrNone] = None
    """1 turns photographs grey, 3 repeats a grey channel; None keeps what the data has."""
    normalize: Annotated[
        Annotated[Bool, Tag("bool")]
        | Annotated[Literal["imagenet"], Tag("str")]
        | Annotated[Normalization, Tag("Normalization")],
        Discriminator(_form),
    ] = True
    """Subtracts the training part's mean and divides by its standard deviation, per channel; with
    `model.weights = "imagenet"` those that the weights were trained with. `"imagenet"`, or a table with `mean` and
    `std`, fixes them, for weights in a file of yours."""
    augment: Annotated[tuple[Augment, ...], AfterValidator(check_unique), BeforeValidator(expand_preset)] = ()
    """Transforms of the training images, drawn anew each time; or the name of a preset, `"photo"`."""
    progressive: tuple[tuple[Float, Int], ...] = ()
    """Progressive resizing: pairs of (share of the epochs from which on, image size); training starts on
    small images and ends on large ones. Validation is always at the last size."""
    task: Literal["auto", "classification", "multilabel", "regression"] = "auto"
    """`auto` takes labels with fractions, or several numbers each, for regression and all others for classes;
    whole numbers that measure something, such as ages, need `regression`. `multilabel` is for images that may have
    several labels, or none: columns of 0 and 1, or names joined by `label_separator`."""
    layout: Literal["auto", "HWC", "CHW"] = "auto"
    """Order of the axes in arrays of images; `auto` detects it and says what it found."""
    labels: str | tuple[str, ...] | None = None
    """A CSV (or STAR file) of labels beside the images, relative to `root`; columns below. A list of files, such as
    `["train.csv", "val.csv", "test.csv"]`, is read as one; if their names say train, val and test, these are the parts.
    Pictures may have any suffix; if all lie in folders called train, val and test, these are the parts."""
    file_column: str = "file"
    """A suffix that the names lack is completed by the pictures that are there."""
    label_column: str | tuple[str, ...] = "label"
    """Several, as a list or joined by commas, are several regression targets, or say yes (1) or no (0) to a label each
    (`task = "multilabel"`, or `"classification"` where each image has exactly one)."""
    label_separator: Annotated[str, Field(min_length=1)] | None = None
    """What stands between the labels of an image in the one column that names them, such as `"|"` in cat|dog; an empty
    field means none. The task is `multilabel` then."""
    split_column: str | None = None
    """Column of the table that says train, val or test; these are the parts then."""
    strip: str | None = None
    """What the names in the table begin with and the folder has not, such as `"/mnt/scans"`."""
    prefix: str | None = None
    """What the names in the table lack in front, such as `"images/"`; it comes after `strip`."""
    skip_unreadable: Bool = False
    """Leaves out pictures of a folder that cannot be read, and says which; elsewhere they are errors."""
    on_duplicates: Literal["warn", "drop", "error"] = "warn"
    """What to do about the same image in two parts, which would make validation or test too optimistic. Pictures in
    files are compared by their pixels, so a copy with other metadata or in another format is found (of a JPEG that
    is much larger than `image_size` only the former)."""
    device: Literal["auto", "gpu", "cpu", "stream"] = "auto"
    """Where the images live: on the GPU, in shared memory-mapped host memory, or streamed batch by batch."""
    predict: str | None = None
    """What prepares one picture as your own data function does, as `my_package.data:prepare`: it is given a
    picture as Pillow opens it and returns the image of an item. `hpsearch predict` needs it."""
    cache: str | None = None
    """Folder of decoded images (default: `cache` beside the run folder)."""
    cache_limit_gb: Float = Field(50.0, gt=0)
    """Most that the folder may hold. Photographs are kept once, but need twice their room while they are
    decoded."""

    @field_validator("range")
    @classmethod
    def _range_grows(cls, known: tuple[float, float] | None) -> tuple[float, float] | None:
        if known is not None and known[0] >= known[1]:
            raise ValueError(f"the first value must be the smaller one, got {list(known)}, such as [0, 4095]")
        return known

    @property
    def label_files(self) -> tuple[str, ...]:
        """The tables of labels, in their order; none where folders are the classes."""
        return () if self.labels is None else (self.labels,) if isinstance(self.labels, str) else self.labels

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of labels, in their order."""
        names = self.label_column
        return tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else names

    @property
    def wanted_task(self) -> str:
        """The task as far as the study says it; else "auto"."""
        return self.task if self.label_separator is None else "multilabel"

    @field_validator("labels", "label_column")
    @classmethod
    def _are_listed_once(cls, names: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if isinstance(names, tuple) and len({*names}) < max(1, len(names)):
            twice = next((name for name in names if names.count(name) > 1), None)
            raise ValueError(
                f'"{twice}" is listed twice; remove one' if twice else "the list is empty; name one"
            )
        return names

    @model_validator(mode="after")
    def _table_is_there(self) -> "DataSpec":
        for field in ("split_column", "strip", "prefix", "label_separator"):
            if getattr(self, field) is not None and self.labels is None:
                raise ValueError(
                    f"{field} is about a table of labels, and none is named; add labels, or remove it"
                )
        return self

    @model_validator(mode="after")
    def _separator_is_alone(self) -> "DataSpec":
        if self.label_separator is None:
            return self
        if len(self.label_columns) > 1:
            raise ValueError(
                f'label_separator = "{self.label_separator}" is for one column of labels, and label_column names '
                f"{len(self.label_columns)}; remove one of them"
            )
        if self.task not in ("auto", "multilabel"):
            raise ValueError(
                f'label_separator = "{self.label_separator}" means several labels of an image, and task is '
                f'"{self.task}"; remove one of them'
            )
        return self

    @field_validator("progressive")
    @classmethod
    def _progressive_grows(cls, stages: tuple[tuple[float, int], ...]) -> tuple[tuple[float, int], ...]:
        starts = [start for start, _ in stages]
        if stages and (starts[0] != 0.0 or starts != sorted(set(starts)) or starts[-1] >= 1.0):
            raise ValueError(
                f"the shares of the epochs must start at 0.0 and grow, below 1.0, got {starts}; "
                "for example [[0.0, 16], [0.5, 24], [0.8, 32]]"
            )
        sizes = [size for _, size in stages]
        if any(size < 1 for size in sizes):
            raise ValueError(f"image sizes must be at least 1, got {sizes}")
        if sizes != sorted(set(sizes)):
            raise ValueError(f"the image sizes must grow, got {sizes}; begin with the smallest")
        return stages

    @model_validator(mode="after")
    def _progressive_ends_at_the_image_size(self) -> "DataSpec":
        if self.progressive and self.image_size not in (None, self.progressive[-1][1]):
            raise ValueError(
                f"progressive ends at {self.progressive[-1][1]} but image_size is {self.image_size}; "
                "make them equal or leave image_size out"
            )
        return self
