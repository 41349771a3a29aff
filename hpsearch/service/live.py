"""A trial that this driver owns, from its first epoch to its record."""

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpsearch.contracts.trial import (
    BEST_AT,
    DEVICE_SECONDS,
    JOULES,
    PAUSED,
    PAUSES,
    START_SECONDS,
    TRIES,
    WHY,
    EpochResult,
    StopKind,
    TrialEnd,
)
from hpsearch.errors import StudyFileError
from hpsearch.search.fit import diagnose
from hpsearch.search.outcome import Verdict, score
from hpsearch.search.policy.contract import Pause
from hpsearch.search.stopping import Criterion, Curve, build
from hpsearch.store import writes
from hpsearch.study.direction import sign
from hpsearch.study.footprint import SECONDS
from hpsearch.study.specification import FROM_EPOCH, StudySpec, with_planned
from hpsearch.study.train import FitSpec

MOST_TEXT = 16_000
"""Characters of a traceback that are kept: MariaDB's TEXT takes 64 kB, and more is not read."""
LONG_CURVE = 2_000
"""Epochs from which on curves in attributes are rounded, for the same reason."""

LOSSES = ("train_loss", "val_loss")


@dataclass(slots=True)
class LiveTrial:
    """A trial that this driver owns.

    Attributes:
        spec: the study with the trial's hparams in place.
        problem: why it cannot be trained: hparams that do not go together.
        failures: attempts in a row, before this one, that ended without a new checkpoint; preemptions do not
            count.
        saved: the last epoch known to be in a checkpoint.
        progress: whether this attempt has written a new checkpoint.
        alone: whether this attempt gets a worker of its own.
        interruptions: why earlier attempts under this driver ended.
        since: when this driver began or took over the trial, seconds since the epoch.
        pausing: the decision to pause it, until its worker has given it back.
        kept: what was stored with it when it was paused; empty once it is trained again.
        why: for each time that it was begun or resumed, why it was chosen.
        pauses: how often it was paused and resumed, each an attempt that was no failure.
        start_seconds: in which it was built, and its checkpoint read, over all attempts.
        device_seconds: how long a device was busy with it; of one that it shares, its share.
        joules: the energy that devices took for it, likewise.
        stored_best: the score that was stored with it, and when that was reached.
        footprint: what its model takes, as it was measured first: a latency is never the same twice.
        given: what is said of it beside its hyperparameters, where it was given as a point.
    """

    number: int
    trial_id: int
    ticket: int
    attempt: int
    hparams: Mapping[str, Any]
    spec: StudySpec
    criterion: Criterion | None
    problem: str | None = None
    failures: int = 0
    saved: int = 0
    progress: bool = False
    alone: bool = False
    since: float = field(default_factory=time.time)
    results: list[EpochResult] = field(default_factory=list)
    interruptions: list[str] = field(default_factory=list)
    pausing: Pause | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)
    why: list[str] = field(default_factory=list)
    pauses: int = 0
    start_seconds: float = 0.0
    device_seconds: float = 0.0
    joules: float = 0.0
    stored_best: tuple[float | None, float] | None = None
    footprint: Mapping[str, float] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def taken(self) -> dict[str, float]:
        """What it takes, the seconds so far among it, unless its epochs are only known from the database."""
        seconds = round(sum(result.seconds for result in self.results), 3)  # as in its attributes
        return {**self.footprint, **({SECONDS: seconds} if seconds else {})}

    @property
    def inherited(self) -> int:
        """Epochs that another trial has trained, which this one continues."""
        return int(self.given.get(FROM_EPOCH, 0))

    @property
    def tries(self) -> int:
        """Attempts, of which those between two pauses are one."""
        return self.attempt - self.pauses

    @property
    def failures_with_this(self) -> int:
        """Attempts in a row without a new checkpoint, should this one end now."""
        return 0 if self.progress else self.failures + 1

    def remember(self, attrs: Mapping[str, Any]) -> None:
        """Takes over what an earlier attempt has stored with the trial."""
        self.why, self.pauses = list(attrs.get(WHY) or ()), int(attrs.get(PAUSES) or 0)
        self.start_seconds = float(attrs.get(START_SECONDS) or 0.0)
        self.device_seconds = float(attrs.get(DEVICE_SECONDS) or 0.0)
        self.joules = float(attrs.get(JOULES) or 0.0)
        if attrs.get(BEST_AT) is not None:
            self.stored_best = attrs.get("score"), float(attrs[BEST_AT])
        if attrs.get(PAUSED) is not None:
            self.kept = attrs

    def take_up(self, attempt: int, failures: int, reported: Sequence[float]) -> None:
        """Begins an attempt; until its checkpoint is read, with the epochs that are in the database."""
        self.attempt, self.failures = attempt, failures
        metric = self.spec.study.metric
        self.results = [
            EpochResult(self.number, attempt - 1, epoch, {metric: value})
            for epoch, value in enumerate(reported, start=1)
        ]

    def charge(self, result: EpochResult, devices: int, beside: int) -> None:
        """Enters how long devices were busy with an epoch, and what they took.

        Args:
            devices: that the trial has.
            beside: trials that share them, itself among them.
        """
        self.device_seconds += result.seconds * devices / beside
        self.joules += result.joules / beside

    def best_at(self, score: float | None) -> float:
        """Returns when its score was reached: now, unless it was stored before."""
        if self.stored_best is not None and self.stored_best[0] == score:
            return self.stored_best[1]
        return time.time()

    def values(self, metric: str) -> list[float]:
        """Returns one metric over the epochs, NaN where it was not reported."""
        return [result.metrics.get(metric, math.nan) for result in self.results]

    @property
    def losses(self) -> tuple[list[float | None], list[float | None]]:
        """Training and validation loss over the epochs, None where it was not reported."""
        train, val = ([result.metrics.get(name) for result in self.results] for name in LOSSES)
        return train, val

    def best(self) -> tuple[float, int] | None:
        """Returns the score and its epoch, from 1; None if no epoch had a finite value.

        A refit's are those of its last epoch, whose weights are kept: there is nothing to choose another by.
        """
        study = self.spec.study
        values = self.values(study.metric)
        if self.spec.is_refit and values and math.isfinite(values[-1]):
            return values[-1], len(values)
        return score(values, study.better)


