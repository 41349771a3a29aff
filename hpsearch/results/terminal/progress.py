"""How a run stands, gathered from its callbacks; what every display shows."""

import math
import re
import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpsearch.contracts.callbacks import (
    FINISHED,
    Callback,
    FinishedTrial,
    RunningTrial,
    RunSummary,
    Standing,
    StudyInfo,
    WorkerNews,
)
from hpsearch.contracts.trial import EpochResult, StopKind
from hpsearch.study.specification import StudySpec
from hpsearch.text import counted, proposed, study_argument

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-~=*#"


class Progress(Callback):
    """The running trials, the finished ones by state and reason, and the best.

    Args:
        clock: seconds that only grow, replaced in tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._first_trial: float | None = None
        self._finished_before = 0
        self._begun_here = 0
        self.name = ""
        self.spec: StudySpec | None = None
        self.metric = "value"
        self.total = 0
        self.states: Counter[str] = Counter()
        self.stop_reasons: Counter[str] = Counter()
        self.running: dict[int, RunningTrial] = {}
        self.best: FinishedTrial | None = None
        self.loading: WorkerNews | None = None
        self.answer = ""  # the confirmed trial in words, of a study that was confirmed before this run

    @property
    def repeats(self) -> bool:
        """Whether the run trains configurations of a search anew, so that no trial of it is the best."""
        return self.spec is not None and self.spec.is_confirmation

    def trial_name(self, trial: RunningTrial | FinishedTrial) -> str:
        """Returns what a trial is called: in a confirmation by the search's trial that it repeats."""
        if self.spec is None:
            return f"trial {trial.number}"
        return self.spec.trial_name(trial.number, trial.hparams)

    def best_lines(self) -> list[str]:
        """Returns the confirmed trial, and the search's best; nothing in a run that trains repeats."""
        best = self.best
        if best is None or self.repeats:
            return []
        found = f"trial {best.number}, {self.metric} {number(best.score)} at epoch {best.best_epoch}"
        hparams = hparams_text(best.hparams)
        if self.answer:
            return [f"best: {self.answer}", f"best by the search alone: {found}  {hparams}"]
        return [f"best: {found}, not confirmed  {hparams}"]

    def on_worker(self, news: WorkerNews) -> None:
        if news.kind == "loading":
            self.loading = news if news.done < news.total else None
        elif news.kind in ("ready", "exit"):
            self.loading = None

    def on_study_start(self, info: StudyInfo) -> None:
        self.name, self.metric, self.total = info.spec.study.name, info.spec.study.metric, info.total
        self.spec = info.spec
        self.states, self.stop_reasons = Counter(info.finished), Counter(info.stop_reasons)
        self.best = info.best
        self._finished_before = self.finished

    def on_trial_start(self, trial: RunningTrial) -> None:
        self._first_trial = self._clock() if self._first_trial is None else self._first_trial
        self._begun_here += not trial.curve
        self.running[trial.number] = trial
        if self.loading is not None and self.loading.worker == trial.worker:
            self.loading = None

    def on_epoch(self, trial: RunningTrial, result: EpochResult) -> None:
        self.running[trial.number] = trial

    def on_trial_interrupted(self, number: int) -> None:
        self.running.pop(number, None)

    def on_trial_paused(self, trial: RunningTrial) -> None:
        self.running.pop(trial.number, None)

    def on_trial_end(self, trial: FinishedTrial) -> None:
        self.running.pop(trial.number, None)
        self.states[trial.state] += 1
        self.stop_reasons[trial.stop_reason] += 1
        if trial.is_best:
            self.best = trial

    def on_standing(self, standing: Standing) -> None:
        self.states, self.stop_reasons = Counter(standing.finished), Counter(standing.stop_reasons)
        self.states["PAUSED"] = standing.paused
        self.best = standing.best

    def on_study_end(self, summary: RunSummary) -> None:
        self.running.clear()
        self.states = Counter(summary.counts)
        self.stop_reasons = Counter(summary.stop_reasons)
        self.best = summary.best

    @property
    def finished(self) -> int:
        """COMPLETE, PRUNED and FAIL together."""
        return sum(self.states[state] for state in FINISHED)

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self._begun

    @property
    def seconds_left(self) -> float | None:
        """An estimate from this run's pace, 0 where only the last trials are left to be resumed. None at first.

        Where trials are paused, those that have begun are counted: nobody knows which will be resumed, and so much
        as was resumed beside them will be beside the others. Else those that have ended, and of running ones the
        share of their epochs. The time in which workers start counts in neither pace nor rest.
        """
        if self._first_trial is None or self.spec is None:
            return None
        if self.spec.pauses:
            done: float = self._begun_here - len(self.running)
            left: float = self.total - self.finished - self.states["PAUSED"] - len(self.running)
        else:
            share = sum(len(trial.curve) / trial.epochs for trial in self.running.values())
            ended = self.finished - self._finished_before
            done, left = ended + share if ended else 0.0, self.total - self.finished - share
        if done <= 0:
            return None
        rest = max(0.0, left) * (self._clock() - self._first_trial) / done
        if self.spec.study.timeout is None:
            return rest
        return min(rest, max(0.0, self.spec.study.timeout - self.elapsed))

    def was_left_paused(self, trial: FinishedTrial) -> bool:
        """Says whether a trial has ended because it was paused and others were resumed in its place."""
        return self.spec is not None and self.spec.pauses and trial.stop_reason == StopKind.PRUNER


