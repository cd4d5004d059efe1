"""Scores with intervals and resamples, and tests whether one score is better than another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from foldblend.attributes import Attribute, attribute_view
from foldblend.scores.bootstrap import bootstrap_scores
from foldblend.scores.by_group import pooled
from foldblend.scores.intervals import Interval, Limits, jackknife_interval, percentile_interval
from foldblend.scores.jackknife import effective_groups, left_out_scores
from foldblend.scores.metrics import METRICS, Metric, as_metric, mean_score
from foldblend.scores.rows import Rows

__all__ = [
    "Gain",
    "Score",
    "Scored",
    "gain",
    "gain_of_sums",
    "left_out_score",
    "lowers_loss",
    "score_interval",
    "score_of",
    "score_prediction",
]


def _unknown() -> np.ndarray:
    return np.empty(0)


def _paired(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the differences; unknown where one of both is unknown."""
    return one - other if len(one) == len(other) else _unknown()


@dataclass(frozen=True, slots=True)
class Score:
    """A score, also without each group and in bootstrap resamples; greater is always better."""

    value: float
    resamples_B: np.ndarray
    sign: int = 1
    """Sign of the metric; multiplied by it, the score has the metric's own sign."""
    left_out_G: np.ndarray = field(default_factory=_unknown)
    """The score without each group (see `left_out_scores`); empty where it is unknown."""
    limits: Limits | None = None
    """Limits of the metric, with its own sign; None for a difference."""
    subtracted: float = 0.0
    """Number that was subtracted from a score that has limits."""

    def interval(self) -> Interval:
        """Return the score, with the metric's own sign, and its 95 % interval.

        It is made from the scores without each group (see `jackknife_interval`). Where only
        resamples are known, it is their percentile interval, which is somewhat too narrow.
        """
        if not len(self.left_out_G):
            return percentile_interval(self.sign * self.value, self.sign * self.resamples_B)
        whole = jackknife_interval(
            self.sign * (self.value + self.subtracted),
            self.sign * (self.left_out_G + self.subtracted),
            self.limits,
        )
        return whole.minus(self.sign * self.subtracted) if self.subtracted else whole

    def minus(self, other: Score | float) -> Score:
        """Return the difference to another score (a paired one) or to a number.

        A number moves the interval; it does not change its length.
        """
        if not isinstance(other, Score):
            return Score(
                self.value - other,
                self.resamples_B - other,
                self.sign,
                self.left_out_G - other,
                self.limits,
                self.subtracted + other if self.limits is not None else 0.0,
            )
        return Score(
            self.value - other.value,
            _paired(self.resamples_B, other.resamples_B),
            self.sign,
            _paired(self.left_out_G, other.left_out_G),
        )

    @property
    def error(self) -> float:
        """Standard error over groups, or 0 where it is unknown."""
        finite_B = self.resamples_B[np.isfinite(self.resamples_B)]
        return float(finite_B.std()) if len(finite_B) else 0.0


def _limits(metric: Metric, rows: Rows, proba_NC: np.ndarray, value: float) -> Limits:
    """Return the limits of a metric whose value, with its own sign, is `value`."""
    if not metric.greater_is_better:
        # Losses and costs have no upper limit; a cost may be below 0.
        lowest = 0.0 if metric.cost_CC is None else float(metric.cost_CC.min())
        return Limits(min(lowest, value), np.inf)
    # Kappa is below 0 where predictions are worse than by chance.
    low = -1.0 if metric.needs_order else 0.0
    if low < value < 1:
        return Limits(low, 1.0)
    num = effective_groups(metric, rows.label_N, proba_NC, rows.group_N, repeat_N=rows.repeat_N)
    return Limits(low, 1.0, num)


def score_of(
    metric: Metric, rows: Rows, proba_NC: np.ndarray, *, resampled: bool = True, seed: int = 0
) -> Score:
    """Return the score of predictions, the mean over repeats, with what its interval needs.

    Scores with the same groups and seed use the same resamples, and leave out the same groups in
    turn, so their differences are paired.

    Parameters
    ----------
    metric
        The score; less-is-better metrics change their sign. A metric by group pools the images
        of each group first (see `by_group`).
    rows
        Labels, groups and repeats of the rows.
    proba_NC
        Class probabilities of the rows.
    resampled
        Whether to compute the resamples and the scores without each group.
    seed
        Seed of the resamples.
    """
    rows, proba_NC = pooled(metric, rows, proba_NC)
    if not resampled:
        value = mean_score(metric, rows.label_N, proba_NC, rows.repeat_N)
        return Score(metric.sign * value, _unknown(), metric.sign)
    score_B = bootstrap_scores(
        metric, rows.label_N, proba_NC, rows.group_N, repeat_N=rows.repeat_N, seed=seed
    )
    return replace(_left_out(metric, rows, proba_NC), resamples_B=metric.sign * score_B)


