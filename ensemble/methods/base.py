"""Interface of the methods of blending: a fit on out-of-fold rows, applied to any rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from foldblend.image_columns import ImageColumns
from foldblend.scores.by_group import TINY, by_group
from foldblend.scores.metrics import Metric, as_metric, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.temperature import fit_temperatures

__all__ = ["Evidence", "Fitted", "Method"]


@dataclass(frozen=True)
class Evidence:
    """Out-of-fold logits of the members with their labels, on which methods are fitted."""

    logits_MNC: Sequence[np.ndarray]
    """One array per member, N x C float32, finite."""
    rows: Rows
    metric: str | Metric = "f1_macro"
    """The metric to optimise, or its name, a key of foldblend.scores.metrics.METRICS."""
    columns: ImageColumns | None = None
    """Columns of the rows' images, for methods that learn from them; None without --meta-cols."""

    @property
    def score(self) -> Metric:
        return as_metric(self.metric)

    @property
    def num_classes(self) -> int:
        return int(self.logits_MNC[0].shape[1])

    def take(self, rows: np.ndarray) -> Evidence:
        """Return the evidence of only these rows, by number or mask."""
        return Evidence(
            [logits_NC[rows] for logits_NC in self.logits_MNC],
            self.rows.take(rows),
            self.metric,
            None if self.columns is None else self.columns.take(rows),
        )

    def answer(self, fitted: Fitted, rows: np.ndarray | None = None) -> np.ndarray:
        """Return the logits N x C of a fitted method for these rows, or for all."""
        if rows is None:
            return fitted(self.logits_MNC, self.columns)
        columns = None if self.columns is None else self.columns.take(rows)
        return fitted((logits_NC[rows] for logits_NC in self.logits_MNC), columns)

    def pooled(
        self, temperature_M: Sequence[float] | None = None
    ) -> tuple[Evidence, Sequence[float]]:
        """Return evidence whose metric is by image, and the temperatures of its logits.

        For a metric by group, rows become groups: each member's probabilities, at its temperature,
        are pooled over the images of a group. Then the temperatures are 1. Otherwise nothing
        changes. Greedy selection searches on these rows, which are fewer.

        Parameters
        ----------
        temperature_M
            Temperature of each member; None for 1.
        """
        scales = [1.0] * len(self.logits_MNC) if temperature_M is None else temperature_M
        metric = self.score
        if not metric.pool:
            return self, scales
        found = [
            by_group(self.rows, softmax(logits_NC / one), metric.pool)
            for logits_NC, one in zip(self.logits_MNC, scales, strict=True)
        ]
        logits = [np.log(np.maximum(proba_GC, TINY)) for _, proba_GC in found]
        return Evidence(logits, found[0][0], metric.by_image), [1.0] * len(logits)

    @functools.cached_property
    def temperatures(self) -> tuple[float, ...]:
        """The temperature of each member, 1 where scaling does not help; computed once."""
        return fit_temperatures(self.logits_MNC, self.rows.label_N, self.rows.group_N)


class Fitted(Protocol):
    """Fitted method of blending.

    The blended logits of a row depend only on the members' logits and the columns of that row.
    """

    def __call__(
        self, logits_MNC: Iterable[np.ndarray], columns: ImageColumns | None = None
    ) -> np.ndarray:
        """Return blended logits N x C float64, finite.

        Members' logits N x C are read one after the other. Columns of the same rows must be given
        where the method `needs` any.
        """
        ...

    @property
    def needs(self) -> Mapping[str, str]:
        """Return the kind of each column that is needed, by its name; {} for most methods."""
        ...

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each member in the blend, with sum 1; one with 0 need not be run at all."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Return the fitted parameters as plain numbers, for blend.yaml."""
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """Method of blending."""

    what: str
    """What it does, in a few words."""
    fit: Callable[[Evidence], Fitted]
    fits: bool = True
    """Whether anything is learned from labels; then it must be scored by cross-fitting."""
    thorough: bool = False
    """Whether it is slow; then auto tries it only with --thorough."""
    of_shares: bool = False
    """Whether its logits are logs of vote shares.

    They are close to minus infinity for a class without votes, so folds are averaged as shares.
    """
