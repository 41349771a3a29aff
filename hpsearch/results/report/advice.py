"""What to do next: rules over a study, each a pure function that claims one thing or more.

A rule says what was seen, with its number, and what to change; `evidence.chosen` lets stand what holds.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from statistics import median

from hpsearch.results.confirm.statistics import CERTAINTY
from hpsearch.results.report.effects import ENOUGH, at_the_edge, divergence, late_best, one_sided
from hpsearch.results.report.evidence import Claim, chosen, luck_of_share
from hpsearch.results.stored.answer import NOT_CONFIRMED
from hpsearch.results.stored.attributes import ended_words
from hpsearch.results.stored.study import StudyRecord, TrialRecord
from hpsearch.results.terminal.progress import number
from hpsearch.study.search import Choices
from hpsearch.text import counted

TOP_SHARE = 0.2
"""Of the ranked trials, those that count as good."""
FEWEST_GOOD = 6
"""Good trials at least: fewer prove nothing about most of them, even if all are alike."""

Rule = Callable[[StudyRecord], list[Claim]]


def advice(record: StudyRecord) -> list[str]:
    """Returns what the rules say and the study bears out, the most useful first."""
    return chosen([claim for rule in RULES for claim in rule(record)])


def failures(record: StudyRecord) -> list[Claim]:
    """Failed trials are bugs: they come before all else."""
    failed = [trial for trial in record.finished if trial.state == "FAIL"]
    if not failed:
        return []
    reason = str(failed[-1].attrs.get("stop_detail") or failed[-1].stop_reason).rstrip(".")
    seen = f"{len(failed)} of {counted(len(record.finished), 'trial')} failed, the last one (trial {failed[-1].number})"
    return [Claim(f'{seen} with "{reason}"', "fix that first", ("train.function",))]


def overfitting(record: StudyRecord) -> list[Claim]:
    """Most good trials overfit."""
    good = _good(record)
    return _most(
        good,
        sum(trial.fit == "overfit" for trial in good),
        "overfit",
        "add augmentation or weight decay to the search, use more data, or fewer epochs",
        ("epochs", "train.weight_decay", "data.augment"),
    )


def underfitting(record: StudyRecord) -> list[Claim]:
    """Most good trials are underfit, though they were not cut short."""
    good = _good(record)
    return _most(
        good,
        sum(trial.fit == "underfit" for trial in good),
        "are underfit",
        "raise epochs, try a larger model, or less augmentation and weight decay",
        ("epochs", "model.name", "train.weight_decay", "data.augment"),
    )


def still_improving(record: StudyRecord) -> list[Claim]:
    """Most good trials reached their best value at their very last epoch."""
    good = _good(record)
    count = sum(trial.stop_reason == "finished" and trial.best_epoch == trial.epochs_run for trial in good)
    return _most(good, count, "were still improving at their last epoch", "raise epochs", ("epochs",))


CURVE_RULES = (overfitting, underfitting, still_improving)


def _most(
    good: tuple[TrialRecord, ...], count: int, seen: str, remedy: str, fields: tuple[str, ...]
) -> list[Claim]:
    """Returns a claim about most good trials where such trials are more than half, by a 95 % bound.

    The bound is corrected for these three rules alone, which are no comparisons of hyperparameters.
    """
    p = luck_of_share(count, len(good), 0.5) * len(CURVE_RULES)
    if p > 1 - CERTAINTY:
        return []
    words = (
        f"{count} of the {len(good)} best trials {seen}, which is more than half beyond chance (p = {p:.2g})"
    )
    return [Claim(words, remedy, fields)]


def _good(record: StudyRecord) -> tuple[TrialRecord, ...]:
    return record.ranked[: max(FEWEST_GOOD, math.ceil(TOP_SHARE * len(record.ranked)))]


def memory(record: StudyRecord) -> list[Claim]:
    """Trials did not fit into memory."""
    full = [trial for trial in record.finished if trial.stop_reason == "out_of_memory"]
    if not full:
        return []
    return [
        Claim(
            f"{len(full)} of {counted(len(record.finished), 'trial')} did not fit into memory",
            "use a smaller image size or model, or train.precision = \"bfloat16\" if the device has it",
            ("data.image_size", "model.name", "batch_size"),
        )
    ]  # fmt: skip


def limits(record: StudyRecord) -> list[Claim]:
    """Trials took more than the study allows."""
    broken = sum(trial.stop_reason == "infeasible" for trial in record.finished)
    if not broken or 2 * broken < len(record.finished):
        return []
    return [
        Claim(
            f"{broken} of {counted(len(record.finished), 'trial')} took more than study.require allows",
            "narrow what is searched of the model, or raise study.trials: each of them counts as a trial",
            ("study.require", "model.name", "study.trials"),
        )
    ]


def few_trials(record: StudyRecord) -> list[Claim]:
    """Too few trials for the number of hyperparameters."""
    tried = [name for name in record.hparam_names() if _varies(record, name)]
    wanted = ENOUGH * len(tried)
    if not record.ranked or len(record.finished) >= wanted or ended_words(record.attrs):
        return []  # a study that a limit of its own has ended does not continue
    allowed = record.spec is not None and record.spec.total_trials >= wanted
    more = "" if allowed else f"raise study.trials to {wanted} or more and "
    return [
        Claim(
            f"{counted(len(record.finished), 'trial')} {'is' if len(record.finished) == 1 else 'are'} too few for "
            f"{counted(len(tried), 'hyperparameter')}",
            f"{more}run the study again; it continues from here",
            ("study.trials",),
        )
    ]


def _varies(record: StudyRecord, name: str) -> bool:
    """Says whether a hyperparameter is given more than one value."""
    entry = record.spec.search.get(name) if record.spec is not None else None
    return not isinstance(entry, Choices) or len(entry.choices) > 1


def unsettled(record: StudyRecord) -> list[Claim]:
    """The best trials differ by less than the loss of the best moves between epochs: noise orders them."""
    complete = [trial for trial in record.ranked if trial.state == "COMPLETE" and trial.score is not None]
    if record.answer.status != NOT_CONFIRMED or record.metric != "val_loss" or len(complete) < 3:
        return []
    scores = [trial.score or 0.0 for trial in complete[:3]]
    gap, wobble = max(scores) - min(scores), _wobble(complete[0])
    if wobble <= gap:
        return []
    return [
        Claim(
            f"The three best trials lie within {number(gap)}, and the {record.metric} of the best one moves by "
            f"{number(wobble)} from one epoch to the next: which of them is best is not settled",
            f"train them again with `hpsearch confirm {record.name} --top 3` before you choose",
            ("confirm",),
        )
    ]


def _wobble(trial: TrialRecord) -> float:
    """Returns the median change between epochs over the second half of a trial's validation curve."""
    late = trial.val[len(trial.val) // 2 :]
    moves = [abs(b - a) for a, b in pairwise(late) if a is not None and b is not None]
    return median(moves) if len(moves) >= 2 else 0.0


def unfinished(record: StudyRecord) -> list[Claim]:
    """Trials wait to be resumed, and there is no result without them."""
    paused = record.count("PAUSED")
    if not paused or record.best is not None:
        return []
    return [
        Claim(
            f"No trial is COMPLETE, and {counted(paused, 'trial')} may be resumed",
            f"`hpsearch run {record.name}` resumes the study; with `--timeout 1s --at-timeout end` it ends them, "
            "and the best epoch of each counts",
            ("study.timeout",),
        )
    ]


def not_confirmed(record: StudyRecord) -> list[Claim]:
    """Nothing was confirmed yet, or the search has found something better since."""
    if record.answer.news:
        seen, _, remedy = record.answer.news.partition(": ")
        return [Claim(f"T{seen[1:]}", remedy, ("confirm",))]
    if record.best is None or record.answer.status != NOT_CONFIRMED:
        return []
    return [
        Claim(
            f"The best {record.metric} is the best of {len(record.ranked)}, so it is optimistically biased",
            f"`hpsearch confirm {record.name}` trains the best trials again with other seeds and opens "
            "the test part",
            ("confirm",),
        )
    ]


RULES: tuple[Rule, ...] = (
    failures,
    divergence,
    memory,
    limits,
    *CURVE_RULES,
    at_the_edge,
    one_sided,
    late_best,
    few_trials,
    unsettled,
    unfinished,
    not_confirmed,
)
