"""What every way of combining members' logits offers: a fit on out-of-fold rows, and its answer for
any rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from foldblend.scores.metrics import METRICS, Metric
from foldblend.scores.rows import Rows
from foldblend.scores.temperature import fit_temperatures

__all__ = ["Evidence", "Fitted", "Method"]


@dataclass(frozen=True)
class Evidence:
    """Out-of-fold rows that a method is fitted on; what several methods need of them is computed
    once.
    """

    logits_MNC: Sequence[np.ndarray]
    """Of each of M members, N x C float32, finite."""
    rows: Rows
    metric: str = "f1_macro"
    """The score that counts, of foldblend.scores.metrics.METRICS."""

    @property
    def score(self) -> Metric:
        return METRICS[self.metric]

    @property
    def num_classes(self) -> int:
        return int(self.logits_MNC[0].shape[1])

    def take(self, rows: np.ndarray) -> Evidence:
        """Return these rows alone."""
        return Evidence(
            [logits_NC[rows] for logits_NC in self.logits_MNC], self.rows.take(rows), self.metric
        )

    @functools.cached_property
    def temperatures(self) -> tuple[float, ...]:
        """The temperature of each member, 1 where none helps."""
        return fit_temperatures(self.logits_MNC, self.rows.label_N, self.rows.group_N)


class Fitted(Protocol):
    """A fitted method. It answers row by row: a row's logits do not depend on the rows beside
    it.
    """

    def __call__(self, logits_MNC: Iterable[np.ndarray]) -> np.ndarray:
        """Return logits N x C float64, finite, from those of each member, which are looked at one
        after the other.
        """
        ...

    @property
    def shares(self) -> tuple[float, ...]:
        """How much each member has to say, with sum 1; one with 0 need not be run at all."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Return what was fitted as plain numbers, for blend.yaml."""
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """A way of combining members."""

    what: str
    """In a line."""
    fit: Callable[[Evidence], Fitted]
    fits: bool = True
    """Whether anything is learned from labels; then it must be scored on people who had no say in
    it.
    """
    thorough: bool = False
    """Whether it is slow, and tried only with --thorough or by name."""
    of_shares: bool = False
    """Whether its logits are shares of votes: where a class had none they are next to minus
    infinity, and folds' models are averaged as shares.
    """
