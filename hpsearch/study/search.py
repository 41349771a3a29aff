"""The `[search]` table: ranges and choices, and the whitelist of what may be searched over; and `[sampler]`, which says
how they are proposed: by one of Optuna's samplers, or points that are given.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from hpsearch.errors import nearest
from hpsearch.study.augment import TRANSFORMS
from hpsearch.study.section import Bool, Float, Int, Section
from hpsearch.study.sentences import check_plain

Label = str | int | float | bool | None
"""A choice as Optuna stores it; lists and tables are stored as their JSON text."""

SEARCHABLE: dict[str, Literal["float", "int", "any"]] = {
    "learning_rate": "float",
    "batch_size": "int",
    "epochs": "int",
    "train.label_smoothing": "float",
    "train.optimizer": "any",
    "train.momentum": "float",
    "train.nesterov": "any",
    "train.beta2": "float",
    "train.weight_decay": "float",
    "train.lr_multipliers": "any",
    "train.layer_decay": "float",
    "train.stages": "any",
    "train.stages.head.epochs": "float",
    "train.stages.head.rate": "float",
    "train.stages.all.rate": "float",
    "train.schedule": "any",
    "train.cooldown": "float",
    "train.warmup_epochs": "float",
    "train.step_every": "float",
    "train.step_gamma": "float",
    "train.plateau_patience": "int",
    "train.clip_norm": "float",
    "train.precision": "any",
    "train.class_weights": "any",
    "train.sampling": "any",
    "train.ema_decay": "float",
    "train.micro_batch": "int",
    "train.drop_last": "any",
    "train.steps_per_epoch": "int",
    "train.repeat": "int",
    "train.last_epoch": "int",
    "data.subset": "float",
    "data.image_size": "int",
    "data.channels": "any",
    "data.augment": "any",
    "data.progressive": "any",
    "model.name": "any",
    "model.freeze": "any",
    "model.unfreeze_after": "int",
    "model.weights": "any",
}
"""Fields that leave trials comparable."""

_APART = "give each choice a study of its own, and look at them with `hpsearch compare`"
NO_YARDSTICK = {
    "train.loss": f"losses under different loss functions cannot be compared; {_APART}",
    "data.split": f"losses on different validation sets cannot be compared; {_APART}",
    "data.dataset": f"losses on different data cannot be compared; {_APART}",
}
"""Fields that would change what trials are measured by, and why each is refused."""

FREE_PREFIXES = ("model.args.", "train.args.optimizer.", "train.args.schedule.", "function.")
"""Names that end freely: arguments of builders, and a training function's own."""

OPEN_PREFIXES = (*FREE_PREFIXES, "data.augment.")
"""These, and a transform's parameters (`data.augment.elastic.alpha`)."""

_FARTHEST = 1e100
_MOST_STEPS = 1e15  # beyond which floats cannot tell the values apart

SHORT = {name: f"train.{name}" for name in ("learning_rate", "batch_size", "epochs")}


class Case(Section):
    """A condition, and what a field is sampled from where it holds.

    Attributes:
        when: for each field that the condition is about, the values at which it holds, as Optuna stores them.
    """

    when: dict[str, tuple[Label, ...]]
    entry: "FloatRange | IntRange | Choices"

    def __str__(self) -> str:
        clauses = (f"{name} = {' or '.join(map(written, values))}" for name, values in self.when.items())
        return " and ".join(clauses)


