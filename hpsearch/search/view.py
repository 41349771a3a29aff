"""The study in memory, from which the driver answers: asks and decisions never wait for a database.

It is an Optuna study on an in-memory storage. Its trial numbers are the database's; its finished trials are
told as the sampler should see them (`hpsearch.search.sampler`).
"""

import copy
import itertools
import math
from bisect import bisect_left, insort
from collections.abc import Container, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpsearch.contracts.trial import QUEUED, StopKind
from hpsearch.search.outcome import Course, Scoreboard, constraints
from hpsearch.search.pruner import build_pruner
from hpsearch.search.sampler import Sampling, Seen, sample_in_groups, seen_by_sampler, worse
from hpsearch.search.space import Space, distributions
from hpsearch.study import conditions
from hpsearch.study.direction import Point, beats, covers, front, sign
from hpsearch.study.footprint import taken
from hpsearch.study.search import Entry
from hpsearch.study.specification import CONTINUES, FROM_EPOCH, StudySpec
from hpsearch.text import one_line

BEST_SHOWN = 200
NEWEST_SHOWN = 800
RUNG_PREFIX = "completed_rung_"
"""How Optuna's ASHA and Hyperband name the values that they compare, in a trial's system attributes."""


class CappedStorage(InMemoryStorage):
    """Shows samplers and pruners the best, the newest and the running trials, so that an ask stays quick.

    TPE's time grows with the number of trials; with the 200 best, the 800 newest and the running ones it is
    the same at 10,000 trials as at 1,000.

    Attributes:
        first: the study whose trials all studies show; None where each shows its own.
        rivals: numbers of the trials that are shown; None shows all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.running: set[int] = set()
        self.past: list[FrozenTrial] = []
        self.shows_past = False
        self.first: int | None = None
        self.rivals: Container[int] | None = None
        self._ranked: list[tuple[float, int]] = []

    def rank(self, cost: float, number: int) -> None:
        """Enters a finished trial's score, lower is better."""
        insort(self._ranked, (cost, number))

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        past = [trial for trial in self.past if states is None or trial.state in states]
        own = self._own_trials(study_id if self.first is None else self.first, states)
        if self.rivals is not None:
            own = [trial for trial in own if trial.number in self.rivals]
        return [*(past if self.shows_past else ()), *own]

    def _own_trials(self, study_id: int, states: Container[TrialState] | None) -> list[FrozenTrial]:
        trials = self._studies[study_id].trials
        older = len(trials) - NEWEST_SHOWN
        if older <= BEST_SHOWN or states == (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy=False, states=states)
        kept = {number for _, number in self._ranked[:BEST_SHOWN]} | self.running
        shown = [trials[number] for number in sorted(kept) if number < older] + trials[older:]
        return [trial for trial in shown if states is None or trial.state in states]


