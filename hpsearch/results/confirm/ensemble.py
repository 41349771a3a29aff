"""`hpsearch best --ensemble`, `--average`: several models that were trained anyway, as one.

An ensemble is chosen by Caruana's greedy selection (2004): begin with the model whose validation loss is lowest, add
again and again the one, also a second time, with which the mean of the probabilities has the lowest loss, and stop
when none helps. After a confirmation it begins with all repeats of the confirmed configuration, which nothing has
chosen: a search's own weights are kept because they were lucky on the validation part. (Begun with the luckiest
instead, it lost to the confirmed model on the test part in three of five searches of the digits.)

An average is the greedy soup of Wortsman et al. (2022): of the *weights* of models that started from the same file, it
takes in those with which the validation loss falls.

Both are chosen by the validation part, so that their gain there is optimistic. After a confirmation they are tried on
the test part, which is put on record, beside the model that is handed out: the refit if there is one.

The loss is the study's. A yes or no of its own for each class (binary_cross_entropy) is divided into shares first,
whose logarithmic loss it is then. So it is where the loss is the user's own, which may want raw outputs (of a
regression the squared error). Of several labels it is the binary cross-entropy.

Legend: N samples, K classes (or regression targets).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpsearch.errors import UserError
from hpsearch.results.confirm.confirm import exam_setup, on_first_worker, read_search, weights_here
from hpsearch.results.confirm.exam import ExamSetup, judged, load_parts, open_parts, sealed_part
from hpsearch.results.confirm.linked import read_linked, record_opening
from hpsearch.results.confirm.plan import Candidate, is_value, middle_repeat, refuse_linked
from hpsearch.results.confirm.statistics import ANY, POSITIVE, SHARE, Range, Summary, Values, summarize
from hpsearch.results.stored.reading import read_study
from hpsearch.results.stored.study import StudyRecord, TrialRecord
from hpsearch.results.terminal.progress import number
from hpsearch.service.launch import RunOptions
from hpsearch.study.section import is_own
from hpsearch.study.specification import CONFIRMS, SUFFIX, StudySpec
from hpsearch.study.train import TrainSpec
from hpsearch.text import counted
from hpsearch.training.calibration import temperature
from hpsearch.training.ensemble import mean_of, to_outputs
from hpsearch.training.losses import sample_losses
from hpsearch.training.weights import read_weights

MOST = 20
"""Models that may be chosen among: the best of the search whose weights were kept, and all repeats."""


MANY = 10
"""Weights that a study file should keep for this."""


@dataclass(frozen=True, slots=True)
class Member:
    """A kept model.

    Attributes:
        text: which trial, or repeat, it is of.
        spec: of its training.
        is_repeat: whether it repeats the confirmed configuration.
    """

    text: str
    spec: StudySpec
    path: Path
    is_repeat: bool = False
    hparams: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a model does on a part.

    Attributes:
        losses, errors: of each image, [N]; an error is 1 for a wrong class, of several labels the share of wrong
            answers, of a regression the mean distance.
        possible: values of an error's mean.
    """

    losses: Values = field(repr=False)
    errors: Values = field(repr=False)
    possible: Range = SHARE

    @property
    def loss(self) -> float:
        """The mean over the images, as `error` is."""
        return float(self.losses.mean())

    @property
    def error(self) -> float:
        return float(self.errors.mean())

    def summaries(self) -> tuple[Summary, Summary]:
        """Returns loss and error with their intervals, which cover other images of the same kind, not new seeds."""
        return (
            summarize([self.loss], ANY, self.losses[None]),
            summarize([self.error], self.possible, self.errors[None]),
        )


@dataclass(frozen=True, slots=True)
class Joined:
    """Models made one.

    Attributes:
        kind: "ensemble" or "average".
        members: with how often each counts.
        single: what the model that is the study's answer is called, on the validation and on the test part: the
            refit has learned the first.
        val, test: by "joined" and "single"; the second is empty where the test part was not opened.
        loss: what `Figures.loss` is: "loss" as the study's, "log_loss" or "mse".
        state: the averaged weights of an average.
        temperature: what calibrates the joined model by the validation part; 1 for a regression.
        untested: what is said where the second is empty.
        attrs: the study's user attributes.
    """

    study: str
    kind: str
    members: tuple[tuple[Member, int], ...]
    single: Mapping[str, str]
    val: Mapping[str, Figures]
    test: Mapping[str, Figures]
    notes: tuple[str, ...]
    task: str
    loss: str = "loss"
    state: Mapping[str, Tensor] | None = None
    temperature: float = 1.0
    untested: str = "confirm tests it"
    attrs: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def error_name(self) -> str:
        """What `Figures.error` is."""
        return _ERRORS[self.task]


