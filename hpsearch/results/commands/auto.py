"""`hpsearch auto`: from a folder of photographs to a model folder, within so many minutes.

The search gets half of the time at first. What is left then decides what follows: a refit, and as many repeats
as fit before it. The search continues with the time that neither needs. Where not even a refit fits, it continues to
the end, or its trials end as they are.
"""

import shlex
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hpsearch.contracts.callbacks import RunSummary
from hpsearch.errors import UserError
from hpsearch.files.atomic import write_output
from hpsearch.files.model_folder import refuse_foreign
from hpsearch.files.paths import are_same, is_folder, is_there, refuse_unwritable
from hpsearch.results.commands import api
from hpsearch.results.commands.proposal import Proposal, propose
from hpsearch.results.stored.reading import read_study
from hpsearch.results.stored.study import StudyRecord, TrialRecord
from hpsearch.results.terminal.display import Display, choose_display
from hpsearch.service.launch import make_folder
from hpsearch.service.signals import Signalled
from hpsearch.study import StudySpec, load_study_file
from hpsearch.text import proposed, say

SEARCH = 0.5
"""Share of the time for training in which is searched; the refit of a long trial takes most of the rest, and would not
fit with a larger one."""

BESIDE = 25.0
"""Seconds that are not for training: to look, to check, to start three runs and to write the report."""

PLANS = ((3, 3), (2, 3), (1, 3), (1, 2), (0, 0))
"""Configurations and repeats of each that may be confirmed, the most first."""

START = 5.0
"""Seconds, at least, until the workers of a run have imported torch and read the pictures, and until what was found is
written. The check has to do the same, and is timed, and so is the run: on a machine that others use too it may take
much longer."""

WORTH = 15.0
"""Seconds of search for which the workers are started once more."""

AT_ONCE = 0.1
"""Seconds of a search that only ends the trials that were paused."""

MOST = 365 * 24 * 60
"""Minutes."""

SLACK = 1.3
"""So many times what an epoch of the search took is reckoned for one of a repeat."""


def write_study(
    folder: Path,
    minutes: float,
    output: Path,
    run_folder: Path,
    workers: int | None = None,
    gpus: str = "auto",
    seed: int = 0,
) -> Proposal:
    """Proposes a study for a folder of photographs and writes its file.

    Raises:
        UserError: the file is there already, or cannot be written; or what `propose` raises.
    """
    _check_minutes(minutes)
    if is_there(output, "--output"):
        raise UserError(f"--output: {output} already exists; remove it, or name another file")
    if output.suffix != ".toml":
        raise UserError(f'--output: "{output}" does not end in .toml, as study files do; add it')
    refuse_unwritable(output, "--output")
    cache = run_folder / "cache"
    make_folder(cache)
    found = propose(folder, minutes, cache, workers, gpus, seed)
    if is_there(output, "--output"):  # of another call, which may run the study by now
        raise UserError(f"--output: {output} was written meanwhile by another call; name another file")
    write_output(output, found.text.encode(), "--output")
    return found


def _check_minutes(minutes: float) -> None:
    if not 0 < minutes <= MOST:
        raise UserError(f"--minutes: must be above 0 and at most {MOST:,} (a year), got {minutes:g}")


@dataclass(frozen=True, slots=True)
class Rest:
    """What follows the search.

    Attributes:
        top: configurations that are confirmed; 0: none.
        repeats: of each.
        refit: whether one is trained on all pictures at last.
        seconds: that it all takes.
        reserve: seconds to keep for it; a search that continues may end with a longer best trial, which is to be
            trained again as well.
    """

    top: int
    repeats: int
    refit: bool
    seconds: float
    reserve: float = 0.0


