"""`hpsearch refit`: a study's answer trained once more, on training and validation part, judged once on the test part.

Nothing is left to choose by, so how long to train must be known before: until where the confirmation's repeats ended,
in the median. The learning rate's schedule still spans all epochs of the configuration and is broken off there, so that
every epoch is trained at the rate that it was confirmed with. As the rate falls, the epochs after the best one still
gain on average (`tests.benchmarks.refits --ends`); at a constant rate, as that of `wsd` before its cooldown, the best
epoch is the end. How well a network
starts is luck, which the training loss tells: of several seeds the one with the lowest is taken. Mean and deviation of
the images, class weights and the order of the data are those of the larger part, `data.subset` is 1.

The linked study `NAME.refit` is trained by the same driver and workers, from checkpoints if it was interrupted.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from hpsearch.contracts.callbacks import Callback
from hpsearch.contracts.executor import Executor
from hpsearch.contracts.trial import TrialRun
from hpsearch.errors import UserError
from hpsearch.results.confirm.confirm import exam_setup, on_first_worker, read_search, weights_here
from hpsearch.results.confirm.linked import (
    RESULTS,
    inherit_data,
    read_linked,
    read_results,
    record_opening,
    set_attrs,
)
from hpsearch.results.confirm.plan import (
    Candidate,
    as_point,
    broke_off,
    continued,
    is_value,
    linked_tree,
    newest_at,
    refuse_linked,
    refuse_many,
    repeats,
)
from hpsearch.results.stored.answer import NOT_CONFIRMED, REFIT, Confirmed, Refit
from hpsearch.results.stored.reading import read_study
from hpsearch.results.stored.study import Curve, StudyRecord, TrialRecord
from hpsearch.results.terminal.progress import number
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.store.study_data import DATA
from hpsearch.study.file import parse_study
from hpsearch.study.specification import CONFIRMS, REFIT_SUFFIX, REPEAT, SUFFIX, TRAIN_LOSS, StudySpec
from hpsearch.text import counted

BEYOND = 5
"""A refit ends at most a fifth of all epochs, or three, after the best one, however long its kin were trained."""

LAST_EPOCH, SUBSET = "train.last_epoch", "data.subset"
MOST_EPOCHS = 10_000_000
STRAYED = 0.5
"""By so much of the loss of guessing a refit's training loss may lie above that of all repeats: few epochs scatter."""


@dataclass(frozen=True, slots=True)
class RefitPlan:
    """What is trained, and how long.

    Attributes:
        trial: of the search.
        epochs, planned: to train, and those that the schedule spans.
        why: where `epochs` comes from.
        train: training losses per epoch of what it repeats.
    """

    trial: TrialRecord
    epochs: int
    planned: int
    why: str
    train: tuple[Curve, ...] = ()


@dataclass(frozen=True, slots=True)
class Refitted:
    """What `refit` leaves behind; without `refit`, `lines` say what is left to do."""

    study: str
    refit: Refit | None
    lines: tuple[str, ...]
    exit_status: int = 0


def refit(
    study: str | None,
    options: RunOptions,
    *,
    given: StudySpec | None = None,
    search: bool = False,
    seeds: int | None = None,
    test: bool = True,
    callbacks: Sequence[Callback] = (),
    executor: Executor | None = None,
) -> Refitted:
    """Trains a study's answer on training and validation part; continues where an earlier call stopped.

    Args:
        given: this machine's own study file, which counts in place of what the database says.
        search: take what the search alone would pick, whatever a confirmation says.
        seeds: with how many it is trained, by default with one; the one with the lowest training loss is taken, of
            those too that an earlier call trained.
        test: whether the test part may be opened.

    Raises:
        UserError: too many seeds, no such study, nothing confirmed, other data than the search's, or what `run` raises.
        HpsearchError: the run could not continue; what was trained is kept.
    """
    refuse_many("--seeds", seeds or 1)
    record = read_search(study, options, given)
    plan = plan_refit(record, options.storage, search)
    linked = read_linked(record, REFIT_SUFFIX, options.storage)
    points = [_point(record, plan, repeat) for repeat in range(seeds or 1)]
    while newest_at(linked, point := _point(record, plan, len(points))):  # of an earlier call
        points.append(point)
    spec = refit_spec(record, points, linked)
    inherit_data(record, spec, options.storage)
    status = 0
    if not all(trial and not broke_off(trial) for trial in (newest_at(linked, point) for point in points)):
        status = run(spec, options, callbacks, executor).exit_status
        linked = read_linked(record, REFIT_SUFFIX, options.storage)
    trials = [trial for point in points if (trial := newest_at(linked, point))]
    if linked is None or len(trials) < len(points):
        return Refitted(record.name, None, ("the refit is not finished; refit again to resume it",), status)
    whole = [trial for trial in trials if is_value(trial)]
    if not whole:
        why = trials[0].attrs.get("stop_detail") or trials[0].stop_reason
        return Refitted(record.name, None, (f"the refit failed: {why}; refit again to retry",), 1)
    trial = min(whole, key=lambda one: math.inf if one.score is None else one.score)
    if said := _strayed(record, plan, trial):
        return Refitted(record.name, None, (said,), 1)
    notes: list[str] = []
    if len(points) > 1:
        notes.append(_compared([one.score for one in whole if one.score is not None], len(points)))
    tested = _test(record, spec, linked, trial, options, notes, test)
    return _told(record, plan, linked, trial, tested, options, notes)


