"""Unfinished runs in HTML: their rows on the leaderboard, and a page for each with its curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import escape

from foldblend.errors import counted
from foldblend.progress import duration
from foldblend.scores.metrics import TITLES
from reports import figures
from reports.board.running import about_score
from reports.board.running_words import (
    fold_title,
    folds_words,
    left_words,
    now_words,
    score_words,
)
from reports.board.text import marked, moment
from reports.html import render_page
from reports.text import groups_of, num

__all__ = ["ended_page", "reloading", "running_page", "running_rows", "with_alarm"]

# Curves in a figure; with more their colours could not be told apart.
MOST_LINES = 7
# Columns of log.csv that are losses, and their names in their figure.
LOSSES = {"train_loss": "training", "val_log_loss": "held out"}
# Columns of log.csv that are scores of epochs, by how their names start, and how readers call them.
SCORES = {"val": "Held-out", "inner": "Inner", "best": "Held-out"}
STATES = {
    "done": "done",
    "begun": "in training",
    "waiting": "waiting",
    "damaged": "damaged",
}

Row = Mapping[str, Any]


def _shown(row: Row) -> dict[str, Any]:
    """Return the texts of a run that its row and its page share."""
    num_folds = row["num_folds"] * row["num_repeats"]
    return {
        **{name: row[name] for name in ("name", "state", "resume", "problems")},
        "page": row.get("page"),
        "marks": marked(row, groups_of(row)),
        "share": f"{row['folds_done'] / num_folds:.3f}",
        "folds": folds_words(row),
        "now": now_words(row),
        "score": score_words(row),
        "about_score": None if row["score"] is None else about_score(row),
        "left": left_words(row),
    }


def running_rows(running: Sequence[Row]) -> dict[str, Any]:
    """Return the section of unfinished runs for the template running_rows.html."""
    is_any = any(row["state"] == "running" for row in running)
    return {
        "title": "Running" if is_any else "Stopped",
        "as_of": _second(running[0]["as_of"]) if running else "",
        "rows": [_shown(row) for row in running],
    }


def _second(time: str) -> str:
    """Return an ISO time up to the second."""
    return time[:19].replace("T", " ")


def running_page(row: Row, *, back: str) -> str:
    """Return the page of an unfinished run as HTML; `back` is the address of the leaderboard."""
    is_running = row["state"] == "running"
    begun = STATES["begun"] if is_running else "begun"
    shown = {
        **_shown(row),
        "ended": None,
        "data": row["data"],
        "as_of": _second(row["as_of"]),
        "started": moment(row["started"]) if row["started"] else None,
        "spent": duration(row["seconds"]),
        "title": row["title"],
        "notes": row["notes"],
        "settings": row["settings"],
        "path": row["path"],
        "has_epochs": not row["frozen"],
        "all_folds": [
            {
                "title": fold_title(row, one),
                "state": begun if one["state"] == "begun" else STATES[one["state"]],
                "epochs": one["epochs"] or "-",
                "score": "-" if one["score"] is None else num(one["score"]),
                "seconds": duration(one["seconds"]),
            }
            for one in row["folds"]
        ],
    }
    return render_page(
        "running.html",
        title=f"{row['name']} ({row['state']})",
        row=shown,
        back=back,
        report=None,
        figures=_figures(row),
    )


def ended_page(name: str, *, ended: str, back: str, report: str | None = None) -> str:
    """Return the page in place of a run's page that is not running any more or cannot be drawn.

    Parameters
    ----------
    name
        Name of the run.
    ended
        What it is now, such as "finished".
    back, report
        Addresses of the leaderboard and of the report of the run, if it has one.
    """
    row = {"name": name, "ended": ended}
    return render_page(
        "running.html", title=f"{name} ({ended})", row=row, back=back, report=report, figures=[]
    )


def reloading(page: str, seconds: float) -> str:
    """Return a page that loads itself again after some seconds, without a script.

    >>> reloading('<meta charset="utf-8">', 10)
    '<meta charset="utf-8">\\n<meta http-equiv="refresh" content="10">'
    """
    mark = '<meta charset="utf-8">'
    assert mark in page
    # Browsers take whole seconds only.
    refresh = f'{mark}\n<meta http-equiv="refresh" content="{max(1, round(seconds))}">'
    return page.replace(mark, refresh, 1)


def with_alarm(page: str, problem: str | None) -> str:
    """Return a page that says below its title why it is of an earlier time, if there is a problem.

    >>> "not up to date: no such run" in with_alarm("<h1>half</h1>", "no such run")
    True
    """
    if problem is None:
        return page
    mark = "</h1>"
    assert mark in page
    words = f"This page is not up to date: {escape(problem)}"
    return page.replace(mark, f'{mark}\n<p class="alarm" role="status">{words}</p>', 1)


def _figures(row: Row) -> list[dict[str, Any]]:
    """Return the curves of the folds: of the losses, and of each score of the epochs."""
    columns = dict.fromkeys(name for one in row["curves"] for name in one)
    losses = [name for name in LOSSES if name in columns]
    titles = {name: _title(name) for name in columns if name not in LOSSES}
    return [
        *([_losses_figure(row, losses)] if losses else []),
        *(_score_figure(row, name, title) for name, title in titles.items() if title is not None),
    ]


def _losses_figure(row: Row, columns: Sequence[str]) -> dict[str, Any]:
    """Return training and held-out loss in one figure; early versions logged training loss only."""
    curves = {fold_title(row, one): one for one in row["curves"]}
    epochs = _epochs(curves)
    values_of = {LOSSES[name]: _values(curves, name, epochs) for name in columns}
    series = {name: [*folds.values()] for name, folds in values_of.items()}
    last = ", ".join(f"{name}{_last(folds)}" for name, folds in values_of.items())
    return {
        "title": f"Loss, {last}",
        "about": f"Means of the {counted(len(curves), 'fold')} that have epochs, in bands from"
        " lowest to highest; the title has the last values.",
        "svg": figures.bands(_numbers(epochs), series, xlabel="epoch", ylabel="loss"),
    }


def _score_figure(row: Row, column: str, title: str) -> dict[str, Any]:
    """Return the curves of a score, one for each fold."""
    curves = _curves(row)
    epochs = _epochs(curves)
    values_of = _values(curves, column, epochs)
    num = row["num_folds"] * row["num_repeats"]
    is_part = len(curves) < len(row["curves"])
    left_out = f", for {len(curves)} of {num} folds, in training first" if is_part else ""
    return {
        "title": f"{title}{_last(values_of)}",
        "about": f"After each epoch{left_out}; the title has the last values.",
        "svg": figures.lines(_numbers(epochs), values_of, xlabel="epoch", ylabel=title),
    }


def _epochs(curves: Mapping[str, Mapping[str, Any]]) -> list[float]:
    """Return the epochs that any curve has."""
    return sorted({epoch for one in curves.values() for epoch in one["epoch"]})


def _numbers(epochs: Sequence[float]) -> list[float]:
    """Return epochs as readers count them, from 1."""
    return [epoch + 1 for epoch in epochs]


def _values(
    curves: Mapping[str, Mapping[str, Any]], column: str, epochs: Sequence[float]
) -> dict[str, list[float | None]]:
    """Return a column of the curves that have it, at the same epochs for all."""
    return {
        name: _at(epochs, one["epoch"], one[column])
        for name, one in curves.items()
        if column in one
    }


def _curves(row: Row) -> dict[str, Mapping[str, Any]]:
    """Return the curves that are drawn, by their fold: those in training first, then others."""
    is_begun = {(one["repeat"], one["fold"]): one["state"] == "begun" for one in row["folds"]}
    begun_first = sorted(row["curves"], key=lambda one: not is_begun[one["repeat"], one["fold"]])
    chosen = sorted(begun_first[:MOST_LINES], key=lambda one: (one["repeat"], one["fold"]))
    return {fold_title(row, one): one for one in chosen}


def _at(
    epochs: Sequence[float], own: Sequence[float], values: Sequence[float | None]
) -> list[float | None]:
    """Return the values of a curve at the epochs of all curves.

    Long curves have fewer epochs; those in between lie on the line that is drawn anyway.
    """
    known = sorted(dict(zip(own, values, strict=True)).items())
    at, height = (np.array(one, dtype=float) for one in zip(*known, strict=True))
    found = np.interp(epochs, at, height, left=np.nan, right=np.nan)
    return [float(one) if np.isfinite(one) else None for one in found]


def _last(values_of: Mapping[str, Sequence[float | None]]) -> str:
    """Return the last values of curves, such as ": 0.512 to 0.6", for a title."""
    known = [[one for one in values if one is not None] for values in values_of.values()]
    last = [values[-1] for values in known if values]
    if not last:
        return ""
    low = f"{min(last):.3g}"
    high = f"{max(last):.3g}"
    return f": {low}" if low == high else f": {low} to {high}"


def _title(column: str) -> str | None:
    """Return how readers call a score of log.csv, None if it is not drawn."""
    kind, _, metric = column.partition("_")
    if kind not in SCORES or metric not in TITLES:
        return None
    return f"{SCORES[kind]} {TITLES[metric]}"