class _Interrupted(Exception):
    """A signal ended a step: what was begun waits to be resumed."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass
class Auto:
    """One call of the command; a second one continues with the study file that the first has written.

    Attributes:
        again: how a second one is made.
        began, start: when it did, and seconds until a run trains.
    """

    folder: Path
    minutes: float
    output: Path
    save: Path
    storage: str
    run_folder: Path
    workers: int | None = None
    gpus: str = "auto"
    seed: int | None = None
    again: str = "the same call"
    began: float = field(default_factory=time.monotonic)
    start: float = START

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return 60 * self.minutes - (time.monotonic() - self.began)

    @property
    def _searching(self) -> float:
        """Seconds in which is searched at first."""
        return SEARCH * max(60 * self.minutes - BESIDE, 30 * self.minutes)

    def make(self) -> int:
        """Does it all, and returns the exit status.

        Raises:
            HpsearchError: what any of the steps raises; what was trained before is kept.
        """
        try:
            return self._make()
        except _Interrupted as interrupted:
            self._tell_again()
            return interrupted.status
        except (KeyboardInterrupt, Signalled):  # between two runs
            self._tell_again()
            raise

    def _tell_again(self) -> None:
        say(f"next: {self.again}    # continues where this call stopped")

    def _make(self) -> int:
        _check_minutes(self.minutes)
        if is_there(self.save, "--save") and not is_folder(self.save, "--save"):
            raise UserError(
                f"--save: {self.save} is a file; name a folder, into which the model will be written"
            )
        refuse_unwritable(self.save, "--save")
        refuse_foreign(self.save)
        spec = self._study()
        self._head("check")
        checking = time.monotonic()
        from hpsearch.results.terminal.check_lines import report_lines

        say(
            *report_lines(
                api.check(
                    self.output,
                    workers=self.workers,
                    gpus=self.gpus,
                    device="cpu" if self.gpus == "none" else "auto",
                    run_folder=self.run_folder,
                    progress=False,
                )
            )
        )
        self.start = max(START, time.monotonic() - checking)
        self._head("run")
        timeout = max(1.0, min(self._searching, self.left - 2 * self.start))
        running = time.monotonic()
        found = self._search(timeout, "wait")
        # What the run took beside its time, to begin and to end, is what the next ones will take.
        self.start = max(START, time.monotonic() - running - timeout)
        if found.counts.get("FAIL") and found.counts.keys() <= {"FAIL", "WAITING"}:
            say(f"no model: {found.reason}", err=True)
            return 1
        rest = self._rest(spec, found)
        more = self.left - 2 * self.start - (0.0 if rest is None else rest.reserve)
        if rest is not None and found.can_go_on and more > WORTH:
            say(f"{more:.0f} s are left beside what follows: the search continues")
            found = self._search(more, "wait")
            rest = self._rest(spec, found)
            more = self.left - 2 * self.start
        if rest is None and found.can_go_on and (more > WORTH or found.best is None):
            then = "the search continues" if more > WORTH else "the trials end with what they have"
            say(f"{self.left:.0f} s are left, too few to train a trial again: {then}")
            found = self._search(max(AT_ONCE, more), "end")
        if found.best is None:
            say(f"no trial finished in time; give more with --minutes, or continue: {self.again}", err=True)
            return 1
        confirmed = read_study(spec.study.name, self.storage).answer.confirmed  # by an earlier call
        if rest is not None and rest.top:
            self._confirm(spec, rest)
        elif confirmed is None:
            say(f"there is too little time to confirm the best trial; do it later: {self._again('confirm')}")
        if rest is not None and rest.refit:
            self._refit(spec, search=not rest.top and confirmed is None)
        self._head("report")
        say(*api.report(self.output, **self._place))
        answer = read_study(spec.study.name, self.storage).answer
        if spec.data.split.trains_all_folds and answer.confirmed is None and answer.refit is None:
            say(
                "no model yet: each trial trained one for each fold, without a part of the pictures, and there was no "
                f"time to train one on all; run {self._again('refit')} --search",
                err=True,
            )
            return 1
        from hpsearch.results.commands.models import save_best

        self._head("model")
        say(*save_best(spec.study.name, self.storage, self.save, self.run_folder))
        say(f"next: hpsearch predict {shlex.quote(str(self.save))} PICTURE ...")
        return 0

    def _study(self) -> StudySpec:
        self._head("init")
        if is_there(self.output, "--output"):
            spec = load_study_file(self.output)
            root = spec.data.root or "data"
            if not are_same(self.folder, root):
                raise UserError(
                    f"FOLDER: {self.folder} is not the folder of {self.output}, which already exists and has "
                    f"data.root = {root}; name that folder, or another file with --output"
                )
            if self.seed not in (None, spec.study.seed):
                raise UserError(
                    f"--seed: {self.seed} is not the seed of {self.output}, which already exists and has "
                    f"{spec.study.seed}; leave it out, or name another file with --output"
                )
            say(f"{self.output} already exists and is used as it is: study {spec.study.name}")
            return spec
        from hpsearch.results.commands.proposal import summary_lines

        found = write_study(
            self.folder,
            self._searching / 60,
            self.output,
            self.run_folder,
            self.workers,
            self.gpus,
            self.seed or 0,
        )
        say(*summary_lines(found, self.output)[:-1], f"wrote {self.output}")
        return load_study_file(self.output)

    @property
    def _place(self) -> dict[str, Any]:
        return {"storage": self.storage, "run_folder": self.run_folder}

    @property
    def _display(self) -> Display:
        """What shows a run; what follows it is this command's to say."""
        return choose_display(quiet=False, as_json=False, again=None, storage=self.storage)

    def _search(self, timeout: float, at_timeout: str) -> RunSummary:
        found = api.run(
            self.output,
            timeout=timeout,
            at_timeout=at_timeout,
            workers=self.workers,
            gpus=self.gpus,
            progress=self._display,
            **self._place,
        )
        assert found.summary is not None
        if found.summary.exit_status > 1:
            raise _Interrupted(found.summary.exit_status)
        return found.summary

    def _rest(self, spec: StudySpec, found: RunSummary) -> Rest | None:
        """Returns what the time that is left allows after the search; None if nothing."""
        if found.best is None:
            return None
        record = read_study(spec.study.name, self.storage)
        assert record.best is not None
        workers = self._count(spec)
        left = self.left - self.start  # the report takes time as well
        folds = spec.data.split.folds if spec.data.split.trains_all_folds else None
        once, refit = training_seconds(record) / (folds or 1), None
        with suppress(UserError):
            refit = self._refit_seconds(record, search=True)
        rest = fitting(left, once, refit, workers, self.start, folds)
        if rest is None:
            return None
        longest = max(trial_seconds(trial, record.planned_epochs(trial)) for trial in record.trials)
        return replace(rest, reserve=max(rest.seconds, self.start + SLACK * longest / trained_at_once(spec)))

    def _refit_seconds(self, record: StudyRecord, search: bool) -> float:
        """Returns how long the refit would take.

        Raises:
            UserError: the study cannot be refitted.
        """
        from hpsearch.results.confirm.refit import plan_refit

        plan = plan_refit(record, self.storage, search)
        assert record.spec is not None
        return trial_seconds(plan.trial, plan.epochs) / trained_at_once(record.spec)

    def _count(self, spec: StudySpec) -> int:
        """Returns the number of workers that there will be."""
        from hpsearch.contracts.executor import Workers
        from hpsearch.executors.choose import make_executor
        from hpsearch.files.run_folder import RunFolder

        runs = make_executor("local", RunFolder(self.run_folder, spec.study.name))
        count = len(runs.places(Workers(self.gpus, self.workers), spec.train.threads, "time"))
        runs.close(0.0)
        return count

    def _confirm(self, spec: StudySpec, rest: Rest) -> None:
        from hpsearch.results.confirm.words import confirmation_lines

        self._head("confirm")
        outcome = api.confirm(
            self.output,
            top=rest.top,
            seeds=None if spec.data.split.folds else rest.repeats,  # each fold is trained once
            workers=self.workers,
            gpus=self.gpus,
            **self._place,
        )
        if outcome.exit_status > 1:
            say(outcome.message, err=True)
            raise _Interrupted(outcome.exit_status)
        if outcome.confirmation is None:
            say(outcome.message, err=True)
        else:
            say(*confirmation_lines(outcome.confirmation, outcome.record))

    def _refit(self, spec: StudySpec, search: bool) -> None:
        """Trains on all pictures, unless there is too little time for it after all."""
        try:
            seconds = self._refit_seconds(read_study(spec.study.name, self.storage), search)
        except UserError as error:
            say(f"no model is trained on all pictures: {error}")
            return
        if self.left < self.start + SLACK * seconds:
            say(f"{self.left:.0f} s are left, too few to train on all pictures: {self._again('refit')}")
            return
        self._head("refit")
        # Side by side, so that a second one takes no longer; a third gains little more.
        seeds = min(self._count(spec), 3)
        refitted = api.refit(
            self.output, search=search, seeds=seeds if seeds > 1 else None, gpus=self.gpus, **self._place
        )
        say(*refitted.lines)
        if refitted.exit_status > 1:
            raise _Interrupted(refitted.exit_status)

    def _again(self, command: str) -> str:
        """Returns a command for the study, as it has to be typed."""
        return proposed(f"hpsearch {command} {shlex.quote(str(self.output))}")

    def _head(self, step: str) -> None:
        say("", f"== {step} ({max(0.0, self.left) / 60:.1f} minutes left)")


