"""Scores without each group in turn, from which intervals are made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from foldblend.scores.bootstrap import counts_of_groups
from foldblend.scores.metrics import Counts, Metric, row_log_loss, rows_by_repeat

__all__ = ["effective_groups", "left_out_of_classes", "left_out_scores"]

MOST_PARTS = 200  # for metrics that have only of_weights
CHUNK = 50  # parts left out at once, for such metrics
MOST_CELLS = 2**20  # counts left out at once, to bound memory


def left_out_scores(
    metric: Metric,
    label_N: np.ndarray,
    proba_NC: np.ndarray,
    group_N: np.ndarray,
    *,
    repeat_N: np.ndarray | None = None,
) -> np.ndarray:
    """Return the score without each group.

    Parameters
    ----------
    metric
        The score.
    label_N
        True class of each row.
    proba_NC
        Class probabilities of each row.
    group_N
        Group of each row.
    repeat_N
        Repeat of the cross-validation of each row (default: there is one). A group is left out of
        all repeats at once, and the score is the mean over repeats.

    Returns
    -------
    np.ndarray
        Scores, G, in the order of the groups' names; NaN where the score is not defined. Classes
        that do not occur in the other groups are left out. A metric that has only `of_weights`
        leaves out 200 parts of the groups in turn if there are more groups.

    Examples
    --------
    >>> from foldblend.scores.metrics import METRICS
    >>> label_N = np.array([0, 0, 1, 1])
    >>> proba_NC = np.eye(2)[[0, 1, 1, 1]]
    >>> left_out_scores(METRICS["accuracy"], label_N, proba_NC, np.array([7, 7, 8, 9])).round(2)
    array([1.  , 0.67, 0.67])
    """
    names, group_N = np.unique(group_N, return_inverse=True)
    if len(names) < 2:
        return np.full(1, np.nan)
    of_repeat = _by_counts if metric.of_counts is not None else _by_rows
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = [
            of_repeat(metric, label_N[rows], proba_NC[rows], group_N[rows], len(names))
            for rows in rows_by_repeat(repeat_N, len(label_N))
        ]
    return np.asarray(np.mean(scores, axis=0))


def left_out_of_classes(
    metric: Metric,
    label_N: np.ndarray,
    predicted_N: np.ndarray,
    group_N: np.ndarray,
    num_classes: int,
) -> np.ndarray:
    """Return the scores of predicted classes, for a metric that counts them (`left_out_scores`)."""
    names, group_N = np.unique(group_N, return_inverse=True)
    if len(names) < 2:
        return np.full(1, np.nan)
    no_loss_G = np.zeros(len(names))
    with np.errstate(divide="ignore", invalid="ignore"):
        return _of_classes(metric, label_N, predicted_N, group_N, num_classes, no_loss_G)


def _by_counts(
    metric: Metric, label_N: np.ndarray, proba_NC: np.ndarray, group_N: np.ndarray, num_groups: int
) -> np.ndarray:
    """Return the score of one repeat without each group, from sums over rows."""
    loss_G = np.bincount(group_N, row_log_loss(label_N, proba_NC), num_groups)
    num_classes = proba_NC.shape[1]
    return _of_classes(metric, label_N, proba_NC.argmax(1), group_N, num_classes, loss_G)


def _of_classes(
    metric: Metric,
    label_N: np.ndarray,
    predicted_N: np.ndarray,
    group_N: np.ndarray,
    num_classes: int,
    loss_G: np.ndarray,
) -> np.ndarray:
    """Return the score without each group from predicted classes and the groups' log losses."""
    assert metric.of_counts is not None, metric
    num_groups = len(loss_G)
    distance_G = np.bincount(group_N, metric.distance(label_N, predicted_N), num_groups)
    loss = loss_G.sum()
    distance = distance_G.sum()
    chunks = []
    for at, counts_GX, total_X in _counts(label_N, predicted_N, group_N, num_classes, num_groups):
        right_GC, truth_GC, guessed_GC = np.split(total_X - counts_GX, 3, axis=1)
        counts = Counts(
            right_GC, truth_GC, guessed_GC, loss - loss_G[at], distance - distance_G[at]
        )
        chunks.append(metric.of_counts(counts))
    return np.concatenate(chunks)


