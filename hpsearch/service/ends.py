"""What the end of an attempt means for its trial: it ends with it, or it is tried again."""

from collections.abc import Collection
from dataclasses import dataclass

from hpsearch.contracts.messages import EndKind, TrialEnd
from hpsearch.contracts.trial import StopKind
from hpsearch.search.outcome import Verdict
from hpsearch.service.live import LiveTrial


@dataclass(frozen=True, slots=True)
class Postponed:
    """A trial of this driver that waits for a worker.

    Attributes:
        failures: attempts in a row without a new checkpoint, with which it is tried again.
        avoid: the worker that has just died of it, or it of the worker: another one is to try.
        beside: the trials in whose company it found no room: it waits until one of them has left.
        alone: whether it gets a worker of its own: too many have died of it or of another of their trials.
        text: a sentence for the user; "" where nothing is to be told.
        why: what is stored with the trial, for the same reason.
    """

    number: int
    failures: int
    avoid: int | None = None
    beside: frozenset[int] = frozenset()
    alone: bool = False
    text: str = ""
    why: str = ""


def after_end(
    end: TrialEnd,
    trial: LiveTrial,
    decided: Verdict | None,
    company: Collection[int],
    beside: frozenset[int],
    max_attempts: int,
) -> Verdict | Postponed:
    """Says what becomes of a trial whose attempt its worker has ended.

    A trial that found no room beside others is tried again; alone, or again and again, it is too large. It
    counts as beside others if any have trained there since it began: they may just have ended.

    Args:
        decided: why it was to end, if it was.
        company: the trials that have shared its memory.
        beside: those that still do.
    """
    number, failures = trial.number, trial.failures_with_this
    match end.kind:
        case EndKind.FINISHED | EndKind.STOPPED | EndKind.PRUNED:
            return decided or Verdict.of(end)
        case EndKind.PREEMPTED:
            return given_back(trial)
        case EndKind.UNSAVED:
            return Postponed(number, trial.failures)
        case EndKind.OUT_OF_MEMORY:
            if not company or failures >= max_attempts:
                return Verdict(StopKind.OUT_OF_MEMORY, end.detail)
            others = ", ".join(map(str, sorted(company)))
            why = f"{end.detail} (attempt {trial.attempt}, beside trials {others})"
            text = f"trial {number}: {why}; it is tried again when one of them has ended"
            return Postponed(number, failures, beside=beside, text=text, why=why)
        case EndKind.ERROR:
            if failures >= max_attempts or end.hopeless:
                return Verdict(StopKind.ERROR, end.detail)
            return Postponed(number, failures, text=_again(trial, end.detail))


def after_exit(
    trial: LiveTrial, detail: str, avoid: int | None, has_company: bool, max_attempts: int
) -> Verdict | Postponed:
    """Says what becomes of a trial whose worker has died.

    Only a death that hit it alone can fail a trial: after too many others, it gets a worker of its own.

    Args:
        detail: how the worker died.
        avoid: the worker, if another one is to try it.
        has_company: whether the worker had other trials too.
    """
    if trial.failures_with_this < max_attempts:
        return Postponed(trial.number, trial.failures_with_this, avoid, text=_again(trial, detail))
    if has_company:
        return Postponed(trial.number, trial.failures, alone=True, text=_again(trial, detail, " alone"))
    return Verdict(StopKind.ERROR, detail)


def given_back(trial: LiveTrial) -> Postponed:
    """Returns how a trial waits that was interrupted by no fault of its own."""
    return Postponed(trial.number, 0 if trial.progress else trial.failures)


def _again(trial: LiveTrial, detail: str, how: str = "") -> str:
    return f"trial {trial.number}, attempt {trial.attempt}: {detail}; it is tried again{how}"
