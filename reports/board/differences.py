"""The order of runs on a board, and their paired differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foldblend.scores.score import Scored

__all__ = ["all_differences", "difference", "rank"]


def rank(scored: Sequence[Scored], unmarked: Sequence[bool]) -> list[int]:
    """Return the indices of the runs, best first; marked runs come after all others.

    A run is marked if its score is too high, see `reports.board.text.marked`. The first run is the
    one that others are compared with.
    """

    def key(index: int) -> tuple[bool, bool, float]:
        value = scored[index].score.value
        return not unmarked[index], bool(np.isnan(value)), -value

    return sorted(range(len(scored)), key=key)


def difference(one: Scored, other: Scored) -> dict[str, float | None]:
    """Return one score minus the other, with the paired interval."""
    return one.score.minus(other.score).interval().as_dict()


def all_differences(scored: Sequence[Scored]) -> list[list[dict[str, float | None]]]:
    """Return, for each run, its score minus the score of each run after it."""
    return [
        [difference(one, other) for other in scored[index + 1 :]]
        for index, one in enumerate(scored)
    ]
