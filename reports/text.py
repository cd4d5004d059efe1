"""Lines of at most 80 columns: tables that are folded or split, never cut, and numbers as people
read them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "WIDTH",
    "comparison_lines",
    "duration",
    "folded",
    "num",
    "printable",
    "signed",
    "span",
    "table",
]

WIDTH = 80
NAME_WIDTH = 40


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, name_width: int = NAME_WIDTH
) -> list[str]:
    """Return aligned lines: the first column left, the others right.

    Long names are folded; columns for which there is no room follow in a further table with the
    same names.
    """
    folded_rows: list[Sequence[str]] = []
    header = [*map(printable, header)]
    rows = [[*map(printable, row)] for row in rows]
    for row in rows:
        name, *rest = textwrap.wrap(row[0], name_width) or [""]
        folded_rows.append([name, *row[1:]])
        folded_rows += [["  " + more, *[""] * (len(row) - 1)] for more in rest]
    everything = [header, *folded_rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(header))]
    lines: list[str] = []
    for columns in _bands(widths):
        lines += [""] * bool(lines)
        lines += [
            "  ".join(
                [row[0].ljust(widths[0]), *[row[c].rjust(widths[c]) for c in columns]]
            ).rstrip()
            for row in everything
        ]
    return lines


def _bands(widths: Sequence[int]) -> list[list[int]]:
    """Return the columns after the first, in bands that fit beside it."""
    bands: list[list[int]] = [[]]
    room = WIDTH - widths[0]
    for column, width in enumerate(widths[1:], start=1):
        if bands[-1] and width + 2 > room:
            bands.append([])
            room = WIDTH - widths[0]
        bands[-1].append(column)
        room -= width + 2
    return bands


def num(value: float | None) -> str:
    """Return a score with four digits, "-" for none."""
    return "-" if value is None else f"{value:.4f}"


def duration(seconds: float | None) -> str:
    """Return seconds as a person says them: 40 s, 12 min, 3.5 h; "-" for none."""
    if seconds is None:
        return "-"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


def span(interval: Mapping[str, float | None] | None) -> str:
    """Return "[low, high]", or nothing for no interval."""
    return "" if interval is None else f"[{num(interval['low'])}, {num(interval['high'])}]"


def signed(interval: Mapping[str, float | None] | None) -> str:
    """Return a difference and its interval, with signs."""
    if interval is None or interval["value"] is None:
        return ""
    return f"{interval['value']:+.4f} [{interval['low']:+.4f}, {interval['high']:+.4f}]"


def comparison_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of reports.run.summary.compare's rows, then their paired differences."""
    shown = list(rows[0]["attributes"])
    lines = table(
        ["", "score", "95 % interval", *shown],
        [
            [
                row["name"],
                num(row["headline"]["value"]),
                span(row["headline"]),
                *[f"{row['attributes'][name]:.3f}" for name in shown],
            ]
            for row in rows
        ],
        name_width=28,
    )
    for row in rows:
        if row["difference"] is not None:
            lines += folded(
                f"{row['name']} - {row['against']}: {signed(row['difference'])}, paired"
            )
    return lines


def folded(text: str) -> list[str]:
    """Return a paragraph as lines."""
    return textwrap.wrap(printable(text), WIDTH, subsequent_indent="  ")


def printable(text: object) -> str:
    """Return text without what a terminal would obey or UTF-8 cannot hold."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in str(text))
