"""Stack with columns of the images, such as age or site, beside the members' predictions.

A column adds to the log-probability of each class. For a category this is Bayes' rule, if members
know nothing of the column: the site changes the odds of the classes by the ratio of their shares
there. Weights are shrunk to those of the stack without columns, and if columns do not help held-out
groups by more than one standard error, that stack is returned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ensemble.methods.base import Evidence
from ensemble.methods.encoding import Encoding, encoding_of
from ensemble.methods.stack import Problem, Stack, prepared, row_loss
from foldblend.image_columns import ImageColumns
from foldblend.scores.held_out import random_parts
from foldblend.scores.score import lowers_loss

__all__ = ["ColumnStack", "fit"]

# Standard deviations of the normal prior of a column's effect on a log-probability, from the
# strongest L2 penalty to the weakest.
NUM_PARTS = 5
SPREADS = (0.1, 0.2, 0.4, 0.8, 1.6)


@dataclass(frozen=True, slots=True)
class ColumnStack:
    """Stack whose log-probabilities are moved by the columns of the images."""

    stack: Stack
    encoding: Encoding
    weight_DE: np.ndarray
    """What each feature of the columns adds to the log-probability of each of the E classes."""
    spread: float
    """Standard deviation of the weights' prior, which sets the L2 penalty."""

    def __call__(
        self, logits_MNC: Iterable[np.ndarray], columns: ImageColumns | None = None
    ) -> np.ndarray:
        """Return logits N x C float64 from the logits of each member and the columns."""
        added_NE = self.stack.bias_E + self.encoding(columns) @ self.weight_DE
        return self.stack.moved(logits_MNC, added_NE)

    @property
    def needs(self) -> Mapping[str, str]:
        return self.encoding.needs

    @property
    def shares(self) -> tuple[float, ...]:
        return self.stack.shares

    def as_dict(self) -> dict[str, Any]:
        """Return the fitted parameters, with the norm of each column's weights."""
        start = 0
        columns = []
        for code, about in zip(self.encoding.codes, self.encoding.as_dict(), strict=True):
            norm = float(np.linalg.norm(self.weight_DE[start : start + code.width]))
            columns.append({**about, "weight_norm": round(norm, 4)})
            start += code.width
        return {**self.stack.as_dict(), "columns": columns, "spread_of_columns": self.spread}


@dataclass(frozen=True, slots=True)
class Joint:
    """A stack's problem with the features of columns, at a spread of the stack's own weights."""

    problem: Problem
    columns: ImageColumns
    spread: float
    """Spread of the weights of members and of the bias; for 0 only columns are fitted.

    A bias helps without columns too, so it would be taken for a gain of theirs.
    """

    def fit(
        self, rows: np.ndarray, spread: float
    ) -> tuple[Encoding, np.ndarray, np.ndarray, np.ndarray]:
        """Fit on some rows with this spread of the columns' weights.

        Returns
        -------
        (Encoding, array E, array D x E, array D x E)
            The encoding, the classes, and the weights of the problem's features and of the columns.
        """
        columns = self.columns.take(rows)
        encoding = encoding_of(columns)
        problem = self.problem.rows(rows)
        num_own = problem.feature_ND.shape[1]
        own_D = np.arange(num_own) if self.spread else np.empty(0, np.int64)
        # There is one penalty, num_members / base ** 2. A feature that is multiplied by a factor
        # may have a weight that is larger by this factor.
        base = self.spread or spread
        factor = spread / base * np.sqrt(problem.num_members)
        found_ND = (factor * encoding(columns)).astype(np.float32)
        both_ND = np.hstack([problem.feature_ND[:, own_D], found_ND])
        [(class_E, weight_DE)] = replace(problem, feature_ND=both_ND).path([base])
        of_own_DE = np.zeros((num_own, len(class_E)))
        of_own_DE[own_D] = weight_DE[: len(own_D)]
        return encoding, class_E, of_own_DE, factor * weight_DE[len(own_D) :]

    def _loss(self, fitted_N: np.ndarray, held_N: np.ndarray, spread: float) -> np.ndarray:
        """Return the log loss of held-out rows after a fit on others; for 0 without columns."""
        held = self.problem.rows(held_N)
        if not spread and not self.spread:
            return row_loss(held.vote_NC, held.label_N)
        if not spread:
            [(class_E, weight_DE)] = self.problem.rows(fitted_N).path([self.spread])
            return held.losses(class_E, weight_DE)
        encoding, class_E, own_DE, weight_DE = self.fit(np.flatnonzero(fitted_N), spread)
        found_ND = encoding(self.columns.take(held_N)).astype(np.float32)
        both = replace(held, feature_ND=np.hstack([held.feature_ND, found_ND]))
        return both.losses(class_E, np.vstack([own_DE, weight_DE]))

    def best_spread(self) -> float:
        """Return the smallest spread within one standard error of the best, 0 for no columns.

        The best has the lowest log loss on held-out groups. It is 0 unless columns lower the loss
        of the stack without them by more than one standard error over groups. On simulated data
        sets with 60 groups and columns that say nothing, the smallest spread loses 0.0010 log loss
        on new groups (standard error 0.0009, n = 60), and the best one 0.0026 (0.0017).
        """
        label_N = self.problem.label_N
        group_N = self.problem.group_N
        parts = random_parts(label_N, group_N, num_parts=NUM_PARTS)
        if not parts:
            return 0.0

        def loss(spread: float) -> np.ndarray:
            loss_N = np.empty(len(label_N))
            for fitted_N, held_N in parts:
                loss_N[held_N] = self._loss(fitted_N, held_N, spread)
            return loss_N

        without_N = loss(0.0)
        tried: list[tuple[float, np.ndarray]] = []
        best_N = without_N
        for spread in SPREADS:
            loss_N = loss(spread)
            if loss_N.sum() >= best_N.sum():
                break
            tried.append((spread, loss_N))
            best_N = loss_N
        if not lowers_loss(without_N, best_N, group_N):
            return 0.0
        return next(spread for spread, loss_N in tried if not lowers_loss(loss_N, best_N, group_N))


def fit(evidence: Evidence) -> Stack | ColumnStack:
    """Fit a stack, and add the columns as strongly as helps held-out groups of the evidence.

    If they do not help, the stack without them is returned.
    """
    found = prepared(evidence)
    spread = found.problem.best_spread()
    if evidence.columns is None:
        return found.fitted(spread)
    joint = Joint(found.problem, evidence.columns, spread)
    of_columns = joint.best_spread()
    if not of_columns:
        return found.fitted(spread)
    every = np.arange(len(evidence.rows))
    encoding, class_E, own_DE, weight_DE = joint.fit(every, of_columns)
    return ColumnStack(found.stack(class_E, own_DE, spread), encoding, weight_DE, of_columns)
