"""The tables `[early_stopping]` and `[pruner]`: when a trial ends before its last epoch.

Both have fields that only some choices use (`alpha` belongs to `gl` and `pq`). A field that the choice does
not use is refused when it was written, and left out when the table is stored: so what is stored can be read
back, and the digest of a study with `criterion = "patience"` does not depend on fields of other criteria.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from hpsearch.errors import nearest
from hpsearch.study.section import Float, Int, Section

OutcomeSwitch = Literal["auto", "pruned", "complete"]

DEFAULT_ALPHA: Mapping[str, float] = {"gl": 5.0, "pq": 0.75}
"""Prechelt (1998) compares gl with alpha from 1 to 5 and pq with alpha from 0.5 to 3."""

DEFAULT_STRIP = 5
"""Epochs in a strip, as in Prechelt (1998)."""

VAL_LOSS = "val_loss"

_CRITERIA: Mapping[str, tuple[str, ...]] = {
    "patience": ("patience", "min_delta"),
    "gl": ("alpha",),
    "pq": ("alpha", "strip"),
    "up": ("strip", "successive"),
    "overfit": ("epochs",),
}
_PRUNERS: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "median": ("startup_trials", "warmup_epochs", "interval_epochs", "min_trials"),
    "percentile": ("startup_trials", "warmup_epochs", "interval_epochs", "min_trials", "percentile"),
    "asha": ("min_epochs", "reduction_factor"),
    "hyperband": ("min_epochs", "reduction_factor", "max_epochs"),
}


def require_at_least(name: str, value: float, least: float) -> None:
    """Refuses a number that is too small, NaN, and what is no number.

    Raises:
        ValueError: `value` is not `least` or more.
    """
    if not isinstance(value, int | float) or not value >= least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def require_positive(name: str, value: float) -> None:
    """Refuses zero, negative numbers, NaN, and what is no number.

    Raises:
        ValueError: `value` is not above 0.
    """
    if not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}")


def _one_or_more(value: int, info: ValidationInfo) -> int:
    require_at_least(str(info.field_name), value, 1)
    return value


def _two_or_more(value: int, info: ValidationInfo) -> int:
    require_at_least(str(info.field_name), value, 2)
    return value


def _not_negative(value: float, info: ValidationInfo) -> float:
    require_at_least(str(info.field_name), value, 0)
    return value


def _positive(value: float, info: ValidationInfo) -> float:
    require_positive(str(info.field_name), value)
    return value


def _percent(value: float, info: ValidationInfo) -> float:
    if not 0 < value < 100:
        raise ValueError(f"{info.field_name} must lie between 0 and 100, got {value}")
    return value


def _epochs_or_share(value: float, info: ValidationInfo) -> float:
    require_at_least(str(info.field_name), value, 0)
    if isinstance(value, float) and value >= 1:
        raise ValueError(
            f"{info.field_name} = {value} is not a share of the trial's epochs, which must be in [0, 1); "
            f"write {info.field_name} = {math.ceil(value)} for a number of epochs"
        )
    return value


def _known(*names: str) -> BeforeValidator:
    """Refuses a name that is not among `names`, and says the nearest one."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if value not in names:
            raise ValueError(f"{info.field_name} {value!r} is unknown; {nearest(str(value), names)}")
        return value

    return BeforeValidator(check)


def _told(**bounds: float) -> Any:
    """Tells editors the bounds that a validator of ours holds."""
    return Field(json_schema_extra=dict(bounds))


_Count = Annotated[Int, AfterValidator(_one_or_more), _told(minimum=1)]
_CountOrZero = Annotated[Int, AfterValidator(_not_negative), _told(minimum=0)]
_Factor = Annotated[Int, AfterValidator(_two_or_more), _told(minimum=2)]
_Positive = Annotated[Float, AfterValidator(_positive), _told(exclusiveMinimum=0)]
_NotNegative = Annotated[Float, AfterValidator(_not_negative), _told(minimum=0)]
_Percent = Annotated[Float, AfterValidator(_percent), _told(exclusiveMinimum=0, exclusiveMaximum=100)]
_Warmup = Annotated[Int | Float, AfterValidator(_epochs_or_share)]


