"""Choose one of several predictions, and estimate how optimistic the choice makes its score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ensemble.methods.base import Evidence
from foldblend.scores.metrics import softmax
from foldblend.scores.score import Score, score_of

__all__ = ["score_logits", "selection_optimism", "simplest"]


def score_logits(evidence: Evidence, logits_NC: np.ndarray, *, resampled: bool = True) -> Score:
    """Return the score of logits N x C.

    All scores use the same bootstrap samples of groups, so their differences are paired.
    """
    return score_of(evidence.score, evidence.rows, softmax(logits_NC), resampled=resampled)


def simplest(scores: Sequence[Score]) -> int:
    """Return the place of the first score within one standard error of the best score.

    The standard error is that of the best score.

    Parameters
    ----------
    scores
        Scores of the methods, simplest method first.

    Returns
    -------
    int
        The place in `scores`; 0 where no score is finite.

    References
    ----------
    Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3.

    Examples
    --------
    >>> spread_B = np.linspace(-0.03, 0.03, 101)
    >>> simplest([Score(value, value + spread_B) for value in (0.70, 0.79, 0.80)])
    1
    """
    known = [place for place, score in enumerate(scores) if np.isfinite(score.value)]
    # No score is finite where a metric is not defined, such as ROC AUC on rows of one class.
    if not known:
        return 0
    best = max((scores[place] for place in known), key=lambda score: score.value)
    return next(place for place in known if best.value - scores[place].value <= best.error)


def selection_optimism(scores: Sequence[Score]) -> float:
    """Return the expected optimism of the score that `simplest` chooses.

    The groups that score the methods also choose among them. Each bootstrap resample of groups
    repeats the choice. The optimism (Efron 1983) is a mean over resamples: how much better the
    choice of a resample scores on that resample than on all groups, minus the same difference for
    the choice made on all groups. The second part removes the effect of resampling itself.

    Parameters
    ----------
    scores
        Scores of the methods, simplest method first, on the same resamples.

    Returns
    -------
    float
        At least 0, in units of the metric; 0 where it cannot be estimated.

    References
    ----------
    Efron 1983, "Estimating the error rate of a prediction rule: improvement on cross-validation".
    """
    chosen = simplest(scores)
    value_S = np.array([score.value for score in scores])
    resamples_SB = np.stack([score.resamples_B for score in scores])
    resamples_SB = resamples_SB[:, np.isfinite(resamples_SB).all(axis=0)]
    if len(scores) < 2 or not resamples_SB.shape[1] or not np.isfinite(value_S).all():
        return 0.0
    best_B = resamples_SB.argmax(axis=0)
    columns = np.arange(resamples_SB.shape[1])
    # The rule of `simplest` in every resample at once; the standard errors are those over all
    # resamples.
    short_SB = resamples_SB[best_B, columns] - resamples_SB
    picked_B = (short_SB <= resamples_SB.std(axis=1)[best_B]).argmax(axis=0)
    drift_B = (
        resamples_SB[picked_B, columns]
        - value_S[picked_B]
        - (resamples_SB[chosen] - value_S[chosen])
    )
    return max(0.0, float(drift_B.mean()))
