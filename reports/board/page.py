"""The leaderboard as a page: sortable tables, and the comparison of any two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foldblend.progress import duration
from reports.board.text import (
    Beside,
    about_board,
    attribute_names,
    columns_beside,
    has_test,
    marked,
    moment,
    setting,
)
from reports.html import json_data, render_page
from reports.text import groups_of, num, signed, span

__all__ = ["board_page"]

# Beyond these a page has no predictions. Two million of them take some 5 MB.
MOST_RUNS = 50
MOST_PREDICTIONS = 2_000_000

Board = Mapping[str, Any]


def _cell(text: str, value: object = None) -> dict[str, Any]:
    """Return a cell and the value it is sorted by; None is sorted last."""
    return {"text": text, "value": "" if value is None else str(value)}


def _row(
    row: Mapping[str, Any], board: Board, attributes: Sequence[str], beside: Sequence[Beside]
) -> dict[str, Any]:
    headline = row["headline"]
    difference = row["difference"]
    scores = row["attributes"]
    cells = [
        _cell(num(headline["value"]), headline["value"]),
        _cell(span(headline), headline["low"]),
        *[
            _cell(f"{scores[name]:.3f}" if name in scores else "-", scores.get(name))
            for name in attributes
        ],
        # The best run is sorted as a difference of 0.
        _cell("best", 0)
        if difference is None
        else _cell(signed(difference) or "-", difference["value"]),
        *([_cell(num(row["test"]), row["test"])] if has_test(board) else []),
        *[_cell(one.text(row), (one.score(row) or {}).get("value")) for one in beside],
        _cell(row["kind"], row["kind"]),
        *[
            _cell("-" if row[name] is None else f"{row[name]:,}", row[name])
            for name in ("models", "passes")
        ],
        *[_cell(duration(row[name]), row[name]) for name in ("seconds", "wall")],
        _cell(moment(row["finished"]), row["finished"]),
    ]
    return {
        "name": row["name"],
        "marks": marked(row, groups_of(board)),
        "cells": cells,
        "about": row["about"],
        "notes": row["notes"],
    }


def _table(every: Mapping[str, Any], board: Board) -> dict[str, Any]:
    attributes = attribute_names(board)
    beside = columns_beside(every, board)
    numbers = [every["title"], "95 % interval", *attributes, "difference to best"]
    numbers += ["test"] if has_test(board) else []
    numbers += [one.header for one in beside]
    cost = ["models", "passes", "compute", "wall"]
    columns = [("run", "text"), *((name, "number") for name in numbers), ("kind", "text")]
    columns += [*((name, "number") for name in cost), ("finished", "text")]
    return {
        "title": board["data"],
        "about": about_board(every, board),
        "columns": [{"title": title, "sort": sort} for title, sort in columns],
        "rows": [_row(row, board, attributes, beside) for row in board["rows"]],
    }


def _data(board: Board, *, with_predictions: bool) -> dict[str, Any]:
    """Return the data of a board for the script of the page."""
    return {
        "best": board["best"],
        "runs": [
            {name: row[name] for name in ("name", "kind", "about", "difference")}
            | {"settings": {name: setting(row, name) for name in row["settings"]}}
            for row in board["rows"]
        ],
        "differences": board["differences"],
        "pictures": board["pictures"] if with_predictions else None,
    }


def board_page(every: Mapping[str, Any]) -> str:
    """Return the page of `reports.board.leaderboard.leaderboard`'s boards as HTML.

    Beyond 50 runs or two million predictions the page does not list the images that two runs
    predict differently, and has a note on it.
    """
    boards = every["boards"]
    num_runs = sum(len(board["rows"]) for board in boards)
    num_predictions = sum(len(board["rows"]) * board["num_images"] for board in boards)
    with_predictions = num_runs <= MOST_RUNS and num_predictions <= MOST_PREDICTIONS
    predictions = f"{num_predictions:,} predictions of {num_runs:,} runs"
    return render_page(
        "leaderboard.html",
        scripts=("leaderboard.js",),
        title="Leaderboard",
        boards=[_table(every, board) for board in boards],
        skipped=every["skipped"],
        left_out=None if with_predictions else predictions,
        data=json_data([_data(board, with_predictions=with_predictions) for board in boards]),
    )
