"""The leaderboard as a page: sortable tables, cost and score, and any two runs compared."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from foldblend.errors import counted
from foldblend.runs.run import Run
from reports.board.columns import columns_of, score_scale
from reports.board.costs import cost_figures
from reports.board.finding import finding
from reports.board.pictures import NO_IMAGES, pictures_data, thumbnails_of
from reports.board.running_page import running_rows
from reports.board.settings import readable, setting
from reports.board.text import about_board, marked
from reports.html import json_data, render_page
from reports.strips import Scale, scale_over
from reports.text import groups_of, printable

__all__ = ["board_page"]

# Beyond these a page has no predictions. Two million of them take some 3 MB.
MOST_RUNS = 50
MOST_PREDICTIONS = 2_000_000
# Of all boards of a page together.
THUMBNAIL_BYTES = 1_000_000
DECIMALS = 6

Board = Mapping[str, Any]


def _link(run: Run | None, folder: Path | None) -> str | None:
    """Return the address of a run's page from the folder of the leaderboard, if both are known."""
    if run is None or folder is None:
        return None
    file = run.path / "report.html"
    try:
        if not file.is_file():
            return None
        # On Windows, folders on two drives have no relative path.
        path = os.path.relpath(file.resolve(), folder.resolve())
    except (OSError, ValueError):
        return None
    return quote(os.fsencode(path.replace(os.sep, "/")))


def _table(
    every: Mapping[str, Any], board: Board, run_of: Mapping[str, Run], folder: Path | None
) -> dict[str, Any]:
    columns = columns_of(every, board)
    groups = groups_of(board)
    return {
        "title": board["data"],
        "finding": finding(every, board),
        "about": about_board(every, board),
        "columns": columns,
        "more": [one.title for one in columns if one.is_more],
        "rows": [
            {
                "name": row["name"],
                "link": _link(run_of.get(row["path"]), folder),
                "kind": row["kind"],
                "marks": marked(row, groups),
                "cells": [one.cell(row) for one in columns],
                "about": row["about"],
                "notes": row["notes"],
            }
            for row in board["rows"]
        ],
        "costs": cost_figures(every, board),
    }


def _rounded(interval: Mapping[str, float | None] | None) -> list[float | None] | None:
    """Return value, low and high in few digits, as a page has up to 1,225 of them."""
    if interval is None:
        return None
    ends = (interval[end] for end in ("value", "low", "high"))
    return [None if one is None else round(one, DECIMALS) for one in ends]


def _scale_data(scale: Scale) -> dict[str, Any]:
    return {"low": scale.low, "high": scale.high, "ticks": scale.ticks, "is_cut": scale.is_cut}


def _pair_scale(board: Board) -> Scale:
    """Return a scale with 0 in its middle that suits the difference of any two runs."""
    ones = [one for several in board["differences"] or [] for one in several]
    ones += [row["difference"] for row in board["rows"] if row["difference"] is not None]
    ends = [abs(one[end]) for one in ones for end in ("low", "high", "value") if one[end]]
    most = max(ends, default=1.0)
    return scale_over([-most, most])


def _data(
    every: Mapping[str, Any], board: Board, pictures: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the data of a board for the script of the page."""
    return {
        "best": board["best"],
        "greater_is_better": every["greater_is_better"],
        "runs": [
            {name: row[name] for name in ("name", "kind", "about")}
            | {
                "is_marked": bool(marked(row)),
                "headline": _rounded(row["headline"]),
                "difference": _rounded(row["difference"]),
                "settings": {name: setting(row, name) for name in row["settings"]},
            }
            for row in board["rows"]
        ],
        "equal_settings": {
            kind: {name: readable(value) for name, value in settings.items()}
            for kind, settings in board["equal_settings"].items()
        },
        "differences": board["differences"]
        and [[_rounded(one) for one in several] for several in board["differences"]],
        "scales": {
            "score": _scale_data(score_scale(board)),
            "difference": _scale_data(_pair_scale(board)),
        },
        "pictures": pictures,
    }


def _pictures(board: Board, run_of: Mapping[str, Run], most_bytes: int) -> dict[str, Any]:
    """Return the images of a board with thumbnails, as far as its runs are given."""
    runs = [run_of[row["path"]] for row in board["rows"] if row["path"] in run_of]
    images = thumbnails_of(board, runs, most_bytes=most_bytes) if runs else NO_IMAGES
    return pictures_data(board["pictures"], images)


def _heading(tables: Sequence[Mapping[str, Any]]) -> str:
    """Return the finding of the only board, or the number of boards."""
    if len(tables) == 1:
        return str(tables[0]["finding"])
    return f"Leaderboard of {counted(len(tables), 'data set')}" if tables else "Leaderboard"


def board_page(
    every: Mapping[str, Any], *, runs: Sequence[Run] = (), folder: Path | None = None
) -> str:
    """Return the page of `reports.board.leaderboard.leaderboard`'s boards as HTML.

    Beyond 50 runs or two million predictions the page does not list the images that two runs
    predict differently, and has a note on it.

    Parameters
    ----------
    every
        Boards.
    runs
        The runs of the boards, from which thumbnails are read and to whose pages names are links.
    folder
        The folder that the page is written to, which links start from. Default: no links.
    """
    boards = every["boards"]
    num_runs = sum(len(board["rows"]) for board in boards)
    num_predictions = sum(len(board["rows"]) * board["num_images"] for board in boards)
    with_predictions = num_runs <= MOST_RUNS and num_predictions <= MOST_PREDICTIONS
    predictions = f"{num_predictions:,} predictions of {num_runs:,} runs"
    run_of = {printable(run.path): run for run in runs}
    most_bytes = THUMBNAIL_BYTES // max(len(boards), 1)
    tables = [_table(every, board, run_of, folder) for board in boards]
    data = [
        _data(every, board, _pictures(board, run_of, most_bytes) if with_predictions else None)
        for board in boards
    ]
    return render_page(
        "leaderboard.html",
        scripts=("glossary.js", "leaderboard.js"),
        title="Leaderboard",
        heading=_heading(tables),
        boards=tables,
        running=running_rows(every.get("running", ())),
        skipped=every["skipped"],
        left_out=None if with_predictions else predictions,
        data=json_data(data),
    )
