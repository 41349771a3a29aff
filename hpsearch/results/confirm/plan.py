"""What is to be confirmed: the best configurations of a search, and the study that trains them anew.

The linked study `NAME.confirm` is a study as any other: its trials are given as points (configuration,
repeat) instead of being sampled, and are trained by the same driver and workers, in parallel, resumable. It
differs from the search in three things only: no trial is pruned by comparison with others, early stopping
(the same) makes no trial PRUNED, and all weights are kept. Trials with the same `train.repeat` draw the
same initial weights and data order, none of which the search has used. With `--folds`, repeat r is also validated on
fold r and trained on all others, so that configurations are compared fold by fold.

A repeat that broke off is trained again by the next `hpsearch confirm`, as a further trial of the linked study:
the failed one stays there, and the newer one counts.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpsearch.errors import DigestMismatch, UserError
from hpsearch.results.stored.study import StudyRecord, TrialRecord
from hpsearch.store.keys import SPECIFICATION
from hpsearch.study.file import differences, digest, is_same_study, parse_study
from hpsearch.study.search import Label
from hpsearch.study.specification import (
    CONFIRMS,
    FOLDS,
    LIMITS,
    PLANNED,
    REPEAT,
    SUFFIX,
    StudySpec,
    linked_kind,
    linked_suffix,
    with_planned,
)

MOST_REPEATS = 10_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration of the search: the trial that found it, and the value that it promised."""

    trial: int
    promised: float
    hparams: Mapping[str, Any]


def candidates(record: StudyRecord, top: int) -> list[Candidate]:
    """Returns the best different configurations of a search, best first; of several goals those of the front.

    Only COMPLETE trials: what was pruned was not trained to its end.

    Raises:
        UserError: there is none, or the study itself is a confirmation.
    """
    refuse_linked(record, "confirm")
    found: dict[str, Candidate] = {}
    for trial in record.front if record.goals else record.ranked:
        if trial.state == "COMPLETE" and trial.score is not None and len(found) < top:
            found.setdefault(_key(trial.hparams), Candidate(trial.number, trial.score, dict(trial.hparams)))
    if not found:
        raise UserError(f'study "{record.name}" has no COMPLETE trial yet: there is nothing to confirm')
    return list(found.values())


def known(record: StudyRecord, linked: StudyRecord | None, chosen: Sequence[Candidate]) -> list[Candidate]:
    """Returns the configurations beside those chosen that earlier confirmations have trained.

    They take part in the comparison, or a search that was continued could lose what was confirmed as better.
    """
    trained = [] if linked is None else [t for t in linked.trials if is_value(t) and _is_alike(linked, t)]
    keys = {_key({**trial.hparams, REPEAT: None}) for trial in trained}
    keys -= {_key({**candidate.hparams, REPEAT: None}) for candidate in chosen}
    found: dict[str, Candidate] = {}
    for trial in record.ranked:
        key = _key({**trial.hparams, REPEAT: None})
        if key in keys and trial.state == "COMPLETE" and trial.score is not None:
            found.setdefault(key, Candidate(trial.number, trial.score, dict(trial.hparams)))
    return list(found.values())


def refuse_linked(record: StudyRecord, verb: str) -> None:
    """Refuses a study that is no search of hpsearch.

    Raises:
        UserError: it is a confirmation or a refit, or another program's.
    """
    if record.spec is None:
        raise UserError(f'study "{record.name}" was not made by hpsearch and cannot be trained again')
    suffix = linked_suffix(record.name)
    if suffix is not None and record.spec.is_confirmation:
        kind, parent = linked_kind(record.name), record.name.removesuffix(suffix)
        raise UserError(f'study "{record.name}" is a {kind}; {verb} the search: `hpsearch {verb} {parent}`')


def linked_spec(
    record: StudyRecord,
    chosen: Sequence[Candidate],
    seeds: int,
    before: StudyRecord | None = None,
    folds: int | None = None,
) -> StudySpec:
    """Returns the study that trains each configuration once for each repeat.

    Args:
        folds: so many instead, of which repeat r is trained on all but fold r, and validated on that.
        before: the linked study so far; its points stay where they are, and new ones come behind them: for
            more seeds, for other candidates, and once more for trials that broke off.

    Raises:
        DigestMismatch: `before` belongs to another search that had the same name.
        UserError: `before` is no confirmation, but a study of its own that has the name of one; or too many repeats.
    """
    assert record.spec is not None
    count = folds or seeds
    refuse_many("--folds" if folds else "--seeds", count)
    spec = record.spec
    wanted = [
        as_point(
            spec,
            {**candidate.hparams, REPEAT: repeat},
            {CONFIRMS: candidate.trial, **({FOLDS: folds} if folds else {})},
        )
        for repeat in range(count)
        for candidate in chosen
    ]
    name = record.name + SUFFIX

    def make(points: Sequence[Mapping[str, Any]]) -> StudySpec:
        tree = linked_tree(name, spec, points)
        tree["data"]["split"] |= {"folds": folds, "fold": 0 if folds else None}
        return parse_study(tree, source=name)

    return continued(wanted, before, make, record.name)


