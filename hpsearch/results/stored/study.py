"""A stored study as plain values: read once, then drawn, told and judged without a database."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from hpsearch.contracts.trial import PIECES, WHY
from hpsearch.errors import StudyFileError
from hpsearch.results.stored.answer import (
    CONFIRMED,
    Answer,
    ConfirmationStatus,
    Linked,
    answer,
    confirmation_status,
)
from hpsearch.store.keys import SPECIFICATION, stored_specification
from hpsearch.store.queries import StoredStudy, StoredTrial
from hpsearch.study.direction import Direction, front, is_better, sign
from hpsearch.study.footprint import taken
from hpsearch.study.search import SHORT
from hpsearch.study.specification import StudySpec

logger = logging.getLogger(__name__)

Curve = tuple[float | None, ...]
"""One value per epoch, from epoch 1; None where there is no finite number."""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial.

    Attributes:
        score: the best value of the study's metric over its epochs.
        train, val: losses per epoch. A trial that still runs has no training losses yet; one whose training
            function yields no validation loss has the metric in their place.
        started, ended: seconds since 1970.
        attrs: user attributes, as stored; empty for a study that hpsearch did not make.
    """

    number: int
    trial_id: int
    state: str
    score: float | None
    hparams: Mapping[str, Any]
    train: Curve
    val: Curve
    started: float | None
    ended: float | None
    attrs: Mapping[str, Any] = field(repr=False)

    @property
    def is_finished(self) -> bool:
        return self.state in ("COMPLETE", "PRUNED", "FAIL")

    @property
    def epochs_run(self) -> int:
        return int(self.attrs.get("epochs_run", len(self.val)))

    @property
    def best_epoch(self) -> int | None:
        epoch = self.attrs.get("best_epoch")
        return None if epoch is None else int(epoch)

    @property
    def seconds(self) -> float | None:
        """Training time, all attempts together; None if it was not stored."""
        seconds = self.attrs.get("seconds")
        return float(seconds) if seconds else None

    @property
    def stop_reason(self) -> str:
        return str(self.attrs.get("stop_reason", "unknown"))

    @property
    def taken(self) -> Mapping[str, float]:
        """What it takes beside what it reaches, as far as that is known."""
        return taken(self.attrs)

    @property
    def is_unfit(self) -> bool:
        """Whether it did not fit into memory, or broke a limit of the study."""
        return self.stop_reason in ("out_of_memory", "infeasible")

    @property
    def is_full(self) -> bool:
        """Whether its training went to its own end: all epochs, or early stopping."""
        return self.stop_reason in ("finished", "early_stopping")

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """(last epoch, order) of each piece that it was trained in; the order counts over the study's pieces."""
        return [(int(epoch), int(order)) for epoch, order in self.attrs.get(PIECES) or ()]

    @property
    def why(self) -> list[str]:
        """For each time that it was begun or resumed, why it was chosen."""
        return [str(sentence) for sentence in self.attrs.get(WHY) or ()]

    @property
    def fit(self) -> str:
        return str(self.attrs.get("fit", "unknown"))

    @property
    def place(self) -> str:
        """The worker that trained it, with its host."""
        worker = self.attrs.get("worker")
        name = "worker ?" if worker is None else f"worker {worker}"
        host = self.attrs.get("host")
        return f"{host} {name}" if host else name


