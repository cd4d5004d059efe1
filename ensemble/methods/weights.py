"""Fit the weights of a soft vote on out-of-fold rows, by log loss or by the metric.

A weighted mean of probabilities is stacking with weights of at least 0 and sum 1 (Wolpert 1992,
"Stacked generalization"; Breiman 1996, "Stacked regressions"). Ting and Witten 1999, "Issues in
stacked generalization", found that for probabilities little more is needed. By log loss the
problem is convex, so it has one solution, without a step size or a seed.
"""

from __future__ import annotations

import numpy as np

from ensemble.methods.base import Evidence
from ensemble.methods.quick_score import quick_score
from ensemble.methods.vote import Vote
from foldblend.scores.metrics import LOG_LOSS, log_softmax, softmax

__all__ = ["fit_log_loss", "fit_metric"]

PRIOR = 1.0  # weight of the Dirichlet prior around equal weights, in groups per member
TINY = 0.02  # weights below this part of an equal share become 0
MOST_STEPS = 100
CLOSE = 1e-9
TOWARDS = (0.05, 0.1, 0.2, 0.4)  # shares of the whole vote that a step may give to a member
AWAY = (0.5, 1.0)  # parts of a member's weight that a step may take away
SWEEPS = 3


def _mixture(likelihood_NM: np.ndarray, num_groups: int) -> np.ndarray:
    """Return the most likely weights M of a mixture, with sum 1, given the rows and the prior.

    The Lagrange multiplier of the sum is known. With it, the minimum of `objective` over all
    positive weights has sum 1, so Newton's steps need no constraint. The prior keeps weights above
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
    """Return weights with sum 1 after setting tiny ones to 0, so that such members need not run."""
    share_M = weight_M / weight_M.sum()
    share_M = np.where(share_M < TINY / len(share_M), 0.0, share_M)
    return np.asarray(share_M / share_M.sum())


def fit_log_loss(evidence: Evidence) -> Vote:
    """Fit the weights of a soft vote of temperature-scaled members by log loss.

    Only the probabilities of the true class matter, N x M: the weights are the proportions of the
    most likely mixture. Rows of a group are similar, so each group counts once. The prior counts
    as one group per member, so the weights stay close to equal if there are few groups or if
    members hardly differ.
    """
    pairs = zip(evidence.logits_MNC, evidence.temperatures, strict=True)
    rows = np.arange(len(evidence.rows.label_N))
    log_MN = [log_softmax(logits_NC / one)[rows, evidence.rows.label_N] for logits_NC, one in pairs]
    log_NM = np.stack(log_MN, axis=1)
    # Only ratios between members matter. Dividing by the largest keeps rows that are unlikely for
    # all members from underflowing.
    likelihood_NM = np.exp(log_NM - log_NM.max(axis=1, keepdims=True))
    weight_M = _shares(_mixture(likelihood_NM, len(np.unique(evidence.rows.group_N))))
    return Vote("soft", tuple(weight_M.tolist()), evidence.temperatures)


def fit_metric(evidence: Evidence) -> Vote:
    """Fit the weights of a soft vote of temperature-scaled members by the metric.

    The search starts from the weights of `fit_log_loss`, or from equal weights of the members that
    those keep, whichever scores better: a mean of many members is underconfident, and log loss
    corrects that by dropping members that help to separate classes. Then the weight of one member
    after the other is raised or lowered, the others in proportion, as long as the score rises. The
    result is the mean of the start and the end of the search: the score is a step function, and
    much of a gain on these rows is chance.
    """
    vote = fit_log_loss(evidence)
    if sum(one > 0 for one in vote.weights) == 1 or evidence.score.name == LOG_LOSS:
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
