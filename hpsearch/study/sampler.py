"""How hyperparameters are proposed: one of Optuna's samplers, or points that are given."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from hpsearch.study.search import Label
from hpsearch.study.section import Int, Section


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
