"""Splitters by name, each of which assigns a fold to every row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from foldblend.errors import UserError
from foldblend.words import plural
from folds.kfold import codes_of, stratified_group_folds

__all__ = ["SPLITTERS", "Splitter", "assign_folds", "rare_classes", "split_groups"]


@dataclass(frozen=True, slots=True)
class Splitter:
    """Columns on which a splitter runs the algorithm of `folds.kfold`."""

    columns: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    """(label, group, id) -> (classes to keep even, groups to keep whole), each of length N."""
    leaks: bool
    """True if the splitter can put one group into several folds."""


SPLITTERS = {
    "stratified-group": Splitter(lambda label, group, row: (label, group), leaks=False),
    "group": Splitter(lambda label, group, row: (np.zeros_like(label), group), leaks=False),
    "stratified": Splitter(lambda label, group, row: (label, row), leaks=True),
    "random": Splitter(lambda label, group, row: (np.zeros_like(label), row), leaks=True),
}


def assign_folds(
    label_N: np.ndarray,
    group_N: np.ndarray,
    *,
    num_folds: int,
    seed: int,
    repeat: int = 0,
    split: str = "stratified-group",
    id_N: np.ndarray | None = None,
    group_name: str = "group",
) -> np.ndarray:
    """Return the fold in which each row is held out.

    Parameters
    ----------
    label_N, group_N
        Class and group of each row.
    num_folds, seed, split
        Number of folds, seed of the folds, and the name of the splitter.
    repeat
        Number of the repeat; each repeat has different folds.
    id_N
        Unique id of each row, by default its position. With ids, splitters that ignore groups give
        a row the same fold in any order of rows.
    group_name
        What a group is, in the singular, for messages.

    Returns
    -------
    np.ndarray
        Fold 0..num_folds-1 of each row, length N.

    Raises
    ------
    UserError
        For fewer than two folds, no rows, or fewer groups than folds.

    Examples
    --------
    >>> import numpy as np
    >>> fold_N = assign_folds(np.array([0, 1] * 3), np.repeat([0, 1, 2], 2), num_folds=3, seed=0)
    >>> np.bincount(fold_N).tolist()
    [2, 2, 2]
    """
    if num_folds < 2:
        raise UserError(f"--folds {num_folds}: cross-validation needs at least 2")
    if not len(label_N):
        raise UserError("no images to split; check --data or --csv")
    num_groups = len(set(group_N.tolist()))
    if num_groups < 2:
        raise UserError(
            f"all images are of one {group_name}, so none can be held out; check --group-col"
        )
    if num_groups < num_folds:
        raise UserError(
            f"--folds {num_folds}: the data have only {num_groups} {plural(group_name)}; pass"
            f" --folds {num_groups} or fewer"
        )
    even_N, whole_N = SPLITTERS[split].columns(
        label_N, group_N, np.arange(len(label_N)) if id_N is None else id_N
    )
    # Repeat 0 has the folds of a run without repeats.
    seeds: Any = seed if repeat == 0 else (seed, repeat)
    fold_N = stratified_group_folds(even_N, whole_N, num_folds=num_folds, seed=seeds)
    # A leak would make every score too high, so this is checked on each split.
    assert SPLITTERS[split].leaks or split_groups(fold_N, group_N) == []
    return fold_N


def split_groups(fold_N: np.ndarray, group_N: np.ndarray) -> list[str]:
    """Return the names of groups that have rows in more than one fold, sorted."""
    code_N = codes_of(group_N)
    low = np.full(code_N.max() + 1, np.iinfo(np.int64).max)
    high = np.full(code_N.max() + 1, -1)
    np.minimum.at(low, code_N, fold_N)
    np.maximum.at(high, code_N, fold_N)
    leaking = np.flatnonzero(low != high)
    return sorted({str(group_N[np.argmax(code_N == code)]) for code in leaking})


def rare_classes(label_N: np.ndarray, group_N: np.ndarray, *, num_folds: int) -> dict[int, int]:
    """Return {class: number of groups} of the classes with fewer groups than folds."""
    counts = {int(label): len(np.unique(group_N[label_N == label])) for label in np.unique(label_N)}
    return {label: count for label, count in counts.items() if count < num_folds}
