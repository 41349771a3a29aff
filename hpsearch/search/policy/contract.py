"""The contract of a policy: what a free worker does next, and what becomes of a trial after an epoch.

A policy is pure: no clock, no files, no database. It shares the study's view (`hpsearch.search.view`), which the
study keeps and the policy reads; of the trials it knows what `add` and the other calls told it. Decisions are
seeded by the study's seed, the pieces begun so far and the new trial's number, so that a study that is rebuilt
from its stored trials decides as one that was never interrupted.

The life of a trial:

    begin() -> New          the study makes a trial in the database, which gives it a number
    start(number)           its hyperparameters; it runs
    report(...) -> CONTINUE | Stop | Pause
    begin() -> Resume       the study claims the paused trial; if another driver was first: add(), begin() again
    resume(number)          it runs again
    finish(record)          it has ended, for whatever reason

The trial's own end is none of the policy's business: the last epoch, early stopping and values that are not finite
are judged before by the trial's own curve (`hpsearch.service.live.judge`), and an epoch that ends the trial is not
reported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from optuna.trial import FrozenTrial

from hpsearch.search.outcome import Verdict


@dataclass(frozen=True, slots=True)
class New:
    """Begin a new trial."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class Resume:
    """Resume a paused trial."""

    number: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing now. Where no trial runs, the search is over."""


Step = New | Resume | Wait


@dataclass(frozen=True, slots=True)
class Continue:
    """The trial trains its next epoch.

    Attributes:
        notes: user attributes to be stored with the trial now; empty in most epochs.
    """

    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stop:
    """The trial ends."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Pause:
    """The trial's checkpoint is kept and its worker is free.

    Attributes:
        notes: user attributes to be stored with the trial, `PAUSED` among them.
    """

    notes: Mapping[str, Any]


Decision = Continue | Stop | Pause
CONTINUE = Continue()


class Policy(Protocol):
    """Decides for one study; values are those of the study's metric, in its own direction."""

    def begin(self, new: bool = True) -> Step:
        """Says what a free worker does next. Changes nothing, so it may be asked again.

        Args:
            new: whether a trial may still be begun.
        """

    def start(self, number: int) -> dict[str, Any]:
        """Returns the hyperparameters of a new trial and enters them into the view; the trial runs.

        The number may be another one than `begin` expected: two drivers begin different trials.
        """

    def resume(self, number: int) -> None:
        """Notes that a paused trial runs again."""

    def take_back(self, number: int) -> None:
        """Notes that a pause came to nothing: the trial continues from a checkpoint of before it."""

    def report(self, number: int, epoch: int, value: float) -> Decision:
        """Judges one epoch after which the trial could continue; the view has it already.

        A trial that continues from an older checkpoint reports its epochs once more, from the first.
        """

    def notes(self, number: int, epochs: int) -> dict[str, Any]:
        """Returns the user attributes that are stored with a trial that is resumed, or ends, after so many epochs."""

    def finish(self, trial: FrozenTrial) -> None:
        """Takes note of a trial's record, which has its `notes`; the view has it already."""

    def add(self, trial: FrozenTrial) -> None:
        """Takes note of an own trial as stored: when the study is rebuilt, and when another driver changed it."""

    def surplus(self, most: int) -> Sequence[int]:
        """Returns the paused trials to be ended so that at most so many are left, the least promising first.

        Where none is to be left, the best comes first: no other then becomes the study's best for a moment.
        """

    def why_left(self, number: int) -> str:
        """Says why a paused trial is not resumed when `begin` has said `Wait` and no trial runs, as in "others ..."."""
