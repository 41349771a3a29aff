"""Drivers of one study without workers, clocks and databases: what a policy decides, with every fault in between."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from hpsearch.contracts.trial import PAUSED, StopKind
from hpsearch.search.outcome import decide
from hpsearch.search.policy.build import build_policy
from hpsearch.search.policy.contract import Continue, New, Pause, Resume, Stop, Wait
from hpsearch.search.policy.pieces import epochs_of
from hpsearch.search.view import StudyView
from hpsearch.study import StudySpec, parse_study

SEARCH = {
    "learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
    "batch_size": [16, 32, 64],
    "epochs": {"low": 4, "high": 12},
    "train.optimizer": ["sgd", "adam", "adamw"],
    "train.label_smoothing": {"low": 0.0, "high": 0.3, "step": 0.1},
}
FIXED = {name: entry for name, entry in SEARCH.items() if name != "epochs"}

Curve = Callable[[int, int], float]
"""The value of a trial's epoch, by number and epoch."""


def study(search: Any = None, **tables: Any) -> StudySpec:
    given = {"name": "s", "trials": 10, "metric": "val_error"} | tables.pop("study", {})
    return parse_study(
        {
            "study": given,
            "train": {"function": "a:b", "epochs": 9},
            "search": SEARCH if search is None else search,
            "sampler": {"name": "random"},
            "early_stopping": {"criterion": "none"},
            **tables,
        }
    )


def curves(seed: int, broken: float = 0.0, sign: float = 1.0, mixed: bool = False) -> Curve:
    """Returns random falling curves, of which a share turns into NaN or infinity somewhere."""

    def value(number: int, epoch: int) -> float:
        rng = random.Random(f"{seed} {number}")
        level, rate, breaks = rng.random(), rng.random(), rng.randint(1, 8) if rng.random() < broken else 0
        bad = rng.choice([math.nan, math.inf, -math.inf])
        noise = random.Random(f"{seed} {number} {epoch}").random() * 0.1
        return bad if epoch == breaks else sign * (level + math.exp(-rate * epoch) + noise - mixed)

    return value


@dataclass
class Database:
    """What is stored of a study: its trials by number."""

    trials: dict[int, FrozenTrial] = field(default_factory=dict)

    def store(
        self, number: int, state: TrialState, params: Any, values: Any, attrs: Any, spec: StudySpec
    ) -> None:
        space = StudyView(spec).space
        trial = create_trial(
            state=state,
            value=attrs.get("score") if state is TrialState.COMPLETE else None,
            params=params,
            distributions={name: space[name] for name in params},
            intermediate_values=values,
            user_attrs=attrs,
        )
        trial.number = number
        self.trials[number] = trial

    def update(self, number: int, spec: StudySpec, **attrs: Any) -> None:
        old = self.trials[number]
        self.store(number, old.state, old.params, old.intermediate_values, {**old.user_attrs, **attrs}, spec)

    @property
    def paused(self) -> list[int]:
        return [n for n, t in self.trials.items() if t.user_attrs.get(PAUSED) is not None]


