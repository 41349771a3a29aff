"""`hpsearch compare`: studies side by side, as a text table and as a page with their best-so-far curves."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle

from hpsearch.errors import UserError
from hpsearch.results.dashboard.notes import time_spent
from hpsearch.results.plots.chart import COLORS, GREY, Axis, Chart, wants_log
from hpsearch.results.plots.history import COSTS, best_line, epochs_used
from hpsearch.results.report.content import saved_epochs
from hpsearch.results.report.document import Block, Document, Items, ReportSection, Table, Text
from hpsearch.results.stored.reading import read_study
from hpsearch.results.stored.study import StudyRecord
from hpsearch.results.terminal.lines import columns
from hpsearch.results.terminal.progress import hparam, number
from hpsearch.store.url import redact


def read_studies(names: Sequence[str], url: str, by_search: bool = False) -> list[StudyRecord]:
    """Reads the studies that are to be compared.

    Args:
        by_search: leave confirmations aside.

    Raises:
        StudyNotFound: one of them is not there.
        UserError: fewer than two, one twice, or they measure different things.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(f"compare: name two or more different studies, got {', '.join(names) or 'none'}")
    records = []
    for name in names:
        records.append(replace(read_study(name, url, redact(url)), by_search=by_search))
    metrics = {f"{record.metric} ({record.better})" for record in records}
    if len(metrics) > 1:
        raise UserError(f"compare: the studies measure different things: {', '.join(sorted(metrics))}")
    return records


def results_table(records: Sequence[StudyRecord]) -> Table:
    """Returns one row per study: its best, and what it took."""
    head = (
        "study", "finished", f"best {records[0].metric}", "trial", "confirmed", "epochs", "saved", "training time",
        "found after", "complete", "pruned", "fail",
    )  # fmt: skip
    return Table(
        head,
        tuple(map(_result, records)),
        "`confirmed`: the mean over the repeats with other seeds; `saved`: epochs left out by early stopping and "
        "pruning; `found after`: trials until the best.",
    )


def _result(record: StudyRecord) -> tuple[str, ...]:
    best = record.chosen
    numbers = [trial.number for trial in record.finished]
    return (
        record.name,
        str(len(record.finished)),
        number(best.score if best else None),
        str(best.number) if best else "-",
        _worth(record) if best else "-",
        str(sum(trial.epochs_run for trial in record.finished)),
        str(saved_epochs(record)),
        time_spent(sum(trial.seconds or 0.0 for trial in record.finished)),
        str(numbers.index(best.number) + 1) if best else "-",
        *(str(record.count(state)) for state in ("COMPLETE", "PRUNED", "FAIL")),
    )


def _worth(record: StudyRecord) -> str:
    confirmed = record.answer.confirmed
    return record.answer.status or "-" if confirmed is None else f"{number(confirmed.mean)} (n {confirmed.n})"


def answer_sentences(records: Sequence[StudyRecord]) -> list[str]:
    """Returns what must be known beside the studies' answers."""
    return [f"{record.name}: {said}" for record in records for said in record.answer.sentences()]


def hparams_table(records: Sequence[StudyRecord]) -> Table:
    """Returns one row per hyperparameter: its value in each study's best trial."""
    names = list(dict.fromkeys(name for record in records for name in record.hparam_names()))
    rows = tuple((name, *(_of_best(record, name) for record in records)) for name in names)
    return Table(("hyperparameter of the best", *(record.name for record in records)), rows)


def _of_best(record: StudyRecord, name: str) -> str:
    return hparam(record.chosen.hparams.get(name, "-")) if record.chosen else "-"


def curves_table(records: Sequence[StudyRecord]) -> Table:
    """Returns the best score so far of each study after 1, 2, 4, 8 ... epochs trained by all its trials."""
    most = int(max((epochs_used(record)[-1] for record in records if record.finished), default=0))
    steps = sorted({max(1, round(most / 2**power)) for power in range(8)}) if most else []
    cells = [(str(step), *(number(_best_within(record, step)) for record in records)) for step in steps]
    return Table(("best after epochs", *(record.name for record in records)), tuple(cells))


def _best_within(record: StudyRecord, epochs: float) -> float | None:
    scores = [
        trial.score
        for trial, spent in zip(record.finished, epochs_used(record), strict=True)
        if spent <= epochs and trial.score is not None
    ]
    return min(scores, key=record.cost, default=None)


def compare_charts(records: Sequence[StudyRecord]) -> list[Chart]:
    """Draws the best-so-far curves of all studies in one chart per kind of cost."""
    return [_chart(records, cost) for cost in COSTS]


def _chart(records: Sequence[StudyRecord], cost: str) -> Chart:
    title, measure = COSTS[cost]
    colors = [*COLORS, *[GREY] * max(0, len(records) - len(COLORS))]
    lines = [
        replace(best_line(record, measure(record), record.name, color), dashed=dashed)
        for record, color, dashed in zip(records, colors, cycle((False, True)), strict=False)
    ]
    return Chart(
        id=f"compare-{cost}",
        title=f"Best {records[0].metric} so far against {title.split(' in ')[0]}",
        caption="One line per study; it ends where the study does.",
        x=Axis(title),
        y=Axis(records[0].metric, log=wants_log([value for line in lines for value in line.y])),
        series=tuple(lines),
    )


def comparison(records: Sequence[StudyRecord]) -> Document:
    """Returns the comparison as a document."""
    tables: tuple[Block, ...] = (results_table(records), hparams_table(records))
    if said := answer_sentences(records):
        tables = (*tables, Items(tuple(said)))
    caution = Text(
        "Best values of different searches are each the best of many trials: `hpsearch confirm` tells which "
        "differences are real."
    )
    return Document(
        title="Comparison of studies",
        summary=", ".join(f"`{record.name}`" for record in records),
        sections=(
            ReportSection("Results", (*tables, caution)),
            ReportSection("Best so far", (*compare_charts(records), curves_table(records))),
        ),
    )


def comparison_lines(records: Sequence[StudyRecord]) -> list[str]:
    """Returns the comparison as lines for a terminal."""
    lines: list[str] = []
    for table in (results_table(records), hparams_table(records), curves_table(records)):
        if table.rows:
            lines += [*columns(table.head, table.rows), ""]
    return [*lines[:-1], *answer_sentences(records)]