class StudyView:
    """One study in memory: asks, reports, prunes, and keeps score.

    Args:
        past: finished trials of other studies, in this one's space, of which the sampler alone is told.

    Attributes:
        misfits: why queued trials cannot be trained as they were given, by number.
        footprints: what the trials' models take, as far as the study asks for it, by number.
        beside: the trials' goals beside the metric, by number, as far as they are known.
        points: all goals of the COMPLETE trials by number, lower is better.
        best: the best COMPLETE trial, of several goals the first of the front.
    """

    def __init__(self, spec: StudySpec, past: Sequence[FrozenTrial] = ()) -> None:
        self.spec = spec
        self.space = distributions(spec.search)
        self.sampling = Sampling(spec.sampler, spec.study.seed, self.space)
        self.board = Scoreboard(spec.study.better)
        self.course = Course(spec.study.better)
        self.counts = {state.name: 0 for state in TrialState}
        self.stop_reasons: dict[str, int] = {}
        self.epochs = 0
        self.best: FrozenTrial | None = None
        self.complete: dict[int, float] = {}
        self._worst: float | None = None
        self._trials = spec.total_trials
        self._pruner = build_pruner(spec.pruner, spec.max_epochs)
        self._storage = CappedStorage()
        # Hyperband's brackets are a hash of study name and number. The study itself has no pruner: with a
        # Hyperband pruner Optuna would show the sampler the trials of one bracket alone.
        self._study = optuna.create_study(
            study_name=spec.study.name,
            storage=self._storage,
            directions=spec.directions,
            pruner=optuna.pruners.NopPruner(),
        )
        self._judged = self._study
        if spec.study.beside:
            # Optuna's pruners refuse studies of several objectives: theirs has the first and the same trials.
            self._storage.first = self._study._study_id
            self._judged = optuna.create_study(
                study_name=f"{spec.study.name} as pruners see it",
                storage=self._storage,
                direction=spec.study.better,
                pruner=optuna.pruners.NopPruner(),
            )
        self._ids: dict[int, int] = {}
        self._queued: set[int] = set()
        self._foreign: list[int] = []
        self._continued: list[int] = []
        self._origins: dict[int, int] = {}
        self.misfits: dict[int, str] = {}
        self.footprints: dict[int, Mapping[str, float]] = {}
        self.beside: dict[int, Point] = {}
        self.points: dict[int, Point] = {}
        self._storage.past = self._as_past(past[-NEWEST_SHOWN:])

    def _as_past(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Returns trials of other studies as the sampler sees them: older than all of this study."""
        seen = []
        for number, trial in enumerate(trials, start=-len(trials)):
            seen.append(self._as_seen(trial))
            seen[-1].number = number
            self._worst = worse(self.spec.study.better, self._worst, trial.user_attrs["score"])
        return seen

    def __contains__(self, number: int) -> bool:
        return number in self._ids

    @property
    def next_number(self) -> int:
        """The number that the next trial of the view gets."""
        return len(self._ids)

    def add(self, trial: FrozenTrial) -> None:
        """Adds an own trial read from the database; numbers must come without gaps.

        Args:
            trial: as stored, finished or not; `stop_reason` and `score` among its user attributes.
        """
        self.know(trial.number, taken(trial.user_attrs))
        if not trial.state.is_finished():
            self._add_unfinished(trial)
            self.course.add(trial)
            return
        if CONTINUES in trial.user_attrs and not self.spec.is_continuation:
            insort(self._continued, trial.number)
            self._origins[trial.number] = self.origin(trial.user_attrs[CONTINUES])
        self._insert(self._as_seen(trial))
        self._count(trial)

    def _add_unfinished(self, trial: FrozenTrial) -> None:
        queued = Queued(trial, self.space, self.spec.search)
        if queued.problem:
            self.misfits[trial.number] = queued.problem
        self._insert(_running(trial, queued.values, is_chosen(trial, self.space)))
        self._storage.running.add(trial.number)
        self.counts[trial.state.name] += 1
        if trial.state is TrialState.WAITING:
            self._queued.add(trial.number)

    def know(self, number: int, footprint: Mapping[str, float]) -> None:
        """Takes note of what a trial's model takes."""
        known = self.spec.built(footprint)
        if known:
            self.footprints[number] = known
        beside = self.spec.beside(footprint)
        if beside is not None:
            self.beside[number] = beside

    def front(self) -> list[int]:
        """Returns the COMPLETE trials that no other beats in all goals, the best by the metric first."""
        return front(self.points)

    def leave_out(self, number: int) -> None:
        """Keeps the place of a foreign trial, of which samplers, pruners and counts know nothing."""
        nothing = create_trial(state=TrialState.FAIL)
        insort(self._foreign, number)
        if number not in self:
            self._insert(nothing)
            return
        self.begin(number)  # it was queued, and another program has taken it
        self._storage._set_trial(self._ids[number], self._numbered(nothing, number))
        self._storage.running.discard(number)
        self.counts[TrialState.RUNNING.name] -= 1

    def begin(self, number: int) -> None:
        """Notes that a trial runs, which may have been queued."""
        if number in self._queued:
            self._queued.discard(number)
            self.counts[TrialState.WAITING.name] -= 1
            self.counts[TrialState.RUNNING.name] += 1

    @property
    def may_begin(self) -> bool:
        """Whether the study has not yet begun all its trials, as far as is known."""
        return self.place(self.next_number) - self.counts[TrialState.WAITING.name] < self._trials

    @property
    def total(self) -> int:
        """Trials that the study asks for, and those beside them that continue others."""
        return self._trials + len(self._continued)

    def place(self, number: int) -> int:
        """Returns the place of a trial among those that the study asks for."""
        return number - bisect_left(self._foreign, number) - bisect_left(self._continued, number)

    def origin(self, number: int) -> int:
        """Returns the first of the trials that continue each other up to this one; itself where it continues none."""
        return self._origins.get(number, number)

    def replace(self, trial: FrozenTrial) -> None:
        """Puts the finished record of a trial, as stored, in the place of its running one."""
        self.begin(trial.number)
        self.know(trial.number, taken(trial.user_attrs))
        self._storage._set_trial(self._ids[trial.number], self._numbered(self._as_seen(trial), trial.number))
        self._storage.running.discard(trial.number)
        self.counts[TrialState.RUNNING.name] -= 1
        self._count(trial)

    def set_params(self, number: int, params: Mapping[str, Any]) -> None:
        """Gives a running trial of another driver the parameters that it was found with."""
        self.begin(number)
        for name, value in params.items():
            distribution = self.space[name]
            self._storage.set_trial_param(
                self._ids[number], name, distribution.to_internal_repr(value), distribution
            )

    def ask(self, number: int) -> dict[str, Any]:
        """Samples the hyperparameters of a trial that is running in the view, or of the next one."""
        self._study.sampler = self.sampling.sampler(number, self.place(number))
        self._storage.shows_past = True  # not to pruners, which compare trials of this study
        self._study._thread_local.cached_all_trials = None  # which only Optuna's own `ask` forgets
        try:
            return self._ask(number)
        finally:
            self._storage.shows_past = False

    def _ask(self, number: int) -> dict[str, Any]:
        if self.space.is_conditional:
            return self._ask_in_groups(number)
        if number not in self._ids:
            trial = self._study.ask(fixed_distributions=self.space)
            self._ids[trial.number] = trial._trial_id
            self._storage.running.add(trial.number)
            self.counts[TrialState.RUNNING.name] += 1
            return dict(trial.params)
        self.begin(number)
        trial = optuna.trial.Trial(self._study, self._ids[number])
        return {name: trial._suggest(name, distribution) for name, distribution in self.space.items()}

    def _ask_in_groups(self, number: int) -> dict[str, Any]:
        if number not in self._ids:
            begun = create_trial(state=TrialState.RUNNING)
            begun.number = number
            self.add(begun)
        trial = self._storage.get_trial(self._ids[number])
        given = trial.system_attrs.get(QUEUED, {})
        hparams = sample_in_groups(self._study.sampler, self._study, trial, self.space, given)
        self.set_params(number, hparams)
        return hparams

    def known(self) -> list[FrozenTrial]:
        """Returns the trials that have hyperparameters: of many the best, the newest and those that run."""
        found = self._storage.get_all_trials(self._study._study_id, deepcopy=False)
        return [trial for trial in found if trial.params and is_chosen(trial, self.space)]

    def params(self, number: int) -> dict[str, Any]:
        """Returns a trial's hyperparameters, empty if it has none yet."""
        return dict(self._storage.get_trial(self._ids[number]).params)

    def is_queued(self, number: int) -> bool:
        """Says whether a trial was given some hyperparameters by `study.enqueue_trial`."""
        return QUEUED in self._storage.get_trial(self._ids[number]).system_attrs

    def is_finished(self, number: int) -> bool:
        """Says whether a trial is known and has ended."""
        return number in self._ids and self._storage.get_trial(self._ids[number]).state.is_finished()

    def reported(self, number: int) -> list[float]:
        """Returns the values of a trial's epochs, from the first to the first that is missing."""
        values = self._storage.get_trial(self._ids[number]).intermediate_values
        epochs = itertools.takewhile(values.__contains__, itertools.count(1))
        return [values[epoch] for epoch in epochs]

    def restart(self, number: int) -> None:
        """Forgets the epochs of a running trial, which continues from an older checkpoint or from the start."""
        trial = copy.copy(self._storage.get_trial(self._ids[number]))
        trial.intermediate_values = {}
        trial.system_attrs = {key: value for key, value in trial.system_attrs.items() if key == QUEUED}
        self._storage._set_trial(self._ids[number], trial)

    def report(self, number: int, epoch: int, value: float) -> None:
        """Enters one epoch of a running trial; pruners compare finite values alone."""
        if math.isfinite(value):
            self._storage.set_trial_intermediate_value(self._ids[number], epoch, value)

    def should_prune(self, number: int) -> bool:
        """Says whether the study's pruner cuts the trial after its last epoch.

        With several goals it compares the trial with those that are no worse in the others, and cuts none that no
        other trial beats: so none of the front was ever cut.
        """
        trial = self._storage.get_trial(self._ids[number])
        if not self.spec.study.beside:
            return self._pruner.prune(self._study, trial)
        mine = self.beside.get(number)
        if mine is None:
            return False
        self._storage.rivals = {rival for rival, beside in self.beside.items() if covers(beside, mine)}
        try:
            cut = self._pruner.prune(self._judged, trial)
        finally:
            self._storage.rivals = None
        return cut and self._is_beaten(number, mine)

    def _is_beaten(self, number: int, beside: Point) -> bool:
        """Says whether another trial is as good in every goal by now, and better in one."""
        mine = (self._cost_so_far(number), *beside)
        rivals = [
            rival for rival, theirs in self.beside.items() if rival != number and covers(theirs, beside)
        ]
        return any(beats((self._cost_so_far(rival), *self.beside[rival]), mine) for rival in rivals)

    def _cost_so_far(self, number: int) -> float:
        values = self._storage.get_trial(self._ids[number]).intermediate_values.values()
        return min((sign(self.spec.study.better) * value for value in values), default=math.inf)

    def rungs(self, number: int) -> dict[str, Any]:
        """Returns what ASHA and Hyperband noted of a trial, to be stored with it."""
        attrs = self._storage.get_trial(self._ids[number]).system_attrs
        return {key: value for key, value in attrs.items() if key.startswith(RUNG_PREFIX)}

    def _insert(self, trial: FrozenTrial) -> None:
        number = self.next_number
        self._ids[number] = self._storage.create_new_trial(self._study._study_id, trial)

    def _numbered(self, trial: FrozenTrial, number: int) -> FrozenTrial:
        trial.number = number
        trial._trial_id = self._ids[number]
        return trial

    def _count(self, trial: FrozenTrial) -> None:
        score = self._score(trial)
        if trial.state is TrialState.COMPLETE and score is not None:
            self.complete[trial.number] = score
            one_goal = not self.spec.study.beside
            if one_goal and (self.board.is_best(score) or self._ties_first(trial.number, score)):
                self.best = trial
            self.points[trial.number] = (
                sign(self.spec.study.better) * score,
                *self.beside.get(trial.number, ()),
            )
            if not one_goal and self.front()[0] == trial.number:
                self.best = trial
        infeasible = trial.user_attrs.get("stop_reason") == StopKind.INFEASIBLE
        self.board.add(None if infeasible else score, trial.state, self.beside.get(trial.number, ()))
        self.course.add(trial)
        self.counts[trial.state.name] += 1
        reason = trial.user_attrs.get("stop_reason", "unknown")
        self.stop_reasons[reason] = self.stop_reasons.get(reason, 0) + 1
        self.epochs += int(trial.user_attrs.get("epochs_run", 0)) - int(trial.user_attrs.get(FROM_EPOCH, 0))
        self._worst = worse(self.spec.study.better, self._worst, score)
        if score is not None:
            self._storage.rank(sign(self.spec.study.better) * score, trial.number)

    def _score(self, trial: FrozenTrial) -> float | None:
        """Returns a finished trial's score; None too where its other goals are not known."""
        known = self.spec.beside(taken(trial.user_attrs)) is not None
        return trial.user_attrs.get("score") if known else None

    def _ties_first(self, number: int, score: float) -> bool:
        """Says whether a trial has the best score and a lower number than the best: of equal ones, the first."""
        return self.best is not None and score == self.board.best and number < self.best.number

    def _as_seen(self, trial: FrozenTrial) -> FrozenTrial:
        kind = StopKind(trial.user_attrs.get("stop_reason", StopKind.FINISHED))
        score = self._score(trial)
        broken = constraints(kind, trial.state, self.spec.excesses(taken(trial.user_attrs)))
        seen = seen_by_sampler(trial.state, score, broken, self._worst, self.spec.sampler.name)
        return _told(trial, seen, self._beside_as_seen(trial))

    def _beside_as_seen(self, trial: FrozenTrial) -> Point:
        """Returns a trial's other goals; the worst that is known of each where its own are not known."""
        known = self.spec.beside(taken(trial.user_attrs))
        if known is None:
            return tuple(map(max, zip(*self.beside.values(), strict=True))) or (0.0,) * len(
                self.spec.study.beside
            )
        return known


def _told(trial: FrozenTrial, seen: Seen, beside: Point) -> FrozenTrial:
    """Returns a copy of a finished trial with the state and value that the sampler should see.

    A trial without a score loses its intermediate values: TPE ranks PRUNED trials by their last epoch.
    """
    finite = {epoch: value for epoch, value in trial.intermediate_values.items() if math.isfinite(value)}
    scored = seen.value is not None or seen.state is TrialState.FAIL
    rungs = {key: value for key, value in trial.system_attrs.items() if key.startswith(RUNG_PREFIX)}
    return create_trial(
        state=seen.state,
        values=None if seen.value is None else [seen.value, *beside],
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=finite if scored else {},
        system_attrs=rungs,
        constraints=dict(seen.broken) or None,
    )


class Queued:
    """What `study.enqueue_trial` was given for a trial; the sampler completes it.

    Attributes:
        values: those that are in the space.
        problem: why the others are not, as a sentence; "" if all are.
    """

    def __init__(self, trial: FrozenTrial, space: Space, search: Mapping[str, Entry]) -> None:
        self.values: dict[str, Any] = {}
        given = trial.system_attrs.get(QUEUED)
        values = dict(given) if isinstance(given, Mapping) else {}
        if not is_chosen(trial, space):  # of `study.add_trial`
            values |= trial.params
        wrong = []
        for name, value in values.items():
            if name not in space:
                wrong.append(f"{name} is not searched")
                continue
            try:
                inner = space[name].to_internal_repr(value)
                fits = space[name]._contains(inner)
            except (TypeError, ValueError, OverflowError):  # another type, no choice of the list, too large
                fits = False
            if fits:
                self.values[name] = space[name].to_external_repr(inner)
            else:
                wrong.append(f"{name} = {one_line(repr(value), 80)} is not in {_shown(space[name])}")
        decoded = {name: search[name].decode(value) for name, value in self.values.items()}
        wrong += conditions.faults(search, decoded) if space.is_conditional else ()
        self.problem = f"queued with values outside of [search]: {'; '.join(wrong)}" if wrong else ""


def _shown(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"the list {', '.join(map(repr, distribution.choices))}"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return f"{distribution.low:g} to {distribution.high:g}"


def is_chosen(trial: FrozenTrial, space: Space) -> bool:
    """Says whether a trial's hyperparameters are those that it is, or was, trained with."""
    return trial.state is not TrialState.WAITING and space.of(trial.params).keys() <= trial.params.keys()


def _running(trial: FrozenTrial, queued: Mapping[str, Any], chosen: bool) -> FrozenTrial:
    return create_trial(
        state=TrialState.RUNNING,
        params=trial.params if chosen else {},
        distributions=trial.distributions if chosen else {},
        intermediate_values=trial.intermediate_values,
        system_attrs={QUEUED: dict(queued)} if queued else {},
    )