class Driver:
    """One driver: a view, a policy and the trials that it trains."""

    def __init__(self, name: str, spec: StudySpec, database: Database, curve: Curve, log: list[Any]) -> None:
        self.name, self.spec, self.database, self.curve, self.log = name, spec, database, curve, log
        self.rebuild()

    def rebuild(self, mine: Sequence[int] = ()) -> None:
        """Begins anew from what is stored, and takes up its trials."""
        self.view = StudyView(self.spec)
        self.policy = build_policy(self.name, self.view)
        self.known = dict[int, FrozenTrial]()
        self.sync()
        self.live = {number: len(self.database.trials[number].intermediate_values) for number in mine}

    def sync(self) -> None:
        """Reads what other drivers did."""
        for number, trial in sorted(self.database.trials.items()):
            known = self.known.get(number)
            if known is trial:
                continue
            if known is None:
                self.view.add(trial)
            elif trial.state.is_finished() and not known.state.is_finished():
                self.view.replace(trial)
            self.policy.add(trial)
            self.known[number] = trial

    def begin(self) -> bool:
        """Gives a free worker something to do; says whether there was anything."""
        while True:
            new = len(self.database.trials) < self.spec.study.trials
            step = self.policy.begin(new)
            assert self.policy.begin(new) == step, "begin changes nothing"
            match step:
                case Wait():
                    return False
                case Resume(number) if number in self.database.paused:
                    self.policy.resume(number)
                    self.live[number] = len(self.database.trials[number].intermediate_values)
                    self.store(number, **self.policy.notes(number, self.live[number]))
                    self.log.append(("resume", number))
                    return True
                case Resume():
                    self.sync()  # another driver was first
                case New():
                    assert new
                    number = len(self.database.trials)
                    if number != self.view.next_number:
                        self.sync()
                    hparams = self.policy.start(number)
                    assert self.view.params(number) == hparams
                    self.database.store(number, TrialState.RUNNING, hparams, {}, {}, self.spec)
                    self.known[number] = self.database.trials[number]
                    self.live[number] = 0
                    self.log.append(("new", number, tuple(hparams.items())))
                    return True

    def store(self, number: int, **attrs: Any) -> None:
        self.database.update(number, self.spec, **attrs)
        self.known[number] = self.database.trials[number]

    def epoch(self, number: int) -> None:
        """Trains one epoch of a trial."""
        self.live[number] += 1
        epoch, stored = self.live[number], self.database.trials[number]
        value = self.curve(number, epoch)
        stored.intermediate_values[epoch] = value
        self.view.report(number, epoch, value)
        self.log.append(("epoch", number, epoch))
        if not math.isfinite(value):
            self.end(number, StopKind.DIVERGED)
        elif epoch == epochs_of(self.spec, stored.params):
            self.end(number, StopKind.FINISHED)
        else:
            match self.policy.report(number, epoch, value):
                case Stop(verdict):
                    self.end(number, verdict.kind)
                case Pause(notes):
                    assert notes[PAUSED] == epoch
                    self.store(number, **notes)
                    del self.live[number]
                case Continue(notes):
                    if notes:
                        self.store(number, **notes)

    def end(self, number: int, kind: StopKind) -> None:
        stored = self.database.trials[number]
        sign = 1 if self.spec.study.better == "minimize" else -1
        finite = [sign * value for value in stored.intermediate_values.values() if math.isfinite(value)]
        score = sign * min(finite) if finite else None
        state = decide(kind, score, self.view.board, "auto")
        attrs = {"score": score, "stop_reason": kind.value, "epochs_run": len(stored.intermediate_values)}
        attrs |= self.policy.notes(number, len(stored.intermediate_values))
        self.database.store(number, state, stored.params, stored.intermediate_values, attrs, self.spec)
        self.known[number] = self.database.trials[number]
        self.view.replace(self.known[number])
        self.policy.finish(self.known[number])
        self.live.pop(number, None)
        self.log.append(("end", number, kind))

    def close(self) -> None:
        """Ends what is left when the study ends."""
        for number in self.policy.surplus(0):
            self.end(number, StopKind.PRUNER)


def run(
    name: str, spec: StudySpec, curve: Curve, workers: int = 1, kills: Sequence[int] = (), order: int = 0
) -> tuple[Driver, list[Any]]:
    """Runs a whole study with one driver, which is rebuilt after so many epochs."""
    log: list[Any] = []
    driver, rng, epochs = Driver(name, spec, Database(), curve, log), random.Random(order), 0
    while True:
        while len(driver.live) < workers and driver.begin():
            pass
        if not driver.live:
            driver.close()
            return driver, log
        driver.epoch(rng.choice(sorted(driver.live)))
        epochs += 1
        if epochs in kills:
            driver.rebuild(sorted(driver.live))
