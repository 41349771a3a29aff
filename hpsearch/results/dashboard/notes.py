"""What the dashboard's notes say: Markdown for a study and for its best trials."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hpsearch.results.stored.answer import SUMMARY, read_summary
from hpsearch.results.stored.attributes import ended_words, learnt_words, readable
from hpsearch.results.stored.study import StudyRecord, TrialRecord
from hpsearch.results.terminal.lines import paused_line
from hpsearch.results.terminal.progress import amount, counts_text, duration, hparam, in_words, number
from hpsearch.store.study_data import DATA
from hpsearch.store.url import DEFAULT_STORAGE, HIDDEN
from hpsearch.study import search
from hpsearch.study.checks import KINDS
from hpsearch.study.specification import StudySpec
from hpsearch.text import LABEL, LONGEST, as_code, as_sentence, counted, in_markdown, one_line

POLICIES = {
    "halving": "trials are paused after each piece, and the best third of those that came as far is resumed",
    "screen": "all trials are paused after their first piece, and the best three are resumed",
    "thaw": "trials are paused, and a model of all curves picks which one is resumed",
    "auto": "trials are paused, and a model of all curves picks which one is resumed; every third time it is one of "
    "the best third of those that came as far",
}
"""What each policy does, after its name."""


def study_note(record: StudyRecord) -> str:
    """Returns a study's note: what was searched, how to read it, the best so far, how to load it."""
    return "\n".join(
        [
            *(*_searched(record), "", *_reading(record), "", *_best(record), ""),
            *(*_confirmed(record), *_loading(record), ""),
        ]
    )


def _searched(record: StudyRecord) -> list[str]:
    spec = record.spec
    if spec is None:
        return [f"# {in_markdown(record.name)}", "", "This study was not made by hpsearch."]
    models = " or ".join(map(as_code, spec.trained))
    return [
        f"# {in_markdown(record.name)}",
        "",
        f"{counted(spec.trials, 'trial')} of {models} on {as_code(spec.data.dataset)}, chosen "
        f"{searched_by(spec)}. A trial's value is the best {as_code(record.metric)} of its epochs "
        f"({record.better}d).{_limits(spec)}",
        "",
        *(line for said in _course(record) for line in (f"* {inline(as_sentence(said))}", "")),
        *markdown_table(("hyperparameter", "values", "drawn as"), space_rows(record)),
    ]


def _course(record: StudyRecord) -> list[str]:
    """Returns whose trials a study has, and which of its own limits ended it."""
    ended = ended_words(record.attrs)
    return [*learnt_words(record.name, record.attrs), *([f"it {ended}"] if ended else [])]


def _limits(spec: StudySpec) -> str:
    """Returns a sentence about what trials may take; "" where they may take anything."""
    limits = ", ".join(f"{name} {text.strip()}" for name, text in spec.study.require.items())
    return f" It may take {as_code(limits)}; a trial that takes more ends as `infeasible`." if limits else ""


def searched_by(spec: StudySpec) -> str:
    """Returns in words what chose the trials and ended them."""
    policy = spec.policy
    if not spec.pauses:
        return f"by the sampler `{spec.sampler.name}` and the pruner `{spec.pruner.name}`"
    return f"by the policy `{policy}`: {POLICIES[policy]}"


def _reading(record: StudyRecord) -> list[str]:
    return [
        "## How to read it",
        "",
        "* **COMPLETE**: ran to its end, or was stopped early with a competitive score. **PRUNED**: stopped, "
        "and not competitive. **FAIL**: an error; see the attribute `error`. No finished trial that kept the "
        "study's limits was ever better than the study's best value.",
        "* `best_epoch` is the epoch whose weights are kept, `stop_reason` why the trial ended, `fit` what "
        "its two curves say: underfit, good or overfit.",
        "* The graphs at the study's page: learning curves of the best trials, best score so far, where good "
        "trials lie, what they cost, why trials ended, what the workers did.",
        "* The dashboard's own importance graph counts COMPLETE trials only and ranks chance as well: "
        f"{as_code(f'hpsearch report {record.name}')} says which hyperparameters matter, and whether any does.",
        "* All scores are of the validation part, and the best of many is optimistically biased: "
        f"{as_code(f'hpsearch confirm {record.name}')} trains the best ones again and opens the test part once.",
    ]


