"""A score with its resamples, and whether one is better than another by more than chance."""

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
    """A score and that of each resample of groups; greater is better, whatever the metric."""

    value: float
    resamples_R: np.ndarray
    sign: int = 1
    """The metric's: times this, they are as the metric has them."""

    def interval(self) -> Interval:
        """Return the score as the metric has it, with its 95 % interval."""
        return percentile_interval(self.sign * self.value, self.sign * self.resamples_R)

    def minus(self, other: Score | float) -> Score:
        """Return the difference to another score, paired, or to a number."""
        if isinstance(other, Score):
            return Score(self.value - other.value, self.resamples_R - other.resamples_R, self.sign)
        return Score(self.value - other, self.resamples_R - other, self.sign)

    @property
    def error(self) -> float:
        """The standard error over groups; 0 where it is not known."""
        finite_R = self.resamples_R[np.isfinite(self.resamples_R)]
        return float(finite_R.std()) if len(finite_R) else 0.0


def score_of(
    metric: Metric, rows: Rows, proba_NC: np.ndarray, *, resampled: bool = True, seed: int = 0
) -> Score:
    """Return the score of probabilities N x C, the mean over repeats; without `resampled`, the
    value alone.

    Equal groups and seed draw equal resamples, so differences of two scores are paired.
    """
    value = metric.sign * mean_score(metric, rows.label_N, proba_NC, rows.repeat_N)
    if not resampled:
        return Score(value, np.empty(0), metric.sign)
    scores_R = bootstrap_scores(
        metric, rows.label_N, proba_NC, rows.group_N, repeat_N=rows.repeat_N, seed=seed
    )
    return Score(value, metric.sign * scores_R, metric.sign)


class Gain(NamedTuple):
    """By how much one prediction is better than another, and the standard error of that over
    groups.
    """

    value: float
    error: float

    def exceeds(self, errors: float = 1.0) -> bool:
        """Return whether it is more than so many of its standard errors: more than chance gives on
        other groups.
        """
        return self.value > errors * self.error


def gain(new: Score, old: Score) -> Gain:
    """Return by how much one score is better than another, paired; the error is infinite where it
    is not known.
    """
    difference = new.minus(old)
    known = np.isfinite(difference.resamples_R).any()
    return Gain(difference.value, difference.error if known else np.inf)


def gain_of_sums(gain_G: np.ndarray) -> Gain:
    """Return the gain that is a sum over rows, given each group's share of it; the error needs no
    resamples.
    """
    error = gain_G.std(ddof=1) * np.sqrt(len(gain_G)) if len(gain_G) > 1 else np.inf
    return Gain(float(gain_G.sum()), float(error))


@dataclass(frozen=True, slots=True)
class Scored:
    """A named prediction with its scores."""

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
    """Score a named prediction N x C, and what it implies of each attribute."""
    f1_of = {}
    for attribute in attributes:
        truth_N, as_proba = attribute_view(attribute, rows.label_N, proba_NC)
        f1_of[attribute.name] = mean_score(METRICS["f1_macro"], truth_N, as_proba, rows.repeat_N)
    accuracy = METRICS["accuracy"].score(rows.label_N, proba_NC)
    return Scored(name, score_of(METRICS[metric], rows, proba_NC, seed=seed), accuracy, f1_of)
