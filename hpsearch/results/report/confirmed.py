"""What a report says of a confirmation: its findings and statistics, and what the test part has shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from hpsearch.results.confirm.linked import OPENINGS
from hpsearch.results.confirm.words import reliability_sentence
from hpsearch.results.plots.chart import GREY, Axis, Chart, Mark, Series
from hpsearch.results.report.document import Block, Items, Picture, Pictures, Table, Text
from hpsearch.results.stored.answer import SUMMARY, read_summary
from hpsearch.results.stored.attributes import decoded, readable
from hpsearch.results.stored.study import StudyRecord
from hpsearch.results.terminal.progress import number
from hpsearch.text import as_sentence


def confirmation_blocks(record: StudyRecord, pictures: Mapping[int, str]) -> tuple[Block, ...]:
    """Returns the section about the confirmation and the openings of the test part.

    Args:
        pictures: of test samples, PNG files in base64.
    """
    blocks: list[Block] = []
    summary = read_summary(record.name, record.attrs)
    if summary is not None:
        with readable(record.name, SUMMARY):
            blocks += _summary(summary, pictures)
    openings = decoded(record.name, record.attrs, OPENINGS, list, [])
    if openings:
        words = f"The test part was opened {'once' if len(openings) == 1 else f'{len(openings)} times'}:"
        blocks += [Text(words), *_told(openings)]
    elif record.best is not None:
        blocks.append(Text("The test part has not been opened."))
    return tuple(blocks)


def _summary(summary: Mapping[str, Any], pictures: Mapping[int, str]) -> list[Block]:
    special = ("findings", "class_errors", "confusion", "most_wrong", "reliability")
    blocks: list[Block] = []
    if findings := summary.get("findings"):
        blocks.append(Items(tuple(as_sentence(str(row["finding"])) for row in findings)))
    if any("covers" not in row for row in summary.get("statistics", ())):  # of an older version
        blocks.append(Text("The 95 % intervals cover new seeds, not other images."))
    blocks += _told({key: value for key, value in summary.items() if key not in special})
    if confusion := summary.get("confusion"):
        blocks += [
            Text(
                "Confusion matrix of the test part, all models of the first together: rows are the true class, "
                "columns the predicted one."
            ),
            confusion_table(confusion["classes"], confusion["counts"]),
        ]
    if rows := summary.get("class_errors"):
        what, whose = _kind(rows)
        blocks += [
            Text(
                f"By {what}: `answers` counts those about pictures {whose}, by all models of the first together. The "
                "precision is the share of right ones among the answers that name it, the recall the share of its "
                "pictures that are named so."
            ),
            class_table(rows),
        ]
    if reliability := summary.get("reliability"):
        told = reliability_sentence(reliability)
        blocks += [Text(as_sentence(told)), reliability_chart(reliability["bins"])]
        blocks.append(reliability_table(reliability["bins"]))
    if wrong := summary.get("most_wrong"):
        blocks += [
            Text(
                "Most confidently wrong on the test part. Look at these first when labels may be doubtful: a "
                "model that is sure of something else is sometimes right."
            ),
            Pictures(tuple(_picture(one, pictures) for one in wrong)),
        ]
    return blocks


def class_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Returns precision and recall of each class or label; those of an older version have errors alone."""
    keys = [key for key in ("precision", "recall", "f1", "error") if any(key in row for row in rows)]
    what, _ = _kind(rows)
    cells = [
        (
            str(row[what]),
            str(row["answers"]),
            *("-" if row.get(key) is None else f"{row[key]:.1%}" for key in keys),
        )
        for row in rows
    ]
    return Table((what, "answers", *(key.replace("f1", "F1") for key in keys)), tuple(cells))


