"""Calibration: whether predictions of confidence 0.8 are right in 80 % of the cases.

Temperatures (see `foldblend.scores.temperature`) correct it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foldblend.blocks import in_blocks
from foldblend.scores.held_out import outer_parts
from foldblend.scores.metrics import log_loss_of, rows_by_repeat, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import lowers_loss
from foldblend.scores.temperature import best_temperature

__all__ = [
    "Calibration",
    "Confidence",
    "calibrate",
    "calibration_error",
    "error_by_chance",
    "held_out_temperatures",
    "reliability_bins",
    "summarise_calibration",
]

NUM_BINS = 15
NUM_RESAMPLES = 1000
CHUNK = 50  # resamples per array, to bound memory


def _bin_of(confidence_N: np.ndarray) -> np.ndarray:
    """Return the bin 0..14 of each confidence; bins have equal widths and include their end."""
    return np.clip(np.ceil(confidence_N * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)


@dataclass(frozen=True, slots=True)
class Confidence:
    """All of the probabilities of N rows that calibration needs, in little memory."""

    own_N: np.ndarray
    """Probability of the true class."""
    top_N: np.ndarray
    """Probability of the predicted class."""
    is_right_N: np.ndarray
    """Whether the predicted class is the true one."""

    @classmethod
    def of(cls, label_N: np.ndarray, proba_NC: np.ndarray) -> Confidence:
        return cls._of(lambda part_NC: part_NC, proba_NC, label_N)

    @classmethod
    def of_logits(
        cls, label_N: np.ndarray, logits_NC: np.ndarray, temperature: float = 1.0
    ) -> Confidence:
        return cls._of(lambda part_NC: softmax(part_NC / temperature), logits_NC, label_N)

    @classmethod
    def _of(
        cls,
        proba_of: Callable[[np.ndarray], np.ndarray],
        values_NC: np.ndarray,
        label_N: np.ndarray,
    ) -> Confidence:
        def of_rows(values_NC: np.ndarray, label_N: np.ndarray) -> np.ndarray:
            proba_NC = proba_of(values_NC)
            own_N = proba_NC[np.arange(len(label_N)), label_N]
            is_right_N = proba_NC.argmax(axis=1) == label_N
            return np.stack([own_N, proba_NC.max(axis=1), is_right_N]).T

        own_N, top_N, is_right_N = np.ascontiguousarray(in_blocks(of_rows, values_NC, label_N).T)
        return cls(own_N, top_N, is_right_N.astype(bool))

    @property
    def losses(self) -> np.ndarray:
        """Log loss of each row."""
        return log_loss_of(self.own_N)

    @property
    def gaps(self) -> np.ndarray:
        """1 (right) or 0 (wrong) minus the confidence, for each row."""
        return self.is_right_N - self.top_N

    @property
    def error(self) -> float:
        """Expected calibration error (see `calibration_error`)."""
        gap_X = np.bincount(_bin_of(self.top_N), self.gaps)
        return float(np.abs(gap_X).sum() / len(self.top_N))


def reliability_bins(label_N: np.ndarray, proba_NC: np.ndarray) -> list[dict[str, Any]]:
    """Return the mean confidence, accuracy and number of rows of each bin of confidence.

    The confidence of a row is the probability of its predicted class. There are 15 bins of equal
    width; empty ones are left out.
    """
    return _bins(Confidence.of(label_N, proba_NC))


def _bins(seen: Confidence) -> list[dict[str, Any]]:
    confidence_N = seen.top_N
    is_right_N = seen.is_right_N
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
    return Confidence.of(label_N, proba_NC).error


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
    return _error_by_chance(Confidence.of(label_N, proba_NC), group_N, seed=seed)


def _error_by_chance(seen: Confidence, group_N: np.ndarray, *, seed: int) -> tuple[float, float]:
    names, code_N = np.unique(group_N, return_inverse=True)
    # Sum of the gaps of each group in each bin (axis X).
    gap_GX = np.zeros((len(names), NUM_BINS))
    rng = np.random.default_rng(seed)
    np.add.at(gap_GX, (code_N, _bin_of(seen.top_N)), seen.gaps)
    signs = (
        rng.choice([-1.0, 1.0], size=(CHUNK, len(names))) for _ in range(NUM_RESAMPLES // CHUNK)
    )
    sums_B = np.concatenate([np.abs(sign_BG @ gap_GX).sum(axis=1) for sign_BG in signs])
    error_B = sums_B / len(group_N)
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
        return in_blocks(
            lambda part_NC: softmax(np.ascontiguousarray(part_NC, np.float64) / self.temperature),
            logits_NC,
        )

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


def held_out_temperatures(
    logits_NC: np.ndarray, rows: Rows
) -> list[tuple[np.ndarray, float]] | None:
    """Return the rows of each fold with the temperature that was fitted on the other folds.

    Repeats are treated separately. Where folds split groups, groups are dealt to as many parts
    instead. Returns None if a repeat has a single fold or group.
    """
    try:
        parts = list(outer_parts(rows))
    except ValueError:
        return None
    return [
        (held, best_temperature(logits_NC[others], rows.label_N[others]))
        for _, _, held, others in parts
    ]


def _cross_fitted(logits_NC: np.ndarray, rows: Rows) -> Confidence | None:
    """Return the confidence with temperatures of other folds, None where there are none."""
    temperatures = held_out_temperatures(logits_NC, rows)
    if temperatures is None:
        return None
    found = Confidence(*(np.empty(len(rows), kind) for kind in (float, float, bool)))
    for held, temperature in temperatures:
        part = Confidence.of_logits(rows.label_N[held], logits_NC[held], temperature)
        found.own_N[held] = part.own_N
        found.top_N[held] = part.top_N
        found.is_right_N[held] = part.is_right_N
    return found


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
    seen = Confidence.of_logits(label_N, logits_NC)
    seen_after = _cross_fitted(logits_NC, rows)
    fitted = best_temperature(logits_NC, label_N)
    before = {
        "log_loss": _mean_loss(seen, rows),
        "ece": seen.error,
    }
    if seen_after is None:
        return Calibration(
            1.0, fitted, **before, why_not=f"there is only one fold or {rows.group_name}"
        )
    after = {
        "log_loss_after": _mean_loss(seen_after, rows),
        "ece_after": seen_after.error,
    }
    why_not = None
    if seen.is_right_N.all():
        why_not = "no prediction is wrong, so nothing shows how rare errors are"
    elif not lowers_loss(seen.losses, seen_after.losses, rows.group_N):
        why_not = f"it does not improve the log loss of held-out {rows.groups} by a standard error"
    temperature = fitted if why_not is None else 1.0
    return Calibration(temperature, fitted, **before, **after, why_not=why_not)


def _mean_loss(seen: Confidence, rows: Rows) -> float:
    """Return the mean over repeats of the log loss."""
    losses = seen.losses
    return float(np.mean([losses[one].mean() for one in rows_by_repeat(rows.repeat_N, len(rows))]))


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
    seen = Confidence.of_logits(rows.label_N, logits_NC)
    seen_after = None if found.ece_after is None else _cross_fitted(logits_NC, rows)
    mean, high = _error_by_chance(seen, rows.group_N, seed=seed)
    return {
        "ece": found.ece,
        "ece_by_chance": {"mean": mean, "high": high},
        "log_loss": found.log_loss,
        "bins": _bins(seen),
        "bins_after": None if seen_after is None else _bins(seen_after),
        "temperature": found.fitted,
        "ece_after": found.ece_after,
        "log_loss_after": found.log_loss_after,
        "applied": found.why_not is None,
        "why_not": found.why_not,
    }
