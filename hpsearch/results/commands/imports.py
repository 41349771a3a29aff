"""Takes the trials of an Optuna study that another program made into a study of ours, as trials of its past.

One rule says which: a trial is taken if it is COMPLETE or PRUNED with a finite value, kept Optuna's constraints, and
was given exactly the fields of `[search]`, each a value in it. Its reports are its epochs if their steps count from 0
or 1 without a gap up to no more epochs than it was given. If not, nobody knows which epochs they are: the value of a
COMPLETE trial counts as that of its last epoch, and a PRUNED one is not taken. As everywhere, its score is the best
value over its epochs. The others are left out and counted.

A study of ours whose search space alone differs is taken likewise, with all that is known of its trials: what lies in
the new space stays valid.
"""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime

from optuna.trial import FrozenTrial, create_trial

from hpsearch.contracts.trial import IMPORTED, PAUSED, TRIES, StopKind
from hpsearch.errors import HpsearchError, StudyFileError, UserError
from hpsearch.results.stored.reading import OpenStudy, reading_study
from hpsearch.search.outcome import Scoreboard, decide, score
from hpsearch.search.policy.pieces import epochs_of
from hpsearch.search.space import distributions
from hpsearch.service.opening import discard_empty, in_space, open_study
from hpsearch.service.study import Study
from hpsearch.store import queries, trials
from hpsearch.store.keys import MARK, stored_specification
from hpsearch.store.queries import FINISHED, StoredTrial
from hpsearch.store.url import redact
from hpsearch.study.file import differences
from hpsearch.study.search import SHORT, Label
from hpsearch.study.specification import CONTINUES, FROM_EPOCH, StudySpec
from hpsearch.text import counted

_Taken = tuple[StoredTrial, dict[str, Label]]
"""A trial that is taken, and its hyperparameters as our studies store them."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did.

    Attributes:
        taken: trials that are in the study now and were not before.
        known: trials that an earlier import had taken.
        left_out: trials that were not taken, by the reason.
        finished, total: trials of the study that have ended, and that it asks for.
    """

    source: str
    study: str
    metric: str
    taken: int
    known: int
    left_out: Mapping[str, int]
    finished: int
    total: int


def import_trials(source: str, source_url: str, spec: StudySpec, url: str) -> Imported:
    """Takes the trials of an Optuna study, or of one of ours, into the study of a specification; makes it if need be.

    Drivers may be at it meanwhile. A trial is taken once, however often this is called.

    Args:
        source: name of the study that they come from, in the database `source_url`.

    Raises:
        StudyNotFound: there is no such study.
        UserError: its values mean something else, or none of its trials fits.
        StudyFileError, DigestMismatch: the study of this name is another one.
        StorageError, StorageAway: a database.
    """
    if spec.sampler.name in ("grid", "points"):
        raise StudyFileError(
            f'sampler.name: "{spec.sampler.name}" tries its own points, whatever was tried before; choose another '
            "sampler to import trials"
        )
    with reading_study(source, source_url) as opened:
        found, left_out = _fitting(opened, spec)
    study = open_study(spec, url, [])
    try:
        taken = _enter(study, source, found, left_out)
        study.release()
    except HpsearchError:
        discard_empty(study.storage, study.ledger, study.study_id)
        raise
    finally:
        study.storage.engine.dispose()
    finished = study.view.board.finished
    name, metric = spec.study.name, spec.study.metric
    return Imported(source, name, metric, taken, len(found) - taken, left_out, finished, study.total)


def import_lines(done: Imported, file: str) -> list[str]:
    """Returns what an import did, for a terminal.

    Args:
        file: how the study was named.
    """
    trials_taken = counted(done.taken, "trial")
    lines = [
        f'imported {trials_taken} of the study "{done.source}" into "{done.study}"; their values count as '
        f"{done.metric}"
    ]
    if done.known:
        lines.append(f"{counted(done.known, 'trial')} had been imported before")
    lines += [f"left out {counted(count, 'trial')}: {reason}" for reason, count in done.left_out.items()]
    stands = f"{done.study}: {done.finished} of {done.total} trials finished"
    if done.finished < done.total:
        return [*lines, f"{stands}; `hpsearch run {shlex.quote(file)}` continues it"]
    return [*lines, f"{stands}; raise study.trials above {done.finished} to continue it"]


