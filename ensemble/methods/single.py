"""Take the best single member, so that a blend that brings nothing costs nothing."""

from __future__ import annotations

import numpy as np

from ensemble.methods.base import Evidence
from ensemble.methods.quick_score import quick_score
from ensemble.methods.vote import Vote
from foldblend.scores.metrics import softmax

__all__ = ["fit"]


def fit(evidence: Evidence) -> Vote:
    """Return the member with the best score, the first of equally good ones.

    It is a vote in which this member has all the weight. Like every choice it is scored by
    cross-fitting: each fold is predicted by the member that is best on the other folds.
    """
    score = quick_score(evidence)
    score_M = np.array([score(softmax(logits_NC)) for logits_NC in evidence.logits_MNC])
    # A metric that is not defined on these rows, such as ROC AUC of one class, says nothing.
    best = int(np.where(np.isnan(score_M), -np.inf, score_M).argmax())
    equal = (1.0,) * len(score_M)
    return Vote("soft", tuple(float(member == best) for member in range(len(score_M))), equal)