def refuse_many(flag: str, count: int) -> None:
    """Refuses more repeats than a linked study has numbers for.

    Raises:
        UserError: it names the flag that asks for them.
    """
    if count > MOST_REPEATS:
        raise UserError(f"{flag}: at most {MOST_REPEATS}, got {count}")


def planned_folds(
    record: StudyRecord, before: StudyRecord | None, seeds: int | None, folds: int | None
) -> int | None:
    """Returns the folds that the repeats are trained on; None where they are of other seeds.

    Without a wish, those of the confirmation so far, or those of the study.

    Args:
        seeds, folds: what was asked for.

    Raises:
        UserError: that contradicts itself, the study, or the confirmation so far.
    """
    own = record.spec.data.split.folds if record.spec is not None else None
    if seeds and folds:
        raise UserError(
            f"--folds {folds}: each fold is trained once, with a seed of its own, which --seeds {seeds} contradicts; "
            "leave one of them out"
        )
    if seeds and own:
        raise UserError(
            f"--seeds: data.split.folds is {own}, and each fold is trained once, with a seed of its own; leave --seeds "
            "out"
        )
    if folds and own and folds != own:
        raise UserError(
            f"--folds {folds}: data.split.folds is {own}, which the search compared by; leave it out"
        )
    wanted = folds or own
    if before is None or before.spec is None or not before.spec.is_confirmation:
        return wanted
    known = before.spec.data.split.folds
    if not seeds and not folds:
        return known
    if known != wanted:
        have, want = (f"{one} folds" if one else "seeds" for one in (known, wanted))
        raise UserError(
            f'study "{before.name}" has repeats over {have}, to which those over {want} cannot be compared; delete it '
            f"(`hpsearch delete {before.name}`), or leave --{'folds' if folds else 'seeds'} out"
        )
    return wanted


def as_point(spec: StudySpec, hparams: Mapping[str, Any], attrs: Mapping[str, Label]) -> dict[str, Any]:
    """Returns a point of a linked study.

    A trial that continues another one has more epochs than the search space: these are given beside the point.

    Args:
        spec: of the search.
        hparams: of a trial as it is read.
    """
    entry, planned = spec.search.get("epochs"), hparams.get("epochs")
    try:
        if planned is None or (entry is not None and entry.encode(planned) == planned):
            return {"hparams": dict(hparams), "attrs": dict(attrs)}
    except ValueError:
        pass  # not in the space
    within = {name: value for name, value in hparams.items() if name != "epochs"}
    if "epochs" in spec.meaningful(within):
        assert entry is not None
        within["epochs"] = min(entry.extremes(), key=lambda end: abs(end - planned))
    return {"hparams": within, "attrs": {**attrs, PLANNED: planned}}


def point_key(point: Mapping[str, Any]) -> str:
    """Returns what tells a point from all others: the hyperparameters of its trial as that is read."""
    return _key(with_planned(point["hparams"], point["attrs"]))


