"""A splitter that keeps groups whole and gives every fold its even share of every class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from folds.balance import Profiles, deal, profiles_of

__all__ = ["StratifiedGroupKFold", "codes_of", "rows_by_code", "stratified_group_folds"]


def codes_of(values_N: Any) -> np.ndarray:
    """Return 0.. for each value, in sorted order of the distinct ones. Raises ValueError for
    missing values.
    """
    code_N, distinct = pd.factorize(np.asarray(values_N))
    if (code_N < 0).any():
        raise ValueError(f"row {int(np.argmin(code_N))}: a class or group is missing")
    order = np.argsort(np.asarray(distinct), kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[code_N]


def rows_by_code(code_N: np.ndarray) -> list[np.ndarray]:
    """Return the row numbers of each code 0.., in order."""
    return np.split(np.argsort(code_N, kind="stable"), np.cumsum(np.bincount(code_N))[:-1])


def _hand_out(profiles: Profiles, deal_PK: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the fold of each group: which group of a profile goes where is up to the seed."""
    num_profiles, num_folds = deal_PK.shape
    order_G = rng.permutation(len(profiles.profile_G))
    order_G = order_G[np.argsort(profiles.profile_G[order_G], kind="stable")]
    fold_G = np.empty(len(order_G), np.int64)
    fold_G[order_G] = np.repeat(np.tile(rng.permutation(num_folds), num_profiles), deal_PK.ravel())
    return fold_G


def stratified_group_folds(label_N: Any, group_N: Any, *, num_folds: int, seed: Any) -> np.ndarray:
    """Return the fold 0..num_folds-1 of each of N rows; equal for equal rows in any order.

    Raises ValueError for fewer groups than folds.
    """
    group_N = codes_of(group_N)
    num_groups = int(group_N.max(initial=-1)) + 1
    if num_groups < num_folds:
        raise ValueError(f"n_splits={num_folds}: only {num_groups} groups to hold out")
    rng = np.random.default_rng(seed)
    profiles = profiles_of(codes_of(label_N), group_N)
    return _hand_out(profiles, deal(profiles, num_folds, rng), rng)[group_N]


class StratifiedGroupKFold:
    """K folds of whole groups with even shares of every class; for `cross_val_score` and the like.

    `n_splits` folds; `random_state` as numpy's default_rng takes it. The folds do not depend on the
    order of rows. See `folds.balance` for the objective.
    """

    def __init__(self, n_splits: int = 5, *, random_state: Any = 0) -> None:
        if not isinstance(n_splits, (int, np.integer)) or n_splits < 2:
            raise ValueError(
                f"n_splits={n_splits}: cross-validation needs a whole number of at least 2"
            )
        self.n_splits = int(n_splits)
        self.random_state = random_state

    def __repr__(self) -> str:
        return f"StratifiedGroupKFold(n_splits={self.n_splits}, random_state={self.random_state})"

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of folds."""
        return self.n_splits

    def split(
        self, X: Any, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (train, held out) row numbers of each fold.

        Raises ValueError where y or groups is missing, lengths differ, or groups are fewer than
        folds.
        """
        if y is None or groups is None:
            raise ValueError("split(X, y, groups): both y (classes) and groups are needed")
        if not len(y) == len(groups) == (len(y) if X is None else _num_rows(X)):
            raise ValueError("split(X, y, groups): lengths differ")
        fold_N = stratified_group_folds(y, groups, num_folds=self.n_splits, seed=self.random_state)
        for fold in range(self.n_splits):
            yield np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)

    def get_metadata_routing(self) -> Any:
        """Ask scikit-learn's metadata routing, where that is switched on, for the groups."""
        from sklearn.utils.metadata_routing import MetadataRequest

        request = MetadataRequest(owner=type(self).__name__)
        request.split.add_request(param="groups", alias=True)
        return request


def _num_rows(table: Any) -> int:
    return int(table.shape[0]) if hasattr(table, "shape") else len(table)
