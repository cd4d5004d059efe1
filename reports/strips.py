"""Values and intervals as strips on a common scale: HTML that fits its table, sorts and prints.

A strip is a few elements placed in per cent of its width, so it needs no script, takes its colours
from the page and fits a phone as well as a slide. Figures with axes are in `reports.figures`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

__all__ = ["CUT", "Scale", "Strip", "axis_html", "scale_over", "strip_html"]

# Room at both ends, as a share of the range of the values.
MARGIN = 0.03
NUM_TICKS = 5
NEAR_ZERO = 0.3
CUT = "scale does not start at 0"
"""Mark of a scale that is cut."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A range of values, and the ticks on it."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Return the place of a value in per cent of the width; beyond the ends, the end.

        >>> Scale(0.0, 0.5, (0.0, 0.5)).place(0.1)
        20.0
        """
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    @property
    def is_cut(self) -> bool:
        """Return whether the scale leaves 0 out, which a page has to mark."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Strip:
    """A strip: a value, its interval, points or a line; all but the label may be absent."""

    label: str
    """The same in words, for those who cannot see it."""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    points: tuple[float, ...] = ()
    """Small dots, such as the scores of folds."""
    line: float | None = None
    """A vertical line, such as 0 for differences."""
    is_main: bool = False
    """Whether the strip is the one that others are compared with."""


def scale_over(values: Iterable[float | None], *, include: Sequence[float] = ()) -> Scale:
    """Return a scale over all values, with round ticks; it starts at 0 only if a value is near.

    Values that are None or not finite are left out.

    Examples
    --------
    >>> scale_over([0.61, 0.68, 0.72]).ticks
    (0.625, 0.65, 0.675, 0.7)
    """
    from matplotlib.ticker import MaxNLocator

    known = [one for one in [*values, *include] if one is not None and math.isfinite(one)]
    low = min(known, default=0.0)
    high = max(known, default=1.0)
    # One value alone would have no range.
    margin = (high - low) * MARGIN or max(abs(high), 1.0) * MARGIN
    # A scale from 0 is easier to read, where it costs little room.
    low = 0.0 if 0 <= low < (high - low) * NEAR_ZERO else low - margin
    high += margin
    locator = MaxNLocator(NUM_TICKS, steps=[1, 2, 2.5, 5, 10])
    ticks = tuple(round(float(one), 10) for one in locator.tick_values(low, high))
    return Scale(low, high, tuple(one for one in ticks if low <= one <= high))


def _element(kind: str, style: str) -> Markup:
    return Markup('<i class="{}" style="{}"></i>').format(kind, style)


def strip_html(strip: Strip, scale: Scale) -> Markup:
    """Return a strip as HTML: the interval as a band, the value as a dot."""
    parts = [_element("tick", f"left:{scale.place(one)}%") for one in scale.ticks]
    if strip.line is not None:
        parts.append(_element("line", f"left:{scale.place(strip.line)}%"))
    if strip.low is not None and strip.high is not None:
        left = scale.place(strip.low)
        width = round(scale.place(strip.high) - left, 2)
        parts.append(_element("band", f"left:{left}%;width:{width}%"))
    parts += [_element("point", f"left:{scale.place(one)}%") for one in strip.points]
    if strip.value is not None:
        parts.append(_element("dot", f"left:{scale.place(strip.value)}%"))
    kind = "strip main" if strip.is_main else "strip"
    return Markup('<span class="{}" role="img" aria-label="{}"><span>{}</span></span>').format(
        kind, strip.label, Markup("").join(parts)
    )


def axis_html(scale: Scale, *, signed: bool = False, most: int = 3) -> Markup:
    """Return the axis below strips: ticks with their values.

    At most `most` ticks are named, as more do not fit below a narrow strip; 0 is one of them.
    """
    step = -(-len(scale.ticks) // most) or 1
    start = scale.ticks.index(0) % step if 0 in scale.ticks else 0
    named = scale.ticks[start::step]
    places = [f"{one:+.6g}" if signed and one else f"{one:.6g}" for one in named]
    parts = [
        Markup('<b style="left:{}%">{}</b>').format(scale.place(one), text)
        for one, text in zip(named, places, strict=True)
    ]
    return Markup('<span class="strip axis" aria-hidden="true"><span>{}</span></span>').format(
        Markup("").join(parts)
    )
