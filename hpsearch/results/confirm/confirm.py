"""A confirmation from begin to end: train anew, gather, open the test part, store, tell.

The studies' user attributes tell of it, see `stored`.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch.contracts.callbacks import Callback, Calls
from hpsearch.contracts.executor import Executor, Workers
from hpsearch.contracts.trial import TrialRun
from hpsearch.errors import HpsearchError, StudyNotFound, UserError
from hpsearch.executors.places import VISIBLE, plan
from hpsearch.files.run_folder import RunFolder
from hpsearch.results.confirm.images import read_images, write_images
from hpsearch.results.confirm.linked import (
    DETAILS,
    RESULTS,
    inherit_data,
    read_linked,
    read_results,
    record_opening,
    set_attrs,
    set_pictures,
)
from hpsearch.results.confirm.plan import (
    Candidate,
    candidates,
    is_value,
    known,
    linked_spec,
    planned_folds,
    repeats,
    tries,
)
from hpsearch.results.confirm.statistics import Values
from hpsearch.results.confirm.summary import (
    Confirmation,
    Result,
    ordered,
    result_of,
    shortfalls,
    trained_again,
)
from hpsearch.results.confirm.words import findings
from hpsearch.results.stored.answer import SUMMARY
from hpsearch.results.stored.attributes import decoded
from hpsearch.results.stored.reading import read_study
from hpsearch.results.stored.status import study_status
from hpsearch.results.stored.study import StudyRecord, TrialRecord
from hpsearch.results.terminal.progress import amount
from hpsearch.service.launch import RunOptions
from hpsearch.service.opening import DIGEST
from hpsearch.service.run import run
from hpsearch.store.identity import DriverState
from hpsearch.store.keys import SPECIFICATION
from hpsearch.study.file import digest, lost_order, refuse_foreign_places, refuse_other, stored_form
from hpsearch.study.specification import REPEAT, SUFFIX, StudySpec
from hpsearch.text import counted

if TYPE_CHECKING:
    from hpsearch.results.confirm.exam import Exam, ExamSetup

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `confirm` leaves behind.

    Attributes:
        confirmation: None when the trials are not all finished.
        message: what is left to do then.
        record: the confirmed study.
        stored: what `confirm_summary` holds now.
    """

    record: StudyRecord
    confirmation: Confirmation | None
    message: str = ""
    exit_status: int = 0
    stored: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Work:
    """What the steps share."""

    record: StudyRecord
    chosen: tuple[Candidate, ...]
    seeds: int
    spec: StudySpec
    options: RunOptions
    notes: list[str] = field(default_factory=list)

    @property
    def repeat(self) -> str:
        """What a repeat is called."""
        return "fold" if self.spec.data.split.folds else "repeat"

    def linked(self) -> StudyRecord:
        return read_study(self.spec.study.name, self.options.storage)

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.options.run_folder.absolute(), self.spec.study.name)

    def weights(self, trial: TrialRecord) -> Path | None:
        return weights_here(self.options, self.spec.study.name, trial)

    def compared(self, linked: StudyRecord) -> tuple[Candidate, ...]:
        """Returns the configurations to compare: those chosen, and those of earlier confirmations."""
        return (*self.chosen, *known(self.record, linked, self.chosen))


def confirm(
    study: str | None,
    options: RunOptions,
    *,
    given: StudySpec | None = None,
    top: int | None = None,
    seeds: int | None = None,
    folds: int | None = None,
    test: bool = True,
    callbacks: Sequence[Callback] = (),
    executor: Executor | None = None,
) -> Outcome:
    """Trains the best configurations anew and tests them; continues where an earlier call stopped.

    What broke off in an earlier call is trained once more.

    Args:
        given: this machine's own study file, which counts in place of what the database says.
        top, seeds: how many configurations and repeats; by default those of `[confirm]`.
        folds: repeat over so many folds instead, as by default where the study has `data.split.folds`.
        test: whether the test part may be opened.

    Raises:
        UserError: no such study, nothing to confirm, other data than the search's, or what `run` raises.
        HpsearchError: the run could not continue; what was trained is kept.
    """
    work = _plan(read_search(study, options, given), options, top, seeds, folds)
    inherit_data(work.record, work.spec, options.storage)
    status, done = 0, _finished(work)
    if done < len(work.spec.sampler.points):
        status = run(work.spec, options, callbacks, executor).exit_status
        done = _finished(work)
    total = len(work.spec.sampler.points)
    if done < total:
        message = f"{done} of {total} trials of {work.spec.study.name} are finished; confirm again to resume"
        return Outcome(work.record, None, message, status)
    call = Calls(callbacks)
    with on_first_worker(options.workers):
        _validate(work, call)
        if test:
            _test(work, call)
    confirmation = _gather(work)
    stored = confirmation.stored(findings(confirmation))
    set_attrs(options.storage, work.record.name, {SUMMARY: json.dumps(stored)})
    return Outcome(work.record, confirmation, "", 0 if confirmation.optimisms() else 1, stored)


