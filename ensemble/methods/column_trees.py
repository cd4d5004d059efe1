"""Boosted trees that see columns of the images, such as age or site, beside the predictions.

Trees find effects that a linear model cannot: of an age that is neither low nor high, or of a site
only where the members are unsure. They are few and make up half of the prediction. So the other
half, which is the vote, is moved by the columns as in a stack where that helps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ensemble.methods import stack
from ensemble.methods.base import Evidence
from ensemble.methods.column_stack import Joint
from ensemble.methods.encoding import Encoding, encoding_of
from ensemble.methods.trees import (
    ROUNDS,
    Trees,
    held_out_losses,
    joined,
    moved,
    prepared,
)
from foldblend.image_columns import ImageColumns
from foldblend.scores.score import lowers_loss

__all__ = ["ColumnTrees", "fit"]


@dataclass(frozen=True, slots=True)
class ColumnTrees:
    """Geometric mean of the vote moved by the columns, and of trees that see the columns."""

    trees: Trees
    encoding: Encoding
    weight_DE: np.ndarray
    """What each feature of the columns adds to the vote; zeros where that does not help."""

    def __call__(
        self, logits_MNC: Iterable[np.ndarray], columns: ImageColumns | None = None
    ) -> np.ndarray:
        """Return logits N x C float64 from the logits of each member and the columns."""
        further_ND = self.encoding(columns)
        return self.trees.answer(logits_MNC, further_ND, further_ND @ self.weight_DE)

    @property
    def needs(self) -> Mapping[str, str]:
        return self.encoding.needs

    @property
    def shares(self) -> tuple[float, ...]:
        return self.trees.shares

    def as_dict(self) -> dict[str, Any]:
        return {
            **self.trees.as_dict(),
            "columns": self.encoding.as_dict(),
            "weight_norm_of_columns": round(float(np.linalg.norm(self.weight_DE)), 4),
        }


# One thread makes sums the same on any number of cores, and does not wait for busy ones.
@threadpool_limits.wrap(limits=1)
def fit(evidence: Evidence) -> Trees | ColumnTrees:
    """Fit trees that see the columns, if that helps held-out groups of the evidence.

    Otherwise the trees without columns are returned, or the vote if they do not help either.
    """
    found = prepared(evidence)
    columns = evidence.columns
    rows = evidence.rows
    if columns is None:
        return found.fitted(rows, found.num_rounds)
    joint = Joint(stack.prepared(evidence).problem, columns, 0.0)
    spread = joint.best_spread()

    def vote_moved(fitted: np.ndarray) -> tuple[Encoding, np.ndarray, np.ndarray]:
        """Return the encoding, the classes, and the weights that move the vote."""
        if spread:
            encoding, class_E, _, weight_DE = joint.fit(fitted, spread)
            return encoding, class_E, weight_DE
        encoding = encoding_of(columns.take(fitted))
        class_E = np.unique(rows.label_N[fitted])
        return encoding, class_E, np.zeros((encoding.width, len(class_E)))

    def inputs_of(fitted_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        encoding, class_E, weight_DE = vote_moved(np.flatnonzero(fitted_N))
        further_ND = encoding(columns)
        vote_NC = moved(found.vote_NC, further_ND @ weight_DE, class_E)
        return joined(found.feature_ND, further_ND), vote_NC

    loss_LN = held_out_losses(inputs_of, rows)
    if loss_LN is None:
        return found.fitted(rows, found.num_rounds)
    best = int(loss_LN.sum(axis=1).argmin())
    if not lowers_loss(found.loss_N, loss_LN[best], rows.group_N):
        return found.fitted(rows, found.num_rounds)
    encoding, _, weight_DE = vote_moved(np.arange(len(rows)))
    trees = found.fitted(rows, ROUNDS[best], encoding(columns))
    return ColumnTrees(trees, encoding, weight_DE)
