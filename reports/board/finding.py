"""Say in one sentence what a board shows, computed from its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.board.text import marked
from reports.text import num, span

__all__ = ["contains_zero", "finding"]


def contains_zero(difference: Mapping[str, float | None]) -> bool | None:
    """Return whether an interval contains 0, or None if it has no ends."""
    low = difference["low"]
    high = difference["high"]
    return None if low is None or high is None else bool(low <= 0 <= high)


def _others(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return how many of the other runs are clearly worse than the best."""
    known = [contains_zero(row["difference"]) for row in rows]
    if None in known:
        return ""
    num_close = sum(map(bool, known))
    if len(rows) == 1:
        return (
            f", not clearly better than {rows[0]['name']}"
            if num_close
            else f", clearly better than {rows[0]['name']}"
        )
    if num_close == 0:
        return f", clearly better than each of the {len(rows)} others"
    if num_close == len(rows):
        return f", not clearly better than any of the {len(rows)} others"
    return f", clearly better than {len(rows) - num_close} of the {len(rows)} others"


def finding(every: Mapping[str, Any], board: Mapping[str, Any]) -> str:
    """Return which run is best, by how much, and how many others may be as good.

    Another run may be as good if the interval of its paired difference to the best contains 0.
    Runs whose score is too high are not counted.
    """
    rows = board["rows"]
    best = rows[0]
    score = f"{every['title']} {num(best['headline']['value'])} {span(best['headline'])}"
    if len(rows) == 1:
        return f"{best['name']}: {score}"
    if marked(best):
        return f"All scores here are too high; the best is {best['name']}: {score}"
    fair = [row for row in rows[1:] if not marked(row)]
    if not fair:
        return f"{best['name']} is the only run whose score is not too high: {score}"
    return f"{best['name']} scores best: {score}{_others(fair)}"
