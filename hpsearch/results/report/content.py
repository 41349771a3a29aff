"""What a report says of a study: question, space, best, ranking, plots, importance, cost, what to do next."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hpsearch.contracts.trial import DEVICE_SECONDS, JOULES, START_SECONDS
from hpsearch.results.dashboard.notes import (
    data_rows,
    front_table,
    none_complete,
    searched_by,
    space_rows,
    time_spent,
)
from hpsearch.results.plots import charts
from hpsearch.results.plots.chart import Chart
from hpsearch.results.report.advice import advice
from hpsearch.results.report.confirmed import confirmation_blocks
from hpsearch.results.report.document import (
    Block,
    Code,
    Document,
    Items,
    Picture,
    Pictures,
    ReportSection,
    Table,
    Text,
)
from hpsearch.results.report.effects import all_diverged
from hpsearch.results.report.importance import Importances, Share
from hpsearch.results.stored.answer import CONFIRMED
from hpsearch.results.stored.attributes import ended_words, learnt_words, origin
from hpsearch.results.stored.status import Cost
from hpsearch.results.stored.study import StudyRecord, TrialRecord
from hpsearch.results.terminal.progress import duration, hparam, number, precision_text
from hpsearch.store.study_data import DATA
from hpsearch.study.checks import KINDS
from hpsearch.study.specification import FROM_EPOCH, StudySpec
from hpsearch.text import LABEL, as_sentence, counted

RANKED = 20
OUTCOMES = ("stop-reasons", "fit-diagnosis", "fit-by-epochs")
LONGER = (
    " Paused trials count with the epochs that they had. A trial that may train longer has trained longer when it is "
    "paused, so that epochs seem to matter more than they do."
)
COSTLY = 0.1
"""Share of the workers' time for pauses from which on the report names a remedy."""
APART = (*OUTCOMES, "workers", "pieces")
"""Graphs that stand in a section of their own."""


def report(
    record: StudyRecord,
    importances: Importances | None,
    pictures: Mapping[int, str] | None = None,
    samples: Sequence[str] = (),
    price: float | None = None,
) -> Document:
    """Returns the report of a study.

    Args:
        importances: of the hyperparameters; None leaves them out.
        pictures: of test samples, PNG files in base64, kept by the confirmation.
        samples: training images as trials see them, PNG files in base64.
        price: of a device's hour.
    """
    drawn = {chart.id: chart for chart in charts(record)}
    outcomes = [drawn[name] for name in OUTCOMES if name in drawn]
    sections = [
        ReportSection("What to do next", _next(record)),
        ReportSection("The question", _question(record)),
        ReportSection("The data", _data(record, samples)),
        ReportSection("The best", _best(record)),
        ReportSection("The front", _front(record)),
        ReportSection("Ranking", _ranking(record)),
        ReportSection("Confirmation and the test part", confirmation_blocks(record, pictures or {})),
        ReportSection("Graphs", tuple(c for name, c in drawn.items() if name not in APART)),
        ReportSection("Paused and resumed", _paused(record, drawn.get("pieces"))),
        ReportSection("Importance of the hyperparameters", _importance(record, importances)),
        ReportSection("Stopped, pruned, failed", _outcomes(record, outcomes)),
        ReportSection("Cost", _cost(record, drawn.get("workers"), price)),
        ReportSection("Environment", _environment(record)),
    ]
    return Document(
        title=", ".join(filter(None, (f"Hyperparameter search: {record.name}", _worth(record)))),
        summary=_summary(record),
        sections=tuple(section for section in sections if section.blocks),
    )


def _worth(record: StudyRecord) -> str:
    """Returns what the answer is worth, for the title: a confirmed trial, or "not confirmed"."""
    confirmed = record.answer.confirmed
    if confirmed is None:
        return record.answer.status if record.best is not None else ""
    return f"trial {confirmed.trial} confirmed"


