"""`hpsearch continue`: a finished trial trained to more epochs, from its checkpoint.

Only where its epochs so far are those of the longer trial: with `constant`, `plateau` and `step` (in whole epochs)
all of them, with `wsd` those before the cooldown, which is then trained anew at the longer trial's end. The random
numbers are the continued trial's too, so that what comes of it is what that trial would have been with so many
epochs. Schedules that stretch over all epochs (`cosine`, `one_cycle`) are refused: at its end such a trial has the
smallest learning rate, and a restart with a larger one would be another schedule, of which nobody knows whether
what the search has found still holds.

It is trained in a linked study, `NAME.continue`, by the same driver and workers, from checkpoints if it was
interrupted; early stopping begins anew behind the epochs that it continues. What comes of it is then entered into
the search, as a trial of its own.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from hpsearch.contracts.callbacks import Callback
from hpsearch.contracts.executor import Executor
from hpsearch.contracts.trial import IMPORTED, WHY
from hpsearch.errors import UserError
from hpsearch.files.artifacts import FolderArtifacts
from hpsearch.files.run_folder import RunFolder
from hpsearch.results.confirm.confirm import read_search, weights_here
from hpsearch.results.confirm.linked import inherit_data, read_linked
from hpsearch.results.confirm.plan import (
    as_point,
    broke_off,
    continued,
    is_value,
    linked_tree,
    newest_at,
    refuse_linked,
)
from hpsearch.results.stored.reading import read_study
from hpsearch.results.stored.study import StudyRecord, TrialRecord
from hpsearch.results.terminal.progress import number as figure
from hpsearch.search.space import distributions
from hpsearch.service.launch import RunOptions
from hpsearch.service.live import breach, told
from hpsearch.service.opening import open_study
from hpsearch.service.run import run
from hpsearch.service.study import Study
from hpsearch.store import trials
from hpsearch.store.connection import translated
from hpsearch.store.keys import MARK
from hpsearch.study.file import parse_study
from hpsearch.study.footprint import SECONDS, taken
from hpsearch.study.section import is_own
from hpsearch.study.specification import (
    CONTINUE_SUFFIX,
    CONTINUES,
    FROM_EPOCH,
    PLANNED,
    REPEAT,
    STREAM,
    StudySpec,
)
from hpsearch.text import counted


@dataclass(frozen=True, slots=True)
class Continued:
    """What `continue_trial` leaves behind; without `trial`, `lines` say what is left to do.

    Attributes:
        trial: the new trial of the study.
        continues: the trial that it continues, after its epoch `from_epoch`.
    """

    study: str
    trial: int | None
    continues: int
    from_epoch: int
    epochs: int
    lines: tuple[str, ...]
    exit_status: int = 0


def continue_trial(
    study: str | None,
    options: RunOptions,
    epochs: int,
    *,
    trial: int | None = None,
    given: StudySpec | None = None,
    search: bool = False,
    callbacks: Sequence[Callback] = (),
    executor: Executor | None = None,
) -> Continued:
    """Trains a finished trial to more epochs; continues where an earlier call stopped.

    Args:
        epochs: of the longer trial, those included that are trained already.
        trial: its number; by default the study's answer.
        given: this machine's own study file, which counts in place of what the database says.
        search: where no trial is named, take what the search alone would pick.

    Raises:
        UserError: no such study or trial, it cannot be continued, other data than the search's, or what `run` raises.
        HpsearchError: the run could not continue; what was trained is kept.
    """
    record = read_search(study, options, given)
    source = _source(record, trial, search)
    from_epoch = _first_epoch(record, source, epochs, options)
    before = read_linked(record, CONTINUE_SUFFIX, options.storage)
    point = _point(record, source, from_epoch, epochs, before)
    spec = _spec(record, point, before)
    inherit_data(record, spec, options.storage)
    status, longer = 0, newest_at(before, point)
    if longer is None or broke_off(longer):
        _bring_checkpoint(record.name, spec.study.name, source.number, options)
        status = run(spec, options, callbacks, executor).exit_status
        longer = newest_at(read_linked(record, CONTINUE_SUFFIX, options.storage), point)

    def left(line: str, status: int, number: int | None = None) -> Continued:
        return Continued(record.name, number, source.number, from_epoch, epochs, (line,), status)

    if longer is None:
        return left("the trial is not finished; continue it again to resume it", status or 1)
    if not is_value(longer):
        why = longer.attrs.get("stop_detail") or longer.stop_reason
        again = "; continue it again to retry" if broke_off(longer) else ""
        return left(f"the continuation of trial {source.number} failed: {why}{again}", 1)
    number = _enter(record, spec, longer, options)
    found = read_study(record.name, options.storage)
    return Continued(
        record.name, number, source.number, from_epoch, epochs, tuple(_lines(found, source, number))
    )


def _source(record: StudyRecord, trial: int | None, search: bool) -> TrialRecord:
    """Returns the trial that is to be continued.

    Raises:
        UserError: there is none, or it has not ended with a value.
    """
    refuse_linked(record, "continue")
    if trial is None:
        found = record.best if search else record.chosen
        if found is None:
            raise UserError(f'study "{record.name}" has no COMPLETE trial yet: there is nothing to continue')
        return found
    found = next((one for one in record.trials if one.number == trial), None)
    if found is None:
        raise UserError(
            f'--trial: study "{record.name}" has no trial {trial}; its trials are 0 to {len(record.trials) - 1}'
        )
    if not found.is_finished:
        raise UserError(
            f"--trial: trial {trial} has not ended yet ({found.state}); `hpsearch run {record.name}` trains it"
        )
    if found.score is None or found.stop_reason in ("diverged", "infeasible"):
        raise UserError(
            f"--trial: trial {trial} ended as {found.state} ({found.stop_reason}); continue one that has a value and "
            "keeps the study's limits"
        )
    return found


def _first_epoch(record: StudyRecord, source: TrialRecord, epochs: int, options: RunOptions) -> int:
    """Returns the epoch whose checkpoint the longer trial begins with.

    Raises:
        UserError: it cannot be continued, or not to so few epochs, or its checkpoint is not here.
    """
    assert record.spec is not None
    spec, planned = record.spec.with_hparams(source.hparams), record.planned_epochs(source)
    _refuse_stretched(spec, source.number)
    if epochs <= source.epochs_run:
        raise UserError(
            f"--epochs: trial {source.number} was trained for {counted(source.epochs_run, 'epoch')} already; give "
            f"more than {max(planned, source.epochs_run)}"
        )
    found = _checkpoint_epoch(RunFolder(options.run_folder.absolute(), record.name).onward(source.number))
    if found is None or found > planned * spec.shared + 0.5:
        raise UserError(_no_checkpoint(record, source, spec))
    if found > epochs * spec.shared:
        least = math.ceil(found / spec.shared - 1e-9)
        raise UserError(
            f"--epochs: with {epochs} the cooldown would begin before epoch {found}, from which trial "
            f"{source.number} is continued; give at least {least}"
        )
    return found


def _refuse_stretched(spec: StudySpec, number: int) -> None:
    """Refuses a trial whose epochs so far are not those of a longer one.

    Raises:
        UserError: saying why.
    """
    train = spec.train
    if train.function is not None:
        raise UserError(
            f'train.function: "{train.function}" is a loop of your own, of which hpsearch does not know what more '
            "epochs change; continue it in your own script"
        )
    if spec.data.progressive:
        raise UserError(
            f"data.progressive: the image sizes of trial {number} stretch over all its epochs, so that its epochs are "
            "not the first ones of a longer trial; search with images of one size"
        )
    if train.last_epoch is not None:
        raise UserError(
            f"train.last_epoch = {train.last_epoch} ends all trials at this epoch; search without it"
        )
    if train.has_stretched_stages:
        raise UserError(
            f"train.stages: the first stage is a share of a trial's epochs, so that those of trial {number} are not "
            "the first ones of a longer trial; search with a first stage of whole epochs"
        )
    if train.shared == 0 and train.schedule != "wsd":
        what = "is a function of yours that is given all" if is_own(train.schedule) else "stretches over all"
        raise UserError(
            f'train.schedule: "{train.schedule}" {what} epochs of a trial, so that those of trial {number} are not '
            'the first ones of a longer trial; search with "wsd" (its cooldown is trained again) or "constant"'
        )


def _no_checkpoint(record: StudyRecord, source: TrialRecord, spec: StudySpec) -> str:
    """Returns why there is nothing to continue a trial from."""
    number = source.number
    if IMPORTED in source.attrs and CONTINUES not in source.attrs:
        return (
            f"trial {number} was imported and has no checkpoint; continue a trial that hpsearch has trained"
        )
    if record.planned_epochs(source) * spec.shared < 1:
        return f"trial {number}: its cooldown covers all its epochs (train.cooldown); continue a longer one"
    return (
        f"trial {number} has no checkpoint to continue from in the run folder (it was trained on "
        f"{source.attrs.get('host', 'another machine')}); checkpoints are kept of the trials whose weights are kept: "
        f'checkpoint.keep = "{spec.checkpoint.keep}"; leave --trial out to continue the best, or raise checkpoint.keep '
        "for trials to come"
    )


def _checkpoint_epoch(folder: Path) -> int | None:
    from hpsearch.training.checkpoint import epochs_in

    return epochs_in(folder)


def _point(
    record: StudyRecord, source: TrialRecord, from_epoch: int, epochs: int, before: StudyRecord | None
) -> dict[str, Any]:
    """Returns the point of the longer trial: the one that the linked study has already, or a new one."""
    assert record.spec is not None
    repeats = record.spec.with_hparams(source.hparams).train.repeat
    attrs = {
        CONTINUES: source.number,
        FROM_EPOCH: from_epoch,
        STREAM: int(source.attrs.get(STREAM, source.number if repeats is None else -1 - repeats)),
        PLANNED: epochs,
    }
    known = before.spec.sampler.points if before is not None and before.spec is not None else ()
    repeat = next((place for place, one in enumerate(known) if dict(one.attrs) == attrs), len(known))
    if repeat < len(known):
        return known[repeat].model_dump()
    point = as_point(record.spec, {**source.hparams, REPEAT: repeat}, {})
    return {**point, "attrs": attrs}


def _spec(record: StudyRecord, point: dict[str, Any], before: StudyRecord | None) -> StudySpec:
    spec, name = record.spec, record.name + CONTINUE_SUFFIX
    assert spec is not None
    return continued(
        [point], before, lambda points: parse_study(linked_tree(name, spec, points), source=name), record.name
    )


def _bring_checkpoint(study: str, linked: str, number: int, options: RunOptions) -> None:
    """Puts the checkpoint of the search's trial where the linked study's workers may read it.

    Raises:
        UserError: the run folder cannot be written.
    """
    root = options.run_folder.absolute()
    _link(RunFolder(root, study).onward(number).glob("*"), RunFolder(root, linked).origin(number))


def _link(files: Iterable[Path], target: Path, name: str = "") -> None:
    try:
        for path in files:
            FolderArtifacts(target).keep(str(path), name or path.name)
    except OSError as error:
        raise UserError(
            f"--run-folder: {target} cannot be written: {error.strerror or error}; free some space and check "
            "permissions there"
        ) from error


def _enter(record: StudyRecord, spec: StudySpec, longer: TrialRecord, options: RunOptions) -> int:
    """Makes a finished trial of the linked study a trial of the search, once; returns its number there.

    Raises:
        UserError: its files cannot be kept.
        StorageError, StorageAway: the database.
    """
    assert record.spec is not None
    study = open_study(record.spec, options.storage, [])
    try:
        number = _entered(study, spec, longer)
        _take_files(study, number, spec, longer, options)
        study.release()
        study.note_expectation()
    finally:
        study.storage.engine.dispose()
    return number


def _entered(study: Study, spec: StudySpec, longer: TrialRecord) -> int:
    with translated(study.storage):
        known = study.storage.get_all_trials(study.study_id, deepcopy=False)
        linked = study.storage.get_trial(longer.trial_id)
    source = next(one for one in known if one.number == linked.user_attrs[CONTINUES])
    copy = _copy(study, linked, source, [spec.study.name, longer.number, longer.started])
    [number] = trials.enter_once(study.storage, study.study_id, [copy])
    study.sync()
    return number


def _copy(study: Study, linked: FrozenTrial, source: FrozenTrial, identity: list[Any]) -> FrozenTrial:
    hparams = source.params
    # The model is the same, and so is what it takes.
    attrs = linked.user_attrs | study.spec.built(taken(source.user_attrs))
    if SECONDS in {*study.spec.study.beside, *study.spec.study.limits}:
        attrs[SECONDS] = round(sum(attrs["epoch_seconds"]), 3)  # of the whole training
    beside, state = study.spec.beside(taken(attrs)) or (), linked.state
    if broken := breach(taken(attrs), study.spec):
        attrs, state = attrs | told(broken), TrialState.PRUNED
    why = f"it continues trial {attrs[CONTINUES]} after its epoch {attrs[FROM_EPOCH]}, to epoch {attrs[PLANNED]}"
    copy = create_trial(
        state=state,
        values=None if linked.value is None else [linked.value, *beside],
        params=dict(hparams),
        distributions=distributions(study.spec.search).of(hparams),
        intermediate_values=dict(linked.intermediate_values),
        user_attrs={**attrs, "weights": "", WHY: [why], IMPORTED: identity},
        system_attrs={MARK: study.token},
    )
    copy.datetime_start, copy.datetime_complete = linked.datetime_start, linked.datetime_complete
    return copy


def _take_files(study: Study, number: int, spec: StudySpec, longer: TrialRecord, options: RunOptions) -> None:
    """Keeps the longer trial's weights and checkpoint with the search too."""
    root = options.run_folder.absolute()
    own, linked = RunFolder(root, study.spec.study.name), RunFolder(root, spec.study.name)
    weights = weights_here(options, spec.study.name, longer)
    if weights is None:
        return
    target = own.weights(number)
    _link(linked.onward(longer.number).glob("*"), own.onward(number))
    _link([weights], target.parent, target.name)
    trials.name_weights(study.storage, study.study_id, number, target.relative_to(root).as_posix())


