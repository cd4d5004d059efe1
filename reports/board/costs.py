"""Cost against score: which runs no other beats at lower cost, and the figures of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from foldblend.errors import counted
from reports.board.text import LOWER, marked
from reports.figures.scatter import Point, scatter

__all__ = ["CostFigure", "cost_figures", "not_beaten"]

MOST_NAMED = 4


@dataclass(frozen=True, slots=True)
class CostFigure:
    """A figure of cost against score with the sentences around it."""

    title: str
    caption: str
    svg: Markup


def not_beaten(costs: Sequence[float], scores: Sequence[float]) -> list[bool]:
    """Return for each run whether no other has at least its score at less cost, or more at equal.

    Of runs that are equal in both, the first counts. Higher scores are better.

    Examples
    --------
    >>> not_beaten([1, 2, 3, 3], [0.5, 0.7, 0.6, 0.8])
    [True, True, False, True]
    """
    order = sorted(range(len(costs)), key=lambda index: (costs[index], -scores[index]))
    found = [False] * len(costs)
    best = -float("inf")
    for index in order:
        found[index] = scores[index] > best
        best = max(best, scores[index])
    return found


def _title(names: Sequence[str], of: str, less: str) -> str:
    # Where all scores are too high, no run is named.
    if not names:
        return f"Score and {of}"
    if len(names) > MOST_NAMED:
        return f"{len(names)} runs are not beaten with {less} {of}"
    *first, last = names
    together = f"{', '.join(first)} and {last}" if first else last
    return f"Not beaten with {less} {of}: {together}"


def _figure(
    every: Mapping[str, Any], board: Mapping[str, Any], *, key: str, of: str, less: str, xlabel: str
) -> CostFigure | None:
    """Return the figure of one cost, or None where fewer than two runs or costs are known."""
    known = [
        row
        for row in board["rows"]
        if row[key] is not None and row["headline"]["value"] is not None
    ]
    if len({row[key] for row in known}) < 2:
        return None
    sign = 1 if every["greater_is_better"] else -1
    fair = [row for row in known if not marked(row)]
    main = not_beaten([row[key] for row in fair], [sign * row["headline"]["value"] for row in fair])
    chosen = {row["path"] for row, is_main in zip(fair, main, strict=True) if is_main}
    points = [
        Point(
            row["name"],
            row[key],
            row["headline"]["value"],
            row["headline"]["low"],
            row["headline"]["high"],
            is_main=row["path"] in chosen,
            is_hollow=bool(marked(row)),
        )
        for row in known
    ]
    best_first = [row["name"] for row in known if row["path"] in chosen]
    notes = ["Whiskers: 95 % intervals; emphasised: runs that no other beats at lower cost."]
    if len(fair) < len(known):
        notes.append("Hollow: scores that are too high.")
    num_unknown = len(board["rows"]) - len(known)
    if num_unknown:
        notes.append(f"Left out, as their cost is not known: {counted(num_unknown, 'run')}.")
    better = "" if every["greater_is_better"] else f" ({LOWER})"
    return CostFigure(
        _title(best_first, of, less),
        " ".join(notes),
        scatter(
            points, xlabel=xlabel, ylabel=f"{every['title']}{better}", is_time=key == "seconds"
        ),
    )


def cost_figures(every: Mapping[str, Any], board: Mapping[str, Any]) -> list[CostFigure]:
    """Return the figures of compute and of passes against score, where they are known."""
    wanted = (
        {"key": "seconds", "of": "compute", "less": "less", "xlabel": "compute of all folds"},
        {
            "key": "passes",
            "of": "passes",
            "less": "fewer",
            "xlabel": "forward passes per test image",
        },
    )
    found = (_figure(every, board, **one) for one in wanted)
    return [one for one in found if one is not None]
