"""Stratified K-fold splitter that keeps groups whole and class counts even."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from folds.balance import Profiles, deal, profiles_of

__all__ = ["StratifiedGroupKFold", "codes_of", "rows_by_code", "stratified_group_folds"]


def codes_of(values_N: Any) -> np.ndarray:
    """Return a code 0, 1, ... for each value, in sorted order of the distinct values.

    Raises
    ------
    ValueError
        For missing values.

    Examples
    --------
    >>> codes_of(["b", "a", "b"]).tolist()
    [1, 0, 1]
    """
    code_N, distinct = pd.factorize(np.asarray(values_N))
    if (code_N < 0).any():
        raise ValueError(f"row {int(np.argmin(code_N))}: a class or group is missing")
    # pandas numbers values by their first row; ranks do not depend on the order of the rows.
    order = np.argsort(np.asarray(distinct), kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[code_N]


def rows_by_code(code_N: np.ndarray) -> list[np.ndarray]:
    """Return a list with the row numbers of each code 0, 1, ..."""
    return np.split(np.argsort(code_N, kind="stable"), np.cumsum(np.bincount(code_N))[:-1])


def _hand_out(profiles: Profiles, deal_UK: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the fold of each group, drawing the groups of each profile at random."""
    num_profiles, num_folds = deal_UK.shape
    order_G = rng.permutation(len(profiles.profile_G))
    order_G = order_G[np.argsort(profiles.profile_G[order_G], kind="stable")]
    # Fold numbers are permuted as well, because the greedy start treats folds in their order.
    fold_G = np.empty(len(order_G), np.int64)
    fold_G[order_G] = np.repeat(np.tile(rng.permutation(num_folds), num_profiles), deal_UK.ravel())
    return fold_G


def stratified_group_folds(label_N: Any, group_N: Any, *, num_folds: int, seed: Any) -> np.ndarray:
    """Return the fold of each row, with whole groups and even class counts.

    Parameters
    ----------
    label_N, group_N
        Class and group of each row, of any sortable type.
    num_folds
        Number of folds.
    seed
        Seed as numpy's default_rng takes it.

    Returns
    -------
    np.ndarray
        Fold 0..num_folds-1 of each row; it does not depend on the order of the rows.

    Raises
    ------
    ValueError
        For fewer groups than folds, or missing values.

    Examples
    --------
    >>> stratified_group_folds([0, 0, 1, 1], ["a", "a", "b", "b"], num_folds=2, seed=0).tolist()
    [0, 0, 1, 1]
    """
    group_N = codes_of(group_N)
    num_groups = int(group_N.max(initial=-1)) + 1
    if num_groups < num_folds:
        raise ValueError(f"n_splits={num_folds}: the data have only {num_groups} groups")
    rng = np.random.default_rng(seed)
    profiles = profiles_of(codes_of(label_N), group_N)
    return _hand_out(profiles, deal(profiles, num_folds, rng), rng)[group_N]


class StratifiedGroupKFold:
    """Splitter for scikit-learn with whole groups and even class counts in every fold.

    The folds do not depend on the order of the rows. `folds.balance` defines the objective.
    Parameters are those of scikit-learn's class of the same name. Groups are always dealt at
    random among equally even folds, so `shuffle` only decides what happens without a seed.

    Parameters
    ----------
    n_splits
        Number of folds, at least 2.
    shuffle
        With True and no `random_state`, each call of `split` returns other folds; with False they
        are those of `random_state=0`.
    random_state
        Seed of the folds: an integer, or what numpy's default_rng takes, or a RandomState. Unlike
        scikit-learn's it may be set without `shuffle`; the folds of a seed are the same with it.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    >>> groups = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    >>> for train, held_out in fb.StratifiedGroupKFold(2).split(y, y, groups):
    ...     print(np.bincount(y[held_out]).tolist())
    [2, 2]
    [2, 2]
    """

    def __init__(self, n_splits: int = 5, shuffle: bool = False, random_state: Any = None) -> None:
        if not isinstance(n_splits, (int, np.integer)) or n_splits < 2:
            raise ValueError(
                f"n_splits={n_splits}: cross-validation needs a whole number of at least 2"
            )
        if not isinstance(shuffle, (bool, np.bool_)):
            raise TypeError(f"shuffle={shuffle!r}: pass True or False")
        self.n_splits = int(n_splits)
        self.shuffle = bool(shuffle)
        self.random_state = random_state

    def __repr__(self) -> str:
        # The parameters are in the order that scikit-learn prints.
        return (
            f"StratifiedGroupKFold(n_splits={self.n_splits}, random_state={self.random_state},"
            f" shuffle={self.shuffle})"
        )

    def _seed(self) -> Any:
        """Return the seed of the next split as numpy's default_rng takes it."""
        if self.random_state is None:
            return None if self.shuffle else 0
        if isinstance(self.random_state, np.random.RandomState):
            return self.random_state.randint(2**31)
        return self.random_state

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of folds."""
        return self.n_splits

    def split(
        self, X: Any, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the row numbers of the training rows and of the held-out rows, fold by fold.

        Raises
        ------
        ValueError
            If y or groups is missing, if lengths differ, or for fewer groups than folds.
        """
        if y is None or groups is None:
            raise ValueError("split(X, y, groups): both y (classes) and groups are required")
        if not len(y) == len(groups) == (len(y) if X is None else _num_rows(X)):
            raise ValueError("split(X, y, groups): lengths differ")
        fold_N = stratified_group_folds(y, groups, num_folds=self.n_splits, seed=self._seed())
        for fold in range(self.n_splits):
            yield np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)

    def get_metadata_routing(self) -> Any:
        """Return the request for groups, in case scikit-learn's metadata routing is switched on."""
        # Imported here, so that the splitter works without loading scikit-learn.
        from sklearn.utils.metadata_routing import MetadataRequest

        request = MetadataRequest(owner=type(self).__name__)
        request.split.add_request(param="groups", alias=True)
        return request


def _num_rows(table: Any) -> int:
    return int(table.shape[0]) if hasattr(table, "shape") else len(table)
