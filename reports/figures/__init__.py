"""Figures as inline SVG in the colours of the page, drawn by matplotlib in one style.

Intervals in tables are strips of HTML (`reports.strips`).
"""

from reports.figures.bars import bars, dots, histograms
from reports.figures.curves import bands, lines
from reports.figures.reliability import reliability

__all__ = ["bands", "bars", "dots", "histograms", "lines", "reliability"]
