"""Stack with a multinomial regression on log-probabilities, which corrects the members' vote.

Stacking is from Wolpert 1992, "Stacked generalization". Breiman 1996, "Stacked regressions", found
that it needs strong regularisation, since members are similar. Ting and Witten 1999, "Issues in
stacked generalization", found that a linear model of class probabilities is enough. Here the vote
is a fixed offset, and the L2 penalty shrinks the weights towards the vote instead of towards no
prediction. The vote has a temperature, because a mean of confident models is underconfident:
weights should not be needed for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ensemble.methods.base import Evidence
from foldblend.image_columns import ImageColumns
from foldblend.scores.held_out import random_parts
from foldblend.scores.metrics import log_softmax
from foldblend.scores.score import lowers_loss
from foldblend.scores.temperature import fit_temperatures

__all__ = [
    "Prepared",
    "Problem",
    "Stack",
    "fit",
    "log_probabilities",
    "prepared",
    "re_expanded",
    "row_loss",
    "vote_at",
    "within",
]

# Standard deviations of the normal prior of weights, in units of 1 / sqrt(M), from the strongest L2
# penalty to the weakest.
SPREADS = (0.025, 0.05, 0.1, 0.2, 0.4)
LOWEST = -15.0  # lower log-probabilities are set to this: no model is so confident with reason
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
    """Return the log-probabilities of the vote from the log of the sum of probabilities."""
    return log_softmax(sum_NC / temperature)


def within(vote_NC: np.ndarray, class_E: np.ndarray) -> np.ndarray:
    """Return the log-probabilities N x E of a vote among only these E classes."""
    return log_softmax(vote_NC[:, class_E])


def re_expanded(log_NE: np.ndarray, vote_NC: np.ndarray, class_E: np.ndarray) -> np.ndarray:
    """Return finite log-probabilities N x C from those of the E classes that had rows.

    Nothing was learned about the other classes, so they keep the probabilities of the vote, and the
    E classes share the rest.
    """
    log_NC = vote_NC.copy()
    log_NC[:, class_E] = log_NE + np.logaddexp.reduce(vote_NC[:, class_E], axis=1)[:, None]
    return log_NC


def row_loss(log_NC: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Return the log loss of each row."""
    return -log_NC[np.arange(len(label_N)), label_N]


@dataclass(frozen=True, slots=True)
class Stack:
    """Log of the members' soft vote, corrected by a linear model of their log-probabilities."""

    temperatures: tuple[float, ...]
    vote_temperature: float
    class_E: np.ndarray
    """The classes that had rows; others keep the log-probabilities of the vote."""
    weight_MCE: np.ndarray
    """Weights of each member's log-probability of each class, for each of the E classes."""
    bias_E: np.ndarray
    spread: float
    """Standard deviation of the weights' prior in units of 1 / sqrt(M), which sets the L2 penalty.

    It is 0 where the vote without correction was best.
    """

    def __call__(
        self, logits_MNC: Iterable[np.ndarray], columns: ImageColumns | None = None
    ) -> np.ndarray:
        """Return logits N x C float64 from the logits N x C of each member."""
        return self.moved(logits_MNC, self.bias_E)

    def moved(self, logits_MNC: Iterable[np.ndarray], added_NE: np.ndarray) -> np.ndarray:
        """Return logits N x C float64 with something else than the bias as the first term."""
        sum_NC = None
        for log_NC, weight_CE in zip(
            log_probabilities(logits_MNC, self.temperatures), self.weight_MCE, strict=True
        ):
            sum_NC = log_NC if sum_NC is None else np.logaddexp(sum_NC, log_NC)
            added_NE = added_NE + np.maximum(log_NC, LOWEST) @ weight_CE
        assert sum_NC is not None
        vote_NC = vote_at(sum_NC, self.vote_temperature)
        return re_expanded(
            log_softmax(within(vote_NC, self.class_E) + added_NE), vote_NC, self.class_E
        )

    @property
    def needs(self) -> Mapping[str, str]:
        return {}

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each member by the size of its weights.

        A member has its weights in the vote, 1 / M for each class, plus the fitted ones.
        """
        in_vote = np.sqrt(len(self.class_E)) / len(self.temperatures)
        size_M = in_vote + np.linalg.norm(self.weight_MCE, axis=(1, 2))
        return tuple((size_M / size_M.sum()).tolist())

    def as_dict(self) -> dict[str, Any]:
        """Return the fitted parameters, with a summary of the M x C x E weights.

        The summary is the norm of each member's weights, and the mean weight of its
        log-probability of a class for the same class, in units of its share in the vote.
        """
        own_M = self.weight_MCE[:, self.class_E].diagonal(axis1=1, axis2=2).mean(axis=1)
        return {
            "stack": "equal soft vote + linear in log-probabilities",
            "temperatures": list(self.temperatures),
            "vote_temperature": self.vote_temperature,
            "spread": self.spread,
            "classes": self.class_E.tolist(),
            "bias": np.round(self.bias_E, 4).tolist(),
            "weight_shape": list(self.weight_MCE.shape),
            "weight_norm": np.round(np.linalg.norm(self.weight_MCE, axis=(1, 2)), 4).tolist(),
            "weight_of_own_class": np.round(own_M * len(self.temperatures), 4).tolist(),
            "shares": list(self.shares),
        }


def _loss(
    feature_ND: np.ndarray, weight_DE: np.ndarray, offset_NE: np.ndarray, target_N: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the summed log loss and its gradient in the weights.

    Terms are float32 and the loss is summed in float64.
    """
    rows = np.arange(len(target_N))
    score_NE = feature_ND @ weight_DE + offset_NE
    score_NE -= score_NE.max(axis=1, keepdims=True)
    true_N = score_NE[rows, target_N]
    np.exp(score_NE, out=score_NE)
    total_N = score_NE.sum(axis=1)
    score_NE /= total_N[:, None]
    score_NE[rows, target_N] -= 1
    return float((np.log(total_N) - true_N).sum(dtype=np.float64)), feature_ND.T @ score_NE


