"""Rows of out-of-fold predictions: what is known of them beside their logits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

__all__ = ["Rows"]


@dataclass(frozen=True, slots=True)
class Rows:
    """Labels, groups, repeats and folds of N out-of-fold rows; every stage passes them on
    together.
    """

    label_N: np.ndarray
    """Class of each row, 0 .. C - 1."""
    group_N: np.ndarray
    """What is never split between folds: people, patients, products; names or codes."""
    repeat_N: np.ndarray
    """Which repeat of the cross-validation a row is of."""
    fold_N: np.ndarray
    """The fold, within its repeat, in which the row was held out."""

    @classmethod
    def of(
        cls,
        label_N: np.ndarray,
        group_N: np.ndarray,
        *,
        repeat_N: np.ndarray | None = None,
        fold_N: np.ndarray | None = None,
    ) -> Rows:
        """Return rows of one repeat and one fold, unless these are given."""
        zeros_N = np.zeros(len(label_N), np.int64)
        return cls(
            label_N,
            group_N,
            zeros_N if repeat_N is None else repeat_N,
            zeros_N if fold_N is None else fold_N,
        )

    def __len__(self) -> int:
        return len(self.label_N)

    def take(self, rows: np.ndarray) -> Rows:
        """Return the rows of these numbers, or where a mask is true."""
        return Rows(self.label_N[rows], self.group_N[rows], self.repeat_N[rows], self.fold_N[rows])

    def in_folds(self, fold_N: np.ndarray) -> Rows:
        """Return the same rows in other folds."""
        return dataclasses.replace(self, fold_N=fold_N)

    @property
    def num_groups(self) -> int:
        return len(np.unique(self.group_N))

    @property
    def num_repeats(self) -> int:
        return len(np.unique(self.repeat_N))

    @property
    def num_images(self) -> int:
        """How many images the rows show; each is in every repeat."""
        return int((self.repeat_N == self.repeat_N[0]).sum())
