"""A report as one HTML file that needs nothing else: plotly.js is in it, so it opens without a network."""

import html
import json
import re
from string import Template

from plotly.offline import get_plotlyjs

from hpsearch.results.plots.chart import Chart
from hpsearch.results.plots.interactive import Figure, figure
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
from hpsearch.results.terminal.progress import in_words
from hpsearch.text import LABEL, LONGEST, in_html

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<link rel="icon" href="data:,">
<style>$style</style>
</head>
<body>
<main>
<h1>$title</h1>
<p class="summary">$summary</p>
<nav>$contents</nav>
$sections
</main>
$scripts
</body>
</html>
""")

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --page: #ffffff; --soft: #5f6368; --line: #d9dce1;
  --fill: #f3f5f8; --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e8; --page: #16181c; --soft: #a0a4ab; --line: #383c44; --fill: #20242a;
    --accent: #56b4e9; }
}
@media print {
  :root { --ink: #000; --page: #fff; --soft: #444; --line: #ccc; --fill: #f3f5f8; }
  nav { display: none; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.9em; margin: 0 0 .3em; }
h3 { font-size: 1em; font-weight: 500; margin: 0 0 .4em; }
h2 { font-size: 1.3em; margin: 2.2em 0 .6em; padding-bottom: .25em; border-bottom: 1px solid var(--line); }
.summary { font-size: 1.1em; margin: 0 0 1em; }
nav a { margin-right: 1.1em; white-space: nowrap; }
a { color: var(--accent); text-decoration: none; }
code, pre { font: .9em/1.5 ui-monospace, monospace; }
pre { background: var(--fill); padding: 12px 14px; border-radius: 6px; overflow-x: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .93em; margin: .4em 0; }
th, td { text-align: left; padding: .32em .9em .32em 0; vertical-align: top;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
td.long { white-space: normal; min-width: 22em; }
th { white-space: normal; vertical-align: bottom; color: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.shaded :is(td, th).number { padding: .32em .6em; }
figure { margin: 1.4em 0 1.8em; break-inside: avoid; }
figcaption, .note { color: var(--soft); font-size: .92em; }
.pictures { display: flex; flex-wrap: wrap; gap: 16px; }
.pictures figure { width: 160px; margin: 0; }
.pictures img { width: 160px; height: 160px; object-fit: contain; image-rendering: pixelated; }
.pictures figcaption { font-size: .82em; line-height: 1.35; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 0 28px; }
.charts figure.wide { grid-column: 1 / -1; }
.charts figure { min-width: 0; }
@media (max-width: 560px) {
  .charts { grid-template-columns: minmax(0, 1fr); }
  td:first-child:nth-last-child(2) { white-space: normal; min-width: 7em; }
  td:last-child:nth-child(-n+3):not(.number) { white-space: normal; min-width: 11em; overflow-wrap: anywhere; }
}
"""

_DRAW = """
const charts = JSON.parse(document.getElementById("charts").textContent);
const ink = getComputedStyle(document.body).color;
for (const [id, chart] of Object.entries(charts)) {
  chart.layout.font.color = ink;
  if (innerWidth <= 560 && chart.layout.legend.orientation === "v") {  // beside it there is no room for the plot
    const names = chart.data.filter(trace => trace.showlegend).length;
    chart.layout.legend = {...chart.layout.legend, x: 0, y: 0, yref: "container", yanchor: "bottom"};
    chart.layout.margin.b += 19 * names + 24;
    chart.layout.height += 19 * names;
  }
  Plotly.newPlot("chart-" + id, chart.data, chart.layout, {responsive: true, displaylogo: false});
}
window.charts_drawn = true;
"""

BROKEN_FROM = 40
"""Characters of a cell."""
WIDE = ("learning-curves", "workers", "pieces")


def page(document: Document) -> str:
    """Returns a report as a web page."""
    return _PAGE.substitute(
        title=in_html(document.title),
        style=_STYLE,
        summary=_inline(document.summary),
        contents=" ".join(f'<a href="#{_anchor(s)}">{in_html(s.title)}</a>' for s in document.sections),
        sections="\n".join(map(_section, document.sections)),
        scripts=_scripts(document.charts()),
    )


def _anchor(section: ReportSection) -> str:
    return re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-")


def _section(section: ReportSection) -> str:
    parts: list[str] = []
    pictures: list[str] = []
    for block in section.blocks:
        if isinstance(block, Chart):
            pictures.append(_block(block))
            continue
        parts += _grid(pictures)
        pictures = []
        parts.append(_block(block))
    parts += _grid(pictures)
    body = "\n".join(parts)
    return f'<section id="{_anchor(section)}"><h2>{in_html(section.title)}</h2>\n{body}</section>'