def _lines(record: StudyRecord, source: TrialRecord, number: int) -> list[str]:
    """Returns what came of it."""
    trial = next(one for one in record.trials if one.number == number)
    assert trial.score is not None
    assert source.score is not None
    first = trial.attrs[FROM_EPOCH]
    stands = f"{record.metric} {figure(trial.score)} at epoch {trial.best_epoch} of {trial.epochs_run}"
    was = f"trial {source.number} had {figure(source.score)} at epoch {source.best_epoch} of {source.epochs_run}"
    lines = [
        f"{record.name}: trial {number} continues trial {source.number} after its epoch {first}: {stands}; {was}",
        f"trained: {counted(trial.epochs_run - first, 'epoch')}; {trial.attrs.get('stop_detail') or trial.stop_reason}",
    ]
    answer = record.answer
    if record.best is not None and record.best.number == number:
        lines.append(f"trial {number} is the search's best now")
    elif trial in record.front:
        lines.append(
            f"no other trial beats trial {number} in all goals: {record.metric}, {', '.join(record.goals)}"
        )
    elif trial.stop_reason == "infeasible":
        lines.append(f"trial {number} breaks a limit of the study, so that it is never the best")
    elif record.best is not None:
        lines.append(f"trial {record.best.number} stays the search's best, {figure(record.best.score)}")
    if answer.confirmed is not None and answer.trial != number:
        lines.append(
            f"`best`, `predict` and `load_best_model` still use trial {answer.trial}, which is confirmed; run "
            f"`hpsearch confirm {record.name}` to compare the two"
        )
    return lines
