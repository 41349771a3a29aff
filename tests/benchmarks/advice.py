"""How often a report advises on noise, and how often it finds what is true: simulated studies, real samplers.

    python -m tests.benchmarks.advice --studies 200

Nothing is trained (`tests.benchmarks.simulated`); samplers, pruner, early stopping, states and the report's
rules are the project's own. Printed per truth, sampler and number of trials, in percent of the studies:

* any: some advice about a hyperparameter, the trials or the curves (on noise, a false alarm; the goal is 5),
* right: what is true was told: the range to be widened at its right end, or the choice to be fixed,
* wrong: another hyperparameter, or another end, was told to be widened or fixed.

The noise of a training is 0.1; `outside 0.4` is a loss that falls by 0.4 from one end of the learning rate's
range to the other. With `--seconds` a row ends early and says of how many studies it speaks.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import optuna

from hpsearch.results.report.advice import advice
from hpsearch.results.stored.study import StudyRecord
from tests.benchmarks.simulated import Truth, first, simulate, spec_of

WIDEN = "above 1; widen learning_rate"
FIX = "train.optimizer = adam score better"


@dataclass(frozen=True, slots=True)
class Case:
    """A truth, and the words by which the advice that it deserves is known; none where it deserves none."""

    name: str
    truth: Truth
    right: str | None = None


def outside(size: float) -> Case:
    return Case(f"outside {size}", Truth(lambda places: size * (1 - places["learning_rate"])), WIDEN)


def inside(at: float) -> Case:
    return Case(f"inside at {at}", Truth(lambda places: 0.5 * abs(places["learning_rate"] - at)))


CASES = (
    Case("noise", Truth()),
    Case("noise, 20 % diverge", Truth(diverges=lambda places: 0.2)),
    *map(outside, (0.1, 0.2, 0.4, 0.8)),
    *map(inside, (0.5, 0.7)),
    Case("choice 0.4", Truth(lambda places: 0.4 * (places["train.optimizer"] != 0.5)), FIX),
)
LENGTHS = (20, 60, 100, 200)


def told(record: StudyRecord) -> list[str]:
    """Returns the advice that claims an effect; what was counted (few trials, not confirmed) is left out."""
    counted = ("hpsearch confirm", "too few for", "diverged: add")
    return [sentence for sentence in advice(record) if not any(words in sentence for words in counted)]


def row(case: Case, sampler: str, trials: int, studies: list[StudyRecord]) -> str:
    said = [told(first(record, trials)) for record in studies]
    about = [[s for s in sentences if "widen " in s or "fix it" in s] for sentences in said]
    right = [any(case.right is not None and case.right in s for s in sentences) for sentences in about]
    wrong = [any(case.right is None or case.right not in s for s in sentences) for sentences in about]
    shares = [100 * sum(map(bool, column)) / len(studies) for column in (said, right, wrong)]
    cells = "".join(f"{share:8.1f}" for share in shares)
    return f"{case.name:20} {sampler:7} {trials:6} {len(studies):8}{cells}"


def simulated(case: Case, sampler: str, studies: int, trials: int, seconds: float) -> Iterator[StudyRecord]:
    end = time.monotonic() + seconds
    for seed in range(studies):
        yield simulate(spec_of(sampler, seed, trials), case.truth)
        if time.monotonic() > end:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description="Advice on noise and on true effects.")
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument(
        "--trials", type=int, default=100, help="of each study; shorter ones are its beginning"
    )
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe", "auto"])
    parser.add_argument("--cases", nargs="+", help="beginnings of their names; all by default")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="at most for one case and sampler"
    )
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(f"{'truth':20} {'sampler':7} {'trials':>6} {'studies':>8}{'any':>8}{'right':>8}{'wrong':>8}")
    for case in CASES:
        if given.cases and not case.name.startswith(tuple(given.cases)):
            continue
        for sampler in given.samplers:
            studies = list(simulated(case, sampler, given.studies, given.trials, given.seconds))
            for trials in LENGTHS:
                if trials <= given.trials:
                    print(row(case, sampler, trials, studies), flush=True)


if __name__ == "__main__":
    main()
