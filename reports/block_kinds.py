"""Blocks of a report's sections as lines of text and as HTML, by kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from reports.blocks import Block
from reports.figures import bars, lines
from reports.glossary import term
from reports.strips import CUT, Scale, Strip, axis_html, scale_over, strip_html
from reports.text import comparison_lines, folded, num, printable, signed, span, table

__all__ = ["KINDS", "image_ids", "screen_lines", "section_html", "section_lines"]

NAMED_IMAGES = 5  # in text

Thumbnails = Mapping[str, str]
Interval = Mapping[str, float | None]


def _cell(text: str, tag: str) -> Markup:
    # A heading without a text would be read aloud as one.
    tag = tag if text else "td"
    return Markup(f"<{tag}>{{}}</{tag}>").format(text)


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    # Markup.format escapes the cells, which may hold names of files and classes.
    def row(cells: Sequence[str], tag: str) -> Markup:
        return Markup("<tr>{}</tr>").format(Markup("").join(_cell(one, tag) for one in cells))

    body = Markup("\n").join([row(header, "th"), *(row(cells, "td") for cells in rows)])
    return Markup('<div class="scroll"><table>\n{}\n</table></div>').format(body)


def _figure(svg: Markup, caption: str) -> Markup:
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(svg, caption)


def _ends(interval: Interval | None) -> list[float | None]:
    return [] if interval is None else [interval["low"], interval["value"], interval["high"]]


def _strip(interval: Interval | None, text: str, scale: Scale, **settings: Any) -> str:
    if interval is None:
        return ""
    strip = Strip(text, interval["value"], interval["low"], interval["high"], **settings)
    return strip_html(strip, scale)


def _cut_note(scale: Scale) -> Markup | str:
    return Markup('<span class="soft">{}</span>').format(CUT) if scale.is_cut else ""


def _weight(share: float | None) -> Markup | str:
    if share is None:
        return ""
    bar = Markup('<span class="weight" style="--s:{:.3f}">{:.3g}</span>')
    return bar.format(min(max(share, 0.0), 1.0), share)


def _comparison_html(block: Block, thumbnails: Thumbnails) -> Markup:
    rows = block["rows"]
    names = list(rows[0]["attributes"])
    has_weights = any("weight" in row for row in rows)
    scores = scale_over(end for row in rows for end in _ends(row["headline"]))
    differences = scale_over((end for row in rows for end in _ends(row["difference"])), include=[0])
    against = rows[0]["against"]
    cells = []
    for row in rows:
        score = f"{num(row['headline']['value'])} {span(row['headline'])}"
        difference = signed(row["difference"])
        # The last row is the prediction that the section is about.
        main = row is rows[-1]
        cells.append(
            [
                row["name"],
                *([_weight(row.get("weight"))] if has_weights else []),
                _strip(row["headline"], score, scores, is_main=main),
                num(row["headline"]["value"]),
                span(row["headline"]),
                *[f"{row['attributes'][name]:.3f}" for name in names],
                _strip(row["difference"], difference, differences, is_main=main, line=0.0),
                difference,
            ]
        )
    cells.append(
        [
            _cut_note(scores),
            *([""] if has_weights else []),
            axis_html(scores),
            "",
            "",
            *["" for _ in names],
            axis_html(differences, signed=True),
            "",
        ]
    )
    header = [
        "",
        *(["weight"] if has_weights else []),
        "",
        "score",
        term("95 % interval"),
        *names,
        "",
        Markup("minus {}, {}").format(against, term("paired")),
    ]
    return _html_table(header, cells)


def _strips_html(block: Block, thumbnails: Thumbnails) -> Markup:
    ends = [end for row in block["rows"] for end in _ends(row["interval"])]
    line = block["line"]
    scale = scale_over(ends, include=[] if line is None else [line])
    cells = [
        [row["name"], _strip(row["interval"], signed(row["interval"]), scale, line=line)]
        for row in block["rows"]
    ]
    cells.append([_cut_note(scale), axis_html(scale, signed=line == 0)])
    shown = _html_table(["", block["xlabel"]], cells)
    return Markup('<div class="beside">{}</div>').format(shown)


def _images_html(block: Block, thumbnails: Thumbnails) -> Markup:
    tiles = []
    for one in block["images"]:
        source = thumbnails.get(one["image_id"])
        shown: Markup | str = ""
        if source is not None:
            shown = Markup('<img src="{}" alt="{}">').format(source, one["image_id"])
        tile = Markup('<div class="pair small" title="{}">{}<span>{}</span></div>')
        tiles.append(tile.format(one["image_id"], shown, one["text"]))
    return Markup('<h3>{}</h3><div class="pairs">{}</div>').format(
        block["caption"], Markup("").join(tiles)
    )


def _images_lines(block: Block) -> list[str]:
    named = [f"{one['image_id']} ({one['text']})" for one in block["images"][:NAMED_IMAGES]]
    return folded(f"{block['caption']}: {'; '.join(named)}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _figure_lines(block: Block) -> list[str]:
    """Return bars or curves as a table, whose first column has the names or the x."""
    first = block["names"] if block["kind"] == "bars" else map(_number, block["x"])
    cells = [
        [name, *map(_number, row)]
        for name, *row in zip(first, *block["series"].values(), strict=True)
    ]
    return [*folded(block["caption"]), *table([block["xlabel"], *block["series"]], cells)]


def _drawn_series(block: Block) -> dict[str, Any]:
    # matplotlib takes no text that is not UTF-8, and draws control characters as boxes.
    return {printable(name): values for name, values in block["series"].items()}


def _bars_html(block: Block, thumbnails: Thumbnails) -> Markup:
    names = [printable(name) for name in block["names"]]
    xlabel = printable(block["xlabel"])
    svg = bars(names, _drawn_series(block), xlabel=xlabel, number="{:.4g}")
    return _figure(svg, block["caption"])


def _lines_html(block: Block, thumbnails: Thumbnails) -> Markup:
    labels = {name: printable(block[name]) for name in ("xlabel", "ylabel")}
    return _figure(lines(block["x"], _drawn_series(block), **labels), block["caption"])


@dataclass(frozen=True, slots=True)
class _Kind:
    to_lines: Callable[[Block], list[str]]
    to_html: Callable[[Block, Thumbnails], Markup]


# A new kind of block needs an entry here, one in `reports.sections_file` and one in
# docs/report.schema.json.
KINDS = {
    "text": _Kind(
        lambda one: folded(one["text"]), lambda one, _: Markup("<p>{}</p>").format(one["text"])
    ),
    "table": _Kind(
        lambda one: table(one["header"], one["rows"]),
        lambda one, _: _html_table(one["header"], one["rows"]),
    ),
    "comparison": _Kind(lambda one: comparison_lines(one["rows"]), _comparison_html),
    "bars": _Kind(_figure_lines, _bars_html),
    "lines": _Kind(_figure_lines, _lines_html),
    "images": _Kind(_images_lines, _images_html),
    # Strips are beside a table with the same numbers, which is enough in text.
    "strips": _Kind(lambda one: [], _strips_html),
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


def section_html(one: Mapping[str, Any], thumbnails: Thumbnails) -> Markup:
    """Return a section's blocks as HTML, without its title.

    Parameters
    ----------
    one
        The section.
    thumbnails
        Images as data URIs, by image_id; the others are shown as text.
    """
    return Markup("\n").join(
        KINDS[block["kind"]].to_html(block, thumbnails) for block in one["blocks"]
    )


def image_ids(sections: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the images that sections show, in their order."""
    blocks = [block for one in sections for block in one["blocks"]]
    return [one["image_id"] for block in blocks for one in block.get("images", ())]
