"""Scores with bootstrap resamples, and tests whether one score is better than another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from foldblend.attributes import Attribute, attribute_view
from foldblend.scores.bootstrap import Interval, bootstrap_scores, percentile_interval
from foldblend.scores.metrics import METRICS, Metric, mean_score
from foldblend.scores.rows import Rows

__all__ = ["Gain", "Score", "Scored", "gain", "gain_of_sums", "score_of", "score_prediction"]


@dataclass(frozen=True, slots=True)
class Score:
    """A score and its bootstrap resamples over groups, signed so that greater is better."""

    value: float
    resamples_B: np.ndarray
    sign: int = 1
    """Sign of the metric; multiplied by it, the score has the metric's own sign."""

    def interval(self) -> Interval:
        """Return the score, with the metric's own sign, and its 95 % interval."""
        return percentile_interval(self.sign * self.value, self.sign * self.resamples_B)

    def minus(self, other: Score | float) -> Score:
        """Return the difference to another score (a paired one) or to a number."""
        if isinstance(other, Score):
            return Score(self.value - other.value, self.resamples_B - other.resamples_B, self.sign)
        return Score(self.value - other, self.resamples_B - other, self.sign)

    @property
    def error(self) -> float:
        """Standard error over groups, or 0 where it is unknown."""
        finite_B = self.resamples_B[np.isfinite(self.resamples_B)]
        return float(finite_B.std()) if len(finite_B) else 0.0


def score_of(
    metric: Metric, rows: Rows, proba_NC: np.ndarray, *, resampled: bool = True, seed: int = 0
) -> Score:
    """Return the score of predictions, the mean over repeats, with bootstrap resamples.

    Scores with the same groups and seed use the same resamples, so their differences are paired.

    Parameters
    ----------
    metric
        The score; less-is-better metrics change their sign.
    rows
        Labels, groups and repeats of the rows.
    proba_NC
        Class probabilities of the rows.
    resampled
        Whether to compute the resamples.
    seed
        Seed of the resamples.
    """
    value = metric.sign * mean_score(metric, rows.label_N, proba_NC, rows.repeat_N)
    if not resampled:
        return Score(value, np.empty(0), metric.sign)
    score_B = bootstrap_scores(
        metric, rows.label_N, proba_NC, rows.group_N, repeat_N=rows.repeat_N, seed=seed
    )
    return Score(value, metric.sign * score_B, metric.sign)


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
    metric: str,
    seed: int = 0,
) -> Scored:
    """Return the score, accuracy and macro F1 of each attribute for a prediction N x C."""
    f1_of = {}
    for attribute in attributes:
        truth_N, as_proba = attribute_view(attribute, rows.label_N, proba_NC)
        f1_of[attribute.name] = mean_score(METRICS["f1_macro"], truth_N, as_proba, rows.repeat_N)
    accuracy = METRICS["accuracy"].score(rows.label_N, proba_NC)
    return Scored(name, score_of(METRICS[metric], rows, proba_NC, seed=seed), accuracy, f1_of)
