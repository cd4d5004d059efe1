"""Curves over epochs or thresholds, with labels at their ends, and bands over folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from reports.figures.style import apart, colour, new_axes, style, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bands", "lines"]

HEIGHT = 2.5  # inches
LABEL = 8.0  # points of a label at the end of a curve
# More labels than this do not fit beside a figure, so every second or third is left out.
MOST_LABELS = 16


def _heights(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], float)


def _label_ends(axes: Axes, x: Sequence[float], ends_of: Mapping[str, float]) -> None:
    """Write the names of curves right of the axes, at the heights where they end."""
    known = {
        name: (index, end) for index, (name, end) in enumerate(ends_of.items()) if np.isfinite(end)
    }
    if not known:
        return
    step = -(-len(known) // MOST_LABELS)
    by_height = sorted(known, key=lambda name: known[name][1])
    shown = by_height[::step]
    low, high = axes.get_ylim()
    # The height of a line of text in the units of the axis; the axes take most of the figure.
    line = (high - low) * LABEL * 1.15 / (HEIGHT * 72 * 0.8)
    places = apart([known[name][1] for name in shown], line)
    for name, place in zip(shown, places, strict=True):
        axes.annotate(
            name if len(name) <= 24 else name[:23] + "\u2026",
            (1.0, place),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            color=colour(known[name][0]),
            fontsize=LABEL,
            va="center",
            annotation_clip=False,
        )


def _finish(axes: Axes, x: Sequence[float], xlabel: str, ylabel: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    whole = all(float(one).is_integer() for one in x)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole))


def _last(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else np.nan


def lines(
    x: Sequence[float], values_of: Mapping[str, Sequence[float | None]], *, xlabel: str, ylabel: str
) -> Markup:
    """Return curves over the same x, each named at its end; None leaves a point out.

    Examples
    --------
    >>> lines([1, 2], {"a": [0.1, None]}, xlabel="epoch", ylabel="loss").startswith("<svg")
    True
    """
    with style():
        figure, axes = new_axes(HEIGHT)
        for index, values in enumerate(values_of.values()):
            # Markers, because a curve of one point has no line.
            axes.plot(x, _heights(values), color=colour(index), marker=".", markersize=4)
        _finish(axes, x, xlabel, ylabel)
        if len(values_of) > 1:
            ends = {name: _last(_heights(values)) for name, values in values_of.items()}
            _label_ends(axes, x, ends)
        return svg(figure)


def bands(
    x: Sequence[float],
    values_of: Mapping[str, Sequence[Sequence[float | None]]],
    *,
    xlabel: str,
    ylabel: str,
) -> Markup:
    """Return for each series the mean over folds as a curve, in a band from lowest to highest.

    Parameters
    ----------
    x
        Common places of the points, such as epochs.
    values_of
        For each series, a sequence of values for every fold; None leaves a point out.
    xlabel, ylabel
        Titles of the axes.
    """
    import warnings

    with style():
        figure, axes = new_axes(HEIGHT)
        ends = {}
        for index, (name, folds) in enumerate(values_of.items()):
            values_KX = np.stack([_heights(values) for values in folds])
            with warnings.catch_warnings():
                # A point that no fold has is left out.
                warnings.filterwarnings("ignore", message="(Mean of empty|All-NaN)")
                mean_X = np.nanmean(values_KX, axis=0)
                low_X = np.nanmin(values_KX, axis=0)
                high_X = np.nanmax(values_KX, axis=0)
            axes.fill_between(x, low_X, high_X, color=colour(index), alpha=0.22, linewidth=0)
            axes.plot(x, mean_X, color=colour(index), marker=".", markersize=4)
            ends[name] = _last(mean_X)
        _finish(axes, x, xlabel, ylabel)
        if len(values_of) > 1:
            _label_ends(axes, x, ends)
        return svg(figure)