def training_seconds(record: StudyRecord) -> float:
    """Returns how long the longest of the best trials would take again, all its epochs."""
    best = [trial for trial in record.ranked if trial.state == "COMPLETE"][: PLANS[0][0]]
    return max((trial_seconds(one, record.planned_epochs(one)) for one in best), default=0.0)


def trial_seconds(trial: TrialRecord, epochs: int) -> float:
    """Returns how long so many epochs of a trial would take again; 0 where it is not known."""
    return epochs * (trial.seconds or 0.0) / max(1, trial.epochs_run)


def trained_at_once(spec: StudySpec) -> int:
    """Returns how often a trial's epoch trains each picture: a refit does once, a trial of five folds four times."""
    split = spec.data.split
    return split.folds - 1 if split.folds is not None and split.trains_all_folds else 1


def fitting(
    left: float,
    once: float,
    refit: float | None,
    workers: int,
    start: float = START,
    folds: int | None = None,
) -> Rest | None:
    """Returns the most that can be done in the time that is left; None if nothing.

    Args:
        left: seconds.
        once, refit: seconds of one repeat, and of the refit, which ends at the best epoch; None: there is none.
        start: seconds until a run trains.
        folds: that are the repeats of each configuration, whatever their number.
    """
    last = 0.0 if refit is None else start + SLACK * refit
    for top, seeds in PLANS:
        repeats = folds if folds and top else seeds
        rounds = -(-top * repeats // workers)
        seconds = last + (start + SLACK * once * rounds if top else 0.0)
        if 0 < seconds <= left:
            return Rest(top, repeats, refit is not None, seconds)
    return None
