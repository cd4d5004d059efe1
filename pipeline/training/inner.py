"""Rows that --select inner holds out of a fold's training rows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from foldblend.errors import UserError
from folds.split import assign_folds
from pipeline.job import Prepared
from pipeline.seeding import derive_seed

__all__ = ["inner_rows", "inner_split"]

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


def inner_split(run: Prepared, learns_N: np.ndarray, index: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the rows that are held out of a model's training rows, and the mask of the others.

    Parameters
    ----------
    run
        The run.
    learns_N
        Mask of the training rows of the model in the manifest's `train`.
    index
        Number of the model, of which the split is derived.
    """
    others = run.manifest.train[learns_N]
    inner_N = inner_rows(
        others,
        seed=derive_seed("inner", run.config.split.split_seed, index),
        group_name=run.manifest.group_name,
    )
    left_N = learns_N.copy()
    left_N[np.flatnonzero(learns_N)[inner_N]] = False
    # Scored by their true labels, even where training uses other (corrected) ones.
    return others[inner_N].reset_index(drop=True), left_N
