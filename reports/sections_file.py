"""Sections that stages add to a report, read from the run folder and checked."""

# `from __future__ import annotations` would hide Required from __required_keys__.
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Required, TypedDict

from foldblend.errors import counted
from foldblend.runs.broken import BrokenRun
from foldblend.runs.checked import Rule, between, check_of, length
from foldblend.runs.folder import SECTIONS
from foldblend.runs.schema import read_checked

__all__ = ["read_sections"]

# A page shows all sections, so their number and size are bounded. What stages write stays far
# below: a blend of a hundred runs has some 500 rows.
MOST_SECTIONS = 100
MOST_BLOCKS = 100  # of a section
MOST_COLUMNS = 200
MOST_ROWS = 5_000
MOST_NAMES = 500  # of bars, each of which makes a figure higher
MOST_SERIES = 50
MOST_POINTS = 2_000
# Rows and points of all sections together, and letters of their texts.
MOST_ENTRIES = 20_000
MOST_LETTERS = 2_000_000
# Sums and squares of such numbers are finite.
LARGEST = 1e30


def _of_names(least: int, most: int) -> Rule:
    """Return the rule for objects with `least` to `most` keys."""
    return Rule(
        f"an object of {least:,} to {most:,} entries", lambda value: least <= len(value) <= most
    )


_Number = Annotated[float, between(-LARGEST, LARGEST)]


class _Interval(TypedDict):
    """A score with its interval; None where it is not defined."""

    value: _Number | None
    low: _Number | None
    high: _Number | None


class _TextBlock(TypedDict):
    """A paragraph."""

    text: str


class _TableBlock(TypedDict):
    """A table."""

    header: Annotated[list[str], length(1, MOST_COLUMNS)]
    rows: Annotated[list[list[str]], length(0, MOST_ROWS)]


class _ComparisonRow(TypedDict, total=False):
    """A prediction that is compared."""

    name: Required[str]
    headline: Required[_Interval]
    attributes: Required[Annotated[dict[str, _Number], _of_names(0, MOST_COLUMNS)]]
    difference: Required[_Interval | None]
    against: Required[str]
    weight: _Number


class _ComparisonBlock(TypedDict):
    """Predictions compared."""

    rows: Annotated[list[_ComparisonRow], length(1, MOST_ROWS)]


class _BarsBlock(TypedDict):
    """Bars."""

    names: Annotated[list[str], length(1, MOST_NAMES)]
    series: Annotated[dict[str, list[_Number]], _of_names(1, MOST_SERIES)]
    xlabel: str
    caption: str


class _LinesBlock(TypedDict):
    """Curves."""

    x: Annotated[list[_Number], length(1, MOST_POINTS)]
    series: Annotated[dict[str, list[_Number | None]], _of_names(1, MOST_SERIES)]
    xlabel: str
    ylabel: str
    caption: str


class _Image(TypedDict):
    """An image and what is said of it."""

    image_id: str
    text: str


class _ImagesBlock(TypedDict):
    """Images."""

    caption: str
    images: Annotated[list[_Image], length(0, MOST_ROWS)]


class _StripsRow(TypedDict):
    """A value with its interval, beside its name."""

    name: str
    interval: _Interval


class _StripsBlock(TypedDict):
    """Values with intervals on one scale."""

    xlabel: str
    line: _Number | None
    rows: Annotated[list[_StripsRow], length(1, MOST_ROWS)]


class _Kind(TypedDict, total=False):
    """Hold what every block has."""

    kind: Required[Literal["text", "table", "comparison", "bars", "lines", "images", "strips"]]


class _Section(TypedDict, total=False):
    """A section; its blocks are checked by their kinds."""

    title: Required[str]
    blocks: Required[Annotated[list[_Kind], length(0, MOST_BLOCKS)]]
    screen: Annotated[list[_Kind], length(0, MOST_BLOCKS)]


BLOCKS: dict[str, Any] = {
    "text": _TextBlock,
    "table": _TableBlock,
    "comparison": _ComparisonBlock,
    "bars": _BarsBlock,
    "lines": _LinesBlock,
    "images": _ImagesBlock,
    "strips": _StripsBlock,
}


def _problem_of_lengths(block: dict[str, Any]) -> str | None:
    """Return what does not fit together in a block of the right types."""
    kind = block["kind"]
    if kind == "table" and any(len(row) != len(block["header"]) for row in block["rows"]):
        return "rows: must be as long as the header"
    if kind == "comparison":
        rows = block["rows"]
        if any({*row["attributes"]} != {*rows[0]["attributes"]} for row in rows):
            return "rows: must have the same attributes"
    if kind in ("bars", "lines"):
        num = len(block["names" if kind == "bars" else "x"])
        if any(len(one) != num for one in block["series"].values()):
            return f"series: must have {num} values each"
    return None


def _num_entries(block: Mapping[str, Any]) -> int:
    """Return the number of rows, images or points of a block."""
    series = block.get("series", {}).values()
    return len(block.get("rows", ())) + len(block.get("images", ())) + sum(map(len, series))


def _texts(value: Any) -> Iterable[str]:
    """Yield all texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, dict):
        for name, one in value.items():
            yield name
            yield from _texts(one)


def _problem_of_block(block: dict[str, Any], place: str) -> str | None:
    """Return what is wrong in a block of a known kind."""
    wrong = check_of(BLOCKS[block["kind"]])(block, place)
    if wrong is None and (odd := _problem_of_lengths(block)) is not None:
        wrong = f"{place}.{odd}"
    if place.startswith("screen") and block["kind"] not in ("text", "table"):
        wrong = f"{place}.kind: must be 'text' or 'table'"
    return wrong


def read_sections(folder: Path) -> list[dict[str, Any]]:
    """Return the sections in a run folder, in the order of their names; raise BrokenRun."""
    found = []
    num_entries = 0
    num_letters = 0
    files = sorted((folder / SECTIONS).glob("*.json"))
    if len(files) > MOST_SECTIONS:
        raise BrokenRun(
            f"{folder / SECTIONS}: has {len(files):,} files, and a report shows at most"
            f" {MOST_SECTIONS} sections; remove those that are not needed",
            folder,
        )
    for file in files:
        cure = f"remove {file.name}, or make the run again"
        one = read_checked(file, _Section, needed=("title", "blocks"), folder=folder, cure=cure)
        blocks = [
            (f"{part}[{index}]", block)
            for part in ("blocks", "screen")
            for index, block in enumerate(one.get(part, ()))
        ]
        problems = (_problem_of_block(block, place) for place, block in blocks)
        wrong = next((one for one in problems if one is not None), None)
        if wrong is None:
            num_entries += sum(_num_entries(block) for _, block in blocks)
            num_letters += sum(map(len, _texts(one)))
            if num_entries > MOST_ENTRIES or num_letters > MOST_LETTERS:
                wrong = (
                    f"with the sections before it, {counted(num_entries, 'row')} or points and"
                    f" {num_letters:,} letters; a report shows at most {MOST_ENTRIES:,} and"
                    f" {MOST_LETTERS:,}"
                )
        if wrong is not None:
            raise BrokenRun(f"{file}: {wrong}; {cure}", folder)
        found.append(one)
    return found