def left_out_score(metric: Metric, rows: Rows, proba_NC: np.ndarray) -> Score:
    """Return a score, the mean over repeats, with what its intervals need, but no resamples."""
    return _left_out(metric, *pooled(metric, rows, proba_NC))


def _left_out(metric: Metric, rows: Rows, proba_NC: np.ndarray) -> Score:
    """Return the score of rows that are pooled already, if the metric is by group."""
    value = mean_score(metric, rows.label_N, proba_NC, rows.repeat_N)
    left_out_G = left_out_scores(
        metric, rows.label_N, proba_NC, rows.group_N, repeat_N=rows.repeat_N
    )
    limits = _limits(metric, rows, proba_NC, value)
    return Score(metric.sign * value, _unknown(), metric.sign, metric.sign * left_out_G, limits)


def score_interval(metric: Metric, rows: Rows, proba_NC: np.ndarray) -> Interval:
    """Return a score, the mean over repeats, with its 95 % interval over groups.

    Examples
    --------
    >>> rows = Rows.of(np.arange(20) % 2, np.arange(20))
    >>> proba_NC = np.eye(2)[[*rows.label_N[:18], 1, 0]]
    >>> print(score_interval(METRICS["accuracy"], rows, proba_NC))
    0.9000 [0.6751, 0.9750]
    """
    return left_out_score(metric, rows, proba_NC).interval()


class Gain(NamedTuple):
    """An improvement of one prediction over another and its standard error over groups."""

    value: float
    error: float

    def exceeds(self, errors: float = 1.0) -> bool:
        """Return whether the gain is greater than `errors` of its standard errors.

        Examples
        --------
        >>> Gain(0.02, 0.01).exceeds(), Gain(0.02, 0.01).exceeds(3)
        (True, False)
        """
        return self.value > errors * self.error


def gain(new: Score, old: Score) -> Gain:
    """Return the paired gain of a new score over an old one.

    Its standard error is infinite where it is unknown.
    """
    difference = new.minus(old)
    known = np.isfinite(difference.resamples_B).any()
    return Gain(difference.value, difference.error if known else np.inf)


def gain_of_sums(gain_G: np.ndarray) -> Gain:
    """Return the total gain from the gain of each group, with its standard error.

    This is for gains that are sums over rows, such as of the log loss; no resamples are needed.
    """
    error = gain_G.std(ddof=1) * np.sqrt(len(gain_G)) if len(gain_G) > 1 else np.inf
    return Gain(float(gain_G.sum()), float(error))


def lowers_loss(before_N: np.ndarray, after_N: np.ndarray, group_N: np.ndarray) -> bool:
    """Return whether the losses of rows fall by more than one standard error over groups.

    Examples
    --------
    >>> group_N = np.array([0, 1, 2])
    >>> lowers_loss(np.array([0.5, 0.6, 0.7]), np.array([0.4, 0.5, 0.5]), group_N)
    True
    """
    code_N = np.unique(group_N, return_inverse=True)[1]
    return gain_of_sums(np.bincount(code_N, before_N - after_N)).exceeds()


@dataclass(frozen=True, slots=True)
class Scored:
    """A prediction with its name and scores."""

    name: str
    score: Score
    accuracy: float
    attributes: Mapping[str, float]
    """Macro F1 of each attribute."""


def score_prediction(
    name: str,
    rows: Rows,
    proba_NC: np.ndarray,
    *,
    attributes: Sequence[Attribute],
    metric: str | Metric,
) -> Scored:
    """Return the score, accuracy and macro F1 of each attribute for a prediction N x C.

    The score has what its intervals need, but no resamples.
    """
    f1_of = {}
    for attribute in attributes:
        truth_N, as_proba = attribute_view(attribute, rows.label_N, proba_NC)
        f1_of[attribute.name] = mean_score(METRICS["f1_macro"], truth_N, as_proba, rows.repeat_N)
    accuracy = METRICS["accuracy"].score(rows.label_N, proba_NC)
    return Scored(name, left_out_score(as_metric(metric), rows, proba_NC), accuracy, f1_of)