class Conditional(Section):
    """What a field is sampled from, in every trial or where a condition holds.

    Attributes:
        cases: where the field has a meaning, if not in every trial; the entry itself then spans them all.
    """

    cases: tuple[Case, ...] = Field((), repr=False)

    @model_serializer(mode="wrap")
    def _without_no_cases(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A study without conditions is stored, and digested, as it was before there were any.
        tree: dict[str, Any] = inner(self)
        if not self.cases:
            tree.pop("cases", None)
        return tree

    def parts(self) -> "list[tuple[Case | None, Entry]]":
        """Returns each case with what the field is sampled from there; one without a case if it always is."""
        assert isinstance(self, Entry)
        return [(case, case.entry) for case in self.cases] or [(None, self)]


class FloatRange(Conditional):
    """All numbers between `low` and `high`, evenly or on a logarithmic scale."""

    low: Float
    high: Float
    log: Bool = False
    step: Float | None = None

    @model_validator(mode="after")
    def _valid(self) -> "FloatRange":
        _check_range(self.low, self.high, self.log, self.step)
        return self

    def extremes(self) -> list[Any]:
        return [self.low, self.high]

    def decode(self, stored: Any) -> Any:
        return float(stored)

    def encode(self, value: Any) -> Label:
        """Returns a value as Optuna stores it.

        Raises:
            ValueError: it is not in the range.
        """
        return float(_in_range(self, value, (int, float)))

    @property
    def size(self) -> int | None:
        """How many values there are; None for a continuum."""
        if self.low == self.high:
            return 1
        return None if self.step is None else math.floor((self.high - self.low) / self.step + 1e-8) + 1


class IntRange(Conditional):
    """All whole numbers from `low` to `high`, in steps or on a logarithmic scale."""

    low: Int
    high: Int
    log: Bool = False
    step: Int | None = None

    @model_validator(mode="after")
    def _valid(self) -> "IntRange":
        _check_range(self.low, self.high, self.log, self.step)
        return self

    def extremes(self) -> list[Any]:
        return [self.low, self.high]

    def decode(self, stored: Any) -> Any:
        return int(stored)

    def encode(self, value: Any) -> Label:
        """Returns a value as Optuna stores it.

        Raises:
            ValueError: it is not in the range.
        """
        return int(_in_range(self, value, (int,)))

    @property
    def size(self) -> int:
        """How many values there are."""
        return (self.high - self.low) // (self.step or 1) + 1


class Choices(Conditional):
    """A list to choose from; values may be anything TOML can write, and "none" where a field may be off."""

    choices: tuple[Any, ...]

    @model_validator(mode="after")
    def _valid(self) -> "Choices":
        if not self.choices:
            raise ValueError("the list of choices is empty")
        check_plain(self.choices)
        labels = self.labels()
        # 1, 1.0 and true are equal to Python, and so to Optuna.
        choice, count = Counter(labels).most_common(1)[0]
        if count > 1:
            raise ValueError(f"the choice {choice!r} is listed twice; list each value once")
        return self

    def labels(self) -> tuple[Label, ...]:
        """Returns the choices as Optuna stores them.

        Tables are named by their sorted keys; those that differ in the order of their keys alone, which may have a
        meaning (`train.lr_multipliers`), by their keys as written.
        """
        names = [label(choice) for choice in self.choices]
        twins = {name for name, count in Counter(names).items() if isinstance(name, str) and count > 1}
        return tuple(
            json.dumps(choice) if name in twins and not isinstance(choice, str) else name
            for name, choice in zip(names, self.choices, strict=True)
        )

    def extremes(self) -> list[Any]:
        return list(self.choices)

    def decode(self, stored: Any) -> Any:
        return self.choices[self.labels().index(stored)]

    def encode(self, value: Any) -> Label:
        """Returns a choice as Optuna stores it.

        Raises:
            ValueError: it is not in the list.
        """
        found = [
            (json.dumps(choice) != json.dumps(value, default=str), place, name)
            for place, (choice, name) in enumerate(zip(self.choices, self.labels(), strict=True))
            # To Python true is 1.
            if choice == value and isinstance(choice, bool) == isinstance(value, bool)
        ]
        if found:  # of tables that differ in the order of their keys alone, the one that was written
            return min(found)[-1]
        raise ValueError(f"{value!r} is not in the list {', '.join(map(repr, self.choices))}")

    @property
    def size(self) -> int:
        """How many values there are."""
        return len(self.choices)


Entry = FloatRange | IntRange | Choices

# A case holds an entry, which may have cases.
FloatRange.model_rebuild()
IntRange.model_rebuild()
Choices.model_rebuild()


def space_rows(search: Mapping[str, Entry]) -> list[tuple[str, str, str]]:
    """Returns one row per hyperparameter, of a conditional one per case: name, values, how they are drawn and where."""
    return [
        (name, values, f"{drawn}{f', where {case}' if case else ''}")
        for name, entry in search.items()
        for case, (values, drawn) in ((case, _words(one)) for case, one in entry.parts())
    ]


def _words(entry: Entry) -> tuple[str, str]:
    """Returns the values of an entry, and how they are drawn."""
    match entry:
        case Choices():
            return ", ".join(map(str, entry.labels())), f"one of {len(entry.choices)}"
        case FloatRange() | IntRange():
            kind = "whole numbers" if isinstance(entry, IntRange) else "numbers"
            scale = ", logarithmic" if entry.log else f" in steps of {entry.step:g}" if entry.step else ""
            return f"{entry.low:g} to {entry.high:g}", f"{kind}{scale}"


def written(label: Label) -> str:
    """Returns a choice as a condition of the study file has it."""
    return label if isinstance(label, str) else json.dumps(label)


def label(choice: Any) -> Label:
    """Returns how a choice is stored: scalars as they are, lists and tables as JSON text."""
    if choice is None or isinstance(choice, str | int | float | bool):
        return choice
    # Sorted, since the study's stored form is: one read back from the database must give the same labels.
    return json.dumps(choice, sort_keys=True)


def parse_entry(name: str, raw: Any) -> Any:
    """Turns one raw entry of the `[search]` table into what pydantic validates.

    Raises:
        ValueError: the name is not searchable, or the entry is neither a range nor a list.
    """
    kind = searchable_kind(name)
    if isinstance(raw, FloatRange | IntRange | Choices):
        return raw
    if isinstance(raw, list | tuple):
        return Choices(choices=tuple(raw))
    if not isinstance(raw, Mapping):
        raise ValueError(f"{raw!r} is neither a range {{ low = ..., high = ... }} nor a list of choices")
    if "choices" in raw:
        return Choices.model_validate(raw)
    if kind == "any" and not name.startswith(OPEN_PREFIXES):
        raise ValueError("takes a list of choices, not a range")
    whole = all(isinstance(raw.get(key), int) for key in ("low", "high")) and isinstance(
        raw.get("step", 1), int | None
    )
    if kind == "int" or (kind == "any" and whole):
        return IntRange.model_validate(raw)
    return FloatRange.model_validate(raw)


def searchable_kind(name: str) -> Literal["float", "int", "any"]:
    """Returns what kind of number a searchable field is.

    Raises:
        ValueError: the field is not searchable.
    """
    if name in SEARCHABLE:
        return SEARCHABLE[name]
    if name.startswith("data.augment."):
        return _transform_kind(name.removeprefix("data.augment."))
    if name.startswith(FREE_PREFIXES) and not name.endswith("."):
        return "any"
    if name in NO_YARDSTICK:
        raise ValueError(f"is not searchable: {NO_YARDSTICK[name]}")
    if name.removeprefix("train.") in SHORT:
        raise ValueError(f'write "{name.removeprefix("train.")}" instead')
    inner = [field for field in SEARCHABLE if field.startswith(f"{name}.")]
    if inner:
        raise ValueError(
            f'is a table, not a field; write a dotted name in quotes, such as "{inner[0]}" = [...]'
        )
    known = [*SEARCHABLE, "model.args.<argument>", "data.augment.<transform>.<parameter>", "function.<name>"]
    own = [field for field in SEARCHABLE if field.rpartition(".")[2] == name.rpartition(".")[2]]
    raise ValueError(f"is not searchable; {nearest(own[0] if own else name, known)}")


def _transform_kind(name: str) -> Literal["float", "int"]:
    """Returns what kind of number a transform's parameter is, so that whole limits do not make it whole."""
    transform, _, parameter = name.partition(".")
    if transform not in TRANSFORMS:
        raise ValueError(f'unknown transform "{transform}"; {nearest(transform, TRANSFORMS)}')
    fields = {key: field for key, field in TRANSFORMS[transform].model_fields.items() if key != "name"}
    if parameter not in fields:
        raise ValueError(f'"{transform}" has no parameter "{parameter}"; {nearest(parameter, fields)}')
    return "int" if fields[parameter].annotation is int else "float"


def _in_range(entry: FloatRange | IntRange, value: Any, kinds: tuple[type, ...]) -> Any:
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    fits = is_number and entry.low <= value <= entry.high
    if fits and entry.step is not None:
        steps = (value - entry.low) / entry.step
        fits = abs(steps - round(steps)) < 1e-8
    if not fits:
        steps_of = "" if entry.step is None else f" in steps of {entry.step:g}"
        raise ValueError(f"{value!r} is not in {entry.low:g} to {entry.high:g}{steps_of}")
    return value


def _check_range(low: float, high: float, log: bool, step: float | None) -> None:
    if low > high:
        raise ValueError(f"low = {low} is above high = {high}; swap them")
    if log and low <= 0:
        raise ValueError(f"low = {low} must be above 0 on a logarithmic scale; raise it or remove log = true")
    if log and step is not None:
        raise ValueError(f"log = true and step = {step} are mutually exclusive; remove one of them")
    if step is not None and step <= 0:
        raise ValueError(f"step must be above 0, got {step}")
    # Sums, differences and logarithms of what is farther away overflow.
    for name, limit in (("low", low), ("high", high)):
        if abs(limit) > _FARTHEST or (log and limit < 1 / _FARTHEST):
            raise ValueError(
                f"{name} = {limit} is too far from 1 to be searched; write a number between {1 / _FARTHEST:g} and "
                f"{_FARTHEST:g}"
            )
    if step is not None and (high - low) / max(step, 1e-308) > _MOST_STEPS:
        raise ValueError(
            f"step = {step} makes more than {_MOST_STEPS:.0e} values from {low} to {high}; write a larger one"
        )
    if step is not None:
        count = math.floor((high - low) / step + 1e-9)
        if abs(low + count * step - high) > 1e-9 * max(abs(high), step):
            last = f"{low + count * step:.12g}"
            raise ValueError(f"step = {step} does not lead from {low} to high = {high}; write high = {last}")


class GivenPoint(Section):
    """One trial that is given rather than sampled: its hparams, as Optuna stores them, and words about it."""

    hparams: dict[str, Label]
    attrs: dict[str, Label] = Field(default_factory=dict)


class SamplerSpec(Section):
    """Which of Optuna's samplers proposes hyperparameters, or which `points` are tried."""

    name: Literal["tpe", "gp", "qmc", "random", "grid", "points"] = "tpe"
    startup_trials: Int = Field(10, ge=1)
    """`tpe` and `gp`: trials sampled at random before the model of past trials is trusted."""
    points: tuple[GivenPoint, ...] = ()
    """`points`: the trials in order; more may be added at the end. `hpsearch confirm` uses it."""

    @model_validator(mode="after")
    def _points_suit_the_name(self) -> "SamplerSpec":
        if bool(self.points) != (self.name == "points"):
            raise ValueError('points are for the sampler "points", which needs at least one')
        return self

    def attrs(self, number: int) -> Mapping[str, Label]:
        """Returns what is said of a trial that was given as a point, for its user attributes."""
        return self.points[number % len(self.points)].attrs if self.points else {}