def read_search(name: str | None, options: RunOptions, given: StudySpec | None) -> StudyRecord:
    """Returns a search as this machine's study file has it; without one, as the database has it.

    Raises:
        StudyFileError: the two differ, or what is stored would be written to a foreign place.
    """
    record = read_study(name, options.storage)
    if given is not None:
        refuse_other(record.attrs.get(SPECIFICATION), given)
        return replace(record, spec=given)
    if record.spec is not None:
        refuse_foreign_places(record.spec, options.data_root)
        if warning := lost_order(record.attrs[SPECIFICATION], record.name):
            logger.warning("%s", warning)
    return record


def weights_here(options: RunOptions, study: str, trial: TrialRecord) -> Path | None:
    """Returns where a trial's weights are on this machine."""
    folder = RunFolder(options.run_folder.absolute(), study)
    named = trial.attrs.get("weights") or str(folder.weights(trial.number))
    return folder.find_weights(trial.number, named)


def _plan(
    record: StudyRecord, options: RunOptions, top: int | None, seeds: int | None, folds: int | None
) -> _Work:
    for flag, value, least in (("--top", top, 1), ("--seeds", seeds, 2), ("--folds", folds, 2)):
        if value is not None and value < least:
            raise UserError(f"{flag}: must be at least {least}, got {value}")
    wanted = record.spec.confirm if record.spec is not None else None
    chosen = candidates(record, top or (wanted.top if wanted else 1))
    stored = before = read_linked(record, SUFFIX, options.storage)
    if before is not None and not before.trials and before.spec is not None and before.spec.is_confirmation:
        drivers = study_status(before.name, options.storage, options.run_folder).drivers
        if not any(driver.state is DriverState.ALIVE for driver in drivers):
            before = None  # nothing was trained: the data did not allow for so many folds, say
    over = planned_folds(record, before, seeds, folds)
    count = over or seeds or (wanted.seeds if wanted else 2)
    spec = linked_spec(record, chosen, count, before, over)
    if stored is not None and stored.spec is not None and stored.spec != spec:
        told = {SPECIFICATION: stored_form(spec), DIGEST: digest(spec)}
        set_attrs(options.storage, spec.study.name, told)
    return _Work(record, tuple(chosen), count, spec, options)


def _finished(work: _Work) -> int:
    try:
        return len(work.linked().finished)
    except StudyNotFound:
        return 0


def _gather(work: _Work) -> Confirmation:
    linked, record = work.linked(), work.record
    tested = read_results(linked)
    results = []
    for candidate in work.compared(linked):
        trained = {repeat: found for repeat, found in tries(linked, candidate).items() if repeat < work.seeds}
        trials = {repeat: found[-1] for repeat, found in trained.items()}
        result = result_of(candidate, trials, tested)
        results.append(replace(result, images=_images(work, trials, result)))
        work.notes.extend(shortfalls(result, trials, record.metric, work.seeds, work.repeat))
        work.notes.extend(trained_again(candidate.trial, trained, work.repeat))
    best_first = ordered(results, record.metric, record.better)
    work.notes.extend(_other_goals(record, best_first))
    key = f"{DETAILS}{best_first[0].candidate.trial}"
    details = decoded(linked.name, linked.attrs, key, dict, {})
    return Confirmation(
        record.name,
        record.metric,
        record.better,
        best_first,
        work.chosen[0].trial,
        work.seeds,
        tuple(work.notes),
        details,
        work.spec.train.function is not None,
        work.spec.data.split.folds is not None,
    )


def _other_goals(record: StudyRecord, results: Sequence[Result]) -> list[str]:
    """Returns what the configurations take of a study with several goals, as a sentence; nothing for one goal."""
    if not record.goals:
        return []
    known = {trial.number: trial.taken for trial in record.trials}
    numbers = [result.candidate.trial for result in results]
    each = (
        f"{goal} {', '.join(f'{amount(known[n][goal])} (trial {n})' for n in numbers if goal in known[n])}"
        for goal in record.goals
    )
    return [f"they are compared by {record.metric} alone; what they take: {'; '.join(each)}"]


def _images(work: _Work, trials: Mapping[int, TrialRecord], result: Result) -> dict[str, dict[int, Values]]:
    """Returns what each image gave, by metric and repeat, as far as it is kept here."""
    found: dict[str, dict[int, Values]] = {}
    for part, by_repeat in (("val", result.validation), ("test", result.test)):
        for repeat, metrics in by_repeat.items():
            path = work.folder.images(part, trials[repeat].number)
            for name, values in read_images(path, metrics).items():
                found.setdefault(name, {})[repeat] = values
    return found


def _keep_images(work: _Work, part: str, images: Mapping[int, Mapping[str, Values]]) -> None:
    try:
        for number, values in images.items():
            write_images(work.folder.images(part, number), values)
    except OSError as error:
        work.notes.append(f"intervals cover new seeds alone: what each image gave could not be kept: {error}")


