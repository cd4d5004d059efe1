"""Stacking: a multinomial regression on the members' log-probabilities, which corrects their vote.

Stacking is of Wolpert 1992, "Stacked generalization"; Breiman 1996, "Stacked regressions", found
that it needs strong regularising, since members are alike; Ting and Witten 1999, "Issues in stacked
generalization", that a linear model of class probabilities is enough. Here the members' vote is a
fixed offset, and the ridge draws to it, not to nothing. The vote has a temperature of its own,
since a mean of sure models is unsure: what the model adds must help beyond that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize

from ensemble.methods.base import Evidence
from foldblend.scores.held_out import group_parts
from foldblend.scores.metrics import log_softmax
from foldblend.scores.score import gain_of_sums
from foldblend.scores.temperature import fit_temperatures

__all__ = ["Stack", "fit", "log_probabilities", "re_expanded", "row_loss", "vote_at", "within"]

SPREADS = (
    0.025,
    0.05,
    0.1,
    0.2,
    0.4,
)  # of weights around 0, in units of 1 / sqrt(M): ridges from strong to weak
LOWEST = -15.0  # of a log-probability as a feature: surer than that no model is for a reason
NUM_PARTS = 2
MOST_STEPS = 60
CLOSE = 1e-5


def log_probabilities(
    logits_MNC: Iterable[np.ndarray], temperatures: Sequence[float]
) -> Iterator[np.ndarray]:
    """Yield each member's log-probabilities, N x C float64, at its temperature."""
    for logits_NC, temperature in zip(logits_MNC, temperatures, strict=True):
        yield log_softmax(logits_NC.astype(np.float64) / temperature)


def vote_at(sum_NC: np.ndarray, temperature: float) -> np.ndarray:
    """Return the vote's log-probabilities at its temperature, from the log of the sum of
    probabilities.
    """
    return log_softmax(sum_NC / temperature)


def within(vote_NC: np.ndarray, class_K: np.ndarray) -> np.ndarray:
    """Return a vote's log-probabilities among these K classes alone, N x K."""
    return log_softmax(vote_NC[:, class_K])


def re_expanded(log_NK: np.ndarray, vote_NC: np.ndarray, class_K: np.ndarray) -> np.ndarray:
    """Return log-probabilities N x C from those of K classes that had rows to be fitted on, finite.

    Nothing was learned of the others, so they keep what the vote gives them, and the K share the
    rest.
    """
    log_NC = vote_NC.copy()
    log_NC[:, class_K] = log_NK + np.logaddexp.reduce(vote_NC[:, class_K], axis=1)[:, None]
    return log_NC


