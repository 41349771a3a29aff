"""Which trial is a study's answer: the confirmed one if there is one, else the search's first; all commands ask here.

A confirmation decides by the mean over its repeats, the search by the best of many lucky values. So once a study
is confirmed, its answer is the configuration that the last confirmation puts first, until the next one. What the
search has found since is named, but was never confirmed and does not take its place.

Read from the search's user attributes: `confirm_summary` (also as older versions have stored it) and
`refit_summary`. What they name may be gone by now: then that is said.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hpsearch.results.stored.attributes import decoded, finite, integer, readable
from hpsearch.results.terminal.progress import number
from hpsearch.store.keys import EXPECTED, is_confirmation, is_ours
from hpsearch.study.specification import CONTINUE_SUFFIX, REFIT_SUFFIX, SUFFIX, linked_suffix
from hpsearch.text import counted

SUMMARY, REFIT = "confirm_summary", "refit_summary"
CONFIRMED, NOT_CONFIRMED, BY_SEARCH = "confirmed", "not confirmed", "by the search alone"
CHOSEN = "chosen by its number"

HparamsOf = Callable[[int], Mapping[str, Any] | None]
"""Gives a COMPLETE trial's hyperparameters by its number; None if there is no such trial."""

Linked = Mapping[str, Mapping[int, int | None]]
"""The confirmations and refits in the database, by name: which trial of the search each of their COMPLETE trials
repeats, by number; None where an older version did not store that."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What the last confirmation found of the configuration that it puts first.

    Attributes:
        study: what the search was called then.
        trial: the trial of the search that found the configuration.
        n: repeats that `mean` is over.
        interval: of the mean, 95 %; None where there is none.
        means: by trial, of all configurations that were compared.
        linked: the study with the repeats; "" if it is gone.
        by_folds: whether the repeats are folds.
    """

    study: str
    trial: int
    metric: str
    mean: float
    n: int
    interval: tuple[float, float] | None
    means: Mapping[int, float]
    linked: str = ""
    by_folds: bool = False

    @property
    def text(self) -> str:
        """Metric, mean and interval in words."""
        repeats = counted(self.n, "fold" if self.by_folds else "repeat")
        words = f"{self.metric} {number(self.mean)}, mean of {repeats}"
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
        study: the linked study.
    """

    trial: int
    number: int
    epochs: int
    planned: int
    images: int
    test: Mapping[str, float]
    study: str = ""

    @property
    def text(self) -> str:
        """How it was trained and what the test part said, in words."""
        judged = ", ".join(f"{name} {number(value)}" for name, value in self.test.items())
        return (
            f"refit on {self.images} images, the training and the validation part, for {self.epochs} of "
            f"{counted(self.planned, 'epoch')}; {judged or 'not tested'}"
        )


@dataclass(frozen=True, slots=True)
class Expected:
    """What the search's first is expected to come to when it is trained anew: the best of many is lucky.

    Attributes:
        promised: its value in the search.
        interval: of the mean over so many repeats, 80 %.
    """

    trial: int
    metric: str
    promised: float
    value: float
    interval: tuple[float, float]
    repeats: int

    @property
    def text(self) -> str:
        """The same in words."""
        low, high = map(number, self.interval)
        return (
            f"the best of many is partly luck: when trained again, expect {self.metric} {number(self.value)} (80 % "
            f"interval {low} to {high} for the mean of {counted(self.repeats, 'repeat')})"
        )


@dataclass(frozen=True, slots=True)
class ConfirmationStatus:
    """Whether a study is confirmed.

    Attributes:
        status: see `Answer`; never "by the search alone".
        confirmed: by which trial.
        notes: sentences about what the confirmation named and is gone.
    """

    status: str
    confirmed: Confirmed | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A study's answer.

    Attributes:
        trial: its number in the search; None before a trial is COMPLETE.
        searched: what the search alone would have picked.
        confirmed: None without a confirmation, or when the search alone was asked for.
        refit: of this trial's configuration.
        expected: what it is expected to come to; None where it is confirmed, or nothing can be said.
        news: a sentence about what the search has found since it was confirmed, or "".
        status: "confirmed", "not confirmed", "by the search alone" where a confirmation was left aside, or ""
            where nothing could be: for a study that hpsearch did not make, and for a confirmation itself.
        notes: sentences about what is gone, and about what a linked study is.
    """

    trial: int | None
    searched: int | None
    confirmed: Confirmed | None = None
    refit: Refit | None = None
    news: str = ""
    status: str = ""
    notes: tuple[str, ...] = ()
    expected: Expected | None = None

    @property
    def is_other(self) -> bool:
        """Whether the search alone would have picked another trial."""
        return self.trial != self.searched

    @property
    def of_search(self) -> str:
        """What is said behind the name of a figure of the search, where other weights than its own are the answer."""
        return "" if self.confirmed is None and self.refit is None else " in the search"

    @property
    def text(self) -> str:
        """The status in words: "confirmed: val_loss 0.0436, ..." or "not confirmed"."""
        return f"{self.status}: {self.confirmed.text}" if self.confirmed is not None else self.status

    def sentences(self) -> list[str]:
        """Returns what must be known beside the answer itself."""
        said = []
        if self.is_other and self.searched is not None and self.status != CHOSEN:
            said.append(f"the search alone would have picked trial {self.searched} (--search shows it)")
        if self.expected is not None:
            said.append(self.expected.text)
        if self.refit is not None:
            said.append(self.refit.text)
        return [*said, *self.notes, *filter(None, [self.news])]


