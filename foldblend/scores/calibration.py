"""Whether a confidence of 0.8 is right eight times in ten, and the temperature that would make it
so.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from foldblend.scores.metrics import METRICS, mean_score, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.temperature import fit_temperature

__all__ = [
    "calibration_error",
    "cross_fitted",
    "error_by_chance",
    "reliability_bins",
    "summarise_calibration",
]

NUM_BINS = 15
NUM_RESAMPLES = 1000
CHUNK = 50
LOG_RANGE = 4.0  # temperatures from e^-4 to e^4


def _bin_of(confidence_N: np.ndarray) -> np.ndarray:
    """Return the bin 0..14 of each confidence: equal widths, each with its upper end."""
    return np.clip(np.ceil(confidence_N * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)


def reliability_bins(label_N: np.ndarray, proba_NC: np.ndarray) -> list[dict[str, Any]]:
    """Return confidence, accuracy and rows of each bin of the predicted class's probability; empty
    ones left out.
    """
    confidence_N = proba_NC.max(axis=1)
    is_right_N = proba_NC.argmax(axis=1) == label_N
    bin_N = _bin_of(confidence_N)
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


def calibration_error(label_N: np.ndarray, proba_NC: np.ndarray) -> float:
    """Return the expected calibration error (ECE) over 15 bins of equal width, Guo et al. 2017."""
    return float(
        np.abs(np.bincount(_bin_of(proba_NC.max(axis=1)), _gaps(label_N, proba_NC))).sum()
        / len(label_N)
    )


def _gaps(label_N: np.ndarray, proba_NC: np.ndarray) -> np.ndarray:
    """Return how much more right each row is than it says: 1 or 0 minus its confidence."""
    return (proba_NC.argmax(axis=1) == label_N) - proba_NC.max(axis=1)


def error_by_chance(
    label_N: np.ndarray, proba_NC: np.ndarray, group_N: np.ndarray, *, seed: int = 0
) -> tuple[float, float]:
    """Return the ECE that a calibrated model would show for want of rows: its mean and 95 %
    quantile.

    ECE is a sum of absolute values, so it is above zero without any fault, and a bootstrap of it
    only doubles that. Here each group's gaps change sign together at random (wild bootstrap, Wu
    1986), which makes them zero on average and leaves rows of a group alike.
    """
    names, code_N = np.unique(group_N, return_inverse=True)
    gap_GB = np.zeros((len(names), NUM_BINS))
    rng = np.random.default_rng(seed)
    np.add.at(gap_GB, (code_N, _bin_of(proba_NC.max(axis=1))), _gaps(label_N, proba_NC))
    signs = (
        rng.choice([-1.0, 1.0], size=(CHUNK, len(names))) for _ in range(NUM_RESAMPLES // CHUNK)
    )
    errors_R = np.concatenate([np.abs(sign_RG @ gap_GB).sum(axis=1) for sign_RG in signs]) / len(
        label_N
    )
    return float(errors_R.mean()), float(np.quantile(errors_R, 0.95))


def cross_fitted(logits_NC: np.ndarray, rows: Rows) -> np.ndarray | None:
    """Return probabilities N x C, each fold's with the temperature of the repeat's other folds;
    None for one fold.
    """
    proba_NC = np.empty(logits_NC.shape)
    for repeat, fold in np.unique(np.stack([rows.repeat_N, rows.fold_N]), axis=1).T:
        others_N = (rows.repeat_N == repeat) & (rows.fold_N != fold)
        held_N = (rows.repeat_N == repeat) & (rows.fold_N == fold)
        if not others_N.any():
            return None
        proba_NC[held_N] = softmax(
            logits_NC[held_N] / fit_temperature(logits_NC[others_N], rows.label_N[others_N])
        )
    return proba_NC


def summarise_calibration(logits_NC: np.ndarray, rows: Rows, *, seed: int = 0) -> dict[str, Any]:
    """Return ECE, bins and log loss as they are, the temperature that would fit, and what it would
    bring.

    The temperature itself is fitted on all rows; what it brings is measured out of fold.
    """
    proba_NC = softmax(logits_NC)
    log_loss = METRICS["log_loss"]
    after_NC = cross_fitted(logits_NC, rows)
    mean, high = error_by_chance(rows.label_N, proba_NC, rows.group_N, seed=seed)
    return {
        "ece": calibration_error(rows.label_N, proba_NC),
        "ece_by_chance": {"mean": mean, "high": high},
        "log_loss": mean_score(log_loss, rows.label_N, proba_NC, rows.repeat_N),
        "bins": reliability_bins(rows.label_N, proba_NC),
        "temperature": fit_temperature(logits_NC, rows.label_N),
        "ece_after": None if after_NC is None else calibration_error(rows.label_N, after_NC),
        "log_loss_after": None
        if after_NC is None
        else mean_score(log_loss, rows.label_N, after_NC, rows.repeat_N),
    }
