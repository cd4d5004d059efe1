"""Stack with boosted trees on a summary of the members' predictions.

Trees can learn where members are unreliable, which a linear model cannot (stacking: Wolpert 1992,
"Stacked generalization"; boosting: Friedman 2001, "Greedy function approximation"). They also
overfit easily. So the number of columns does not depend on the number of members, trees are small
and few, and they make up only half of the prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ensemble.methods.base import Evidence
from ensemble.methods.forest import Forest, forest_of
from ensemble.methods.stack import log_probabilities, re_expanded, row_loss, vote_at, within
from foldblend.image_columns import ImageColumns
from foldblend.scores.held_out import random_parts
from foldblend.scores.metrics import log_softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import lowers_loss
from foldblend.scores.temperature import fit_temperatures

__all__ = [
    "ROUNDS",
    "Prepared",
    "Trees",
    "features",
    "fit",
    "held_out_losses",
    "joined",
    "moved",
    "prepared",
]

ROUNDS = (0, 10, 20, 40, 80)  # trees per class to try
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


def joined(feature_ND: np.ndarray, further_ND: np.ndarray | None) -> np.ndarray:
    """Return features of members with further ones after them."""
    if further_ND is None:
        return feature_ND
    return np.hstack([feature_ND, further_ND.astype(np.float32)])


def moved(vote_NC: np.ndarray, added_NE: np.ndarray, class_E: np.ndarray) -> np.ndarray:
    """Return the log-probabilities of a vote after those of the E classes were moved."""
    return re_expanded(log_softmax(within(vote_NC, class_E) + added_NE), vote_NC, class_E)


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

    def __call__(
        self, logits_MNC: Iterable[np.ndarray], columns: ImageColumns | None = None
    ) -> np.ndarray:
        """Return logits N x C float64 from the logits N x C of each member."""
        return self.answer(logits_MNC)

    def answer(
        self,
        logits_MNC: Iterable[np.ndarray],
        further_ND: np.ndarray | None = None,
        added_NE: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return logits N x C float64; the trees see further features after those of members.

        `added_NE` is added to the log-probabilities of the vote, of the classes with rows.
        """
        sum_NC, feature_ND = features(logits_MNC, self.temperatures)
        vote_NC = vote_at(sum_NC, self.vote_temperature)
        if added_NE is not None:
            vote_NC = moved(vote_NC, added_NE, self.class_E)
        if self.forest is None:
            return vote_NC
        return _answer(self.forest(joined(feature_ND, further_ND)), vote_NC, self.class_E)

    @property
    def needs(self) -> Mapping[str, str]:
        return {}

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


def held_out_losses(
    inputs_of: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], rows: Rows
) -> np.ndarray | None:
    """Return the log loss of each row for each number of rounds, where its group was held out.

    Parameters
    ----------
    inputs_of
        Function from the rows that trees are fitted on, as a mask, to the features N x D and the
        log-probabilities N x C of the vote that trees are mixed with.
    rows
        Labels and groups.

    Returns
    -------
    array or None
        One row for each of ROUNDS; None where a half of the groups has a single class.
    """
    label_N = rows.label_N
    group_N = rows.group_N
    parts = random_parts(label_N, group_N, num_parts=NUM_PARTS)
    if not parts:
        return None
    loss_LN = np.empty((len(ROUNDS), len(label_N)))
    for fitted_N, held_N in parts:
        feature_ND, vote_NC = inputs_of(fitted_N)
        loss_LN[0, held_N] = row_loss(vote_NC[held_N], label_N[held_N])
        model, class_E = _grown(
            feature_ND[fitted_N], label_N[fitted_N], group_N[fitted_N], max(ROUNDS)
        )
        for number, proba_NE in enumerate(model.staged_predict_proba(feature_ND[held_N]), start=1):
            if number in ROUNDS:
                log_NC = _answer(proba_NE, vote_NC[held_N], class_E)
                loss_LN[ROUNDS.index(number), held_N] = row_loss(log_NC, label_N[held_N])
    return loss_LN


@dataclass(frozen=True, slots=True)
class Prepared:
    """Trees before they are grown."""

    temperatures: tuple[float, ...]
    vote_temperature: float
    feature_ND: np.ndarray
    vote_NC: np.ndarray
    num_rounds: int
    """Number of rounds to use: the best one, or 0 if that does not help enough."""
    loss_N: np.ndarray
    """Log loss of each row with the best number of rounds, where its group was held out."""

    def fitted(self, rows: Rows, num_rounds: int, further_ND: np.ndarray | None = None) -> Trees:
        """Return the trees of so many rounds, which see further features; none for 0."""
        if not num_rounds:
            class_E = np.unique(rows.label_N)
            return Trees(self.temperatures, self.vote_temperature, class_E, 0)
        feature_ND = joined(self.feature_ND, further_ND)
        model, class_E = _grown(feature_ND, rows.label_N, rows.group_N, num_rounds)
        return Trees(
            self.temperatures, self.vote_temperature, class_E, num_rounds, forest_of(model)
        )


def prepared(evidence: Evidence) -> Prepared:
    """Return the vote, the features and the best number of rounds.

    It is 0 unless trees lower the log loss of the vote on held-out groups by more than one
    standard error over groups.
    """
    temperatures = evidence.temperatures
    rows = evidence.rows
    sum_NC, feature_ND = features(evidence.logits_MNC, temperatures)
    (vote_temperature,) = fit_temperatures([sum_NC], rows.label_N, rows.group_N)
    vote_NC = vote_at(sum_NC, vote_temperature)
    loss_LN = held_out_losses(lambda _: (feature_ND, vote_NC), rows)
    loss_N = row_loss(vote_NC, rows.label_N)
    num_rounds = _best_rounds(loss_N, loss_LN, rows)
    if loss_LN is not None:
        loss_N = loss_LN[loss_LN.sum(axis=1).argmin()]
    return Prepared(temperatures, vote_temperature, feature_ND, vote_NC, num_rounds, loss_N)


def _best_rounds(vote_loss_N: np.ndarray, loss_LN: np.ndarray | None, rows: Rows) -> int:
    """Return the best number of rounds, 0 where it does not help more than the vote."""
    if loss_LN is None:
        return 0
    best = int(loss_LN.sum(axis=1).argmin())
    return ROUNDS[best] if lowers_loss(vote_loss_N, loss_LN[best], rows.group_N) else 0


# One thread makes sums the same on any number of cores, and does not wait for busy ones.
@threadpool_limits.wrap(limits=1)
def fit(evidence: Evidence) -> Trees:
    """Fit trees, and mix them with the vote if that helps held-out groups of the evidence.

    Otherwise, and with too few groups to hold out, the vote is returned.
    """
    found = prepared(evidence)
    return found.fitted(evidence.rows, found.num_rounds)
