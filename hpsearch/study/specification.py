"""One study as a frozen value: every table of the study file, and the trial that a set of hparams makes."""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import combinations, islice, product
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from hpsearch.errors import nearest
from hpsearch.study import conditions
from hpsearch.study.data import DataSpec
from hpsearch.study.direction import Direction, sign
from hpsearch.study.footprint import BUILT, SECONDS, TAKEN, Limit
from hpsearch.study.search import (
    SHORT,
    Choices,
    Entry,
    FloatRange,
    IntRange,
    Label,
    SamplerSpec,
    space_rows,
)
from hpsearch.study.section import Float, Int, Seconds, Section, is_own
from hpsearch.study.sentences import FieldErrors, check_plain, field_errors
from hpsearch.study.stopping import EarlyStopping, Pruner
from hpsearch.study.train import IMAGENET, CheckpointSpec, FitSpec, ModelSpec, TrainSpec
from hpsearch.text import in_html_table

METRICS: dict[str, Direction] = {
    "val_loss": "minimize",
    "val_error": "minimize",
    "val_top5_error": "minimize",
    "val_macro_f1": "maximize",
    "val_mae": "minimize",
    "val_hamming_error": "minimize",
    "val_subset_error": "minimize",
    "val_balanced_accuracy": "maximize",
    "val_auc": "maximize",
    "val_average_precision": "maximize",
    "val_ece": "minimize",
}
"""What a trial may be scored by, and which direction is better. A training function may yield others, named
with their direction: `metric = "val_dice"`, `direction = "maximize"`. Our loop reports those of `train.metrics` too."""

ON_DEMAND = ("val_balanced_accuracy", "val_auc", "val_average_precision", "val_ece")
"""Metrics that are computed where a study names them; the others always are."""

_MOST_CHECKED = 2_000  # choices, and pairs of choices, each of which takes a millisecond
MOST_POINTS = 1_000_000
"""A grid with more could never be searched; its order alone would take seconds and much memory."""

TOP = 5
"""Classes that `val_top5_error` lets a model name; it is reported where there are more."""

RESERVED_NAMES = ("cache", "artifacts", "hpsearch.db", "hpsearch.db-wal", "hpsearch.db-shm")
"""What lies in the run folder beside the studies' own folders."""

SUFFIX = ".confirm"
"""Ends the name of the study that `hpsearch confirm` makes, which goes with the search when that is deleted."""

REFIT_SUFFIX = ".refit"
"""The same of the study that `hpsearch refit` makes."""

CONTINUE_SUFFIX = ".continue"
"""The same of the study in which `hpsearch continue` trains."""

LINKED = {SUFFIX: "confirmation", REFIT_SUFFIX: "refit", CONTINUE_SUFFIX: "continuation"}
"""What the studies are that belong to a search, by how their names end."""

PAUSING_TRIALS = 80
"""Trials of a study whose policy pauses them, unless it says how many."""

PROPOSING = ("thaw", "auto")
"""Policies that propose hyperparameters themselves; the others ask the study's sampler."""

REPEAT = "train.repeat"
"""What these studies search beside the points: the number of the repeat."""

CONFIRMS, FOLDS = "confirms", "folds"
"""What is said of a trial of these studies: the trial of the search that found its configuration, and, of one that is a
fold, of how many."""

CONTINUES, FROM_EPOCH, STREAM = "continues", "from_epoch", "stream"
"""What is said of a trial that continues another one: which, after which of its epochs, and the trial (the first one
continued) whose random numbers it draws on."""

PLANNED = "planned_epochs"
"""What is said of a trial that has other epochs than its point of the search space: how many. Wherever trials are
read, these are its `epochs`."""

TRAIN_LOSS = "train_loss"
"""What a refit is scored by: no validation part is left."""


ACCURACY = ("accuracy", "acc", "val_accuracy", "val_acc")
"""Names of 1 - `val_error`, which is what our own loop reports."""


def linked_suffix(name: str) -> str | None:
    """Returns how the name of a study ends that belongs to a search; None for a study of its own."""
    return next((suffix for suffix in LINKED if name.endswith(suffix)), None)


def linked_kind(name: str) -> str:
    """Returns what a study is by its name, for people."""
    return LINKED.get(linked_suffix(name) or "", "search")


def _drop_maximize(study: dict[str, Any], asked: str) -> None:
    """Removes the direction that belongs to an accuracy, and refuses the other one."""
    direction = study.pop("direction", None)
    if direction is not None and sign(direction) > 0:
        sentence = f'is "{direction}", and {asked} is better when it is maximized; remove it'
        raise FieldErrors([("study.direction", sentence)])


def _turn_target(study: dict[str, Any]) -> None:
    """Makes the error of an accuracy that is to be reached; what is not a number is left to the field."""
    target = study.get("target_value")
    if isinstance(target, int | float) and not isinstance(target, bool):
        if not 0 <= target <= 1:
            sentence = f"is {target:g}, and an accuracy lies between 0 and 1; write 95 % as 0.95"
            raise FieldErrors([("study.target_value", sentence)])
        study["target_value"] = round(1 - target, 12)


def _metrics_as_error(table: Mapping[str, Any]) -> dict[str, Any]:
    """Puts `val_error` where a table names the accuracy."""
    return {
        name: _as_error(value) if name in ("metric", "metrics") else value for name, value in table.items()
    }


