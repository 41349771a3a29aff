"""The `[model]`, `[train]`, `[checkpoint]` and `[fit]` tables: what one trial trains, and how."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from hpsearch.study.direction import Direction
from hpsearch.study.section import Bool, Float, Int, OrNone, OrOwn, Seconds, Section, is_own
from hpsearch.study.sentences import FieldErrors, check_plain
from hpsearch.text import counted

NUMBER_LOSSES = ("mse", "l1", "huber")
"""Losses for targets that are numbers; all of `train.loss` are for classes."""

LABEL_LOSSES = ("binary_cross_entropy",)
"""Losses for images that may have several labels."""


IMAGENET = "imagenet"
"""As `model.weights`: the best that are published for the network; as `data.normalize`: their mean and deviation."""

TIMM = "timm/"
"""Begins the names of timm's networks."""

_FIRST_STAGE = 0.2  # share of the epochs, where a study does not say it

Count = Annotated[Int, Field(ge=1)]
Positive = Annotated[Float, Field(gt=0)]


class ModelSpec(Section):
    """The network. All fields are searchable; a field whose default is None takes "none" too."""

    name: str = "cnn"
    """`mlp`, `cnn`, any torchvision classifier (`resnet18`, ...), `timm/` and a name of timm's (`timm/resnet26d`), or
    `my_package.nets:build`."""
    args: Annotated[dict[str, Any], AfterValidator(check_plain)] = Field(default_factory=dict)
    """Keyword arguments of the builder, such as `width = 32`; each is searchable as `model.args.width`."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameter names that are not trained, such as `["layer1.*"]`. They keep what they learned
    elsewhere (`weights`), or their random values. Their BatchNorm layers stay in evaluation mode, and they
    cost no gradient and no optimizer state."""
    unfreeze_after: Annotated[Count | None, OrNone] = None
    """Epochs after which everything is trained: first the new last layer, which at its random start would
    otherwise shake the good weights below it. None: what is frozen stays frozen. Without `freeze` it does nothing."""
    weights: Annotated[str | None, OrNone] = None
    """`"imagenet"` for the best weights that torchvision or timm publish for the network, or a local `.safetensors` or
    `.pth` file to start from, such as one of a network that has seen more images, also without its last layers. A last
    layer of another size, or one that is not there, starts anew. None: random weights. What is in the file belongs
    to the data that a study begins with: another content is noticed when the study continues."""


class OwnMetric(Section):
    """A metric of your own: what builds it, and which direction is better."""

    build: Annotated[str, OrOwn()]
    """`my_package.parts:build`, a function that returns one of (outputs, targets) of the whole validation part."""
    direction: Direction


Arguments = Annotated[dict[str, Any], AfterValidator(check_plain)]


class OwnArgs(Section):
    """Keyword arguments of builders of your own, by what they build; `train.args.optimizer.<argument>` and
    `train.args.schedule.<argument>` are searchable."""

    optimizer: Arguments = Field(default_factory=dict)
    schedule: Arguments = Field(default_factory=dict)
    loss: Arguments = Field(default_factory=dict)
    metrics: dict[str, Arguments] = Field(default_factory=dict)
    """By the metric's name."""


class Stage(Section):
    """One of a trial's stages, by what is trained in it."""

    name: Literal["head", "all"]
    """`head`: the last layer, and whatever else starts anew beside the file of `model.weights`; all below stays as it
    is, and computes as it does in validation. `all`: everything."""
    epochs: Annotated[Positive | None, OrNone] = None
    """Epochs, or share of the trial's epochs (below 1). None: of the last stage all that are left, of the first a
    fifth."""
    rate: Float = Field(1.0, gt=0)
    """Factor on the learning rate."""


def as_stage(value: Any) -> Any:
    """Returns the table that a stage's name alone stands for; anything else as it is."""
    return {"name": value} if isinstance(value, str) else value