def join(
    study: str | None,
    options: RunOptions,
    kind: str,
    most: int,
    *,
    given: StudySpec | None = None,
    test: bool = True,
) -> Joined:
    """Makes an ensemble or an average of at most so many of a study's kept models.

    Args:
        kind: "ensemble" or "average".
        test: whether the test part may be opened; it is not before a confirmation.

    Raises:
        UserError: there are too few models, or they cannot be joined.
    """
    record = read_search(study, options, given)
    refuse_linked(record, f"best --{kind}")
    spec = record.spec
    if spec is None or spec.train.function is not None:
        raise UserError(f"--{kind}: only your own training function knows its models; join them there")
    linked = read_linked(record, SUFFIX, options.storage)
    for one in (spec, linked.spec if linked is not None else None):
        if one is not None and one.data.split.folds is not None:
            raise UserError(
                f"--{kind}: the models of {one.study.name} were validated on {one.data.split.folds} different folds, "
                "so no images are left that are new to all of them; "
                f"`hpsearch refit {record.name}` trains one model on all of them"
            )
    members, single = _members(record, linked, options)
    if kind == "average":
        members = _same_start(members, single)
    if len(members) < 2:
        raise UserError(
            f'study "{record.name}" has the weights of {counted(len(members), "trial")} here that --{kind} can use; '
            f"{_more(spec)}run it further, or run `hpsearch confirm {record.name}`, which keeps those of all repeats"
        )
    with on_first_worker(options.workers):
        setup = exam_setup(spec, options)
        return _join(record, linked, members, single, setup, options, kind, most, test)


def _join(
    record: StudyRecord,
    linked: StudyRecord | None,
    members: Sequence[Member],
    single: Member,
    setup: ExamSetup,
    options: RunOptions,
    kind: str,
    most: int,
    test: bool,
) -> Joined:
    assert record.spec is not None
    train = record.spec.train
    parts = load_parts(record.spec, setup, record.attrs)
    targets = parts.targets
    task = parts.task
    believed = [judged(member.spec, member.path, parts, setup) for member in members]
    at = [member.path for member in members].index(single.path)

    def loss(values: Tensor) -> float:
        return _figures(values, targets, train, task).loss

    state: dict[str, Tensor] | None = None
    if kind == "ensemble":
        repeats = [place for place, member in enumerate(members) if member.is_repeat]
        counts = select(believed, loss, most, repeats[:most])
        joined = mean_of(believed, counts)
    else:
        counts, state = _soup(
            members, believed, loss, most, lambda some: judged(single.spec, some, parts, setup)
        )
        joined = judged(single.spec, state, parts, setup)
    chosen = tuple((member, count) for member, count in zip(members, counts, strict=True) if count)
    val = {
        "joined": _figures(joined, targets, train, task),
        "single": _figures(believed[at], targets, train, task),
    }
    named = dict.fromkeys(("val", "test"), single.text)
    notes: list[str] = []
    tested: dict[str, Figures] = {}
    untested = "confirm tests it"
    if linked is not None and record.answer.confirmed is not None:
        untested = "not tested" if test else "not tested (--no-test)"
        if test:
            handed = _refit(record, options, notes) or single
            named["test"] = handed.text
            tested = _test(record, chosen, single, handed, state, setup, options, kind, notes)
    heat = 1.0 if task == "regression" else temperature(to_outputs(joined, task), targets)
    return Joined(
        record.name,
        kind,
        chosen,
        named,
        val,
        tested,
        tuple(notes),
        task,
        _loss_name(train, task),
        state,
        heat,
        untested,
        record.attrs,
    )


def select(
    beliefs: Sequence[Tensor], loss: Callable[[Tensor], float], most: int, first: Sequence[int] = ()
) -> list[int]:
    """Returns how often each model counts in the ensemble.

    Args:
        beliefs: of shape [N, K] for each model.
        loss: of such a belief.
        most: models in all, those that count twice as two.
        first: the models to begin with, in place of the best.
    """
    counts = [int(place in first) for place in range(len(beliefs))]
    lowest = loss(mean_of(beliefs, counts)) if first else float("inf")
    for _ in range(most - len(first)):
        tried = [
            loss(mean_of(beliefs, [count + (place == other) for other, count in enumerate(counts)]))
            for place in range(len(beliefs))
        ]
        best = min(range(len(tried)), key=tried.__getitem__)
        if not tried[best] < lowest:
            break
        lowest = tried[best]
        counts[best] += 1
    return counts


