"""Regret of TPE and of the policy `auto` on synthetic functions, in a conditional space and in the flat one.

    python -m tests.benchmarks.conditional --seeds 10 --trials 100

In the flat space every trial has every field, and the function ignores those without a meaning. Printed is the mean
regret after some trials with its standard error over the seeds. `tree` is the function of Jenatton et al. (Bayesian
Optimization with Tree-structured Dependencies, ICML 2017).
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from hpsearch.search.policy.build import build_policy
from hpsearch.search.policy.contract import New
from hpsearch.search.view import StudyView
from hpsearch.study import parse_study

Hparams = Mapping[str, Any]


@dataclass(frozen=True)
class Function:
    """A function of hyperparameters, of which some have a meaning beside some values of others only.

    Attributes:
        flat: what every trial has in the flat space.
        when: the conditions, and what is sampled where they hold.
        least: the lowest value.
    """

    value: Callable[[Hparams], float]
    flat: Mapping[str, Any]
    when: Mapping[str, Any]
    least: float

    def search(self, conditional: bool) -> dict[str, Any]:
        """Returns the `[search]` table."""
        if not conditional:
            return dict(self.flat)
        below = {name for table in self.when.values() for name in table}
        return {name: entry for name, entry in self.flat.items() if name not in below} | {"when": self.when}


def _tree(x: Hparams) -> float:
    if x["function.x1"] == 0:
        place, level, r = ("x4", 0.1, "r8") if x["function.x2"] == 0 else ("x5", 0.2, "r8")
    else:
        place, level, r = ("x6", 0.3, "r9") if x["function.x3"] == 0 else ("x7", 0.4, "r9")
    return float(x[f"function.{place}"] ** 2 + level + x[f"function.{r}"])


def _optimizer(x: Hparams) -> float:
    """SGD wants a rate of 0.3 at momentum 0.9, less at a higher one; Adam 0.002, and is a little worse."""
    rate, name = math.log10(x["learning_rate"]), x["train.optimizer"]
    if name == "sgd":
        own = (x["train.momentum"] - 0.9) * 4
        nesterov = 0.0 if x["train.nesterov"] else 0.05
        return (rate + 0.5 + own / 2) ** 2 + own**2 + nesterov
    own = math.log10(1 - x["train.beta2"]) + 2.5
    return (rate + 2.7) ** 2 + 0.3 * own**2 + (0.1 if name == "adam" else 0.15)


def _model(x: Hparams) -> float:
    """Three networks with arguments of their own; the best of the largest beats the others."""
    rate, name = math.log10(x["learning_rate"]), x["model.name"]
    if name == "cnn":
        width, dropout = math.log2(x["model.args.width"]), x["model.args.dropout"]
        return (rate + 1.5) ** 2 + (width - 6) ** 2 / 8 + 2 * (dropout - 0.3) ** 2
    if name == "mlp":
        return (rate + 1.0) ** 2 + (x["model.args.depth"] - 3) ** 2 / 9 + 0.15
    patch, heads = x["model.args.patch"], x["model.args.heads"]
    return (rate + 3.0) ** 2 + (math.log2(patch) - 2) ** 2 / 4 + (math.log2(heads) - 2) ** 2 / 4 + 0.1


_UNIT, _BOTH, _BIT = {"low": 0.0, "high": 1.0}, {"low": -1.0, "high": 1.0}, [0, 1]
_RATE = {"low": 1e-5, "high": 1.0, "log": True}
_MOMENTUM, _BETA2 = {"low": 0.01, "high": 0.99}, {"low": 0.9, "high": 0.9999}

FUNCTIONS: Mapping[str, Function] = {
    "tree": Function(
        _tree,
        {
            **{f"function.{name}": _BIT for name in ("x1", "x2", "x3")},
            **{f"function.{name}": _BOTH for name in ("x4", "x5", "x6", "x7")},
            **{f"function.{name}": _UNIT for name in ("r8", "r9")},
        },
        {
            "function.x1 = 0": {"function.x2": _BIT, "function.r8": _UNIT},
            "function.x1 = 1": {"function.x3": _BIT, "function.r9": _UNIT},
            "function.x2 = 0": {"function.x4": _BOTH},
            "function.x2 = 1": {"function.x5": _BOTH},
            "function.x3 = 0": {"function.x6": _BOTH},
            "function.x3 = 1": {"function.x7": _BOTH},
        },
        0.1,
    ),
    "optimizer": Function(
        _optimizer,
        {
            "learning_rate": _RATE,
            "train.optimizer": ["sgd", "adam", "adamw"],
            "train.momentum": _MOMENTUM,
            "train.nesterov": [True, False],
            "train.beta2": _BETA2,
        },
        {
            "train.optimizer = sgd": {
                "learning_rate": {"low": 1e-3, "high": 1.0, "log": True},
                "train.momentum": _MOMENTUM,
                "train.nesterov": [True, False],
            },
            "train.optimizer = adam or adamw": {
                "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
                "train.beta2": _BETA2,
            },
        },
        0.0,
    ),
    "model": Function(
        _model,
        {
            "learning_rate": _RATE,
            "model.name": ["cnn", "mlp", "vit"],
            "model.args.width": {"low": 4, "high": 256, "log": True},
            "model.args.dropout": _UNIT,
            "model.args.depth": {"low": 1, "high": 8},
            "model.args.patch": [2, 4, 8, 16],
            "model.args.heads": [1, 2, 4, 8, 16],
        },
        {
            "model.name = cnn": {
                "model.args.width": {"low": 4, "high": 256, "log": True},
                "model.args.dropout": _UNIT,
            },
            "model.name = mlp": {"model.args.depth": {"low": 1, "high": 8}},
            "model.name = vit": {"model.args.patch": [2, 4, 8, 16], "model.args.heads": [1, 2, 4, 8, 16]},
        },
        0.0,
    ),
}


def regrets(function: Function, conditional: bool, policy: str, seed: int, trials: int) -> list[float]:
    """Returns the regret of the best trial so far, after each trial."""
    spec = parse_study(
        {
            "study": {"name": "c", "seed": seed, "trials": trials, "policy": policy},
            "train": {"function": "a:b", "epochs": 1},
            "search": function.search(conditional),
        }
    )
    view = StudyView(spec)
    proposer = build_policy(policy, view)
    found: list[float] = []
    for number in range(trials):
        assert isinstance(proposer.begin(), New)
        hparams = proposer.start(number)
        value = function.value(hparams)
        view.report(number, 1, value)
        record = create_trial(
            state=TrialState.COMPLETE,
            value=value,
            params=hparams,
            distributions=view.space.of(hparams),
            intermediate_values={1: value},
            user_attrs={
                "score": value,
                "stop_reason": "finished",
                "epochs_run": 1,
                **proposer.notes(number, 1),
            },
        )
        record.number = number
        view.replace(record)
        proposer.finish(record)
        found.append(min([value - function.least, *found[-1:]]))
    return found


def _shown(paths: Sequence[Sequence[float]], trials: int) -> str:
    ends = [path[trials - 1] for path in paths]
    return f"{mean(ends):.4f} +- {stdev(ends) / len(ends) ** 0.5:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--policies", default="sampled,auto", help="sampled is TPE")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    marks = [count for count in (25, 50, 100, 200) if count < args.trials] + [args.trials]
    print("function   policy   space        " + "".join(f"{f'after {count}':<20}" for count in marks))
    for name, function in FUNCTIONS.items():
        for policy in args.policies.split(","):
            for conditional in (False, True):
                paths = [
                    regrets(function, conditional, policy, seed, args.trials) for seed in range(args.seeds)
                ]
                space = "conditional" if conditional else "flat"
                shown = "".join(f"{_shown(paths, count):<20}" for count in marks)
                print(f"{name:<10} {policy:<8} {space:<12} {shown}", flush=True)


if __name__ == "__main__":
    main()
