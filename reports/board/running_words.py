"""Unfinished runs in words: how far they are, their score so far and the time left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foldblend.progress import duration
from reports.board.running import about_score
from reports.board.text import marked
from reports.text import WIDTH, folded, groups_of, num, span, table

__all__ = ["fold_title", "folds_words", "left_words", "now_words", "running_lines", "score_words"]

# Folds in training that are named; more are counted.
MOST_NAMED = 3

Row = Mapping[str, Any]


def fold_title(row: Row, fold: Mapping[str, Any]) -> str:
    """Return the name of a fold, with its repeat where there are several."""
    repeat = f"repeat {fold['repeat']} " if row["num_repeats"] > 1 else ""
    return f"{repeat}fold {fold['fold']}"


def folds_words(row: Row) -> str:
    """Return how many folds are done, such as "2 of 5"."""
    return f"{row['folds_done']} of {row['num_folds'] * row['num_repeats']}"


def now_words(row: Row) -> str:
    """Return what is in training, such as "fold 2: epoch 3 of 10"."""
    begun = [one for one in row["folds"] if one["state"] == "begun"]
    is_running = row["state"] == "running"
    if row["folds_done"] == row["num_folds"] * row["num_repeats"]:
        return "writing the results" if is_running else "all folds done, results not written"
    if row["frozen"]:
        return "features and linear heads" if is_running else "-"
    if not begun:
        return "preparing" if is_running else "between folds"
    if len(begun) > MOST_NAMED:
        return f"{len(begun)} folds in training" if is_running else f"{len(begun)} folds begun"
    return "; ".join(f"{fold_title(row, one)}: {_epoch(row, one)}" for one in begun)


def _epoch(row: Row, fold: Mapping[str, Any]) -> str:
    of = "" if row["epochs"] is None else f" of {row['epochs']:,}"
    if row["state"] != "running":
        return f"{fold['epochs']:,}{of} epochs" if fold["epochs"] else "no epoch yet"
    if row["epochs"] is not None and fold["epochs"] >= row["epochs"]:
        return "last predictions"
    return f"epoch {fold['epochs'] + 1:,}{of}"


def left_words(row: Row) -> str:
    """Return the time left, such as "about 12 min"."""
    left = row["seconds_left"]
    if left is None:
        return "not known yet" if row["state"] == "running" else "-"
    about = f"about {duration(left)}" if left >= 1 else "any moment"
    return about if row["state"] == "running" else f"{about} once it goes on"


def score_words(row: Row) -> str:
    """Return the score so far with its interval, "-" if no fold is done."""
    score = row["score"]
    return "-" if score is None else f"{num(score['value'])} {span(score)}"


def running_lines(running: Sequence[Row], *, width: int = WIDTH) -> list[str]:
    """Return unfinished runs as lines of text; none if there is no such run."""
    if not running:
        return []
    cells = [
        [
            " ".join([row["name"], *marked(row, groups_of(row))]),
            row["state"],
            folds_words(row),
            now_words(row),
            score_words(row),
            left_words(row),
        ]
        for row in running
    ]
    header = ["run", "state", "folds done", "now", "score so far", "time left"]
    lines = ["Unfinished runs", "=" * min(WIDTH, width)]
    lines += [*table(header, cells, name_width=28, width=width), ""]
    for row in running:
        if row["score"] is not None:
            about = f"{row['name']}: the score is {about_score(row)}, and not ranked with"
            lines += folded(f"{about} finished runs", width=width)
        if row["resume"] is not None:
            lines += folded(f"{row['name']}: to go on, {row['resume']}", width=width)
        for problem in row["problems"]:
            lines += folded(f"{row['name']}: {problem}", width=width)
    return [*lines, ""]
