"""The `[model]`, `[train]`, `[checkpoint]` and `[fit]` tables: what one trial trains, and how."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from hpsearch.spec.base import Bool, Float, Int, Seconds, Section
from hpsearch.spec.sentences import check_plain

NUMBER_LOSSES = ("mse", "l1", "huber")
"""Losses for targets that are numbers; all of `train.loss` are for classes."""


class ModelSpec(Section):
    """The network. Searchable: `model.name`, `model.freeze`, `model.unfreeze_after`, `model.args.*`."""

    name: str = "cnn"
    """`mlp`, `cnn`, any torchvision classifier (`resnet18`, ...), or `my_package.nets:build`."""
    args: Annotated[dict[str, Any], AfterValidator(check_plain)] = Field(default_factory=dict)
    """Keyword arguments of the builder, such as `width = 32`; each is searchable as `model.args.width`."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameter names that are not trained, such as `["layer1.*"]`. Their BatchNorm layers
    stay in evaluation mode, and they cost no gradient and no optimizer state."""
    unfreeze_after: Int | None = Field(None, ge=1)
    """Epochs after which everything is trained."""
    weights: str | None = None
    """Local `.safetensors` or `.pth` file to start from; a last layer of another size starts anew."""


class TrainSpec(Section):
    """The training loop. All but `loss`, `threads`, `function` and `class_weights` are searchable."""

    learning_rate: Float = Field(0.05, gt=0)
    batch_size: Int | Literal["full"] = 64
    """Samples per optimizer step: 1, any number, or "full" for the whole training part."""
    epochs: Int = Field(20, ge=1)
    loss: Literal["cross_entropy", "binary_cross_entropy", "nll", "mse", "l1", "huber"] = "cross_entropy"
    class_weights: Literal["balanced"] | tuple[Float, ...] | None = None
    """Weight of each class in the *training* loss; the validation loss is always unweighted."""
    label_smoothing: Float = Field(0.0, ge=0, lt=1)
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: Float = Field(0.9, ge=0, lt=1)
    """SGD's momentum, Adam's beta1."""
    nesterov: Bool = False
    beta2: Float = Field(0.999, ge=0, lt=1)
    weight_decay: Float = Field(0.0, ge=0)
    lr_multipliers: dict[str, Float] = Field(default_factory=dict)
    """Learning rates by parameter name pattern, as multiples: `{ "fc.*" = 10.0 }`."""
    schedule: Literal["constant", "cosine", "step", "plateau", "one_cycle"] = "cosine"
    warmup_epochs: Float = Field(0.0, ge=0)
    """Epochs (also a part of one) over which the learning rate grows linearly from 0."""
    step_every: Float = Field(0.3, gt=0)
    """`step`: share of the trial's epochs (below 1) or epochs between two steps."""
    step_gamma: Float = Field(0.1, gt=0, lt=1)
    """`step` and `plateau`: factor by which the learning rate falls."""
    plateau_patience: Int = Field(3, ge=0)
    clip_norm: Float | None = Field(None, gt=0)
    """Largest 2-norm of the whole gradient."""
    precision: Literal["auto", "float16", "bfloat16", "float32", "float64"] = "auto"
    tf32: Bool = True
    """Lets float32 matrix products on NVIDIA GPUs use 10-bit mantissas."""
    compile: Literal["auto", "on", "off"] = "auto"
    """`on` runs the model through `torch.compile`: faster batches on a GPU after seconds to minutes of
    compiling in each trial. `auto` does not: most trials of a search are too short to win that back."""
    ema_decay: Float | None = Field(None, gt=0, lt=1)
    """Validates (and keeps) an exponential moving average of the weights with this decay per step."""
    micro_batch: Int | None = Field(None, ge=1)
    """Samples per forward pass; gradients are accumulated to the batch size. None: the whole batch."""
    drop_last: Bool = False
    """Drops the last short batch of an epoch; otherwise it is trained, and one of a single sample is merged
    into the batch before (BatchNorm cannot train on one sample)."""
    steps_per_epoch: Int | None = Field(None, ge=1)
    """Cuts an epoch of a very large data set into this many steps."""
    threads: Int = Field(1, ge=1)
    """CPU threads per worker; part of the trial, because sums in another order differ in the last bit."""
    repeat: Int | None = Field(None, ge=0)
    """Trials of a study with the same number here draw the same initial weights, data order and augmentation,
    so that they can be compared in pairs; `hpsearch confirm` sets it. None: each trial draws its own."""
    function: str | None = None
    """Your own training loop, `my_package.train:train`, a generator that yields a dict per epoch."""

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
    underfit_slope: Float = Field(0.01, gt=0)
    """Underfit: the lowest validation loss so far still fell by this share of itself per epoch over the last
    fifth of the epochs."""
    underfit_ratio: Float = Field(0.5, gt=0, lt=1)
    """Underfit too: neither training nor validation loss came below this share of the loss of guessing."""
    least_change: Float = Field(0.01, ge=0)
    """Rises and falls of the validation loss by less than this share of the loss of guessing count as none:
    a network that is nearly always right has a tiny loss, which a single picture moves."""
