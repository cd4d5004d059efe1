"""Fit offsets per class by coordinate ascent: one class at a time, over every possible threshold.

This suits every metric that is computed from how often each class is predicted for each true class,
because then the score of all thresholds of a class is a cumulative sum over the rows, sorted by
their margin. The search is exact for one class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from foldblend.scores.metrics import MEAN_COST, METRICS, Metric

__all__ = ["ASCENTS", "ascend", "best_offset", "line", "prior_correction"]

NUM_SWEEPS = 3
REACH = 1.0  # largest distance of a threshold from the nearest row, in log-probability
LEAST_COST = 0.01  # of an error, as a share of the mean; for the start of the ascent
TIE = 1e-9  # margins that differ by less are equal


@dataclass(frozen=True, slots=True)
class _Moves:
    """Rows that one class gains from its rivals, one after the other; axis N is in this order."""

    label: int
    """The class that gains rows, as a number from 0 to E - 1."""
    label_N: np.ndarray
    """True class of each row."""
    rival_N: np.ndarray
    """The class that each row is taken from."""
    class_E: np.ndarray
    """Number of each class among all C classes, which also count classes without rows."""


def _f1(right: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return 2 * right / np.maximum(truth + predicted, 1)


def _f1_sums(moves: _Moves, metric: Metric) -> np.ndarray:
    """Return the summed F1 of all classes after each move, N + 1."""
    num_classes = len(moves.class_E)
    num_rows = len(moves.label_N)
    own_f1_N = _f1(
        np.cumsum(moves.label_N == moves.label),
        (moves.label_N == moves.label).sum(),
        np.arange(1, num_rows + 1),
    )
    # The rows that each rival loses, one after the other. Integers of 16 bits are sorted by radix
    # sort, which is much faster.
    by_rival = np.argsort(moves.rival_N.astype(np.uint16), kind="stable")
    loser_N = moves.rival_N[by_rival]
    is_right_N = moves.label_N == moves.rival_N
    truth_C, predicted_C = (
        np.bincount(each_N, minlength=num_classes) for each_N in (moves.label_N, moves.rival_N)
    )
    end_C = np.cumsum(predicted_C)
    right_N = is_right_N[by_rival]
    seen = np.r_[0, np.cumsum(right_N)]
    left_N = end_C[loser_N] - np.arange(1, num_rows + 1)  # rows that remain with the loser
    still_N = seen[end_C[loser_N]] - seen[1:]  # those of them that it predicts correctly
    truth_N = truth_C[loser_N]
    change_N = np.empty(num_rows)
    change_N[by_rival] = _f1(still_N, truth_N, left_N) - _f1(still_N + right_N, truth_N, left_N + 1)
    right_C = np.bincount(moves.rival_N[is_right_N], minlength=num_classes)
    before = _f1(right_C, truth_C, predicted_C).sum()
    return before + np.r_[0, np.cumsum(change_N) + own_f1_N]


def _after(before_N: np.ndarray, after_N: np.ndarray) -> np.ndarray:
    """Return a sum over rows after each move, N + 1, from the rows' values before and after it."""
    return before_N.sum() + np.r_[0, np.cumsum(after_N - before_N)]


def _distances(moves: _Moves, metric: Metric) -> np.ndarray:
    """Return the summed distance of true and predicted classes after each move, N + 1."""
    label_N = moves.class_E[moves.label_N]
    rival_N = moves.class_E[moves.rival_N]
    own_N = np.full_like(rival_N, moves.class_E[moves.label])
    return _after(metric.distance(label_N, rival_N), metric.distance(label_N, own_N))


def _kappas(moves: _Moves, metric: Metric) -> np.ndarray:
    """Return quadratic kappa after each move, N + 1, or 0 where it is not defined."""
    label_N = moves.class_E[moves.label_N]
    rival_N = moves.class_E[moves.rival_N]
    own_N = np.full_like(rival_N, moves.class_E[moves.label])
    both = (label_N**2).sum() + _after(rival_N**2, own_N**2)
    expected = both - 2 * label_N.sum() * _after(rival_N, own_N) / len(label_N)
    found = 1 - _distances(moves, metric) / np.where(expected > 0, expected, 1)
    return np.where(expected > 0, found, 0)


def _savings(moves: _Moves, metric: Metric) -> np.ndarray:
    """Return minus the mean cost after each move, N + 1.

    Its unit is the difference between the worst and the best prediction, averaged over classes.
    """
    assert metric.cost_CC is not None
    unit = np.ptp(metric.cost_CC, axis=1).mean()
    return -_distances(moves, metric) / len(moves.label_N) / unit


def _of_all_classes(offset_E: np.ndarray, present: np.ndarray, num_classes: int) -> np.ndarray:
    """Return offsets C from those of the E classes that occur, centred to mean 0.

    Classes without rows get the lowest offset, so that they never gain rows.
    """
    centred_E = offset_E - offset_E.mean()
    offset_C = np.full(num_classes, centred_E.min())
    offset_C[present] = centred_E
    return offset_C


