"""Stacking with boosted trees, on what the members' predictions come to rather than on all of them.

Trees find where members must not be trusted, which a linear model cannot (stacking: Wolpert 1992,
"Stacked generalization"; boosting: Friedman 2001, "Greedy function approximation"). They also find
what is not there. So they see few columns, however many members there are, grow shallow and few,
and are only half of the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ensemble.methods.base import Evidence
from ensemble.methods.stack import log_probabilities, re_expanded, row_loss, vote_at, within
from foldblend.scores.held_out import group_parts
from foldblend.scores.metrics import log_softmax
from foldblend.scores.score import gain_of_sums
from foldblend.scores.temperature import fit_temperatures

__all__ = ["Trees", "features", "fit"]

ROUNDS = (10, 20, 40, 80)  # trees a class, one of these or none
NUM_PARTS = 2
SHARE = 0.5  # of the trees in the answer; the rest is the vote's
LOWEST = -15.0
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
LEAF_GROUPS = 10  # in a leaf at least, on average
SETTINGS = {"learning_rate": 0.1, "max_leaf_nodes": 8, "early_stopping": False, "random_state": 0}


def features(
    logits_MNC: Iterable[np.ndarray], temperatures: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return log of the summed probabilities, N x C, and columns N x (2C + 6) that do not depend on
    members' order.

    These are the vote's log-probabilities; how far the members' lie apart, class by class; how sure
    the members are of their likeliest class, from the shyest to the surest; and how many share the
    vote's.
    """
    num_members = len(temperatures)
    top_MN = []
    class_MN = []
    sum_NC: np.ndarray | None = None
    mean_NC = np.float64(0)
    square_NC = np.float64(0)
    for log_NC in log_probabilities(logits_MNC, temperatures):
        sum_NC = log_NC if sum_NC is None else np.logaddexp(sum_NC, log_NC)
        bounded_NC = np.maximum(log_NC, LOWEST)
        mean_NC = mean_NC + bounded_NC / num_members
        square_NC = square_NC + bounded_NC**2 / num_members
        top_MN.append(log_NC.max(axis=1))
        class_MN.append(log_NC.argmax(axis=1))
    assert sum_NC is not None
    spread_NC = np.sqrt(np.maximum(square_NC - mean_NC**2, 0))
    agree_N = (np.stack(class_MN) == sum_NC.argmax(axis=1)).mean(axis=0)
    level_LN = np.quantile(np.stack(top_MN), LEVELS, axis=0)
    vote_NC = np.maximum(vote_at(sum_NC, 1.0), LOWEST)
    # Float32, so that what differs in the last bits of float64 falls on the same side of a tree's
    # threshold.
    return sum_NC, np.hstack([vote_NC, spread_NC, level_LN.T, agree_N[:, None]]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Trees:
    """The geometric mean of the members' soft vote and of what boosted trees make of it."""

    temperatures: tuple[float, ...]
    vote_temperature: float
    class_K: np.ndarray
    """The classes that had rows; the others' log-probabilities are the vote's."""
    num_rounds: int
    """Trees a class; 0 where the vote alone was best."""
    model: Any = None
    """HistGradientBoostingClassifier on classes 0..K-1, or None for no trees."""

    def __call__(self, logits_MNC: Iterable[np.ndarray]) -> np.ndarray:
        """Return logits N x C float64, from N x C of each member."""
        sum_NC, feature_NF = features(logits_MNC, self.temperatures)
        vote_NC = vote_at(sum_NC, self.vote_temperature)
        if self.model is None:
            return vote_NC
        with threadpool_limits(limits=1):
            return _answer(self.model.predict_proba(feature_NF), vote_NC, self.class_K)

    @property
    def shares(self) -> tuple[float, ...]:
        """Equal ones: members come in by their vote and by how they differ, none by name."""
        return (1 / len(self.temperatures),) * len(self.temperatures)

    def as_dict(self) -> dict[str, Any]:
        return {
            "trees": "equal soft vote x boosted trees on it and on the members' differences",
            "temperatures": list(self.temperatures),
            "vote_temperature": self.vote_temperature,
            "classes": self.class_K.tolist(),
            "rounds": self.num_rounds,
            "share_of_trees": SHARE if self.num_rounds else 0.0,
        }


def _answer(proba_NK: np.ndarray, vote_NC: np.ndarray, class_K: np.ndarray) -> np.ndarray:
    """Return log-probabilities N x C: a geometric mean with the vote where trees had rows, the vote
    elsewhere.
    """
    log_NK = np.log(np.maximum(proba_NK, np.exp(LOWEST)))
    mixed_NK = SHARE * log_NK + (1 - SHARE) * within(vote_NC, class_K)
    return re_expanded(log_softmax(mixed_NK), vote_NC, class_K)


def _grown(
    feature_NF: np.ndarray, label_N: np.ndarray, group_N: np.ndarray, num_rounds: int
) -> tuple[Any, np.ndarray]:
    """Return a fitted model and its classes K. Rows of a group are alike: limits count groups, not
    rows.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    class_K, target_N = np.unique(label_N, return_inverse=True)
    size = len(label_N) / len(np.unique(group_N))
    limits = {
        "min_samples_leaf": int(np.ceil(LEAF_GROUPS * size)),
        "l2_regularization": LEAF_GROUPS * size,
    }
    model = HistGradientBoostingClassifier(max_iter=num_rounds, **limits, **SETTINGS)
    return model.fit(feature_NF, target_N), class_K


def _best_rounds(
    feature_NF: np.ndarray, vote_NC: np.ndarray, label_N: np.ndarray, group_N: np.ndarray
) -> int:
    """Return the rounds of least log loss on people who were held out; 0 where they help by chance.

    By chance is less than the standard error, over groups, of what they help beside the vote.
    """
    code_N = np.unique(group_N, return_inverse=True)[1]
    part_N = group_parts(np.zeros_like(code_N), code_N, num_parts=NUM_PARTS)
    if min(len(np.unique(label_N[part_N == part])) for part in range(NUM_PARTS)) < 2:
        return 0
    loss_RN = np.empty((len(ROUNDS), len(label_N)))
    for part in range(NUM_PARTS):
        fitted_N = part_N != part
        held_N = part_N == part
        model, class_K = _grown(
            feature_NF[fitted_N], label_N[fitted_N], group_N[fitted_N], max(ROUNDS)
        )
        for number, proba_NK in enumerate(model.staged_predict_proba(feature_NF[held_N]), start=1):
            if number in ROUNDS:
                log_NC = _answer(proba_NK, vote_NC[held_N], class_K)
                loss_RN[ROUNDS.index(number), held_N] = row_loss(log_NC, label_N[held_N])
    best = int(loss_RN.sum(axis=1).argmin())
    help_G = np.bincount(code_N, row_loss(vote_NC, label_N) - loss_RN[best])
    return ROUNDS[best] if gain_of_sums(help_G).exceeds() else 0


@threadpool_limits.wrap(
    limits=1
)  # sums the same on any number of cores, and no waiting for threads on busy ones
def fit(evidence: Evidence) -> Trees:
    """Return the vote, mixed with trees if that helps people held out inside the evidence; with too
    few, as it is.
    """
    temperatures = evidence.temperatures
    label_N = evidence.rows.label_N
    group_N = evidence.rows.group_N
    sum_NC, feature_NF = features(evidence.logits_MNC, temperatures)
    (vote_temperature,) = fit_temperatures([sum_NC], label_N, group_N)
    num_rounds = _best_rounds(feature_NF, vote_at(sum_NC, vote_temperature), label_N, group_N)
    if not num_rounds:
        return Trees(temperatures, vote_temperature, np.unique(label_N), 0)
    model, class_K = _grown(feature_NF, label_N, group_N, num_rounds)
    return Trees(temperatures, vote_temperature, class_K, num_rounds, model)