def _fitting(opened: OpenStudy, spec: StudySpec) -> tuple[list[_Taken], Counter[str]]:
    """Returns the trials that are taken, with their hyperparameters, and how many are not, by the reason.

    Raises:
        UserError: none of them fits, or what the study says of itself does not.
    """
    if spec.study.beside:
        raise UserError(
            "study.metrics names several goals, and an import takes one value of each trial; import into a study with "
            "one metric"
        )
    if opened.stored.is_ours:
        return _of_another_space(opened, spec)
    source = f'the Optuna study "{opened.name}"'
    if opened.stored.directions[0] != spec.study.better:
        raise UserError(
            f"{source} is to {opened.stored.directions[0]} its value, but {spec.study.metric} (study.metric) is to "
            f"{spec.study.better}; set study.metric to what its values are"
        )
    broke = queries.infeasible_trials(opened.reader, opened.stored.study_id)
    found, left_out = [], Counter[str]()
    for trial in opened.trials():
        hparams, reason = _judged(trial, spec, trial.trial_id in broke)
        if hparams is None:
            left_out[reason] += 1
        else:
            found.append((trial, hparams))
    if not found:
        said = "; ".join(f"{counted(count, 'trial')}: {reason}" for reason, count in left_out.items())
        raise UserError(
            f"{source} in {redact(opened.reader.url)} has no trial to import: {said or 'it has none at all'}; make "
            "[search] what it searched"
        )
    return found, left_out


def _of_another_space(opened: OpenStudy, spec: StudySpec) -> tuple[list[_Taken], Counter[str]]:
    """Returns the same of a study of ours, which may differ in its search space alone.

    Raises:
        UserError: it differs in more, or none of its trials lies in the new space.
    """
    other, source = stored_specification(opened.attrs, opened.name), f'study "{opened.name}"'
    if opened.name == spec.study.name:
        raise UserError(f"{source} is the study itself; give the changed study file another study.name")
    unlike = [line for line in differences(other, spec) if not _is_of_the_space(line.partition(":")[0], spec)]
    foreign = [name for name in other.search if name not in spec.search]
    if unlike or foreign:
        said = unlike or [f"search: it has {', '.join(foreign)}"]
        lines = "\n".join(f"  {line}" for line in said)
        raise UserError(
            f"{source} differs in more than the ranges and choices of [search], so that its trials are not those of "
            f"this study; restore these fields:\n{lines}"
        )
    found, left_out = [], Counter[str]()
    for trial in opened.trials():
        if trial.state not in FINISHED or trial.value is None or trial.user_attrs.get("score") is None:
            left_out["not finished, or without a value"] += 1
            continue
        hparams = in_space(trial.hparams, other, spec)
        if hparams is None:
            is_longer = CONTINUES in trial.user_attrs
            left_out["continued to more epochs" if is_longer else "outside of [search]"] += 1
        else:
            found.append((trial, hparams))
    if not found:
        raise UserError(
            f"{source} has no finished trial that lies in [search]; widen [search], or run it by itself"
        )
    return found, left_out


def _is_of_the_space(field: str, spec: StudySpec) -> bool:
    """Says whether a field says what is searched and how, or is searched now."""
    asked = ("search.", "sampler.", "pruner.", "study.policy", "study.seed", "study.first_piece")
    return field.startswith(asked) or field in {SHORT.get(name, name) for name in spec.search}


def _judged(trial: StoredTrial, spec: StudySpec, broke: bool) -> tuple[dict[str, Label] | None, str]:
    """Returns a trial's hyperparameters as this study stores them; None, and why, if it is not taken."""
    if trial.state not in ("COMPLETE", "PRUNED"):
        return None, f"{trial.state}, not COMPLETE or PRUNED"
    if broke:
        return None, "a constraint is violated"
    missing, extra = (
        sorted(spec.search.keys() - trial.hparams.keys()),
        sorted(trial.hparams.keys() - spec.search.keys()),
    )
    if missing or extra:
        has = f"has no {', '.join(missing)}" if missing else ""
        searches = f"was given {', '.join(extra)}, which [search] has not" if extra else ""
        return None, " and ".join(filter(None, (has, searches)))
    found: dict[str, Label] = {}
    for name, entry in spec.search.items():
        try:
            found[name] = entry.encode(trial.hparams[name])
        except ValueError:
            return None, f"{name} outside of [search]"
    curve = _curve(trial, epochs_of(spec, found))
    if not curve:
        return None, "PRUNED, and its steps are not its epochs"
    return (found, "") if _score(trial, curve, spec) else (None, "no finite value")