def _compared(losses: Sequence[float], tried: int) -> str:
    """Returns how the training losses of several seeds compare, in so few words for hundreds as for two."""
    lowest, *others = sorted(losses)
    span = " to ".join(dict.fromkeys(map(number, (others[0], others[-1])))) if others else ""
    broken = tried - len(losses)
    return (
        f"the best of {len(losses)} by training loss: {number(lowest)}"
        f"{f', the others {span}' if others else ''}{f'; {broken} failed' if broken else ''}"
    )


def plan_refit(record: StudyRecord, url: str, search: bool) -> RefitPlan:
    """Returns what a refit would train.

    Raises:
        UserError: the study cannot be refitted, or is not confirmed.
    """
    refuse_linked(record, "refit")
    assert record.spec is not None
    if record.spec.train.function is not None:
        raise UserError(
            f'train.function: "{record.spec.train.function}" trains by a loop of your own, whose parts hpsearch '
            "cannot join; train it on both parts in your own script, with the values of `hpsearch best "
            f"{record.name}`"
        )
    if record.best is None:
        raise UserError(f'study "{record.name}" has no COMPLETE trial yet: there is nothing to refit')
    found = record.confirmation_status
    if found.confirmed is None and not search:
        why = f" ({'; '.join(found.notes)})" if found.notes else ""
        raise UserError(
            f'study "{record.name}" is not confirmed{why}; run `hpsearch confirm {record.name}` first, or give '
            f"--search to refit the search's best trial, {record.best.number}"
        )
    if search or found.confirmed is None:
        plan = _searched(record, record.best)
    else:
        plan = _confirmed(record, found.confirmed, url)
    if record.spec.with_hparams(plan.trial.hparams).train.schedule == "plateau":
        raise UserError(
            'train.schedule: "plateau" lowers the learning rate by the validation loss, which a refit does not '
            f"have; use the confirmed model (`hpsearch best {record.name} --save DIR`), or search with another schedule"
        )
    return plan


def _searched(record: StudyRecord, best: TrialRecord) -> RefitPlan:
    planned = record.planned_epochs(best)
    end, which = _end(record, best, best)
    return RefitPlan(best, end or planned, planned, f"{which} in the search", (best.train,))