def _summary(record: StudyRecord) -> str:
    best, count, answer = record.chosen, len(record.finished), record.answer
    if diverged := all_diverged(record):
        return f"{diverged}: the loss did not stay finite. Lower the learning rate."
    if best is None:
        return none_complete(record)
    hparams = ", ".join(f"`{name} = {hparam(value)}`" for name, value in best.hparams.items())
    found = f"{record.metric} {number(best.score)} at epoch {best.best_epoch} of {best.epochs_run}"
    if answer.confirmed is not None:
        lead = f"The best of {count} finished trials is trial {best.number}, {answer.text}, with {hparams}."
        return " ".join(
            [lead, f"The search itself had promised {found}.", *map(as_sentence, answer.sentences())]
        )
    worth = f" ({answer.status})" if answer.status else ""
    name = record.trial_name(best)
    lead = f"The best of {count} finished trials is {name}: {found}{worth}, with {hparams}."
    return " ".join([lead, *map(as_sentence, answer.sentences())])


def _next(record: StudyRecord) -> tuple[Block, ...]:
    sentences = advice(record)
    return (Items(tuple(sentences)),) if sentences else ()


def _question(record: StudyRecord) -> tuple[Block, ...]:
    space = Table(("hyperparameter", "values", "drawn as"), tuple(space_rows(record)))
    if record.spec is None:
        return (Text("This study was not made by hpsearch; its own description is not stored."), space)
    return (Items(tuple(_setting(record, record.spec))), space)


def _data(record: StudyRecord, samples: Sequence[str]) -> tuple[Block, ...]:
    rows = data_rows(record.spec, record.attrs)
    notes = (record.attrs.get(DATA) or {}).get("notes") or ()
    found = (
        (Text("What was noted when they were read:"), Items(tuple(map(as_sentence, notes)))) if notes else ()
    )
    shown: tuple[Block, ...] = ()
    if samples:
        lead = "Some training images as trials see them, augmented as far as the search goes:"
        shown = (Pictures(tuple(Picture(png, "") for png in samples), lead),)
    return (Table(("fact", "value"), tuple(rows)), *found, *shown) if rows else ()


def _setting(record: StudyRecord, spec: StudySpec) -> list[str]:
    data, stop = spec.data, spec.early_stopping
    models = " or ".join(f"`{name}`" for name in spec.trained)
    part = f", {data.subset:.0%} of its training part" if data.subset < 1 else ""
    split = data.split
    watched = "" if stop.criterion == "none" else f" (it watches `{stop.metric}`)"
    goals = "".join(f" and `{goal}` small" for goal in record.goals)
    return [
        f"What makes `{record.metric}` best ({record.better}d){goals} for {models} on `{data.dataset}`{part}?",
        f"Split: {split.train:g} training, {split.val:g} validation, {split.test:g} test; all scores "
        "here are of the validation part, a trial's score is its best epoch.",
        f"{counted(spec.trials, 'trial')} with seed {spec.study.seed}, {searched_by(spec)}; early stopping by "
        f"`{stop.criterion}`{watched}.",
        *map(as_sentence, learnt_words(record.name, record.attrs)),
        *(f"It {said}." for said in filter(None, [ended_words(record.attrs)])),
    ]


def _paused(record: StudyRecord, picture: Chart | None) -> tuple[Block, ...]:
    """Returns which trials were resumed or may be, and why; nothing where no trial was ever paused."""
    if picture is None and not record.count("PAUSED"):
        return ()
    resumed = [trial for trial in record.trials if len(trial.why) > 1]
    told = [*resumed, *(trial for trial in record.trials if trial.state == "PAUSED" and trial not in resumed)]
    told.sort(key=lambda trial: (-trial.epochs_run, trial.number))
    rows = [
        (
            str(trial.number),
            ", ".join(str(end) for end, _ in trial.pieces),
            _fate(trial),
            _reasons(trial.why),
        )
        for trial in told[:RANKED]
    ]
    note = f"{len(told) - RANKED} more trials: `hpsearch export {record.name}`." if len(told) > RANKED else ""
    left = sum(bool(trial.attrs.get("pauses")) for trial in record.trials if len(trial.why) < 2)
    never = len(record.trials) - len(resumed) - left
    text = (
        f"{counted(len(resumed), 'trial')} resumed after a pause, {left} paused and not resumed, "
        f"{never} never paused.{_switches(record)}"
    )
    return (
        *([picture] if picture is not None else []),
        Text(text),
        Table(("trial", "pieces end at epoch", "now", "chosen because"), tuple(rows), note),
    )


