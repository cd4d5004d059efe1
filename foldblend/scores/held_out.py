"""Parts of people, for what is fitted on out-of-fold rows and must be scored on people who had no
say in it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from foldblend.scores.rows import Rows

__all__ = ["group_parts", "outer_parts"]


def group_parts(
    label_N: np.ndarray, group_N: np.ndarray, *, num_parts: int, seed: int = 0
) -> np.ndarray:
    """Return a part 0..num_parts-1 for each row: groups whole, those of like labels dealt in turn.

    The same for any order of rows.
    """
    names, code_N = np.unique(group_N, return_inverse=True)
    mean_G = np.bincount(code_N, label_N) / np.bincount(code_N)
    order_G = np.lexsort((np.random.default_rng(seed).permutation(len(names)), mean_G))
    part_G = np.empty(len(names), np.int64)
    part_G[order_G] = np.arange(len(names)) % num_parts
    return part_G[code_N]


def outer_parts(of: Rows) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Yield (repeat, fold, its rows, the repeat's rows of other people), rows by number.

    Folds that tear groups apart cannot keep people away from what is fitted on them: parts of whole
    groups, as many, stand in for them. Raises ValueError for a repeat with a single fold.
    """
    for repeat in np.unique(of.repeat_N):
        rows = np.flatnonzero(of.repeat_N == repeat)
        group_n = of.group_N[rows]
        fold_n = of.fold_N[rows]
        places = {
            (group, fold) for group, fold in zip(group_n.tolist(), fold_n.tolist(), strict=True)
        }
        if len(places) > len(np.unique(group_n)):
            fold_n = group_parts(of.label_N[rows], group_n, num_parts=len(np.unique(fold_n)))
        folds = np.unique(fold_n)
        if len(folds) < 2:
            raise ValueError(f"repeat {repeat} has one fold only: nobody else's rows to fit on")
        for fold in folds:
            yield int(repeat), int(fold), rows[fold_n == fold], rows[fold_n != fold]
