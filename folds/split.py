"""Who is held out when: a fold number for every row."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from folds.errors import UserError

__all__ = ["SPLITTERS", "Splitter", "assign_folds", "rare_classes", "split_groups"]


def _folds_of(splitter: Any, label_N: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    fold_N = np.full(len(label_N), -1)
    with warnings.catch_warnings():
        # Rare classes are reported once, in terms of people, by assign_folds' caller.
        warnings.filterwarnings("ignore", message="The least populated class")
        warnings.filterwarnings("ignore", message="The groups parameter is ignored")
        for fold, (_, held_out) in enumerate(splitter.split(label_N, label_N, group_N)):
            fold_N[held_out] = fold
    return fold_N


def _stratified_group(label_N: np.ndarray, group_N: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    from sklearn.model_selection import StratifiedGroupKFold  # two seconds: not for --help

    return _folds_of(StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed), label_N, group_N)


def _stratified(label_N: np.ndarray, group_N: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    from sklearn.model_selection import StratifiedKFold

    return _folds_of(StratifiedKFold(num_folds, shuffle=True, random_state=seed), label_N, group_N)


@dataclass(frozen=True, slots=True)
class Splitter:
    """A way to split, and whether it lets a group into several folds."""

    assign: Callable[[np.ndarray, np.ndarray, int, int], np.ndarray]
    leaks: bool


SPLITTERS = {
    "stratified-group": Splitter(_stratified_group, leaks=False),
    "stratified": Splitter(_stratified, leaks=True),
}


def assign_folds(
    label_N: np.ndarray, group_N: np.ndarray, *, num_folds: int, seed: int, split: str = "stratified-group"
) -> np.ndarray:
    """Return the fold 0..num_folds-1 in which each of the N rows is held out.

    Raises UserError for fewer than two folds, or fewer groups than folds.
    """
    num_groups = len(np.unique(group_N))
    if num_folds < 2:
        raise UserError(f"--folds {num_folds}: cross-validation needs at least 2")
    if num_groups < 2:
        raise UserError("all pictures are of one group, so none can be held out; check --group-col")
    if num_groups < num_folds:
        raise UserError(
            f"--folds {num_folds}: only {num_groups} groups to hold out; pass --folds {num_groups} or fewer"
        )
    if np.bincount(label_N).max() < num_folds:
        raise UserError(f"--folds {num_folds}: no class has as many pictures as there are folds; pass fewer --folds")
    fold_N = SPLITTERS[split].assign(label_N, group_N, num_folds, seed)
    assert (fold_N >= 0).all()
    assert SPLITTERS[split].leaks or split_groups(fold_N, group_N) == []
    empty = sorted(set(range(num_folds)) - set(fold_N.tolist()))
    if empty:
        raise UserError(f"--folds {num_folds}: fold {empty[0]} would be empty; pass fewer --folds")
    return fold_N


def split_groups(fold_N: np.ndarray, group_N: np.ndarray) -> list[str]:
    """Return the groups that have rows in more than one fold."""
    pairs = np.unique(np.stack([group_N.astype(str), fold_N.astype(str)]), axis=1)
    names, counts = np.unique(pairs[0], return_counts=True)
    return [str(name) for name in names[counts > 1]]


def rare_classes(label_N: np.ndarray, group_N: np.ndarray, *, num_folds: int) -> dict[int, int]:
    """Return {class: number of groups} for the classes that occur, but in fewer groups than folds."""
    counts = {int(label): len(np.unique(group_N[label_N == label])) for label in np.unique(label_N)}
    return {label: count for label, count in counts.items() if count < num_folds}