def _reasons(why: Sequence[str]) -> str:
    """Returns why a trial was chosen each time, the newest reasons of those that do not fit into a cell."""
    shown = list(why)
    while len(shown) > 1 and len("; ".join(shown)) > LABEL - 40:
        del shown[0]
    earlier = len(why) - len(shown)
    return "; ".join([f"{counted(earlier, 'earlier reason')} left out", *shown] if earlier else shown)


def _switches(record: StudyRecord) -> str:
    """Returns what pauses cost; nothing where no trial says how long it took to build."""
    trained = sum(trial.attrs.get("seconds") or 0.0 for trial in record.trials)
    switching = sum(trial.attrs.get(START_SECONDS) or 0.0 for trial in record.trials)
    if not switching:
        return ""
    share = switching / (switching + trained)
    remedy = " A larger study.first_piece means fewer switches." if share > COSTLY else ""
    return (
        f" Building trials and reading their checkpoints took {duration(switching)}, {share:.0%} of the workers' "
        f"time.{remedy}"
    )


def _fate(trial: TrialRecord) -> str:
    if trial.state == "PAUSED":
        return f"paused at epoch {trial.attrs['paused']}, may be resumed"
    return trial.state


def _best(record: StudyRecord) -> tuple[Block, ...]:
    best, answer = record.chosen, record.answer
    if best is None:
        return ()
    space = {name: ", ".join(words) for name, *words in space_rows(record)}
    rows = [(name, hparam(value), space.get(name, "-")) for name, value in best.hparams.items()]
    at_best = best.attrs.get("metrics_at_best") or {record.metric: best.score}
    facts = [("trial", ", ".join(filter(None, (str(best.number), answer.text))))]
    if answer.is_other:
        facts.append(("the search alone would have picked", f"trial {answer.searched}"))
    if answer.refit is not None:
        facts.append(("refit", answer.refit.text))
    facts += origin(best.attrs)
    facts += [(f"{name}{answer.of_search}", number(value)) for name, value in at_best.items()]
    facts += [
        (f"best epoch{answer.of_search}", f"{best.best_epoch} of {best.epochs_run}"),
        (f"fit{answer.of_search}", best.fit),
        (f"training time{answer.of_search}", time_spent(best.seconds)),
    ]
    if best.attrs.get("class_errors"):
        kind = KINDS.get((record.attrs.get(DATA) or {}).get("task", ""), KINDS["classification"])[0]
        facts.append(
            (
                f"validation error by {kind}{answer.of_search}, the worst first",
                str(best.attrs["class_errors"]),
            )
        )
    if best.attrs.get("parameters"):
        facts.append(("parameters", f"{best.attrs['parameters']:,}"))
    return (
        Table(("hyperparameter", "value", "chosen from"), tuple(rows)),
        Table(("fact", "value"), tuple(facts)),
        Code(f"import hpsearch\nmodel = hpsearch.load_best_model({record.name!r})"),
    )


def _front(record: StudyRecord) -> tuple[Block, ...]:
    if not record.front:
        return ()
    goals = ", ".join((record.metric, *record.goals))
    return (
        Text(
            f"No other trial beats these in all goals ({goals}), and none of them was cut by comparison with others. "
            f"`hpsearch best {record.name} --trial N --save DIR` saves the model of any of them."
        ),
        Table(*front_table(record)),
    )


