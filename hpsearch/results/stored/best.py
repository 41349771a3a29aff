"""The trial that is a study's answer, and whose weights stand for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from hpsearch.errors import UserError
from hpsearch.results.confirm.plan import Candidate, middle_repeat
from hpsearch.results.stored.answer import CHOSEN, Answer, answer
from hpsearch.results.stored.reading import OpenStudy, complete_hparams, complete_trial
from hpsearch.store import queries
from hpsearch.store.keys import check_record
from hpsearch.store.queries import StoredTrial
from hpsearch.study.direction import front, sign


@dataclass(frozen=True, slots=True)
class WeightsOf:
    """Whose weights an answer hands out.

    Attributes:
        study, trial: where they were trained: the search, its confirmation or its refit.
        text: the same in words.
        host: the machine that trained them.
        path: None if they were not kept; as that machine named it, if they are not on this one.
        is_here: whether they are on this machine.
        versions: of what they were trained with.
        calibrated_by: weights whose temperature is theirs too: a refit has no validation part to find one by.
    """

    study: str
    trial: int
    text: str
    host: str
    path: str | None
    is_here: bool
    versions: str | None = None
    calibrated_by: str | None = None


@dataclass(frozen=True, slots=True)
class OnFront:
    """A trial of a study with several goals that no other one beats in all of them; `values` by the goals' names."""

    number: int
    values: Mapping[str, float]
    hparams: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BestTrial:
    """The trial that is a study's answer: the confirmed one if there is one, else the search's first.

    Attributes:
        value: of the study's metric: once confirmed the mean over the repeats, before that `search_value`.
        search_value: the best value in the search, reached at `best_epoch`; optimistic, as the best of many.
        weights: path of its weights, see `weights_of`.
        attrs: all else that is known of it.
        answer: what confirms it, and what the search alone would have picked.
        weights_of: whose weights they are.
        front: of a study with several goals, the best by the metric first.
    """

    number: int
    value: float
    search_value: float
    best_epoch: int | None
    hparams: Mapping[str, Any]
    weights: str | None
    attrs: Mapping[str, Any] = field(repr=False)
    answer: Answer = field(default=Answer(None, None), repr=False)
    weights_of: WeightsOf | None = field(default=None, repr=False)
    front: tuple[OnFront, ...] = field(default=(), repr=False)

    @property
    def is_here(self) -> bool:
        """Whether its weights are on this machine."""
        return self.weights_of is not None and self.weights_of.is_here


def best_trial(
    study: OpenStudy,
    run_folder: Path = Path("runs"),
    by_search: bool = False,
    number: int | None = None,
) -> BestTrial | None:
    """Returns the trial that is a study's answer, with its weights; None before a trial is COMPLETE.

    Args:
        run_folder: where its weights are looked for.
        by_search: take the best COMPLETE trial, of equal ones the first, whose weights the search has kept,
            whatever a confirmation says.
        number: take this trial instead.

    Raises:
        UserError: there is no COMPLETE trial of this number.
    """
    foreign = study.foreign()
    on_front = trial_front(study, foreign) if len(study.goals) > 1 else ()
    searched = _searched(study, foreign, on_front)
    if searched is None:
        return None
    if not study.stored.is_ours:  # others may mean anything by our names
        return _best(searched, {}, Answer(searched.number, searched.number), None)

    place = study.reader, study.stored.study_id, foreign
    hparams_of = partial(complete_hparams, *place)
    if number is not None:
        if complete_trial(*place, number) is None:
            known = ", ".join(str(one.number) for one in on_front) or str(searched.number)
            raise UserError(
                f'--trial {number}: study "{study.name}" has no COMPLETE trial of this number; its best: {known}'
            )
        found = Answer(number, searched.number, status=CHOSEN)
    else:
        linked = study.linked_trials()
        found = answer(study.name, study.attrs, searched.number, hparams_of, linked, by_search)
    trial = complete_trial(*place, found.trial) or searched
    check_record(study.name, trial.number, trial.user_attrs)
    best = _best(trial, trial.user_attrs, found, _weights(study, trial, found, run_folder))
    return replace(best, front=on_front)


