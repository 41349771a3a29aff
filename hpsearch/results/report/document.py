"""A report as plain values, and its two forms: Markdown here, HTML in `page`."""

from collections.abc import Sequence
from dataclasses import dataclass

from hpsearch.results.dashboard.notes import inline, markdown_table
from hpsearch.results.plots.chart import Chart
from hpsearch.results.terminal.progress import in_words
from hpsearch.text import in_markdown, one_line


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Lines to copy."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table; cells that are numbers stand to the right.

    Attributes:
        note: is said below it.
        shades: how strongly each cell is marked, from -1 (bad) to 1 (good); empty for none at all.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    shades: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """A small picture: a PNG file in base64, which may be empty, and what it shows."""

    png: str
    caption: str


@dataclass(frozen=True, slots=True)
class Pictures:
    """Small pictures in a row; Markdown has their captions only.

    Attributes:
        lead: what is said above them where they are shown.
    """

    items: tuple[Picture, ...]
    lead: str = ""


Block = Text | Items | Code | Table | Pictures | Chart


@dataclass(frozen=True, slots=True)
class ReportSection:
    """A part of a report under a heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report; `summary` is its first paragraph."""

    title: str
    summary: str
    sections: tuple[ReportSection, ...]

    def charts(self) -> list[Chart]:
        """Returns all charts in order."""
        return [b for section in self.sections for b in section.blocks if isinstance(b, Chart)]


def markdown(document: Document, pictures: str = "") -> str:
    """Returns a report as Markdown.

    Args:
        pictures: folder of the charts' PNG files as seen from the text; without it charts are left out.
    """
    lines = [f"# {in_markdown(document.title)}", "", inline(document.summary), ""]
    for section in document.sections:
        blocks = [b for b in section.blocks if pictures or not isinstance(b, Chart)]
        if blocks:
            lines += [f"## {in_markdown(section.title)}", ""]
            for block in blocks:
                lines += [*_markdown(block, pictures), ""]
    return "\n".join(lines)


def _markdown(block: Block, pictures: str) -> Sequence[str]:
    match block:
        case Text(text):
            return [inline(text)]
        case Items(items):
            return [f"* {inline(item)}" for item in items]
        case Code(text):
            return ["```", *map(one_line, text.split("\n")), "```"]
        case Pictures(items):
            return [f"* {inline(picture.caption)}" for picture in items if picture.caption]
        case Table(head, rows, note):
            return [*markdown_table(head, rows), *(["", inline(note)] if note else [])]
        case Chart():
            return [
                f"![{in_markdown(in_words(block.title))}]({pictures}/{block.id}.png)",
                "",
                inline(block.caption),
            ]
