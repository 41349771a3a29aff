"""Charts as plotly figures, for the dashboard and the report.

A figure is written as the plain JSON that plotly.js takes, without importing plotly: that costs a second, and
the publishing process starts often. Lists stay lists, since plotly.py would pack arrays as base64, which a
test or a person cannot read. Nothing is drawn with WebGL, so that a page prints.
"""

import html
from typing import Any

from hpsearch.results.plots.chart import Axis, Chart, ColorScale, Mark, Series, log_ticks
from hpsearch.results.terminal.progress import in_words
from hpsearch.text import one_line

Figure = dict[str, Any]
"""`data` and `layout`, as `plotly.graph_objects.Figure` takes and plotly.js draws them."""

# Grey that can be read on white and on black, for pages whose brightness is not known.
TEXT, GRID, OUTLINE = "#808080", "rgba(128, 128, 128, 0.25)", "rgba(128, 128, 128, 0.8)"
HEIGHT = 440


def figure(chart: Chart) -> Figure:
    """Returns a chart as a plotly figure."""
    bars = any(series.mark is Mark.BAR for series in chart.series)
    layout: dict[str, Any] = {
        "title": {"text": _label(chart.title), "x": 0, "xanchor": "left", "xref": "container", "pad": {"l": 12},
                  "font": {"size": 16}},
        "font": {"color": TEXT, "family": "system-ui, sans-serif"},
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "height": max(HEIGHT, 150 + 28 * len(chart.y.labels)),
        "margin": {"l": 64, "r": 24, "t": 56, "b": 56},
        "hovermode": "closest",
        "showlegend": any(series.in_legend and series.name for series in chart.series),
        "legend": _legend(chart),
        "xaxis": _axis(chart.x, [value for series in chart.series for value in series.x]),
        "yaxis": _axis(chart.y, [value for series in chart.series for value in series.y]),
    }  # fmt: skip
    if bars:
        layout |= {"barmode": "stack", "bargap": 0.35}
        layout["xaxis"]["rangemode"] = "tozero"
        if max(map(sum, zip(*(series.x for series in chart.series), strict=True))) <= 10:
            layout["xaxis"]["dtick"] = 1  # no half trials
    return {"data": [_trace(series) for series in chart.series], "layout": layout}


def _label(text: str) -> str:
    """Returns a text that plotly shows as it is, but for our own line ends: it takes a few tags, links among them."""
    return "<br>".join(html.escape(one_line(part), quote=False) for part in in_words(text).split("<br>"))


def _legend(chart: Chart) -> dict[str, Any]:
    """A few names stand in rows below the plot, many in a column beside it: never on it, nor on its title."""
    if sum(series.in_legend for series in chart.series) > 6:
        return {"orientation": "v", "font": {"size": 11}}
    return {
        "orientation": "h",
        "x": 0,
        "yref": "container",  # at the lower end of the picture, however many rows there are
        "y": 0,
        "yanchor": "bottom",
        "font": {"size": 12},
        "traceorder": "normal",
    }


def _axis(axis: Axis, values: list[float | None]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "title": {"text": _label(axis.title)},
        "type": "log" if axis.log else "linear",
        "gridcolor": GRID,
        "linecolor": GRID,
        "zeroline": False,
        "automargin": True,
    }
    known = [value for value in values if value is not None]
    if axis.log and known:
        # Plotly writes all nine digits of a decade or too few, some without their zeros, and 0.0001 as 100µ.
        ticks = log_ticks(known)
        shown |= {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    if axis.labels:
        places = list(range(len(axis.labels)))
        shown |= {
            "tickvals": places,
            "ticktext": list(map(_label, axis.labels)),
            "range": [-0.6, len(places) - 0.4],
        }
    return shown


def _trace(series: Series) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "name": _label(series.name),
        "x": list(series.x),
        "y": list(series.y),
        "showlegend": series.in_legend,
        **_hover(series),
        **_look(series),
    }
    if series.order and series.mark is not Mark.BAR:
        trace["zorder"] = series.order
    if series.group:
        trace["legendgroup"] = one_line(series.group)
    return trace


def _hover(series: Series) -> dict[str, Any]:
    if not series.hover:
        return {"hoverinfo": "x+y+name"}
    if len(series.hover) == 1:
        return {
            "hovertext": _label(series.hover[0]),
            "hovertemplate": "%{x}: %{y:.4g}<br>%{hovertext}<extra></extra>",
        }
    return {"hovertext": list(map(_label, series.hover)), "hovertemplate": "%{hovertext}<extra></extra>"}


def _look(series: Series) -> dict[str, Any]:
    match series.mark:
        case Mark.BAR:
            return {"type": "bar", "orientation": "h", "marker": {"color": series.color}}
        case Mark.POINTS:
            return {"type": "scatter", "mode": "markers", "marker": _marker(series)}
        case Mark.LINE | Mark.STEP:
            line = {
                "color": series.color,
                "width": series.width,
                "dash": "dash" if series.dashed else "solid",
            }
            if series.mark is Mark.STEP:
                line["shape"] = "hv"
            return {"type": "scatter", "mode": "lines", "line": line, "connectgaps": False}


def _marker(series: Series) -> dict[str, Any]:
    sizes = series.sizes[0] if len(series.sizes) == 1 else list(series.sizes)
    marker: dict[str, Any] = {
        "size": sizes,
        "symbol": series.symbol,
        "opacity": 1,
        "line": {"width": 1, "color": OUTLINE},
    }
    if series.scale is None:
        return marker | {"color": series.color}
    return marker | _colors(series.scale)


def _colors(scale: ColorScale) -> dict[str, Any]:
    return {
        "color": list(scale.values),
        "colorscale": "Cividis",
        "reversescale": scale.low < scale.high,
        "cmin": min(scale.low, scale.high),
        "cmax": max(scale.low, scale.high),
        "showscale": scale.in_margin,
        "colorbar": {"title": {"text": _label(scale.title)}, "thickness": 14, "outlinewidth": 0},
    }