def prior_correction(log_NC: np.ndarray, label_N: np.ndarray, metric: Metric) -> np.ndarray:
    """Return offsets C that undo the class frequencies, the best for balanced accuracy."""
    present, num_rows = np.unique(label_N, return_counts=True)
    return _of_all_classes(-np.log(num_rows), present, log_NC.shape[1])


def _cost_correction(log_NC: np.ndarray, label_N: np.ndarray, metric: Metric) -> np.ndarray:
    """Return offsets C that suit the costs of a calibrated model, for each pair of classes.

    Between two classes the best threshold is where the expected costs of both are equal. Where a
    cost depends on the true class alone, or on the predicted class alone, these offsets are the
    best decision; otherwise they are the mean over pairs.
    """
    assert metric.cost_CC is not None
    extra_CC = metric.cost_CC - metric.cost_CC.diagonal()[:, None]
    # An error that costs nothing would need an infinite offset.
    log_CC = np.log(np.maximum(extra_CC, LEAST_COST * np.abs(extra_CC).mean()))
    np.fill_diagonal(log_CC, 0)
    return np.asarray((log_CC - log_CC.T).mean(axis=1))


@dataclass(frozen=True, slots=True)
class _Ascent:
    """Fit of offsets by coordinate ascent, for one metric."""

    scores: Callable[[_Moves, Metric], np.ndarray]
    """Scores after each move of rows to a class, N + 1; greater is better."""
    nearly: float
    """Changes that raise the score by less are not made."""
    start: Callable[[np.ndarray, np.ndarray, Metric], np.ndarray]
    """Function from log-probabilities N x C, labels N and the metric to the first offsets C."""
    share: float
    """Share of these offsets from which the ascent starts, since all of them often go too far."""


ASCENTS = {
    "f1_macro": _Ascent(_f1_sums, nearly=5e-3, start=prior_correction, share=0.25),
    "kappa_quadratic": _Ascent(_kappas, nearly=3e-3, start=prior_correction, share=0.25),
    MEAN_COST: _Ascent(_savings, nearly=1e-3, start=_cost_correction, share=0.5),
}


def line(
    label: int,
    log_EN: np.ndarray,
    label_N: np.ndarray,
    offset_E: np.ndarray,
    metric: Metric = METRICS["f1_macro"],
    class_E: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the score for every threshold of one class.

    A row is predicted as the class if the class's offset exceeds the row's margin: the difference
    between the best other class (the rival) and this class. From one margin to the next one row
    changes from its rival to this class.

    Returns
    -------
    (array N + 2, array N + 1)
        Edges of the offset (minus infinity, the sorted margins, infinity), and the score between
        two edges.
    """
    num_classes, num_rows = log_EN.shape
    rival_EN = log_EN + offset_E[:, None]
    rival_EN[label] = -np.inf
    rival_N = rival_EN.argmax(axis=0)
    margin_N = rival_EN[rival_N, np.arange(num_rows)] - log_EN[label]
    order = np.argsort(margin_N)
    class_E = np.arange(num_classes) if class_E is None else class_E
    moves = _Moves(label, label_N[order], rival_N[order], class_E)
    scores = ASCENTS[metric.name].scores(moves, metric)
    return np.r_[-np.inf, margin_N[order], np.inf], scores


def best_offset(
    label: int,
    log_EN: np.ndarray,
    label_N: np.ndarray,
    offset_E: np.ndarray,
    metric: Metric = METRICS["f1_macro"],
    class_E: np.ndarray | None = None,
) -> float:
    """Return the offset of a class with nearly the best score, closest to the present offset.

    It lies in the middle between two margins, where new rows are least likely to be on the wrong
    side.
    """
    edges, scores = line(label, log_EN, label_N, offset_E, metric, class_E)
    low = edges[:-1]
    high = edges[1:]
    present = float(offset_E[label])
    scores = np.where(high - low > TIE, scores, -np.inf)
    good = np.flatnonzero(scores >= scores.max() - ASCENTS[metric.name].nearly)
    away = np.maximum(low[good] - present, present - high[good])
    nearest = good[away.argmin()]
    if away.min() <= 0:
        return present
    inward = min(float(high[nearest] - low[nearest]) / 2, REACH)
    return float(low[nearest] + inward if low[nearest] > present else high[nearest] - inward)


def ascend(log_NC: np.ndarray, label_N: np.ndarray, metric: Metric) -> np.ndarray:
    """Return offsets C of a high score over the classes that occur, by coordinate ascent."""
    present, code_N = np.unique(label_N, return_inverse=True)
    if len(present) < 2:
        return np.zeros(log_NC.shape[1])
    log_EN = np.ascontiguousarray(log_NC[:, present].T)
    how = ASCENTS[metric.name]
    offset_E = how.share * how.start(log_NC, label_N, metric)[present]
    for _ in range(NUM_SWEEPS):
        before_E = offset_E.copy()
        for code in range(len(present)):
            offset_E[code] = best_offset(code, log_EN, code_N, offset_E, metric, present)
        if (offset_E == before_E).all():
            break
    return _of_all_classes(offset_E, present, log_NC.shape[1])
