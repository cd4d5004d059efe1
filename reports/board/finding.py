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


def is_equal(difference: Mapping[str, float | None]) -> bool:
    """Return whether a difference is exactly 0, with an interval of no width."""
    return all(difference[end] == 0 for end in ("value", "low", "high"))


def _of_several(num: int, num_all: int, noun: str) -> str:
    """Return a number of the other runs in words: each, or how many."""
    return f"each of the {num_all} {noun}" if num == num_all else f"{num} of the {num_all} {noun}"


def _others(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return how many of the other runs are clearly worse than the best, and how many equal it."""
    known = [contains_zero(row["difference"]) for row in rows]
    if None in known:
        return ""
    num = len(rows)
    num_equal = sum(is_equal(row["difference"]) for row in rows)
    num_clear = known.count(False)
    if num == 1:
        name = rows[0]["name"]
        if num_equal:
            return f", the same as {name}"
        return f", {'not ' if not num_clear else ''}clearly better than {name}"
    if num_equal == num:
        return f", the same as each of the {num} others"
    same = f", the same as {num_equal} of the {num} others" if num_equal else ""
    if num_clear:
        return f"{same}, clearly better than {_of_several(num_clear, num, 'others')}"
    return f"{same}, not clearly better than any of the {num} others"


def finding(every: Mapping[str, Any], board: Mapping[str, Any]) -> str:
    """Return which run is best, by how much, and how many others may be as good.

    Another run may be as good if the interval of its paired difference to the best contains 0.
    Runs whose score is too high are not counted, and the sentence says so.
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
    among = ""
    if len(fair) + 1 < len(rows):
        among = f" of the {len(fair) + 1} runs whose score is not too high"
    return f"{best['name']} scores best{among}: {score}{_others(fair)}"
