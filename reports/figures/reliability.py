"""Reliability diagram: the share of right predictions at each confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from reports.figures.style import INK, SOFT, colour, key, new_figure, style, svg

__all__ = ["reliability"]

Bins = Sequence[Mapping[str, float]]


def reliability(bins_of: Mapping[str, Bins]) -> Markup:
    """Return a reliability diagram, over a histogram of the rows in each bin of the first series.

    Parameters
    ----------
    bins_of
        Bins by name, such as "before" and "after" calibration: what
        `foldblend.scores.calibration.reliability_bins` returns.
    """
    first = next(iter(bins_of.values()))
    with style():
        figure = new_figure(3.9, width=3.7)
        axes, below = figure.subplots(2, 1, height_ratios=(3.4, 1), sharex=True)
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
        for index, bins in enumerate(bins_of.values()):
            axes.plot(
                [one["confidence"] for one in bins],
                [one["accuracy"] for one in bins],
                marker="os"[index % 2],
                markersize=4,
                color=colour(index),
            )
        axes.set_ylabel("share that is right")
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.02, 1.02)
        width = [one["high"] - one["low"] for one in first]
        left = [one["low"] for one in first]
        counts = [one["rows"] for one in first]
        below.bar(left, counts, width, align="edge", color=SOFT, alpha=0.5)
        below.set_yticks([0, max(counts)], ["0", f"{max(counts):,.0f}"])
        below.set_ylabel("rows")
        below.set_xlabel("confidence")
        if len(bins_of) > 1:
            key(figure, list(bins_of))
        return svg(figure)
