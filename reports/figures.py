"""Figures as inline SVG that takes its ink from the page, so that light and dark both work.

matplotlib is imported when the first figure is drawn, which takes 0.3 s.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bars", "histograms", "lines", "reliability"]

# A longer name of a bar is cut.
MOST_LETTERS = 40
# A placeholder, which is replaced by the text colour of the page.
INK = "#010203"
SERIES = ("#3b7dd8", "#d9822b", "#3a9d5d", "#b0549b", "#c94040", "#2aa5a5", "#8a6d3b")
# A date or a version of matplotlib would change a page whose numbers are the same.
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
STYLE: Any = {
    # Letters stay text, which is smaller than outlines and can be searched.
    "svg.fonttype": "none",
    # Without a fixed salt, ids are random and no two pages are equal.
    "svg.hashsalt": "reports",
    # The name of a class may contain dollar signs.
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Draw under STYLE."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> Markup:
    """Return the figure as SVG; like `_figure`, to be called under STYLE."""
    text = io.StringIO()
    with warnings.catch_warnings():
        # Letters that matplotlib's font lacks are shown in a font of the browser.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(text, format="svg", transparent=True, metadata=NO_METADATA)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    # Ids must be unique in a page, which has several figures; nothing refers to these.
    svg = re.sub(
        r' id="(?:figure|axes|patch|text|line2d|matplotlib\.axis|xtick|ytick|legend)_\d+"', "", svg
    )
    # matplotlib has escaped the names in it.
    return Markup(svg)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _figure(width, height)
    return figure, figure.subplots()


def _short(name: str) -> str:
    """Return a name that leaves room for the bars."""
    return name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 1] + "\u2026"


def _colour(index: int) -> Any:
    """Return the colour of a series: first seven that are easy to distinguish, then others."""
    if index < len(SERIES):
        return SERIES[index]
    import matplotlib

    return matplotlib.colormaps["tab20"](index % 20)


def bars(
    names: Sequence[str],
    values_of: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    number: str = "{:,.0f}",
) -> Markup:
    """Return horizontal bars, one row per name from the top and one colour per series."""
    thick = 0.8 / len(values_of)
    with _style():
        figure, axes = _axes(6.4, 0.6 + 0.24 * len(names) * max(1.0, 0.7 * len(values_of)))
        for index, (series, values) in enumerate(values_of.items()):
            place = np.arange(len(names)) + (index - (len(values_of) - 1) / 2) * thick
            container = axes.barh(
                place, values, height=thick * 0.95, color=_colour(index), label=series
            )
            axes.bar_label(container, fmt=number.format, padding=2, fontsize=7)
        axes.set_yticks(np.arange(len(names)), [_short(name) for name in names])
        # The limits are reversed, so that the first name is at the top.
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.margins(x=0.1)
        axes.set_xlabel(xlabel)
        if len(values_of) > 1:
            axes.legend(frameon=False)
        return _svg(figure)


def histograms(
    values_of: Mapping[str, np.ndarray], *, xlabel: str, of: str = "images", num_bins: int = 30
) -> Markup:
    """Return histograms over common bins, as shares of each series."""
    everything = np.concatenate(list(values_of.values()))
    edges = np.histogram_bin_edges(
        everything, bins=min(num_bins, max(len(np.unique(everything)), 1))
    )
    with _style():
        figure, axes = _axes(6.4, 2.4)
        for index, (series, values) in enumerate(values_of.items()):
            # Shares, because the training and the test set differ in size.
            share = np.histogram(values, edges)[0] / max(len(values), 1) * 100
            colour = _colour(index)
            axes.stairs(share, edges, fill=True, alpha=0.35, color=colour)
            axes.stairs(
                share, edges, color=colour, linewidth=1.2, label=f"{series} (n = {len(values):,})"
            )
        axes.set_xlabel(xlabel)
        axes.set_ylabel(f"% of {of}")
        axes.legend(frameon=False)
        return _svg(figure)


def lines(
    x: Sequence[float], values_of: Mapping[str, Sequence[float | None]], *, xlabel: str, ylabel: str
) -> Markup:
    """Return curves over the same x, a colour for each series; None leaves a point out."""
    from matplotlib.ticker import MaxNLocator

    with _style():
        figure, axes = _axes(6.4, 2.8)
        for index, (series, values) in enumerate(values_of.items()):
            heights = [np.nan if value is None else value for value in values]
            # Markers, because a curve of one point has no line.
            axes.plot(
                x,
                heights,
                color=_colour(index),
                linewidth=1.2,
                marker=".",
                markersize=3,
                label=series,
            )
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=all(float(one).is_integer() for one in x)))
        if len(values_of) > 1:
            axes.legend(frameon=False, fontsize=7, ncols=1 + len(values_of) // 8)
        return _svg(figure)


def reliability(bins: Sequence[Mapping[str, float]]) -> Markup:
    """Return a reliability diagram over a histogram of the rows in each bin."""
    with _style():
        figure = _figure(4.6, 4.4)
        axes, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
        width = [one["high"] - one["low"] for one in bins]
        left = [one["low"] for one in bins]
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
        axes.bar(
            left,
            [one["accuracy"] for one in bins],
            width,
            align="edge",
            color=SERIES[0],
            alpha=0.35,
        )
        axes.plot(
            [one["confidence"] for one in bins],
            [one["accuracy"] for one in bins],
            ".-",
            color=SERIES[0],
        )
        axes.set_ylabel("share that is right")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        container = below.bar(
            left, [one["rows"] for one in bins], width, align="edge", color=SERIES[0], alpha=0.6
        )
        below.bar_label(container, fmt="{:,.0f}", fontsize=6)
        below.margins(y=0.25)
        below.set_ylabel("rows")
        below.set_xlabel("confidence")
        return _svg(figure)
