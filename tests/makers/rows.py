"""Functions that copy evidence or saved views with other folds or labels."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import numpy as np

from ensemble.methods.base import Evidence
from tta.policy import SavedViews

OnRows = TypeVar("OnRows", Evidence, SavedViews)


def folded(one: OnRows, fold_N: np.ndarray) -> OnRows:
    """Return a copy with these folds."""
    return dataclasses.replace(one, rows=one.rows.in_folds(fold_N))


def relabelled(one: OnRows, label_N: np.ndarray) -> OnRows:
    """Return a copy with these labels."""
    return dataclasses.replace(one, rows=dataclasses.replace(one.rows, label_N=label_N))
