"""Columns of images as features: numbers are standardised, categories become one column per word.

All numbers here are fitted on the rows that a method is fitted on. An empty cell, and a word that
these rows do not have, count as an average row; an empty cell has a feature of its own besides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from foldblend.image_columns import CATEGORY, NUMBER, ImageColumns, is_empty

__all__ = ["CategoryCode", "Encoding", "NumberCode", "encoding_of"]

# Standard deviations below this share of the largest number are rounding.
LEAST_SPREAD = 1e-12


@dataclass(frozen=True, slots=True)
class NumberCode:
    """Features of a column of numbers: its standardised value, and whether its cell is empty."""

    name: str
    unit: float
    """Largest number, which all are divided by first, so that none is too large to be added."""
    mean: float
    spread: float
    """Standard deviation; 0 for a column in which all numbers are equal."""
    low: float
    high: float
    """Smallest and largest number; further ones count as these, since nothing is known of them."""
    empty: float
    """Share of empty cells."""

    @property
    def kind(self) -> str:
        return NUMBER

    @property
    def width(self) -> int:
        """Number of features."""
        return 2

    def __call__(self, values_N: np.ndarray) -> np.ndarray:
        """Return the features N x 2, whose means over the fitted rows are 0."""
        empty_N = is_empty(values_N)
        if not self.spread:
            value_N = np.zeros(len(values_N))
        else:
            with np.errstate(over="ignore"):
                scaled_N = np.where(empty_N, self.mean, values_N / self.unit)
            value_N = (np.clip(scaled_N, self.low, self.high) - self.mean) / self.spread
            value_N[empty_N] = 0.0
        return np.stack([value_N, empty_N - self.empty], axis=1)

    def as_dict(self) -> dict[str, Any]:
        return {
            "column": self.name,
            "kind": self.kind,
            "mean": self.mean * self.unit,
            "standard_deviation": self.spread * self.unit,
            "empty": self.empty,
        }


@dataclass(frozen=True, slots=True)
class CategoryCode:
    """Features of a category: one per word, and whether its cell is empty."""

    name: str
    words: tuple[str, ...]
    """In small letters, as spreadsheets write TRUE for True."""
    shares: tuple[float, ...]
    """Share of each word in the cells that are not empty."""
    empty: float
    """Share of empty cells."""

    @property
    def kind(self) -> str:
        return CATEGORY

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self.words) + 1

    def __call__(self, values_N: np.ndarray) -> np.ndarray:
        """Return the features N x (words + 1), whose means over the fitted rows are 0."""
        code_of = {word: code for code, word in enumerate(self.words)}
        code_N = np.array([code_of.get(one, -1) for one in _folded(values_N)], np.int64)
        found_ND = np.zeros((len(values_N), self.width))
        known_N = code_N >= 0
        found_ND[known_N, :-1] = -np.asarray(self.shares)
        found_ND[np.flatnonzero(known_N), code_N[known_N]] += 1
        found_ND[:, -1] = is_empty(values_N) - self.empty
        return found_ND

    def as_dict(self) -> dict[str, Any]:
        return {
            "column": self.name,
            "kind": self.kind,
            "words": list(self.words),
            "empty": self.empty,
        }


@dataclass(frozen=True, slots=True)
class Encoding:
    """Features of several columns."""

    codes: tuple[NumberCode | CategoryCode, ...]
    """In the order of the columns' names."""

    @property
    def needs(self) -> dict[str, str]:
        """The kind of each column that is needed, by its name."""
        return {one.name: one.kind for one in self.codes}

    @property
    def width(self) -> int:
        """Number of features."""
        return sum(code.width for code in self.codes)

    def __call__(self, columns: ImageColumns | None) -> np.ndarray:
        """Return the features N x D float64 of some rows, each from its own cells only."""
        assert columns is not None, "the caller has checked that the columns are there"
        return np.hstack([one(columns.values[one.name]) for one in self.codes])

    def as_dict(self) -> list[dict[str, Any]]:
        return [one.as_dict() for one in self.codes]


def _number(name: str, values_N: np.ndarray) -> NumberCode:
    empty = float(np.isnan(values_N).mean())
    known_N = values_N[~np.isnan(values_N)]
    unit = float(np.abs(known_N).max(initial=0.0))
    if not unit:
        return NumberCode(name, 1.0, 0.0, 0.0, 0.0, 0.0, empty)
    scaled_N = known_N / unit
    spread = float(scaled_N.std())
    return NumberCode(
        name,
        unit,
        float(scaled_N.mean()),
        spread if spread > LEAST_SPREAD else 0.0,
        float(scaled_N.min()),
        float(scaled_N.max()),
        empty,
    )


def _folded(words_N: np.ndarray) -> list[str]:
    """Return words without their letter case."""
    return [word.casefold() for word in words_N]


def _category(name: str, values_N: np.ndarray) -> CategoryCode:
    empty_N = is_empty(values_N)
    words, counts = np.unique(np.array(_folded(values_N[~empty_N]), str), return_counts=True)
    shares = counts / max(counts.sum(), 1)
    return CategoryCode(name, tuple(words.tolist()), tuple(shares.tolist()), float(empty_N.mean()))


def encoding_of(columns: ImageColumns) -> Encoding:
    """Return the encoding of all columns, fitted on these rows."""
    return Encoding(
        tuple(
            (_number if columns.kinds[name] == NUMBER else _category)(name, columns.values[name])
            for name in sorted(columns.values)
        )
    )
