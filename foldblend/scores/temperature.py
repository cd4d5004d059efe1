"""Temperatures: how sure a model's probabilities are, put right by one number (Guo et al. 2017).

There are two ways to the same minimum, which agree to a thousandth and better: a bounded search,
for reports and the weights of views, and Newton's steps, ten times as fast, for blends. Each is
kept because the logits of runs that were made with it would otherwise change in their last digits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.optimize

from foldblend.scores.metrics import log_softmax
from foldblend.scores.score import gain_of_sums

__all__ = ["fit_temperature", "fit_temperatures"]

LOG_RANGE = 4.0  # temperatures from e^-4 to e^4
LOWEST = np.exp(-LOG_RANGE)
HIGHEST = np.exp(LOG_RANGE)
STEPS = 50
CLOSE = 1e-6


def fit_temperature(logits_NC: np.ndarray, label_N: np.ndarray) -> float:
    """Return the temperature T that minimises the log loss of softmax(logits / T), Guo et al.
    2017.
    """
    logits_NC = logits_NC.astype(np.float64)
    rows = np.arange(len(label_N))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits_NC / np.exp(log_temperature))[rows, label_N].mean())

    best = scipy.optimize.minimize_scalar(loss, bounds=(-LOG_RANGE, LOG_RANGE), method="bounded")
    return float(np.exp(best.x))


def _slope(
    shifted_NC: np.ndarray, rows: np.ndarray, label_N: np.ndarray, sharpness: float
) -> tuple[float, float]:
    """Return the first and second derivative of the mean log loss of softmax(sharpness * logits) in
    the sharpness.
    """
    weight_NC = np.exp(shifted_NC * np.float32(sharpness))
    weight_NC /= weight_NC.sum(axis=1, keepdims=True)
    mean_N = np.einsum("nc,nc->n", weight_NC, shifted_NC)
    square_N = np.einsum("nc,nc,nc->n", weight_NC, shifted_NC, shifted_NC)
    first = (mean_N - shifted_NC[rows, label_N]).mean(dtype=np.float64)
    return float(first), float((square_N - mean_N**2).mean(dtype=np.float64))


def _sharpness(shifted_NC: np.ndarray, label_N: np.ndarray) -> float:
    """Return the sharpness of least log loss, which is convex in it: Newton's steps, halved into a
    bracket.
    """
    low = LOWEST
    high = HIGHEST
    sharpness = 1.0
    rows = np.arange(len(label_N))
    for _ in range(STEPS):
        first, second = _slope(shifted_NC, rows, label_N, sharpness)
        low, high = (sharpness, high) if first < 0 else (low, sharpness)
        step = sharpness - first / second if second > 0 else np.inf
        new = step if low < step < high else float(np.sqrt(low * high))
        if abs(new - sharpness) <= CLOSE * sharpness:
            break
        sharpness = new
    return float(sharpness)


def _row_loss(shifted_NC: np.ndarray, label_N: np.ndarray, sharpness: float) -> np.ndarray:
    scaled_NC = shifted_NC.astype(np.float64) * sharpness
    return np.asarray(
        np.log(np.exp(scaled_NC).sum(axis=1)) - scaled_NC[np.arange(len(label_N)), label_N]
    )


def fit_temperatures(
    logits_MNC: Sequence[np.ndarray], label_N: np.ndarray, group_N: np.ndarray
) -> tuple[float, ...]:
    """Return each member's temperature (Guo et al. 2017), or 1 where it helps less than the
    standard error of its help.

    Logits N x C float32 a member, labels N, groups N as codes; the error is over groups, whose rows
    are alike.
    """
    code_N = np.unique(group_N, return_inverse=True)[1]
    found = []
    for logits_NC in logits_MNC:
        shifted_NC = logits_NC - logits_NC.max(axis=1, keepdims=True)
        sharpness = _sharpness(shifted_NC, label_N)
        help_G = np.bincount(
            code_N, _row_loss(shifted_NC, label_N, 1.0) - _row_loss(shifted_NC, label_N, sharpness)
        )
        found.append(1 / sharpness if gain_of_sums(help_G).exceeds() else 1.0)
    return tuple(found)