class _ChoiceSection(Section):
    """A table in which one field, the choice, decides which of the others count."""

    _selector: ClassVar[str] = "name"
    _uses: ClassVar[Mapping[str, tuple[str, ...]]]

    def _choice(self) -> str:
        return str(getattr(self, self._selector))

    def _unused(self) -> set[str]:
        used = self._uses.get(self._choice(), ())
        return {field for fields in self._uses.values() for field in fields} - set(used)

    @model_validator(mode="after")
    def _refuse_what_the_choice_does_not_use(self) -> Self:
        for field in sorted(self._unused() & self.model_fields_set):
            if getattr(self, field) is not None:
                raise ValueError(self._no_use(field))
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Says which fields each choice does not use; the default choice counts where none is written."""
        schema = handler(core_schema)
        default = cls.model_fields[cls._selector].default
        every = {field for fields in cls._uses.values() for field in fields}
        refused = {choice: every - set(used) for choice, used in cls._uses.items()}
        unlisted: dict[str, Any] = {  # "none", or a list of criteria
            "if": {"properties": {cls._selector: {"enum": [*cls._uses]}}},
            "else": {"properties": dict.fromkeys(sorted(every), False)},
        }
        handler.resolve_ref_schema(schema)["allOf"] = [
            unlisted,
            *(
                {
                    "if": {
                        "properties": {cls._selector: {"const": choice}},
                        **({} if choice == default else {"required": [cls._selector]}),
                    },
                    "then": {"properties": dict.fromkeys(sorted(fields), False)},
                }
                for choice, fields in refused.items()
            ),
        ]
        return schema

    def _no_use(self, field: str) -> str:
        owners = ", ".join(f'"{choice}"' for choice, fields in self._uses.items() if field in fields)
        chosen = f'{self._selector} = "{self._choice()}"'
        return f"{field} has no effect with {chosen} (it belongs to {owners}); remove it"

    def _unstored(self) -> set[str]:
        return self._unused()

    @model_serializer(mode="wrap")
    def _store_what_counts(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        stored: dict[str, Any] = handler(self)
        return {name: value for name, value in stored.items() if name not in self._unstored()}


class _CriterionParameters(_ChoiceSection):
    _uses = _CRITERIA

    patience: _Count = 8
    """`patience`: epochs without improvement. 3 lost .046 of error on 265 real curves, 8 lost .0014."""
    min_delta: _NotNegative = 0.0
    """`patience`: an epoch counts as better when it is better by more than this."""
    alpha: _Positive | None = None
    """`gl`: percent above the best validation loss (default 5.0); `pq`: generalization loss per progress
    (default 0.75)."""
    strip: _Count = DEFAULT_STRIP
    """`pq` and `up`: epochs in a strip; they judge at the end of strips only."""
    successive: _Count = 3
    """`up`: strips in a row over which the validation loss rose."""
    epochs: _Count = 5
    """`overfit`: epochs in a row in which training loss fell and validation loss rose."""

    @model_validator(mode="before")
    @classmethod
    def _alpha_of_the_criterion(cls, written: Any) -> Any:
        # Here and not where it is used, so that writing the default does not change a study's digest.
        if not isinstance(written, Mapping) or written.get("alpha") is not None:
            return written
        alpha = DEFAULT_ALPHA.get(str(written.get(cls._selector)))
        return written if alpha is None else {**written, "alpha": alpha}


class CriterionTable(_CriterionParameters):
    """One criterion with its parameters: `{ name = "gl", alpha = 10.0 }`."""

    name: Annotated[Literal["patience", "gl", "pq", "up", "overfit"], _known(*_CRITERIA)]

    def parameters(self) -> dict[str, Any]:
        """Returns the parameters that this criterion uses, by the names of the paper."""
        return {field: getattr(self, field) for field in self._uses[self.name]}


def _form(value: Any) -> str:
    return "tuple" if isinstance(value, list | tuple) else "str"


class EarlyStopping(_CriterionParameters):
    """When a trial stops because of its own curve: one criterion, or a list of which the first to fire wins.

    >>> EarlyStopping(criterion="gl").tables()[0].parameters()
    {'alpha': 5.0}
    """

    _selector = "criterion"

    criterion: Annotated[
        Annotated[
            Literal["patience", "gl", "pq", "up", "overfit", "none"], _known(*_CRITERIA, "none"), Tag("str")
        ]
        | Annotated[tuple[CriterionTable, ...], Tag("tuple")],
        Discriminator(_form),
    ] = "patience"
    metric: str = VAL_LOSS
    """What the criteria look at: the validation loss, since it moves before the share of errors does; or any
    metric that the loop reports, the study's own or one whose better direction is known. Where more is better,
    its negative is looked at. A training function that yields no `val_loss` is judged by `study.metric`."""
    warmup: _Warmup = 0
    """Epochs (3) or share of the trial's epochs (0.25) in which nothing is stopped: with an annealed learning
    rate much is gained at the end."""
    outcome: OutcomeSwitch = "auto"
    """State of a stopped trial. "auto": COMPLETE when its score is competitive, otherwise PRUNED."""

    def tables(self) -> tuple[CriterionTable, ...]:
        """Returns the criteria as tables in either form of writing; none for `criterion = "none"`."""
        if isinstance(self.criterion, tuple):
            return self.criterion
        if self.criterion == "none":
            return ()
        used = {field: getattr(self, field) for field in self._uses[self.criterion]}
        return (CriterionTable(name=self.criterion, **used),)

    @model_validator(mode="after")
    def _list_is_not_empty(self) -> Self:
        if self.criterion == ():
            raise ValueError('criterion is an empty list; write criterion = "none" to stop no trial early')
        return self

    @model_validator(mode="after")
    def _metric_is_looked_at(self) -> Self:
        if self.criterion == "none" and self.metric != VAL_LOSS:
            raise ValueError('metric has no effect with criterion = "none"; remove it')
        return self

    def _unstored(self) -> set[str]:
        # So that studies which began before there was a choice keep their digest.
        return super()._unstored() | ({"metric"} if self.metric == VAL_LOSS else set())

    def _no_use(self, field: str) -> str:
        if isinstance(self.criterion, tuple):
            return f"{field} stands beside a list of criteria; write it into the table of its criterion"
        return super()._no_use(field)


class Pruner(_ChoiceSection):
    """When a trial stops because others were better at the same epoch: one of Optuna's pruners.

    They compare trials at equal epochs, whatever number of epochs each was given. That is fair only as far as
    epoch 10 of 20 resembles epoch 10 of 50, which an annealed learning rate makes doubtful.
    """

    _uses = _PRUNERS

    name: Annotated[Literal["none", "median", "percentile", "asha", "hyperband"], _known(*_PRUNERS)] = "none"
    startup_trials: _CountOrZero = 5
    """`median` and `percentile`: finished trials before anything is pruned."""
    warmup_epochs: _CountOrZero = 5
    """`median` and `percentile`: epochs of every trial in which it is not pruned."""
    interval_epochs: _Count = 1
    """`median` and `percentile`: epochs between two comparisons."""
    min_trials: _Count = 5
    """`median` and `percentile`: finished trials that must have reached this epoch. With sampled epochs few
    reach the late ones, and the median of one is no yardstick (Optuna's own default is 1)."""
    percentile: _Percent = 25.0
    """`percentile`: the best share, in percent, that continues; 50 is `median`."""
    min_epochs: _Count = 1
    """`asha` and `hyperband`: epochs before the first comparison."""
    max_epochs: _Count | None = None
    """`hyperband`: epochs of the longest trial; the default is the most that the study can sample."""
    reduction_factor: _Factor = 3
    """`asha` and `hyperband`: one in so many advances to the next comparison, at so many times the epochs."""

    @model_validator(mode="after")
    def _epochs_in_order(self) -> Self:
        if self.max_epochs is not None and self.min_epochs > self.max_epochs:
            raise ValueError(
                f"min_epochs must be at most max_epochs ({self.max_epochs}), got {self.min_epochs}"
            )
        return self
