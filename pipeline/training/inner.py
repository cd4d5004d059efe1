"""Rows that --select inner holds out of a fold's training rows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from foldblend.errors import UserError
from folds.split import assign_folds

__all__ = ["inner_rows"]

# One of this many inner folds is held out.
INNER_FOLDS = 5


def inner_rows(train: pd.DataFrame, *, seed: int, group_name: str = "group") -> np.ndarray:
    """Return the mask of the training rows that --select inner holds out.

    It holds out a fifth of the groups, stratified by class.

    Parameters
    ----------
    train
        The fold's N training rows, with columns `label` and `group`.
    seed
        Seed of the inner split.
    group_name
        What a group is, in the singular.

    Returns
    -------
    ndarray
        N booleans, True for a row that is held out.

    Raises
    ------
    UserError
        For fewer than two groups.
    """
    group_N = train["group"].to_numpy()
    num_groups = len(set(group_N.tolist()))
    if num_groups < 2:
        raise UserError(
            f"--select inner: a fold trains on a single {group_name}, so none can be held out; pass"
            " --select last"
        )
    num_folds = min(INNER_FOLDS, num_groups)
    return assign_folds(train["label"].to_numpy(), group_N, num_folds=num_folds, seed=seed) == 0
