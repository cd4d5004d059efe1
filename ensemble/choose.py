"""Choose among several predictions, or average them, and estimate the optimism of doing so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ensemble.methods.base import Evidence
from foldblend.scores.bootstrap import group_resamples
from foldblend.scores.by_group import pooled
from foldblend.scores.metrics import mean_score, softmax
from foldblend.scores.optimism import optimism_of_choice
from foldblend.scores.score import Score, score_of

__all__ = [
    "averaging_optimism",
    "chances",
    "mean_proba",
    "score_logits",
    "selection_optimism",
    "simplest",
]

LEAST = 0.02  # smaller weights become 0, so that fewer methods have to be applied
NUM_REPEATED = 100  # bootstrap samples in which the averaging is done again
NUM_REPEATED_SLOW = 20  # the same for metrics that need all rows, not only sums


def score_logits(evidence: Evidence, logits_NC: np.ndarray, *, resampled: bool = True) -> Score:
    """Return the score of logits N x C.

    All scores use the same bootstrap samples of groups, so their differences are paired.
    """
    return score_of(evidence.score, evidence.rows, softmax(logits_NC), resampled=resampled)


def _finite(scores: Sequence[Score]) -> np.ndarray:
    """Return the bootstrap samples S x B in which every score is finite."""
    resamples_SB = np.stack([score.resamples_B for score in scores])
    return resamples_SB[:, np.isfinite(resamples_SB).all(axis=0)]


def _shares(best_B: np.ndarray, num_scores: int) -> np.ndarray:
    """Return how often each place occurs, as shares; small ones are 0."""
    share_S = np.bincount(best_B, minlength=num_scores) / len(best_B)
    share_S = np.where(share_S < min(LEAST, share_S.max()), 0.0, share_S)
    return np.asarray(share_S / share_S.sum())


def chances(scores: Sequence[Score]) -> np.ndarray:
    """Return the share of bootstrap samples in which each score is the best one.

    As weights of an average, these replace a choice by what the choice would be on other groups
    like these (bagging of the choice).

    Parameters
    ----------
    scores
        Scores of S predictions on the same bootstrap samples; of equal ones the first is best.

    Returns
    -------
    np.ndarray
        Weights S with sum 1; shares below 2 % are 0. Where no bootstrap sample has finite scores,
        the first prediction has all the weight.

    References
    ----------
    Breiman 1996, "Bagging predictors"; Efron 2014, "Estimation and accuracy after model selection".

    Examples
    --------
    >>> noise_B = np.random.default_rng(0).normal(size=1000)
    >>> chances([Score(0.7, 0.7 + noise_B), Score(0.7, 0.7 - noise_B)]).round(1).tolist()
    [0.5, 0.5]
    """
    resamples_SB = _finite(scores)
    if not resamples_SB.shape[1]:
        return np.eye(len(scores))[0]
    return _shares(resamples_SB.argmax(axis=0), len(scores))


def mean_proba(proba_SNC: np.ndarray, weight_S: np.ndarray) -> np.ndarray:
    """Return the weighted mean of the probabilities of S predictions, N x C."""
    used_S = np.flatnonzero(weight_S)
    total_NC = np.zeros(proba_SNC.shape[1:], proba_SNC.dtype)
    for place in used_S:
        total_NC += proba_SNC.dtype.type(weight_S[place]) * proba_SNC[place]
    return total_NC


def averaging_optimism(
    evidence: Evidence, proba_SNC: np.ndarray, scores: Sequence[Score], weight_S: np.ndarray
) -> float:
    """Return by how much the score of an average with weights `chances(scores)` is too high.

    The groups that score the average also gave its weights. In each bootstrap sample of groups the
    weights are found again, with the spread of all samples around the scores of this one. The
    optimism (Efron 1983) is a mean over samples: how much better the average of a sample scores on
    that sample than on all groups, minus the same difference for the average of all groups. The
    second part removes the effect of resampling itself.

    Parameters
    ----------
    evidence
        Labels and groups of the rows.
    proba_SNC
        Cross-fitted probabilities of the S predictions.
    scores
        Their scores.
    weight_S
        The weights of all groups.

    Returns
    -------
    float
        At least 0, in units of the metric; 0 where it cannot be estimated.

    References
    ----------
    Efron 1983, "Estimating the error rate of a prediction rule: improvement on cross-validation".
    """
    resamples_SB = np.stack([score.resamples_B for score in scores])
    finite_SB = _finite(scores)
    if len(scores) < 2 or not finite_SB.shape[1]:
        return 0.0
    spread_SB = finite_SB - finite_SB.mean(axis=1, keepdims=True)
    slow = evidence.score.of_counts is None
    num = NUM_REPEATED_SLOW if slow else NUM_REPEATED
    names = np.unique(evidence.rows.group_N)

    def score(proba_NC: np.ndarray, draw_G: np.ndarray | None = None) -> float:
        # Pooled before the draw: a group that is drawn twice counts as two groups.
        rows, proba_NC = pooled(evidence.score, evidence.rows, proba_NC)
        at = np.arange(len(rows))
        if draw_G is not None:
            code_N = np.searchsorted(names, rows.group_N)
            at = np.repeat(at, draw_G[code_N].astype(int))
        value = mean_score(evidence.score, rows.label_N[at], proba_NC[at], rows.repeat_N[at])
        return evidence.score.sign * value

    whole_NC = mean_proba(proba_SNC, weight_S)
    value = score(whole_NC)
    drifts = []
    draws = (draw_G for draw_BG in group_resamples(len(names), 0) for draw_G in draw_BG)
    for place, draw_G in zip(range(num), draws, strict=False):
        centre_S = resamples_SB[:, place]
        if not np.isfinite(centre_S).all():
            continue
        again_S = _shares((centre_S[:, None] + spread_SB).argmax(axis=0), len(scores))
        again_NC = mean_proba(proba_SNC, again_S)
        drifts.append(score(again_NC, draw_G) - score(again_NC) - (score(whole_NC, draw_G) - value))
    return max(0.0, float(np.mean(drifts))) if drifts else 0.0


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
    resamples_SB = _finite(scores)
    if len(scores) < 2 or not resamples_SB.shape[1] or not np.isfinite(value_S).all():
        return 0.0
    best_B = resamples_SB.argmax(axis=0)
    columns = np.arange(resamples_SB.shape[1])
    # The rule of `simplest` in every resample at once; the standard errors are those over all
    # resamples.
    short_SB = resamples_SB[best_B, columns] - resamples_SB
    picked_B = (short_SB <= resamples_SB.std(axis=1)[best_B]).argmax(axis=0)
    noise_SB = resamples_SB - value_S[:, None]
    return max(0.0, optimism_of_choice(noise_SB, picked_B, chosen))