def _validate(work: _Work, call: Calls) -> None:
    """Keeps what each validation image gives, where the weights are here and it is not kept yet."""
    if work.spec.train.function is not None:
        return
    linked = work.linked()
    for candidate in work.compared(linked):
        due = [
            trial
            for repeat, trial in repeats(linked, candidate).items()
            if repeat < work.seeds and is_value(trial) and work.weights(trial)
            if not work.folder.images("val", trial.number).is_file()
        ]
        if not due:
            continue
        from hpsearch.results.confirm.exam import validate

        setup = exam_setup(
            work.spec, work.options, lambda text: call("on_message", f"the confirmation {text}")
        )
        try:
            found = validate(*_runs(work, candidate, due), setup, work.record.attrs)
        except HpsearchError as error:
            work.notes.append(f"intervals of validation metrics cover new seeds alone: {error}")
            return
        _keep_images(work, "val", found)


@contextmanager
def on_first_worker(workers: Workers) -> Iterator[None]:
    """Shows this process the GPUs of the first worker alone; CUDA heeds it until it is first used."""
    place = plan(workers, threads=1)[0]
    shown = {VISIBLE: ",".join(place.gpus), **place.env}
    before = {name: os.environ.get(name) for name in shown}
    os.environ.update(shown)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _test(work: _Work, call: Calls) -> None:
    """Opens the test part for the configurations that have untested models, after that is on record."""
    linked = work.linked()
    tested = read_results(linked)
    models = [(candidate, _models(work, linked, candidate)) for candidate in work.compared(linked)]
    due = [pair for pair in models if any(str(trial.number) not in tested for trial in pair[1])]
    if not due:
        return
    from hpsearch.results.confirm.exam import sealed_part

    setup = exam_setup(work.spec, work.options, lambda text: call("on_message", f"the test {text}"))
    data_digest, reason = sealed_part(work.spec, setup, work.record.attrs)
    if reason:
        work.notes.append(f"the test part was not opened: {reason}")
        return
    facts = {
        "configurations": ", ".join(f"trial {candidate.trial}" for candidate, _ in due),
        "models": sum(len(found) for _, found in due),
        "data": data_digest,
    }
    work.notes.extend(record_opening(work.record, work.options.storage, facts))
    for candidate, found in due:
        exam = _examine(work, candidate, found, replace(setup, digest=data_digest))
        tested |= {str(number): metrics for number, metrics in exam.metrics.items()}
        _keep_images(work, "test", exam.images)
        set_pictures(work.options.storage, linked.name, exam.pictures)
        set_attrs(
            work.options.storage,
            linked.name,
            {
                RESULTS: json.dumps(tested),
                f"{DETAILS}{candidate.trial}": json.dumps(_details(exam)),
            },
        )


def _models(work: _Work, linked: StudyRecord, candidate: Candidate) -> list[TrialRecord]:
    """Returns the repeats, trained to their end, whose weights are here."""
    here: list[TrialRecord] = []
    away: list[TrialRecord] = []
    for repeat, trial in repeats(linked, candidate).items():
        if repeat < work.seeds and is_value(trial):
            (here if work.weights(trial) else away).append(trial)
    if away:
        hosts = ", ".join(sorted({str(trial.attrs.get("host", "another machine")) for trial in away}))
        work.notes.append(
            f"trial {candidate.trial}: the weights of {counted(len(away), 'repeat')} are not on this machine (trained "
            f"on {hosts}), so that they were not tested"
        )
    return here


def exam_setup(
    spec: StudySpec, options: RunOptions, waits: Callable[[str], None] | None = None
) -> "ExamSetup":
    """Returns where a study's data are opened, and lets its own modules be found.

    Args:
        waits: told when another process prepares the same images.
    """
    from hpsearch.results.confirm.exam import ExamSetup
    from hpsearch.training.imports import look_in

    look_in(options.import_paths, spec.objects() if options.allow is None else options.allow)
    return ExamSetup(
        options.data_root,
        RunFolder(options.run_folder.absolute(), "").cache,
        options.allow,
        "cpu" if options.workers.gpus == "none" else "auto",
        waits=waits,
    )


def _examine(work: _Work, candidate: Candidate, trials: Sequence[TrialRecord], setup: "ExamSetup") -> "Exam":
    from hpsearch.results.confirm.exam import examine

    return examine(*_runs(work, candidate, trials), setup)


def _runs(
    work: _Work, candidate: Candidate, trials: Sequence[TrialRecord]
) -> tuple[dict[int, TrialRun], dict[int, Path]]:
    """Returns the repeats of a configuration as runs, and their weights, by trial."""
    runs, weights = {}, {}
    for trial in trials:
        hparams = {**candidate.hparams, REPEAT: trial.hparams[REPEAT]}
        spec, path = work.spec.with_hparams(hparams), work.weights(trial)
        if path is not None:
            runs[trial.number] = TrialRun(work.spec.study.name, trial.number, 1, hparams, spec, "")
            weights[trial.number] = path
    return runs, weights


def _details(exam: "Exam") -> dict[str, Any]:
    if not exam.classes:
        return {}
    found = {"classes": exam.classes, "confusion": exam.confusion, "wrong": exam.wrong}
    if exam.labels:
        found["labels"] = exam.labels
    return found | ({"reliability": asdict(exam.reliability)} if exam.reliability is not None else {})
