"""The methods that `tests.benchmarks.search` compares: the project's own policies, and plain Optuna.

A method answers `begin() -> number of a trial, or None` and `report(number, epoch, value, last) -> Answer`.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpsearch.contracts.trial import EpochResult, StopKind
from hpsearch.search.outcome import Verdict, decide
from hpsearch.search.policy.build import POLICIES
from hpsearch.search.policy.contract import New, Pause, Policy, Resume, Stop
from hpsearch.search.policy.pieces import Pieces, are_stretched, epochs_of
from hpsearch.search.policy.simple import Halving, Screen
from hpsearch.search.policy.thaw import Mixture, Thaw
from hpsearch.search.sampler import SpaceTPE
from hpsearch.search.space import distributions
from hpsearch.search.stopping import build
from hpsearch.search.view import StudyView
from hpsearch.service.live import LiveTrial, as_record, attributes, judge
from hpsearch.study import StudySpec, parse_study
from tests.benchmarks.curve_tasks import Task

METRIC = "val_error"


class Answer(Enum):
    """What becomes of a trial after an epoch."""

    CONTINUE = auto()
    PAUSE = auto()
    END = auto()


class Method(Protocol):
    """A search that is replayed; `hparams` holds every trial that it began."""

    hparams: dict[int, Mapping[str, Any]]

    def begin(self) -> int | None:
        """Returns the trial that a free worker trains: a new one or a paused one; None to wait."""

    def report(self, number: int, epoch: int, value: float, last: bool) -> Answer:
        """Takes one epoch's value."""


def study_of(task: Task, seed: int, trials: int = 100_000, **tables: Any) -> StudySpec:
    """Returns the study file of a task."""
    train = {"function": "replayed:train", "schedule": "cosine" if task.stretched else "constant"}
    tree = {
        "study": {"name": "replay", "trials": trials, "metric": METRIC, "seed": seed},
        "train": train | ({} if task.epochs is None else {"epochs": task.epochs}),
        "search": dict(task.search),
        **tables,
    }
    return parse_study(tree, source="replay")


class Own:
    """A policy of the project with the view, early stopping, scores and records of a real study."""

    def __init__(self, spec: StudySpec, make: Callable[[StudyView], Policy]) -> None:
        self.spec, self.view = spec, StudyView(spec)
        self.policy = make(self.view)
        self.hparams: dict[int, Mapping[str, Any]] = {}
        self.live: dict[int, LiveTrial] = {}
        self.records: list[FrozenTrial] = []

    def begin(self) -> int | None:
        for surplus in self.policy.surplus(self.spec.study.max_paused):
            self.end(surplus, Verdict(StopKind.PRUNER))
        match self.policy.begin(len(self.hparams) < self.spec.trials):
            case New():
                number = self.view.next_number
                hparams = self.policy.start(number)
                criterion = build(self.spec.early_stopping, epochs_of(self.spec, hparams))
                self.hparams[number] = hparams
                self.live[number] = LiveTrial(number, number, number, 1, hparams, self.spec, criterion)
                return number
            case Resume(number):
                self.policy.resume(number)
                return number
        return None

    def report(self, number: int, epoch: int, value: float, last: bool, **more: float) -> Answer:
        trial = self.live[number]
        metrics = {self.spec.study.metric: value, **more}
        trial.results.append(EpochResult(number, 1, epoch, metrics, last=last))
        self.view.report(number, epoch, value)
        verdict = judge(trial, self.spec, value)
        if verdict is None:
            match self.policy.report(number, epoch, value):
                case Pause():
                    return Answer.PAUSE
                case Stop(verdict):
                    pass
                case _:
                    return Answer.CONTINUE
        self.end(number, verdict)
        return Answer.END

    def end(self, number: int, verdict: Verdict) -> FrozenTrial:
        """Ends a trial as `Study.finish` does."""
        trial = self.live.pop(number)
        best = trial.best()
        value = best[0] if best else None
        state = decide(verdict.kind, value, self.view.board, self.spec.early_stopping.outcome)
        attrs = attributes(trial, verdict, best, None, self.spec.fit, None) | self.policy.notes(
            number, len(trial.results)
        )
        values = None if value is None else [value]
        record = as_record(
            trial, self.spec.study.metric, state, values, attrs, self.view.space, self.view.rungs(number)
        )
        self.view.replace(record)
        self.policy.finish(record)
        self.records.append(record)
        return record


class NoCopies(optuna.storages.InMemoryStorage):
    """Optuna's own storage without a copy of all trials at each call: the same samples in less time."""

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Any = None
    ) -> list[optuna.trial.FrozenTrial]:
        return super().get_all_trials(study_id, deepcopy=False, states=states)


