"""Tables and paragraphs as lines of text, and numbers in the form that reports use."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from foldblend.scores.by_group import GROUP
from foldblend.scores.metrics import TITLES
from foldblend.words import plural

__all__ = [
    "WIDTH",
    "comparison_lines",
    "folded",
    "groups_of",
    "num",
    "printable",
    "screen_width",
    "signed",
    "span",
    "table",
    "title_of",
]

# Columns of text in files; a terminal may be wider.
WIDTH = 80
WIDEST_SCREEN = 160
NAME_WIDTH = 40
LEAST_NAME_WIDTH = 20
GAP = 2
# Stands for a space at which a cell is not wrapped, until the table is complete.
NO_BREAK = "\u00a0"


def groups_of(report: Mapping[str, Any]) -> str:
    """Return what groups are, in the plural, from a report or board."""
    return plural(report.get("group_name", "group"))


def title_of(report: Mapping[str, Any]) -> str:
    """Return the name of a report's main score, such as "macro F1" or "macro F1 by patient".

    Examples
    --------
    >>> title_of({"metric": "accuracy", "score_by": "group", "group_name": "patient"})
    'accuracy by patient'
    """
    title = TITLES[report["metric"]]
    by_group = report.get("score_by") == GROUP
    return f"{title} by {report.get('group_name', 'group')}" if by_group else title


def screen_width() -> int:
    """Return the columns of the terminal, at most 160; 80 where there is no terminal."""
    return min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDEST_SCREEN)


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    name_width: int = NAME_WIDTH,
    width: int = WIDTH,
    wrap_cells: bool = True,
) -> list[str]:
    """Return a table as aligned lines, its first column on the left and the others on the right.

    A table that is too wide first wraps names, headers and cells at spaces. If it is still too
    wide, the last columns are left out, and a line below the table lists them.

    Parameters
    ----------
    header
        One name per column.
    rows
        One text per column for each row.
    name_width
        Columns of text that the first column may take before it is wrapped.
    width
        Columns of text that the table may take.
    wrap_cells
        Wrap cells; otherwise columns are left out instead.

    Returns
    -------
    list of str
        Lines of at most `width` columns, except where a single word is wider.

    Examples
    --------
    >>> table(["class", "F1"], [["cat", "0.91"], ["dog", "0.5"]])
    ['class    F1', 'cat    0.91', 'dog     0.5']
    """
    cells = [[_unbroken(printable(cell)) for cell in row] for row in [header, *rows]]
    num_shown = len(header)
    widths = _widths(cells, num_shown, name_width, width, wrap_cells)
    while num_shown > 1 and _total(widths) > width:
        num_shown -= 1
        widths = _widths(cells, num_shown, name_width, width, wrap_cells)
    lines = [line for row in cells for line in _row_lines(row[:num_shown], widths)]
    if num_shown < len(header):
        left_out = ", ".join(cells[0][num_shown:])
        note = f"(columns left out, too wide: {left_out})"
        lines += textwrap.wrap(note, width, subsequent_indent="  ")
    return [line.replace(NO_BREAK, " ") for line in lines]


def _unbroken(cell: str) -> str:
    """Keep an interval such as "[0.1, 0.2]" on one line."""
    return re.sub(r", (?=[^\[\]]*\])", f",{NO_BREAK}", cell)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _widths(
    cells: Sequence[Sequence[str]], num_shown: int, name_width: int, width: int, wrap_cells: bool
) -> list[int]:
    """Return the widths of the first columns: as cells need them, then as narrow as words allow."""
    body = cells[1:]
    widths = []
    least = []
    for column in range(num_shown):
        words = [word for row in cells for word in row[column].split(" ")]
        longest_word = max(map(len, words), default=0)
        natural = max((len(row[column]) for row in body), default=0)
        if column == 0:
            natural = min(max(natural, len(cells[0][0])), name_width)
            least.append(min(natural, max(LEAST_NAME_WIDTH, min(longest_word, name_width // 2))))
        else:
            natural = max(natural, max(map(len, cells[0][column].split(" ")), default=0))
            least.append(longest_word if wrap_cells else natural)
        widths.append(natural)
    # Spare room is used to keep headers on one line.
    for column in range(1, num_shown):
        wanted = max(widths[column], len(cells[0][column]))
        widths[column] += max(0, min(wanted - widths[column], width - _total(widths)))
    # The column with the most spare width is narrowed first, by one.
    while _total(widths) > width:
        spare = [have - need for have, need in zip(widths, least, strict=True)]
        if max(spare) <= 0:
            break
        widths[max(range(num_shown), key=spare.__getitem__)] -= 1
    return widths


def _row_lines(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    wrapped = [
        textwrap.wrap(cell, size, subsequent_indent="  " * (column == 0)) or [""]
        for column, (cell, size) in enumerate(zip(row, map(_at_least_one, widths), strict=True))
    ]
    lines = []
    for place in range(max(map(len, wrapped))):
        cells = [one[place] if place < len(one) else "" for one in wrapped]
        name, *rest = (
            cell.ljust(size) if column == 0 else cell.rjust(size)
            for column, (cell, size) in enumerate(zip(cells, widths, strict=True))
        )
        lines.append((" " * GAP).join([name, *rest]).rstrip())
    return lines


def _at_least_one(width: int) -> int:
    # textwrap rejects a width of 0, which a column of empty cells has.
    return max(width, 1)


def num(value: float | None) -> str:
    """Return a score with four digits, or "-" for None.

    >>> num(0.5), num(None)
    ('0.5000', '-')
    """
    return "-" if value is None else f"{value:.4f}"


def span(interval: Mapping[str, float | None] | None) -> str:
    """Return an interval as "[low, high]", or "" for None."""
    return "" if interval is None else f"[{num(interval['low'])}, {num(interval['high'])}]"


def signed(interval: Mapping[str, float | None] | None) -> str:
    """Return a difference and its interval, with signs; "" where there is none."""
    if interval is None or interval["value"] is None:
        return ""
    # Adding 0 turns a rounded -0.0 into 0.0.
    value, low, high = (round(interval[end] or 0.0, 4) + 0.0 for end in ("value", "low", "high"))
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


def comparison_lines(rows: Sequence[Mapping[str, Any]], *, width: int = WIDTH) -> list[str]:
    """Return predictions side by side, the rows of reports.run.summary.compare, as a table.

    The difference of each to the best is paired: both are compared on the same groups.
    """
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
        width=width,
    )
    for row in rows:
        if row["difference"] is not None:
            difference = f"{row['name']} - {row['against']}: {signed(row['difference'])} (paired)"
            lines += folded(difference, width=width)
    return lines


def folded(text: str, *, width: int = WIDTH) -> list[str]:
    """Return a paragraph as lines."""
    return textwrap.wrap(printable(text), width, subsequent_indent="  ")


def printable(text: object) -> str:
    """Return text in which characters that control a terminal or are not UTF-8 are replaced."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in str(text))
