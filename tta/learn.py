"""Learned weights of views, one a view or one a class and view, for the mean of log-probabilities.

The idea of weights per view and per class and view is of Shanmugam et al. 2021, "Better aggregation
in test-time augmentation"; here both are convex problems with ridges, so that they have one answer,
without a step size and without a seed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.optimize

from foldblend.scores.metrics import log_softmax
from foldblend.scores.temperature import fit_temperature
from tta.merge import mean_logit

__all__ = ["WEIGHTINGS", "Weighting", "fit_class_weights", "fit_view_weights"]

Weighting = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(logits V x N x C, labels N, groups N) -> weights V or V x C."""

VIEW_SPREAD = (
    2.0  # how far weights of views lie from equal ones, before any row is seen, in units of 1/V
)
CLASS_SPREAD = 1.0  # how far those of a class lie from the views', in the same units
TINY = 1e-9
STIFFNESS = 100.0  # of a class's sum, in units of 1 / (1/V) ** 2


def _problem(
    logits_VNC: np.ndarray, label_N: np.ndarray, group_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return log-probabilities V x N x C at the temperature of their mean, true classes one-hot,
    and groups a row.

    Sharpness is taken out because it is no view's merit. Rows of a group are alike: a group counts
    once, so that the ridges are as strong against 60 people with 7 images as against 60 with one.
    """
    temperature = fit_temperature(mean_logit(logits_VNC), label_N)
    log_VNC = np.stack([log_softmax(logits_NC) / temperature for logits_NC in logits_VNC])
    return log_VNC, np.eye(logits_VNC.shape[2])[label_N], len(np.unique(group_N)) / len(label_N)


def _loss(scores_NC: np.ndarray, truth_NC: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the summed log loss of scores, and its slope in them."""
    log_NC = log_softmax(scores_NC)
    return -float(log_NC[truth_NC > 0].sum()), np.exp(log_NC) - truth_NC


def _minimise(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]], start: np.ndarray
) -> np.ndarray:
    """Return where a convex function of numbers of 0 or more is least."""
    bounds = [(0.0, None)] * len(start)
    options = {"ftol": 1e-11, "gtol": 1e-5, "maxiter": 1000}
    found = scipy.optimize.minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    return np.asarray(found.x)


def _fit_scaled(log_VNC: np.ndarray, truth_NC: np.ndarray, per_row: float) -> np.ndarray:
    """Return weights V that are not normalised: their sum is what sharpness remains to be put
    right.
    """
    num_views = len(log_VNC)
    flat_VM = log_VNC.reshape(num_views, -1)
    ridge = (num_views / VIEW_SPREAD) ** 2

    def objective(weight_V: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slope_NC = _loss((weight_V @ flat_VM).reshape(truth_NC.shape), truth_NC)
        off_V = weight_V - 1 / num_views
        return per_row * loss + ridge / 2 * float(off_V @ off_V), per_row * (
            flat_VM @ slope_NC.ravel()
        ) + ridge * off_V

    return _minimise(objective, np.full(num_views, 1 / num_views))


def fit_view_weights(
    logits_VNC: np.ndarray, label_N: np.ndarray, group_N: np.ndarray
) -> np.ndarray:
    """Return weights V, 0 or more with sum 1, that minimise the log loss of the weighted mean of
    log-probabilities.

    The prior is normal around equal weights with a deviation of 1/V: a view is as likely to be
    worth nothing as to be worth two. Sharpness is free while they are fitted.
    """
    if len(logits_VNC) == 1:
        return np.ones(1)
    return _shares(_fit_scaled(*_problem(logits_VNC, label_N, group_N)))


def fit_class_weights(
    logits_VNC: np.ndarray, label_N: np.ndarray, group_N: np.ndarray
) -> np.ndarray:
    """Return weights V x C, 0 or more, each class's sum 1; a class without rows has those of
    `fit_view_weights`.

    Each class's weights are drawn to the views', so that few rows change little. A class's sum is
    held (by a ridge far stiffer than the other), because to make a class as a whole likelier is no
    merit of its views.
    """
    num_views, _, num_classes = logits_VNC.shape
    if num_views == 1:
        return np.ones((1, num_classes))
    log_VNC, truth_NC, per_row = _problem(logits_VNC, label_N, group_N)
    view_V = _fit_scaled(log_VNC, truth_NC, per_row)
    if view_V.sum() <= TINY:
        return np.full((num_views, num_classes), 1 / num_views)
    occurs_C = truth_NC.any(axis=0)
    ridge = (num_views / CLASS_SPREAD) ** 2
    stiff = STIFFNESS * num_views**2
    weight_VC = np.repeat(view_V[:, None], num_classes, axis=1)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight_VC[:, occurs_C] = flat.reshape(num_views, -1)
        scores_NC = sum(
            weight_C * log_NC for weight_C, log_NC in zip(weight_VC, log_VNC, strict=True)
        )
        loss, slope_NC = _loss(np.asarray(scores_NC), truth_NC)
        off_VC = weight_VC - view_V[:, None]
        off_C = off_VC.sum(axis=0)
        slope_VC = per_row * np.stack([(log_NC * slope_NC).sum(axis=0) for log_NC in log_VNC])
        value = (
            per_row * loss + ridge / 2 * float((off_VC**2).sum()) + stiff / 2 * float(off_C @ off_C)
        )
        return value, (slope_VC + ridge * off_VC + stiff * off_C)[:, occurs_C].ravel()

    weight_VC[:, occurs_C] = _minimise(objective, weight_VC[:, occurs_C].ravel()).reshape(
        num_views, -1
    )
    return _shares(weight_VC)


def _shares(weights: np.ndarray) -> np.ndarray:
    """Return weights V or V x C with sum 1 over views; equal ones where no view says anything,
    which is all zeros.
    """
    total = weights.sum(axis=0)
    return np.where(total > TINY, weights / np.where(total > TINY, total, 1), 1 / len(weights))


WEIGHTINGS: dict[str, Weighting] = {"view": fit_view_weights, "class": fit_class_weights}