class Plain:
    """Optuna as its users write it: report, should_prune, tell the best value or PRUNED."""

    def __init__(self, task: Task, seed: int, sampler: str, pruner: str) -> None:
        spec = study_of(task, seed)
        self._space, self._epochs = distributions(spec.search), lambda hparams: epochs_of(spec, hparams)
        self._study = optuna.create_study(
            study_name=f"replay {seed}",
            storage=NoCopies(),
            sampler=self._sampler(sampler, seed),
            pruner=self._pruner(pruner, spec.max_epochs),
        )
        self._live: dict[int, tuple[optuna.Trial, float]] = {}
        self.hparams: dict[int, Mapping[str, Any]] = {}

    def _sampler(self, name: str, seed: int) -> optuna.samplers.BaseSampler:
        if name == "tpe":  # knows the space, as hpsearch's does; the samples are the original's
            return SpaceTPE(self._space, seed, 10)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            samplers = {"random": optuna.samplers.RandomSampler, "gp": optuna.samplers.GPSampler}
            return samplers[name](seed=seed)

    def _pruner(self, name: str, longest: int) -> optuna.pruners.BasePruner:
        match name:
            case "median":
                return optuna.pruners.MedianPruner()
            case "asha":
                return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
            case "hyperband":
                return optuna.pruners.HyperbandPruner(
                    min_resource=1, max_resource=longest, reduction_factor=3
                )
        return optuna.pruners.NopPruner()

    def begin(self) -> int | None:
        trial = self._study.ask(fixed_distributions=self._space)
        self._live[trial.number] = trial, math.inf
        self.hparams[trial.number] = trial.params
        return trial.number

    def report(self, number: int, epoch: int, value: float, last: bool) -> Answer:
        trial, best = self._live[number]
        if not math.isfinite(value):
            return self._tell(number, TrialState.PRUNED)
        trial.report(value, epoch)
        self._live[number] = trial, min(best, value)
        if last:
            return self._tell(number, TrialState.COMPLETE)
        return self._tell(number, TrialState.PRUNED) if trial.should_prune() else Answer.CONTINUE

    def _tell(self, number: int, state: TrialState) -> Answer:
        trial, best = self._live.pop(number)
        if state is TrialState.COMPLETE:
            self._study.tell(trial, best)
        else:
            self._study.tell(trial, state=state)
        return Answer.END


def plain(sampler: str, pruner: str = "none") -> Callable[[Task, int, int], Method]:
    return lambda task, seed, budget: Plain(task, seed, sampler, pruner)


def own(
    make: Callable[[StudyView], Policy] = POLICIES["sampled"], **tables: Any
) -> Callable[[Task, int, int], Method]:
    return lambda task, seed, budget: Own(study_of(task, seed, **tables), make)


def screen(epochs: int, top: int = 3) -> Callable[[Task, int, int], Method]:
    """Returns a screening of as many trials as a budget allows."""

    def make(task: Task, seed: int, budget: int) -> Method:
        spec = study_of(task, seed)
        mean = sum(span_of(spec)) / 2
        trials = max(top + 1, int((budget - top * (mean - epochs)) / epochs))
        tables = {"sampler": {"name": "random"}, "early_stopping": {"criterion": "none"}}
        return Own(study_of(task, seed, trials, **tables), lambda view: Screen(view, epochs, top))

    return make


def span_of(spec: StudySpec) -> tuple[int, int]:
    ends = spec.search["epochs"].extremes() if "epochs" in spec.search else [spec.train.epochs]
    return min(ends), max(ends)


def halving(by_share: bool = False, **tables: Any) -> Callable[[Task, int, int], Method]:
    return own(lambda view: Halving(view, Pieces(by_share, 3, view.spec.max_epochs)), **tables)


def thaw(
    mixture: Mixture, growth: float = 2, share: bool | None = None, **tables: Any
) -> Callable[[Task, int, int], Method]:
    def make(view: StudyView) -> Policy:
        by_share = are_stretched(view.spec) if share is None else share
        return Thaw(view, Pieces(by_share, growth, view.spec.max_epochs), mixture)

    return own(make, **tables)


RANDOM = {"sampler": {"name": "random"}}
TO_THE_END = {"early_stopping": {"criterion": "none"}}

METHODS: Mapping[str, Callable[[Task, int, int], Method]] = {
    "random": plain("random"),
    "tpe": plain("tpe"),
    "tpe+median": plain("tpe", "median"),
    "tpe+asha": plain("tpe", "asha"),
    "tpe+hyperband": plain("tpe", "hyperband"),
    "gp": plain("gp"),
    "screen1": screen(1),
    "screen2": screen(2),
    "screen4": screen(4),
    "screen8": screen(8),
    "sampled": own(),
    "halving": halving(**RANDOM),
    "halving:tpe": halving(),
    "halving:share": halving(by_share=True, **RANDOM),
    "thaw": own(POLICIES["thaw"]),
    "auto": own(POLICIES["auto"]),
    "auto:to_the_end": own(POLICIES["auto"], **TO_THE_END),
    "auto:half": thaw(Mixture(rule=0.5)),
    "auto:fifth": thaw(Mixture(rule=0.2)),
    "auto:absolute": thaw(Mixture(), share=False),
    "auto:thirds": thaw(Mixture(), growth=3),
    "auto:thirds:absolute": thaw(Mixture(), growth=3, share=False),
}
PER_BUDGET = ("screen1", "screen2", "screen4", "screen8")
"""Methods that must know the budget beforehand: each mark is a run of its own."""
OPTUNA = ("tpe", "tpe+median", "tpe+asha", "tpe+hyperband", "gp")
