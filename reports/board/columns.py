"""Columns of the leaderboard's table: what each shows of a run, and by what it is sorted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from foldblend.progress import duration
from reports.board.finding import contains_zero
from reports.board.text import LOWER, attribute_names, columns_beside, has_test, marked, moment
from reports.strips import CUT, Scale, Strip, axis_html, scale_over, strip_html
from reports.text import num, signed, span

__all__ = ["Column", "columns_of", "score_scale"]

Row = Mapping[str, Any]
Board = Mapping[str, Any]

# More attributes than this are shown on demand only, as the table would be too wide.
MOST_ATTRIBUTES = 4
ENDS = ("low", "value", "high")
# The best run is sorted as a difference of 0.
NO_DIFFERENCE = dict.fromkeys(ENDS, 0.0)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table."""

    title: str
    text: Callable[[Row], str | Markup]
    """What a cell shows."""
    value: Callable[[Row], Any]
    """What it is sorted by; None is sorted last."""
    sort: str = "number"
    axis: str = ""
    """HTML of an axis below the title."""
    notes: tuple[str, ...] = ()
    """What is to be known of the axis, below the title."""
    is_more: bool = False
    """Whether the column is shown on demand only."""
    side: Callable[[Row], str] = lambda row: ""
    """The class "better" or "worse" of a cell in colour."""

    def cell(self, row: Row) -> dict[str, Any]:
        """Return the cell of a run for the template."""
        value = self.value(row)
        text = self.text(row)
        kinds = ("strip-cell" if self.axis else "", "more" if self.is_more else "", self.side(row))
        return {
            "text": text,
            "value": "" if value is None else str(value),
            "kinds": " ".join(filter(None, kinds)),
        }


def score_scale(board: Board) -> Scale:
    """Return the scale of all scores of a board with their intervals."""
    return scale_over(row["headline"][end] for row in board["rows"] for end in ENDS)


def _difference(row: Row) -> Mapping[str, float | None]:
    return NO_DIFFERENCE if row["difference"] is None else row["difference"]


def _score_columns(every: Mapping[str, Any], board: Board) -> Iterable[Column]:
    title = every["title"]
    scale = score_scale(board)
    notes = (*(() if every["greater_is_better"] else (LOWER,)), *((CUT,) if scale.is_cut else ()))

    def strip(row: Row) -> Markup:
        one = row["headline"]
        label = f"{title} {num(one['value'])} {span(one)}"
        is_best = row["difference"] is None
        return strip_html(
            Strip(label, one["value"], one["low"], one["high"], is_main=is_best), scale
        )

    yield Column(
        title, strip, lambda row: row["headline"]["value"], axis=axis_html(scale), notes=notes
    )
    yield Column(
        "score", lambda row: num(row["headline"]["value"]), lambda row: row["headline"]["value"]
    )
    yield Column(
        "95 % interval", lambda row: span(row["headline"]), lambda row: row["headline"]["low"]
    )


def _difference_columns(every: Mapping[str, Any], board: Board) -> Iterable[Column]:
    """Yield the paired difference to the best as a strip and as text."""
    scale = scale_over(
        (_difference(row)[end] for row in board["rows"] for end in ENDS), include=(0.0,)
    )

    def text(row: Row) -> str:
        return "best" if row["difference"] is None else signed(row["difference"]) or "-"

    def strip(row: Row) -> Markup:
        one = row["difference"]
        if one is None:
            return strip_html(Strip("best", 0.0, line=0.0, is_main=True), scale)
        label = f"difference {text(row)}"
        return strip_html(Strip(label, one["value"], one["low"], one["high"], line=0.0), scale)

    def value(row: Row) -> float | None:
        return _difference(row)["value"]

    def side(row: Row) -> str:
        one = row["difference"]
        # A score that is too high says nothing of the run.
        if one is None or marked(row) or contains_zero(one) is not False:
            return ""
        return "better" if (one["low"] > 0) == every["greater_is_better"] else "worse"

    axis = axis_html(scale, signed=True)
    notes = () if every["greater_is_better"] else (LOWER,)
    yield Column("difference to best, paired", strip, value, axis=axis, notes=notes, side=side)
    yield Column("difference [interval]", text, lambda row: _difference(row)["high"])


def _attribute_column(name: str, *, is_more: bool) -> Column:
    def value(row: Row) -> float | None:
        found: float | None = row["attributes"].get(name)
        return found

    def text(row: Row) -> str:
        found = value(row)
        return "-" if found is None else f"{found:.3f}"

    return Column(name, text, value, is_more=is_more)


def _count_column(name: str, *, is_more: bool = False) -> Column:
    def text(row: Row) -> str:
        return "-" if row[name] is None else f"{row[name]:,}"

    return Column(name, text, lambda row: row[name], is_more=is_more)


def _seconds_column(title: str, key: str, *, is_more: bool = False) -> Column:
    return Column(title, lambda row: duration(row[key]), lambda row: row[key], is_more=is_more)


def columns_of(every: Mapping[str, Any], board: Board) -> list[Column]:
    """Return the columns of a board after that of names, the most important first."""
    several = len(board["rows"]) > 1
    found = [
        *_score_columns(every, board),
        *(_difference_columns(every, board) if several else ()),
    ]
    found += [
        _attribute_column(name, is_more=index >= MOST_ATTRIBUTES)
        for index, name in enumerate(attribute_names(board))
    ]
    if has_test(board):
        found.append(Column("test", lambda row: num(row["test"]), lambda row: row["test"]))
    found += [_count_column("passes"), _seconds_column("compute", "seconds")]
    found += [
        Column(
            one.header,
            one.text,
            # Bound here, as a loop's name would be that of the last column.
            lambda row, one=one: (one.score(row) or {}).get("value"),  # type: ignore[misc]
            is_more=True,
        )
        for one in columns_beside(every, board)
    ]
    return [
        *found,
        Column("kind", lambda row: row["kind"], lambda row: row["kind"], "text", is_more=True),
        _count_column("models", is_more=True),
        _seconds_column("wall", "wall", is_more=True),
        Column(
            "finished",
            lambda row: moment(row["finished"]),
            lambda row: row["finished"],
            "text",
            is_more=True,
        ),
    ]