def begun(
    spec: StudySpec,
    number: int,
    trial_id: int,
    ticket: int,
    hparams: Mapping[str, Any],
    problem: str | None,
    given: Mapping[str, Any],
) -> LiveTrial:
    """Returns a trial that begins.

    Args:
        spec: of the study.
        problem: why it cannot be trained, if that is known already.
        given: what is said of it where it was given as a point.
    """
    try:
        resolved = spec.with_hparams(with_planned(hparams, given))
    except ValueError as error:
        problem, resolved = str(error), spec
    trial = LiveTrial(number, trial_id, ticket, 1, hparams, resolved, None, problem=problem, given=given)
    if not problem:
        train, done = resolved.train, trial.inherited
        trial.criterion = build(
            spec.early_stopping, train.epochs - done, max(0, train.last_stage_after - done)
        )
    return trial


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished trial: its record as stored, and whether it is the best."""

    trial: FrozenTrial
    is_best: bool


def breach(taken: Mapping[str, float], spec: StudySpec) -> Verdict | None:
    """Says whether a trial ends since it takes more than the study allows, as far as that is known."""
    shown = [
        f"{name} = {taken[name]:,.6g}, and study.require allows {spec.study.require[name].strip()}"
        for name in spec.excesses(taken)
    ]
    return Verdict(StopKind.INFEASIBLE, "; ".join(shown)) if shown else None


def judge(trial: LiveTrial, spec: StudySpec, value: float) -> Verdict | None:
    """Says whether a trial ends with its last epoch by itself, without looking at other trials.

    Args:
        spec: of the study.
        value: of the study's metric at that epoch.

    Raises:
        StudyFileError: early stopping needs what the training function does not yield.
    """
    result = trial.results[-1]
    losses = [result.metrics[name] for name in ("train_loss", "val_loss") if name in result.metrics]
    if not all(map(math.isfinite, [value, *losses])):
        shown = ", ".join(f"{name} = {number:g}" for name, number in result.metrics.items())
        return Verdict(StopKind.DIVERGED, f"not finite at epoch {result.epoch}: {shown}")
    if result.last:
        return Verdict(StopKind.FINISHED)
    if trial.criterion is None:
        return None
    if trial.criterion.needs_train_loss and "train_loss" not in result.metrics:
        raise StudyFileError(
            "early_stopping.criterion: it needs the training loss, but train.function yields no "
            '"train_loss"; yield it, or choose patience, gl or up'
        )
    # Of the epochs that it continues the user has seen how they went: stopping begins anew behind them.
    first = trial.inherited
    if result.epoch <= first:
        return None
    metric, sign = _judged(trial, spec)
    val = tuple(sign * number for number in trial.values(metric)[first:])
    train = tuple(trial.values("train_loss")[first:])
    name = "the validation loss" if metric == "val_loss" else metric
    reason = trial.criterion.judge(Curve(val, train, name, negated=sign < 0))
    if reason is None:
        return None
    counted_from = f" (epochs counted from epoch {first} on, where it continues)" if first else ""
    return Verdict(StopKind.EARLY_STOPPING, reason.detail + counted_from)


def _judged(trial: LiveTrial, spec: StudySpec) -> tuple[str, float]:
    """Returns the metric that early stopping looks at, and the sign that makes less of it better."""
    metric, reported = spec.early_stopping.metric, trial.results[-1].metrics
    if metric not in reported:
        if metric != "val_loss":
            raise StudyFileError(
                f'early_stopping.metric: train.function yields no "{metric}"; yield it, or name another metric'
            )
        metric = spec.study.metric
    return metric, sign(spec.better(metric))


def attributes(
    trial: LiveTrial,
    verdict: Verdict | None,
    best: tuple[float, int] | None,
    end: TrialEnd | None,
    fit: FitSpec,
    guessing_loss: float | None,
) -> dict[str, Any]:
    """Returns what is stored with a trial that has ended, or is paused, for the dashboard and for pandas.

    Args:
        verdict: why it ended; None if it is paused.
        best: score and epoch, None if no epoch had a finite value.
        guessing_loss: for the diagnosis of the fit; None where it is not known.
    """
    train, val = trial.values("train_loss"), trial.values("val_loss")
    own = trial.results[trial.inherited :]
    seconds = sum(result.seconds for result in own)
    samples = sum(result.samples for result in own)
    return {
        "score": best[0] if best else None,
        "best_epoch": best[1] if best else None,
        "epochs_run": len(trial.results),
        **(told(verdict) if verdict else {}),
        "fit": diagnose(*trial.losses, fit, guessing_loss).value,
        "train_loss": train,
        "val_loss": val,
        "epoch_seconds": [round(result.seconds, 4) for result in trial.results],
        "metrics_at_best": dict(trial.results[best[1] - 1].metrics) if best else {},
        "seconds": round(seconds, 3),
        DEVICE_SECONDS: round(trial.device_seconds, 3),
        **({JOULES: round(trial.joules, 1)} if trial.joules else {}),
        BEST_AT: trial.best_at(best[0]) if best else None,
        START_SECONDS: round(trial.start_seconds, 3),
        "checkpoint_seconds": round(sum(result.checkpoint_seconds for result in own), 3),
        "samples_per_second": round(samples / seconds, 1) if seconds > 0 else None,
        TRIES: trial.tries,
        **({WHY: trial.why, PAUSES: trial.pauses} if trial.why else {}),
        **({"interruptions": "; ".join(trial.interruptions)} if trial.interruptions else {}),
        **trial.footprint,
        **(dict(end.facts) if end else {}),
    }


def told(verdict: Verdict) -> dict[str, Any]:
    """Returns what is stored of why a trial ended."""
    return {"stop_reason": verdict.kind.value, "stop_detail": verdict.detail}


def as_record(
    trial: LiveTrial,
    metric: str,
    state: TrialState,
    values: Sequence[float] | None,
    attrs: Mapping[str, Any],
    space: Mapping[str, BaseDistribution],
    rungs: Mapping[str, Any],
) -> FrozenTrial:
    """Returns a finished trial as Optuna stores it.

    Args:
        values: of the goals; None if it has none.
        rungs: what ASHA and Hyperband noted of it.
    """
    record = create_trial(
        state=state,
        values=None if state is TrialState.FAIL else values,
        params=dict(trial.hparams),
        distributions={name: space[name] for name in trial.hparams},
        user_attrs=clean(attrs),
        system_attrs=dict(rungs),
        intermediate_values=dict(enumerate(trial.values(metric), start=1)),
    )
    record.number = trial.number
    return record


def end_operations(
    trial: LiveTrial, record: FrozenTrial, broken: Mapping[str, float]
) -> Iterator[writes.TrialOperation]:
    """Yields what is written when a trial ends.

    Args:
        broken: the constraints that it breaks, see `outcome.constraints`.
    """
    system = dict(record.system_attrs)
    if broken:
        system |= create_trial(state=TrialState.PRUNED, constraints=dict(broken)).system_attrs
    for key, item in record.user_attrs.items():
        yield writes.SetAttr(trial.trial_id, key, item)
    for key, item in system.items():
        yield writes.SetSystemAttr(trial.trial_id, key, item)
    values = record.values or []
    value, beside = values[0] if values else None, tuple(values[1:])
    yield writes.Finish(trial.trial_id, record.state, value, datetime.now(), beside)


def completed(
    record: FrozenTrial,
    ticket: int,
    queue: Iterable[tuple[int, writes.Operation]],
    beside: Sequence[float] = (),
) -> list[tuple[int, writes.Operation]]:
    """Makes an end that is not yet written COMPLETE: it is unbeaten after all.

    Args:
        record: changed in place.
        queue: with the operations that `end_operations` gave for the ticket.
        beside: its goals beside the metric.

    Returns:
        The queue as it is to be written instead.
    """
    record.state = TrialState.COMPLETE
    record.values = [record.user_attrs["score"], *beside]
    changed: list[tuple[int, writes.Operation]] = []
    for owner, operation in queue:
        if owner == ticket and isinstance(operation, writes.Finish):
            operation = replace(operation, state=record.state, value=record.values[0], beside=tuple(beside))
        infeasible = isinstance(operation, writes.SetSystemAttr) and operation.key not in record.system_attrs
        if owner != ticket or not infeasible:  # no COMPLETE trial is infeasible
            changed.append((owner, operation))
    return changed


def clean(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces NaN and infinities by None: JSON has no word for them, and the dashboard's parser stops there."""
    short = {key: _shortened(value) for key, value in attrs.items()}
    text = json.dumps(short, default=str)
    cleaned: dict[str, Any] = json.loads(text, parse_constant=lambda constant: None)
    return cleaned


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MOST_TEXT:
        return f"... {value[-MOST_TEXT:]}"
    if isinstance(value, list) and len(value) >= LONG_CURVE:
        return [float(f"{number:.5g}") for number in value]
    return value
