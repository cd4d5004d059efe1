"""Rules for 95 % intervals of macro F1 and of its differences, which intervals.py compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri, stdtrit

from foldblend.scores.bootstrap import group_resamples
from foldblend.scores.intervals import percentile_interval
from foldblend.scores.metrics import METRICS, Counts
from foldblend.scores.rows import Rows
from foldblend.scores.score import Score

__all__ = ["RULES", "USED", "Ends", "counted", "measured"]

F1 = "f1_macro"
Ends = tuple[float, float]


def counted(rows: Rows, proba_NC: np.ndarray) -> np.ndarray:
    """Return rows per group and class, G x 3C: right, true and predicted ones."""
    group_N = np.unique(rows.group_N, return_inverse=True)[1]
    num_classes = proba_NC.shape[1]
    predicted_N = proba_NC.argmax(axis=1)
    at_N = rows.label_N == predicted_N
    counts_GX = np.zeros((group_N.max() + 1, 3 * num_classes))
    np.add.at(counts_GX, (group_N[at_N], rows.label_N[at_N]), 1)
    np.add.at(counts_GX, (group_N, rows.label_N + num_classes), 1)
    np.add.at(counts_GX, (group_N, predicted_N + 2 * num_classes), 1)
    return counts_GX


def f1_of(counts_BX: np.ndarray) -> np.ndarray:
    """Return macro F1 of counts."""
    of_counts = METRICS[F1].of_counts
    assert of_counts is not None
    unused = np.zeros(len(counts_BX))
    return of_counts(Counts(*np.split(counts_BX, 3, axis=1), unused, unused))


def slopes(counts_BX: np.ndarray) -> np.ndarray:
    """Return the derivative of macro F1 by each count, which is 0 where there is none."""
    found_BX = np.zeros_like(counts_BX)
    for column in range(counts_BX.shape[1]):
        step_BX = np.zeros_like(counts_BX)
        step_BX[:, column] = 1e-4 * counts_BX[:, column]
        twice_B = 2 * np.maximum(step_BX[:, column], 1e-12)
        difference_B = f1_of(counts_BX + step_BX) - f1_of(counts_BX - step_BX)
        found_BX[:, column] = np.where(counts_BX[:, column] > 0, difference_B / twice_B, 0)
    return found_BX


@dataclass(frozen=True)
class Measured:
    """A score or a difference as the rules need it: also resampled and without each group."""

    value: float
    resamples_B: np.ndarray
    errors_B: np.ndarray
    """Standard error of each resample by the infinitesimal jackknife."""
    bayes_B: np.ndarray
    """Scores with Dirichlet weights."""
    influence_G: np.ndarray
    left_out_G: np.ndarray
    used: Score
    is_difference: bool

    @property
    def error(self) -> float:
        """Standard error by the infinitesimal jackknife."""
        return float(np.sqrt((self.influence_G**2).sum()))

    @property
    def jackknife_error(self) -> float:
        num = len(self.left_out_G)
        return float(np.sqrt((num - 1) * self.left_out_G.var()))

    @property
    def quantile(self) -> float:
        return float(stdtrit(len(self.left_out_G) - 1, 0.975))


def measured(
    counts_GX: Sequence[np.ndarray],
    scores: Sequence[Score],
    terms: Sequence[tuple[int, int]],
    seed: int,
) -> Measured:
    """Return what the rules need of a sum of scores, from counts and scores of predictions."""
    num_groups = len(counts_GX[0])
    draw_BG = np.concatenate(list(group_resamples(num_groups, 0)))
    weight_BG = np.random.default_rng(seed).dirichlet(np.ones(num_groups), len(draw_BG))

    def total(of_one: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return np.sum([sign * of_one(counts_GX[place]) for sign, place in terms], axis=0)

    influence_BG = total(lambda one_GX: slopes(draw_BG @ one_GX) @ one_GX.T)
    used = scores[terms[0][1]]
    if len(terms) > 1:
        used = used.minus(scores[terms[1][1]])
    return Measured(
        value=float(total(lambda one_GX: f1_of(one_GX.sum(axis=0)[None]))[0]),
        resamples_B=total(lambda one_GX: f1_of(draw_BG @ one_GX)),
        errors_B=np.sqrt((draw_BG * influence_BG**2).sum(axis=1)),
        bayes_B=total(lambda one_GX: f1_of(weight_BG @ one_GX * num_groups)),
        influence_G=total(lambda one_GX: one_GX @ slopes(one_GX.sum(axis=0)[None])[0]),
        left_out_G=total(lambda one_GX: f1_of(one_GX.sum(axis=0) - one_GX)),
        used=used,
        is_difference=len(terms) > 1,
    )


def _percentile(one: Measured) -> Ends:
    found = percentile_interval(one.value, one.resamples_B)
    return found.low, found.high


def _basic(one: Measured) -> Ends:
    low, high = np.quantile(one.resamples_B, [0.025, 0.975])
    return 2 * one.value - high, 2 * one.value - low


def _bayesian(one: Measured) -> Ends:
    low, high = np.quantile(one.bayes_B, [0.025, 0.975])
    return low, high


def _percentile_t(one: Measured) -> Ends:
    """Return percentiles at the levels of the t distribution (Hesterberg 2015)."""
    low, high = np.quantile(one.resamples_B, [ndtr(-one.quantile), ndtr(one.quantile)])
    return low, high


def _bca(one: Measured, quantile: float = 1.96) -> Ends:
    below = (one.resamples_B < one.value).mean() + (one.resamples_B == one.value).mean() / 2
    bias = ndtri(np.clip(below, 0.001, 0.999))
    skewness = (one.influence_G**3).sum() / max(6 * one.error**3, 1e-30)
    z = bias + np.array([-quantile, quantile])
    low, high = np.quantile(one.resamples_B, ndtr(bias + z / (1 - skewness * z)))
    return low, high


def _studentised(one: Measured) -> Ends:
    # The error of a resample without mistakes is 0.
    errors_B = np.maximum(one.errors_B, 0.2 * one.error + 1e-12)
    low, high = np.quantile((one.resamples_B - one.value) / errors_B, [0.025, 0.975])
    return one.value - high * one.error, one.value - low * one.error


def _symmetric(value: float, half: float) -> Ends:
    return value - half, value + half


def _logit_jackknife(one: Measured) -> Ends:
    if one.is_difference or not 0 < one.value < 1:
        return _symmetric(one.value, one.quantile * one.jackknife_error)
    half = one.quantile * one.jackknife_error / (one.value * (1 - one.value))
    low, high = expit(logit(one.value) + np.array([-half, half]))
    return low, high


def _used(one: Measured) -> Ends:
    found = one.used.interval()
    return found.low, found.high


RULES: dict[str, Callable[[Measured], Ends]] = {
    "percentile": _percentile,
    "percentile at t levels": _percentile_t,
    "basic": _basic,
    "BCa": _bca,
    "BCa at t levels": lambda one: _bca(one, one.quantile),
    "studentised": _studentised,
    "Bayesian bootstrap": _bayesian,
    "infinitesimal jackknife, normal": lambda one: _symmetric(one.value, 1.96 * one.error),
    "infinitesimal jackknife, t": lambda one: _symmetric(one.value, one.quantile * one.error),
    "jackknife, t": lambda one: _symmetric(one.value, one.quantile * one.jackknife_error),
    "jackknife, t, logit of scores": _logit_jackknife,
    "used (jackknife, t, Wilson of scores)": _used,
}
USED = [*RULES][-1]
