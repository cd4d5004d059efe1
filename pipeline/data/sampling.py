"""Which rows an epoch shows, and in which order: each once, or drawn by class or by group."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from torch.utils.data import Sampler

from pipeline.config.train import LossConfig
from pipeline.seeding import derive_rng

__all__ = ["EpochSampler", "Key", "class_counts", "draw_numbers", "row_odds"]


def class_counts(table: pd.DataFrame, num_classes: int) -> np.ndarray:
    """Return the number of images of each class."""
    return np.bincount(table["label"].to_numpy(), minlength=num_classes)


def row_odds(table: pd.DataFrame, config: LossConfig) -> np.ndarray | None:
    """Return the probability of each row at each draw of an epoch, or None where each is shown
    once.
    """
    if config.sampler == "none":
        return None
    column, power = (
        ("label", config.sampler_power) if config.sampler == "balanced" else ("group", 1.0)
    )
    size_N = table.groupby(column)[column].transform("size").to_numpy(dtype=float)
    odds_N = size_N**-power
    return np.asarray(odds_N / odds_N.sum())


Key = tuple[int, int, int]


def draw_numbers(order: np.ndarray) -> np.ndarray:
    """Return how often each row of an order has come before: an image drawn again is augmented
    otherwise.
    """
    by_row = np.argsort(order, kind="stable")
    ordered = order[by_row]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    since = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[by_row] = since
    return numbers


class EpochSampler(Sampler[Key]):
    """(epoch, index, draw): in order where there is no seed, else shuffled or drawn anew each
    epoch.

    The order of an epoch follows from the seed alone, so an epoch can be entered at any step.
    """

    def __init__(
        self,
        num_rows: int,
        seed_parts: tuple[int | str, ...] | None = None,
        *,
        odds_N: np.ndarray | None = None,
    ) -> None:
        self.num_rows = num_rows
        self.seed_parts = seed_parts
        self.odds_N = odds_N
        self._place = (0, 0)
        self._last: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self.num_rows

    def enter(self, epoch: int, row: int = 0) -> None:
        """Have the next iteration show an epoch, from one of its rows on."""
        self._place = (epoch, row)

    def order(self, epoch: int) -> np.ndarray:
        """Return the rows of an epoch; the last one asked for is remembered, as every step asks
        again.
        """
        if self._last is None or self._last[0] != epoch:
            self._last = (epoch, self._draw(epoch))
        return self._last[1]

    def _draw(self, epoch: int) -> np.ndarray:
        if self.seed_parts is None:
            return np.arange(self.num_rows)
        rng = derive_rng("order", *self.seed_parts, epoch)
        if self.odds_N is None:
            return rng.permutation(self.num_rows)
        return rng.choice(self.num_rows, self.num_rows, p=self.odds_N)

    def rest(self) -> tuple[int, np.ndarray]:
        """Return the epoch and the rows of it that are still to be shown; the next call is of the
        next epoch.
        """
        epoch, row = self._place
        self._place = (epoch + 1, 0)
        return epoch, self.order(epoch)[row:]

    def __iter__(self) -> Iterator[Key]:
        epoch, rows = self.rest()
        draws = np.zeros(len(rows), int)
        if self.odds_N is not None:
            draws = draw_numbers(self.order(epoch))[self.num_rows - len(rows) :]
        return iter(
            [(epoch, int(index), int(draw)) for index, draw in zip(rows, draws, strict=True)]
        )
