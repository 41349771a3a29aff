"""How long a policy thinks about what is trained next, after many trials.

    python -m tests.benchmarks.decision

A study with seven hyperparameters and 50 epochs is filled with trials on made-up curves: first 600 trials with 2,000
pieces, 100 of them paused, then 10,000 epochs. After each piece of a trial the next decision is timed. "with a fit" are
decisions for which the model's scales and lengths are fitted anew, which happens when the pieces have grown by a third.
"whom to end" is the choice of the least promising trial where more are paused than `study.max_paused` allows.
Processor time, since other programs may run too.
"""

import random
import time
from collections.abc import Iterator

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpsearch.contracts.trial import PAUSED, PIECES
from hpsearch.search.policy.build import POLICIES
from hpsearch.search.policy.contract import New, Pause
from hpsearch.search.policy.thaw import Thaw
from hpsearch.search.view import StudyView
from hpsearch.study import StudySpec, parse_study

SEARCH = {f"function.{name}": {"low": 0.0, "high": 1.0} for name in "abcdefg"}
DECISIONS = 60


def study() -> StudySpec:
    train = {"function": "a:b", "epochs": 50}
    return parse_study({"study": {"name": "s", "trials": 10**6}, "train": train, "search": SEARCH})


def value(params: dict[str, float], epoch: int, rng: random.Random) -> float:
    far = sum((value - 0.4) ** 2 for value in params.values())
    return 0.1 + far + np.exp(-epoch / (5 + 20 * params["function.a"])) + 0.02 * rng.random()


def trials(view: StudyView, pieces: int, epochs: int, paused: int) -> Iterator[FrozenTrial]:
    """Yields trials until there are so many pieces, or epochs; the last ones are paused."""
    rng, cuts, order, spent = random.Random(0), (1, 2, 4, 8, 16, 32, 50), 0, 0
    ended: list[FrozenTrial] = []
    while order < pieces and spent < epochs:
        count = min(1 + int(rng.expovariate(0.42)), len(cuts))
        params = {name: rng.random() for name in SEARCH}
        values = {epoch: value(params, epoch, rng) for epoch in range(1, cuts[count - 1] + 1)}
        notes = {PIECES: [[cut, order + i] for i, cut in enumerate(cuts[:count])]}
        order, spent = order + count, spent + len(values)
        ended.append(
            create_trial(
                state=TrialState.COMPLETE,
                value=min(values.values()),
                params=params,
                distributions=view.space,
                intermediate_values=values,
                user_attrs=notes | {"score": min(values.values()), "epochs_run": len(values)},
            )
        )
    for number, trial in enumerate(ended):
        trial.number = number
        if number >= len(ended) - paused and len(trial.intermediate_values) < 50:
            trial.state, trial.values = TrialState.RUNNING, None
            trial.user_attrs[PAUSED] = len(trial.intermediate_values)
        yield trial


def measure(name: str, pieces: int, epochs: int, paused: int) -> str:
    view = StudyView(study())
    policy, rng = POLICIES[name](view), random.Random(1)
    given = list(trials(view, pieces, epochs, paused))
    for trial in given:
        view.add(trial)
        policy.add(trial)
    plain, fitted = list[float](), list[float]()
    for _ in range(DECISIONS):
        before = policy._model._theta if isinstance(policy, Thaw) else None
        began = time.process_time()
        step = policy.begin()
        took = 1e3 * (time.process_time() - began)
        after = policy._model._theta if isinstance(policy, Thaw) else None
        (plain if before is after else fitted).append(took)
        number = view.next_number if isinstance(step, New) else step.number  # type: ignore[union-attr]
        policy.start(number) if isinstance(step, New) else policy.resume(number)
        params, epoch = view.params(number), len(view.reported(number))
        decision = None
        while epoch < 49 and not isinstance(decision, Pause):
            epoch += 1
            reported = value(params, epoch, rng)
            view.report(number, epoch, reported)
            decision = policy.report(number, epoch, reported)
            policy._chosen = None  # type: ignore[attr-defined]
    began = time.process_time()
    policy.surplus(paused - 1)
    ended = f"; whom to end {1e3 * (time.process_time() - began):.0f} ms"
    shown = f"{np.median(plain):6.1f} ms, at most {max(plain):6.1f} ms"
    fits = f"; with a fit {', '.join(f'{took:.0f}' for took in fitted)} ms" if fitted else ""
    count = sum(len(t.user_attrs[PIECES]) for t in given)
    spent = sum(len(t.intermediate_values) for t in given)
    what = f"{len(given)} trials, {count} pieces, {spent} epochs, {paused} paused"
    return f"{name:8} {what:60} {shown}{fits}{ended}"


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for name in ("halving", "thaw", "auto"):
        print(measure(name, 2000, 10**9, 100), flush=True)
        print(measure(name, 10**9, 10_000, 300), flush=True)


if __name__ == "__main__":
    main()
