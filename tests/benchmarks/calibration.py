"""Whether the curve model keeps what it says: its prediction of each resumed piece, recorded before it is trained.

    python -m tests.benchmarks.calibration [--tasks held_out] [--seeds 3] [--budget 1000]

For each piece of a paused trial: how often its end lies within one and two of the predicted standard deviations (68 and
95 % if the model is calibrated), and the root mean square error, beside that of "it stays as it is". Values are on the
model's scale at the decision (mean 0, deviation 1 over the study's points).
"""

import argparse
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpsearch.search.policy.build import POLICIES
from hpsearch.search.policy.contract import Decision
from hpsearch.search.policy.model import CostScale
from hpsearch.search.policy.thaw import Thaw
from hpsearch.search.view import StudyView
from tests.benchmarks.curve_tasks import HELD_OUT, TUNED, make
from tests.benchmarks.search import ROOT, replay
from tests.benchmarks.search_methods import own


@dataclass
class Ledger:
    """Predicted and met, on the model's scale; `stays` is the trial's last value before."""

    mean: list[float] = field(default_factory=list)
    deviation: list[float] = field(default_factory=list)
    stays: list[float] = field(default_factory=list)
    met: list[float] = field(default_factory=list)


class Told(Thaw):
    """The policy `auto`, which also writes down what it expected of the pieces that it resumed."""

    ledger: Ledger

    def __init__(self, view: StudyView, ledger: Ledger) -> None:
        auto: Any = POLICIES["auto"](view)
        super().__init__(view, auto.pieces, auto._mixture)
        self.ledger = ledger
        self._expected: dict[int, tuple[float, float, float, CostScale]] = {}

    def resume(self, number: int) -> None:
        track = self.tracks[number]
        if self._model.knows_any:
            belief = self._model.posterior(self.running())
            at = self._model.places([track], [track.next_cut])
            [mean], [deviation] = belief.posterior.predict(at)
            noise = math.exp(2 * self._model._fitted()[3])
            costs = [point.cost for points in self._model._points.values() for point in points]
            scale = CostScale.of(np.array(costs))
            last = float(scale(np.array([self._last_cost(number)]))[0])
            self._expected[number] = float(mean), math.sqrt(deviation**2 + noise / 3), last, scale
        super().resume(number)

    def report(self, number: int, epoch: int, value: float) -> Decision:
        ended = len(self.tracks[number].pieces)
        decision = super().report(number, epoch, value)
        if len(self.tracks[number].pieces) > ended and number in self._expected:
            self._note(number)
        return decision

    def _note(self, number: int) -> None:
        mean, deviation, last, scale = self._expected.pop(number)
        met = float(scale(np.array([self._last_cost(number)]))[0])
        for values, value in zip(
            (self.ledger.mean, self.ledger.deviation, self.ledger.stays, self.ledger.met),
            (mean, deviation, last, met),
            strict=True,
        ):
            values.append(value)

    def _last_cost(self, number: int) -> float:
        """Returns the mean of the last epochs of a trial's last piece, as the model is told."""
        track = self.tracks[number]
        start = track.pieces[-2][0] if len(track.pieces) > 1 else 0
        costs = track.costs[max(start, track.trained - 3) : track.trained]
        return float(np.mean([cost for cost in costs if math.isfinite(cost)] or [math.inf]))


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data-root", type=Path, default=ROOT.parent / "shared" / "data")
    options.add_argument("--tasks", default="held_out")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--budget", type=int, default=1000)
    args = options.parse_args()
    groups = {"held_out": HELD_OUT, "tuned": TUNED}
    every = Ledger()
    print("task  pieces  within 1 sd  within 2 sd  error of the model  error of 'it stays'")
    for name in groups.get(args.tasks, args.tasks.split(",")):
        task, ledger = make(name, args.data_root), Ledger()
        for seed in range(args.seeds):
            method = own(lambda view, ledger=ledger: Told(view, ledger))(task, seed, args.budget)
            replay(task, method, seed, 1, args.budget, 0.02)
        print(line(name, ledger))
        for values, more in zip(vars(every).values(), vars(ledger).values(), strict=True):
            values.extend(more)
    print(line("all", every))


def line(name: str, ledger: Ledger) -> str:
    """Returns one line of the table."""
    mean, deviation, stays, met = (np.array(values) for values in vars(ledger).values())
    away = np.abs(met - mean) / deviation
    model, same = (float(np.sqrt(np.mean((met - value) ** 2))) for value in (mean, stays))
    within = f"{(away < 1).mean():.0%}  {(away < 2).mean():.0%}"
    return f"{name}  {len(met)}  {within}  {model:.3f}  {same:.3f}"


if __name__ == "__main__":
    main()