def row_loss(log_NC: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Return each row's log loss of log-probabilities."""
    return -log_NC[np.arange(len(label_N)), label_N]


@dataclass(frozen=True, slots=True)
class Stack:
    """The log of the members' soft vote, plus what a linear model of their log-probabilities adds
    to it.
    """

    temperatures: tuple[float, ...]
    vote_temperature: float
    class_K: np.ndarray
    """The classes that had rows; the others' log-probabilities are the vote's."""
    weight_MCK: np.ndarray
    """Of each member's log-probability of each class, for each of the K."""
    bias_K: np.ndarray
    spread: float
    """How far weights lie from 0 in units of 1 / sqrt(M), as the ridge has it; 0 where the vote
    alone was best.
    """

    def __call__(self, logits_MNC: Iterable[np.ndarray]) -> np.ndarray:
        """Return logits N x C float64, from N x C of each member."""
        sum_NC = None
        added_NK = self.bias_K
        for log_NC, weight_CK in zip(
            log_probabilities(logits_MNC, self.temperatures), self.weight_MCK, strict=True
        ):
            sum_NC = log_NC if sum_NC is None else np.logaddexp(sum_NC, log_NC)
            added_NK = added_NK + np.maximum(log_NC, LOWEST) @ weight_CK
        assert sum_NC is not None
        vote_NC = vote_at(sum_NC, self.vote_temperature)
        return re_expanded(
            log_softmax(within(vote_NC, self.class_K) + added_NK), vote_NC, self.class_K
        )

    @property
    def shares(self) -> tuple[float, ...]:
        """How large each member's weights are, next to those that one has in the vote: 1 / M for
        each class.
        """
        in_vote = np.sqrt(len(self.class_K)) / len(self.temperatures)
        size_M = in_vote + np.linalg.norm(self.weight_MCK, axis=(1, 2))
        return tuple((size_M / size_M.sum()).tolist())

    def as_dict(self) -> dict[str, Any]:
        """Return all but the weights themselves, of which there are M x C x K: their size, and
        their mean where a member's log-probability of a class speaks for that very class, in units
        of its share in the vote.
        """
        own_M = self.weight_MCK[:, self.class_K].diagonal(axis1=1, axis2=2).mean(axis=1)
        return {
            "stack": "equal soft vote + linear in log-probabilities",
            "temperatures": list(self.temperatures),
            "vote_temperature": self.vote_temperature,
            "spread": self.spread,
            "classes": self.class_K.tolist(),
            "bias": np.round(self.bias_K, 4).tolist(),
            "weight_shape": list(self.weight_MCK.shape),
            "weight_norm": np.round(np.linalg.norm(self.weight_MCK, axis=(1, 2)), 4).tolist(),
            "weight_of_own_class": np.round(own_M * len(self.temperatures), 4).tolist(),
            "shares": list(self.shares),
        }


def _loss(
    feature_NF: np.ndarray, weight_FK: np.ndarray, offset_NK: np.ndarray, target_N: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the summed log loss, and its slope in the weights: in float32, added up in float64."""
    rows = np.arange(len(target_N))
    score_NK = feature_NF @ weight_FK + offset_NK
    score_NK -= score_NK.max(axis=1, keepdims=True)
    true_N = score_NK[rows, target_N]
    np.exp(score_NK, out=score_NK)
    total_N = score_NK.sum(axis=1)
    score_NK /= total_N[:, None]
    score_NK[rows, target_N] -= 1
    return float((np.log(total_N) - true_N).sum(dtype=np.float64)), feature_NF.T @ score_NK


@dataclass(frozen=True, slots=True)
class _Problem:
    """What the weights are fitted on: rows N, features F = M x C and a constant, classes K."""

    feature_NF: np.ndarray
    """Float32, centred."""
    vote_NC: np.ndarray
    label_N: np.ndarray
    group_N: np.ndarray
    num_members: int

    def rows(self, rows: np.ndarray) -> _Problem:
        return _Problem(
            self.feature_NF[rows],
            self.vote_NC[rows],
            self.label_N[rows],
            self.group_N[rows],
            self.num_members,
        )

    def path(self, spreads: Sequence[float]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield classes K and weights F x K for each spread, from strong to weak, each started at
        the one before.

        Rows of a group are alike: a group counts once. A spread is a normal prior's, so that the
        ridge stays as it is, and says less, where there are more groups.
        """
        class_K, target_N = np.unique(self.label_N, return_inverse=True)
        num_rows, num_features = self.feature_NF.shape
        per_row = len(np.unique(self.group_N)) / num_rows
        offset_NK = within(self.vote_NC, class_K).astype(np.float32)
        gram_FF = self.feature_NF.T @ self.feature_NF
        weight_FK = np.zeros((num_features, len(class_K)))
        for spread in spreads:
            ridge = self.num_members / spread**2
            # Members are alike, so weights are fitted in the coordinates of a bound on the
            # curvature (Boehning 1992), in which all directions are about as steep: tens of steps,
            # not hundreds.
            root_FF = scipy.linalg.cholesky(
                per_row / 8 * gram_FF + ridge * np.eye(num_features), lower=True
            )

            def objective(
                flat: np.ndarray, ridge: float = ridge, root_FF: np.ndarray = root_FF
            ) -> tuple[float, np.ndarray]:
                weight_FK = scipy.linalg.solve_triangular(root_FF.T, flat.reshape(num_features, -1))
                loss, slope_FK = _loss(
                    self.feature_NF, weight_FK.astype(np.float32), offset_NK, target_N
                )
                slope_FK = per_row * slope_FK.astype(np.float64) + ridge * weight_FK
                slope = scipy.linalg.solve_triangular(root_FF, slope_FK, lower=True).ravel()
                return per_row * loss + ridge / 2 * float((weight_FK**2).sum()), slope

            options = {"ftol": CLOSE, "gtol": 1e-3, "maxiter": MOST_STEPS}
            start = (root_FF.T @ weight_FK).ravel()
            found = scipy.optimize.minimize(
                objective, start, jac=True, method="L-BFGS-B", options=options
            )
            weight_FK = scipy.linalg.solve_triangular(root_FF.T, found.x.reshape(num_features, -1))
            yield class_K, weight_FK

    def losses(self, class_K: np.ndarray, weight_FK: np.ndarray) -> np.ndarray:
        """Return the log loss of each of these rows."""
        added_NK = self.feature_NF @ weight_FK.astype(np.float32)
        log_NK = log_softmax(within(self.vote_NC, class_K) + added_NK)
        return row_loss(re_expanded(log_NK, self.vote_NC, class_K), self.label_N)

    def best_spread(self) -> float:
        """Return the spread of least log loss on people who had no say in the weights; 0 where it
        helps by chance.

        By chance is less than the standard error, over groups, of what it helps beside the vote.
        """
        code_N = np.unique(self.group_N, return_inverse=True)[1]
        # At random, not dealt by label: fresh people are not as many of each class as those that
        # were seen.
        part_N = group_parts(np.zeros_like(code_N), code_N, num_parts=NUM_PARTS)
        parts = [
            (self.rows(part_N != part), self.rows(part_N == part), part_N == part)
            for part in range(NUM_PARTS)
        ]
        if min(len(np.unique(fitted.label_N)) for fitted, _, _ in parts) < 2:
            return 0.0
        vote_loss_N = row_loss(self.vote_NC, self.label_N)
        best = 0.0
        best_loss_N = vote_loss_N
        paths = [fitted.path(SPREADS) for fitted, _, _ in parts]
        for spread, *found in zip(SPREADS, *paths, strict=False):
            loss_N = np.empty(len(self.label_N))
            for (class_K, weight_FK), (_, held, held_N) in zip(found, parts, strict=True):
                loss_N[held_N] = held.losses(class_K, weight_FK)
            if loss_N.sum() >= best_loss_N.sum():
                break
            best = spread
            best_loss_N = loss_N
        help_G = np.bincount(code_N, vote_loss_N - best_loss_N)
        return best if gain_of_sums(help_G).exceeds() else 0.0


def fit(evidence: Evidence) -> Stack:
    """Return the vote, corrected as far as that helps people held out inside the evidence; with too
    few, as it is.

    Temperatures are those of all rows, for all strengths of the ridge alike.
    """
    temperatures = evidence.temperatures
    num_members = len(evidence.logits_MNC)
    num_classes = evidence.num_classes
    num_rows = len(evidence.rows.label_N)
    feature_NF = np.empty((num_rows, num_members * num_classes + 1), np.float32)
    sum_NC = np.full((num_rows, num_classes), -np.inf)
    for member, log_NC in enumerate(log_probabilities(evidence.logits_MNC, temperatures)):
        np.logaddexp(sum_NC, log_NC, out=sum_NC)
        feature_NF[:, member * num_classes : (member + 1) * num_classes] = np.maximum(
            log_NC, LOWEST
        )
    (vote_temperature,) = fit_temperatures([sum_NC], evidence.rows.label_N, evidence.rows.group_N)
    mean_F = feature_NF[:, :-1].mean(axis=0, dtype=np.float64)
    feature_NF[:, :-1] -= mean_F.astype(np.float32)
    # The constant is as large as all members' together, to be as free as what they agree on.
    feature_NF[:, -1] = np.sqrt(num_members)
    vote_NC = vote_at(sum_NC, vote_temperature)
    problem = _Problem(
        feature_NF, vote_NC, evidence.rows.label_N, evidence.rows.group_N, num_members
    )
    spread = problem.best_spread()
    class_K = np.unique(evidence.rows.label_N)
    weight_FK = np.zeros((feature_NF.shape[1], len(class_K)))
    if spread:
        *_, (class_K, weight_FK) = problem.path([one for one in SPREADS if one <= spread])
    bias_K = np.sqrt(num_members) * weight_FK[-1] - mean_F @ weight_FK[:-1]
    weight_MCK = weight_FK[:-1].reshape(num_members, num_classes, -1)
    return Stack(temperatures, vote_temperature, class_K, weight_MCK, bias_K, spread)
