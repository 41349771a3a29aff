"""Advice that compares trials: ranges to widen, choices to fix, a search that has settled, rates too high.

Every rule returns all claims that it has tested, since the correction counts them; most are given up there.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

import numpy as np
from scipy import stats

from hpsearch.results.confirm.statistics import CERTAINTY
from hpsearch.results.progress import hparam
from hpsearch.results.record import StudyRecord, TrialRecord
from hpsearch.results.report.evidence import (
    Claim,
    cost,
    judged,
    luck,
    luck_of_share,
    medians,
)
from hpsearch.spec.search import Choices, Entry, label

ENOUGH = 10
"""Finished trials before anything is compared."""
END = 0.2
"""Share of a range that is its end."""
TURN = 0.6
"""Share of a range, up to its end, over which the scores must show no turn before the end."""
FIFTHS = {"lower": "lowest fifth", "upper": "highest fifth"}
RARE = 0.1
"""Share of diverged trials that is no reason for a word."""


def at_the_edge(record: StudyRecord) -> list[Claim]:
    """The trials at one end of a range score better than the others, and still improve towards it."""
    trials = judged(record)
    if record.spec is None or len(trials) < ENOUGH:
        return []
    claims: list[Claim] = []
    for name, entry in record.spec.search.items():
        found = {t.number: place(entry, t.hparams.get(name)) for t in trials}
        placed = [(where, cost(record, t)) for t in trials if (where := found[t.number]) is not None]
        if placed:
            claims += [_edge(record, name, entry, placed, end) for end in FIFTHS]
    return claims


def _edge(
    record: StudyRecord, name: str, entry: Entry, placed: Sequence[tuple[float, float]], end: str
) -> Claim:
    """Returns the claim about one end.

    Args:
        placed: each trial's place in the range, from 0 to 1, and its cost.
    """
    inward = [(1 - where if end == "upper" else where, paid) for where, paid in placed]
    at_end = [paid for where, paid in inward if where <= END]
    others = [paid for where, paid in inward if where > END]
    p = luck(at_end, others)
    if p < 1 and not _improves_to_its_end(inward):
        p = 1.0
    values = entry.extremes() if not isinstance(entry, Choices) else sorted(entry.choices)
    limit = hparam(values[-1 if end == "upper" else 0])
    where = (
        f"at its {end} end, {limit}," if isinstance(entry, Choices) else f"in the {FIFTHS[end]} of its range"
    )
    seen = f"{plain(name).capitalize()}: the {len(at_end)} trials {where} score better than the other {len(others)}"
    if at_end and others:
        seen += f", {medians(record, (at_end, others))}"
    beyond = "above" if end == "upper" else "below"
    return Claim(seen, f"the best value may lie {beyond} {limit}; widen {name} there", (name,), p)


def _improves_to_its_end(inward: Sequence[tuple[float, float]]) -> bool:
    """Says whether trials do not get worse towards an end.

    The last fifth must rank no worse than the next one (or the nearest place there is), and a parabola
    through the ranks must not rise towards the end: an optimum shortly before it is no reason to widen.

    Args:
        inward: distance from the end and cost of each trial.
    """
    ranks = stats.rankdata([paid for _, paid in inward])
    away = np.array([where for where, _ in inward])
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
        numbers = sorted(choice for choice in entry.choices if _is_number(choice))
        if not 3 <= len(numbers) == len(entry.choices) or value not in numbers:
            return None
        return numbers.index(value) / (len(numbers) - 1)
    if not isinstance(value, int | float) or not entry.low <= value <= entry.high or entry.low == entry.high:
        return None
    scale = math.log if entry.log else float
    low, high = scale(entry.low), scale(entry.high)
    return (scale(value) - low) / (high - low)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def plain(name: str) -> str:
    """Returns the last part of a dotted name in words."""
    return name.rpartition(".")[2].replace("_", " ")


def one_sided(record: StudyRecord) -> list[Claim]:
    """One choice of a hyperparameter scores better than each of the others."""
    trials = judged(record)
    if record.spec is None or len(trials) < 2 * ENOUGH:
        return []
    claims: list[Claim] = []
    for name, entry in record.spec.search.items():
        if isinstance(entry, Choices) and len(entry.choices) > 1:
            groups = _by_choice(record, trials, name, entry)
            claims += [_choice(record, name, choice, groups) for choice in groups]
    return claims


def _by_choice(
    record: StudyRecord, trials: Sequence[TrialRecord], name: str, entry: Choices
) -> dict[str, list[float]]:
    """Returns the costs of the trials with each choice."""
    groups: dict[str, list[float]] = {str(label(choice)): [] for choice in entry.choices}
    for trial in trials:
        groups.get(str(trial.hparams.get(name)), []).append(cost(record, trial))
    return groups


def _choice(record: StudyRecord, name: str, choice: str, groups: Mapping[str, Sequence[float]]) -> Claim:
    own = groups[choice]
    rest = [group for other, group in groups.items() if other != choice]
    others = [paid for group in rest for paid in group]
    p = max(luck(own, others), *(luck(own, group) for group in rest))
    seen = f"The {len(own)} trials with {name} = {choice} score better than those with any other choice"
    if own and others:
        seen += f", {medians(record, (own, others))}"
    return Claim(seen, "fix it, and search the other hyperparameters more finely", (name,), p)


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
    seen = f"{len(diverged)} of {len(record.finished)} trials diverged"
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