def sparkline(values: Sequence[float], blocks: str = BLOCKS) -> str:
    """Returns the last 24 values as bars from the lowest to the highest; `x` where it is not finite.

    Values that span a factor of ten are drawn on a logarithmic scale, since losses fall that way.
    """
    shown = list(values)[-24:]
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return "x" * len(shown)
    logarithmic = min(finite) > 0 and max(finite) > 10 * min(finite)
    scaled = [math.log(value) if logarithmic else value for value in finite]
    low, span = min(scaled), max(scaled) - min(scaled)
    bars = iter(blocks[round((value - low) / span * (len(blocks) - 1)) if span else 0] for value in scaled)
    return "".join(next(bars) if math.isfinite(value) else "x" for value in shown)


def number(value: float | None) -> str:
    """Returns a number with four digits that count, or a dash."""
    return "-" if value is None else f"{value:.4g}"


METRIC_WORDS = {
    "loss": "loss",
    "error": "error",
    "top5_error": "top-5 error",
    "macro_f1": "macro F1",
    "mae": "mean absolute error",
    "hamming_error": "Hamming error",
    "subset_error": "subset error",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
    "average_precision": "average precision",
    "ece": "calibration error (ECE)",
}
"""What a metric of our own loop is called in a page, after the part that it was measured on."""
PART_WORDS = {"train": "training", "val": "validation", "test": "test"}

_METRIC = re.compile(rf"(?<![\w./-])({'|'.join(PART_WORDS)})_({'|'.join(METRIC_WORDS)})(?![\w/-]|\.\w)")


def in_words(text: str) -> str:
    """Returns a text with words for the names of our metrics, for pages; in code between backquotes they stay.

    >>> in_words("val_macro_f1 0.9, see `val_macro_f1`")
    'validation macro F1 0.9, see `val_macro_f1`'
    """
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part[:1] == "`" else _METRIC.sub(_metric_words, part) for part in parts)


def _metric_words(found: re.Match[str]) -> str:
    return f"{PART_WORDS[found[1]]} {METRIC_WORDS[found[2]]}"


def amount(value: float) -> str:
    """Returns what a trial takes: whole numbers in full, others with four digits that count."""
    return f"{value:,.0f}" if value >= 1000 or float(value).is_integer() else number(value)


def duration(seconds: float | None) -> str:
    """Returns h:mm:ss or m:ss, or a dash."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def hparams_text(hparams: Mapping[str, Any]) -> str:
    """Returns hyperparameters in one line."""
    return " ".join(f"{name}={hparam(value)}" for name, value in hparams.items())


def hparam(value: Any) -> str:
    """Returns one hyperparameter's value as it is read best."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def precision_text(asked: str, used: str) -> str:
    """Returns the number type that a trial computes in, and whether `train.precision` left it to the device."""
    return f"{used} (auto)" if asked == "auto" else used


def counts_text(states: Mapping[str, int], reasons: Mapping[str, int], interrupted: int = 0) -> str:
    """Returns the trials by state and why they stopped, in one line.

    Args:
        interrupted: that are RUNNING in the database, and that nobody trains.
    """
    order = ("COMPLETE", "PRUNED", "FAIL", "PAUSED", "RUNNING", "interrupted", "WAITING")
    states = {**states, "RUNNING": states.get("RUNNING", 0) - interrupted, "interrupted": interrupted}
    by_state = ", ".join(f"{states[state]} {state}" for state in order if states.get(state))
    by_reason = ", ".join(
        f"{reason} {count}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1])
    )
    return f"{by_state or 'no trial yet'}{f'; stop reasons: {by_reason}' if by_reason else ''}"