def _as_error(metric: Any) -> Any:
    if isinstance(metric, list | tuple):
        return [_as_error(one) for one in metric]
    return "val_error" if metric in ACCURACY else metric


def _known(metric: str) -> str:
    hint = " (val_error is 1 - accuracy)" if "acc" in metric.lower() else ""
    return f"{nearest(metric, METRICS)}{hint}"


LIMITS = (
    "timeout",
    "target_value",
    "patience_trials",
    "improvement",
    "max_epochs_total",
    "max_device_hours",
)
"""Fields of `[study]` that may end it before its trials are finished; None leaves each out."""


class ImprovementSpec(Section):
    """Ends a study when it has become improbable that its best value still improves."""

    by: Float = Field(0.0, ge=0)
    """Only an improvement of the metric by more than this counts."""
    chance: Float = Field(0.1, gt=0, lt=1)
    """The study ends when the chance of it is below this."""
    epochs: Int | None = Field(None, ge=1)
    """Epochs of all trials together within which it would have to come. Default: twice those of the longest trial."""


class StudySection(Section):
    """What is searched for, how long, and what happens when trials fail."""

    name: str = ""
    """Default: the stem of the study file's name."""
    trials: Int | None = Field(None, ge=1)
    """Finished trials (COMPLETE, PRUNED and FAIL) over all machines and restarts, not per process. Default: 80,
    most of which train a few epochs; with `policy = "sampled"` 20."""
    metric: str = "val_loss"
    direction: Direction | None = None
    """Known for the built-in metrics; must be said for a metric of your own."""
    metrics: tuple[str, ...] = ()
    """Two or three goals instead of one `metric`: first that metric, then of `parameters`, `macs`, `latency_ms` and
    `seconds` what is to be small. The answer is a front of trials, each of which no other beats in all goals."""
    seed: Int = Field(0, ge=0, lt=2**32)
    max_failures: Int = Field(5, ge=1)
    """So many FAILs in a row stop the study with the cause shown."""
    max_attempts: Int = Field(3, ge=1)
    """Deaths of a trial's worker in a row without a new checkpoint, after which the trial is a FAIL."""
    stall_timeout: Seconds = Field(1800.0, gt=0)
    """A worker that finishes no epoch for so long is taken for hung and replaced."""
    recovery_timeout: Seconds = Field(1800.0, ge=0)
    """How long workers that die before they finish an epoch are started again, after pauses that grow from a
    second to a minute, once any worker has trained. Then the run ends; the next one resumes its trials."""
    grace: Seconds = Field(30.0, ge=0)
    """After SIGINT or SIGTERM: how long to wait for the epoch's end before it is given up."""
    timeout: Seconds | None = Field(None, gt=0)
    """Time of one run, after which it stops."""
    at_timeout: Literal["wait", "end"] = "wait"
    """What becomes of running and paused trials then: they wait for the next run, or they end with what they have, so
    that the best of them counts, and the next run begins new ones."""
    target_value: Float | None = None
    """Stops the study as soon as its best value is at least as good."""
    patience_trials: Int | None = Field(None, ge=1)
    """Stops the study when so many trials have finished since the best value was reached."""
    improvement: ImprovementSpec | None = None
    """Stops the study when an improvement by more than `by` within the next `epochs` is less probable than `chance`."""
    max_epochs_total: Int | None = Field(None, ge=1)
    """Epochs of all trials together, after which the study ends; the other workers end the epoch that they are in."""
    max_device_hours: Float | None = Field(None, gt=0)
    """Hours that GPUs, or the CPU of a machine, have trained; trials that share one share its hours."""
    policy: Literal["sampled", "halving", "screen", "thaw", "auto"] | None = None
    """Which trial a free worker trains next. `sampled` trains each trial to its end, unless early stopping or
    `[pruner]` ends it. The others train in pieces, pause trials between them, and resume the most promising.
    Default: `auto`; `sampled` in a study file with `[sampler]`, `[pruner]` or `train.function`."""
    warm_start: tuple[str, ...] = ()
    """Studies of the same database whose finished trials the sampler is told of; they are not counted."""
    require: dict[str, str] = Field(default_factory=dict)
    """What a trial may take at the most: of `parameters`, `macs`, `latency_ms` and `seconds`, as in
    `{ parameters = "< 1e6" }`. A trial that takes more ends as soon as that is known, and is never the best."""
    license: str | None = None
    """Of the models that come of it, such as "CC BY 4.0"; their card says it."""
    first_piece: Int = Field(1, ge=1)
    """Epochs that a trial trains before it may be paused."""
    max_paused: Int = Field(100, ge=1)
    """Paused trials that are kept, each with a checkpoint on disk; of more, the least promising end."""

    @field_validator("name")
    @classmethod
    def _name_makes_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9 ._-]{0,199})?", name) or name.endswith((" ", ".")):
            raise ValueError(
                f'"{name}" is not a valid study name; use at most 200 letters, digits, spaces and . _ -, '
                "beginning with a letter or a digit (without study.name, the file's own name counts)"
            )
        if name.endswith(".toml"):
            raise ValueError(f'"{name}" would be taken for a study file; choose another name')
        if name in RESERVED_NAMES:
            raise ValueError(f'"{name}" is reserved in the run folder; choose another name')
        return name

    @model_validator(mode="after")
    def _metric_has_a_direction(self) -> "StudySection":
        if not self.metric.isidentifier():
            raise FieldErrors(
                [("metric", f'"{self.metric}" is not a valid metric name; use letters, digits and _')]
            )
        known = METRICS.get(self.metric)
        if self.metric in TAKEN:
            sentence = f'"{self.metric}" has no curve to learn from; put what trials learn first, such as "val_error"'
            raise FieldErrors([("metrics" if self.metrics else "metric", sentence)])
        if known is None and self.direction is None:
            raise ValueError(
                f'metric "{self.metric}" is unknown; {_known(self.metric)}; '
                'if your training function yields it, add direction = "minimize" or "maximize"; if you have a function '
                "for it, add it to train.metrics"
            )
        if known is not None and self.direction not in (None, known):
            raise ValueError(f'metric "{self.metric}" is better when it is {known}d; remove direction')
        return self

    @model_validator(mode="after")
    def _goals_differ(self) -> "StudySection":
        first, *others = self.metrics or (self.metric,)
        wrong = ""
        if self.metrics and first != self.metric:
            wrong = f'begins with "{first}", and study.metric is "{self.metric}"; remove metric'
        elif self.metrics and not 2 <= len(self.metrics) <= 3:
            wrong = f"must name two or three goals, got {len(self.metrics)}; for one, write metric"
        elif unknown := next((name for name in others if name not in TAKEN), None):
            wrong = f'"{unknown}" cannot be a goal beside "{first}"; known: {", ".join(TAKEN)}'
        elif len({*others}) < len(others):
            wrong = "names a goal twice; list each once"
        if wrong:
            raise FieldErrors([("metrics", wrong)])
        by_one = ("target_value", "patience_trials", "improvement")
        limit = next((name for name in by_one if getattr(self, name) is not None), None)
        if others and limit is not None:
            sentence = "ends the study by one metric alone, and study.metrics names several goals; remove it"
            raise FieldErrors([(limit, sentence)])
        return self

    @property
    def beside(self) -> tuple[str, ...]:
        """The goals beside the metric, each to be small."""
        return self.metrics[1:]

    @field_validator("require")
    @classmethod
    def _requires_what_can_be_told(cls, require: dict[str, str]) -> dict[str, str]:
        wrong = []
        for name, text in require.items():
            try:
                Limit.of(text)
            except ValueError as error:
                wrong.append((name, str(error)))
            if name not in TAKEN:
                wrong = [(name, f"cannot be limited; {nearest(name, TAKEN)}")]
        if wrong:
            raise FieldErrors(wrong)
        return require

    @property
    def limits(self) -> dict[str, Limit]:
        """The limits to what a trial may take, by its name."""
        return {name: Limit.of(text) for name, text in self.require.items()}

    @property
    def better(self) -> Direction:
        """The direction in which the metric improves."""
        return self.direction or METRICS[self.metric]


