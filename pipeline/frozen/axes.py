"""Principal axes of features, in which linear heads are fitted.

Letters of array names in this module: N rows, D features, X principal axes (at most D), Z problems
(see `pipeline.frozen.linear_heads`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from foldblend.errors import UserError

__all__ = ["Axes", "own_scales", "principal_axes"]


@dataclass(frozen=True)
class Axes:
    """Principal axes of features: the map from N x D features to N x X coordinates."""

    mean_D: np.ndarray
    turn_DX: np.ndarray
    variance_X: np.ndarray

    def of(self, features_ND: np.ndarray) -> np.ndarray:
        """Return the N x X float64 coordinates of N x D features."""
        return (features_ND.astype(np.float64) - self.mean_D) @ self.turn_DX


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
    centred = features_ND - mean_D
    # With fewer rows than features, the N x N matrix of products has the same eigenvalues and is
    # smaller.
    many = len(centred) > centred.shape[1]
    variance, vectors = np.linalg.eigh(
        (centred.T @ centred if many else centred @ centred.T) / len(centred)
    )
    keep = variance > variance.max(initial=0) * 1e-12
    variance = variance[keep]
    vectors = vectors[:, keep]
    axes_DX = vectors if many else centred.T @ (vectors / np.sqrt(variance * len(centred)))
    total = variance.sum()
    if not total > 0:
        raise UserError(
            "--finetune head: the backbone gives every image the same features; pass other weights"
        )
    return Axes(mean_D, axes_DX / math.sqrt(total), variance / total)


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
    return np.array([rows_NX[weight_N > 0].var(axis=0).sum() for weight_N in weight_ZN])