def _counts(
    label_N: np.ndarray,
    predicted_N: np.ndarray,
    group_N: np.ndarray,
    num_classes: int,
    num_groups: int,
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield chunks of groups: their places, their counts and the counts of all groups.

    X are the columns of the counts, 3C.
    """
    counted = (label_N[label_N == predicted_N], label_N, predicted_N)
    total_X = np.concatenate([np.bincount(one, minlength=num_classes) for one in counted])
    step = max(1, MOST_CELLS // len(total_X))
    # The rows of a chunk of groups follow each other in this order.
    is_sorted = bool((group_N[1:] >= group_N[:-1]).all())
    order_N = slice(None) if is_sorted else np.argsort(group_N, kind="stable")
    label_N, predicted_N, group_N = (one[order_N] for one in (label_N, predicted_N, group_N))
    for start in range(0, num_groups, step):
        size = min(step, num_groups - start)
        rows = slice(*np.searchsorted(group_N, (start, start + size)))
        chunk = counts_of_groups(
            label_N[rows], predicted_N[rows], group_N[rows] - start, num_classes, size
        )
        yield slice(start, start + size), _dense(chunk), total_X


def _dense(counts: Any) -> np.ndarray:
    return counts if isinstance(counts, np.ndarray) else np.asarray(counts.toarray())


def _by_rows(
    metric: Metric, label_N: np.ndarray, proba_NC: np.ndarray, group_N: np.ndarray, num_groups: int
) -> np.ndarray:
    """Return the score of one repeat without each group, or each part of the groups."""
    if metric.of_left_out is not None:
        return metric.of_left_out(label_N, proba_NC, group_N, num_groups)
    assert metric.of_weights is not None, metric
    num_parts = min(num_groups, MOST_PARTS)
    part_N = group_N % num_parts
    chunks = []
    for start in range(0, num_parts, CHUNK):
        parts = np.arange(start, min(start + CHUNK, num_parts))
        weight_BN = (parts[:, None] != part_N).astype(np.float64)
        chunks.append(metric.of_weights(label_N, proba_NC, weight_BN))
    return np.concatenate(chunks)


def effective_groups(
    metric: Metric,
    label_N: np.ndarray,
    proba_NC: np.ndarray,
    group_N: np.ndarray,
    *,
    repeat_N: np.ndarray | None = None,
) -> float:
    """Return how many equally weighted groups tell as much about a perfect score as these.

    The weight of a group is what the score would lose if all rows of the group were wrong, or, for
    a score of 0, would gain if they were right. In macro F1 a group of a rare class weighs more, so
    that fewer groups count. Metrics that counts of right rows do not determine weigh classes
    equally. See `left_out_scores` for the parameters.

    Examples
    --------
    >>> from foldblend.scores.metrics import METRICS
    >>> label_N = np.array([0, 0, 0, 0, 1])
    >>> rows = (label_N, np.eye(2)[label_N], np.arange(5))
    >>> effective_groups(METRICS["accuracy"], *rows), effective_groups(METRICS["f1_macro"], *rows)
    (5.0, 3.2)
    """
    names, group_N = np.unique(group_N, return_inverse=True)
    weight_G = np.zeros(len(names))
    for rows in rows_by_repeat(repeat_N, len(label_N)):
        weight_G += _weights(metric, label_N[rows], proba_NC[rows], group_N[rows], len(names))
    return float(weight_G.sum() ** 2 / (weight_G**2).sum())


def _weights(
    metric: Metric, label_N: np.ndarray, proba_NC: np.ndarray, group_N: np.ndarray, num_groups: int
) -> np.ndarray:
    """Return the weight of each group in the score of one repeat, G."""
    predicted_N = proba_NC.argmax(1)
    weight_G = np.zeros(num_groups)
    balanced_G = np.zeros(num_groups)
    for at, counts_GX, total_X in _counts(
        label_N, predicted_N, group_N, proba_NC.shape[1], num_groups
    ):
        right_C, truth_C, guessed_C = np.split(total_X, 3)
        right_GC, truth_GC, _ = np.split(counts_GX, 3, axis=1)
        balanced_G[at] = (truth_GC / np.maximum(truth_C, 1)).sum(axis=1)
        if metric.of_counts is None:
            continue
        unused = np.zeros(1)
        changed_GC = right_C - right_GC if right_C.any() else truth_GC
        same = (
            np.broadcast_to(truth_C, changed_GC.shape),
            np.broadcast_to(guessed_C, changed_GC.shape),
        )
        before = metric.of_counts(
            Counts(right_C[None], truth_C[None], guessed_C[None], unused, unused)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            after = metric.of_counts(Counts(changed_GC, *same, unused, unused))
        weight_G[at] = np.abs(before - after)
    return weight_G if np.isfinite(weight_G).all() and weight_G.any() else balanced_G
