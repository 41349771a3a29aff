"""The policy without pauses: one of Optuna's samplers begins trials, one of its pruners cuts them."""

from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial

from hpsearch.contracts.trial import StopKind
from hpsearch.search.outcome import Verdict
from hpsearch.search.policy.contract import CONTINUE, Decision, New, Step, Stop, Wait
from hpsearch.search.view import StudyView


class Sampled:
    """Asks the view for everything: it has the sampler, the pruner and the trials."""

    def __init__(self, view: StudyView) -> None:
        self._view = view

    def begin(self, new: bool = True) -> Step:
        return New(f"proposed by {self._view.spec.sampler.name}") if new else Wait()

    def start(self, number: int) -> dict[str, Any]:
        return self._view.ask(number)

    def resume(self, number: int) -> None:
        raise ValueError(f"trial {number} cannot be paused: this policy pauses none")

    def take_back(self, number: int) -> None:
        self.resume(number)

    def report(self, number: int, epoch: int, value: float) -> Decision:
        if not self._view.should_prune(number):
            return CONTINUE
        detail = f"the {self._view.spec.pruner.name} pruner cut it at epoch {epoch}"
        return Stop(Verdict(StopKind.PRUNER, detail))

    def notes(self, number: int, epochs: int) -> dict[str, Any]:
        return {}

    def finish(self, trial: FrozenTrial) -> None:
        pass

    def add(self, trial: FrozenTrial) -> None:
        pass

    def surplus(self, most: int) -> Sequence[int]:
        return []

    def why_left(self, number: int) -> str:
        return "this policy resumes none"