class TrainSpec(Section):
    """The training loop. All but `loss`, `metrics`, `args`, `tf32`, `compile`, `threads` and `function` are
    searchable (of `args`, see there); a field whose default is None takes "none" too, also among the choices of a
    search. `optimizer`, `schedule` and `loss` take `my_package.parts:build` too, a function of your own
    (`hpsearch.training.own` has what it is given)."""

    learning_rate: Float = Field(0.05, gt=0)
    """Size of a step against the gradient. Too small learns too slowly, too large jumps over the minimum or
    diverges; between them lie factors of ten, so it is searched on a logarithmic scale."""
    batch_size: Int | Literal["full"] = 64
    """Samples per optimizer step: 1, any number, or "full" for the whole training part. The gradient of a few
    samples is a noisy guess of the whole one, but many guesses are made in the time of one certainty."""
    epochs: Int = Field(20, ge=1)
    """Passes over the training part."""
    last_epoch: Annotated[Count | None, OrNone] = None
    """Epoch after which training ends although the learning rate's schedule spans `epochs`; `hpsearch refit`
    sets it. None: the last of them."""
    loss: Annotated[str, OrOwn("cross_entropy", "binary_cross_entropy", "nll", "mse", "l1", "huber")] = (
        "cross_entropy"
    )
    """What training makes small: `hpsearch.training.losses` has the formulas. Numbers as targets take `mse`,
    `l1` and `huber`, several labels of an image `binary_cross_entropy`. Not searchable: under another loss, losses
    cannot be compared."""
    metrics: dict[str, OwnMetric] = Field(default_factory=dict)
    """Metrics of your own by name: `val_dice = { build = "my_package.parts:dice", direction = "maximize" }`. They are
    reported for each epoch, and `study.metric` and `early_stopping.metric` may name them."""
    args: OwnArgs = OwnArgs()
    class_weights: Annotated[Literal["balanced"] | tuple[Float, ...] | None, OrNone] = None
    """Weight of each class in the *training* loss, in the order of the classes, or "balanced": rare classes
    then count as much as common ones. The validation loss is always unweighted. Where images may have several
    labels, it is the weight of an image that has the label, beside 1 for one that has it not; "balanced" lets both
    count alike."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """Which training images an epoch goes through: "shuffled" each once, "balanced" as many, each drawn from a class
    that is drawn first, so that rare classes are seen as often as common ones and their images again and again.
    Beside `class_weights` it would count them twice."""
    label_smoothing: Float = Field(0.0, ge=0, lt=1)
    """Share of each target that is spread over all classes, so that no output need grow without end to be
    certain. In training alone: the validation loss is always unsmoothed."""
    optimizer: Annotated[str, OrOwn("sgd", "adam", "adamw")] = "sgd"
    """How a step follows from the gradients: `hpsearch.training.optimizers` has the formulas. Adam's learning
    rates are smaller than SGD's, by ten to a hundred times."""
    momentum: Float = Field(0.9, ge=0, lt=1)
    """SGD's momentum, Adam's beta1: how much of the last direction is kept."""
    nesterov: Bool = False
    """SGD: steps by the gradient as if one had gone on already."""
    beta2: Float = Field(0.999, ge=0, lt=1)
    """Adam: how much of the gradients' mean square so far is kept."""
    weight_decay: Float = Field(0.0, ge=0)
    """Pulls all weights towards 0: large ones follow the training images too closely. With `adamw` beside the
    gradient, else inside it."""
    lr_multipliers: dict[str, Float] = Field(default_factory=dict)
    """Learning rates by parameter name pattern, as multiples: `{ "fc.*" = 10.0 }` lets a new last layer learn
    faster than pretrained ones."""
    layer_decay: Float = Field(1.0, gt=0, le=1)
    """Factor on the learning rate from each block of the network to the one below it; the last layer has the whole
    rate (`hpsearch.training.layers` says what a block is). 1: all learn equally fast."""
    stages: tuple[Annotated[Stage, BeforeValidator(as_stage)], ...] = ()
    """What is trained first, and what then: `["head", "all"]`, or a table in place of a name, such as
    `{ name = "all", rate = 0.3 }`. The schedule spans all stages. Early stopping judges the last of them alone."""
    schedule: Annotated[str, OrOwn("constant", "cosine", "step", "plateau", "one_cycle", "wsd")] = "cosine"
    """The learning rate over the trial's own epochs: large steps first, small ones at the end, when the
    minimum is near (`hpsearch.training.optim` has the table). With `wsd` (warm-up, stable, decay) and `constant` a
    short trial is the beginning of a long one."""
    cooldown: Float = Field(0.2, gt=0, le=1)
    """`wsd`: share of the trial's epochs at its end in which the learning rate falls to 0."""
    warmup_epochs: Float = Field(0.0, ge=0)
    """Epochs (also a part of one) over which the learning rate grows linearly from 0."""
    step_every: Float = Field(0.3, gt=0)
    """`step`: share of the trial's epochs (below 1) or epochs between two steps."""
    step_gamma: Float = Field(0.1, gt=0, lt=1)
    """`step` and `plateau`: factor by which the learning rate falls."""
    plateau_patience: Int = Field(3, ge=0)
    """`plateau`: epochs without a lower validation loss before the learning rate falls."""
    clip_norm: Annotated[Positive | None, OrNone] = None
    """Largest 2-norm of the whole gradient: a longer one is shortened. None: no limit."""
    precision: Literal["auto", "float16", "bfloat16", "float32", "float64"] = "auto"
    """Number type of the costly products. Fewer bits are faster where the device has them, and rounder;
    `auto` is bfloat16 on GPUs that compute it, float32 elsewhere."""
    tf32: Bool = True
    """Lets float32 matrix products on NVIDIA GPUs use 10-bit mantissas."""
    compile: Literal["auto", "on", "off"] = "auto"
    """`on` runs the model through `torch.compile`: faster batches on a GPU after seconds to minutes of
    compiling in each trial. `auto` does not: most trials of a search are too short to win that back."""
    ema_decay: Annotated[Annotated[Float, Field(gt=0, lt=1)] | None, OrNone] = None
    """Validates (and keeps) an exponential moving average of the weights with this decay per step: it lies
    nearer to a minimum than weights that jump about it. None: the weights themselves."""
    micro_batch: Annotated[Count | None, OrNone] = None
    """Samples per forward pass; gradients are accumulated to the batch size, so that a large batch fits into a
    small memory. 2 may mean 3 once in a batch, since BatchNorm cannot train on a single one. None: the whole
    batch, in smaller pieces where it does not fit."""
    drop_last: Bool = False
    """Drops the last short batch of an epoch; otherwise it is trained, and one of a single sample is merged
    into the batch before (BatchNorm cannot train on one sample)."""
    steps_per_epoch: Annotated[Count | None, OrNone] = None
    """Cuts an epoch of a very large data set into this many steps. None: the whole training part."""
    threads: Int = Field(1, ge=1)
    """CPU threads per worker; part of the trial, because sums in another order differ in the last bit."""
    repeat: Annotated[Annotated[Int, Field(ge=0)] | None, OrNone] = None
    """Trials of a study with the same number here draw the same initial weights, data order and augmentation,
    so that they can be compared in pairs; `hpsearch confirm` sets it. None: each trial draws its own."""
    function: str | None = None
    """Your own training loop, `my_package.train:train`, a generator that yields a dict per epoch."""

    @property
    def last_stage_after(self) -> int:
        """Epochs before the last stage; 0 with a single one, or none."""
        if len(self.stages) < 2:
            return 0
        first = self.stages[0].epochs or _FIRST_STAGE
        return round(first) if first >= 1 else max(1, min(self.epochs - 1, round(first * self.epochs)))

    @property
    def has_stretched_stages(self) -> bool:
        """Whether the first of two stages is a share of the trial's epochs."""
        return len(self.stages) > 1 and (self.stages[0].epochs or _FIRST_STAGE) < 1

    def stage_at(self, epoch: int) -> Stage | None:
        """Returns the stage to which an epoch belongs, from 1; None without stages."""
        if not self.stages:
            return None
        return self.stages[-1] if epoch > self.last_stage_after else self.stages[0]

    @property
    def ends_after(self) -> int:
        """The epoch after which a trial ends by itself."""
        return self.epochs if self.last_epoch is None else min(self.last_epoch, self.epochs)

    @property
    def shared(self) -> float:
        """The share of its epochs, from the first on, in which a trial's rate is that of a trial of more epochs."""
        if self.has_stretched_stages:
            return 0.0
        if self.schedule == "wsd":
            return 1 - self.cooldown
        whole_steps = self.schedule == "step" and self.step_every >= 1
        return 1.0 if self.schedule in ("constant", "plateau") or whole_steps else 0.0

    @field_validator("metrics")
    @classmethod
    def _metrics_are_named(cls, metrics: dict[str, OwnMetric]) -> dict[str, OwnMetric]:
        for name in metrics:
            if not re.fullmatch(r"val_\w+", name):
                raise ValueError(
                    f'"{name}" is not a valid name; use letters, digits and _, beginning with val_'
                )
        return metrics

    @model_validator(mode="after")
    def _own_loop_has_its_own(self) -> "TrainSpec":
        if self.function is None:
            return self
        given = {field: getattr(self, field) for field in ("optimizer", "schedule", "loss")}
        own = [field for field, name in given.items() if is_own(name)] + ["metrics"] * bool(self.metrics)
        own += ["stages"] * bool(self.stages) + ["layer_decay"] * (self.layer_decay < 1)
        if own:
            raise FieldErrors(
                [
                    (
                        own[0],
                        f'is for the built-in loop, and train.function = "{self.function}" replaces it; remove it',
                    )
                ]
            )
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> "TrainSpec":
        names = [stage.name for stage in self.stages]
        sentence = ""
        if names not in ([], ["head"], ["all"], ["head", "all"]):
            sentence = f'are {", ".join(names)}; write ["head", "all"], or one of the two'
        elif self.stages and self.stages[-1].epochs is not None:
            sentence = f'"{names[-1]}" is the last and has all epochs that are left; remove its epochs'
        elif self.last_stage_after >= self.epochs:
            taken = counted(self.last_stage_after, "epoch")
            sentence = (
                f'"head" takes {taken} of {self.epochs}, which leaves none for "all"; lower its epochs, or raise '
                "the trial's"
            )
        if sentence:
            raise FieldErrors([("stages", sentence)])
        return self

    @field_validator("batch_size")
    @classmethod
    def _batch_size_positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError(f'must be at least 1 or "full", got {value}')
        return value

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "TrainSpec":
        if self.nesterov and self.momentum == 0:
            raise ValueError(
                "nesterov = true needs a momentum above 0, got 0; raise it or set nesterov = false"
            )
        return self


