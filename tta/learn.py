"""Learned weights of views, one per view or one per class and view.

They are weights of a mean of log-probabilities. Both fits are convex problems with an L2 penalty,
so they have one solution and need neither a step size nor a seed.

References
----------
Shanmugam et al. 2021, "Better aggregation in test-time augmentation".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from foldblend.scores.metrics import log_softmax
from foldblend.scores.temperature import fit_temperature
from tta.merge import mean_logit

__all__ = ["WEIGHTINGS", "Weighting", "fit_class_weights", "fit_view_weights"]

Weighting = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Function from logits V x N x C, labels N and groups N to weights V or V x C."""

# Prior standard deviation of view weights around equal weights, in units of 1/V.
VIEW_SPREAD = 2.0
# Prior standard deviation of class weights around the view weights, in units of 1/V.
CLASS_SPREAD = 1.0
TINY = 1e-9
# L2 penalty on changes of the sum of a class's weights, in units of 1 / (1/V) ** 2.
STIFFNESS = 100.0


def _problem(
    logits_VNC: np.ndarray, label_N: np.ndarray, group_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return log-probabilities V x N x C, one-hot labels N x C, and the weight of a row.

    The log-probabilities are divided by the best temperature of their mean, since being more or
    less confident does not make a view better. The weight of a row is the number of groups over the
    number of rows: rows of a group are alike, so a group counts once, and the L2 penalty has the
    same effect on 60 groups of 7 images as on 60 groups of one.
    """
    temperature = fit_temperature(mean_logit(logits_VNC), label_N)
    log_VNC = np.stack([log_softmax(logits_NC) / temperature for logits_NC in logits_VNC])
    return log_VNC, np.eye(logits_VNC.shape[2])[label_N], len(np.unique(group_N)) / len(label_N)


def _loss(scores_NC: np.ndarray, truth_NC: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the summed log loss of scores, and its gradient."""
    log_NC = log_softmax(scores_NC)
    return -float(log_NC[truth_NC > 0].sum()), np.exp(log_NC) - truth_NC


def _minimise(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]], start: np.ndarray
) -> np.ndarray:
    """Return the minimum of a convex function over numbers of 0 or more."""
    import scipy.optimize  # only here, as it takes 0.3 s to import

    bounds = [(0.0, None)] * len(start)
    options = {"ftol": 1e-11, "gtol": 1e-5, "maxiter": 1000}
    found = scipy.optimize.minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    return np.asarray(found.x)


def _fit_scaled(log_VNC: np.ndarray, truth_NC: np.ndarray, per_row: float) -> np.ndarray:
    """Return weights V that are not normalised; their sum corrects the remaining sharpness."""
    num_views = len(log_VNC)
    flat = log_VNC.reshape(num_views, -1)
    ridge = (num_views / VIEW_SPREAD) ** 2

    def objective(weight_V: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slope_NC = _loss((weight_V @ flat).reshape(truth_NC.shape), truth_NC)
        off_V = weight_V - 1 / num_views
        return per_row * loss + ridge / 2 * float(off_V @ off_V), per_row * (
            flat @ slope_NC.ravel()
        ) + ridge * off_V

    return _minimise(objective, np.full(num_views, 1 / num_views))


def fit_view_weights(
    logits_VNC: np.ndarray, label_N: np.ndarray, group_N: np.ndarray
) -> np.ndarray:
    """Return the weights of views that minimise the log loss of the weighted mean.

    The prior is a normal distribution around equal weights with a standard deviation of 2/V. The
    sum of the weights is free during the fit, so that sharpness does not influence them.

    Parameters
    ----------
    logits_VNC
        Logits of V views.
    label_N, group_N
        Labels and groups of the rows.

    Returns
    -------
    numpy.ndarray
        V weights, 0 or more, with sum 1.
    """
    if len(logits_VNC) == 1:
        return np.ones(1)
    return _shares(_fit_scaled(*_problem(logits_VNC, label_N, group_N)))


def fit_class_weights(
    logits_VNC: np.ndarray, label_N: np.ndarray, group_N: np.ndarray
) -> np.ndarray:
    """Return weights per class and view that minimise the log loss of the weighted mean.

    The L2 penalty draws each class's weights to those of `fit_view_weights`, so that a few rows
    change little. A second, much larger penalty keeps the sum of a class's weights: it must not
    matter whether a class becomes more likely as a whole.

    Parameters
    ----------
    logits_VNC
        Logits of V views.
    label_N, group_N
        Labels and groups of the rows.

    Returns
    -------
    numpy.ndarray
        Weights V x C, 0 or more; the weights of each class have sum 1. A class without rows has the
        weights of `fit_view_weights`.
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
    """Return weights V or V x C scaled to sum 1 over views; equal ones if all are zero."""
    total = weights.sum(axis=0)
    return np.where(total > TINY, weights / np.where(total > TINY, total, 1), 1 / len(weights))


WEIGHTINGS: dict[str, Weighting] = {"view": fit_view_weights, "class": fit_class_weights}
