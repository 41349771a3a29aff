"""Which method tells best what matters: simulated studies of known truth, real samplers.

    python -m tests.benchmarks.importances --studies 40 --trials 60

Two of six hyperparameters matter, once the learning rate more (its optimum lies inside the range) and once the
optimizer. Printed per method, for COMPLETE trials alone and for all with a score: of the studies that were
ranked, how often the right one is first and both are before all others; how many were ranked; the CPU seconds
of one call. Ours is shown with and without its demand that the model explains something beyond chance, and
then on noise, and for 1,000 trials.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import optuna
from optuna.importance import (
    BaseImportanceEvaluator,
    FanovaImportanceEvaluator,
    MeanDecreaseImpurityImportanceEvaluator,
    PedAnovaImportanceEvaluator,
)

from hpsearch.results.report.importance import importances, measured, scored
from hpsearch.results.stored.study import StudyRecord
from hpsearch.search.space import distributions
from tests.benchmarks.simulated import Truth, simulate, spec_of

RATE, OPTIMIZER = "learning_rate", "train.optimizer"


@dataclass(frozen=True, slots=True)
class Case:
    """A truth with the two hyperparameters that matter, the first more."""

    truth: Truth
    matter: tuple[str, str]


def case(rate: float, optimizer: float, *matter: str) -> Case:
    def loss(places: Mapping[str, float]) -> float:
        return rate * abs(places[RATE] - 0.6) + optimizer * (places[OPTIMIZER] != 0.5)

    return Case(Truth(loss), (matter[0], matter[1]))


CASES = (case(0.8, 0.1, RATE, OPTIMIZER), case(0.3, 0.3, OPTIMIZER, RATE))


def ours(record: StudyRecord) -> list[str]:
    return [name for name, _ in importances(record).shares]


def always(record: StudyRecord) -> list[str]:
    return [name for name, _ in measured(record).shares]


def optunas(evaluator: Callable[[], BaseImportanceEvaluator]) -> Callable[[StudyRecord], list[str]]:
    def ranked(record: StudyRecord) -> list[str]:
        space = distributions(record.spec.search)
        study = optuna.create_study()
        for trial in scored(record):
            params = dict(trial.hparams)
            study.add_trial(optuna.create_trial(value=trial.score, params=params, distributions=space))
        found = optuna.importance.get_param_importances(study, evaluator=evaluator())
        return sorted(found, key=found.__getitem__, reverse=True)

    return ranked


METHODS = {
    "permutation, unseen trials (ours)": ours,
    "the same, always ranked": always,
    "PED-ANOVA": optunas(PedAnovaImportanceEvaluator),
    "fANOVA": optunas(lambda: FanovaImportanceEvaluator(seed=0)),
    "mean decrease in impurity": optunas(lambda: MeanDecreaseImpurityImportanceEvaluator(seed=0)),
}


def complete(record: StudyRecord) -> StudyRecord:
    return replace(record, trials=tuple(trial for trial in record.trials if trial.state == "COMPLETE"))


def row(method: str, of: str, studies: list[StudyRecord], matter: tuple[str, str]) -> str:
    METHODS[method](studies[0])  # imports
    begun = time.process_time()
    found = [METHODS[method](record) for record in studies]
    seconds = (time.process_time() - begun) / len(studies)
    ranked = [names for names in found if names]
    hits = (
        sum(names[0] == matter[0] for names in ranked),
        sum(set(names[:2]) == set(matter) for names in ranked),
    )
    cells = "".join(f"{100 * hit / max(1, len(ranked)):8.0f}" for hit in hits)
    return f"{method:34} {of:9}{cells}{100 * len(ranked) / len(found):8.0f}{seconds:10.3f}"


def table(sampler: str, case: Case, studies: int, trials: int) -> None:
    specs = [spec_of(sampler, seed, trials) for seed in range(studies)]
    records = [simulate(spec, case.truth) for spec in specs]
    print(
        f"{sampler}, {trials} trials, {studies} studies, {case.matter[0]} matters most; percent, CPU seconds"
    )
    print(f"{'method':34} {'trials':9}{'first':>8}{'both':>8}{'ranked':>8}{'seconds':>10}", flush=True)
    for method in METHODS:
        for of, shown in (("COMPLETE", list(map(complete, records))), ("all", records)):
            print(row(method, of, shown, case.matter), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Methods of importance on a known truth.")
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    for sampler in given.samplers:
        for case in CASES:
            table(sampler, case, given.studies, given.trials)
        noise = [
            bool(ours(simulate(spec_of(sampler, n, given.trials), Truth()))) for n in range(given.studies)
        ]
        print(
            f"noise: ours ranks in {100 * sum(noise) / len(noise):.0f} % of {len(noise)} studies", flush=True
        )
    large = simulate(spec_of("random", 0, 1000), CASES[0].truth)
    begun = time.process_time()
    ours(large)
    print(f"1,000 trials: ours takes {time.process_time() - begun:.2f} CPU seconds")


if __name__ == "__main__":
    main()
