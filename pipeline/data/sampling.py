"""Order of the rows of an epoch: each row once, or sampled by class or by group."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from torch.utils.data import Sampler

from pipeline.config.train import LossConfig
from pipeline.seeding import derive_rng

__all__ = ["EpochSampler", "Key", "class_counts", "draw_numbers", "row_odds"]


def class_counts(table: pd.DataFrame, num_classes: int) -> np.ndarray:
    """Return the number of images of each class.

    Examples
    --------
    >>> class_counts(pd.DataFrame({"label": [0, 2, 2]}), 3).tolist()
    [1, 0, 2]
    """
    return np.bincount(table["label"].to_numpy(), minlength=num_classes)


def row_odds(table: pd.DataFrame, config: LossConfig) -> np.ndarray | None:
    """Return the probability of each row at each draw of an epoch, N values that sum to 1.

    None means that an epoch has each row once.
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
    """Return how often each row of an order has occurred before.

    The number is a part of the seed, so that a repeated image is augmented differently.

    Examples
    --------
    >>> draw_numbers(np.array([4, 7, 4, 4])).tolist()
    [0, 0, 1, 2]
    """
    by_row = np.argsort(order, kind="stable")
    ordered = order[by_row]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    since = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[by_row] = since
    return numbers


class EpochSampler(Sampler[Key]):
    """Sampler of (epoch, index, draw): in order without a seed, else shuffled or sampled.

    The order of an epoch depends only on the seed and the epoch, so training can be resumed at any
    step of it. `draw` is how often the epoch has shown the row before.
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
        """Start the next iteration in this epoch, at this position of its order."""
        self._place = (epoch, row)

    def order(self, epoch: int) -> np.ndarray:
        """Return the rows of an epoch, in order.

        The last result is remembered, since every step asks for it.
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
        """Return the epoch and its remaining rows, and advance to the next epoch."""
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
