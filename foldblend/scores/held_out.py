"""Splits into whole groups for nested cross-validation on out-of-fold rows.

Weights and choices that are fitted on out-of-fold rows must be scored on held-out groups.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from foldblend.scores.rows import Rows

__all__ = ["group_parts", "outer_parts", "random_parts"]


def group_parts(
    label_N: np.ndarray, group_N: np.ndarray, *, num_parts: int, seed: int = 0
) -> np.ndarray:
    """Assign whole groups to parts of similar label distribution.

    Groups are sorted by their mean label, with ties in random order, and dealt to the parts in
    turn. The result does not depend on the order of the rows.

    Parameters
    ----------
    label_N
        Class of each row.
    group_N
        Group of each row.
    num_parts
        Number of parts.
    seed
        Seed of the order of ties.

    Returns
    -------
    np.ndarray
        Part of each row, N, from 0 to num_parts - 1.

    Examples
    --------
    >>> group_parts(np.array([0, 0, 1, 1]), np.array([5, 5, 7, 7]), num_parts=2).tolist()
    [0, 0, 1, 1]
    """
    names, code_N = np.unique(group_N, return_inverse=True)
    mean_G = np.bincount(code_N, label_N) / np.bincount(code_N)
    order_G = np.lexsort((np.random.default_rng(seed).permutation(len(names)), mean_G))
    part_G = np.empty(len(names), np.int64)
    part_G[order_G] = np.arange(len(names)) % num_parts
    return part_G[code_N]


def random_parts(
    label_N: np.ndarray, group_N: np.ndarray, *, num_parts: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the rows to fit on and the rows to hold out for each of several parts, as masks.

    Groups are dealt at random and not by label, because new data do not have the same number of
    rows of each class. There are no parts if the rows to fit on have a single class in one.

    Parameters
    ----------
    label_N, group_N
        Class and group of each row.
    num_parts
        Number of parts; with fewer groups there are as many parts as groups.

    Examples
    --------
    >>> parts = random_parts(np.array([0, 1, 0, 1]), np.array([5, 5, 7, 7]), num_parts=2)
    >>> [(fitted_N.tolist(), held_N.tolist()) for fitted_N, held_N in parts[:1]]
    [([False, False, True, True], [True, True, False, False])]
    """
    part_N = group_parts(np.zeros(len(label_N)), group_N, num_parts=num_parts)
    parts = [(part_N != part, part_N == part) for part in np.unique(part_N)]
    has_one_class = any(len(np.unique(label_N[fitted_N])) < 2 for fitted_N, _ in parts)
    return [] if has_one_class else parts


def outer_parts(of: Rows) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Yield the folds of a nested cross-validation: repeat, fold, held-out rows, other rows.

    Both sets of rows are row numbers of the same repeat and have no group in common. If the folds
    of the repeat split a group, the same number of `group_parts` is used instead of them.

    Raises
    ------
    ValueError
        For a repeat with a single fold.
    """
    for repeat in np.unique(of.repeat_N):
        rows = np.flatnonzero(of.repeat_N == repeat)
        group = of.group_N[rows]
        fold_of = of.fold_N[rows]
        names, code = np.unique(group, return_inverse=True)
        places = np.unique(code * (fold_of.max() + 1) + fold_of)
        # More pairs of group and fold than groups: some group is in several folds.
        if len(places) > len(names):
            fold_of = group_parts(of.label_N[rows], group, num_parts=len(np.unique(fold_of)))
        folds = np.unique(fold_of)
        if len(folds) < 2:
            raise ValueError(f"repeat {repeat} has only one fold, so there are no rows to fit on")
        for fold in folds:
            yield int(repeat), int(fold), rows[fold_of == fold], rows[fold_of != fold]