@dataclass(frozen=True)
class StudyRecord:
    """One study with its trials, by number.

    Attributes:
        spec: None for a study that hpsearch did not make.
        attrs: the study's user attributes; empty for a study that hpsearch did not make.
        storage: the database's URL without its password.
        by_search: whether confirmations are to be left aside.
        linked: the confirmations and refits in its database.
    """

    name: str
    metric: str
    better: Direction
    spec: StudySpec | None
    trials: tuple[TrialRecord, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    storage: str = ""
    by_search: bool = False
    linked: Linked = field(default_factory=dict, repr=False)

    @cached_property
    def finished(self) -> tuple[TrialRecord, ...]:
        """The finished trials in the order in which they ended."""
        done = [trial for trial in self.trials if trial.is_finished]
        return tuple(sorted(done, key=lambda trial: (trial.ended or 0.0, trial.number)))

    @cached_property
    def ranked(self) -> tuple[TrialRecord, ...]:
        """The finished trials that have a score and keep the study's limits, best first."""
        kept = [trial for trial in self.finished if trial.stop_reason != "infeasible"]
        scored = [(self.cost(trial.score), trial) for trial in kept if trial.score is not None]
        return tuple(trial for _, trial in sorted(scored, key=lambda pair: (pair[0], pair[1].number)))

    @property
    def goals(self) -> tuple[str, ...]:
        """The goals beside the metric, each to be small."""
        return self.spec.study.beside if self.spec is not None else ()

    @cached_property
    def front(self) -> tuple[TrialRecord, ...]:
        """The COMPLETE trials that no other beats in all goals, the best by the metric first; none for one goal."""
        found = {
            t.number: t for t in self.ranked if t.state == "COMPLETE" and {*self.goals} <= t.taken.keys()
        }
        points = {
            number: (self.cost(trial.score or 0.0), *(trial.taken[name] for name in self.goals))
            for number, trial in found.items()
        }
        return tuple(found[number] for number in front(points)) if self.goals else ()

    @property
    def best(self) -> TrialRecord | None:
        """The best COMPLETE trial by the search's own values: no finished trial was ever better.

        Of several goals it is the first of the front, the best by the metric.
        """
        if self.front:
            return self.front[0]
        return next((trial for trial in self.ranked if trial.state == "COMPLETE"), None)

    @cached_property
    def answer(self) -> Answer:
        """Which trial the study's answer is, and what confirms it."""
        best = self.best
        searched = best.number if best else None
        return answer(self.name, self.attrs, searched, self._complete.get, self.linked, self.by_search)

    @cached_property
    def confirmation_status(self) -> ConfirmationStatus:
        """Whether it is confirmed, and by which trial, whatever is said of its refit."""
        return confirmation_status(self.name, self.attrs, self._complete.get, self.linked)

    @cached_property
    def _complete(self) -> Mapping[int, Mapping[str, Any]]:
        return {trial.number: trial.hparams for trial in self.trials if trial.state == "COMPLETE"}

    @property
    def chosen(self) -> TrialRecord | None:
        """The trial that is the study's answer."""
        number = self.answer.trial
        return next((trial for trial in self.trials if trial.number == number), None)

    def mark(self, trial: TrialRecord) -> str:
        """Returns what a trial is to the study: "confirmed", "best by the search alone", "best" or ""."""
        if self.answer.confirmed is not None and trial.number == self.answer.trial:
            return CONFIRMED
        if trial.number != self.answer.searched:
            return ""
        return (
            "best"
            if self.answer.confirmed is None or not self.answer.is_other
            else "best by the search alone"
        )

    def trial_name(self, trial: TrialRecord) -> str:
        """Returns what a trial is called: in a confirmation by the search's trial that it repeats."""
        if self.spec is None:
            return f"trial {trial.number}"
        return self.spec.trial_name(trial.number, trial.hparams)

    def count(self, state: str) -> int:
        """Returns the number of trials in a state."""
        return sum(trial.state == state for trial in self.trials)

    def hparam_names(self) -> list[str]:
        """Returns the searched hyperparameters: the three that matter most first, then by name."""
        names = {name for trial in self.trials for name in trial.hparams}
        return sorted(
            names, key=lambda name: (list(SHORT).index(name) if name in SHORT else len(SHORT), name)
        )

    def planned_epochs(self, trial: TrialRecord) -> int:
        """Returns how many epochs a trial was meant to run."""
        fixed = trial.epochs_run if self.spec is None else self.spec.train.epochs
        return int(trial.hparams.get("epochs", fixed))

    def last_stage_after(self, trial: TrialRecord) -> int:
        """Returns after which epoch the last stage of a trial began; 0 with a single one, or none."""
        if self.spec is None or not any(self.spec.values_of("train.stages")):
            return 0
        try:
            return self.spec.with_hparams(trial.hparams).train.last_stage_after
        except ValueError:  # of another program's trial
            return 0

    def is_better(self, one: float, other: float) -> bool:
        """Says whether a score is strictly better than another."""
        return is_better(self.better, one, other)

    def cost(self, score: float) -> float:
        """Returns a score so that less is better, or the score of such a cost."""
        return sign(self.better) * score

    def is_log(self, name: str) -> bool:
        """Says whether a hyperparameter is searched on a logarithmic scale."""
        entry = self.spec.search.get(name) if self.spec is not None else None
        return bool(getattr(entry, "log", False))


def as_record(
    study: StoredStudy, trials: Sequence[StoredTrial], storage: str = "", linked: Linked | None = None
) -> StudyRecord:
    """Returns a study and its own trials; of several objectives the first counts as its metric.

    Of a study that hpsearch did not make only what Optuna itself stores is read: its user attributes may have
    our names and mean something else.
    """
    attrs = study.user_attrs if study.is_ours else {}
    return StudyRecord(
        name=study.name,
        metric=str(attrs.get("metric", "value")),
        better=study.directions[0],
        spec=_specification(attrs, study.name),
        trials=tuple(_trial(trial, study.is_ours) for trial in trials),
        attrs=attrs,
        storage=storage,
        linked=linked or {},
    )


def _specification(attrs: Mapping[str, Any], name: str) -> StudySpec | None:
    if SPECIFICATION not in attrs:
        return None
    try:
        return stored_specification(attrs, name)
    except StudyFileError as error:  # stored by another version; the rest can be shown
        logger.warning("%s", error)
        return None


def _trial(trial: StoredTrial, ours: bool) -> TrialRecord:
    """Reads a trial; of another program's study each report is one epoch, whose steps may be anything that grows."""
    attrs = trial.user_attrs if ours else {}
    steps = range(1, max(trial.reports, default=0) + 1) if ours else sorted(trial.reports)
    reported = _curve([trial.reports.get(step) for step in steps])
    val = _curve(attrs.get("val_loss") or [])
    return TrialRecord(
        number=trial.number,
        trial_id=trial.trial_id,
        state=trial.state,
        score=_finite(attrs.get("score", _value(trial))),
        hparams=trial.hparams,
        train=_curve(attrs.get("train_loss") or []),
        val=val if any(value is not None for value in val) else reported,
        started=_seconds(trial.started),
        ended=_seconds(trial.ended),
        attrs=attrs,
    )


def _value(trial: StoredTrial) -> float | None:
    return trial.value if trial.state != "FAIL" else None


def _curve(values: Any) -> Curve:
    """Returns a curve as stored; what another program wrote in its place is none."""
    return tuple(map(_finite, values)) if isinstance(values, list | tuple) else ()


def _finite(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
