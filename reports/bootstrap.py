"""Intervals by bootstrap over groups (people), never over pictures; comparisons are paired."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from reports.metrics import Counts, Metric, mean_score, row_log_loss, rows_by_repeat

__all__ = ["Interval", "bootstrap_scores", "group_resamples", "percentile_interval", "score_interval"]

NUM_RESAMPLES = 1000
NUM_RESAMPLES_SLOW = 200  # of scores that need the rows themselves
CHUNK = 50


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

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def group_resamples(num_groups: int, seed: int, num_resamples: int = NUM_RESAMPLES) -> Iterator[np.ndarray]:
    """Yield how often each group is drawn, R x G, in chunks of at most 50 resamples."""
    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, CHUNK):
        size = min(CHUNK, num_resamples - start)
        yield np.stack(
            [np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups) for _ in range(size)]
        )


def _count_table(
    class_N: np.ndarray, group_N: np.ndarray, keep_N: np.ndarray, shape: tuple[int, int]
) -> scipy.sparse.csr_matrix:
    """Return rows per class and group, C x G, of the rows to keep."""
    ones = np.ones(int(keep_N.sum()))
    return scipy.sparse.csr_matrix((ones, (class_N[keep_N], group_N[keep_N])), shape=shape)


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
        return np.concatenate([metric.of_weights(label_N, proba_NC, draw_BG[:, group_N]) for draw_BG in draws])
    assert metric.of_counts is not None, metric
    predicted_N, shape = proba_NC.argmax(1), (proba_NC.shape[1], len(names))
    everything = np.ones(len(label_N), bool)
    right = _count_table(label_N, group_N, label_N == predicted_N, shape)
    truth = _count_table(label_N, group_N, everything, shape)
    guessed = _count_table(predicted_N, group_N, everything, shape)
    loss_G = np.bincount(group_N, row_log_loss(label_N, proba_NC))
    distance_G = np.bincount(group_N, (label_N - predicted_N) ** 2.0)
    chunks = []
    for draw_BG in group_resamples(len(names), seed):
        draw_GB = draw_BG.T.astype(np.float64)
        right_BC, truth_BC, guessed_BC = ((table @ draw_GB).T for table in (right, truth, guessed))
        chunks.append(metric.of_counts(Counts(right_BC, truth_BC, guessed_BC, loss_G @ draw_GB, distance_G @ draw_GB)))
    return np.concatenate(chunks)


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
    """Return the score (mean over repeats) with its 95 % percentile interval by bootstrap over groups."""
    scores = bootstrap_scores(metric, label_N, proba_NC, group_N, repeat_N=repeat_N, seed=seed)
    return percentile_interval(mean_score(metric, label_N, proba_NC, repeat_N), scores)
