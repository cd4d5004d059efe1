"""One style for figures: inline SVG in the ink and colours of its page, light or dark.

Figures are drawn narrow, about as wide as a phone, so that their letters stay legible there; wide
screens show several beside each other. matplotlib is imported when the first figure is drawn,
which takes 0.3 s.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "INK",
    "SOFT",
    "WIDTH",
    "apart",
    "colour",
    "key",
    "new_axes",
    "new_figure",
    "style",
    "svg",
]

WIDTH = 4.3  # inches; 72 points of SVG are an inch
# Placeholders, which are replaced by the colours of the page.
INK = "#010203"
SOFT = "#010204"
SERIES = tuple(f"#0101{code:02x}" for code in range(16, 23))
# Outside of a page, such as in a notebook: the colours of reports/templates/base.css in light.
ELSEWHERE = ("#1f6fb8", "#b95000", "#007a5e", "#98428a", "#6f5f00", "#08728c", "#59646e")
SOFT_ELSEWHERE = "#56616b"
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
    "lines.linewidth": 1.6,
    **dict.fromkeys(("text.color", "axes.labelcolor", "ytick.labelcolor", "xtick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), SOFT),
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "ytick.major.size": 0,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw under STYLE."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def new_figure(height: float, *, width: float = WIDTH) -> Figure:
    """Return an empty figure; sizes are in inches. To be called under `style`, as all here."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def new_axes(height: float, *, width: float = WIDTH) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes."""
    figure = new_figure(height, width=width)
    return figure, figure.subplots()


def svg(figure: Figure) -> Markup:
    """Return the figure as SVG, with the colours of the page in place of placeholders."""
    text = io.StringIO()
    with warnings.catch_warnings():
        # Letters that matplotlib's font lacks are shown in a font of the browser.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(text, format="svg", transparent=True, metadata=NO_METADATA)
    found = text.getvalue()
    found = found[found.index("<svg") :].replace(INK, "currentColor")
    found = found.replace(SOFT, f"var(--soft, {SOFT_ELSEWHERE})")
    for index, (one, elsewhere) in enumerate(zip(SERIES, ELSEWHERE, strict=True)):
        found = found.replace(one, f"var(--c{index}, {elsewhere})")
    # Ids must be unique in a page, which has several figures; nothing refers to these.
    found = re.sub(
        r' id="(?:figure|axes|patch|text|line2d|matplotlib\.axis|xtick|ytick|legend)_\d+"',
        "",
        found,
    )
    # matplotlib has escaped the names in it.
    return Markup(found)


def colour(index: int) -> str:
    """Return the colour of a series; after seven, colours repeat and labels tell them apart."""
    return SERIES[index % len(SERIES)]


def apart(places: Sequence[float], least: float) -> list[float]:
    """Return places moved as little as keeps any two at least `least` apart, in equal order.

    Examples
    --------
    >>> apart([0.0, 10.0, 10.5], 2.0)
    [0.0, 9.25, 11.25]
    """
    order = np.argsort(places, kind="stable")
    # Blocks of touching labels are merged; each is centred on the mean of its wishes.
    blocks: list[list[float]] = []
    for place in np.asarray(places, float)[order]:
        blocks.append([place, 1.0])
        while len(blocks) > 1 and _gap(blocks[-2], blocks[-1], least) < 0:
            centre, size = blocks.pop()
            before, num = blocks.pop()
            blocks.append([(before * num + centre * size) / (num + size), num + size])
    found = [
        centre + (index - (size - 1) / 2) * least
        for centre, size in blocks
        for index in range(int(size))
    ]
    result = [0.0] * len(found)
    for index, place in zip(order, found, strict=True):
        result[index] = float(place)
    return result


def _gap(one: Sequence[float], other: Sequence[float], least: float) -> float:
    """Return the room between two blocks of labels, each a centre and a number of labels."""
    return (other[0] - one[0]) - (one[1] + other[1]) / 2 * least


def key(figure: Figure, names: Sequence[str], *, markers: str = "s") -> None:
    """Name the series above the axes, each beside its colour, where it covers nothing."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=markers[index % len(markers)],
            markersize=6,
            color=colour(index),
            label=name,
        )
        for index, name in enumerate(names)
    ]
    # About 70 letters of this size fit in a line.
    fits = sum(map(len, names)) + 5 * len(names) < 70
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=len(names) if fits else 1,
        frameon=False,
        fontsize=8,
        handletextpad=0.2,
        columnspacing=1.2,
        borderpad=0.1,
    )
