"""Sections of a report as plain data, which text, page and JSON show (`reports.block_kinds`).

A stage adds one with ``foldblend.runs.folder.write_section(folder, "name", section(title, block,
...))``; every report of that run folder then shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "Block",
    "bars_block",
    "comparison_block",
    "images_block",
    "lines_block",
    "section",
    "strips_block",
    "table_block",
    "text_block",
]

Block = Mapping[str, Any]


def section(title: str, *blocks: Block, screen: Sequence[Block] = ()) -> dict[str, Any]:
    """Return a section of a report.

    Parameters
    ----------
    title
        Heading of the section.
    blocks
        What text, page and JSON show.
    screen
        Blocks for the first screen in the terminal, where there is room for a few lines only.
    """
    found: dict[str, Any] = {"title": title, "blocks": [dict(block) for block in blocks]}
    return found | ({"screen": [dict(block) for block in screen]} if screen else {})


def text_block(text: str) -> dict[str, Any]:
    """Return a paragraph."""
    return {"kind": "text", "text": text}


def table_block(header: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return a table: the first column holds names, the others numbers as text."""
    # A report may show the section much later, when it is no longer clear which code wrote it.
    assert all(len(row) == len(header) for row in rows), (header, rows)
    return {"kind": "table", "header": list(header), "rows": [list(row) for row in rows]}


def comparison_block(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return predictions compared, from rows of reports.run.summary.compare."""
    return {"kind": "comparison", "rows": [dict(row) for row in rows]}


def bars_block(
    names: Sequence[str], series: Mapping[str, Sequence[float]], *, xlabel: str, caption: str
) -> dict[str, Any]:
    """Return bars, one per name and series; the caption gives n."""
    values = {name: list(map(float, one)) for name, one in series.items()}
    return {
        "kind": "bars",
        "names": list(names),
        "series": values,
        "xlabel": xlabel,
        "caption": caption,
    }


def lines_block(
    x: Sequence[float],
    series: Mapping[str, Sequence[float | None]],
    *,
    xlabel: str,
    ylabel: str,
    caption: str,
) -> dict[str, Any]:
    """Return curves over the same x; None leaves a point out; the caption gives n."""
    values = {name: [None if y is None else float(y) for y in one] for name, one in series.items()}
    axes = {"xlabel": xlabel, "ylabel": ylabel, "caption": caption}
    return {"kind": "lines", "x": list(map(float, x)), "series": values, **axes}


def images_block(caption: str, images: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return images of the run, each a name and what is said of it; the caption gives n."""
    each = [{"image_id": name, "text": text} for name, text in images]
    return {"kind": "images", "caption": caption, "images": each}


def strips_block(
    intervals: Mapping[str, Mapping[str, float | None]], *, xlabel: str, line: float | None = None
) -> dict[str, Any]:
    """Return values with intervals by name, on one scale; `line` is where a line is drawn."""
    rows = [{"name": name, "interval": dict(one)} for name, one in intervals.items()]
    return {"kind": "strips", "xlabel": xlabel, "line": line, "rows": rows}
