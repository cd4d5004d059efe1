"""Principal axes of features, in which linear heads are fitted.

Letters of array names in this module: N rows, D features, X principal axes (at most D), Z problems
(see `pipeline.frozen.linear_heads`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from foldblend.blocks import block_starts
from foldblend.errors import UserError

__all__ = ["Axes", "blocks", "own_scales", "principal_axes"]

# Rows of which float64 copies are made at once.
AT_ONCE = 2**16


@dataclass(frozen=True)
class Axes:
    """Principal axes of features: the map from N x D features to N x X coordinates."""

    mean_D: np.ndarray
    turn_DX: np.ndarray
    variance_X: np.ndarray

    def of(self, features_ND: np.ndarray) -> np.ndarray:
        """Return the N x X float64 coordinates of N x D features."""
        found_NX = np.empty((len(features_ND), self.turn_DX.shape[1]))
        for at in blocks(len(features_ND)):
            np.matmul(features_ND[at] - self.mean_D, self.turn_DX, out=found_NX[at])
        return found_NX


def principal_axes(features_ND: np.ndarray) -> Axes:
    """Return axes in which the rows are uncorrelated and have a mean squared length of 1.

    Rotating and shifting the features does not change the fitted logits, because the L2 penalty is
    on the length of the weights and the intercept is not penalised. Axes without variance are left
    out: the weights of a solution are in the span of the rows.

    Parameters
    ----------
    features_ND
        Features of all rows.

    Returns
    -------
    Axes
        The axes and the variance of the rows along each, which sums to 1.

    Raises
    ------
    UserError
        If all rows are equal.

    Examples
    --------
    >>> axes = principal_axes(np.array([[0.0, 3.0], [2.0, 3.0]]))
    >>> axes.variance_X
    array([1.])
    """
    mean_D = features_ND.mean(axis=0, dtype=np.float64)
    # With fewer rows than features, the N x N matrix of products has the same eigenvalues and is
    # smaller.
    many = len(features_ND) > features_ND.shape[1]
    centred = np.empty((0, features_ND.shape[1])) if many else features_ND - mean_D
    products = _products(features_ND, mean_D) if many else centred @ centred.T
    variance, vectors = np.linalg.eigh(products / len(features_ND))
    keep = variance > variance.max(initial=0) * 1e-12
    variance = variance[keep]
    vectors = vectors[:, keep]
    axes_DX = vectors if many else centred.T @ (vectors / np.sqrt(variance * len(features_ND)))
    total = variance.sum()
    if not total > 0:
        raise UserError(
            "--finetune head: the backbone gives every image the same features; pass other weights"
        )
    return Axes(mean_D, axes_DX / math.sqrt(total), variance / total)


def blocks(num_rows: int) -> Iterator[slice]:
    """Yield blocks of rows: float64 copies of all rows at once would take much memory."""
    return block_starts(num_rows, AT_ONCE)


def _products(features_ND: np.ndarray, mean_D: np.ndarray) -> np.ndarray:
    """Return the sums over rows of the products of each two centred features, D x D."""
    found_DD = np.zeros((len(mean_D), len(mean_D)))
    for at in blocks(len(features_ND)):
        centred_ND = features_ND[at] - mean_D
        found_DD += centred_ND.T @ centred_ND
    return found_DD


def own_scales(rows_NX: np.ndarray, weight_ZN: np.ndarray) -> np.ndarray:
    """Return the total variance of the rows that each problem uses, Z numbers.

    An L2 penalty multiplied by this scale has the same effect in every problem, and does not depend
    on rows that the problem leaves out.

    Parameters
    ----------
    rows_NX
        Rows in principal axes.
    weight_ZN
        Row weights of each problem; rows of weight 0 are not used.
    """
    return np.array([_total_variance(rows_NX, weight_N > 0) for weight_N in weight_ZN])


def _total_variance(rows_NX: np.ndarray, used_N: np.ndarray) -> float:
    """Return the sum over axes of the variance of the rows that are used."""
    if len(rows_NX) <= AT_ONCE:
        return float(rows_NX[used_N].var(axis=0).sum())
    parts = [(rows_NX[at], used_N[at]) for at in blocks(len(rows_NX))]
    mean_X = sum(rows[used].sum(axis=0) for rows, used in parts) / used_N.sum()
    squares = sum(float(((rows[used] - mean_X) ** 2).sum()) for rows, used in parts)
    return squares / float(used_N.sum())
