"""Labels, groups, repeats and folds of out-of-fold rows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from foldblend.words import plural

__all__ = ["Rows"]


@dataclass(frozen=True, slots=True)
class Rows:
    """Labels, groups, repeats and folds of N out-of-fold rows, which are used together.

    Examples
    --------
    >>> rows = Rows.of(np.array([0, 1, 1]), np.array(["a", "b", "b"]))
    >>> len(rows), rows.num_groups, rows.take(rows.label_N == 1).group_N.tolist()
    (3, 2, ['b', 'b'])
    """

    label_N: np.ndarray
    """Class of each row, from 0 to C - 1."""
    group_N: np.ndarray
    """Group of each row, such as a person, patient or product; names or codes."""
    repeat_N: np.ndarray
    """Repeat of the cross-validation of each row."""
    fold_N: np.ndarray
    """Fold, within its repeat, in which the row was held out."""
    group_name: str = "group"
    """What a group is, in the singular, for texts."""

    @classmethod
    def of(
        cls,
        label_N: np.ndarray,
        group_N: np.ndarray,
        *,
        repeat_N: np.ndarray | None = None,
        fold_N: np.ndarray | None = None,
        group_name: str = "group",
    ) -> Rows:
        """Return rows of a single repeat and fold, unless these are given."""
        zeros_N = np.zeros(len(label_N), np.int64)
        return cls(
            label_N,
            group_N,
            zeros_N if repeat_N is None else repeat_N,
            zeros_N if fold_N is None else fold_N,
            group_name,
        )

    def __len__(self) -> int:
        return len(self.label_N)

    def take(self, rows: np.ndarray | slice) -> Rows:
        """Return a selection of the rows, by row numbers or a boolean mask."""
        return Rows(
            self.label_N[rows],
            self.group_N[rows],
            self.repeat_N[rows],
            self.fold_N[rows],
            self.group_name,
        )

    def coded(self) -> Rows:
        """Return the same rows with groups as numbers, in the order of their names.

        Numbers are sorted much faster than names, and scores need no names.
        """
        codes_N = np.unique(self.group_N, return_inverse=True)[1]
        return dataclasses.replace(self, group_N=codes_N)

    def labelled(self, label_N: np.ndarray) -> Rows:
        """Return the same rows with other labels, such as the values of an attribute."""
        return dataclasses.replace(self, label_N=label_N)

    def in_folds(self, fold_N: np.ndarray) -> Rows:
        """Return the same rows with other folds."""
        return dataclasses.replace(self, fold_N=fold_N)

    @property
    def groups(self) -> str:
        """Name of groups in the plural, for texts."""
        return plural(self.group_name)

    @property
    def num_groups(self) -> int:
        return len(np.unique(self.group_N))

    @property
    def num_repeats(self) -> int:
        return len(np.unique(self.repeat_N))

    @property
    def num_images(self) -> int:
        """Number of distinct images; each is in every repeat."""
        return int((self.repeat_N == self.repeat_N[0]).sum())