class CheckpointSpec(Section):
    """How often a running trial is saved and which weights are kept after its end."""

    every_seconds: Seconds = Field(0.0, ge=0)
    """0 saves every epoch; more saves less often, and a crash may then cost that much training."""
    keep: Literal["best", "all"] | Int = "best"
    """Weights kept of finished trials: of the best one, of all, or of the k best."""

    @field_validator("keep")
    @classmethod
    def _keep_positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError(f'must be "best", "all" or at least 1, got {value}')
        return value


class FitSpec(Section):
    """When a trial is called `underfit`, `good` or `overfit` (see `hpsearch.search.fit` for the whole rule)."""

    overfit_rise: Float = Field(0.1, gt=0)
    """Overfit: the validation loss ends by this share above its lowest, while the training loss went on
    falling."""
    overfit_gap: Float = Field(0.25, gt=0)
    """Overfit too: the validation loss ends above the training loss by this share of the loss of guessing, and
    no longer falls."""
    underfit_slope: Float = Field(0.01, gt=0)
    """Underfit: the lowest validation loss so far still fell by this share of itself per epoch over the last
    fifth of the epochs."""
    underfit_ratio: Float = Field(0.5, gt=0, lt=1)
    """Underfit too: neither training nor validation loss came below this share of the loss of guessing."""
    least_change: Float = Field(0.01, ge=0)
    """Rises and falls of the validation loss by less than this share of the loss of guessing count as none:
    a network that is nearly always right has a tiny loss, which a single picture moves."""