def trial_front(study: OpenStudy, foreign: Mapping[int, str]) -> tuple[OnFront, ...]:
    """Returns the own COMPLETE trials that no other beats in all goals, the best by the metric first."""
    factors = [sign(direction) for direction in study.stored.directions]
    points: dict[int, list[float]] = {}
    for objective, factor in enumerate(factors):
        for trial, number, value in queries.complete_values(study.reader, study.stored.study_id, objective):
            if trial not in foreign:
                points.setdefault(number, []).append(factor * value)
    whole = {number: tuple(point) for number, point in points.items() if len(point) == len(factors)}
    return tuple(
        OnFront(
            number,
            {n: f * cost for n, f, cost in zip(study.goals, factors, whole[number], strict=False)},
            dict(own.hparams),
        )
        for number in front(whole)
        if (own := queries.trial_of_number(study.reader, study.stored.study_id, number)) is not None
    )


def _searched(
    study: OpenStudy, foreign: Mapping[int, str], on_front: Sequence[OnFront]
) -> StoredTrial | None:
    """Returns the best own COMPLETE trial, of equal ones the first, of several goals the first of the front.

    The database is asked, as reading all trials with their curves takes seconds for thousands of them.
    """
    if on_front:
        return queries.trial_of_number(study.reader, study.stored.study_id, on_front[0].number)
    left_out = (
        foreign if study.stored.is_ours else queries.infeasible_trials(study.reader, study.stored.study_id)
    )
    factor = sign(study.stored.directions[0])
    found = queries.complete_values(study.reader, study.stored.study_id)
    own = [(factor * value, number) for trial, number, value in found if trial not in left_out]
    return queries.trial_of_number(study.reader, study.stored.study_id, min(own)[1]) if own else None


def _best(
    trial: StoredTrial, known: Mapping[str, Any], found: Answer, weights: WeightsOf | None
) -> BestTrial:
    return BestTrial(
        number=trial.number,
        value=trial.values[0] if found.confirmed is None else found.confirmed.mean,
        search_value=trial.values[0],
        best_epoch=known.get("best_epoch"),
        hparams=dict(trial.hparams),
        weights=weights.path if weights is not None else None,
        attrs=trial.user_attrs,
        answer=found,
        weights_of=weights,
    )


def _weights(study: OpenStudy, trial: StoredTrial, found: Answer, run_folder: Path) -> WeightsOf:
    """Returns whose weights an answer hands out.

    Those of its refit. Else, once confirmed, those of the repeat with the median validation score: the search's
    own weights of this trial are the lucky ones, and need not be kept. The test part has no say. Without a
    repeat, as after the confirmation was deleted, those of the search.
    """
    number = trial.number
    repeat = _middle(study, trial, found, run_folder)
    if found.refit is not None and (refits := study.linked(found.refit.study)) is not None:
        refit = queries.trial_of_number(study.reader, refits.stored.study_id, found.refit.number)
        attrs = {} if refit is None else refit.user_attrs
        whose = _weights_of(refits, found.refit.number, attrs, f"the refit of trial {number}", run_folder)
        return replace(whose, calibrated_by=repeat.path if repeat is not None and repeat.is_here else None)
    if repeat is not None:
        return repeat
    text = f"trial {number}" if found.confirmed is None else f"trial {number} as the search trained it"
    return _weights_of(study, number, trial.user_attrs, text, run_folder)


def _middle(study: OpenStudy, trial: StoredTrial, found: Answer, run_folder: Path) -> WeightsOf | None:
    """Returns the weights of the confirmed trial's repeat with the median score; None without a confirmation."""
    if found.confirmed is None or (linked := study.linked(found.confirmed.linked)) is None:
        return None
    middle = middle_repeat(linked.record(), Candidate(trial.number, trial.values[0], trial.hparams))
    if middle is None:
        return None
    repeat, metric = middle.hparams["train.repeat"], found.confirmed.metric
    text = f"trial {trial.number}, repeat {repeat}, the median of its repeats by {metric}"
    return _weights_of(linked, middle.number, middle.attrs, text, run_folder)


def _weights_of(
    study: OpenStudy, trial: int, attrs: Mapping[str, Any], text: str, run_folder: Path
) -> WeightsOf:
    named = attrs.get("weights") or None
    here = study.find_weights(trial, named, run_folder) if named else None
    host = str(attrs.get("host", "another machine"))
    return WeightsOf(study.name, trial, text, host, here or named, here is not None, attrs.get("versions"))