def opening_lines(info: StudyInfo) -> list[str]:
    """Returns what is said when a run begins."""
    done = sum(info.finished.values())
    going_on = f", {done} of them finished before" if done else ""
    return [
        f"{info.spec.study.name}: {counted(info.total, 'trial')}{going_on}; {info.storage}; files in {info.folder}",
        f"{counted(len(info.workers), 'worker')}: {', '.join(info.workers)}",
        *info.spec.data.split.each_trial,
    ]


def ended_line(trial: FinishedTrial, progress: Progress) -> str:
    """Returns one finished trial in one line."""
    metric = progress.metric
    where = f" at epoch {trial.best_epoch}" if trial.best_epoch else ""
    detail = f": {trial.detail}" if trial.detail else ""
    is_best = trial.is_best and not progress.repeats and not progress.was_left_paused(trial)
    best = ", the best so far" if is_best else ""
    return (
        f"{progress.trial_name(trial)} {trial.state} after {counted(trial.epochs_run, 'epoch')}, "
        f"{metric} {number(trial.score)}{where}{best} ({trial.stop_reason}{detail})"
    )


def closing_lines(
    summary: RunSummary,
    again: str | None = "",
    answer: Sequence[str] | None = None,
    repeats: bool = False,
    metric: str = "value",
    confirmed: str = "",
    has_own_code: bool = False,
) -> list[str]:
    """Returns what a run says at its end: result, best hyperparameters, weights, and what to try next.

    A run that failed before any trial was finished has only its error to tell, which follows anyway.

    Args:
        again: the run's own command, to resume it; "": by the study's name; None: what to do next is told elsewhere.
        answer: the study's answer in words, if it is known.
        repeats: whether it trained configurations of a search anew: what came of that is told elsewhere.
        metric: of the best trial's value, which is told where the answer is not known.
        confirmed: the confirmed trial in words, likewise.
        has_own_code: whether the study names modules of its own.
    """
    if summary.failed and not summary.any_finished:
        return []
    pace = f", {counted(summary.epochs, 'epoch')}" if summary.epochs else ""
    reason = summary.reason.partition("\n")[0].rstrip(":")  # the rest is in the error that follows
    lines = [
        f"{summary.study}: {reason} ({duration(summary.seconds)}{pace})",
        f"trials: {counts_text(summary.counts, summary.stop_reasons, summary.interrupted)}",
    ]
    if not repeats:
        lines += answer or _best_lines(summary, metric, confirmed)
    commands = _next_commands(summary, again, repeats, bool(confirmed), has_own_code)
    return [*lines, *(["next:"] if commands else []), *(f"  {command}" for command in commands)]


def _best_lines(summary: RunSummary, metric: str, confirmed: str) -> list[str]:
    best = summary.best
    if best is None and not any(summary.counts.get(state) for state in ("PRUNED", "FAIL")):
        return ["best: none yet, no trial is finished"]
    if best is None:
        return ["best: none, no trial was COMPLETE; the attribute stop_detail of the trials says why"]
    fit = f", fit: {best.attrs['fit']}" if best.attrs.get("fit") else ""
    found = (
        f"trial {best.number}, {metric} {number(best.score)} at epoch {best.best_epoch} of {best.epochs_run}"
    )
    said = (
        [f"best: {confirmed}", f"best by the search alone: {found}{fit}"]
        if confirmed
        else [f"best: {found}, not confirmed{fit}"]
    )
    return [
        *said,
        *(f"  {name} = {hparam(value)}" for name, value in best.hparams.items()),
        f"weights: {best.weights or 'not kept'}",
    ]


def _next_commands(
    summary: RunSummary, again: str | None, repeats: bool, is_confirmed: bool, has_own_code: bool
) -> list[str]:
    if again is None:
        return []
    if repeats:
        return [f"{again}    # resumes it"] if again and summary.can_go_on else []
    name = study_argument(summary.study, has_own_code)
    first = "refit" if is_confirmed else "confirm"
    commands = [f"{first} {name}", f"report {name}", "dashboard"]
    if summary.lost:  # and so for every other command
        commands = []
    elif not summary.best:
        commands = [f"export {name}", "dashboard"]
    commands = [proposed(f"hpsearch {command}") for command in commands]
    if summary.can_go_on:
        again = again or proposed(f"hpsearch run {name}")
        return [*_moved_away(summary.damaged), f"{again}    # resumes it", *commands]
    return commands


def _moved_away(file: str) -> list[str]:
    """Returns the command that moves a damaged database away, its log too; none without one."""
    if not file:
        return []
    folder = shlex.quote(str(Path(file).with_name("damaged")))
    return [f"mkdir -p {folder} && mv {shlex.quote(file)}* {folder}"]
