"""How long a study will take: its own sampling and stopping rules, acted out on made-up curves, timed by probes.

Nobody knows the curves before the study has run. So the best value of each hyperparameter is taken to lie anywhere
in its range and to matter little or much, and a trial's best epoch is anywhere among its epochs; the policy, the
sampler, the pruner and the early stopping are the study's own. A few studies are acted out: how far they lie apart
is how far luck can carry the one that is run.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import create_trial

from hpsearch.contracts.trial import StopKind
from hpsearch.search import stopping
from hpsearch.search.outcome import decide
from hpsearch.search.policy.build import build_policy
from hpsearch.search.policy.contract import New, Pause, Policy, Resume, Stop
from hpsearch.search.stopping import Curve
from hpsearch.search.view import StudyView
from hpsearch.study.direction import sign
from hpsearch.study.specification import PROPOSING, StudySpec

MOST_TRIALS = 120
MOST_EPOCHS = 4000
MOST_MODELLED = 2400
"""Trials and epochs that are acted out, under a policy with a model of the curves fewer; more would take longer than
they tell."""
STUDIES = 6
"""That are acted out at the most."""
NOISE = 0.2
"""Standard deviation of the noise between the epochs of a trial, as a share of its value."""
START = 0.035
"""Seconds from the end of one trial's piece to the beginning of the next: the decision, the database, the checkpoint.
Measured on the digits and on photographs of 32 pixels; that of large networks takes longer, as do their epochs."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A trial as it may come.

    Attributes:
        spec: the study with the sampled hyperparameters in place.
        epochs: that the trial has.
        trained: epochs until it is stopped.
        starts: how often it is begun or resumed.
    """

    spec: StudySpec
    epochs: int
    trained: int
    starts: int = 1


def studies(spec: StudySpec) -> list[list[Sample]]:
    """Returns the trials of each study that is acted out; the same at each call."""
    most = MOST_MODELLED if spec.policy in PROPOSING else MOST_EPOCHS
    found: list[list[Sample]] = []
    trained = 0
    for seed in range(STUDIES):
        study: list[Sample] = []
        for sample in _study(spec, seed):
            study.append(sample)
            trained += sample.trained
            # Where trials are paused, those that end first are no fair sample of the study.
            if not spec.pauses and trained > most:
                break
        found.append(study)
        if trained > most:
            break
    return found


def _study(spec: StudySpec, seed: int) -> Iterator[Sample]:
    """Acts out one study, piece after piece, as the driver would."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A Gaussian process takes longer than it tells here.
    sampler = spec.sampler.model_copy(update={"name": "tpe"}) if spec.sampler.name == "gp" else spec.sampler
    study = spec.study.model_copy(update={"seed": seed})
    view = StudyView(spec.model_copy(update={"study": study, "sampler": sampler}))
    policy = build_policy(spec.policy, view)
    generator = np.random.default_rng(seed)
    best = {name: (generator.uniform(), generator.uniform()) for name in view.space}
    acted: dict[int, _Acted] = {}
    while not spec.pauses or sum(one.trained for one in acted.values()) < MOST_EPOCHS:
        match policy.begin(len(acted) < min(spec.total_trials, MOST_TRIALS)):
            case New():
                number = len(acted)
                params = policy.start(number)
                own = spec.with_hparams(params)
                level = sum(
                    matters * (_place(view.space[name], params[name]) - place) ** 2
                    for name, (place, matters) in best.items()
                    if name in params
                )
                train = own.train
                criterion = stopping.build(own.early_stopping, train.epochs, train.last_stage_after)
                acted[number] = _Acted(number, own, _curve(own, level, generator), criterion)
            case Resume(number):
                policy.resume(number)
            case _:
                break
        trial = acted[number]
        trial.starts += 1
        if (kind := _train(view, policy, trial)) is not None:
            yield _end(view, policy, trial, kind)
    for number in policy.surplus(0):
        yield _end(view, policy, acted[number], StopKind.PRUNER)


@dataclass(slots=True)
class _Acted:
    """A trial that is acted out, after some of its epochs."""

    number: int
    spec: StudySpec
    curve: Curve
    criterion: stopping.Criterion | None
    trained: int = 0
    starts: int = 0


def _end(view: StudyView, policy: Policy, trial: _Acted, kind: StopKind) -> Sample:
    factor, trained = sign(trial.spec.study.better), trial.trained
    values = [factor * value for value in trial.curve.val[:trained]]
    value = factor * min(trial.curve.val[:trained])
    record = create_trial(
        state=decide(kind, value, view.board, trial.spec.early_stopping.outcome),
        value=value,
        params=view.params(trial.number),
        distributions=view.space.of(view.params(trial.number)),
        intermediate_values=dict(enumerate(values, 1)),
        user_attrs={
            "stop_reason": kind.value,
            "score": value,
            "epochs_run": trained,
            **policy.notes(trial.number, trained),
        },
        system_attrs=view.rungs(trial.number),
    )
    record.number = trial.number
    view.replace(record)
    policy.finish(record)
    return Sample(trial.spec, trial.spec.train.epochs, trained, trial.starts)


def _place(distribution: BaseDistribution, value: Any) -> float:
    """Returns where a value lies in its range, from 0 to 1."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices.index(value) / max(1, len(distribution.choices) - 1)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high, at = distribution.low, distribution.high, value
    if distribution.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low) if high > low else 0.0


def _curve(spec: StudySpec, level: float, generator: np.random.Generator) -> Curve:
    """Returns made-up losses that fall, faster in small batches, until an epoch that may be any, and then rise."""
    epochs, batch = spec.train.epochs, spec.train.batch_size
    best = int(generator.integers(1, epochs + 1))
    steps = 1.0 if batch == "full" else (64 / batch) ** 0.5
    number = np.arange(1, epochs + 1)
    val = level + 1 / (steps * np.minimum(number, best)) + 0.3 * np.maximum(number - best, 0) / epochs
    val *= np.exp(NOISE * generator.standard_normal(epochs))
    train = level + 1 / (steps * number)
    return Curve(tuple(val.tolist()), tuple(train.tolist()))


def _train(view: StudyView, policy: Policy, trial: _Acted) -> StopKind | None:
    """Trains a trial until it ends, or is paused; asks in the order in which the driver does."""
    curve, factor = trial.curve, sign(trial.spec.study.better)
    while True:
        value = factor * curve.val[trial.trained]
        trial.trained = epoch = trial.trained + 1
        view.report(trial.number, epoch, value)
        if epoch == len(curve.val):
            return StopKind.FINISHED
        if trial.criterion and trial.criterion.judge(Curve(curve.val[:epoch], curve.train[:epoch])):
            return StopKind.EARLY_STOPPING
        match policy.report(trial.number, epoch, value):
            case Stop():
                return StopKind.PRUNER
            case Pause():
                return None


def span(seconds: Sequence[float], trials: int, workers: int) -> float:
    """Returns how long workers need for so many trials, one after the other, of these lengths again and again."""
    busy = [0.0] * workers
    for number in range(min(trials, 10_000)):
        heapq.heapreplace(busy, busy[0] + seconds[number % len(seconds)])
    return max(busy) * max(1.0, trials / 10_000)


def between(size: float, small: tuple[float, float], large: tuple[float, float]) -> float:
    """Returns the value at a size on the line through two points (size, value)."""
    if math.isclose(small[0], large[0]):
        return large[1]
    share = (size - small[0]) / (large[0] - small[0])
    return small[1] + share * (large[1] - small[1])