def _best(record: StudyRecord) -> list[str]:
    best, answer = record.chosen, record.answer
    if best is None:
        return ["## Best so far", "", none_complete(record), "", *_paused(record)]
    counts = _counts(record)
    rows = [(f"`{name}`", f"`{hparam(value)}`") for name, value in best.hparams.items()]
    found = f"{record.metric} {number(best.score)}"
    where = f"at epoch {best.best_epoch} of {best.epochs_run}; {counts}."
    if answer.confirmed is not None:
        title, promise = f"The best: trial {best.number}, {answer.text}", f"In the search: {found} {where}"
    else:
        title = ", ".join(filter(None, (f"Best so far: {record.trial_name(best)}, {found}", answer.status)))
        promise = f"{where[0].upper()}{where[1:]}"
    return [
        f"## {inline(title)}",
        "",
        inline(promise),
        "",
        *_paused(record),
        *(line for said in answer.sentences() for line in (f"* {inline(as_sentence(said))}", "")),
        *markdown_table(("hyperparameter", "value"), rows),
        *(
            ("", "No other trial beats these in all goals:", "", *markdown_table(*front_table(record)))
            if record.front
            else ()
        ),
    ]


def none_complete(record: StudyRecord) -> str:
    """Returns in a sentence that no trial is COMPLETE, and how they stand instead."""
    return f"No trial is COMPLETE yet: {_counts(record)}." if record.trials else "No trial has begun yet."


def _counts(record: StudyRecord) -> str:
    return counts_text({trial.state: record.count(trial.state) for trial in record.trials}, {})


def front_table(record: StudyRecord) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Returns head and rows of the table of a study's front."""
    names = record.hparam_names()
    rows = (
        (
            str(trial.number),
            number(trial.score),
            *(amount(trial.taken[goal]) for goal in record.goals),
            *(hparam(trial.hparams.get(name, "-")) for name in names),
            trial.stop_reason.replace("_", " "),
        )
        for trial in record.front
    )
    return ("trial", record.metric, *record.goals, *names, "ended by"), tuple(rows)


def _paused(record: StudyRecord) -> list[str]:
    paused = {trial.number: trial.attrs["paused"] for trial in record.trials if trial.state == "PAUSED"}
    return [inline(as_sentence(paused_line(paused))), ""] if paused else []


def _confirmed(record: StudyRecord) -> list[str]:
    summary = read_summary(record.name, record.attrs)
    if summary is None:
        return []
    with readable(record.name, SUMMARY):
        findings = [f"* {inline(as_sentence(row['finding']))}" for row in summary["findings"]]
    return [f"## Confirmed {'over folds' if 'folds' in summary else 'with other seeds'}", "", *findings, ""]


def _loading(record: StudyRecord) -> list[str]:
    """Returns code that works when it is copied, without a password in it."""
    shown = one_line(record.name)  # a line end would lead out of the block of code
    name, command = repr(shown), f"hpsearch best {shlex.quote(shown)} --save best-model"
    imports, remark = ["import hpsearch"], ""
    if record.storage in ("", DEFAULT_STORAGE):
        call, remark = f"hpsearch.load_best_model({name})", "in the folder from which the search was run"
    elif HIDDEN in record.storage:
        imports = ["import os", "", "import hpsearch"]
        call = f'hpsearch.load_best_model({name}, storage=os.environ["HPSEARCH_STORAGE"])'
        remark = f"HPSEARCH_STORAGE holds the URL with its password: {record.storage}"
    else:
        call = f"hpsearch.load_best_model({name}, storage={record.storage!r})"
        command += f" --storage {shlex.quote(record.storage)}"
    above = [f"# {remark}"] if remark else []
    return [
        "## How to load the best model",
        "",
        "```python",
        *imports,
        "",
        *above,
        f"model = {call}",
        "```",
        "",
        "```sh",
        *above,
        command,
        "```",
        "",
        "The weights lie on the machine that trained them; they are also the study's artifact "
        "(`.safetensors`): `hpsearch.load_best_model(\"downloaded.safetensors\")`.",
    ]  # fmt: skip