def _score(trial: StoredTrial, curve: Mapping[int, float], spec: StudySpec) -> tuple[float, int] | None:
    """Returns a trial's best value and its epoch; what a COMPLETE one returned counts as that of its last epoch."""
    last = [trial.value] if trial.state == "COMPLETE" and trial.value is not None else []
    found = score([*curve.values(), *last], spec.study.better)
    return None if found is None else (found[0], min(found[1], len(curve)) if 1 in curve else max(curve))


def _curve(trial: StoredTrial, epochs: int) -> dict[int, float]:
    """Returns a trial's values by epoch, as far as it is known which epochs they are of."""
    steps, value = sorted(trial.reports), trial.value
    first = steps[0] if steps else -1
    if first in (0, 1) and steps == list(range(first, first + len(steps))) and len(steps) <= epochs:
        return {epoch: trial.reports[step] for epoch, step in enumerate(steps, start=1)}
    return {epochs: value} if trial.state == "COMPLETE" and value is not None else {}


def _enter(study: Study, source: str, found: Sequence[_Taken], left_out: Mapping[str, int]) -> int:
    """Writes the trials that the study does not have yet; returns how many.

    Raises:
        StorageAway: the database does not answer; the call may be repeated.
    """
    board, copies = deepcopy(study.view.board), list[FrozenTrial]()
    for trial, hparams in found:
        copies.append(_copy(study, board, source, trial, hparams))
        board.add(copies[-1].user_attrs["score"], copies[-1].state)
    learnt = {source: {"taken": len(copies), "left_out": left_out}}
    # Each is one of the study's total.
    entered = trials.enter_once(study.storage, study.study_id, copies, learnt)
    study.sync()
    return sum(entered.values())


def _copy(
    study: Study, board: Scoreboard, source: str, trial: StoredTrial, hparams: Mapping[str, Label]
) -> FrozenTrial:
    spec = study.spec
    if "stop_reason" in trial.user_attrs:
        return _copy_of_ours(study, board, source, trial, hparams)
    curve = _curve(trial, epochs_of(spec, hparams))
    found = _score(trial, curve, spec)
    assert found is not None
    value, best_epoch = found
    kind = StopKind.FINISHED if trial.state == "COMPLETE" else StopKind.PRUNER
    state = decide(kind, value, board, spec.early_stopping.outcome)
    copy = create_trial(
        state=state,
        value=value,
        params=dict(hparams),
        distributions=distributions(spec.search),
        intermediate_values=curve,
        user_attrs={
            "score": value,
            "stop_reason": kind.value,
            "stop_detail": f'imported: trial {trial.number} of the Optuna study "{source}"',
            "best_epoch": best_epoch,
            "epochs_run": len(curve) if 1 in curve else 0,
            TRIES: 1,
            IMPORTED: [source, trial.number, _seconds(trial.started)],
        },
        system_attrs={MARK: study.token},
    )
    return _timed(copy, trial)


def _copy_of_ours(
    study: Study, board: Scoreboard, source: str, trial: StoredTrial, hparams: Mapping[str, Label]
) -> FrozenTrial:
    """Returns a trial of another study of ours with all that is known of it; its weights stay with that study."""
    own = {key: value for key, value in trial.user_attrs.items() if key not in (CONTINUES, FROM_EPOCH)}
    attrs = {**own, "weights": "", PAUSED: None}
    attrs |= {IMPORTED: [source, trial.number, _seconds(trial.started)]}
    kind = StopKind(attrs["stop_reason"])
    copy = create_trial(
        state=decide(kind, attrs["score"], board, study.spec.early_stopping.outcome),
        value=attrs["score"],
        params=dict(hparams),
        distributions=distributions(study.spec.search).of(hparams),
        intermediate_values=dict(trial.reports),
        user_attrs=attrs,
        system_attrs={MARK: study.token},
    )
    return _timed(copy, trial)


def _timed(copy: FrozenTrial, trial: StoredTrial) -> FrozenTrial:
    """Returns a copy with the times of a trial; in Optuna's words a naive time is local."""
    begun, ended = _seconds(trial.started), _seconds(trial.ended)
    copy.datetime_start = None if begun is None else datetime.fromtimestamp(begun)
    copy.datetime_complete = None if ended is None else datetime.fromtimestamp(ended)
    return copy


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