def _grid(pictures: list[str]) -> list[str]:
    return [f'<div class="charts">{"".join(pictures)}</div>'] if pictures else []


def _block(block: Block) -> str:
    match block:
        case Text(text):
            return f"<p>{_inline(text)}</p>"
        case Items(items):
            return f"<ul>{''.join(f'<li>{_inline(item)}</li>' for item in items)}</ul>"
        case Code(text):
            lines = "\n".join(map(in_html, text.split("\n")))
            return f"<pre>{lines}</pre>"
        case Table():
            return _table(block)
        case Pictures(items, lead):
            said = f"<p>{_inline(lead)}</p>" if lead else ""
            return f'{said}<div class="pictures">{"".join(map(_picture, items))}</div>'
        case Chart():
            kind = ' class="wide"' if block.id in WIDE else ""
            caption = f"<figcaption>{in_html(in_words(block.caption))}</figcaption>"
            title = f"<h3>{in_html(in_words(block.title))}</h3>"
            return f'<figure{kind}>{title}<div id="chart-{in_html(block.id)}"></div>{caption}</figure>'


def _picture(picture: Picture) -> str:
    alt = in_html(picture.caption)
    source = f"data:image/png;base64,{html.escape(picture.png)}"
    image = f'<img src="{source}" alt="{alt}">' if picture.png else ""
    return f"<figure>{image}<figcaption>{alt}</figcaption></figure>"


def _table(table: Table) -> str:
    right = [
        bool(table.rows) and all(_is_number(row[column]) for row in table.rows)
        for column in range(len(table.head))
    ]
    note = f'<p class="note">{_inline(table.note)}</p>' if table.note else ""
    shades = table.shades or tuple((0.0,) * len(table.head) for _ in table.rows)
    rows = "".join(
        f"<tr>{_cells('td', row, right, shade)}</tr>" for row, shade in zip(table.rows, shades, strict=True)
    )
    head = f"<thead><tr>{_cells('th', table.head, right)}</tr></thead>"
    kind = ' class="shaded"' if table.shades else ""
    return f'<div class="scroll"><table{kind}>{head}<tbody>{rows}</tbody></table></div>{note}'


def _cells(tag: str, cells: tuple[str, ...], right: list[bool], shades: tuple[float, ...] = ()) -> str:
    kinds = [_kind(cell, number) for cell, number in zip(cells, right, strict=True)]
    styles = [_style(shade) for shade in shades] or [""] * len(cells)
    every = zip(kinds, styles, cells, strict=True)
    return "".join(f"<{tag}{kind}{style}>{_inline(cell, LABEL)}</{tag}>" for kind, style, cell in every)


def _kind(cell: str, is_number: bool) -> str:
    """Numbers stand to the right; what is long may be broken into lines."""
    kind = "number" if is_number else "long" if len(cell) > BROKEN_FROM else ""
    return f' class="{kind}"' if kind else ""


def _style(shade: float) -> str:
    """Marks what is right in blue and what is wrong in orange; a hundredth of a row can still be seen."""
    if shade == 0:
        return ""
    color = "0, 114, 178" if shade > 0 else "213, 94, 0"
    return f' style="background: rgba({color}, {0.12 + 0.5 * abs(shade):.2f})"'


def _is_number(cell: str) -> bool:
    return cell == "-" or re.fullmatch(r"[-+]?[\d.,:]+(e[-+]?\d+)?( ?[%sh])?", cell) is not None


def _inline(text: str, most: int = LONGEST) -> str:
    """Escapes a text; what stands between backquotes is set as code, names of metrics elsewhere in words."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", in_html(in_words(text), most))


def _untitled(chart: Chart) -> Figure:
    """Returns a chart whose title stands above it in the page, where it is broken into lines when it must be."""
    drawn = figure(chart)
    del drawn["layout"]["title"]
    drawn["layout"]["margin"]["t"] = 8
    return drawn


def _scripts(charts: list[Chart]) -> str:
    if not charts:
        return ""
    # "</script>" within a name from the database must not end the block.
    data = json.dumps({chart.id: _untitled(chart) for chart in charts}).replace("<", "\\u003c")
    return (
        f'<script type="application/json" id="charts">{data}</script>\n'
        f"<script>{get_plotlyjs()}</script>\n<script>{_DRAW}</script>"
    )