def continued(
    wanted: Sequence[Mapping[str, Any]],
    before: StudyRecord | None,
    make: Callable[[Sequence[Mapping[str, Any]]], StudySpec],
    search: str,
) -> StudySpec:
    """Returns a linked study with the points that are wanted and those that it has already.

    Args:
        make: returns the study of some points.
        search: the name of the search.

    Raises:
        DigestMismatch, UserError: see `linked_spec`.
    """
    spec = make(wanted)
    if before is None or before.spec is None:
        return spec
    if not before.spec.is_confirmation:
        kind = linked_kind(spec.study.name)
        raise UserError(
            f'study "{before.name}" is a study of its own and has the name that the {kind} of '
            f'"{search}" needs; run the search under another name, or delete that study (`hpsearch delete '
            f"{before.name}`)"
        )
    if digest(before.spec) != digest(spec):
        stored = before.attrs.get(SPECIFICATION)
        if isinstance(stored, str) and is_same_study(stored, spec):
            raise DigestMismatch(
                f'study "{spec.study.name}" was trained by an older version, which took the keys of tables in '
                "alphabetical order, not in that of the study file, so its models are different ones; delete it "
                f"(`hpsearch delete {spec.study.name}`) and have it trained again"
            )
        lines = "\n".join(f"  {line}" for line in differences(before.spec, spec))
        raise DigestMismatch(
            f'study "{spec.study.name}" belongs to another search of the name "{search}"; delete it (`hpsearch '
            f"delete {spec.study.name}`), or restore these fields:\n{lines}"
        )
    known = [point.model_dump() for point in before.spec.sampler.points]
    have = Counter(map(point_key, known))
    lost = Counter(_key(trial.hparams) for trial in before.trials if broke_off(trial))
    # Not before all were tried: a run that stops at too many failures would never come to its end.
    again = sum(trial.is_finished for trial in before.trials) >= len(known)
    keys = list(map(point_key, wanted))
    missing = [
        point
        for point, key in zip(wanted, keys, strict=True)
        if not have[key] or (again and have[key] <= lost[key])
    ]
    return make([*known, *missing])


def broke_off(trial: TrialRecord) -> bool:
    """Says whether another try may end better: a worker that died, an exception, a lack of memory.

    A loss that became infinite is no such end, as the same seed would bring it about again.
    """
    return trial.is_finished and (trial.state == "FAIL" or trial.stop_reason in ("error", "out_of_memory"))


def linked_tree(name: str, spec: StudySpec, points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the tables of a study that trains points of a search anew: no trial is stopped by comparison."""
    tree: dict[str, Any] = spec.model_dump()
    tree["study"] |= {"name": name, "trials": len(points), "policy": "sampled"}
    tree["study"] |= dict.fromkeys(LIMITS)
    tree["search"] |= {REPEAT: {"low": 0, "high": MOST_REPEATS - 1}}
    tree["sampler"] = {"name": "points", "points": points}
    tree["enqueue"] = tree["study"]["warm_start"] = ()
    tree["study"] |= {"require": {}, "metrics": ()}  # the search has seen to what they take
    tree["pruner"] = {"name": "none"}
    tree["early_stopping"] |= {"outcome": "complete"}
    tree["checkpoint"] |= {"keep": "all"}
    return tree


def repeats(record: StudyRecord, candidate: Candidate) -> dict[int, TrialRecord]:
    """Returns the finished trials of the linked study that confirm a configuration, by repeat: the last of each."""
    return {repeat: trials[-1] for repeat, trials in tries(record, candidate).items()}


def tries(record: StudyRecord, candidate: Candidate) -> dict[int, list[TrialRecord]]:
    """Returns all finished trials for a configuration by repeat, those that broke off first.

    Repeats of another kind, over folds or over seeds, do not count: two confirmations may have begun at once.
    """
    wanted, found = _key({**candidate.hparams, REPEAT: None}), dict[int, list[TrialRecord]]()
    for trial in record.trials:
        is_alike = _is_alike(record, trial) and _key({**trial.hparams, REPEAT: None}) == wanted
        if trial.is_finished and is_alike:
            found.setdefault(int(trial.hparams[REPEAT]), []).append(trial)
    return found


def _is_alike(linked: StudyRecord, trial: TrialRecord) -> bool:
    return linked.spec is None or trial.attrs.get(FOLDS) == linked.spec.data.split.folds


def middle_repeat(record: StudyRecord, candidate: Candidate) -> TrialRecord | None:
    """Returns the repeat of a configuration with the median score, of two the worse; None without any."""
    whole = {trial.number for trial in repeats(record, candidate).values() if is_value(trial)}
    ranked = [trial for trial in record.ranked if trial.number in whole]
    return ranked[len(ranked) // 2] if ranked else None


def is_value(trial: TrialRecord) -> bool:
    """Says whether a repeat confirms anything: it was trained to its end, and reached a score."""
    return trial.is_full and trial.score is not None


def newest_at(linked: StudyRecord | None, point: Mapping[str, Any]) -> TrialRecord | None:
    """Returns the last finished try at a point of a linked study."""
    trials = linked.trials if linked is not None else ()
    wanted = point_key(point)
    return next((one for one in reversed(trials) if one.is_finished and _key(one.hparams) == wanted), None)


def _key(hparams: Mapping[str, Any]) -> str:
    return json.dumps(dict(hparams), sort_keys=True)