def _kind(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Returns what rows are about, and whose pictures are meant."""
    return ("label", "that have it") if "label" in rows[0] else ("class", "of it")


def reliability_chart(bins: Sequence[Sequence[float]]) -> Chart:
    """Returns how often answers were right against how certain they were."""
    most = max(count for count, _, _ in bins)
    return Chart(
        id="reliability",
        title="Certainty and right answers on the test part",
        caption="Each point is a tenth of the range of certainty, the larger the more answers. On the dashed line a "
        "model is right as often as it is certain; below the line it is overconfident, above it underconfident.",
        x=Axis("certainty"),
        y=Axis("share of right answers"),
        series=(
            Series("as often as certain", (0.0, 1.0), (0.0, 1.0), color=GREY, dashed=True),
            Series(
                "answers",
                tuple(certain for _, certain, _ in bins),
                tuple(right for _, _, right in bins),
                Mark.POINTS,
                sizes=tuple(8 + 16 * (count / most) ** 0.5 for count, _, _ in bins),
                hover=tuple(
                    f"{int(count):,} answers: {certain:.1%} certain, {right:.1%} right"
                    for count, certain, right in bins
                ),
                order=1,
            ),
        ),
    )


def reliability_table(bins: Sequence[Sequence[float]]) -> Table:
    """Returns how often answers were right, by how certain they were; marked where they differ."""
    rows = tuple((f"{certain:.1%}", f"{right:.1%}", str(int(count))) for count, certain, right in bins)
    shades = tuple((0.0, -abs(certain - right), 0.0) for _, certain, right in bins)
    return Table(("certainty", "right", "answers"), rows, shades=shades)


def confusion_table(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Table:
    """Returns a confusion matrix, shaded by the share of each row: above 0 what is right, below what is not."""
    rows, shades = [], []
    for place, (name, row) in enumerate(zip(classes, counts, strict=True)):
        total = sum(row)
        share = [count / total if total else 0.0 for count in row]
        error = f"{1 - share[place]:.1%}" if total else "-"
        rows.append((name, *(str(count) for count in row), error))
        shades.append((0.0, *(x if p == place else -x for p, x in enumerate(share)), 0.0))
    return Table(("", *classes, "error"), tuple(rows), shades=tuple(shades))


def _picture(one: Mapping[str, Any], pictures: Mapping[int, str]) -> Picture:
    name = one.get("name") or f"sample {one['sample']}"
    words = f"{name}: {one['class']}; the models say {one['predicted']} with {one['probability']:.1%}"
    return Picture(pictures.get(one["sample"], ""), words)


def _told(value: Any) -> list[Block]:
    """Returns stored results as tables: lists of records as rows, single facts as pairs."""
    if isinstance(value, list):
        rows = [row for row in value if isinstance(row, Mapping)]
        head = tuple(dict.fromkeys(str(key) for row in rows for key in row))
        table = Table(
            tuple(_words(key) for key in head),
            tuple(tuple(_cell(row.get(key)) for key in head) for row in rows),
        )
        plain = tuple(_cell(item) for item in value if not isinstance(item, Mapping))
        return [*([table] if rows else []), *([Items(plain)] if plain else [])]
    if not isinstance(value, Mapping):
        return [Text(_cell(value))]
    inner = {key: one for key, one in value.items() if isinstance(one, list) and _is_rows(one)}
    facts = tuple(
        (_words(str(key)), _cell(one)) for key, one in value.items() if key not in inner and one != []
    )
    blocks: list[Block] = [Table(("result", "value"), facts)] if facts else []
    for key, one in inner.items():
        blocks += [Text(f"{str(key).replace('_', ' ').capitalize()}:"), *_told(one)]
    return blocks


_WORDS = {
    "interval_95": "95 % interval",
    "n": "trainings",
    "p": "p value",
    "p_holm": "p value, corrected (Holm)",
    "seeds": "trainings of each",
    "folds": "folds, each trained once",
    "first": "best trial",
    "search_first": "best trial of the search",
    "first_stays_first": "still the best",
    "search": "in the search",
    "real": "more than chance",
}
"""What stored keys are called where their own name does not say it."""


def _words(key: str) -> str:
    return _WORDS.get(key, key.replace("_", " "))


def _is_rows(value: list[Any]) -> bool:
    return any(isinstance(item, Mapping) for item in value)


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "-" if value is None else "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items())
    return " to ".join(map(_cell, value)) if isinstance(value, list) and len(value) == 2 else str(value)