def trial_note(record: StudyRecord, trial: TrialRecord, rank: int) -> str:
    """Returns the note of one of the best trials; `rank` is from 1."""
    attrs = trial.attrs
    at_best = attrs.get("metrics_at_best") or {}
    facts = [
        (record.metric, number(trial.score)),
        *((name, number(value)) for name, value in at_best.items() if name != record.metric),
        ("best epoch", f"{trial.best_epoch} of {trial.epochs_run}"),
        (
            "stopped by",
            ": ".join(filter(None, (trial.stop_reason.replace("_", " "), attrs.get("stop_detail")))),
        ),
        ("fit", trial.fit),
        ("training time", time_spent(trial.seconds)),
        ("trained by", f"{trial.place}, {attrs.get('device', '?')}"),
    ]
    hparams = [(f"`{name}`", f"`{hparam(value)}`") for name, value in trial.hparams.items()]
    return "\n".join(
        [
            f"# Trial {trial.number}: rank {rank} in the search",
            "",
            *([f"{said}.", ""] if (said := _marked(record, trial)) else []),
            *markdown_table(("hyperparameter", "value"), hparams),
            "",
            *markdown_table(("fact", "value"), facts),
            "",
        ]
    )


def _marked(record: StudyRecord, trial: TrialRecord) -> str:
    """Returns what a trial is once the study is confirmed."""
    answer = record.answer
    if answer.confirmed is None or trial.number not in (answer.trial, answer.searched):
        return ""
    if trial.number == answer.trial:
        return inline(f"The study's answer, {answer.text}")
    return f"The best by the search alone; the confirmation puts trial {answer.trial} first"


def time_spent(seconds: float | None) -> str:
    """Returns a training time: short ones in seconds, others as h:mm:ss or m:ss."""
    return f"{seconds:.3g} s" if seconds is not None and seconds < 60 else duration(seconds)


def space_rows(record: StudyRecord) -> list[tuple[str, str, str]]:
    """Returns one row per hyperparameter: name, values, how they are drawn."""
    if record.spec is None:
        return [(name, "?", "?") for name in record.hparam_names()]
    return search.space_rows(record.spec.search)


def data_rows(spec: StudySpec | None, attrs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns what is known of the data that a study began with: fact, value.

    Args:
        attrs: the study's user attributes.
    """
    data = attrs.get(DATA) or {}
    parts = [(data.get(part), name) for part, name in PARTS]
    rows = [("images", ", ".join(f"{count:,} {name}" for count, name in parts if count))]
    if data.get("classes"):
        names = data["classes"]
        more = f" and {len(names) - MOST_CLASSES:,} more" if len(names) > MOST_CLASSES else ""
        kind = KINDS.get(data.get("task", ""), KINDS["classification"])
        rows.append((counted(len(names), *kind), f"{', '.join(names[:MOST_CLASSES])}{more}"))
    if "width" in data:
        size = f"{data['width']} x {data['height']} pixels"
        rows.append(("size", f"{size}, {counted(data['channels'], 'channel')}"))
    if spec is not None and spec.data.dataset != "none":
        split = spec.data.split
        together = f", kept together by {split.group_by}" if split.group_by else ""
        rows = [("data set", spec.data.dataset), ("from", spec.data.root or ""), *rows]
        folds = f", {split.folds} folds" if split.folds else ""
        rows.append(("split", f"seed {split.seed}{together}{folds}" if data else ""))
    rows.append(("digest", str(data.get("digest", ""))))
    return [row for row in rows if row[1]]


PARTS = (("train", "for training"), ("val", "for validation"), ("test", "for the test"))
MOST_CLASSES = 50
"""Of which the names are shown."""


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Returns a Markdown table as lines; what stands between backquotes is set as code."""
    return [
        f"| {' | '.join(map(_cell, head))} |",
        f"| {' | '.join('---' for _ in head)} |",
        *(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows),
    ]


def _cell(value: Any) -> str:
    return inline(str(value), LABEL)


def inline(text: str, most: int = LONGEST) -> str:
    """Returns a sentence as Markdown: code between backquotes; all else is plain text, with words for metrics."""
    parts = re.split(r"`([^`]*)`", one_line(in_words(text), most))
    return "".join(as_code(part) if place % 2 else in_markdown(part) for place, part in enumerate(parts))
