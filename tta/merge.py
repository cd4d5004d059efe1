"""Merging the logits of several views into one row of logits, by name.

Every merge takes V x N x C and gives N x C float32. It is written as the first view plus what the
others change: equal views come back to the bit, and what a row's logits have in common, which says
nothing, stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from foldblend.scores.metrics import log_softmax

__all__ = ["MERGES", "Merge", "check_weights", "entropy_mean", "mean_logit", "mean_proba"]

Merge = Callable[..., np.ndarray]
"""(logits V x N x C, weights V or V x C or None) -> logits N x C float32."""


def check_weights(weights: np.ndarray, num_views: int, num_classes: int) -> np.ndarray:
    """Return weights V or V x C as V x C float64.

    Raises ValueError for other shapes, for what is negative or not finite, and for a class that no
    view speaks for.
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
            "weights of views must be finite, 0 or more, and above 0 for some view of each class"
        )
    return np.broadcast_to(weights_VC, (num_views, num_classes))


def _that_count(
    logits_VNC: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the views that have a weight, and their weights V x C."""
    num_views, _, num_classes = logits_VNC.shape
    weights_VC = check_weights(
        np.ones(num_views) if weights is None else weights, num_views, num_classes
    )
    counts_V = (weights_VC > 0).any(axis=1)
    return (
        (logits_VNC, weights_VC) if counts_V.all() else (logits_VNC[counts_V], weights_VC[counts_V])
    )


def _gaps(logits_VNC: np.ndarray) -> Iterator[np.ndarray]:
    """Yield each view's log-probabilities minus the first one's, N x C float64; zeros where the two
    are equal.
    """
    first_NC = log_softmax(logits_VNC[0])
    return (log_softmax(logits_NC) - first_NC for logits_NC in logits_VNC)


def mean_logit(logits_VNC: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the mean of the views' log-probabilities, up to what a row has in common; N x C
    float32.

    Its softmax is the normalised geometric mean of the views' probabilities: each view's
    log-normaliser shifts a whole row and so drops out. One view comes back bit for bit.
    """
    if weights is None:
        return logits_VNC.mean(axis=0, dtype=np.float64).astype(np.float32)
    logits_VNC, weights_VC = _that_count(logits_VNC, weights)
    change_NC = sum(
        weight_C * gap_NC for weight_C, gap_NC in zip(weights_VC, _gaps(logits_VNC), strict=True)
    )
    return (logits_VNC[0] + change_NC / weights_VC.sum(axis=0)).astype(np.float32)


def _log_of_mean(logits_VNC: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """Return the first view's logits plus log(weighted mean of the views' odds against it).

    Both sums are taken in one order, so that equal views give log(1). The greatest gap among views
    that have a weight is taken out, so that nothing overflows or is lost.
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
    """Return the log of the mean of the views' probabilities, up to what a row has in common; N x C
    float32.
    """
    logits_VNC, weights_VC = _that_count(logits_VNC, weights)
    return _log_of_mean(logits_VNC, list(weights_VC))


def entropy_mean(logits_VNC: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the log of the mean of probabilities, each view of each row counting exp(-its
    entropy); N x C float32.

    That is one over the view's perplexity: 1 where it is sure, 1/C where it knows nothing, never 0.
    """
    logits_VNC, weights_VC = _that_count(logits_VNC, weights)
    sureness = []
    for logits_NC in logits_VNC:
        log_NC = log_softmax(logits_NC)
        sureness.append(np.exp((np.exp(log_NC) * log_NC).sum(axis=1, keepdims=True)))
    return _log_of_mean(
        logits_VNC,
        [weight_C * sure_N1 for weight_C, sure_N1 in zip(weights_VC, sureness, strict=True)],
    )


MERGES: dict[str, Merge] = {"mean": mean_logit, "prob": mean_proba, "entropy": entropy_mean}
