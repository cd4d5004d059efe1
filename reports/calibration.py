"""Whether a confidence of 0.8 is right eight times in ten, and the temperature that would make it so."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.optimize

from reports.bootstrap import Interval, group_resamples, percentile_interval
from reports.metrics import log_softmax, softmax

__all__ = ["calibration_error", "cross_fitted", "fit_temperature", "reliability_bins", "summarise_calibration"]

NUM_BINS = 15
LOG_RANGE = 4.0  # temperatures from e^-4 to e^4


def _bin_of(confidence_N: np.ndarray) -> np.ndarray:
    """Return the bin 0..14 of each confidence: equal widths, each with its upper end."""
    return np.clip(np.ceil(confidence_N * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)


def reliability_bins(label_N: np.ndarray, proba_NC: np.ndarray) -> list[dict[str, Any]]:
    """Return confidence, accuracy and rows of each bin of the predicted class's probability; empty ones left out."""
    confidence_N = proba_NC.max(axis=1)
    is_right_N, bin_N = proba_NC.argmax(axis=1) == label_N, _bin_of(confidence_N)
    return [
        {
            "low": float(one / NUM_BINS),
            "high": float((one + 1) / NUM_BINS),
            "confidence": float(confidence_N[bin_N == one].mean()),
            "accuracy": float(is_right_N[bin_N == one].mean()),
            "rows": int((bin_N == one).sum()),
        }
        for one in np.unique(bin_N)
    ]


def calibration_error(
    label_N: np.ndarray, proba_NC: np.ndarray, group_N: np.ndarray | None = None, *, seed: int = 0
) -> Interval:
    """Return the expected calibration error (ECE) over 15 bins of equal width, Guo et al. 2017.

    With groups, its 95 % interval by bootstrap over them; without, the interval is the value.
    """
    confidence_N = proba_NC.max(axis=1)
    gap_N = (proba_NC.argmax(axis=1) == label_N) - confidence_N
    bin_N = _bin_of(confidence_N)
    value = float(np.abs(np.bincount(bin_N, gap_N)).sum() / len(label_N))
    if group_N is None:
        return Interval(value, value, value)
    names, code_N = np.unique(group_N, return_inverse=True)
    gap_GB, size_G = np.zeros((len(names), NUM_BINS)), np.bincount(code_N)
    np.add.at(gap_GB, (code_N, bin_N), gap_N)
    scores = [
        np.abs(draw_RG @ gap_GB).sum(axis=1) / (draw_RG @ size_G) for draw_RG in group_resamples(len(names), seed)
    ]
    return percentile_interval(value, np.concatenate(scores))


def fit_temperature(logits_NC: np.ndarray, label_N: np.ndarray) -> float:
    """Return the temperature T that minimises the log loss of softmax(logits / T), Guo et al. 2017."""
    logits_NC, rows = logits_NC.astype(np.float64), np.arange(len(label_N))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits_NC / np.exp(log_temperature))[rows, label_N].mean())

    best = scipy.optimize.minimize_scalar(loss, bounds=(-LOG_RANGE, LOG_RANGE), method="bounded")
    return float(np.exp(best.x))


def cross_fitted(
    logits_NC: np.ndarray, label_N: np.ndarray, fold_N: np.ndarray, repeat_N: np.ndarray
) -> np.ndarray | None:
    """Return probabilities N x C, each fold's with the temperature of the repeat's other folds; None for one fold."""
    proba_NC = np.empty(logits_NC.shape)
    for repeat, fold in np.unique(np.stack([repeat_N, fold_N]), axis=1).T:
        others_N = (repeat_N == repeat) & (fold_N != fold)
        rows_N = (repeat_N == repeat) & (fold_N == fold)
        if not others_N.any():
            return None
        proba_NC[rows_N] = softmax(logits_NC[rows_N] / fit_temperature(logits_NC[others_N], label_N[others_N]))
    return proba_NC


def summarise_calibration(
    logits_NC: np.ndarray,
    label_N: np.ndarray,
    group_N: np.ndarray,
    fold_N: np.ndarray,
    repeat_N: np.ndarray,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Return ECE, bins and log loss as they are, the temperature that would fit, and what it would bring.

    The temperature itself is fitted on all rows; what it brings is measured out of fold.
    """
    rows, proba_NC = np.arange(len(label_N)), softmax(logits_NC)
    error = calibration_error(label_N, proba_NC, group_N, seed=seed)
    after_NC = cross_fitted(logits_NC, label_N, fold_N, repeat_N)
    tiny = np.finfo(float).tiny
    return {
        "ece": {"value": error.value, "low": error.low, "high": error.high},
        "log_loss": float(-log_softmax(logits_NC)[rows, label_N].mean()),
        "bins": reliability_bins(label_N, proba_NC),
        "temperature": fit_temperature(logits_NC, label_N),
        "ece_after": None if after_NC is None else calibration_error(label_N, after_NC).value,
        "log_loss_after": None
        if after_NC is None
        else float(-np.log(np.maximum(after_NC[rows, label_N], tiny)).mean()),
    }
