"""ROC AUC of each class against the others, also for weighted rows and without each group."""

from __future__ import annotations

import numpy as np

__all__ = ["roc_auc_left_out", "roc_auc_of_weights", "roc_auc_ovr"]


def roc_auc_ovr(label_N: np.ndarray, proba_NC: np.ndarray) -> float:
    """Return the mean one-vs-rest ROC AUC of the classes that occur, or NaN if only one does."""
    return float(roc_auc_of_weights(label_N, proba_NC, np.ones((1, len(label_N))))[0])


def roc_auc_of_weights(
    label_N: np.ndarray, proba_NC: np.ndarray, weight_BN: np.ndarray
) -> np.ndarray:
    """Return the mean one-vs-rest ROC AUC for each of B row weightings, by ranks.

    Classes without weight are left out. The AUC of a class is its Mann-Whitney U statistic over the
    number of pairs, which equals scikit-learn's value (Mann and Whitney 1947). Axis T has one entry
    per distinct probability.
    """
    auc_sum_B = np.zeros(len(weight_BN))
    num_B = np.zeros(len(weight_BN))
    for label in np.unique(label_N):
        order = np.argsort(proba_NC[:, label], kind="stable")
        ordered_N = proba_NC[order, label]
        is_true_N = label_N[order] == label
        # Tied rows are summed; a pair of tied rows counts one half.
        starts = np.flatnonzero(np.r_[True, ordered_N[1:] != ordered_N[:-1]])
        weight_BT = np.add.reduceat(weight_BN[:, order], starts, axis=1)
        true_BT = np.add.reduceat(weight_BN[:, order] * is_true_N, starts, axis=1)
        other_BT = weight_BT - true_BT
        below_BT = np.cumsum(other_BT, axis=1) - other_BT / 2
        pairs_B = true_BT.sum(axis=1) * other_BT.sum(axis=1)
        auc_sum_B += (true_BT * below_BT).sum(axis=1) / np.maximum(pairs_B, 1)
        num_B += pairs_B > 0
    return np.where(num_B > 0, auc_sum_B / np.maximum(num_B, 1), np.nan)


def roc_auc_left_out(
    label_N: np.ndarray, proba_NC: np.ndarray, group_N: np.ndarray, num_groups: int
) -> np.ndarray:
    """Return the mean one-vs-rest ROC AUC without each group, G.

    The pairs of the group's rows are taken from all pairs. Those within the group are pairs of two
    of its rows, so they must not be taken twice.

    Parameters
    ----------
    label_N, proba_NC
        True class and class probabilities of each row.
    group_N
        Group of each row, from 0 to `num_groups` - 1.
    num_groups
        Number of groups, G.

    Examples
    --------
    >>> proba_N = np.array([0.9, 0.4, 0.6, 0.2])
    >>> proba_NC = np.column_stack([proba_N, 1 - proba_N])
    >>> roc_auc_left_out(np.array([0, 0, 1, 1]), proba_NC, np.arange(4), 4).tolist()
    [0.5, 1.0, 1.0, 0.5]
    """
    auc_sum_G = np.zeros(num_groups)
    num_G = np.zeros(num_groups)
    one_block_N = np.zeros(len(label_N), int)
    for label in np.unique(label_N):
        is_true_N = label_N == label
        true_G = np.bincount(group_N, is_true_N, num_groups)
        other_G = np.bincount(group_N, ~is_true_N, num_groups)
        won_N = _pairs_won(proba_NC[:, label], is_true_N, one_block_N)
        within_N = _pairs_won(proba_NC[:, label], is_true_N, group_N)
        won_G = np.bincount(group_N, won_N - within_N * is_true_N, num_groups)
        pairs_G = (true_G.sum() - true_G) * (other_G.sum() - other_G)
        auc_sum_G += (won_N[is_true_N].sum() - won_G) * (pairs_G > 0) / np.maximum(pairs_G, 1)
        num_G += pairs_G > 0
    return np.where(num_G > 0, auc_sum_G / np.maximum(num_G, 1), np.nan)


def _pairs_won(proba_N: np.ndarray, is_true_N: np.ndarray, block_N: np.ndarray) -> np.ndarray:
    """Return in how many pairs of a row the true one has the higher probability; a tie counts half.

    A pair is a row of the class and one of another class, in the same block.
    """
    order = np.lexsort((proba_N, block_N))
    block_N = block_N[order]
    ordered_N = proba_N[order]
    is_new_N = np.r_[True, (ordered_N[1:] != ordered_N[:-1]) | (block_N[1:] != block_N[:-1])]
    tie_N = np.cumsum(is_new_N) - 1
    true_N = is_true_N[order]
    true_T = np.bincount(tie_N, true_N)
    other_T = np.bincount(tie_N, ~true_N)
    # Rows of earlier blocks are not below; rows of the block that are not below or tied are above.
    sizes = np.bincount(block_N)
    first_N = (np.cumsum(sizes) - sizes)[block_N]
    true_before_N = np.r_[0, np.cumsum(true_N)]
    other_before_N = np.r_[0, np.cumsum(~true_N)]
    below_N = (np.cumsum(other_T) - other_T / 2)[tie_N] - other_before_N[first_N]
    up_to_N = (np.cumsum(true_T) - true_T / 2)[tie_N]
    above_N = true_before_N[first_N + sizes[block_N]] - up_to_N
    won_N = np.empty(len(order))
    won_N[order] = np.where(true_N, below_N, above_N)
    return won_N
