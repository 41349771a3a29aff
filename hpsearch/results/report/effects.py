"""Advice that compares trials: ranges to widen, choices to fix, a search that has settled, rates too high.

Every rule returns all claims that it has tested, since the correction counts them; most are given up there.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hpsearch.results.confirm.statistics import CERTAINTY
from hpsearch.results.plots.chart import is_number
from hpsearch.results.report.evidence import (
    Claim,
    cost,
    judged,
    luck,
    luck_of_share,
    medians,
)
from hpsearch.results.stored.study import StudyRecord, TrialRecord
from hpsearch.results.terminal.progress import hparam
from hpsearch.study.search import Choices, Entry
from hpsearch.text import counted

ENOUGH = 10
"""Finished trials before anything is compared."""
END = 0.2
"""Share of a range that is its end."""
TURN = 0.6
"""Share of a range, up to its end, over which the scores must show no turn before the end."""
FIFTHS = {"lower": "lowest fifth", "upper": "highest fifth"}
RIDGE = 10.0
"""Weight of the ridge regression, in trials."""
RARE = 0.1
"""Share of diverged trials that is no reason for a word."""


def at_the_edge(record: StudyRecord) -> list[Claim]:
    """The trials at one end of a range score better than the others, and still improve towards it."""
    trials = judged(record)
    if record.spec is None or len(trials) < ENOUGH:
        return []
    costs, apart = (
        [cost(record, trial) for trial in trials],
        _without_others(record.spec.search, record, trials),
    )
    claims: list[Claim] = []
    for name, entry in record.spec.search.items():
        if name == "epochs" and record.spec.pauses:
            continue  # who may train longer has trained longer when all are paused: no fair comparison
        found = [place(entry, trial.hparams.get(name)) for trial in trials]
        placed = [
            _Placed(where, *paid)
            for where, *paid in zip(found, costs, apart[name], strict=True)
            if where is not None
        ]
        if placed:
            claims += [_edge(record, name, entry, placed, end) for end in FIFTHS]
    return claims


class _Placed(NamedTuple):
    """A trial's place in a range, its cost, and that cost without what other hyperparameters explain."""

    where: float
    cost: float
    apart: float


def _edge(record: StudyRecord, name: str, entry: Entry, placed: Sequence[_Placed], end: str) -> Claim:
    """Returns the claim about one end."""
    inward = [trial._replace(where=1 - trial.where) if end == "upper" else trial for trial in placed]
    at_end = [trial for trial in inward if trial.where <= END]
    others = [trial for trial in inward if trial.where > END]
    groups = [[trial.cost for trial in group] for group in (at_end, others)]
    p = max(luck(*groups), luck([trial.apart for trial in at_end], [trial.apart for trial in others]))
    if p < 1 and not _improves_to_its_end(inward):
        p = 1.0
    values = entry.extremes() if not isinstance(entry, Choices) else sorted(entry.choices)
    limit = hparam(values[-1 if end == "upper" else 0])
    where = (
        f"at its {end} end, {limit}," if isinstance(entry, Choices) else f"in the {FIFTHS[end]} of its range"
    )
    seen = f"{plain(name).capitalize()}: the {len(at_end)} trials {where} score better than the other {len(others)}"
    if at_end and others:
        seen += f", {medians(record, groups)}"
    beyond = "above" if end == "upper" else "below"
    return Claim(seen, f"the best value may lie {beyond} {limit}; widen {name} there", (name,), p)


def _without_others(
    search: Mapping[str, Entry], record: StudyRecord, trials: Sequence[TrialRecord]
) -> dict[str, NDArray[np.float64]]:
    """Returns for each hyperparameter the trials' costs without what the others explain of them.

    A sampler that learns moves all hyperparameters towards good trials at once, so that one which does nothing
    goes with good scores too. The costs' ranks are regressed on all of them (a parabola over each range, a step
    for each choice; ridge regression), and what the others account for is taken away.
    """
    goal = stats.norm.ppf((stats.rankdata([cost(record, trial) for trial in trials]) - 0.5) / len(trials))
    blocks = [
        _columns(entry, [trial.hparams.get(name) for trial in trials]) for name, entry in search.items()
    ]
    owner = np.repeat(np.arange(len(blocks)), [block.shape[1] for block in blocks])
    table = np.concatenate(blocks, axis=1)
    table = (table - table.mean(axis=0)) / np.maximum(table.std(axis=0), 1e-9)
    weights = np.linalg.solve(table.T @ table + RIDGE * np.eye(len(owner)), table.T @ goal)
    return {
        name: goal - table[:, owner != place] @ weights[owner != place] for place, name in enumerate(search)
    }


