"""A chart as plain values: what is drawn, whoever draws it (plotly for screens, matplotlib for PNG files)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

Item = TypeVar("Item")

# Okabe and Ito's palette, told apart by colour-blind readers; its black and yellow are left out, since they
# vanish on a dark and on a light page.
BLUE, RED, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
GREY = "#8C8C8C"
FEW_DECADES = 3.0  # up to which an axis has room for more than the powers of ten
MOST_DECADES = 8
MOST_POINTS = 500  # of a series
COLORS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)


class Mark(StrEnum):
    """How a series is drawn."""

    LINE = "line"
    STEP = "step"
    """A line that keeps its value until the next point."""
    POINTS = "points"
    BAR = "bar"
    """Horizontal bars of length x at the places y, stacked upon the series before."""


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis. With `labels` it is one of categories: its values are places in them, from 0."""

    title: str
    log: bool = False
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ColorScale:
    """Colours by value, from `low` (the brightest) to `high`; values outside take the end's colour.

    Attributes:
        in_margin: whether the scale itself is drawn beside the chart, which once is enough.
    """

    title: str
    values: tuple[float, ...]
    low: float
    high: float
    in_margin: bool = True


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one kind.

    Attributes:
        x, y: of equal length; None breaks a line.
        sizes: of the points, in pixels; one for all or one each.
        symbol: circle, square, diamond, triangle-up, star or x.
        hover: a text for each point, or one for the whole series; may be empty.
        group: series of one group are switched on and off together.
        order: the highest is drawn on top.
    """

    name: str
    x: tuple[float | None, ...]
    y: tuple[float | None, ...]
    mark: Mark = Mark.LINE
    color: str = BLUE
    dashed: bool = False
    width: float = 2.0
    sizes: tuple[float, ...] = (7.0,)
    symbol: str = "circle"
    hover: tuple[str, ...] = ()
    group: str = ""
    in_legend: bool = True
    scale: ColorScale | None = None
    order: int = 0


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture.

    Attributes:
        id: its name in the dashboard and as a file.
        caption: how to read it, one or two sentences.
    """

    id: str
    title: str
    caption: str
    x: Axis
    y: Axis
    series: tuple[Series, ...] = field(repr=False)


def thin(items: Sequence[Item], limit: int) -> list[Item]:
    """Returns at most `limit` items, evenly spread, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    step = (len(items) - 1) / (limit - 1)
    return [items[round(index * step)] for index in range(limit)]


def is_number(value: object) -> bool:
    """Says whether a value has a place on an axis of numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def wants_log(values: Sequence[float | None]) -> bool:
    """Says whether values that are all positive span more than a factor of ten."""
    known = [value for value in values if value is not None]
    return bool(known) and min(known) > 0 and max(known) > 10 * min(known)


def log_ticks(values: Sequence[float | None]) -> list[float]:
    """Returns where a logarithmic axis is labelled: 1, 2 and 5 of each decade, or only as many as can be read."""
    known = [value for value in values if value is not None and value > 0]
    if not known:
        return []
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    decades = range(low, max(high, low + 1) + 1)
    if math.log10(max(known) / min(known)) <= FEW_DECADES:
        every = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
        first = max((tick for tick in every if tick <= min(known)), default=every[0])
        last = min((tick for tick in every if tick >= max(known)), default=every[-1])
        return [tick for tick in every if first <= tick <= last]
    return [10.0**decade for decade in decades[:: -(-len(decades) // MOST_DECADES)]]