def _end(record: StudyRecord, trial: TrialRecord, kin: TrialRecord) -> tuple[int | None, str]:
    """Returns until which epoch a trial, or a repeat of it, is to be trained again, and what that is."""
    assert record.spec is not None
    train, planned, best = (
        record.spec.with_hparams(trial.hparams).train,
        record.planned_epochs(trial),
        kin.best_epoch,
    )
    beyond = max(3, planned // BEYOND)
    end = None if best is None else min(best + beyond, max(best, kin.epochs_run))
    steady = {"constant": 1.0, "wsd": 1 - train.cooldown}.get(train.schedule, 0.0)
    if end is None or end <= steady * planned:
        return best, "its best epoch"
    return end, f"where it ended, or {beyond} epochs after its best"


def _confirmed(record: StudyRecord, confirmed: Confirmed, url: str) -> RefitPlan:
    trial = next(one for one in record.trials if one.number == confirmed.trial)
    linked = read_study(confirmed.linked, url) if confirmed.linked else None
    found = {} if linked is None else repeats(linked, Candidate(trial.number, confirmed.mean, trial.hparams))
    whole = [one for one in found.values() if is_value(one)]
    ends = [_end(record, trial, one) for one in whole]
    epochs = [end for end, _ in ends if end is not None]
    if not epochs:
        raise UserError(
            f'study "{record.name}{SUFFIX}" has no repeat of trial {trial.number}, whose best epochs say how long '
            f"to train; run `hpsearch confirm {record.name}` again"
        )
    over_folds = linked is not None and linked.spec is not None and linked.spec.data.split.folds
    why = f"the median of its {counted(len(epochs), 'fold' if over_folds else 'repeat')}: {ends[0][1]}"
    curves = tuple(one.train for one in whole)
    return RefitPlan(trial, math.floor(median(epochs) + 0.5), record.planned_epochs(trial), why, curves)


def _strayed(record: StudyRecord, plan: RefitPlan, trial: TrialRecord) -> str:
    """Returns why a refit is not handed out: it learned its own images far worse than its like did; "" if it did not.

    Nothing else tells, as it has no validation part: a learning rate at the edge of what is stable may fail by chance.
    """
    ends = [losses[plan.epochs - 1] for losses in plan.train if len(losses) >= plan.epochs]
    known, last = [loss for loss in ends if loss is not None], trial.train[-1] if trial.train else None
    guessing = (record.attrs.get(DATA) or {}).get("guessing_loss")
    if last is None or not known or not guessing:
        return ""
    if last <= max(known) + STRAYED * guessing:
        return ""
    return (
        f"the refit ended with a training loss of {number(last)}, and the trainings that it repeats had at most "
        f"{number(max(known))} after as many epochs: it is neither tested nor used; `best`, `predict` and "
        f"`load_best_model` use trial {trial.attrs[CONFIRMS]} as before; search with smaller learning rates"
    )


def _point(record: StudyRecord, plan: RefitPlan, repeat: int) -> dict[str, Any]:
    assert record.spec is not None
    hparams = {name: value for name, value in plan.trial.hparams.items() if name != SUBSET}
    hparams |= {REPEAT: repeat, LAST_EPOCH: plan.epochs}
    return as_point(record.spec, hparams, {CONFIRMS: plan.trial.number})


def refit_spec(
    record: StudyRecord, points: Sequence[Mapping[str, Any]], before: StudyRecord | None
) -> StudySpec:
    """Returns the study that trains a configuration on all but the test part.

    Args:
        before: the linked study so far, whose trials stay.

    Raises:
        DigestMismatch, UserError: see `continued`.
    """
    spec = record.spec
    assert spec is not None

    def make(points: Sequence[Mapping[str, Any]]) -> StudySpec:
        tree = linked_tree(record.name + REFIT_SUFFIX, spec, points)
        tree["study"] |= {"metric": TRAIN_LOSS, "direction": "minimize"}
        tree["early_stopping"] = {"criterion": "none"}
        tree["data"] |= {"subset": 1.0}
        tree["data"]["split"] |= {"join_val": True, "folds": None, "fold": None}
        tree["search"].pop(SUBSET, None)
        tree["search"] |= {LAST_EPOCH: {"low": 1, "high": MOST_EPOCHS}}
        return parse_study(tree, source=record.name + REFIT_SUFFIX)

    return continued(points, before, make, record.name)


def _test(
    record: StudyRecord,
    spec: StudySpec,
    linked: StudyRecord,
    trial: TrialRecord,
    options: RunOptions,
    notes: list[str],
    may_open: bool,
) -> dict[str, float]:
    """Opens the test part for the model, after that is on record; what was tested before is not tested again."""
    tested = read_results(linked)
    if str(trial.number) in tested:
        return tested[str(trial.number)]
    if not may_open:
        return {}
    path = weights_here(options, linked.name, trial)
    if path is None:
        host = trial.attrs.get("host", "another machine")
        notes.append(f"its weights are not on this machine (trained on {host}), so that it was not tested")
        return {}
    from hpsearch.results.confirm.exam import examine, sealed_part

    with on_first_worker(options.workers):
        setup = exam_setup(spec, options)
        digest, reason = sealed_part(spec, setup, record.attrs)
        if reason:
            notes.append(f"the test part was not opened: {reason}")
            return {}
        confirms = trial.attrs.get(CONFIRMS)
        facts = {"configurations": f"refit of trial {confirms}", "models": 1, "data": digest}
        notes += record_opening(record, options.storage, facts)
        resolved = spec.with_hparams(trial.hparams)
        runs = {trial.number: TrialRun(linked.name, trial.number, 1, trial.hparams, resolved, "")}
        named = (
            record.spec.metrics_used().values() if record.spec is not None else ()
        )  # its own is the training loss
        found = examine(runs, {trial.number: path}, setup, named).metrics[trial.number]
    set_attrs(options.storage, linked.name, {RESULTS: json.dumps(tested | {str(trial.number): found})})
    return found


def _told(
    record: StudyRecord,
    plan: RefitPlan,
    linked: StudyRecord,
    trial: TrialRecord,
    tested: Mapping[str, float],
    options: RunOptions,
    notes: Sequence[str],
) -> Refitted:
    """Stores what came of it with the search, and says it."""
    data = linked.attrs.get(DATA) or {"train": 0, "val": 0}  # the search's own record, of both parts
    found = Refit(
        plan.trial.number,
        trial.number,
        plan.epochs,
        plan.planned,
        data["train"] + data["val"],
        tested,
        linked.name,
    )
    set_attrs(options.storage, record.name, {REFIT: json.dumps(asdict(found))})
    answer = read_study(record.name, options.storage).answer
    handed = "`best --save`, `predict` and `load_best_model` use it from now on"
    if answer.refit is None:
        why = "the search's best by now" if answer.status == NOT_CONFIRMED else "which is confirmed"
        handed = f"`best`, `predict` and `load_best_model` still use trial {answer.trial}, {why}"
    whole = record.spec is not None and record.spec.with_hparams(plan.trial.hparams).data.subset
    return Refitted(
        record.name,
        found,
        (
            f"{record.name}: trial {found.trial}, {found.text}",
            f"epochs: {plan.why}; the learning rate follows the schedule of all {plan.planned}",
            *([f"data.subset: 1 instead of {whole:g}: all images of both parts"] if whole != 1 else []),
            *notes,
            f"weights: {weights_here(options, linked.name, trial) or 'not on this machine'}",
            handed,
        ),
    )
