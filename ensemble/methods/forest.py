"""Boosted trees as arrays: scikit-learn grows them, and nothing of it is needed to apply them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Forest", "forest_of"]


@dataclass(frozen=True, slots=True)
class Forest:
    """Boosted trees of a classifier.

    There are L rounds of Z trees: one tree per class, or a single one for two classes. Axis X are
    the nodes of all trees. A child comes after its parent.
    """

    baseline_Z: np.ndarray
    """Sums to which the trees' answers are added."""
    root_LZ: np.ndarray
    """First node of each tree."""
    is_leaf_X: np.ndarray
    feature_X: np.ndarray
    """Column that a node compares; 0 for a leaf."""
    threshold_X: np.ndarray
    """Values up to this one go to the left."""
    left_X: np.ndarray
    """Number of the left child; 0 for a leaf."""
    right_X: np.ndarray
    value_X: np.ndarray
    """Answer of a leaf."""

    def __post_init__(self) -> None:
        """Raise ValueError for nodes that are no trees, such as those of a damaged file."""
        size = len(self.is_leaf_X)
        (split,) = np.nonzero(~self.is_leaf_X)
        children = np.concatenate([self.left_X[split], self.right_X[split]])
        first = np.concatenate([self.root_LZ.ravel(), children])
        grows = (children > np.concatenate([split, split])).all()
        # Each node is a root or has one parent, so no tree is endless.
        if not grows or not np.array_equal(np.sort(first), np.arange(size)):
            raise ValueError("its nodes are no trees")

    def __call__(self, feature_ND: np.ndarray) -> np.ndarray:
        """Return the probabilities N x E, those of scikit-learn to the last bit."""
        columns_DN = np.ascontiguousarray(feature_ND.T)
        # The order of the axes decides the order in which numpy adds, and so the last bit.
        sum_NZ = np.zeros((len(feature_ND), len(self.baseline_Z)), order="F")
        sum_NZ += self.baseline_Z
        for root_Z in self.root_LZ.tolist():
            for place, root in enumerate(root_Z):
                sum_NZ[:, place] += self._answer(columns_DN, root)
        if len(self.baseline_Z) == 1:
            from scipy.special import expit  # only here, as it takes 0.2 s to import

            second_N = expit(sum_NZ[:, 0])
            return np.stack([1 - second_N, second_N], axis=1)
        sum_NZ -= sum_NZ.max(axis=1)[:, None]
        np.exp(sum_NZ, out=sum_NZ)
        sum_NZ /= sum_NZ.sum(axis=1)[:, None]
        return sum_NZ

    def _answer(self, columns_DN: np.ndarray, node: int) -> np.ndarray:
        """Return the answers N of the tree below a node."""
        if self.is_leaf_X[node]:
            return np.asarray(self.value_X[node])
        return np.where(
            columns_DN[self.feature_X[node]] <= self.threshold_X[node],
            self._answer(columns_DN, int(self.left_X[node])),
            self._answer(columns_DN, int(self.right_X[node])),
        )


def forest_of(model: Any) -> Forest:
    """Return the trees of a fitted HistGradientBoostingClassifier on columns of numbers.

    scikit-learn has no public access to its trees. They are read from `_predictors`, a list of
    TreePredictor per round whose `nodes` is an array of records, and from `_baseline_prediction`.
    These are the names in scikit-learn 1.9, the oldest version that setup.cfg allows;
    tests/ensemble/test_forest.py compares the probabilities.
    """
    trees = [[tree.nodes for tree in trees_Z] for trees_Z in model._predictors]
    flat = [nodes for nodes_Z in trees for nodes in nodes_Z]
    start = np.cumsum([0, *map(len, flat)])
    all_X = np.concatenate(flat)
    shift_X = np.repeat(start[:-1], [len(nodes) for nodes in flat])
    is_leaf_X = all_X["is_leaf"].astype(bool)
    return Forest(
        baseline_Z=np.ravel(model._baseline_prediction).astype(np.float64),
        root_LZ=start[:-1].reshape(len(trees), -1).astype(np.int64),
        is_leaf_X=is_leaf_X,
        feature_X=np.where(is_leaf_X, 0, all_X["feature_idx"]).astype(np.int64),
        threshold_X=np.where(is_leaf_X, 0.0, all_X["num_threshold"]),
        left_X=np.where(is_leaf_X, 0, all_X["left"] + shift_X).astype(np.int64),
        right_X=np.where(is_leaf_X, 0, all_X["right"] + shift_X).astype(np.int64),
        value_X=np.where(is_leaf_X, all_X["value"], 0.0),
    )
