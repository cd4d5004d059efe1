"""Calibration: whether predictions of confidence 0.8 are right in 80 % of the cases.

Temperatures (see `foldblend.scores.temperature`) correct it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foldblend.scores.held_out import outer_parts
from foldblend.scores.metrics import METRICS, mean_score, row_log_loss, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import lowers_loss
from foldblend.scores.temperature import best_temperature

__all__ = [
    "Calibration",
    "calibrate",
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


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration of a run by a temperature, with the figures before and after it.

    Examples
    --------
    >>> overconfident = Calibration(2.0, 2.0, log_loss=0.5, log_loss_after=0.4, ece=0.1)
    >>> overconfident.proba(np.log([[9.0, 1.0]])).round(2).tolist()
    [[0.75, 0.25]]
    """

    temperature: float
    """What logits are divided by; 1 where this is not shown to help."""
    fitted: float
    """The temperature that fits all rows best, whether it is applied or not."""
    log_loss: float
    """Of the logits as they are; the mean over repeats."""
    ece: float
    """Expected calibration error of the logits as they are."""
    log_loss_after: float | None = None
    """With a temperature for each fold, fitted on the other folds; None for a single fold."""
    ece_after: float | None = None
    """The same for the expected calibration error."""
    why_not: str | None = None
    """Why the fitted temperature is not applied; None where it is."""

    def proba(self, logits_NC: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities, N x C float64, of logits without offsets."""
        # In float64 and in one order of the axes, so that tables and arrays give equal digits.
        return softmax(np.ascontiguousarray(logits_NC, np.float64) / self.temperature)

    def left_out(self, why: str) -> Calibration:
        """Return the same figures without applying the temperature, and why.

        Examples
        --------
        >>> Calibration(2.0, 2.0, log_loss=0.5, ece=0.1).left_out("a reason").temperature
        1.0
        """
        return dataclasses.replace(self, temperature=1.0, why_not=self.why_not or why)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Calibration:
        """Return what `as_dict` was made from.

        Raises ValueError for other fields, or a temperature that is not a positive number.

        Examples
        --------
        >>> made = Calibration(1.0, 1.1, 0.5, 0.1, why_not="there is only one fold")
        >>> Calibration.from_dict(made.as_dict()) == made
        True
        """
        names = {one.name for one in dataclasses.fields(cls)}
        if set(fields) != names:
            raise ValueError(f"a calibration has {sorted(names)}, not {sorted(fields)}")
        temperature = fields["temperature"]
        if type(temperature) not in (int, float) or not 0 < temperature < np.inf:
            raise ValueError(f"the temperature is {temperature!r}, not a positive number")
        return cls(**fields)


def cross_fitted(logits_NC: np.ndarray, rows: Rows) -> np.ndarray | None:
    """Return probabilities N x C, each fold's with a temperature fitted on the other folds.

    Repeats are treated separately. Where folds split groups, groups are dealt to as many parts
    instead. Returns None if a repeat has a single fold or group.
    """
    try:
        parts = list(outer_parts(rows))
    except ValueError:
        return None
    proba_NC = np.empty(logits_NC.shape)
    for _, _, held, others in parts:
        temperature = best_temperature(logits_NC[others], rows.label_N[others])
        proba_NC[held] = softmax(logits_NC[held] / temperature)
    return proba_NC


def calibrate(logits_NC: np.ndarray, rows: Rows) -> Calibration:
    """Fit a temperature on out-of-fold logits, and apply it where it helps held-out groups.

    Each fold's log loss is computed with a temperature fitted on the other folds. The temperature
    of all rows is applied if this improves the log loss by more than one standard error over
    groups. It is not applied where no row is wrong, because nothing then shows how rare errors
    are, and the best temperature would be 0.

    Parameters
    ----------
    logits_NC
        Out-of-fold logits, float32, without offsets per class.
    rows
        Their labels, groups, repeats and folds.
    """
    label_N = rows.label_N
    log_loss = METRICS["log_loss"]
    before_NC = softmax(logits_NC)
    after_NC = cross_fitted(logits_NC, rows)
    fitted = best_temperature(logits_NC, label_N)
    before = {
        "log_loss": mean_score(log_loss, label_N, before_NC, rows.repeat_N),
        "ece": calibration_error(label_N, before_NC),
    }
    if after_NC is None:
        return Calibration(
            1.0, fitted, **before, why_not=f"there is only one fold or {rows.group_name}"
        )
    after = {
        "log_loss_after": mean_score(log_loss, label_N, after_NC, rows.repeat_N),
        "ece_after": calibration_error(label_N, after_NC),
    }
    before_N = row_log_loss(label_N, before_NC)
    after_N = row_log_loss(label_N, after_NC)
    why_not = None
    if (before_NC.argmax(axis=1) == label_N).all():
        why_not = "no prediction is wrong, so nothing shows how rare errors are"
    elif not lowers_loss(before_N, after_N, rows.group_N):
        why_not = f"it does not improve the log loss of held-out {rows.groups} by a standard error"
    temperature = fitted if why_not is None else 1.0
    return Calibration(temperature, fitted, **before, **after, why_not=why_not)


def summarise_calibration(
    logits_NC: np.ndarray, rows: Rows, *, found: Calibration | None = None, seed: int = 0
) -> dict[str, Any]:
    """Return the calibration of a run before and after temperature scaling, for report.json.

    `found` is what `calibrate` returns for these logits, if it is known.

    `temperature` is the one that fits all rows best, and `applied` says whether probabilities use
    it (see `calibrate`). `ece_after` and `log_loss_after` use a temperature per fold, fitted on the
    other folds, as `bins_after` do; they are None if there is a single fold.
    """
    found = calibrate(logits_NC, rows) if found is None else found
    proba_NC = softmax(logits_NC)
    after_NC = None if found.ece_after is None else cross_fitted(logits_NC, rows)
    mean, high = error_by_chance(rows.label_N, proba_NC, rows.group_N, seed=seed)
    return {
        "ece": found.ece,
        "ece_by_chance": {"mean": mean, "high": high},
        "log_loss": found.log_loss,
        "bins": reliability_bins(rows.label_N, proba_NC),
        "bins_after": None if after_NC is None else reliability_bins(rows.label_N, after_NC),
        "temperature": found.fitted,
        "ece_after": found.ece_after,
        "log_loss_after": found.log_loss_after,
        "applied": found.why_not is None,
        "why_not": found.why_not,
    }
