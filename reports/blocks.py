"""Sections of a report as plain data, which text, page and JSON show.

A stage adds one with ``foldblend.runs.folder.write_section(folder, "name", section(title, block,
...))``; every report of that run folder then shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from reports.figures import bars, lines
from reports.text import comparison_lines, folded, num, signed, span, table

__all__ = [
    "bars_block",
    "comparison_block",
    "lines_block",
    "screen_lines",
    "section",
    "section_html",
    "section_lines",
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


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    # Markup.format escapes the cells, which may hold names of files and classes.
    def row(cells: Sequence[str], tag: str) -> Markup:
        return Markup("<tr>{}</tr>").format(
            Markup("").join(Markup(f"<{tag}>{{}}</{tag}>").format(one) for one in cells)
        )

    body = Markup("\n").join([row(header, "th"), *(row(cells, "td") for cells in rows)])
    return Markup('<div class="scroll"><table>\n{}\n</table></div>').format(body)


def _figure(svg: Markup, caption: str) -> Markup:
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(svg, caption)


def _comparison_html(block: Block) -> Markup:
    rows = block["rows"]
    names = list(rows[0]["attributes"])
    header = ["", "score", "95 % interval", *names, f"difference to {rows[0]['against']}, paired"]
    cells = [
        [
            row["name"],
            num(row["headline"]["value"]),
            span(row["headline"]),
            *[f"{row['attributes'][name]:.3f}" for name in names],
            signed(row["difference"]),
        ]
        for row in rows
    ]
    return _html_table(header, cells)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _bars_lines(block: Block) -> list[str]:
    cells = [
        [name, *map(_number, row)]
        for name, *row in zip(block["names"], *block["series"].values(), strict=True)
    ]
    return [*folded(block["caption"]), *table([block["xlabel"], *block["series"]], cells)]


def _lines_lines(block: Block) -> list[str]:
    cells = [
        [_number(x), *map(_number, row)]
        for x, *row in zip(block["x"], *block["series"].values(), strict=True)
    ]
    return [*folded(block["caption"]), *table([block["xlabel"], *block["series"]], cells)]


@dataclass(frozen=True, slots=True)
class _Kind:
    to_lines: Callable[[Block], list[str]]
    to_html: Callable[[Block], Markup]


# A new kind of block needs an entry here, and one in docs/report.schema.json.
KINDS = {
    "text": _Kind(
        lambda one: folded(one["text"]), lambda one: Markup("<p>{}</p>").format(one["text"])
    ),
    "table": _Kind(
        lambda one: table(one["header"], one["rows"]),
        lambda one: _html_table(one["header"], one["rows"]),
    ),
    "comparison": _Kind(lambda one: comparison_lines(one["rows"]), _comparison_html),
    "bars": _Kind(
        _bars_lines,
        lambda one: _figure(
            bars(one["names"], one["series"], xlabel=one["xlabel"], number="{:.4g}"), one["caption"]
        ),
    ),
    "lines": _Kind(
        _lines_lines,
        lambda one: _figure(
            lines(one["x"], one["series"], xlabel=one["xlabel"], ylabel=one["ylabel"]),
            one["caption"],
        ),
    ),
}


def section_lines(one: Mapping[str, Any]) -> list[str]:
    """Return a section as lines of text."""
    return [
        *folded(one["title"]),
        *(line for block in one["blocks"] for line in KINDS[block["kind"]].to_lines(block)),
    ]


def screen_lines(blocks: Sequence[Block], *, width: int) -> list[str]:
    """Return the blocks that sections have for the first screen as lines of text, tables first."""
    lines = []
    # The sort is stable: blocks of one kind stay in the order of their sections.
    for block in sorted(blocks, key=lambda block: block["kind"] != "table"):
        if block["kind"] == "table":
            lines += table(block["header"], block["rows"], name_width=30, width=width)
        else:
            lines += folded(block["text"], width=width)
    return lines


def section_html(one: Mapping[str, Any]) -> Markup:
    """Return a section's blocks as HTML, without its title."""
    return Markup("\n").join(KINDS[block["kind"]].to_html(block) for block in one["blocks"])
