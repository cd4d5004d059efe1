"""Which of several predictions to take: the simplest that the best cannot be told from, and what
choosing flatters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ensemble.methods.base import Evidence
from foldblend.scores.metrics import softmax
from foldblend.scores.score import Score, score_of

__all__ = ["choosing_flatters", "score_logits", "simplest"]


def score_logits(evidence: Evidence, logits_NC: np.ndarray, *, resampled: bool = True) -> Score:
    """Return the score of logits N x C; equal groups are drawn for all, so differences are
    paired.
    """
    return score_of(evidence.score, evidence.rows, softmax(logits_NC), resampled=resampled)


def simplest(scores: Sequence[Score]) -> int:
    """Return the first that is within one standard error of the best score: the error that this
    score has itself.

    The rule is of Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3.
    """
    known = [place for place, score in enumerate(scores) if np.isfinite(score.value)]
    if not known:  # such as ROC AUC on people of one class
        return 0
    best = max((scores[place] for place in known), key=lambda score: score.value)
    return next(place for place in known if best.value - scores[place].value <= best.error)


def choosing_flatters(scores: Sequence[Score]) -> float:
    """Return by how much the score of what `simplest` takes is expected to flatter, since the same
    people chose it.

    Each resample of people chooses anew. What its choice scores on it, above what that scores on
    all people, less what the resampling itself moves the choice of all people by, is the
    bootstrap's estimate of optimism (Efron 1983).
    """
    chosen = simplest(scores)
    value_S = np.array([score.value for score in scores])
    resamples_SR = np.stack([score.resamples_R for score in scores])
    resamples_SR = resamples_SR[:, np.isfinite(resamples_SR).all(axis=0)]
    if len(scores) < 2 or not resamples_SR.shape[1] or not np.isfinite(value_S).all():
        return 0.0
    best_R = resamples_SR.argmax(axis=0)
    columns = np.arange(resamples_SR.shape[1])
    short_SR = resamples_SR[best_R, columns] - resamples_SR
    picked_R = (short_SR <= resamples_SR.std(axis=1)[best_R]).argmax(axis=0)
    drift_R = (
        resamples_SR[picked_R, columns]
        - value_S[picked_R]
        - (resamples_SR[chosen] - value_S[chosen])
    )
    return max(0.0, float(drift_R.mean()))
