"""Images that two runs predict differently."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["changed_images", "rows_to_show"]


def changed_images(
    label_N: np.ndarray, first_N: np.ndarray, second_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows right only in the first, only in the second, and wrong in two ways.

    Examples
    --------
    >>> label, first, second = np.array([[0, 0, 0, 0], [0, 1, 1, 1], [1, 0, 2, 1]])
    >>> [rows.tolist() for rows in changed_images(label, first, second)]
    [[0], [1], [2]]
    """
    right_first_N = first_N == label_N
    right_second_N = second_N == label_N
    both_wrong_N = ~right_first_N & ~right_second_N & (first_N != second_N)
    return (
        np.flatnonzero(right_first_N & ~right_second_N),
        np.flatnonzero(right_second_N & ~right_first_N),
        np.flatnonzero(both_wrong_N),
    )


def _in_turn(lists: Sequence[np.ndarray]) -> Iterable[int]:
    """Yield the first value of each list, then the second ones, without None."""
    for values in itertools.zip_longest(*lists):
        yield from (int(one) for one in values if one is not None)


def rows_to_show(
    label_N: np.ndarray, predicted_MN: Sequence[np.ndarray], *, num_top: int, num_first: int
) -> list[int]:
    """Return the rows that change between the first runs, in the order they get thumbnails.

    Parameters
    ----------
    label_N
        True classes.
    predicted_MN
        Predicted classes of each run, best first.
    num_top
        Number of first runs of which all pairs are compared.
    num_first
        Number of rows of each kind of change between the first two runs that come before those of
        other pairs, because a page starts with these two.

    Examples
    --------
    >>> one, other, third = np.array([[0, 0, 0], [1, 1, 0], [0, 0, 1]])
    >>> rows_to_show(one, [one, other, third], num_top=3, num_first=1)
    [0, 2, 1]
    """
    changes = [
        part
        for one, other in itertools.combinations(predicted_MN[:num_top], 2)
        for part in changed_images(label_N, one, other)
    ]
    if not changes:
        return []
    first = _in_turn([part[:num_first] for part in changes[:3]])
    # An image that changes between several pairs is wanted once.
    return list(dict.fromkeys([*first, *_in_turn(changes)]))
