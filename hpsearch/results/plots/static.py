"""Charts as PNG files, drawn by matplotlib: no browser, no screen."""

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch.errors import UserError
from hpsearch.results.plots.chart import Axis, Chart, Mark, Series, log_ticks
from hpsearch.results.terminal.progress import in_words
from hpsearch.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SYMBOLS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "star": "*", "x": "x"}
MOST_NAMES = 16  # more would cover the picture


def write_pngs(charts: Iterable[Chart], folder: Path) -> list[Path]:
    """Draws charts into a folder, `learning-curves.png` and so on; returns the files.

    Raises:
        UserError: matplotlib is not installed, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_write(chart, folder / f"{chart.id}.png") for chart in charts]
    except OSError as error:
        raise UserError(
            f"--png: cannot write into {folder}: {error.strerror}; choose another folder"
        ) from None


def _write(chart: Chart, path: Path) -> Path:
    draw_figure(chart).savefig(path)
    return path


def draw_figure(chart: Chart) -> "Figure":
    """Returns a chart as a figure of matplotlib, the legend beside the plot and the caption below it.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError('--png needs matplotlib; run pip install "hpsearch[png]"') from None
    names = [series.name for series in chart.series if series.in_legend]
    figure = Figure(figsize=(10.0, 4.8), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    draw(chart, axes)
    axes.set_title(_label(chart.title), loc="left", fontsize=11)
    if 0 < len(names) <= MOST_NAMES:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    # A picture travels without the page around it, and colours and symbols must be said.
    figure.supxlabel(
        textwrap.fill(_label(chart.caption), 140), x=0.01, ha="left", fontsize=8, color="#606060"
    )
    return figure


def _label(text: str) -> str:
    """Returns a text that matplotlib shows as it is: between two dollars it would read a formula, or fail to."""
    return one_line(in_words(text)).replace("$", r"\$")


def draw(chart: Chart, axes: "Axes") -> None:
    """Draws a chart without its title, legend and caption."""
    from matplotlib.ticker import MaxNLocator

    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _set_axis(axes.xaxis, chart.x, [value for series in chart.series for value in series.x])
    _set_axis(axes.yaxis, chart.y, [value for series in chart.series for value in series.y])
    if any(series.mark is Mark.BAR for series in chart.series):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # no half trials
    stacked: dict[float, float] = {}
    for series in chart.series:
        _draw_series(series, axes, stacked)


def _set_axis(drawn: Any, axis: Axis, values: list[float | None]) -> None:
    drawn.set_label_text(_label(axis.title))
    if axis.log:
        drawn.axes.set(**{f"{drawn.axis_name}scale": "log"})
        if ticks := log_ticks(values):
            drawn.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
            drawn.set_ticks([], minor=True)
            drawn.axes.set(**{f"{drawn.axis_name}lim": _room(values)})
    if axis.labels:
        drawn.set_ticks(range(len(axis.labels)), labels=list(map(_label, axis.labels)))
        drawn.axes.set(**{f"{drawn.axis_name}lim": (-0.6, len(axis.labels) - 0.4)})


def _room(values: list[float | None]) -> tuple[float, float]:
    """Returns the ends of a logarithmic axis: those of the values with a twentieth more on both sides."""
    known = [value for value in values if value is not None and value > 0]
    more = (max(known) / min(known)) ** 0.05 if max(known) > min(known) else 1.5
    return min(known) / more, max(known) * more


def _draw_series(series: Series, axes: "Axes", stacked: dict[float, float]) -> None:
    x, y = ([float("nan") if value is None else value for value in values] for values in (series.x, series.y))
    label = _label(series.name) if series.in_legend else None
    match series.mark:
        case Mark.BAR:
            lefts = [stacked.get(place, 0.0) for place in y]
            axes.barh(y, x, left=lefts, color=series.color, height=0.65, label=label)
            stacked.update({place: left + length for place, left, length in zip(y, lefts, x, strict=True)})
        case Mark.POINTS:
            _draw_points(series, x, y, axes, label)
        case Mark.LINE | Mark.STEP:
            axes.plot(
                x,
                y,
                color=series.color,
                linewidth=series.width * 0.8,
                linestyle="--" if series.dashed else "-",
                drawstyle="steps-post" if series.mark is Mark.STEP else "default",
                solid_capstyle="butt",
                label=label,
                zorder=2 + series.order / 100,
            )


def _draw_points(series: Series, x: list[float], y: list[float], axes: "Axes", label: str | None) -> None:
    look: dict[str, Any] = {"marker": SYMBOLS[series.symbol], "s": [0.6 * size**2 for size in series.sizes]}
    edge: dict[str, Any] = {"linewidths": 1.8, "zorder": 3}
    if series.symbol != "x":  # a cross is all lines: an edge would hide it
        edge |= {"edgecolors": "#808080", "linewidths": 0.6}
    if series.scale is None:
        axes.scatter(x, y, color=series.color, label=label, **look, **edge)
        return
    low, high = series.scale.low, series.scale.high
    drawn = axes.scatter(
        x,
        y,
        c=list(series.scale.values),
        cmap="cividis_r" if low < high else "cividis",
        vmin=min(low, high),
        vmax=max(low, high),
        label=label,
        **look,
        **edge,
    )
    if series.scale.in_margin:
        axes.figure.colorbar(drawn, ax=axes, label=_label(series.scale.title))
