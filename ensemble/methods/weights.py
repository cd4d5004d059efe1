"""Weights of a soft vote, fitted on out-of-fold rows: by log loss, or by the score that counts.

A weighted mean of probabilities is stacking with weights of 0 or more and sum 1 (Wolpert 1992,
"Stacked generalization"; Breiman 1996, "Stacked regressions"). Ting and Witten 1999 found that with
probabilities it needs little more than that. By log loss the problem is convex: it has one answer,
without a step size and without a seed.
"""

from __future__ import annotations

import numpy as np

from ensemble.methods.base import Evidence
from ensemble.methods.quick_score import quick_score
from ensemble.methods.vote import Vote
from foldblend.scores.metrics import METRICS, log_softmax, softmax

__all__ = ["fit_log_loss", "fit_metric"]

PRIOR = 1.0  # groups a member, before any row is seen: Dirichlet's prior around equal weights
TINY = 0.02  # of an equal share: a weight below is none
MOST_STEPS = 100
CLOSE = 1e-9
TOWARDS = (0.05, 0.1, 0.2, 0.4)  # of the vote that a member may be given at once
AWAY = (0.5, 1.0)  # of what a member has, taken at once
SWEEPS = 3


def _mixture(likelihood_NM: np.ndarray, num_groups: int) -> np.ndarray:
    """Return the weights M > 0 with sum 1 that make the rows, and the prior's, likeliest.

    With the multiplier of the sum, which is known, the least of `objective` over all positive
    weights has sum 1, so that Newton's steps need not heed the sum. The prior keeps them away from
    0.
    """
    num_rows, num_members = likelihood_NM.shape
    per_row = num_groups / num_rows
    total = num_groups + PRIOR * num_members

    def objective(weight_M: np.ndarray) -> float:
        rows = per_row * np.log(likelihood_NM @ weight_M).sum()
        return float(total * weight_M.sum() - rows - PRIOR * np.log(weight_M).sum())

    weight_M = np.full(num_members, 1 / num_members)
    value = objective(weight_M)
    for _ in range(MOST_STEPS):
        ratio_NM = likelihood_NM / (likelihood_NM @ weight_M)[:, None]
        slope_M = total - per_row * ratio_NM.sum(axis=0) - PRIOR / weight_M
        curve_MM = per_row * (ratio_NM.T @ ratio_NM) + np.diag(PRIOR / weight_M**2)
        step_M = np.linalg.solve(curve_MM, slope_M)
        gain = float(slope_M @ step_M)
        if gain <= CLOSE * total:
            break
        length = min(1.0, 0.9 / max(float((step_M / weight_M).max()), 0.1))
        while (
            new := objective(weight_M - length * step_M)
        ) > value - length * gain / 10 and length > CLOSE:
            length /= 2
        weight_M = weight_M - length * step_M
        value = new
    return weight_M


def _shares(weight_M: np.ndarray) -> np.ndarray:
    """Return weights with sum 1, tiny ones 0: a member that has none need not be run."""
    share_M = weight_M / weight_M.sum()
    share_M = np.where(share_M < TINY / len(share_M), 0.0, share_M)
    return np.asarray(share_M / share_M.sum())


def fit_log_loss(evidence: Evidence) -> Vote:
    """Return the soft vote, each member at its temperature, with the weights of least log loss.

    Only the true class's probabilities matter, N x M: the weights are proportions of a mixture that
    is as likely as can be. Rows of a group are alike, so a group counts once. The prior is worth
    one group a member: with few groups, or among members that hardly differ, the weights stay near
    equal ones.
    """
    pairs = zip(evidence.logits_MNC, evidence.temperatures, strict=True)
    rows = np.arange(len(evidence.rows.label_N))
    log_MN = [log_softmax(logits_NC / one)[rows, evidence.rows.label_N] for logits_NC, one in pairs]
    log_NM = np.stack(log_MN, axis=1)
    # What all members find unlikely says nothing of their weights: without its size, nothing
    # underflows.
    likelihood_NM = np.exp(log_NM - log_NM.max(axis=1, keepdims=True))
    weight_M = _shares(_mixture(likelihood_NM, len(np.unique(evidence.rows.group_N))))
    return Vote("soft", tuple(weight_M.tolist()), evidence.temperatures)


def fit_metric(evidence: Evidence) -> Vote:
    """Return the soft vote with weights that were moved from a start towards a better
    evidence.score.

    The start is that of `fit_log_loss` or equal weights of the members that it keeps, whichever
    scores better: a mean of many is unsure, and log loss mends that by dropping members that
    classes are better decided with. Then one member after the other is given more or less, the rest
    in proportion, as long as the score gains by it. What is returned lies half way: the score is a
    staircase, and much of what is gained on these rows is chance.
    """
    vote = fit_log_loss(evidence)
    if sum(one > 0 for one in vote.weights) == 1 or evidence.score is METRICS["log_loss"]:
        return vote
    pairs = zip(evidence.logits_MNC, evidence.temperatures, strict=True)
    proba_MNC = [softmax(logits_NC / one).astype(np.float32) for logits_NC, one in pairs]
    score = quick_score(evidence)

    def mean(weight_M: np.ndarray) -> np.ndarray:
        terms = (
            proba_NC * np.float32(one) for proba_NC, one in zip(proba_MNC, weight_M, strict=True)
        )
        return np.asarray(sum(terms))

    keeps_M = np.asarray(vote.weights) > 0
    starts = [np.asarray(vote.weights), keeps_M / keeps_M.sum()]
    start_M = weight_M = max(starts, key=lambda weight_M: score(mean(weight_M)))
    mean_NC = mean(start_M)
    best = score(mean_NC)
    for _ in range(SWEEPS):
        before = best
        for member in np.flatnonzero(keeps_M):
            has = weight_M[member]
            proba_NC = proba_MNC[member]
            away = [-part * has / (1 - part * has) for part in AWAY if 0 < part * has < 1]
            found = 0.0
            for move in (*TOWARDS, *away):
                new = score(mean_NC * np.float32(1 - move) + proba_NC * np.float32(move))
                if new > best + CLOSE:
                    best = new
                    found = move
            weight_M = (1 - found) * weight_M + found * np.eye(len(weight_M))[member]
            mean_NC = mean_NC * np.float32(1 - found) + proba_NC * np.float32(found)
        if best <= before:
            break
    half_M = _shares((start_M + np.maximum(weight_M, 0)) / 2)
    return Vote("soft", tuple(half_M.tolist()), evidence.temperatures)