def _soup(
    members: Sequence[Member],
    beliefs: Sequence[Tensor],
    loss: Callable[[Tensor], float],
    most: int,
    judge: Callable[[Mapping[str, Tensor]], Tensor],
) -> tuple[list[int], dict[str, Tensor]]:
    """Returns which models' weights are averaged, and the average; the best are tried first."""
    order = sorted(range(len(members)), key=lambda place: loss(beliefs[place]))
    counts = [0] * len(members)
    counts[order[0]] = 1
    states = [read_weights(members[order[0]].path)[0]]
    mean, lowest = states[0], loss(beliefs[order[0]])
    for place in order[1:]:
        if sum(counts) == most:
            break
        more = [*states, read_weights(members[place].path)[0]]
        tried = average(more)
        if (found := loss(judge(tried))) < lowest:
            states, mean, lowest, counts[place] = more, tried, found, 1
    return counts, mean


def average(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Returns the mean of weights and of BatchNorm's statistics; whole numbers are those of the first."""
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(first.dtype)
        if first.is_floating_point()
        else first
        for name, first in states[0].items()
    }


def _members(
    record: StudyRecord, linked: StudyRecord | None, options: RunOptions
) -> tuple[list[Member], Member]:
    """Returns the kept models that are here, and the one that is the study's answer."""
    spec, best = record.spec, record.best
    if best is None or spec is None:
        raise UserError(f'study "{record.name}" has no COMPLETE trial yet, so there is no best model')

    confirmed = record.answer.confirmed

    def member(owner: StudyRecord, trial: TrialRecord, of: StudySpec) -> Member | None:
        path = weights_here(options, owner.name, trial) if trial.attrs.get("weights") else None
        repeats = trial.attrs.get(CONFIRMS)
        is_repeat = confirmed is not None and repeats == confirmed.trial
        text = owner.trial_name(trial)
        return (
            None
            if path is None
            else Member(text, of.with_hparams(trial.hparams), path, is_repeat, trial.hparams)
        )

    complete = [trial for trial in record.ranked if trial.state == "COMPLETE"]
    found = [member(record, trial, spec) for trial in complete[:MOST]]
    single = next(
        (one for one, trial in zip(found, complete, strict=False) if trial.number == best.number), None
    )
    if linked is not None and linked.spec is not None:
        for trial in linked.ranked:
            found.append(member(linked, trial, linked.spec) if is_value(trial) else None)
        middle = None
        if confirmed is not None:
            trial = next(one for one in record.trials if one.number == confirmed.trial)
            middle = middle_repeat(linked, Candidate(trial.number, confirmed.mean, trial.hparams))
        single = (member(linked, middle, linked.spec) if middle is not None else None) or single
    if single is None:
        raise UserError(f'the weights of the best trial of study "{record.name}" are not here')
    return list({one.path: one for one in found if one is not None}.values()), single


def _same_start(members: Sequence[Member], single: Member) -> list[Member]:
    """Returns the models that have the architecture, the start and the images of the study's answer.

    Raises:
        UserError: it started from random weights, and such models lie in valleys of their own.
    """
    if single.spec.model.weights is None:
        raise UserError(
            "--average: its models started from random weights, each from its own, and the mean of such weights is not "
            "a model; set model.weights, or use --ensemble"
        )
    return [one for one in members if _built_by(one.spec) == _built_by(single.spec)]


def _built_by(spec: StudySpec) -> tuple[Any, ...]:
    """Returns what a search may vary of what a network is built from."""
    model, data = spec.model, spec.data
    return model.name, model.args, model.weights, data.image_size, data.channels


def _more(spec: StudySpec) -> str:
    """Returns how to keep more weights than the study file asks for; "" if it asks for many."""
    keep = spec.checkpoint.keep
    few = keep == "best" or (isinstance(keep, int) and keep < MANY)
    return f"keep more by checkpoint.keep = {MANY} in the study file and " if few else ""


def _loss_name(train: TrainSpec, task: str) -> str:
    if task == "regression":
        return "mse" if is_own(train.loss) else "loss"
    if task == "multilabel":
        return "log_loss" if is_own(train.loss) else "loss"
    return "log_loss" if train.loss == "binary_cross_entropy" or is_own(train.loss) else "loss"


