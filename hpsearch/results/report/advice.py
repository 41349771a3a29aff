"""What to do next: rules over a study, each a pure function that may say one thing or more.

A rule says what was seen, with its number, and what to change.
"""

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from statistics import median

from hpsearch.results.answer import SUMMARY
from hpsearch.results.progress import hparam, number
from hpsearch.results.record import StudyRecord, TrialRecord
from hpsearch.spec.search import Choices, Entry, FloatRange, IntRange

EDGE = 0.05  # share of a range that counts as its edge
NEAR = 0.2  # share of a range in which most good trials must lie before its edge is blamed
ENOUGH = 10  # trials per hyperparameter, and finished trials before rules about shares speak
LARGE = 0.2  # share of the trials that is worth a word
TOP_SHARE = 0.2  # of the ranked trials, those that count as good

Rule = Callable[[StudyRecord], list[str]]


def advice(record: StudyRecord) -> list[str]:
    """Returns what all rules say, the most useful first."""
    return [sentence for rule in RULES for sentence in rule(record)]


def failures(record: StudyRecord) -> list[str]:
    """Failed trials are bugs: they come before all else."""
    failed = [trial for trial in record.finished if trial.state == "FAIL"]
    if not failed:
        return []
    reason = failed[-1].attrs.get("stop_detail") or failed[-1].stop_reason
    return [
        f"{len(failed)} of {len(record.finished)} trials failed, the last one (trial {failed[-1].number}) "
        f"with: {reason}. Mend that first."
    ]


def at_the_edge(record: StudyRecord) -> list[str]:
    """The best value of a hyperparameter lies at the end of what was searched, and most good ones near it."""
    best, good = record.chosen, _good(record)
    if best is None or record.spec is None or len(record.ranked) < ENOUGH:
        return []
    found = []
    for name, entry in record.spec.search.items():
        value = best.hparams.get(name)
        end = _end(entry, value, EDGE)
        near = sum(_end(entry, trial.hparams.get(name), NEAR) == end for trial in good)
        if end and 2 * near > len(good):
            found.append(
                f"The best {_plain(name)} ({hparam(value)}) lies at the {end} end of its range, and {near} of "
                f"the {len(good)} best trials lie near it: widen it there."
            )
    return found


def _end(entry: Entry, value: object, edge: float) -> str:
    """Returns at which end of its range a value lies: "lower", "upper" or nothing.

    Args:
        edge: share of the range that counts as its end.
    """
    if isinstance(entry, Choices):
        return _choice_end(entry, value)
    return _range_end(entry, value, edge) if isinstance(value, int | float) else ""


def _range_end(entry: FloatRange | IntRange, value: float, edge: float) -> str:
    if entry.low == entry.high:
        return ""
    low, high, here = (
        (math.log(entry.low), math.log(entry.high), math.log(value))
        if entry.log
        else (float(entry.low), float(entry.high), float(value))
    )
    share = (here - low) / (high - low)
    return "lower" if share < edge else "upper" if share > 1 - edge else ""


def _choice_end(entry: Choices, value: object) -> str:
    numbers = sorted(choice for choice in entry.choices if _is_number(choice))
    if len(numbers) < 3 or len(numbers) < len(entry.choices) or value not in (numbers[0], numbers[-1]):
        return ""
    return "lower" if value == numbers[0] else "upper"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(name: str) -> str:
    return name.rpartition(".")[2].replace("_", " ")


def still_improving(record: StudyRecord) -> list[str]:
    """Most good trials reached their best value at their very last epoch."""
    good = _good(record)
    running_on = [t for t in good if t.stop_reason == "finished" and t.best_epoch == t.epochs_run]
    if len(good) < 3 or 2 * len(running_on) <= len(good):
        return []
    return [
        f"{len(running_on)} of the {len(good)} best trials were still improving at their last epoch: raise "
        "epochs (or train.learning_rate's lower limit)."
    ]


def overfitting(record: StudyRecord) -> list[str]:
    """Most good trials overfit."""
    return _most_fit(
        record,
        "overfit",
        "overfit: add augmentation or weight decay to the search, use more data, or fewer epochs.",
    )


def underfitting(record: StudyRecord) -> list[str]:
    """Most good trials are underfit, though they were not cut short."""
    return _most_fit(
        record,
        "underfit",
        "are underfit: raise epochs, try a larger model, or less augmentation and weight decay.",
    )


def _most_fit(record: StudyRecord, fit: str, words: str) -> list[str]:
    good = _good(record)
    count = sum(trial.fit == fit for trial in good)
    return (
        [f"{count} of the {len(good)} best trials {words}"]
        if len(good) >= 3 and 2 * count > len(good)
        else []
    )


def _good(record: StudyRecord) -> tuple[TrialRecord, ...]:
    return record.ranked[: max(3, math.ceil(TOP_SHARE * len(record.ranked)))]