def _columns(entry: Entry, values: Sequence[object]) -> NDArray[np.float64]:
    places = [place(entry, value) for value in values]
    if isinstance(entry, Choices) and all(where is None for where in places):
        steps = [[str(value) == str(choice) for choice in entry.labels()] for value in values]
        return np.array(steps, dtype=np.float64)
    line = np.array([0.5 if where is None else where for where in places])
    return np.stack([line, line**2], axis=1)


def _improves_to_its_end(inward: Sequence[_Placed]) -> bool:
    """Says whether trials do not get worse towards an end.

    The last fifth must rank no worse than the next one (or the nearest place there is), and a parabola
    through the ranks must not rise towards the end: an optimum shortly before it is no reason to widen.

    Args:
        inward: with their distances from the end.
    """
    ranks = stats.rankdata([trial.cost for trial in inward])
    away = np.array([trial.where for trial in inward])
    beside = away[away > END].min()
    near = (away > END) & (away <= max(beside, 2 * END))
    if ranks[away <= END].mean() > ranks[near].mean():
        return False
    outer = away <= TURN
    if len(set(away[outer])) < 3:
        return True
    slope_at_end = np.polyfit(away[outer], ranks[outer], 2)[1]
    return bool(slope_at_end >= 0)


def place(entry: Entry, value: object) -> float | None:
    """Returns where in its range a value lies, from 0 to 1; numbers to choose from count by their order.

    None where there is no order, or for a value that is not in the range.
    """
    if isinstance(entry, Choices):
        numbers = sorted(choice for choice in entry.choices if is_number(choice))
        if not 3 <= len(numbers) == len(entry.choices) or value not in numbers:
            return None
        return numbers.index(value) / (len(numbers) - 1)
    if not isinstance(value, int | float) or not entry.low <= value <= entry.high or entry.low == entry.high:
        return None
    scale = math.log if entry.log else float
    low, high = scale(entry.low), scale(entry.high)
    return (scale(value) - low) / (high - low)


def plain(name: str) -> str:
    """Returns the last part of a dotted name in words."""
    return name.rpartition(".")[2].replace("_", " ")


def one_sided(record: StudyRecord) -> list[Claim]:
    """One choice of a hyperparameter scores better than each of the others."""
    trials = judged(record)
    if record.spec is None or len(trials) < 2 * ENOUGH:
        return []
    costs, apart = (
        [cost(record, trial) for trial in trials],
        _without_others(record.spec.search, record, trials),
    )
    claims: list[Claim] = []
    for name, entry in record.spec.search.items():
        if isinstance(entry, Choices) and len(entry.choices) > 1:
            chosen = [str(trial.hparams.get(name)) for trial in trials]
            both = [_by_choice(entry, chosen, costs), _by_choice(entry, chosen, apart[name].tolist())]
            claims += [_choice(record, name, choice, both) for choice in both[0]]
    return claims


def _by_choice(entry: Choices, chosen: Sequence[str], costs: Sequence[float]) -> dict[str, list[float]]:
    """Returns the costs of the trials with each choice."""
    groups: dict[str, list[float]] = {str(choice): [] for choice in entry.labels()}
    for choice, paid in zip(chosen, costs, strict=True):
        groups.get(choice, []).append(paid)
    return groups


def _choice(
    record: StudyRecord, name: str, choice: str, both: Sequence[Mapping[str, Sequence[float]]]
) -> Claim:
    """Returns the claim about one choice.

    Args:
        both: costs by choice, and the same without what other hyperparameters explain.
    """
    p = max(luck(groups[choice], group) for groups in both for group in _rivals(groups, choice))
    own, others = both[0][choice], _rivals(both[0], choice)[0]
    seen = f"The {len(own)} trials with {name} = {choice} score better than those with any other choice"
    if own and others:
        seen += f", {medians(record, (own, others))}"
    return Claim(seen, "fix it, and search the other hyperparameters more finely", (name,), p)


