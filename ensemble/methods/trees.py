"""Stack with boosted trees on a summary of the members' predictions.

Trees can learn where members are unreliable, which a linear model cannot (stacking: Wolpert 1992,
"Stacked generalization"; boosting: Friedman 2001, "Greedy function approximation"). They also
overfit easily. So the number of columns does not depend on the number of members, trees are small
and few, and they make up only half of the prediction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ensemble.methods.base import Evidence
from ensemble.methods.forest import Forest, forest_of
from ensemble.methods.stack import log_probabilities, re_expanded, row_loss, vote_at, within
from foldblend.scores.held_out import group_parts
from foldblend.scores.metrics import log_softmax
from foldblend.scores.score import gain_of_sums
from foldblend.scores.temperature import fit_temperatures

__all__ = ["Trees", "features", "fit"]

ROUNDS = (10, 20, 40, 80)  # trees per class to try; none is tried too
NUM_PARTS = 2
SHARE = 0.5  # weight of the trees in the prediction; the vote has the rest
LOWEST = -15.0  # lower log-probabilities are set to this
# Quantiles over members of their highest log-probability.
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
LEAF_GROUPS = 10  # least number of groups per leaf, on average
SETTINGS = {"learning_rate": 0.1, "max_leaf_nodes": 8, "early_stopping": False, "random_state": 0}


def features(
    logits_MNC: Iterable[np.ndarray], temperatures: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the log of the members' summed probabilities, and the columns for the trees.

    Returns
    -------
    (array N x C, array N x (2 C + 6))
        The columns do not depend on the order of members: log-probabilities of the vote; standard
        deviation over members of each class's log-probability; quantiles over members of their
        highest log-probability; share of members that predict the same class as the vote.
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
    level_QN = np.quantile(np.stack(top_MN), LEVELS, axis=0)
    vote_NC = np.maximum(vote_at(sum_NC, 1.0), LOWEST)
    # With float32, values that differ in the last bits of float64 fall on the same side of a
    # threshold.
    return sum_NC, np.hstack([vote_NC, spread_NC, level_QN.T, agree_N[:, None]]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Trees:
    """Geometric mean of the members' soft vote and the predictions of boosted trees."""

    temperatures: tuple[float, ...]
    vote_temperature: float
    class_E: np.ndarray
    """The classes that had rows; others keep the log-probabilities of the vote."""
    num_rounds: int
    """Trees per class; 0 where the vote without trees was best."""
    forest: Forest | None = None
    """Trees on classes 0..E-1, or None for no trees."""

    def __call__(self, logits_MNC: Iterable[np.ndarray]) -> np.ndarray:
        """Return logits N x C float64 from the logits N x C of each member."""
        sum_NC, feature_ND = features(logits_MNC, self.temperatures)
        vote_NC = vote_at(sum_NC, self.vote_temperature)
        if self.forest is None:
            return vote_NC
        return _answer(self.forest(feature_ND), vote_NC, self.class_E)

    @property
    def shares(self) -> tuple[float, ...]:
        """Equal shares, because columns do not depend on the order of members."""
        return (1 / len(self.temperatures),) * len(self.temperatures)

    def as_dict(self) -> dict[str, Any]:
        return {
            "trees": "equal soft vote x boosted trees on it and on the members' differences",
            "temperatures": list(self.temperatures),
            "vote_temperature": self.vote_temperature,
            "classes": self.class_E.tolist(),
            "rounds": self.num_rounds,
            "share_of_trees": SHARE if self.num_rounds else 0.0,
        }


def _answer(proba_NE: np.ndarray, vote_NC: np.ndarray, class_E: np.ndarray) -> np.ndarray:
    """Return log-probabilities N x C: the geometric mean of trees and vote.

    Classes without rows keep the log-probabilities of the vote.
    """
    log_NE = np.log(np.maximum(proba_NE, np.exp(LOWEST)))
    mixed_NE = SHARE * log_NE + (1 - SHARE) * within(vote_NC, class_E)
    return re_expanded(log_softmax(mixed_NE), vote_NC, class_E)


def _grown(
    feature_ND: np.ndarray, label_N: np.ndarray, group_N: np.ndarray, num_rounds: int
) -> tuple[Any, np.ndarray]:
    """Return fitted trees and their classes E.

    Rows of a group are similar, so the limits on leaves count groups instead of rows.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    class_E, target_N = np.unique(label_N, return_inverse=True)
    size = len(label_N) / len(np.unique(group_N))
    limits = {
        "min_samples_leaf": int(np.ceil(LEAF_GROUPS * size)),
        "l2_regularization": LEAF_GROUPS * size,
    }
    model = HistGradientBoostingClassifier(max_iter=num_rounds, **limits, **SETTINGS)
    return model.fit(feature_ND, target_N), class_E


def _best_rounds(
    feature_ND: np.ndarray, vote_NC: np.ndarray, label_N: np.ndarray, group_N: np.ndarray
) -> int:
    """Return the number of rounds with the lowest log loss on held-out groups, 0 for no trees.

    It is 0 unless trees lower the log loss of the vote by more than one standard error over groups.
    """
    code_N = np.unique(group_N, return_inverse=True)[1]
    part_N = group_parts(np.zeros_like(code_N), code_N, num_parts=NUM_PARTS)
    if min(len(np.unique(label_N[part_N == part])) for part in range(NUM_PARTS)) < 2:
        return 0
    loss_LN = np.empty((len(ROUNDS), len(label_N)))
    for part in range(NUM_PARTS):
        fitted_N = part_N != part
        held_N = part_N == part
        model, class_E = _grown(
            feature_ND[fitted_N], label_N[fitted_N], group_N[fitted_N], max(ROUNDS)
        )
        for number, proba_NE in enumerate(model.staged_predict_proba(feature_ND[held_N]), start=1):
            if number in ROUNDS:
                log_NC = _answer(proba_NE, vote_NC[held_N], class_E)
                loss_LN[ROUNDS.index(number), held_N] = row_loss(log_NC, label_N[held_N])
    best = int(loss_LN.sum(axis=1).argmin())
    help_G = np.bincount(code_N, row_loss(vote_NC, label_N) - loss_LN[best])
    return ROUNDS[best] if gain_of_sums(help_G).exceeds() else 0


# One thread makes sums the same on any number of cores, and does not wait for busy ones.
@threadpool_limits.wrap(limits=1)
def fit(evidence: Evidence) -> Trees:
    """Fit trees, and mix them with the vote if that helps held-out groups of the evidence.

    Otherwise, and with too few groups to hold out, the vote is returned.
    """
    temperatures = evidence.temperatures
    label_N = evidence.rows.label_N
    group_N = evidence.rows.group_N
    sum_NC, feature_ND = features(evidence.logits_MNC, temperatures)
    (vote_temperature,) = fit_temperatures([sum_NC], label_N, group_N)
    num_rounds = _best_rounds(feature_ND, vote_at(sum_NC, vote_temperature), label_N, group_N)
    if not num_rounds:
        return Trees(temperatures, vote_temperature, np.unique(label_N), 0)
    model, class_E = _grown(feature_ND, label_N, group_N, num_rounds)
    return Trees(temperatures, vote_temperature, class_E, num_rounds, forest_of(model))