def _ranking(record: StudyRecord) -> tuple[Block, ...]:
    if not record.ranked:
        return ()
    names = record.hparam_names()
    head = (
        "rank",
        "trial",
        record.metric,
        *names,
        "best epoch",
        "epochs",
        "time",
        "fit",
        "ended by",
    )
    rows = [_ranked(rank, record, trial, names) for rank, trial in enumerate(record.ranked[:RANKED], start=1)]
    left = len(record.ranked) - len(rows)
    note = f"{left} more trials: `hpsearch export {record.name}`." if left > 0 else ""
    table = Table(head, tuple(rows), note)
    return (Text(f"By the search's own values: {said}."), table) if (said := _other(record)) else (table,)


def _other(record: StudyRecord) -> str:
    """Returns what to know of a ranking that the confirmation has turned round."""
    answer = record.answer
    if answer.confirmed is None or not answer.is_other:
        return ""
    return f"the confirmation puts trial {answer.trial} first, not trial {answer.searched}"


def _ranked(rank: int, record: StudyRecord, trial: TrialRecord, names: Sequence[str]) -> tuple[str, ...]:
    return (
        str(rank),
        f"{trial.number} ({CONFIRMED})" if record.mark(trial) == CONFIRMED else str(trial.number),
        number(trial.score),
        *(hparam(_tried(record, trial, name)) for name in names),
        str(trial.best_epoch or "-"),
        str(trial.epochs_run),
        time_spent(trial.seconds),
        trial.fit,
        f"{trial.stop_reason.replace('_', ' ')} ({trial.state})",
    )


def _tried(record: StudyRecord, trial: TrialRecord, name: str) -> Any:
    """Returns a hyperparameter of a trial; where only continued trials have epochs of their own, the study's."""
    if name == "epochs" and record.spec is not None and name not in record.spec.search:
        return record.planned_epochs(trial)
    return trial.hparams.get(name, "-")


def _importance(record: StudyRecord, importances: Importances | None) -> tuple[Block, ...]:
    if not importances or importances.explained is None:
        return ()
    whole, count = importances.explained, importances.trials
    if not importances.shares:
        return (
            Text(
                f"The {count} trials with a score do not tell which hyperparameter matters: a model learnt from "
                f"them explains {whole.value:.0%} of the differences between trials that it has not seen (95 % "
                f"interval {_interval(whole)}), which is nothing beyond chance. So none is ranked."
            ),
        )
    text = Text(
        f"A model learnt from the {count} trials with a score, COMPLETE and PRUNED, explains {whole.value:.0%} of "
        f"the differences between trials that it has not seen (95 % interval {_interval(whole)}). The importance "
        "of a hyperparameter is the share lost when its values are shuffled. Where the interval includes 0, it "
        "may be chance."
        + (
            LONGER
            if record.spec is not None and record.spec.pauses and "epochs" in record.spec.search
            else ""
        )
    )
    rows = [(name, f"{share.value:.1%}", _interval(share)) for name, share in importances.shares]
    return (text, Table(("hyperparameter", "importance", "95 % interval"), tuple(rows)))


def _interval(share: Share) -> str:
    return f"{share.low:.0%} to {share.high:.0%}"


def _outcomes(record: StudyRecord, pictures: Sequence[Chart]) -> tuple[Block, ...]:
    stopped = [trial for trial in record.finished if trial.stop_reason not in ("finished", "unknown")]
    if not record.finished:
        return ()
    head = ("trial", "state", "stopped by", "epochs", record.metric, "why")
    rows = [
        (
            str(trial.number),
            trial.state,
            trial.stop_reason.replace("_", " "),
            f"{trial.epochs_run} of {record.planned_epochs(trial)}",
            number(trial.score),
            str(trial.attrs.get("stop_detail") or "-"),
        )
        for trial in stopped[-RANKED:]
    ]
    words = f"{len(stopped)} of {len(record.finished)} finished trials ended before their last epoch"
    tail = f", the last {len(rows)} of them:" if len(rows) < len(stopped) else ":" if rows else "."
    table = [Table(head, tuple(rows))] if rows else []
    return (*pictures, Text(words + tail), *table)


def saved_epochs(record: StudyRecord) -> int:
    """Returns the epochs that were left out: by early stopping, by pruning, by an end of the study's own."""
    return sum(
        max(0, record.planned_epochs(trial) - trial.epochs_run)
        for trial in record.finished
        if trial.stop_reason in ("early_stopping", "pruner", "study_end")
    )


