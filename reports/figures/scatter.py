"""Points with whiskers, each named in a column beside the axes, such as cost against score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from reports.figures.style import INK, SOFT, apart, colour, new_axes, style, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Point", "scatter", "time_ticks"]

LABEL = 8.0  # points of a letter
LINE = 0.155  # inches from one name to the next
LEAST_HEIGHT = 2.7  # inches
# More names than this would make the figure higher than a screen; the main points keep theirs.
MOST_LABELS = 24
MOST_LETTERS = 22
# A log scale shows costs that differ by more than this factor.
WIDE = 10.0
MOST_TICKS = 5
HOUR = 3600.0
# Seconds of a unit, the largest first.
UNITS = ((HOUR, "h"), (60.0, "min"))
# Round times in seconds.
TIMES = (
    *(one * 10.0**power for power in range(-3, 1) for one in (1, 2, 5)),
    *(10.0, 20.0, 30.0),
    *(60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0),
    *(HOUR * one * 10.0**power for power in range(6) for one in (1, 2, 5)),
)
MAIN = 0  # colour
OTHER = 6


@dataclass(frozen=True, slots=True)
class Point:
    """One named point of a scatter plot."""

    name: str
    x: float
    y: float
    low: float | None = None
    """Ends of the whisker, if it is known."""
    high: float | None = None
    is_main: bool = False
    """Whether it is emphasised, and joined with the other main points by a line."""
    is_hollow: bool = False


def _short(name: str) -> str:
    return name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 1] + "\u2026"


def _draw_names(axes: Axes, points: Sequence[Point], height: float) -> None:
    """Write names right of the axes, moved apart, with a thin line to each point."""
    named = [one for one in points if one.is_main] if len(points) > MOST_LABELS else list(points)
    low, high = axes.get_ylim()
    # The axes take most of the figure, the rest is the labels below.
    line = (high - low) * LINE / (height * 0.82)
    places = apart([one.y for one in named], line)
    # Names that would stand below the axes are moved up together.
    lift = max(low - min(places, default=low), 0.0)
    for point, place in zip(named, places, strict=True):
        axes.annotate(
            _short(point.name),
            (point.x, point.y),
            xytext=(1.04, place + lift),
            textcoords=("axes fraction", "data"),
            fontsize=LABEL,
            fontweight="bold" if point.is_main else "normal",
            color=colour(MAIN) if point.is_main else INK,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "linewidth": 0.6,
                "color": SOFT,
                "alpha": 0.6,
                "relpos": (0.0, 0.5),
                "shrinkA": 1,
                "shrinkB": 4,
            },
        )


def time_ticks(low: float, high: float, *, log: bool) -> dict[float, str]:
    """Return round times in seconds from `low` to `high`, about five, with their labels.

    Examples
    --------
    >>> time_ticks(2.5, 9_000, log=True)
    {5.0: '5 s', 30.0: '30 s', 300.0: '5 min', 1800.0: '30 min'}
    >>> time_ticks(70, 130, log=False)
    {80.0: '80 s', 100.0: '100 s', 120.0: '120 s'}
    """
    if log:
        inside = [one for one in TIMES if low <= one <= high]
        shown = inside[:: -(-len(inside) // MOST_TICKS) or 1]
        return {one: _time(one, of=one) for one in shown}
    step = next((one for one in TIMES if (high - low) / one < MOST_TICKS), TIMES[-1])
    places = [step * index for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return {one: _time(one, of=step) for one in places}


def _time(seconds: float, *, of: float) -> str:
    """Return a time in the unit that suits the time `of`."""
    size, unit = next((one for one in UNITS if of >= one[0]), (1.0, "s"))
    return f"{seconds / size:,.6g} {unit}"


def _set_scale(axes: Axes, x: Sequence[float], *, is_time: bool) -> None:
    """Make the x axis logarithmic if the values need it, with plain numbers at its ticks."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    log = min(x) > 0 and max(x) > WIDE * min(x)
    if log:
        axes.set_xscale("log")
    if is_time:
        ticks = time_ticks(min(x), max(x), log=log)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(list(ticks), list(ticks.values()))
        return
    if log:
        # Several ticks for each power of 10 are legible only where there are few powers.
        steps = (1.0, 2.0, 5.0) if max(x) < 1_000 * min(x) else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=steps))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        few = sorted(set(x))
        # Few costs, such as 5 and 10 passes, are ticks themselves.
        axes.xaxis.set_major_locator(
            FixedLocator(few) if len(few) <= MOST_TICKS else MaxNLocator(MOST_TICKS)
        )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def scatter(points: Sequence[Point], *, xlabel: str, ylabel: str, is_time: bool = False) -> Markup:
    """Return points with whiskers as a figure; a line joins the main ones in the order of x.

    With `is_time`, x is in seconds, and the axis shows round times with their units.

    Examples
    --------
    >>> points = [Point("a", 1.0, 0.5, is_main=True), Point("b", 20.0, 0.4)]
    >>> scatter(points, xlabel="minutes", ylabel="score").startswith("<svg")
    True
    """
    height = max(LEAST_HEIGHT, LINE * min(len(points), MOST_LABELS) + 0.7)
    with style():
        figure, axes = new_axes(height)
        main = sorted((one for one in points if one.is_main), key=lambda one: one.x)
        axes.plot(
            [one.x for one in main],
            [one.y for one in main],
            color=colour(MAIN),
            linewidth=1.4,
            alpha=0.6,
            drawstyle="steps-post",
        )
        # Main points come last, so that they are above the others.
        for point in sorted(points, key=lambda one: one.is_main):
            shade = colour(MAIN if point.is_main else OTHER)
            if point.low is not None and point.high is not None:
                axes.vlines(point.x, point.low, point.high, color=shade, linewidth=1.1, alpha=0.5)
            axes.plot(
                [point.x],
                [point.y],
                marker="o",
                markersize=6.5 if point.is_main else 5,
                color=shade,
                markerfacecolor="none" if point.is_hollow else shade,
            )
        _set_scale(axes, [one.x for one in points], is_time=is_time)
        axes.margins(x=0.06)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        _draw_names(axes, points, height)
        return svg(figure)
