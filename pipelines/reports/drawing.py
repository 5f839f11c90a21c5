"""Lines and points as an SVG figure, legible at a phone's width, their names beside or below."""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from pipelines.reports.document import Figure
from pipelines.reports.labels import Box, at_line_ends, beside_points
from pipelines.reports.tables import count_in_words

Names = Literal["below", "beside", "at the end"]
"""Where lines are named: in a legend below, beside their last point, or in the right margin."""

_WIDTH, _HEIGHT = 4.6, 2.8  # inches, of the figure and of its axes: a phone shows letters full size
_LEFT = 0.18  # of the width, for the numbers of y
_FONT = 9.5
_LETTER = 0.56  # width of a letter over the size of the font
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": _FONT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8b949e",
    "axes.labelcolor": "#1c2127",
    "xtick.color": "#57606a",
    "ytick.color": "#57606a",
    "axes.grid": True,
    "grid.color": "#d8dde3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.markersize": 5,
}


class Line(NamedTuple):
    """Points and how they are drawn; without a label it has no name in the figure."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    color: str
    label: str = ""
    style: str = "-"
    marker: str = ""
    alpha: float = 1.0
    fill: str | None = None


@functools.lru_cache(maxsize=256)
def draw(
    name: str,
    caption: str,
    axes_names: tuple[str, str],
    lines: tuple[Line, ...],
    log_x: bool = False,
    names: Names = "below",
    ticks: tuple[str, ...] = (),
) -> Figure:
    """Draws lines: the same bytes for the same numbers, and drawn once.

    Args:
        name: of the figure's file.
        caption: what it shows.
        axes_names: of x and y.
        lines: later ones lie upon earlier ones.
        log_x: whether x is logarithmic.
        names: where the lines' labels go; long ones always go below.
        ticks: words at 0, 1, 2, ... of x instead of numbers.

    Returns:
        The figure.
    """
    layout = _layout(lines, names, bool(ticks))
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        canvas = Canvas(figsize=(_WIDTH, layout.height))
        axes = canvas.add_axes(layout.axes)
        _plot(axes, lines)
        _scale(axes, log_x, ticks)
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1])
        if layout.names == "beside":
            axes.margins(0.08, 0.1)
        axes.autoscale_view()  # now: names are placed by the limits
        size = (layout.axes[2] * _WIDTH * 72, _HEIGHT * 72)
        if layout.names == "below":
            canvas.legend(loc="lower center", ncols=layout.columns, frameon=False)
        elif layout.names == "beside":
            _name_points(axes, lines, size)
        else:
            _name_ends(axes, lines, size)
        buffer = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(buffer, format="svg", metadata=nothing)
    return Figure(name, buffer.getvalue().decode(), caption)


class _Layout(NamedTuple):
    """The figure's height in inches, its axes in parts of it, and where names go."""

    height: float
    axes: tuple[float, float, float, float]
    names: Names
    columns: int


def _layout(lines: Sequence[Line], names: Names, has_ticks: bool) -> _Layout:
    labels = [line.label for line in lines if line.label]
    longest = max(map(len, labels), default=0) * _LETTER * _FONT / 72  # inches
    if names == "at the end" and longest > 0.3 * _WIDTH:
        names = "below"
    columns = 1 if longest > 0.38 * _WIDTH else 2
    below = 0.8 if has_ticks else 0.5
    if names == "below":
        below += 0.25 + 0.2 * -(-len(labels) // columns)
    right = 0.03 + (longest / _WIDTH if names == "at the end" else 0.0)
    height = _HEIGHT + 0.15 + below
    axes = (_LEFT, below / height, 1.0 - _LEFT - right, _HEIGHT / height)
    return _Layout(height, axes, names, columns)


def _plot(axes: Axes, lines: Sequence[Line]) -> None:
    for line in lines:
        axes.plot(
            line.x,
            line.y,
            color=line.color,
            linestyle=line.style,
            marker=line.marker,
            alpha=line.alpha,
            label=line.label or None,
            fillstyle=line.fill,
        )


def _scale(axes: Axes, log_x: bool, ticks: Sequence[str]) -> None:
    if log_x:
        low, high = axes.dataLim.intervalx
        in_words = FuncFormatter(lambda value, _: count_in_words(value))
        if high > 3 * low > 0:
            steps = (1, 2, 5) if high < 60 * low else (1,)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=steps))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(in_words)
    elif ticks:
        axes.set_xticks(range(len(ticks)), ticks, rotation=25, ha="right", rotation_mode="anchor")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _name_points(axes: Axes, lines: Sequence[Line], size: tuple[float, float]) -> None:
    """Words beside the last point of each named line, where there is room."""
    named = [line for line in lines if line.label]
    points = _places(axes, [(line.x[-1], line.y[-1]) for line in named], size)
    sizes = [(len(line.label) * _LETTER * _FONT, 1.1 * _FONT) for line in named]
    frame = Box(0, 0, size[0] + 8, size[1] + 8)
    drawn = [
        point
        for line in lines
        for point in _along(_places(axes, list(zip(line.x, line.y, strict=True)), size))
    ]
    boxes = beside_points(points, sizes, frame, drawn)
    for line, (x, y), box in zip(named, points, boxes, strict=True):
        if box is not None:
            _write(axes, line, (box.left - x, (box.bottom + box.top) / 2 - y))


def _name_ends(axes: Axes, lines: Sequence[Line], size: tuple[float, float]) -> None:
    """Words in the right margin, as near to the ends of their lines as they have room."""
    named = [line for line in lines if line.label]
    points = _places(axes, [(line.x[-1], line.y[-1]) for line in named], size)
    heights = at_line_ends([y for _, y in points], 1.15 * _FONT, 0.0, size[1])
    for line, (x, y), height in zip(named, points, heights, strict=True):
        _write(axes, line, (size[0] + 6 - x, height - y))


def _places(
    axes: Axes, values: Sequence[tuple[float, float]], size: tuple[float, float]
) -> list[tuple[float, float]]:
    """Where values are, in points from the lower left corner of the axes."""
    if not values:
        return []
    places = axes.transAxes.inverted().transform(axes.transData.transform(values))
    return [(x * size[0], y * size[1]) for x, y in places.tolist()]


def _along(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Places on the straight lines from one point to the next."""
    parts = np.linspace(0.0, 1.0, 40)
    return [
        (a + (c - a) * t, b + (d - b) * t)
        for (a, b), (c, d) in itertools.pairwise(points)
        for t in parts.tolist()
    ]


def _write(axes: Axes, line: Line, offset: tuple[float, float]) -> None:
    """A line's name at an offset from its last point, with a thread where it is far."""
    far = abs(offset[1]) > 1.2 * _FONT or abs(offset[0]) > 60
    thread = {"arrowstyle": "-", "color": "#afb8c1", "lw": 0.6, "shrinkA": 0, "shrinkB": 2}
    axes.annotate(
        line.label,
        (line.x[-1], line.y[-1]),
        xytext=offset,
        textcoords="offset points",
        color=line.color,
        va="center",
        annotation_clip=False,
        arrowprops=thread if far else None,
    )
