"""Merges: functions that combine the logits of several views into one set of logits.

Every merge takes logits V x N x C and returns N x C float32. It computes the first view's logits
plus a change. So equal views give exactly the same logits again, and a constant added to a row,
which has no effect on probabilities, is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from foldblend.scores.metrics import log_softmax

__all__ = ["MERGES", "Merge", "check_weights", "entropy_mean", "mean_logit", "mean_proba"]

Merge = Callable[..., np.ndarray]
"""Function from logits V x N x C and weights (V, V x C or None) to logits N x C float32."""


def check_weights(weights: np.ndarray, num_views: int, num_classes: int) -> np.ndarray:
    """Return weights of shape V or V x C as V x C float64.

    Raises
    ------
    ValueError
        For other shapes, for weights that are negative or not finite, and for a class in which no
        view has a weight above 0.
    """
    weights_VC = np.asarray(weights, np.float64)
    weights_VC = weights_VC[:, None] if weights_VC.ndim == 1 else weights_VC
    if weights_VC.shape not in ((num_views, 1), (num_views, num_classes)):
        raise ValueError(
            f"weights of shape {np.shape(weights)} for {num_views} views and {num_classes} classes"
        )
    if not (
        np.isfinite(weights_VC).all()
        and (weights_VC >= 0).all()
        and (weights_VC.sum(axis=0) > 0).all()
    ):
        raise ValueError(
            "weights of views must be finite, 0 or more, and above 0 for at least one view per"
            " class"
        )
    return np.broadcast_to(weights_VC, (num_views, num_classes))


def _with_weight(
    logits_VNC: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the views whose weight is not 0, and their weights V x C."""
    num_views, _, num_classes = logits_VNC.shape
    weights_VC = check_weights(
        np.ones(num_views) if weights is None else weights, num_views, num_classes
    )
    counts_V = (weights_VC > 0).any(axis=1)
    return (
        (logits_VNC, weights_VC) if counts_V.all() else (logits_VNC[counts_V], weights_VC[counts_V])
    )


def _gaps(logits_VNC: np.ndarray) -> Iterator[np.ndarray]:
    """Yield each view's log-probabilities minus those of the first view, N x C float64."""
    first_NC = log_softmax(logits_VNC[0])
    return (log_softmax(logits_NC) - first_NC for logits_NC in logits_VNC)


def mean_logit(logits_VNC: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the mean of the views' log-probabilities, up to a constant per row.

    Its softmax is the normalised geometric mean of the views' probabilities. A single view is
    returned bit for bit.

    Parameters
    ----------
    logits_VNC
        Logits of V views.
    weights
        Weights V or V x C; None weighs all views equally.

    Returns
    -------
    numpy.ndarray
        Logits N x C float32.

    Examples
    --------
    >>> mean_logit(np.array([[[0.0, 2.0]], [[0.0, 4.0]]])).tolist()
    [[0.0, 3.0]]
    """
    if weights is None:
        return logits_VNC.mean(axis=0, dtype=np.float64).astype(np.float32)
    logits_VNC, weights_VC = _with_weight(logits_VNC, weights)
    change_NC = sum(
        weight_C * gap_NC for weight_C, gap_NC in zip(weights_VC, _gaps(logits_VNC), strict=True)
    )
    return (logits_VNC[0] + change_NC / weights_VC.sum(axis=0)).astype(np.float32)


def _log_of_mean(logits_VNC: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """Return the first view's logits plus the log of the weighted mean of odds against it.

    Numerator and denominator are summed in the same order, so that equal views give exactly log(1).
    The largest gap is subtracted before exp, so that nothing overflows.
    """
    gaps = [
        np.where(weight > 0, gap_NC, -np.inf)
        for weight, gap_NC in zip(weights, _gaps(logits_VNC), strict=True)
    ]
    top_NC = np.max(gaps, axis=0)
    total_NC = np.zeros_like(top_NC)
    norm = np.zeros_like(weights[0])
    for weight, gap_NC in zip(weights, gaps, strict=True):
        total_NC = total_NC + weight * np.exp(gap_NC - top_NC)
        norm = norm + weight
    return (logits_VNC[0] + (top_NC + np.log(total_NC / norm))).astype(np.float32)


def mean_proba(logits_VNC: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the log of the mean of the views' probabilities, up to a constant per row.

    Parameters and result are those of `mean_logit`.
    """
    logits_VNC, weights_VC = _with_weight(logits_VNC, weights)
    return _log_of_mean(logits_VNC, list(weights_VC))


def entropy_mean(logits_VNC: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the log of a mean of probabilities in which confident views count more.

    Each view of each image is weighted by exp(-entropy), which is one over its perplexity: 1 for a
    certain prediction, 1/C for equal probabilities. Parameters and result are those of
    `mean_logit`.
    """
    logits_VNC, weights_VC = _with_weight(logits_VNC, weights)
    confidences = []
    for logits_NC in logits_VNC:
        log_NC = log_softmax(logits_NC)
        confidences.append(np.exp((np.exp(log_NC) * log_NC).sum(axis=1, keepdims=True)))
    return _log_of_mean(
        logits_VNC,
        [weight_C * one for weight_C, one in zip(weights_VC, confidences, strict=True)],
    )


MERGES: dict[str, Merge] = {"mean": mean_logit, "prob": mean_proba, "entropy": entropy_mean}
