"""Scores of bootstrap resamples of groups, never of single images."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from foldblend.scores.metrics import Counts, Metric, row_log_loss, rows_by_repeat

__all__ = ["bootstrap_scores", "counts_of_groups", "group_resamples", "num_resamples_of"]

NUM_RESAMPLES = 1000
NUM_RESAMPLES_SLOW = 200  # for scores that need all rows, not only sums
CHUNK = 50  # resamples per array, to bound memory
MOST_KEPT = 2**22  # cached draws, of 8 bytes each
MOST_DENSE = 16  # cells per row up to which counts are a dense matrix


def num_resamples_of(metric: Metric) -> int:
    """Return how many resamples `bootstrap_scores` draws for a metric."""
    return NUM_RESAMPLES if metric.of_weights is None else NUM_RESAMPLES_SLOW


def group_resamples(
    num_groups: int, seed: int, num_resamples: int = NUM_RESAMPLES
) -> Iterator[np.ndarray]:
    """Yield how often each resample draws each group, in read-only chunks B x G.

    Parameters
    ----------
    num_groups
        Number of groups, G.
    seed
        Seed of the draws.
    num_resamples
        Total number of resamples; a chunk has at most 50 of them.
    """
    if num_groups * num_resamples <= MOST_KEPT:
        return iter(_kept_resamples(num_groups, seed, num_resamples))
    return _resamples(num_groups, seed, num_resamples)


@functools.lru_cache(maxsize=4)
def _kept_resamples(num_groups: int, seed: int, num_resamples: int) -> list[np.ndarray]:
    """Return the resamples from a cache, since all scores of a report use the same ones."""
    return list(_resamples(num_groups, seed, num_resamples))


def _resamples(num_groups: int, seed: int, num_resamples: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, CHUNK):
        size = min(CHUNK, num_resamples - start)
        draws = (
            np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)
            for _ in range(size)
        )
        yield np.stack([draw_G.astype(np.float64) for draw_G in draws])


def counts_of_groups(
    label_N: np.ndarray,
    predicted_N: np.ndarray,
    group_N: np.ndarray,
    num_classes: int,
    num_groups: int,
) -> Any:
    """Return rows per group and class, G x 3C: right, true and predicted ones side by side.

    The result is a dense array if that is small, and a sparse matrix otherwise.
    """
    is_right_N = label_N == predicted_N
    columns = np.concatenate(
        [label_N[is_right_N], label_N + num_classes, predicted_N + 2 * num_classes]
    )
    groups = np.concatenate([group_N[is_right_N], group_N, group_N])
    shape = num_groups, 3 * num_classes
    # A dense matrix is faster to multiply with unless most of its cells are zero.
    if shape[0] * shape[1] <= MOST_DENSE * len(label_N):
        counts = np.bincount(groups * shape[1] + columns, minlength=shape[0] * shape[1])
        return counts.reshape(shape).astype(np.float64)
    import scipy.sparse

    return scipy.sparse.csr_matrix((np.ones(len(columns)), (groups, columns)), shape=shape)


def bootstrap_scores(
    metric: Metric,
    label_N: np.ndarray,
    proba_NC: np.ndarray,
    group_N: np.ndarray,
    *,
    repeat_N: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Return the score of each bootstrap resample of groups.

    Calls with the same groups and seed use the same resamples, so the difference of two results is
    a paired bootstrap difference.

    Parameters
    ----------
    metric
        The score.
    label_N
        True class of each row.
    proba_NC
        Class probabilities of each row.
    group_N
        Group of each row; whole groups are drawn, with replacement.
    repeat_N
        Repeat of the cross-validation of each row (default: there is one). The score of a resample
        is the mean over repeats.
    seed
        Seed of the resamples.

    Returns
    -------
    np.ndarray
        Scores, B: 1,000 of them, or 200 for metrics that need all rows, such as ROC AUC. Classes
        that do not occur in a resample are left out of its score.

    References
    ----------
    Field, C. A. and Welsh, A. H. (2007). Bootstrapping clustered data. Journal of the Royal
    Statistical Society B, 69(3), 369-390.
    """
    scores = [
        _scores_of_one(metric, label_N[rows], proba_NC[rows], group_N[rows], seed)
        for rows in rows_by_repeat(repeat_N, len(label_N))
    ]
    return np.asarray(np.mean(scores, axis=0))


def _scores_of_one(
    metric: Metric, label_N: np.ndarray, proba_NC: np.ndarray, group_N: np.ndarray, seed: int
) -> np.ndarray:
    """Return the score of each resample of one repeat; X are the columns of the counts, 3C."""
    names, group_N = np.unique(group_N, return_inverse=True)
    if metric.of_weights is not None:
        draws = group_resamples(len(names), seed, num_resamples_of(metric))
        return np.concatenate(
            [metric.of_weights(label_N, proba_NC, draw_BG[:, group_N]) for draw_BG in draws]
        )
    assert metric.of_counts is not None, metric
    predicted_N = proba_NC.argmax(1)
    num_classes = proba_NC.shape[1]
    counts_GX = counts_of_groups(label_N, predicted_N, group_N, num_classes, len(names))
    loss_G = np.bincount(group_N, row_log_loss(label_N, proba_NC))
    distance_G = np.bincount(group_N, metric.distance(label_N, predicted_N))
    chunks = []
    # The products are so small that BLAS threads would only wait for each other.
    with _blas().limit(limits=1):
        for draw_BG in group_resamples(len(names), seed):
            right_BC, truth_BC, guessed_BC = np.split(draw_BG @ counts_GX, 3, axis=1)
            counts = Counts(right_BC, truth_BC, guessed_BC, draw_BG @ loss_G, draw_BG @ distance_G)
            chunks.append(metric.of_counts(counts))
    return np.concatenate(chunks)


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()
