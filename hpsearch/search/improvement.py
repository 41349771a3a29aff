"""How probable it is that a search still improves: its best value, by more than so much, within so many epochs.

Two times tell: the epochs T of all trials so far, and the epochs t since the best value came within so much of what it
is now. Where nothing is known of how values come, the best of all so far comes within the next n with the odds n / T
(a record of exchangeable values), and something that has not come for t with the odds n / t (the rule of succession
for a rate that may be anything). A search is neither, so that both are joined as a logistic regression joins them,

    odds = exp(w0) (n / t)^w1 (n / T)^w2,

with weights from replayed searches (`tests.benchmarks.improvement --fit`), on tasks other than those it is judged by.
What the model of the curves expects of paused and of new trials was tried as well, and told nothing beyond that.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate

from hpsearch.search.policy.contract import Policy
from hpsearch.search.policy.pausing import Pausing
from hpsearch.search.view import StudyView
from hpsearch.study.direction import sign

LEAST = 8
"""Trials with a value before anything is said."""
WEIGHTS = (-0.08, 0.51, 0.81)

_Piece = tuple[int, int, list[float]]
"""When it ended, of which trial it is, and the costs of its epochs."""


def chance(view: StudyView, policy: Policy, by: float, within: int) -> float | None:
    """Returns the probability that the best value improves by more than so much; None of too few trials.

    Args:
        policy: of the search; one that pauses trials knows in which order they were trained.
        within: epochs of all trials together.
    """
    found = words(view, policy, by, within)
    return None if found is None else joined(found)


def words(view: StudyView, policy: Policy, by: float, within: int) -> tuple[float, float] | None:
    """Returns the logarithms of n / t and of n / T; None of too few trials."""
    pieces = sorted(_pieces(view, policy), key=lambda piece: piece[:2])
    costs = [cost for _, _, costs in pieces for cost in costs]
    if len({number for _, number, costs in pieces if any(map(math.isfinite, costs))}) < LEAST:
        return None
    bests = list(accumulate(costs, min))
    near = next(place for place, best in enumerate(bests) if best <= bests[-1] + by)
    return math.log(within / max(1, len(bests) - 1 - near)), math.log(within / len(bests))


def joined(words: Sequence[float]) -> float:
    """Returns the probability that two words give together."""
    odds = WEIGHTS[0] + sum(weight * word for weight, word in zip(WEIGHTS[1:], words, strict=True))
    return 1 / (1 + math.exp(-odds))


def _pieces(view: StudyView, policy: Policy) -> Iterator[_Piece]:
    """Yields what trials were trained in: pieces, or of a policy without pauses the trials as a whole."""
    if not isinstance(policy, Pausing):
        factor = sign(view.spec.study.better)
        for trial in view.known():
            yield 0, trial.number, [factor * value for _, value in sorted(trial.intermediate_values.items())]
        return
    for track in policy.tracks.values():
        start = 0
        for end, order in [*track.pieces, (len(track.costs), policy.order)]:
            yield order, track.number, track.costs[start:end]
            start = max(start, end)