class ConfirmSpec(Section):
    """`hpsearch confirm`: the best configurations trained anew with several seeds, then tested once."""

    top: Int = Field(3, ge=1)
    seeds: Int = Field(5, ge=2)


class TrackSpec(Section):
    """Where each trial is a run as well, with its hyperparameters and curves; each needs the extra of its name."""

    tensorboard: str | None = Field(None, min_length=1)
    """Folder of TensorBoard's event files."""
    mlflow: str | None = Field(None, min_length=1)
    """Tracking URI of MLflow; a password belongs into MLFLOW_TRACKING_PASSWORD."""
    wandb: str | None = Field(None, min_length=1)
    """Project of Weights & Biases."""

    @field_validator("mlflow")
    @classmethod
    def _holds_no_password(cls, uri: str | None) -> str | None:
        if uri is not None and re.search(r"://[^/@]*:[^/]*@", uri):
            raise ValueError(
                "it holds a password, which would be stored with the study; give it by MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD"
            )
        return uri


class StudySpec(Section):
    """A whole study file."""

    study: StudySection = StudySection()
    data: DataSpec = DataSpec()
    model: ModelSpec = ModelSpec()
    train: TrainSpec = TrainSpec()
    search: dict[str, FloatRange | IntRange | Choices]
    early_stopping: EarlyStopping = EarlyStopping()
    pruner: Pruner = Pruner()
    sampler: SamplerSpec = SamplerSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    fit: FitSpec = FitSpec()
    confirm: ConfirmSpec = ConfirmSpec()
    track: TrackSpec = TrackSpec()
    enqueue: tuple[dict[str, Any], ...] = ()
    """Points that are tried first, each once, however often the study is run; the sampler completes them."""
    function: Annotated[dict[str, Any], AfterValidator(check_plain)] = Field(default_factory=dict)
    """Values for your own training function, each searchable as `function.<name>`."""

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any]) -> "StudySpec":
        """Returns the study that the tables of a study file describe.

        Raises:
            StudyFileError: naming every wrong field, one per line.
        """
        from hpsearch.study.file import as_study

        return as_study(tables)

    def __repr__(self) -> str:
        return f"<StudyFile {self.study.name!r}: {self.trials} trials over {', '.join(self.search)}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        rows: dict[str, str] = {}
        for name, *words in space_rows(self.search):
            rows[name] = "; ".join([*filter(None, [rows.get(name)]), ", ".join(words)])
        return in_html_table(repr(self), rows)

    @model_validator(mode="before")
    @classmethod
    def _first_goal_is_the_metric(cls, tree: Any) -> Any:
        try:
            study = tree["study"]
            first = study["metrics"][0]
        except (KeyError, TypeError, IndexError):
            return tree
        return tree if "metric" in study else {**tree, "study": {**study, "metric": first}}

    @model_validator(mode="before")
    @classmethod
    def _accuracy_is_one_less_the_error(cls, tree: Any) -> Any:
        """Puts `val_error` where the accuracy is asked for, with the target and the direction that belong to it."""
        try:
            train = tree.get("train", {})
            if train.get("function") is not None or any(
                name in ACCURACY for name in train.get("metrics", ())
            ):
                return tree
            study, stopping = dict(tree.get("study", {})), dict(tree.get("early_stopping", {}))
            goals = [study.get("metric"), *study.get("metrics", ())]
        except (AttributeError, TypeError, ValueError):  # which is told of the table itself
            return tree
        asked = next((goal for goal in goals if goal in ACCURACY), None)
        if asked is not None:
            _drop_maximize(study, asked)
            _turn_target(study)
        tables = {"study": study, "early_stopping": stopping}
        found = {name: _metrics_as_error(table) for name, table in tables.items() if name in tree}
        return {**tree, **found}

    @model_validator(mode="before")
    @classmethod
    def _own_metric_says_its_direction(cls, tree: Any) -> Any:
        """Gives `study.direction` the direction of a metric of the user's own; all else is left to the fields."""
        try:
            study, direction = tree["study"], tree["train"]["metrics"][tree["study"]["metric"]]["direction"]
        except (KeyError, TypeError):
            return tree
        if study.get("direction") is None:
            return {**tree, "study": {**study, "direction": direction}}
        if study["direction"] != direction:
            sentence = f'is "{study["direction"]}", and train.metrics.{study["metric"]} says "{direction}"; remove it'
            raise FieldErrors([("study.direction", sentence)])
        return tree

    @field_validator("search", mode="before")
    @classmethod
    def _parse_search(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            raise ValueError(f"must be a table of ranges and lists, got {raw!r}")
        if not raw:
            raise ValueError("the table is empty; name at least one hyperparameter, such as learning_rate")
        return conditions.parse_search(raw)

    @model_validator(mode="after")
    def _has_data(self) -> "StudySpec":
        if self.data.dataset == "none" and self.train.function is None:
            raise FieldErrors(
                [("data.dataset", 'is missing; add [data] with dataset = "digits", "folder", ...')]
            )
        return self

    @model_validator(mode="after")
    def _loop_reports_the_metrics(self) -> "StudySpec":
        for field, metric in self.metrics_used().items():
            if metric in METRICS or metric in self.train.metrics or self.is_refit:
                continue
            if self.train.function is None:
                sentence = (
                    f'"{metric}" can only come from a training function of yours, and train.function names none, or '
                    f"from train.metrics; {_known(metric)}"
                )
                raise FieldErrors([(field, sentence)])
            if metric != self.study.metric:
                sentence = (
                    f'"{metric}" has no known direction; name study.metric ("{self.study.metric}") or one of '
                    f"these. {nearest(metric, METRICS)}"
                )
                raise FieldErrors([(field, sentence)])
        return self

    @model_validator(mode="after")
    def _own_parts_are_told_apart(self, info: ValidationInfo) -> "StudySpec":
        wrong = [
            (f"train.metrics.{name}", "is a built-in metric; choose another name, or remove it")
            for name in self.train.metrics
            if name in METRICS
        ]
        args = self.train.args
        unknown = [name for name in args.metrics if name not in self.train.metrics]
        wrong += [
            (f"train.args.metrics.{name}", "train.metrics has no such metric; remove it") for name in unknown
        ]
        for field in ("optimizer", "schedule", "loss") if info.context != _RESOLVED else ():
            given = self.values_of(f"train.{field}")
            if getattr(args, field) and not any(map(is_own, given)):
                sentence = (
                    f'is for a builder of your own, and train.{field} = "{given[0]}" is built in; remove it'
                )
                wrong.append((f"train.args.{field}", sentence))
        if wrong:
            raise FieldErrors(wrong)
        return self

    @model_validator(mode="after")
    def _has_a_part_to_choose_by(self) -> "StudySpec":
        if self.data.split.join_val and not self.is_refit:
            sentence = (
                "is true, which leaves no validation part to choose by; remove it (hpsearch refit sets it)"
            )
            raise FieldErrors([("data.split.join_val", sentence)])
        return self

    @model_validator(mode="after")
    def _loop_trains_folds(self) -> "StudySpec":
        split = self.data.split
        if split.folds is None:
            return self
        if self.data.dataset == "none":
            sentence = (
                f"is {split.folds}, and train.function brings data of its own; remove it, or add [data]"
            )
            raise FieldErrors([("data.split.folds", sentence)])
        if split.trains_all_folds and self.train.function is not None:
            sentence = (
                f"is {split.folds}, and train.function trains a single model; remove it, and compare the best trials "
                f"by hpsearch confirm --folds {split.folds}"
            )
            raise FieldErrors([("data.split.folds", sentence)])
        return self

    @model_validator(mode="after")
    def _loop_tells_what_is_taken(self) -> "StudySpec":
        unknown = [name for name in self.measured if self.train.function is not None]
        if unknown:
            field = "study.metrics" if unknown[0] in self.study.beside else "study.require"
            sentence = (
                f"the model is built by train.function, so {unknown[0]} cannot be known; take {SECONDS} instead, or "
                "remove it"
            )
            raise FieldErrors([(field, sentence)])
        return self

    @model_validator(mode="after")
    def _one_says_when_all_is_trained(self) -> "StudySpec":
        if self.train.stages and self.model.unfreeze_after is not None:
            sentence = (
                f"is {self.model.unfreeze_after}, and train.stages also says when all layers are trained; remove "
                "one of the two"
            )
            raise FieldErrors([("model.unfreeze_after", sentence)])
        return self

    @model_validator(mode="after")
    def _seconds_are_known_at_the_end(self) -> "StudySpec":
        if SECONDS not in self.study.beside or (not self.pauses and self.pruner.name == "none"):
            return self
        who = f'study.policy = "{self.policy}"' if self.pauses else f'pruner.name = "{self.pruner.name}"'
        sentence = (
            f'"{SECONDS}" is known only once a trial has ended, and {who} compares trials before; use '
            'study.policy = "sampled" without [pruner], or "macs" instead'
        )
        raise FieldErrors([("study.metrics", sentence)])

    @model_validator(mode="after")
    def _policy_suits_sampler_and_pruner(self) -> "StudySpec":
        policy = self.policy
        if not self.pauses:
            if self.study.first_piece > 1:
                sentence = '"sampled" pauses no trial; remove it, or take another study.policy'
                raise FieldErrors([("study.first_piece", sentence)])
            return self
        if 1 < self.max_epochs <= self.study.first_piece:
            sentence = (
                f"{self.study.first_piece} epochs are all that a trial trains, so that none is ever paused"
            )
            remedy = 'give fewer, or take study.policy = "sampled"'
            raise FieldErrors([("study.first_piece", f"{sentence}; {remedy}")])
        if self.sampler.name in ("grid", "points"):
            sentence = f'"{policy}" ends few trials, but sampler.name = "{self.sampler.name}" is to train all'
            raise FieldErrors([("study.policy", f'{sentence}; use "sampled", or remove [sampler]')])
        if self.sampler.name != "tpe" and policy in PROPOSING:
            sentence = (
                f'"{policy}" proposes trials itself and does not ask sampler.name = "{self.sampler.name}"'
            )
            raise FieldErrors(
                [("study.policy", f'{sentence}; use "sampled" or "halving", or remove [sampler]')]
            )
        if self.pruner.name != "none":
            sentence = f'"{policy}" pauses trials and does not ask pruner.name = "{self.pruner.name}"'
            raise FieldErrors([("study.policy", f'{sentence}; use "sampled", or remove [pruner]')])
        return self

    @model_validator(mode="after")
    def _somebody_learns_from_the_past(self) -> "StudySpec":
        if not self.study.warm_start:
            return self
        sentence = ""
        if self.study.beside:
            sentence = "tells the sampler of one metric, and study.metrics names several goals; remove one of the two"
        elif self.study.name in self.study.warm_start:
            sentence = f'names the study "{self.study.name}" itself; remove it'
        elif "" in self.study.warm_start:
            sentence = "holds an empty name; name studies of the same database, or remove it"
        elif self.policy in PROPOSING:
            sentence = (
                f'study.policy = "{self.policy}" learns from its own trials alone; use "sampled" or "halving", '
                "or make those of the other study its own: remove warm_start, and `hpsearch import "
                f"{self.study.warm_start[0]} FILE`"
            )
        elif self.sampler.name not in ("tpe", "gp"):
            sentence = f'sampler.name = "{self.sampler.name}" learns from no trials; use "tpe" or "gp"'
        if sentence:
            raise FieldErrors([("study.warm_start", sentence)])
        return self

    @model_validator(mode="after")
    def _extremes_are_valid(self, info: ValidationInfo) -> "StudySpec":
        if info.context == _RESOLVED:
            return self
        extremes = list(islice(self._extremes(), _MOST_CHECKED + 1))
        if len(extremes) > _MOST_CHECKED:
            sentence = (
                f"the choices, and the pairs of those that depend on each other, are more than {_MOST_CHECKED:,}; "
                "write shorter lists, or ranges with a step"
            )
            raise FieldErrors([("search", sentence)])
        wrong: list[tuple[str, str]] = []
        for hparams in extremes:
            try:
                # Of the search only these: the time would grow with the square of the choices.
                few: dict[str, Any] = {name: {"choices": [hparams[name]]} for name in hparams}
                if self.is_confirmation:
                    few.setdefault(REPEAT, {"choices": [0]})  # it makes the study one
                self._put_in(hparams, self.model_dump(exclude={"search"}) | {"search": few})
            except ValueError as error:
                wrong += _about(hparams, field_errors(error, StudySpec))
        if wrong:
            raise FieldErrors(dict.fromkeys(wrong))
        return self

    def _extremes(self) -> Iterator[dict[str, Any]]:
        """Yields the ends of ranges and all choices: each alone, then those that must suit each other."""
        ends: dict[str, list[dict[str, Any]]] = {}
        for hparams in conditions.at_ends(self.search):
            yield hparams
            ends.setdefault(list(hparams)[-1], []).append(hparams)  # behind what it needs
        for first, second in combinations(ends, 2):
            if _depend(first, second):
                pairs = product(ends[first], ends[second])
                yield from (
                    {**a, **b} for a, b in pairs if all(b.get(name, a[name]) == a[name] for name in a)
                )

    @model_validator(mode="after")
    def _sampler_knows_conditions(self) -> "StudySpec":
        if self.sampler.name == "gp" and self.is_conditional:
            name = next(name for name, entry in self.search.items() if entry.cases)
            sentence = (
                f'"gp" samples fields that every trial has, but {name} has a condition; use "tpe", "random" or '
                '"qmc", or remove [sampler]'
            )
            raise FieldErrors([("sampler.name", sentence)])
        return self

    @model_validator(mode="after")
    def _grid_is_finite(self, info: ValidationInfo) -> "StudySpec":
        if self.sampler.name != "grid" or info.context == _RESOLVED:
            return self
        cases = {name: [case.entry for case in entry.cases] or [entry] for name, entry in self.search.items()}
        endless = [name for name, entries in cases.items() if any(entry.size is None for entry in entries)]
        if endless:
            sentence = (
                f'"grid" needs lists or ranges with a step, but {", ".join(endless)} is continuous; '
                "give it a step or choose another sampler"
            )
            raise FieldErrors([("sampler.name", sentence)])
        decided = math.prod(len(entry.choices) for entry in conditions.deciding(self.search).values())
        # What conditions are about is gone through to count the rest.
        points = decided if decided > MOST_POINTS else self.grid_size
        if points > MOST_POINTS:
            found = ((name, max(entry.size or 1 for entry in entries)) for name, entries in cases.items())
            sizes = " x ".join(f"{size:,} ({name})" for name, size in found)
            sentence = (
                f'"grid" has {points:,} points, {sizes}, and may have {MOST_POINTS:,} at most; use '
                "larger steps, or choose another sampler"
            )
            raise FieldErrors([("sampler.name", sentence)])
        return self

    @model_validator(mode="after")
    def _points_lie_in_the_space(self, info: ValidationInfo) -> "StudySpec":
        if info.context == _RESOLVED:
            return self
        for place, point in enumerate(self.sampler.points):
            wanted = self.meaningful(point.hparams)
            if point.hparams.keys() != wanted.keys():
                names = [name for name in self.search if name in wanted]
                sentence = f"must give exactly {', '.join(names)}, got {', '.join(point.hparams)}"
                raise FieldErrors([(f"sampler.points.{place}", sentence)])
            for name, value in point.hparams.items():
                if not self._holds(name, wanted[name], value):
                    sentence = f"{name} = {value!r} is not in the space"
                    raise FieldErrors([(f"sampler.points.{place}", sentence)])
        return self

    @model_validator(mode="after")
    def _enqueued_points_can_be_tried(self, info: ValidationInfo) -> "StudySpec":
        if info.context == _RESOLVED or not self.enqueue:
            return self
        if self.sampler.name in ("grid", "points"):
            sentence = f'sampler.name = "{self.sampler.name}" tries its own points; remove one of the two'
            raise FieldErrors([("enqueue", sentence)])
        if len(self.enqueue) > self.trials:
            sentence = (
                f"gives {len(self.enqueue)} points, but study.trials = {self.trials}; raise study.trials"
            )
            raise FieldErrors([("enqueue", sentence)])
        wrong = [
            (f"enqueue.{place}", sentence)
            for place, point in enumerate(self.enqueue)
            for sentence in self._faults_of(point, self.enqueue[:place])
        ]
        if wrong:
            raise FieldErrors(wrong)
        return self

    def _holds(self, name: str, entry: Entry, value: Any) -> bool:
        """Says whether a value, as Optuna stores it, lies in what the field is sampled from."""
        if isinstance(entry, Choices):
            return value in conditions.labels_of(self.search[name], entry)
        return isinstance(value, int | float) and entry.low <= value <= entry.high

    def _faults_of(self, point: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """Yields what keeps an enqueued point from being tried."""
        if not point:
            yield "the table is empty; give at least one hyperparameter"
        if point in earlier:
            yield "the point is listed twice; list each once"
        yield from conditions.faults(self.search, point)

    def enqueued(self) -> list[dict[str, Label]]:
        """Returns the points that are tried first, as Optuna stores them."""
        return [
            {name: self.search[name].encode(value) for name, value in point.items()} for point in self.enqueue
        ]

    def with_hparams(self, hparams: Mapping[str, Any]) -> "StudySpec":
        """Returns the study with a trial's hyperparameters in the places that they name.

        Args:
            hparams: by name as in `[search]`, values as Optuna stores them (lists as labels).

        Raises:
            ValueError: a value that its field does not take, or a name with no place.
        """
        return self._put_in(hparams, self.model_dump())

    def _put_in(self, hparams: Mapping[str, Any], tree: dict[str, Any]) -> "StudySpec":
        # Shorter names first: a choice of whole augmentations comes before the parameter of one transform.
        # Then by name, since a builder's `**arguments` come in this order, and a database keeps none.
        for name in sorted(hparams, key=lambda name: (name.count("."), name)):
            # A trial that continues another one has more epochs than the space, which are stored as they are.
            entry = None if name == "epochs" else self.search.get(name)
            # Copied, since a later name may point into this value, which belongs to the choices.
            value = deepcopy(hparams[name] if entry is None else entry.decode(hparams[name]))
            _put(tree, SHORT.get(name, name), value)
        split, repeat = tree["data"]["split"], tree["train"]["repeat"]
        if split["fold"] is not None and repeat is not None and not self.is_continuation:
            split["fold"] = repeat % split["folds"]
        return StudySpec.model_validate(tree, context=_RESOLVED)

    def each_fold(self) -> tuple["StudySpec", ...]:
        """Returns what a trial trains: this, or where it has all folds, this for each of them alone."""
        data, split = self.data, self.data.split
        if split.folds is None or not split.trains_all_folds:
            return (self,)
        splits = (split.model_copy(update={"fold": fold}) for fold in range(split.folds))
        return tuple(
            self.model_copy(update={"data": data.model_copy(update={"split": one})}) for one in splits
        )

    def metrics_used(self) -> dict[str, str]:
        """Returns the metrics that the study needs, by the field that names each."""
        stopping = (
            {"early_stopping.metric": self.early_stopping.metric} if self.early_stopping.tables() else {}
        )
        return {"study.metric": self.study.metric, **stopping}

    @property
    def measured(self) -> list[str]:
        """What is to be known of each model when it is built."""
        return [name for name in BUILT if name in (*self.study.require, *self.study.beside)]

    def built(self, taken: Mapping[str, float]) -> dict[str, float]:
        """Returns, of what a trial takes, what is known when its model is built, as far as the study asks for it."""
        return {name: taken[name] for name in self.measured if name in taken}

    @property
    def directions(self) -> list[Direction]:
        """The directions of all goals."""
        beside: list[Direction] = ["minimize"] * len(self.study.beside)
        return [self.study.better, *beside]

    def beside(self, taken: Mapping[str, float]) -> tuple[float, ...] | None:
        """Returns the goals beside the metric of a trial; None where one is not known yet, () if there are none.

        Args:
            taken: what it takes, as far as that is known.
        """
        found = [taken.get(name) for name in self.study.beside]
        return None if None in found else tuple(float(value) for value in found if value is not None)

    def excesses(self, taken: Mapping[str, float]) -> dict[str, float]:
        """Returns by how much a trial breaks limits, see `Limit.excess`; those that it keeps are left out.

        Args:
            taken: what it takes, as far as that is known.
        """
        limits = self.study.limits
        return {
            name: limits[name].excess(value)
            for name, value in taken.items()
            if name in limits and not limits[name].allows(value)
        }

    def better(self, metric: str) -> Direction:
        """Returns the direction in which one of the metrics used improves."""
        if metric == self.study.metric:
            return self.study.better
        return self.train.metrics[metric].direction if metric in self.train.metrics else METRICS[metric]

    def ends(self) -> dict[str, list[Any]]:
        """Returns the ends of each searched range and all choices of each list, as Optuna stores them."""
        return {name: conditions.ends_of(entry, entry) for name, entry in self.search.items()}

    def filled(
        self,
        chosen: Mapping[str, Label],
        pick: Callable[[str, list[Any]], Any] = lambda name, ends: ends[0],
    ) -> dict[str, Label]:
        """Returns the hyperparameters of a whole trial around some values.

        Args:
            chosen: values that count where they have a meaning.
            pick: chooses among the ends of any other field.
        """
        return conditions.filled(self.search, chosen, pick)

    def values_of(self, name: str) -> list[Any]:
        """Returns what a field may be in a trial: the choices or ends of its search entry, or what is written.

        Args:
            name: as in `[search]`.
        """
        if name not in self.search:
            return [self.written(name)]
        extremes = self.search[name].extremes()
        if not self.search[name].cases or (written := self.written(name)) in extremes:
            return extremes
        return extremes if written is None else [*extremes, written]

    def written(self, name: str) -> Any:
        """Returns what a field is where it is not sampled; None for an argument that is not given."""
        value: Any = self
        for part in SHORT.get(name, name).split("."):
            if isinstance(value, tuple):  # of tables with names: transforms, stages
                value = next((item for item in value if item.name == part), None)
            else:
                value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
        return value

    @property
    def is_conditional(self) -> bool:
        """Whether some fields have a meaning in a part of the trials only."""
        return any(entry.cases for entry in self.search.values())

    def meaningful(self, hparams: Mapping[str, Any]) -> dict[str, Entry]:
        """Returns what the fields are sampled from that have a meaning in a trial, by its hyperparameters."""
        return conditions.meaningful(self.search, hparams)

    def objects(self) -> list[str]:
        """Returns what the study names of modules of the user's own, as `my_package.nets:build`."""
        searched = ("model.name", "train.optimizer", "train.schedule")
        named = [name for field in searched for name in self.values_of(field)]
        named += [self.train.loss, *(metric.build for metric in self.train.metrics.values())]
        named += [self.data.dataset, self.data.predict, self.train.function]
        return [str(name) for name in named if is_own(str(name))]

    def places(self, data_root: str | None = None) -> list[tuple[str, str]]:
        """Returns the files and folders that the study names, each with the field that names it.

        Args:
            data_root: overrides `data.root`.
        """
        data = self.data
        root = data_root or data.root or "data"
        weights = {*self.values_of("model.weights"), self.model.weights} - {None, "none", IMAGENET}
        named = [
            ("data.root", root if data.dataset not in ("digits", "none") else None),
            *(("data.labels", os.path.join(root, file)) for file in data.label_files),
            ("data.cache", data.cache),
            *(("model.weights", file) for file in sorted(weights)),
        ]
        return [(field, place) for field, place in named if place]

    @property
    def grid_size(self) -> int:
        """Number of combinations of a space without continuous ranges."""
        return conditions.grid_size(self.search)

    @property
    def total_trials(self) -> int:
        """How many trials the study has when it is complete; a grid may have fewer points than it asks for."""
        sizes = {"points": len(self.sampler.points), "grid": self.grid_size}
        return min(self.trials, sizes.get(self.sampler.name, self.trials))

    @property
    def trained(self) -> tuple[str, ...]:
        """What its trials train: the training function, or the networks among which the search chooses."""
        names = self.search.get("model.name")
        searched = names.labels() if isinstance(names, Choices) else [self.model.name]
        return (self.train.function,) if self.train.function else tuple(map(str, searched))

    @property
    def policy(self) -> str:
        """Which policy says what is trained next."""
        return self.study.policy or "auto"

    @property
    def pauses(self) -> bool:
        """Whether trials are paused and resumed."""
        return self.policy != "sampled"

    @property
    def trials(self) -> int:
        """How many trials the study asks for."""
        return self.study.trials or (PAUSING_TRIALS if self.pauses else 20)

    @property
    def is_confirmation(self) -> bool:
        """Whether this is a study such as `hpsearch confirm` makes: points, trained with several repeats."""
        return self.sampler.name == "points" and REPEAT in self.search

    @property
    def is_refit(self) -> bool:
        """Whether this is a study such as `hpsearch refit` makes: points, trained on all but the test part."""
        return self.is_confirmation and self.data.split.join_val and self.study.metric == TRAIN_LOSS

    @property
    def shared(self) -> float:
        """The share of its epochs that a trial trains as one of more epochs would, so that it can be continued."""
        whole = self.train.function is None and not self.data.progressive and self.train.last_epoch is None
        return self.train.shared if whole else 0.0

    @property
    def is_continuation(self) -> bool:
        """Whether this is a study such as `hpsearch continue` makes: its trials continue those of a search."""
        return self.is_confirmation and any(CONTINUES in point.attrs for point in self.sampler.points)

    def trial_name(self, number: int, hparams: Mapping[str, Any]) -> str:
        """Returns what a trial is called: in a confirmation by the search's trial that it repeats."""
        given = self.sampler.attrs(number)
        if CONTINUES in given and self.is_confirmation:
            return f"trial {given[CONTINUES]}, to epoch {given[PLANNED]}"
        confirms = given.get(CONFIRMS)
        if confirms is None or not self.is_confirmation:
            return f"trial {number}"
        return f"trial {confirms}" if self.is_refit else f"trial {confirms}, repeat {hparams['train.repeat']}"

    @property
    def max_epochs(self) -> int:
        """The largest number of epochs that a trial may have."""
        return int(max(self.values_of("epochs")))


def with_planned(hparams: Mapping[str, Any], attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a trial's hyperparameters with the epochs that it was given beside them, if it was."""
    planned = attrs.get(PLANNED)
    return {**hparams, **({"epochs": planned} if isinstance(planned, int) else {})}


_RESOLVED = "resolved"


_TOGETHER = (
    {"train.momentum", "train.nesterov"},
    {"data.image_size", "data.progressive"},
)
"""Fields of which one limits what the other may be."""


def _depend(one: str, other: str) -> bool:
    both = (("data.augment", "data.augment"), ("train.stages", "train.stages"), ("train.stages", "epochs"))
    return {one, other} in _TOGETHER or any(
        (one.startswith(first) and other.startswith(second))
        or (one.startswith(second) and other.startswith(first))
        for first, second in both
    )


def _about(hparams: Mapping[str, Any], errors: FieldErrors) -> list[tuple[str, str]]:
    """Returns the errors under the search entries that brought them about."""
    names = " and ".join(f"search.{name}" for name in hparams)
    places = {SHORT.get(name, name) for name in hparams}
    return [
        (names, sentence if not field or field in places else f"{field} {sentence}")
        for field, sentence in errors.found
    ]


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Replaces one leaf of a dumped study; a transform of `data.augment`, or a stage, is found by its name."""
    *path, leaf = dotted.split(".")
    node: Any = tree
    for depth, part in enumerate(path):
        if isinstance(node, list | tuple):
            found = [item for item in node if item["name"] == part]
            if not found:
                table = ".".join(path[:depth])
                raise ValueError(f'{table} has no "{part}"; add {{ name = "{part}" }} to the list')
            node = found[0]
        elif isinstance(node.get(part), list | tuple):
            # Such as a choice of stages as it was written, some of them by their names alone.
            node[part] = [{"name": item} if isinstance(item, str) else item for item in node[part]]
            node = node[part]
        elif isinstance(node.get(part), dict):
            node = node[part]
        else:
            raise ValueError(
                f'there is no table "{part}" for "{dotted}"; add it, or remove the part before the dot'
            )
    node[leaf] = value
