"""Calibration: whether predictions of confidence 0.8 are right in 80 % of the cases.

Temperatures (see `foldblend.scores.temperature`) correct it.
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
CHUNK = 50  # resamples per array, to bound memory


def _bin_of(confidence_N: np.ndarray) -> np.ndarray:
    """Return the bin 0..14 of each confidence; bins have equal widths and include their end."""
    return np.clip(np.ceil(confidence_N * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)


def reliability_bins(label_N: np.ndarray, proba_NC: np.ndarray) -> list[dict[str, Any]]:
    """Return the mean confidence, accuracy and number of rows of each bin of confidence.

    The confidence of a row is the probability of its predicted class. There are 15 bins of equal
    width; empty ones are left out.
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
    """Return the expected calibration error (ECE) over 15 bins of equal width.

    This is the mean over rows of the distance between their bin's accuracy and mean confidence.

    References
    ----------
    Guo, C. et al. (2017). On Calibration of Modern Neural Networks. ICML.

    Examples
    --------
    >>> round(calibration_error(np.array([0, 0]), np.array([[0.9, 0.1], [0.9, 0.1]])), 4)
    0.1
    """
    return float(
        np.abs(np.bincount(_bin_of(proba_NC.max(axis=1)), _gaps(label_N, proba_NC))).sum()
        / len(label_N)
    )


def _gaps(label_N: np.ndarray, proba_NC: np.ndarray) -> np.ndarray:
    """Return 1 (right) or 0 (wrong) minus the confidence, for each row."""
    return (proba_NC.argmax(axis=1) == label_N) - proba_NC.max(axis=1)


def error_by_chance(
    label_N: np.ndarray, proba_NC: np.ndarray, group_N: np.ndarray, *, seed: int = 0
) -> tuple[float, float]:
    """Return the ECE that a calibrated model would have by chance: mean and 95 % quantile.

    ECE is a sum of absolute values, so with finitely many rows it is above zero even for a
    calibrated model, and an ordinary bootstrap would double that. The wild bootstrap instead flips
    the signs of all gaps (right minus confidence) of a group together at random. The gaps are then
    zero on average, and rows of a group stay dependent.

    Parameters
    ----------
    label_N
        True class of each row.
    proba_NC
        Class probabilities of each row.
    group_N
        Group of each row.
    seed
        Seed of the signs.

    References
    ----------
    Wu, C. F. J. (1986). Jackknife, Bootstrap and Other Resampling Methods in Regression Analysis.
    Annals of Statistics, 14(4), 1261-1295.
    """
    names, code_N = np.unique(group_N, return_inverse=True)
    # Sum of the gaps of each group in each bin (axis X).
    gap_GX = np.zeros((len(names), NUM_BINS))
    rng = np.random.default_rng(seed)
    np.add.at(gap_GX, (code_N, _bin_of(proba_NC.max(axis=1))), _gaps(label_N, proba_NC))
    signs = (
        rng.choice([-1.0, 1.0], size=(CHUNK, len(names))) for _ in range(NUM_RESAMPLES // CHUNK)
    )
    sums_B = np.concatenate([np.abs(sign_BG @ gap_GX).sum(axis=1) for sign_BG in signs])
    error_B = sums_B / len(label_N)
    return float(error_B.mean()), float(np.quantile(error_B, 0.95))


def cross_fitted(logits_NC: np.ndarray, rows: Rows) -> np.ndarray | None:
    """Return probabilities N x C, each fold's with a temperature fitted on the other folds.

    Repeats are treated separately. Returns None if a repeat has a single fold.
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
    """Return the calibration of a run before and after temperature scaling, for report.json.

    The reported temperature is fitted on all rows. `ece_after` and `log_loss_after` use a
    temperature per fold, fitted on the other folds; they are None if there is a single fold.
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
