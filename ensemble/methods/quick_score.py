"""Score many candidates on the same rows, quickly for metrics of the predicted class."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ensemble.methods.base import Evidence
from foldblend.scores.by_group import by_group
from foldblend.scores.metrics import LOG_LOSS, Counts, mean_score, rows_by_repeat

__all__ = ["quick_score"]


def quick_score(evidence: Evidence) -> Callable[[np.ndarray], float]:
    """Return a function that scores probabilities N x C; greater is better.

    For a metric by group, the probabilities are pooled first, like everywhere.

    The score is the mean over repeats, as in the report.
    """
    metric = evidence.score
    if metric.pool:
        return _by_group(evidence)
    label_N = evidence.rows.label_N
    num_classes = evidence.num_classes
    sign = metric.sign
    of_counts = metric.of_counts
    if of_counts is None or metric.name == LOG_LOSS:
        return lambda proba_NC: sign * mean_score(metric, label_N, proba_NC, evidence.rows.repeat_N)
    # The other metrics depend only on the predicted class, so counts of rows are enough.
    parts = rows_by_repeat(evidence.rows.repeat_N, len(label_N))
    repeat_N = np.empty(len(label_N), np.int64)
    for number, rows in enumerate(parts):
        repeat_N[rows] = number
    shape = (len(parts), num_classes)

    def count(class_N: np.ndarray, weight_N: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(
            repeat_N * num_classes + class_N, weight_N, minlength=shape[0] * shape[1]
        ).reshape(shape)

    truth_RC = count(label_N)
    unasked_R = np.full(len(parts), np.nan)

    def score(proba_NC: np.ndarray) -> float:
        predicted_N = proba_NC.argmax(axis=1)
        distance_R = np.bincount(repeat_N, metric.distance(label_N, predicted_N))
        right_RC = count(label_N, predicted_N == label_N)
        return sign * float(
            of_counts(Counts(right_RC, truth_RC, count(predicted_N), unasked_R, distance_R)).mean()
        )

    return score


def _by_group(evidence: Evidence) -> Callable[[np.ndarray], float]:
    """Return a function that pools probabilities N x C by group and scores the groups."""
    metric = evidence.score
    rows = evidence.rows
    unused_NC = np.ones((len(rows), evidence.num_classes))
    groups, any_GC = by_group(rows, unused_NC, metric.pool)
    score = quick_score(Evidence([any_GC], groups, metric.by_image))
    return lambda proba_NC: score(by_group(rows, proba_NC, metric.pool)[1])
