"""Confidence intervals of scores and of their differences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Interval", "Limits", "jackknife_error", "jackknife_interval", "percentile_interval"]

CONFIDENCE = 0.95
TINY = 1e-12  # a standard error below this is rounding


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"

    def as_dict(self) -> dict[str, float | None]:
        """Return the interval for JSON, with None for values that are not finite."""
        parts = {"value": self.value, "low": self.low, "high": self.high}
        return {name: float(part) if np.isfinite(part) else None for name, part in parts.items()}

    def minus(self, number: float) -> Interval:
        """Return the interval moved down by a number.

        Examples
        --------
        >>> print(Interval(0.5, 0.4, 0.7).minus(0.1))
        0.4000 [0.3000, 0.6000]
        """
        return Interval(self.value - number, self.low - number, self.high - number)


@dataclass(frozen=True, slots=True)
class Limits:
    """Lowest and highest value that a score can have."""

    low: float
    high: float
    num_effective: float = np.nan
    """Number of equally weighted groups that tell as much as these; used at the limits only."""


def jackknife_error(left_out_G: np.ndarray) -> float:
    """Return the standard error of a value by the jackknife over groups.

    Parameters
    ----------
    left_out_G
        The value without each group; NaN where it is not defined.

    Returns
    -------
    float
        Infinite where fewer than two values are defined. Groups whose value is not defined count
        like the mean of the others.

    Examples
    --------
    The mean of 1, 2, 3, 4 and 5 has a standard error of sqrt(0.5):

    >>> values = np.arange(1.0, 6)
    >>> round(jackknife_error((15 - values) / 4), 4)
    0.7071
    """
    known = left_out_G[np.isfinite(left_out_G)]
    if len(known) < 2:
        return np.inf
    squares = float(((known - known.mean()) ** 2).sum())
    return float(np.sqrt((len(known) - 1) / len(known) * squares * len(left_out_G) / len(known)))


def jackknife_interval(
    value: float, left_out_G: np.ndarray, limits: Limits | None = None
) -> Interval:
    """Return a value with its 95 % interval from its values without each group.

    The standard error is that of the jackknife, with the t quantile of one degree of freedom less
    than groups. Around a difference the interval is symmetric. Around a score with two limits it
    is a Wilson interval of the number of groups that a share with this standard error would have
    been counted on, so that it stays within the limits and is longer towards the middle. A perfect
    score, whose standard error is 0, has the interval of `num_effective` groups without an error.

    Parameters
    ----------
    value
        The score, or a difference of scores.
    left_out_G
        The same without each group; NaN where it is not defined.
    limits
        Limits of the score; None for a difference. Where `high` is infinite, the interval is
        symmetric and ends at `low`.

    Returns
    -------
    Interval
        Without width for a single group. The ends are NaN if the value is.

    References
    ----------
    Efron and Stein 1981, "The jackknife estimate of variance". Wilson 1927, "Probable inference,
    the law of succession, and statistical inference". Franco, Little, Louis and Slud 2019,
    "Comparative study of confidence intervals for proportions in complex sample surveys".

    Examples
    --------
    The mean of 1, 2, 3, 4 and 5 has a standard error of sqrt(0.5):

    >>> values = np.arange(1.0, 6)
    >>> without_each = (15 - values) / 4
    >>> print(jackknife_interval(3.0, without_each))
    3.0000 [1.0368, 4.9632]

    All of 30 groups are right:

    >>> print(jackknife_interval(1.0, np.ones(30), Limits(0, 1, 30)))
    1.0000 [0.8776, 1.0000]
    """
    if not np.isfinite(value):
        return Interval(value, np.nan, np.nan)
    known = left_out_G[np.isfinite(left_out_G)]
    if len(known) < 2:
        # Nothing is known of the error. The score of one group keeps ends for its report, which
        # says that there is only one; a difference must not look certain.
        end = value if limits is not None and len(left_out_G) == 1 else np.nan
        return Interval(value, end, end)
    from scipy.special import stdtrit  # only here, as it takes 0.2 s to import

    quantile = float(stdtrit(len(known) - 1, (1 + CONFIDENCE) / 2))
    error = jackknife_error(left_out_G)
    if limits is None or not np.isfinite(limits.high):
        low = value - quantile * error
        return Interval(
            value, low if limits is None else max(low, limits.low), value + quantile * error
        )
    return _wilson(value, error, quantile, limits)


def _wilson(value: float, error: float, quantile: float, limits: Limits) -> Interval:
    """Return the Wilson interval of a score with two limits."""
    width = limits.high - limits.low
    share = (value - limits.low) / width
    if error > TINY and 0 < share < 1:
        num = share * (1 - share) * (width / error) ** 2
    elif TINY < share < 1 - TINY:
        # All groups score the same.
        return Interval(value, value, value)
    else:
        num = limits.num_effective
    term = quantile**2 / num
    middle = (share + term / 2) / (1 + term)
    half = quantile * np.sqrt(share * (1 - share) / num + term / (4 * num)) / (1 + term)
    # Rounding must not move an end beyond the value or a limit.
    low = limits.low + width * max(0.0, min(middle - half, share))
    high = limits.low + width * min(1.0, max(middle + half, share))
    return Interval(value, float(min(low, value)), float(max(high, value)))


def percentile_interval(value: float, scores: np.ndarray) -> Interval:
    """Return a value with the 95 % percentile interval of its bootstrap scores.

    It is for values of which only bootstrap scores are known, since it is somewhat too narrow.
    Scores that are NaN are ignored; if all are, both ends are NaN.

    Examples
    --------
    >>> print(percentile_interval(0.5, np.linspace(0, 1, 101)))
    0.5000 [0.0250, 0.9750]
    """
    if np.isnan(scores).all():
        return Interval(value, np.nan, np.nan)
    low, high = np.nanquantile(scores, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, min(float(low), value), max(float(high), value))
