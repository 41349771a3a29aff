"""Which trial is a study's answer: the confirmed one if there is one, else the search's first; all commands ask here.

A confirmation decides by the mean over its repeats, the search by the best of many lucky values. So once a study
is confirmed, its answer is the configuration that the last confirmation puts first, until the next one. What the
search has found since is named, but was never confirmed and does not take its place.

Read from the search's user attributes: `confirm_summary` (also as older versions have stored it) and
`refit_summary`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hpsearch.results.terminal.progress import number
from hpsearch.store.keys import is_confirmation, is_ours

SUMMARY, REFIT = "confirm_summary", "refit_summary"
CONFIRMED, NOT_CONFIRMED, BY_SEARCH = "confirmed", "not confirmed", "by the search alone"

HparamsOf = Callable[[int], Mapping[str, Any] | None]
"""Gives a COMPLETE trial's hyperparameters by its number; None if there is no such trial."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What the last confirmation found of the configuration that it puts first.

    Attributes:
        study: what the search was called then.
        trial: the trial of the search that found the configuration.
        n: repeats that `mean` is over.
        interval: of the mean, 95 %; None where there is none.
        means: by trial, of all configurations that were compared.
    """

    study: str
    trial: int
    metric: str
    mean: float
    n: int
    interval: tuple[float, float] | None
    means: Mapping[int, float]

    @property
    def text(self) -> str:
        """Metric, mean and interval in words."""
        words = f"{self.metric} {number(self.mean)}, mean of {self.n} repeats"
        if self.interval is None:
            return words
        return f"{words}, 95 % interval {self.interval[0]:.4g} to {self.interval[1]:.4g}"


@dataclass(frozen=True, slots=True)
class Refit:
    """The model that `hpsearch refit` trained on training and validation part.

    Attributes:
        trial: the trial of the search whose configuration it has.
        number: its own trial in the linked study.
        epochs, planned: trained, and those that the learning rate's schedule spans.
        images: that it was trained on.
        test: metrics on the test part; empty while that is closed.
    """

    trial: int
    number: int
    epochs: int
    planned: int
    images: int
    test: Mapping[str, float]

    @property
    def text(self) -> str:
        """How it was trained and what the test part said, in words."""
        judged = ", ".join(f"{name} {number(value)}" for name, value in self.test.items())
        return (
            f"refit on {self.images} images, the training and the validation part, for {self.epochs} of "
            f"{self.planned} epochs; {judged or 'not tested'}"
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """A study's answer.

    Attributes:
        trial: its number in the search; None before a trial is COMPLETE.
        searched: what the search alone would have picked.
        confirmed: None without a confirmation, or when the search alone was asked for.
        refit: of this trial's configuration.
        news: a sentence about what the search has found since it was confirmed, or "".
        status: "confirmed", "not confirmed", "by the search alone" where a confirmation was left aside, or ""
            where nothing could be: for a study that hpsearch did not make, and for a confirmation itself.
    """

    trial: int | None
    searched: int | None
    confirmed: Confirmed | None = None
    refit: Refit | None = None
    news: str = ""
    status: str = ""

    @property
    def is_other(self) -> bool:
        """Whether the search alone would have picked another trial."""
        return self.trial != self.searched

    @property
    def text(self) -> str:
        """The status in words: "confirmed: val_loss 0.0436, ..." or "not confirmed"."""
        return f"{self.status}: {self.confirmed.text}" if self.confirmed is not None else self.status

    def sentences(self) -> list[str]:
        """Returns what must be known beside the answer itself."""
        said = []
        if self.is_other and self.searched is not None:
            said.append(f"the search alone would have picked trial {self.searched} (--search shows it)")
        if self.refit is not None:
            said.append(self.refit.text)
        return [*said, self.news] if self.news else said


def answer(
    study: str, attrs: Mapping[str, Any], searched: int | None, hparams_of: HparamsOf, by_search: bool = False
) -> Answer:
    """Decides.

    Args:
        attrs: the search's user attributes.
        searched: the best COMPLETE trial by the search's own values.
        by_search: leave the confirmation aside.
    """
    status = study_status(attrs)
    if not status:
        return Answer(searched, searched)
    confirmed = read_confirmed(attrs)
    if by_search:
        return Answer(searched, searched, status=BY_SEARCH if status == CONFIRMED else status)
    if confirmed is None or searched is None or hparams_of(confirmed.trial) is None:
        return Answer(searched, searched, refit=_refit(attrs, searched, hparams_of), status=NOT_CONFIRMED)
    refit, news = _refit(attrs, confirmed.trial, hparams_of), _news(study, confirmed, searched, hparams_of)
    return Answer(confirmed.trial, searched, confirmed, refit, news, CONFIRMED)


def study_status(attrs: Mapping[str, Any]) -> str:
    """Returns "confirmed", "not confirmed", or "" for a study that cannot be confirmed."""
    if not is_ours(attrs) or is_confirmation(attrs):
        return ""
    return NOT_CONFIRMED if read_confirmed(attrs) is None else CONFIRMED


def read_confirmed(attrs: Mapping[str, Any]) -> Confirmed | None:
    """Returns what the last confirmation put first; None without one, or if no repeat gave a value."""
    stored = attrs.get(SUMMARY)
    if stored is None:
        return None
    summary = json.loads(stored)
    metric = summary.get("metric")
    rows = {row["trial"]: row for row in summary.get("statistics", ()) if row["metric"] == metric}
    first = rows.get(summary.get("first"))
    if first is None:
        return None
    interval = first.get("interval_95")
    return Confirmed(
        study=summary["study"],
        trial=first["trial"],
        metric=metric,
        mean=first["mean"],
        n=first["n"],
        interval=(interval[0], interval[1]) if interval else None,
        means={trial: row["mean"] for trial, row in rows.items()},
    )


def _refit(attrs: Mapping[str, Any], trial: int | None, hparams_of: HparamsOf) -> Refit | None:
    """Returns the study's refit if it has this trial's configuration."""
    if REFIT not in attrs or trial is None:
        return None
    stored = json.loads(attrs[REFIT])
    refit = Refit(**{name: stored[name] for name in Refit.__dataclass_fields__})
    same = refit.trial == trial or hparams_of(refit.trial) == hparams_of(trial)
    return refit if same else None


def _news(study: str, confirmed: Confirmed, searched: int, hparams_of: HparamsOf) -> str:
    found = hparams_of(searched)
    if searched in confirmed.means or found in [hparams_of(trial) for trial in confirmed.means]:
        return ""
    return (
        f"trial {searched}, which the search puts first now, is not confirmed: run `hpsearch confirm {study}` "
        "again"
    )