def worker_hours(record: StudyRecord) -> dict[str, float]:
    """Returns the workers' hours of training by what they train on.

    They are no device hours: several workers may share a GPU, and one may have several.
    """
    hours: dict[str, float] = {}
    for trial in record.finished:
        device = str(trial.attrs.get("device", ""))
        kind = "CPU" if device.startswith("cpu") or not device else "GPU"
        hours[kind] = hours.get(kind, 0.0) + (trial.seconds or 0.0) / 3600
    return hours


def _cost(record: StudyRecord, picture: Chart | None, price: float | None) -> tuple[Block, ...]:
    if not record.finished:
        return ()
    states = {
        state: record.count(state) for state in ("COMPLETE", "PRUNED", "FAIL", "PAUSED", "RUNNING", "WAITING")
    }
    before = sum(
        int(trial.attrs.get(FROM_EPOCH) or 0) for trial in record.trials
    )  # of the trials that are continued
    epochs, saved = sum(trial.epochs_run for trial in record.trials) - before, saved_epochs(record)
    share = f" ({saved / (epochs + saved):.0%} of what was asked for)" if saved else ""
    hours = worker_hours(record)
    rows = [
        ("trials", ", ".join(f"{count} {state}" for state, count in states.items() if count)),
        ("epochs trained", f"{epochs:,}"),
        ("epochs saved by stopping", f"{saved:,}{share}"),
        *((f"{kind} workers' hours of training", f"{spent:.3g}") for kind, spent in hours.items()),
        *Cost(_summed(record, DEVICE_SECONDS), _summed(record, JOULES)).rows(price),
    ]
    note = "Workers may share a GPU, or have several each: these are the workers' hours, not the GPUs'."
    table = Table(("cost", "amount"), tuple(rows), note if "GPU" in hours else "")
    return (table, picture) if picture is not None else (table,)


def _summed(record: StudyRecord, key: str) -> float:
    return sum(float(trial.attrs.get(key) or 0.0) for trial in record.trials)


def _environment(record: StudyRecord) -> tuple[Block, ...]:
    places = {str(trial.attrs["host"]) for trial in record.finished if "host" in trial.attrs}
    devices = {str(trial.attrs["device"]) for trial in record.finished if trial.attrs.get("device")}
    fixed = record.spec.train.precision if record.spec is not None else ""
    precisions = {
        precision_text(str(trial.hparams.get("train.precision", fixed)), str(trial.attrs["precision"]))
        for trial in record.finished
        if trial.attrs.get("precision")
    }
    rows = [
        ("storage", record.storage),
        ("hosts", ", ".join(sorted(places))),
        ("devices", ", ".join(sorted(devices))),
        ("precision", ", ".join(sorted(precisions))),
        ("specification", str(record.attrs.get("digest", ""))),
        *_versions(record),
    ]
    return (Table(("what", "value"), tuple(row for row in rows if row[1])),)


def _library_versions(stored: Any) -> list[tuple[str, str]]:
    """Returns (library, version) of what is stored: a table, its JSON, or "python 3.11, torch 2.11"."""
    if isinstance(stored, str) and not stored.startswith("{"):
        pairs = [text.strip().partition(" ") for text in stored.split(",") if text.strip()]
        return [(library, version) for library, _, version in pairs]
    table = json.loads(stored) if isinstance(stored, str) else stored
    return [(str(library), str(version)) for library, version in dict(table).items()]


def _versions(record: StudyRecord) -> list[tuple[str, str]]:
    """Returns the versions that trials were trained with; several of one library are all named."""
    found: dict[str, set[str]] = {}
    for attrs in (record.attrs, *(trial.attrs for trial in record.finished)):
        for library, version in _library_versions(attrs.get("versions") or ""):
            found.setdefault(library, set()).add(version)
    return [(library, ", ".join(sorted(versions))) for library, versions in sorted(found.items())]