_ERRORS = {"classification": "error", "multilabel": "hamming_error", "regression": "mae"}
"""What `Figures.error` is, by task."""


def _figures(values_NK: Tensor, targets: Tensor, train: TrainSpec, task: str) -> Figures:
    possible = SHARE
    if task == "regression":
        outputs_NK, stand_in = values_NK, "mse"
        distance_NK = (values_NK - targets.double().view_as(values_NK)).abs()
        error_N, possible = distance_NK.flatten(1).mean(1), POSITIVE
    elif task == "multilabel":
        outputs_NK, stand_in = to_outputs(values_NK, task), "binary_cross_entropy"
        error_N = ((values_NK > 0.5) != (targets > 0)).double().mean(1)
    else:
        outputs_NK, stand_in = to_outputs(values_NK, task), "cross_entropy"
        error_N = (values_NK.argmax(1) != targets).double()
    train = train if _loss_name(train, task) == "loss" else train.model_copy(update={"loss": stand_in})
    loss_N = sample_losses(train, task)(outputs_NK, targets)
    return Figures(loss_N.double().numpy(), error_N.numpy(), possible)


def _refit(record: StudyRecord, options: RunOptions, notes: list[str]) -> Member | None:
    """Returns the refit of the study's answer, which is handed out in place of any repeat; None without one."""
    found = record.answer.refit
    linked = None if found is None else read_study(found.study, options.storage)
    if found is None or linked is None or linked.spec is None:
        return None
    trial = next(one for one in linked.trials if one.number == found.number)
    path = weights_here(options, linked.name, trial)
    if path is None:
        notes.append("the weights of the refit, the model in use, are not here, so it is not compared")
        return None
    text = f"the refit of {linked.trial_name(trial)}"
    return Member(text, linked.spec.with_hparams(trial.hparams), path)


def _test(
    record: StudyRecord,
    chosen: Sequence[tuple[Member, int]],
    single: Member,
    handed: Member,
    state: Mapping[str, Tensor] | None,
    setup: ExamSetup,
    options: RunOptions,
    kind: str,
    notes: list[str],
) -> dict[str, Figures]:
    """Opens the test part for the joined models and for the one that is handed out, after that is on record.

    Args:
        single: whose architecture an average has.
    """
    assert record.spec is not None
    train = record.spec.train
    digest, reason = sealed_part(record.spec, setup, record.attrs)
    if reason:
        notes.append(f"the test part was not opened: {reason}")
        return {}
    facts = {
        "configurations": f"{kind} of {counted(len(chosen), 'model')}",
        "models": len(chosen) + 1,
        "data": digest,
    }
    notes += record_opening(record, options.storage, facts)

    def tried(member: Member, weights: Path | Mapping[str, Tensor]) -> tuple[Tensor, Tensor, str]:
        parts = open_parts(member.spec, setup, digest)
        return judged(member.spec, weights, parts, setup), parts.targets, parts.task

    alone, targets, task = tried(handed, handed.path)
    if state is not None:
        joined = tried(single, state)[0]
    else:
        joined = mean_of([tried(one, one.path)[0] for one, _ in chosen], [count for _, count in chosen])
    return {
        "joined": _figures(joined, targets, train, task),
        "single": _figures(alone, targets, train, task),
    }


def joined_lines(found: Joined) -> list[str]:
    """Returns what was joined and what it gains, for a terminal."""
    error = found.error_name
    if len(found.members) == 1:
        lines = [
            f"{found.study}: no other model lowers the validation {found.loss} of {found.members[0][0].text}"
        ]
    else:
        lines = [f"{found.study}: {found.kind} of {counted(len(found.members), 'model')}"]
    lines += [
        f"  {member.text}{f', counts {count} times' if count > 1 else ''}" for member, count in found.members
    ]
    for part, figures in (("val", found.val), ("test", found.test)):
        if figures:
            joined, single = figures["joined"], figures["single"]
            lines.append(
                f"{part}_{found.loss} {number(joined.loss)}, {part}_{error} {number(joined.error)}; "
                f"{found.single[part]} alone: {number(single.loss)}, {number(single.error)}"
            )
    if not found.test and len(found.members) > 1:
        lines.append(f"chosen by the validation part, so that its gain there is optimistic; {found.untested}")
    return [*lines, *found.notes]