def _rivals(groups: Mapping[str, Sequence[float]], choice: str) -> list[list[float]]:
    """Returns the costs of all other choices together, and of each of them."""
    rest = [list(group) for other, group in groups.items() if other != choice]
    return [[paid for group in rest for paid in group], *rest]


def late_best(record: StudyRecord) -> list[Claim]:
    """The search has found where the good trials lie, and finds better ones still, or none for long."""
    trials, best = judged(record), record.best
    if best is None or len(trials) < 2 * ENOUGH:
        return []
    costs = [cost(record, trial) for trial in trials]
    half = len(costs) // 2
    early, late = costs[:half], costs[half:]
    p = luck(late, early)
    at = [trial.number for trial in trials].index(best.number) + 1
    learnt = (
        f"The later half of the trials scores better than the earlier one, {medians(record, (late, early))}"
    )
    if at > 0.9 * len(costs):
        seen = f"{learnt}, and the best was the {_ordinal(at)} of {len(costs)}"
        return [Claim(seen, "the search has not settled, more trials may help", ("study.trials",), p)]
    if at > half:
        return []
    seen = f"{learnt}, yet the last {len(costs) - at} trials brought nothing better"
    remedy = "more trials in this space will hardly help; narrow it, or change model, data or augmentation"
    return [Claim(seen, remedy, ("study.trials",), p)]


def _ordinal(count: int) -> str:
    ending = "th" if count % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th")
    return f"{count}{ending}"


def all_diverged(record: StudyRecord) -> str | None:
    """Returns what is to be said where every finished trial diverged, None elsewhere."""
    if not record.finished or any(trial.stop_reason != "diverged" for trial in record.finished):
        return None
    count = len(record.finished)
    return f"All {count} finished trials diverged" if count > 1 else "The only finished trial diverged"


def divergence(record: StudyRecord) -> list[Claim]:
    """All trials diverged, or many, above all those with a high learning rate."""
    diverged = [trial for trial in record.finished if trial.stop_reason == "diverged"]
    rates = _rates(diverged)
    if seen := all_diverged(record):
        limit = (
            f"search below {hparam(min(rates))}, the lowest that was tried" if rates else _fixed_rate(record)
        )
        remedy = f"lower the learning rate: {limit}"
        return [Claim(seen, remedy, ("learning_rate",))]
    if len(record.finished) < ENOUGH or not diverged:
        return []
    return list(_many_diverged(record, diverged, rates))


def _rates(trials: Sequence[TrialRecord]) -> list[float]:
    return [trial.hparams["learning_rate"] for trial in trials if "learning_rate" in trial.hparams]


def _fixed_rate(record: StudyRecord) -> str:
    now = f" (now {hparam(record.spec.train.learning_rate)})" if record.spec is not None else ""
    return f"train.learning_rate{now}"


def _many_diverged(
    record: StudyRecord, diverged: Sequence[TrialRecord], rates: Sequence[float]
) -> Iterator[Claim]:
    """Yields that many trials diverged, if by a 95 % bound they are more than a few, and whether the rate did it."""
    if luck_of_share(len(diverged), len(record.finished), RARE) > 1 - CERTAINTY:
        return
    seen = f"{len(diverged)} of {counted(len(record.finished), 'trial')} diverged"
    otherwise = "add train.warmup_epochs or train.clip_norm"
    lower = ("learning_rate", "train.clip_norm")
    if not rates:
        yield Claim(seen, f"lower {_fixed_rate(record)}, or {otherwise}", lower)
        return
    others = _rates([trial for trial in judged(record) if trial.stop_reason != "diverged"])
    p = luck([-rate for rate in rates], [-rate for rate in others])
    if others:
        against = (
            f"median learning rate {hparam(median(rates))} against {hparam(median(others))} of the others"
        )
        limit = f"search.learning_rate's upper limit (they lie above {hparam(min(rates))})"
        yield Claim(f"{seen}, {against}", f"lower {limit}, or {otherwise}", lower, p)
    yield Claim(seen, otherwise, ("train.clip_norm",))
