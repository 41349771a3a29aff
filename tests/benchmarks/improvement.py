"""Whether "an improvement is improbable" can be believed: the chance that is said, and how often it came.

    python -m tests.benchmarks.improvement [--tasks held_out] [--seeds 2] [--methods auto] [--budget 800]

Replays searches, see `tests.benchmarks.search`. Every 50 epochs the chance is recorded that the best reported value
improves by more than `--by` within the next `--within` epochs of all trials; `--by` is a share of the distance between
the best known value and the median random trial's. Printed is how often such an improvement came, by the chance that
was said; then what a rule that stops there costs: for the first time that the chance lies below the limit, in how many
searches the improvement came all the same, and what was still gained until the end.
"""

import argparse
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from scipy.optimize import minimize

from hpsearch.search.improvement import joined, words
from tests.benchmarks.curve_tasks import HELD_OUT, TUNED, make
from tests.benchmarks.search import ROOT, replay
from tests.benchmarks.search_methods import METHODS, Answer, Method

EVERY = 50
LIMITS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.01)


class Watched:
    """A method whose prospects are recorded on the way."""

    def __init__(self, method: Any, by: Sequence[float], within: Sequence[int]) -> None:
        self.hparams: dict[int, Mapping[str, Any]] = method.hparams
        self.best: list[float] = []
        self.said: list[dict[str, Any]] = []
        self._method, self._by, self._within = method, by, within

    def begin(self) -> int | None:
        found: int | None = self._method.begin()
        return found

    def report(self, number: int, epoch: int, value: float, last: bool) -> Answer:
        answer: Answer = self._method.report(number, epoch, value, last)
        seen = value if math.isfinite(value) else math.inf
        self.best.append(min(seen, self.best[-1] if self.best else math.inf))
        if len(self.best) % EVERY == 0:
            for by in self._by:
                for within in self._within:
                    found = words(self._method.view, self._method.policy, by, within)
                    if found is not None:
                        self.said.append({"at": len(self.best), "by": by, "within": within, "words": found})
        return answer

    def judged(self) -> list[dict[str, Any]]:
        """Returns what was said, with what came."""
        found = []
        for one in self.said:
            then, until = self.best[one["at"] - 1], one["at"] + one["within"]
            if until <= len(self.best):
                came = self.best[until - 1] < then - one["by"]
                found.append({**one, "came": came, "gain": then - self.best[-1], "best": then})
        return found


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data-root", type=Path, default=ROOT.parent / "shared" / "data")
    options.add_argument("--tasks", default="held_out")
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--first-seed", type=int, default=0)
    options.add_argument("--methods", default="auto")
    options.add_argument("--budget", type=int, default=800)
    options.add_argument("--by", default="0.01,0.05")
    options.add_argument("--within", default="100,300")
    options.add_argument("--fit", action="store_true", help="print the weights that these searches call for")
    options.add_argument("--json", type=Path, help="file that gets what was said, a line each")
    args = options.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    shares, within = [float(one) for one in args.by.split(",")], list(map(int, args.within.split(",")))
    groups = {"held_out": HELD_OUT, "tuned": TUNED}
    lines: list[dict[str, Any]] = []
    for name in groups.get(args.tasks, args.tasks.split(",")):
        task = make(name, args.data_root)
        scale = task.ref - task.opt
        for method in args.methods.split(","):
            for seed in range(args.first_seed, args.first_seed + args.seeds):
                watched = Watched(
                    METHODS[method](task, seed, args.budget), [share * scale for share in shares], within
                )
                searched: Method = watched
                replay(task, searched, seed, 1, args.budget, 0.02)
                for one in watched.judged():
                    one |= {"task": name, "method": method, "seed": seed}
                    one["share"], one["gain"] = round(one["by"] / scale, 6), one["gain"] / scale
                    lines.append(one)
        print(f"{name}: {len(lines)} said", flush=True)
    if args.json:
        args.json.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    if args.fit:
        print(f"weights: {fitted(lines)}")
    for line in lines:
        line["said"] = joined(line["words"])
    for line in table(lines):
        print(line)


def fitted(lines: Sequence[Mapping[str, Any]]) -> list[float]:
    """Returns the most probable weights, with a weak prior that keeps them near 0.5 each."""
    found = np.array([(1.0, *line["words"]) for line in lines])
    came = np.array([line["came"] for line in lines], dtype=float)
    prior = np.array([0.0, 0.5, 0.5])

    def loss(weights: Any) -> float:
        odds = found @ weights
        return float(np.logaddexp(0, odds).sum() - came @ odds + 0.5 * ((weights - prior) ** 2).sum())

    return [round(float(weight), 2) for weight in minimize(loss, prior).x]


def table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns how often an improvement came by the chance that was said, and what stopping by it would cost."""
    told = ["said below: times said, mean said, how often it came"]
    low = 0.0
    for limit in LIMITS:
        found = [line for line in lines if low <= line["said"] < limit]
        if found:
            said, came = (np.mean([line[key] for line in found]) for key in ("said", "came"))
            told.append(f"  {low:.2f} to {min(limit, 1):.2f}: {len(found):5}  {said:.3f}  {came:.3f}")
        low = limit
    told.append("stopped when first below: searches, stopped, it came within, mean gain left, mean epoch")
    keys = sorted(
        {(line["task"], line["method"], line["seed"], line["share"], line["within"]) for line in lines}
    )
    for limit in LIMITS[:4]:
        stops = []
        for key in keys:
            own = [
                line
                for line in lines
                if (line["task"], line["method"], line["seed"], line["share"], line["within"]) == key
            ]
            first = next((line for line in own if line["said"] < limit), None)
            if first is not None:
                stops.append(first)
        if stops:
            came, gain, at = (np.mean([line[name] for line in stops]) for name in ("came", "gain", "at"))
            told.append(f"  {limit:.2f}: {len(keys)}  {len(stops)}  {came:.3f}  {gain:.4f}  {at:.0f}")
    return told


if __name__ == "__main__":
    main()
