"""Which of several predictions to take: the simplest that the best cannot be told from, and what choosing flatters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.methods.base import Evidence
from foldblend.scores.bootstrap import Interval, bootstrap_scores, percentile_interval
from foldblend.scores.metrics import Metric, mean_score, softmax

__all__ = ["Score", "choosing_flatters", "gain", "score_of", "simplest"]


@dataclass(frozen=True, slots=True)
class Score:
    """A score, greater is better whatever the metric, and that of each resample of people."""

    value: float
    resamples_R: np.ndarray

    def interval(self, metric: Metric) -> Interval:
        """Return it as the metric has it, with its 95 % interval."""
        sign = metric.sign
        return percentile_interval(sign * self.value, sign * self.resamples_R)

    def minus(self, other: Score | float) -> Score:
        """Return the difference to another one, paired, or to a number."""
        if isinstance(other, Score):
            return Score(self.value - other.value, self.resamples_R - other.resamples_R)
        return Score(self.value - other, self.resamples_R - other)

    @property
    def error(self) -> float:
        """The standard error, over people; 0 where it is not known."""
        finite_R = self.resamples_R[np.isfinite(self.resamples_R)]
        return float(finite_R.std()) if len(finite_R) else 0.0


def score_of(evidence: Evidence, logits_NC: np.ndarray, *, resampled: bool = True) -> Score:
    """Return the score of logits N x C; equal people are drawn for all, so differences are paired."""
    sign, proba_NC = evidence.score.sign, softmax(logits_NC)
    label_N, repeat_N = evidence.label_N, evidence.repeat_N
    value = sign * mean_score(evidence.score, label_N, proba_NC, repeat_N)
    if not resampled:
        return Score(value, np.empty(0))
    return Score(value, sign * bootstrap_scores(evidence.score, label_N, proba_NC, evidence.group_N, repeat_N=repeat_N))


def gain(new: Score, old: Score) -> tuple[float, float]:
    """Return by how much one is better than the other, and the standard error of that, paired over people."""
    difference = new.minus(old)
    known = np.isfinite(difference.resamples_R).any()
    return difference.value, difference.error if known else np.inf


def simplest(scores: Sequence[Score]) -> int:
    """Return the first that is within one standard error of the best score: the error that this score has itself.

    The rule is of Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3.
    """
    known = [place for place, score in enumerate(scores) if np.isfinite(score.value)]
    if not known:  # such as ROC AUC on people of one class
        return 0
    best = max((scores[place] for place in known), key=lambda score: score.value)
    return next(place for place in known if best.value - scores[place].value <= best.error)


def choosing_flatters(scores: Sequence[Score]) -> float:
    """Return by how much the score of what `simplest` takes is expected to flatter, since the same people chose it.

    Each resample of people chooses anew. What its choice scores on it, above what that scores on all people, less
    what the resampling itself moves the choice of all people by, is the bootstrap's estimate of optimism (Efron 1983).
    """
    chosen, value_S = simplest(scores), np.array([score.value for score in scores])
    resamples_SR = np.stack([score.resamples_R for score in scores])
    resamples_SR = resamples_SR[:, np.isfinite(resamples_SR).all(axis=0)]
    if len(scores) < 2 or not resamples_SR.shape[1] or not np.isfinite(value_S).all():
        return 0.0
    best_R, columns = resamples_SR.argmax(axis=0), np.arange(resamples_SR.shape[1])
    short_SR = resamples_SR[best_R, columns] - resamples_SR
    picked_R = (short_SR <= resamples_SR.std(axis=1)[best_R]).argmax(axis=0)
    drift_R = resamples_SR[picked_R, columns] - value_S[picked_R] - (resamples_SR[chosen] - value_S[chosen])
    return max(0.0, float(drift_R.mean()))
