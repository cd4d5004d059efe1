"""Intervals by bootstrap over groups (people), never over images; comparisons are paired."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from foldblend.scores.metrics import Counts, Metric, mean_score, row_log_loss, rows_by_repeat

__all__ = [
    "Interval",
    "bootstrap_scores",
    "group_resamples",
    "percentile_interval",
    "score_interval",
]

NUM_RESAMPLES = 1000
NUM_RESAMPLES_SLOW = 200  # of scores that need the rows themselves
CHUNK = 50
MOST_KEPT = 2**22  # draws, of 8 bytes each
MOST_DENSE = 16  # cells a row


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"

    def as_dict(self) -> dict[str, float | None]:
        """Return it as JSON knows it: what is not finite is None."""
        parts = {"value": self.value, "low": self.low, "high": self.high}
        return {name: float(part) if np.isfinite(part) else None for name, part in parts.items()}


def group_resamples(
    num_groups: int, seed: int, num_resamples: int = NUM_RESAMPLES
) -> Iterator[np.ndarray]:
    """Yield how often each group is drawn, R x G floats, in chunks of at most 50 resamples; not to
    be written to.
    """
    if num_groups * num_resamples <= MOST_KEPT:
        return iter(_kept_resamples(num_groups, seed, num_resamples))
    return _resamples(num_groups, seed, num_resamples)


@functools.lru_cache(maxsize=4)
def _kept_resamples(num_groups: int, seed: int, num_resamples: int) -> list[np.ndarray]:
    """Return the resamples, which many scores of one report ask for."""
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


def _counts_of_groups(
    label_N: np.ndarray, predicted_N: np.ndarray, group_N: np.ndarray, num_classes: int
) -> Any:
    """Return each group's rows by class, G x 3C: right, true, predicted; whole where that is small,
    else sparse.
    """
    is_right_N = label_N == predicted_N
    class_K = np.concatenate(
        [label_N[is_right_N], label_N + num_classes, predicted_N + 2 * num_classes]
    )
    group_K = np.concatenate([group_N[is_right_N], group_N, group_N])
    shape = int(group_N.max()) + 1, 3 * num_classes
    if shape[0] * shape[1] <= MOST_DENSE * len(label_N):  # then a product of matrices is faster
        counts = np.bincount(group_K * shape[1] + class_K, minlength=shape[0] * shape[1])
        return counts.reshape(shape).astype(np.float64)
    import scipy.sparse

    return scipy.sparse.csr_matrix((np.ones(len(class_K)), (group_K, class_K)), shape=shape)


def bootstrap_scores(
    metric: Metric,
    label_N: np.ndarray,
    proba_NC: np.ndarray,
    group_N: np.ndarray,
    *,
    repeat_N: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Return the score of each resample of groups: 1,000, or 200 where the score needs the rows.

    Equal groups and seed draw the same groups, so differences of two calls are paired. A class
    that is missing from a resample is left out of that resample. Where a cross-validation was
    repeated, a resample's score is the mean over repeats.
    """
    scores = [
        _scores_of_one(metric, label_N[rows], proba_NC[rows], group_N[rows], seed)
        for rows in rows_by_repeat(repeat_N, len(label_N))
    ]
    return np.asarray(np.mean(scores, axis=0))


def _scores_of_one(
    metric: Metric, label_N: np.ndarray, proba_NC: np.ndarray, group_N: np.ndarray, seed: int
) -> np.ndarray:
    names, group_N = np.unique(group_N, return_inverse=True)
    if metric.of_weights is not None:
        draws = group_resamples(len(names), seed, NUM_RESAMPLES_SLOW)
        return np.concatenate(
            [metric.of_weights(label_N, proba_NC, draw_BG[:, group_N]) for draw_BG in draws]
        )
    assert metric.of_counts is not None, metric
    predicted_N = proba_NC.argmax(1)
    num_classes = proba_NC.shape[1]
    counts_GK = _counts_of_groups(label_N, predicted_N, group_N, num_classes)
    loss_G = np.bincount(group_N, row_log_loss(label_N, proba_NC))
    distance_G = np.bincount(group_N, (label_N - predicted_N) ** 2.0)
    chunks = []
    with _blas().limit(limits=1):  # small products, on which threads would only wait for each other
        for draw_BG in group_resamples(len(names), seed):
            right_BC, truth_BC, guessed_BC = np.split(draw_BG @ counts_GK, 3, axis=1)
            counts = Counts(right_BC, truth_BC, guessed_BC, draw_BG @ loss_G, draw_BG @ distance_G)
            chunks.append(metric.of_counts(counts))
    return np.concatenate(chunks)


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def percentile_interval(value: float, scores: np.ndarray) -> Interval:
    """Return the value with the 95 % percentile interval of its resamples."""
    if np.isnan(scores).all():
        return Interval(value, np.nan, np.nan)
    low, high = np.nanquantile(scores, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def score_interval(
    metric: Metric,
    label_N: np.ndarray,
    proba_NC: np.ndarray,
    group_N: np.ndarray,
    *,
    repeat_N: np.ndarray | None = None,
    seed: int = 0,
) -> Interval:
    """Return the score (mean over repeats) with its 95 % percentile interval by bootstrap over
    groups.
    """
    scores = bootstrap_scores(metric, label_N, proba_NC, group_N, repeat_N=repeat_N, seed=seed)
    return percentile_interval(mean_score(metric, label_N, proba_NC, repeat_N), scores)
