"""Which method tells best what matters: simulated studies of known truth, real samplers.

    python -m tests.benchmarks.importances --studies 40 --trials 60

Two of six hyperparameters matter: the learning rate (its optimum inside the range) three times as much as the
optimizer. Printed per method, for COMPLETE trials alone and for all with a score: how often the first one and
both are ranked first, and the seconds of one call (on COMPLETE and PRUNED ones, import left out). For ours
also how often something is ranked at all, on the same truth and on noise, and the time at 1,000 trials.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

import optuna
from optuna.importance import (
    BaseImportanceEvaluator,
    FanovaImportanceEvaluator,
    MeanDecreaseImpurityImportanceEvaluator,
    PedAnovaImportanceEvaluator,
)

from hpsearch.results.importance import importances, scored
from hpsearch.results.record import StudyRecord
from hpsearch.search.space import distributions
from tests.benchmarks.simulated import Truth, simulate, spec_of

MATTER = ("learning_rate", "train.optimizer")


def loss(places: Mapping[str, float]) -> float:
    return 0.6 * abs(places["learning_rate"] - 0.6) + 0.1 * (places["train.optimizer"] != 0.5)


def ours(record: StudyRecord) -> list[str]:
    return [name for name, _ in importances(record).shares]


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
    "PED-ANOVA": optunas(PedAnovaImportanceEvaluator),
    "fANOVA": optunas(lambda: FanovaImportanceEvaluator(seed=0)),
    "mean decrease in impurity": optunas(lambda: MeanDecreaseImpurityImportanceEvaluator(seed=0)),
}


def complete(record: StudyRecord) -> StudyRecord:
    return replace(record, trials=tuple(trial for trial in record.trials if trial.state == "COMPLETE"))


def row(method: str, of: str, studies: list[StudyRecord]) -> str:
    METHODS[method](studies[0])  # imports
    begun = time.process_time()
    found = [METHODS[method](record) for record in studies]
    seconds = (time.process_time() - begun) / len(studies)
    hits = (
        sum(names[:1] == [MATTER[0]] for names in found),
        sum(set(names[:2]) == set(MATTER) for names in found),
    )
    cells = "".join(f"{100 * hit / len(studies):8.0f}" for hit in (*hits, sum(map(bool, found))))
    return f"{method:34} {of:9}{cells}{seconds:10.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Methods of importance on a known truth.")
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    for sampler in given.samplers:
        specs = [spec_of(sampler, seed, given.trials) for seed in range(given.studies)]
        studies = [simulate(spec, Truth(loss)) for spec in specs]
        print(
            f"{sampler}, {given.trials} trials, {given.studies} studies; percent of the studies, CPU seconds a call"
        )
        print(f"{'method':34} {'trials':9}{'first':>8}{'both':>8}{'ranked':>8}{'seconds':>10}", flush=True)
        for method in METHODS:
            for of, records in (("COMPLETE", list(map(complete, studies))), ("all", studies)):
                print(row(method, of, records), flush=True)
        noise = [bool(ours(simulate(spec, Truth()))) for spec in specs]
        print(
            f"noise: ours ranks in {100 * sum(noise) / len(noise):.0f} % of {len(noise)} studies", flush=True
        )
    large = simulate(spec_of("random", 0, 1000), Truth(loss))
    begun = time.process_time()
    ours(large)
    print(f"1,000 trials: ours takes {time.process_time() - begun:.2f} s")


if __name__ == "__main__":
    main()
