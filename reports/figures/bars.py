"""Bars, dots and histograms."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from reports.figures.style import SOFT, colour, key, new_axes, style, svg

__all__ = ["bars", "dots", "histograms"]

# A longer name of a bar is cut, after it was broken into two lines.
MOST_LETTERS = 46
LINE_LETTERS = 24
ROW = 0.2  # inches for each bar
GAP = 0.1  # inches between two names
DOT_ROW = 0.21  # inches for a row of dots
TWO_LINES = 0.34  # inches for a name of two lines
MARKERS = "osDv^"


def _short(name: str) -> str:
    """Return a name in at most two lines, which leaves room for the bars."""
    cut = name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 1] + "\u2026"
    lines = textwrap.wrap(cut, LINE_LETTERS) or [""]
    return "\n".join(lines[:2])


def bars(
    names: Sequence[str],
    values_of: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    number: str = "{:,.0f}",
) -> Markup:
    """Return horizontal bars, one row per name from the top and one colour per series.

    Examples
    --------
    >>> bars(["cat", "dog"], {"images": [3, 4]}, xlabel="images").startswith("<svg")
    True
    """
    thick = 0.84 / len(values_of)
    shown = [_short(name) for name in names]
    row = max(GAP + ROW * len(values_of), TWO_LINES if any("\n" in name for name in shown) else 0.0)
    with style():
        figure, axes = new_axes(0.6 + row * len(names) + 0.2 * (len(values_of) > 1))
        for index, values in enumerate(values_of.values()):
            place = np.arange(len(names)) + (index - (len(values_of) - 1) / 2) * thick
            container = axes.barh(place, values, height=thick * 0.9, color=colour(index))
            axes.bar_label(container, fmt=number.format, padding=2, fontsize=7.5)
        axes.set_yticks(np.arange(len(names)), shown, fontsize=8)
        axes.grid(axis="y", visible=False)
        # The limits are reversed, so that the first name is at the top.
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.margins(x=0.12)
        axes.set_xlabel(xlabel)
        if len(values_of) > 1:
            key(figure, list(values_of))
        return svg(figure)


def dots(names: Sequence[str], values_of: Mapping[str, Sequence[float]], *, xlabel: str) -> Markup:
    """Return a row of dots per name from the top, one for each series, joined by a line.

    Many names with several series take a third of the height of bars.
    """
    shown = [_short(name) for name in names]
    row = TWO_LINES if any("\n" in name for name in shown) else DOT_ROW
    values_SN = np.array([*values_of.values()], dtype=float)
    with style():
        figure, axes = new_axes(0.7 + row * len(names))
        places = np.arange(len(names))
        axes.hlines(places, values_SN.min(axis=0), values_SN.max(axis=0), color=SOFT, linewidth=1)
        for index, value_N in enumerate(values_SN):
            axes.plot(
                value_N,
                places,
                linestyle="",
                marker=MARKERS[index % len(MARKERS)],
                # Where values are equal, the marker below stays visible.
                markersize=max(8.0 - 2.0 * index, 3.0),
                color=colour(index),
                alpha=0.9,
            )
        axes.set_yticks(places, shown, fontsize=8)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(left=min(0.0, float(values_SN.min(initial=0.0))) - 0.5)
        axes.set_xlabel(xlabel)
        key(figure, list(values_of), markers=MARKERS)
        return svg(figure)


def histograms(
    values_of: Mapping[str, np.ndarray], *, xlabel: str, of: str = "images", num_bins: int = 30
) -> Markup:
    """Return histograms over common bins, as shares of each series."""
    everything = np.concatenate(list(values_of.values()))
    edges = np.histogram_bin_edges(
        everything, bins=min(num_bins, max(len(np.unique(everything)), 1))
    )
    with style():
        figure, axes = new_axes(2.3)
        for index, values in enumerate(values_of.values()):
            # Shares, because the training and the test set differ in size.
            share = np.histogram(values, edges)[0] / max(len(values), 1) * 100
            axes.stairs(share, edges, fill=True, alpha=0.3, color=colour(index))
            axes.stairs(share, edges, color=colour(index), linewidth=1.2)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(f"% of {of}")
        axes.set_ylim(bottom=0)
        key(figure, [f"{name} (n = {len(values):,})" for name, values in values_of.items()])
        return svg(figure)