def answer(
    study: str,
    attrs: Mapping[str, Any],
    searched: int | None,
    hparams_of: HparamsOf,
    linked: Linked,
    by_search: bool = False,
) -> Answer:
    """Decides.

    Args:
        attrs: the study's user attributes.
        searched: the best COMPLETE trial by the search's own values.
        by_search: leave the confirmation aside.

    Raises:
        StorageError: an attribute is damaged.
    """
    found = confirmation_status(study, attrs, hparams_of, linked)
    if not found.status:
        return Answer(searched, searched, notes=_about_linked(study, attrs, searched, hparams_of, linked))
    if by_search:
        status = BY_SEARCH if found.confirmed else found.status
        return Answer(searched, searched, status=status, expected=_expected_of(study, attrs, searched))
    confirmed = found.confirmed
    expected = _expected_of(study, attrs, searched) if confirmed is None else None
    trial = searched if confirmed is None else confirmed.trial
    refit, lost = _refit(study, attrs, trial, hparams_of, linked)
    news = "" if confirmed is None or searched is None else _news(study, confirmed, searched, hparams_of)
    return Answer(trial, searched, confirmed, refit, news, found.status, (*found.notes, *lost), expected)


def confirmation_status(
    study: str, attrs: Mapping[str, Any], hparams_of: HparamsOf, linked: Linked
) -> ConfirmationStatus:
    """Decides whether a study is confirmed, and by which trial; nothing else does.

    Raises:
        StorageError: the attribute is damaged.
    """
    if not is_ours(attrs) or is_confirmation(attrs):
        return ConfirmationStatus("")
    confirmed = read_confirmed(study, attrs)
    if confirmed is None:
        return ConfirmationStatus(NOT_CONFIRMED)
    if hparams_of(confirmed.trial) is None:
        lost = (
            f"trial {confirmed.trial}, which was confirmed, is gone from the study: run `hpsearch confirm {study}` "
            "again"
        )
        return ConfirmationStatus(NOT_CONFIRMED, None, (lost,))
    name = _present(linked, study + SUFFIX, confirmed.study + SUFFIX)
    if name is None:
        lost = (
            f'the study "{study}{SUFFIX}", which holds the repeats, was deleted or renamed: run `hpsearch confirm '
            f"{study}` to train them again"
        )
        return ConfirmationStatus(CONFIRMED, confirmed, (lost,))
    return ConfirmationStatus(CONFIRMED, replace(confirmed, linked=name))