@dataclass(frozen=True, slots=True)
class Problem:
    """Data that the weights are fitted on: N rows, D = M C + 1 features, E classes that occur.

    The last feature is a constant.
    """

    feature_ND: np.ndarray
    """Float32, centred."""
    vote_NC: np.ndarray
    label_N: np.ndarray
    group_N: np.ndarray
    num_members: int

    def rows(self, rows: np.ndarray) -> Problem:
        return Problem(
            self.feature_ND[rows],
            self.vote_NC[rows],
            self.label_N[rows],
            self.group_N[rows],
            self.num_members,
        )

    def path(self, spreads: Sequence[float]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield classes E and weights D x E for each spread, each fit started at the one before.

        Rows of a group are similar, so each group counts once. The L2 penalty does not grow with
        the number of groups, so it matters less the more groups there are.
        """
        # Late, as votes do not need it; see `ensemble.threads`.
        import scipy.linalg
        import scipy.optimize

        class_E, target_N = np.unique(self.label_N, return_inverse=True)
        num_rows, num_features = self.feature_ND.shape
        per_row = len(np.unique(self.group_N)) / num_rows
        offset_NE = within(self.vote_NC, class_E).astype(np.float32)
        gram_DD = self.feature_ND.T @ self.feature_ND
        weight_DE = np.zeros((num_features, len(class_E)))
        for spread in spreads:
            penalty = self.num_members / spread**2
            # Members are similar, so the problem is badly conditioned. In the coordinates of a
            # bound on the curvature (Boehning 1992) all directions are about equally steep, which
            # takes tens of steps instead of hundreds.
            root_DD = scipy.linalg.cholesky(
                per_row / 8 * gram_DD + penalty * np.eye(num_features), lower=True
            )

            def objective(
                flat: np.ndarray, penalty: float = penalty, root_DD: np.ndarray = root_DD
            ) -> tuple[float, np.ndarray]:
                weight_DE = scipy.linalg.solve_triangular(root_DD.T, flat.reshape(num_features, -1))
                loss, slope_DE = _loss(
                    self.feature_ND, weight_DE.astype(np.float32), offset_NE, target_N
                )
                slope_DE = per_row * slope_DE.astype(np.float64) + penalty * weight_DE
                slope = scipy.linalg.solve_triangular(root_DD, slope_DE, lower=True).ravel()
                return per_row * loss + penalty / 2 * float((weight_DE**2).sum()), slope

            options = {"ftol": CLOSE, "gtol": 1e-3, "maxiter": MOST_STEPS}
            start = (root_DD.T @ weight_DE).ravel()
            found = scipy.optimize.minimize(
                objective, start, jac=True, method="L-BFGS-B", options=options
            )
            weight_DE = scipy.linalg.solve_triangular(root_DD.T, found.x.reshape(num_features, -1))
            yield class_E, weight_DE

    def losses(self, class_E: np.ndarray, weight_DE: np.ndarray) -> np.ndarray:
        """Return the log loss of each row."""
        added_NE = self.feature_ND @ weight_DE.astype(np.float32)
        log_NE = log_softmax(within(self.vote_NC, class_E) + added_NE)
        return row_loss(re_expanded(log_NE, self.vote_NC, class_E), self.label_N)

    def best_spread(self) -> float:
        """Return the spread with the lowest log loss on held-out groups, 0 for no correction.

        It is 0 unless the correction lowers the log loss of the vote by more than one standard
        error over groups.
        """
        masks = random_parts(self.label_N, self.group_N, num_parts=NUM_PARTS)
        if not masks:
            return 0.0
        parts = [(self.rows(fitted_N), self.rows(held_N), held_N) for fitted_N, held_N in masks]
        vote_loss_N = row_loss(self.vote_NC, self.label_N)
        best = 0.0
        best_loss_N = vote_loss_N
        paths = [fitted.path(SPREADS) for fitted, _, _ in parts]
        for spread, *found in zip(SPREADS, *paths, strict=False):
            loss_N = np.empty(len(self.label_N))
            for (class_E, weight_DE), (_, held, held_N) in zip(found, parts, strict=True):
                loss_N[held_N] = held.losses(class_E, weight_DE)
            if loss_N.sum() >= best_loss_N.sum():
                break
            best = spread
            best_loss_N = loss_N
        return best if lowers_loss(vote_loss_N, best_loss_N, self.group_N) else 0.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A stack before its weights are fitted."""

    temperatures: tuple[float, ...]
    vote_temperature: float
    problem: Problem
    mean_D: np.ndarray
    """Means of the features of members, which the problem has centred."""

    def stack(self, class_E: np.ndarray, weight_DE: np.ndarray, spread: float) -> Stack:
        """Return the stack with these weights of the problem's features."""
        num_members = self.problem.num_members
        bias_E = np.sqrt(num_members) * weight_DE[-1] - self.mean_D @ weight_DE[:-1]
        weight_MCE = weight_DE[:-1].reshape(num_members, len(self.mean_D) // num_members, -1)
        return Stack(self.temperatures, self.vote_temperature, class_E, weight_MCE, bias_E, spread)

    def fitted(self, spread: float) -> Stack:
        """Return the stack fitted on all rows; for a spread of 0 it is the vote."""
        class_E = np.unique(self.problem.label_N)
        weight_DE = np.zeros((self.problem.feature_ND.shape[1], len(class_E)))
        if spread:
            *_, (class_E, weight_DE) = self.problem.path([one for one in SPREADS if one <= spread])
        return self.stack(class_E, weight_DE, spread)


def prepared(evidence: Evidence) -> Prepared:
    """Return the vote and the features of a stack.

    Temperatures are fitted on all rows, once for all L2 penalties.
    """
    temperatures = evidence.temperatures
    num_members = len(evidence.logits_MNC)
    num_classes = evidence.num_classes
    num_rows = len(evidence.rows.label_N)
    feature_ND = np.empty((num_rows, num_members * num_classes + 1), np.float32)
    sum_NC = np.full((num_rows, num_classes), -np.inf)
    for member, log_NC in enumerate(log_probabilities(evidence.logits_MNC, temperatures)):
        np.logaddexp(sum_NC, log_NC, out=sum_NC)
        feature_ND[:, member * num_classes : (member + 1) * num_classes] = np.maximum(
            log_NC, LOWEST
        )
    (vote_temperature,) = fit_temperatures([sum_NC], evidence.rows.label_N, evidence.rows.group_N)
    mean_D = feature_ND[:, :-1].mean(axis=0, dtype=np.float64)
    feature_ND[:, :-1] -= mean_D.astype(np.float32)
    # The constant has the size of all members' features together, so that the penalty on a bias is
    # the same as on a direction in which all members agree.
    feature_ND[:, -1] = np.sqrt(num_members)
    vote_NC = vote_at(sum_NC, vote_temperature)
    problem = Problem(
        feature_ND, vote_NC, evidence.rows.label_N, evidence.rows.group_N, num_members
    )
    return Prepared(temperatures, vote_temperature, problem, mean_D)


def fit(evidence: Evidence) -> Stack:
    """Fit a correction of the vote, as strong as helps held-out groups of the evidence.

    If none helps, and with too few groups to hold out, the vote is returned.
    """
    found = prepared(evidence)
    return found.fitted(found.problem.best_spread())
