"""Sections that stages add to a report, read from the run folder and checked."""

# `from __future__ import annotations` would hide Required from __required_keys__.
from pathlib import Path
from typing import Any, Literal, Required, TypedDict

from foldblend.runs.broken import BrokenRun
from foldblend.runs.checked import check_of
from foldblend.runs.folder import SECTIONS
from foldblend.runs.report_info import IntervalInfo
from foldblend.runs.schema import read_checked

__all__ = ["read_sections"]


class _TextBlock(TypedDict):
    """A paragraph."""

    text: str


class _TableBlock(TypedDict):
    """A table."""

    header: list[str]
    rows: list[list[str]]


class _ComparisonRow(TypedDict, total=False):
    """A prediction that is compared."""

    name: Required[str]
    headline: Required[IntervalInfo]
    attributes: Required[dict[str, float]]
    difference: Required[IntervalInfo | None]
    against: Required[str]
    weight: float


class _ComparisonBlock(TypedDict):
    """Predictions compared."""

    rows: list[_ComparisonRow]


class _BarsBlock(TypedDict):
    """Bars."""

    names: list[str]
    series: dict[str, list[float]]
    xlabel: str
    caption: str


class _LinesBlock(TypedDict):
    """Curves."""

    x: list[float]
    series: dict[str, list[float | None]]
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
    images: list[_Image]


class _StripsRow(TypedDict):
    """A value with its interval, beside its name."""

    name: str
    interval: IntervalInfo


class _StripsBlock(TypedDict):
    """Values with intervals on one scale."""

    xlabel: str
    line: float | None
    rows: list[_StripsRow]


class _Kind(TypedDict, total=False):
    """Hold what every block has."""

    kind: Required[Literal["text", "table", "comparison", "bars", "lines", "images", "strips"]]


class _Section(TypedDict, total=False):
    """A section; its blocks are checked by their kinds."""

    title: Required[str]
    blocks: Required[list[_Kind]]
    screen: list[_Kind]


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
        if not rows:
            return "rows: must be at least one, not none"
        if any({*row["attributes"]} != {*rows[0]["attributes"]} for row in rows):
            return "rows: must have the same attributes"
    if kind in ("bars", "lines"):
        num = len(block["names" if kind == "bars" else "x"])
        if any(len(one) != num for one in block["series"].values()):
            return f"series: must have {num} values each"
    return None


def read_sections(folder: Path) -> list[dict[str, Any]]:
    """Return the sections in a run folder, in the order of their names; raise BrokenRun."""
    found = []
    for file in sorted((folder / SECTIONS).glob("*.json")):
        cure = f"remove {file.name}, or make the run again"
        one = read_checked(file, _Section, needed=("title", "blocks"), folder=folder, cure=cure)
        for part in ("blocks", "screen"):
            for index, block in enumerate(one.get(part, ())):
                place = f"{part}[{index}]"
                wrong = check_of(BLOCKS[block["kind"]])(block, place)
                if wrong is None and (odd := _problem_of_lengths(block)) is not None:
                    wrong = f"{place}.{odd}"
                if part == "screen" and block["kind"] not in ("text", "table"):
                    wrong = f"{place}.kind: must be 'text' or 'table'"
                if wrong is not None:
                    raise BrokenRun(f"{file}: {wrong}; {cure}", folder)
        found.append(one)
    return found