def read_summary(study: str, attrs: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns what the last confirmation has stored; None without one.

    Raises:
        StorageError: it is damaged.
    """
    summary: Mapping[str, Any] | None = decoded(study, attrs, SUMMARY, dict, None)
    return summary


def read_confirmed(study: str, attrs: Mapping[str, Any]) -> Confirmed | None:
    """Returns what the last confirmation put first; None without one, or if no repeat gave a value.

    Raises:
        StorageError: it is damaged.
    """
    summary = read_summary(study, attrs)
    if summary is None:
        return None
    with readable(study, SUMMARY):
        metric = summary["metric"]
        rows = {integer(row["trial"]): row for row in summary["statistics"] if row["metric"] == metric}
        first = rows.get(summary["first"])
        if first is None:
            return None
        interval = first.get("interval_95")
        return Confirmed(
            study=str(summary["study"]),
            trial=integer(first["trial"]),
            metric=str(metric),
            mean=finite(first["mean"]),
            n=integer(first["n"]),
            interval=(finite(interval[0]), finite(interval[1])) if interval else None,
            means={trial: finite(row["mean"]) for trial, row in rows.items()},
            by_folds="folds" in summary,
        )


def read_expected(study: str, attrs: Mapping[str, Any]) -> Expected | None:
    """Returns what is expected of the trial that the search put first when it was last left; None without it.

    Raises:
        StorageError: it is damaged.
    """
    stored = decoded(study, attrs, EXPECTED, dict, None)
    if stored is None:
        return None
    with readable(study, EXPECTED):
        promised, value, low, high = (finite(stored[name]) for name in ("promised", "value", "low", "high"))
        metric, trial, repeats = str(attrs["metric"]), integer(stored["trial"]), integer(stored["repeats"])
        return Expected(trial, metric, promised, value, (low, high), repeats)


def _expected_of(study: str, attrs: Mapping[str, Any], trial: int | None) -> Expected | None:
    found = read_expected(study, attrs)
    return found if found is not None and found.trial == trial else None


def _refit(
    study: str, attrs: Mapping[str, Any], trial: int | None, hparams_of: HparamsOf, linked: Linked
) -> tuple[Refit | None, tuple[str, ...]]:
    """Returns the study's refit if it has this trial's configuration, and what is to be said if it is gone."""
    stored = decoded(study, attrs, REFIT, dict, None)
    if stored is None or trial is None:
        return None, ()
    with readable(study, REFIT):
        whole = {name: integer(stored[name]) for name in ("trial", "number", "epochs", "planned", "images")}
        test = {str(name): finite(value) for name, value in stored["test"].items()}
        refit = Refit(**whole, test=test, study=str(stored.get("study", "")))
    if refit.trial != trial and hparams_of(refit.trial) != hparams_of(trial):
        return None, ()
    name = _present(linked, study + REFIT_SUFFIX, refit.study)
    if name is None:
        what = f'the study "{study}{REFIT_SUFFIX}", which holds the refit, was deleted or renamed'
    elif not _is_of(refit, linked[name], hparams_of):
        what = f'trial {refit.number} of the study "{name}", which was the refit, is gone'
    else:
        return replace(refit, study=name), ()
    return None, (f"{what}: run `hpsearch refit {study}` to train it again",)


def _is_of(refit: Refit, trials: Mapping[int, int | None], hparams_of: HparamsOf) -> bool:
    """Says whether the refit's trial is there and has the configuration that it is said to have."""
    if refit.number not in trials:
        return False
    repeats = trials[refit.number]
    return repeats in (None, refit.trial) or hparams_of(repeats) == hparams_of(refit.trial)


def _present(linked: Linked, *names: str) -> str | None:
    return next((name for name in names if name in linked), None)


def _about_linked(
    study: str, attrs: Mapping[str, Any], searched: int | None, hparams_of: HparamsOf, linked: Linked
) -> tuple[str, ...]:
    """Returns what a confirmation's or a refit's own best trial is, which is nobody's answer."""
    suffix = linked_suffix(study)
    if suffix is None or searched is None or not is_confirmation(attrs):
        return ()
    search, hparams = study.removesuffix(suffix), hparams_of(searched) or {}
    if suffix == CONTINUE_SUFFIX:
        return (
            f"trials here continue those of the study {search}: `hpsearch best {search}` shows the answer",
        )
    repeats = linked.get(study, {}).get(searched)
    whose = f"trial {repeats}" if repeats is not None else "a trial"
    if suffix == REFIT_SUFFIX:
        what = f"the refit of {whose} of the study {search}; its training loss does not say how good it is"
    else:
        what = (
            f"repeat {hparams.get('train.repeat')} of {whose} of the study {search}, the best of all repeats"
        )
    return (f"trial {searched} is {what}: `hpsearch best {search}` shows the answer",)


def _news(study: str, confirmed: Confirmed, searched: int, hparams_of: HparamsOf) -> str:
    found = hparams_of(searched)
    if searched in confirmed.means or found in [hparams_of(trial) for trial in confirmed.means]:
        return ""
    return (
        f"trial {searched}, which the search puts first now, is not confirmed: run `hpsearch confirm {study}` "
        "again"
    )
