"""Simulated studies for benchmarks of what is said about studies: no training, all else is the project's own.

The samplers, the pruner, early stopping, scores, states and diagnoses are those of a real search (`StudyView`,
`LiveTrial`, `decide`); only a trial's curve is made up. A study reads as one from a database does.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from optuna.trial import FrozenTrial

from hpsearch.contracts.trial import EpochResult, StopKind
from hpsearch.results.stored.study import StudyRecord
from hpsearch.results.stored.study import as_record as as_study
from hpsearch.search.outcome import Verdict, decide, score
from hpsearch.search.stopping import Curve, build
from hpsearch.search.view import StudyView
from hpsearch.service.live import LiveTrial, as_record, attributes
from hpsearch.store.keys import SPECIFICATION
from hpsearch.store.queries import StoredStudy, StoredTrial
from hpsearch.study import StudySpec, parse_study
from hpsearch.study.file import stored_form
from hpsearch.study.search import Choices, Entry
from tests.benchmarks.search_methods import POLICIES, Answer, Own

SPACE: dict[str, Any] = {
    "learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
    "batch_size": [16, 32, 64, 128, 256],
    "epochs": {"low": 5, "high": 20},
    "train.weight_decay": {"low": 1e-6, "high": 1e-2, "log": True},
    "train.momentum": {"low": 0.0, "high": 0.99},
    "train.optimizer": ["sgd", "adam", "adamw"],
}
NOISE = 0.1
"""Standard deviation of the final loss between two trainings of one configuration."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What makes a trial good: a loss to be added, by the place of each hyperparameter in its range (0 to 1).

    Attributes:
        diverges: the probability that the training ends with NaN, by the same places.
    """

    loss: Callable[[Mapping[str, float]], float] = lambda places: 0.0
    diverges: Callable[[Mapping[str, float]], float] = lambda places: 0.0


def spec_of(sampler: str, seed: int, trials: int, search: Mapping[str, Any] | None = None) -> StudySpec:
    """Returns a study of a function with six hyperparameters and early stopping.

    Args:
        sampler: with the median pruner; or a policy that pauses trials.
    """
    tree: dict[str, Any] = {
        "study": {"name": "s", "trials": trials, "seed": seed},
        "train": {"function": "simulated:train"},
        "data": {"dataset": "none"},
        "search": dict(SPACE if search is None else search),
        "early_stopping": {"patience": 4},
    }
    if sampler in POLICIES:
        tree["study"]["policy"] = sampler
    else:
        tree |= {"pruner": {"name": "median"}, "sampler": {"name": sampler}}
    return parse_study(tree, source="simulated")


def simulate(spec: StudySpec, truth: Truth) -> StudyRecord:
    """Returns a study of which every trial was asked, judged and ended as in a search with one worker."""
    attrs = {SPECIFICATION: stored_form(spec), "metric": spec.study.metric}
    study = StoredStudy(1, spec.study.name, (spec.study.better,), attrs)
    return as_study(study, [stored(trial) for trial in (_paused if spec.pauses else _sampled)(spec, truth)])


def _paused(spec: StudySpec, truth: Truth) -> list[FrozenTrial]:
    """Returns the trials of a study that pauses them, in the order of their ends."""
    search, rng = Own(spec, POLICIES[spec.policy]), random.Random(spec.study.seed)
    curves: dict[int, list[float]] = {}
    while (number := search.begin()) is not None:
        if number not in curves:
            hparams = search.hparams[number]
            places = {name: place(entry, hparams[name]) for name, entry in spec.search.items()}
            curves[number] = list(_curve(int(hparams["epochs"]), places, truth, rng))
        answer = Answer.CONTINUE
        while answer is Answer.CONTINUE:
            epoch = len(search.live[number].results) + 1
            value, last = curves[number][epoch - 1], epoch == len(curves[number])
            answer = search.report(number, epoch, value, last, train_loss=2 / epoch)
    for number in search.policy.surplus(0):
        search.end(number, Verdict(StopKind.PRUNER))
    return search.records


def _curve(epochs: int, places: Mapping[str, float], truth: Truth, rng: random.Random) -> Iterator[float]:
    """Yields a trial's losses until it ends or diverges."""
    end = 1.0 + truth.loss(places) + rng.gauss(0, NOISE)
    breaks = rng.randint(1, epochs) if rng.random() < truth.diverges(places) else None
    for epoch in range(1, epochs + 1):
        yield math.nan if epoch == breaks else end + max(0, 3 - epoch) + 0.01 * rng.random()


def _sampled(spec: StudySpec, truth: Truth) -> list[FrozenTrial]:
    view, rng = StudyView(spec), random.Random(f"{spec.sampler.name} {spec.study.seed}")
    trials: list[FrozenTrial] = []
    for number in range(spec.trials):
        hparams = view.ask(number)
        trial = LiveTrial(number, number, number, 1, hparams, spec, None)
        places = {name: place(entry, hparams[name]) for name, entry in spec.search.items()}
        verdict = _train(trial, view, places, truth, rng)
        best = score(trial.values(spec.study.metric), spec.study.better)
        value = best[0] if best else None
        state = decide(verdict.kind, value, view.board, spec.early_stopping.outcome)
        facts = attributes(trial, verdict, best, None, spec.fit, None)
        values = None if value is None else [value]
        record = as_record(trial, spec.study.metric, state, values, facts, view.space, view.rungs(number))
        view.replace(record)
        trials.append(record)
    return trials


def stored(trial: FrozenTrial) -> StoredTrial:
    """Returns a trial as it is read from a database."""
    return StoredTrial(
        trial_id=trial.number,
        number=trial.number,
        state=trial.state.name,
        values=tuple(trial.values or ()),
        hparams=trial.params,
        reports=trial.intermediate_values,
        user_attrs=trial.user_attrs,
        started=trial.datetime_start,
        ended=trial.datetime_complete,
    )


def first(record: StudyRecord, count: int) -> StudyRecord:
    """Returns a study as it was after so many trials."""
    return replace(record, trials=record.trials[:count])


def place(entry: Entry, value: Any) -> float:
    """Returns where in its range a value lies, from 0 to 1; choices by their order in the list."""
    if isinstance(entry, Choices):
        return entry.labels().index(value) / max(1, len(entry.choices) - 1)
    scale = math.log if entry.log else float
    return (scale(value) - scale(entry.low)) / (scale(entry.high) - scale(entry.low))


def _train(
    trial: LiveTrial, view: StudyView, places: Mapping[str, float], truth: Truth, rng: random.Random
) -> Verdict:
    epochs = int(trial.hparams.get("epochs", trial.spec.train.epochs))
    criterion = build(trial.spec.early_stopping, epochs)
    for epoch, value in enumerate(_curve(epochs, places, truth, rng), start=1):
        trial.results.append(
            EpochResult(trial.number, 1, epoch, {"train_loss": 2 / epoch, "val_loss": value})
        )
        view.report(trial.number, epoch, value)
        if math.isnan(value):
            return Verdict(StopKind.DIVERGED)
        if epoch == epochs:
            return Verdict(StopKind.FINISHED)
        curve = Curve(tuple(trial.values("val_loss")), tuple(trial.values("train_loss")))
        if criterion is not None and criterion.judge(curve) is not None:
            return Verdict(StopKind.EARLY_STOPPING)
        if view.should_prune(trial.number):
            return Verdict(StopKind.PRUNER)
    raise ValueError("a trial of no epochs")