def divergence(record: StudyRecord) -> list[str]:
    """Many trials diverged: the upper limit of the learning rate is too high."""
    diverged = [trial for trial in record.finished if trial.stop_reason == "diverged"]
    rates = [trial.hparams["learning_rate"] for trial in diverged if "learning_rate" in trial.hparams]
    if not _is_many(record, len(diverged)):
        return []
    where = f"search.learning_rate's upper limit (they lie above {hparam(min(rates))})" if rates else "it"
    return [
        f"{len(diverged)} of {len(record.finished)} trials diverged: lower {where}, or add "
        "train.warmup_epochs or train.clip_norm."
    ]


def memory(record: StudyRecord) -> list[str]:
    """Trials did not fit into memory."""
    full = [trial for trial in record.finished if trial.stop_reason == "out_of_memory"]
    if not full:
        return []
    return [
        f"{len(full)} of {len(record.finished)} trials did not fit into memory: use a smaller image size or "
        "model, or train.precision = \"bfloat16\" if the device has it."
    ]  # fmt: skip


def few_trials(record: StudyRecord) -> list[str]:
    """Too few trials for the number of hyperparameters."""
    wanted = ENOUGH * len(record.hparam_names())
    if not record.finished or len(record.finished) >= wanted:
        return []
    return [
        f"{len(record.finished)} trials for {len(record.hparam_names())} hyperparameters are few: raise "
        f"study.trials to {wanted} or more and run the study again, it goes on from here."
    ]


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def late_best(record: StudyRecord) -> list[str]:
    """The best score came very late, or long ago."""
    best, count = record.best, len(record.finished)
    if best is None or count < 2 * ENOUGH:
        return []
    place = [trial.number for trial in record.finished].index(best.number) + 1
    if place > 0.9 * count:
        return [
            f"The best trial was the {_ordinal(place)} of {count}: the search had not settled; more trials may help."
        ]
    if place <= 0.5 * count:
        return [
            f"The last {count - place} trials brought nothing better: more trials in this space will hardly "
            "help; narrow it, or change model, data or augmentation."
        ]
    return []


def unsettled(record: StudyRecord) -> list[str]:
    """The best trials differ by less than the loss of the best moves between epochs: noise orders them."""
    complete = [trial for trial in record.ranked if trial.state == "COMPLETE" and trial.score is not None]
    if SUMMARY in record.attrs or record.metric != "val_loss" or len(complete) < 3:
        return []
    scores = [trial.score or 0.0 for trial in complete[:3]]
    gap, wobble = max(scores) - min(scores), _wobble(complete[0])
    if wobble <= gap:
        return []
    return [
        f"The three best trials lie within {number(gap)}, and the {record.metric} of the best one moves by "
        f"{number(wobble)} from one epoch to the next: which of them is best is not settled; train them anew "
        f"with `hpsearch confirm {record.name} --top 3` before you choose."
    ]


def _wobble(trial: TrialRecord) -> float:
    """Returns the median change between epochs over the second half of a trial's validation curve."""
    late = trial.val[len(trial.val) // 2 :]
    moves = [abs(b - a) for a, b in pairwise(late) if a is not None and b is not None]
    return median(moves) if len(moves) >= 2 else 0.0


def not_confirmed(record: StudyRecord) -> list[str]:
    """Nothing was confirmed yet, or the search has found something better since."""
    answer = record.answer
    if answer.news:
        return [f"T{answer.news[1:]}."]
    if record.best is None or SUMMARY in record.attrs:
        return []
    return [
        f"The best {record.metric} is the best of {len(record.ranked)}, which is too good by luck: "
        f"`hpsearch confirm {record.name}` trains the best trials anew with other seeds and opens "
        "the test part."
    ]


def _is_many(record: StudyRecord, count: int) -> bool:
    return len(record.finished) >= ENOUGH and count >= LARGE * len(record.finished)


def one_sided(record: StudyRecord) -> list[str]:
    """One choice of a hyperparameter holds all of the good trials."""
    good = record.ranked[: max(5, len(record.ranked) // 10)]
    if record.spec is None or len(record.ranked) < 2 * ENOUGH:
        return []
    found = []
    for name, entry in record.spec.search.items():
        if isinstance(entry, Choices) and len(entry.choices) > 1:
            value, count = Counter(str(trial.hparams.get(name)) for trial in good).most_common(1)[0]
            found += [f"{name} = {value}"] if count == len(good) else []
    if not found:
        return []
    return [
        f"All of the {len(good)} best trials have {' and '.join(found)}: fix that, and search the other "
        "hyperparameters more finely."
    ]


RULES: tuple[Rule, ...] = (
    failures,
    at_the_edge,
    still_improving,
    overfitting,
    underfitting,
    divergence,
    memory,
    one_sided,
    late_best,
    few_trials,
    unsettled,
    not_confirmed,
)
