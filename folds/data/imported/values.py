"""Probabilities and logits of other libraries as logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foldblend.errors import UserError, listed
from folds.data.imported.tables import PredictionTable

__all__ = ["PROBABILITIES", "Logits", "logits_of"]

PROBABILITIES = "probabilities"
LOGITS = "logits"
AUTO = "auto"
# Sums of rows may differ from 1 by this, as those of float16 do, or by what rounding of the cells
# explains. Without --kind that is at most MOST_OFF.
LEAST_OFF = 1e-3
MOST_OFF = 0.05
# Cells are taken for rounded ones with up to this many digits.
MOST_DIGITS = 4
LEAST_FLOOR = 1e-7


@dataclass(frozen=True)
class Logits:
    """Logits of several tables, and how they were made."""

    tables: list[np.ndarray]
    """Logits N x C float32 of each table, in the order of its rows."""
    values: str
    """What the tables have: probabilities or logits."""
    num_raised: int = 0
    """Number of probabilities that were raised to the floor."""
    floor: float | None = None
    num_values: int = 0

    @property
    def note(self) -> str | None:
        """Return what was changed, or None."""
        if self.floor is None:
            return None
        return (
            f"{self.num_raised:,} of {self.num_values:,} probabilities are 0 or nearly so, and were"
            f" raised to {self.floor:.3g}, as the logarithm of 0 is not finite"
        )


def _tolerance(found: PredictionTable, kind: str) -> float:
    """Return by how much the sum of a row of probabilities may differ from 1."""
    values_NC = found.values_NC
    if found.single is not None:  # One column of two is not a sum.
        return np.inf
    most = np.inf if kind == PROBABILITIES else MOST_OFF
    for digits in range(1, MOST_DIGITS + 1):
        if np.allclose(values_NC, values_NC.round(digits), rtol=0, atol=1e-9):
            rounding = values_NC.shape[1] * 0.5 * 10.0**-digits
            return float(min(max(LEAST_OFF, rounding), most))
    return LEAST_OFF


def _odd_row(found: PredictionTable, kind: str) -> tuple[np.ndarray, str] | None:
    """Return the rows that are no probabilities, as a mask, and what is wrong with the first."""
    values_NC = found.values_NC
    below_N = np.asarray(((values_NC < 0) | (values_NC > 1 + LEAST_OFF)).any(axis=1))
    sum_N = values_NC.sum(axis=1)
    off_N = np.abs(sum_N - 1) > _tolerance(found, kind)
    odd_N = np.asarray(below_N | off_N)
    if not odd_N.any():
        return None
    first = int(odd_N.argmax())
    if not below_N[first]:
        return odd_N, f"sums to {sum_N[first]:.6g}, and probabilities of the classes sum to 1"
    least = values_NC[first].min()
    value = least if least < 0 else values_NC[first].max()
    return odd_N, f"has {value:.6g}, and probabilities are from 0 to 1"


def _check_probabilities(found: PredictionTable, kind: str) -> None:
    """Raise UserError with the line of a row that is no distribution over the classes."""
    odd = _odd_row(found, kind)
    if odd is None:
        return
    odd_N, why = odd
    first_N = np.zeros(len(odd_N), bool)
    first_N[odd_N.argmax()] = True
    num = f"{int(odd_N.sum()):,} of {len(odd_N):,} rows are no probabilities"
    least = found.values_NC.min()
    largest = found.values_NC.max()
    cure = (
        "correct the rows, or pass --kind logits if these are logits (before softmax)"
        if kind == PROBABILITIES
        else "pass --kind logits if these are logits (before softmax), or correct the rows"
    )
    if found.single is None and np.allclose(found.values_NC.sum(axis=1), 100, atol=1):
        cure = "divide percentages by 100"
    raise UserError(
        f"{found.name}: {found.at(first_N)} ({found.ids[first_N].iloc[0]}) {why}; {num} (values"
        f" from {least:.4g} to {largest:.4g}); {cure}"
    )


def logits_of(found: Sequence[PredictionTable], kind: str) -> tuple[Logits, list[str]]:
    """Return the logits of tables of predictions, and warnings.

    Probabilities become their logarithms. If there are zeros, all values below a floor are raised
    to it: half of the smallest value above 0, which is what rounding may hide, but at least 1e-7.

    Parameters
    ----------
    found
        The tables; all have the same kind of values.
    kind
        "probabilities", "logits", or "auto": probabilities if all rows are non-negative and sum
        to 1.

    Raises
    ------
    UserError
        With the line of a row that is no distribution, unless the kind is "logits".
    """
    warnings = []
    if kind == LOGITS:
        odd = [_odd_row(one, AUTO) is not None for one in found]
        alike = [one for one, is_odd in zip(found, odd, strict=True) if not is_odd]
        # One column has no sum, so a small table of logits may look like probabilities by chance.
        if any(odd) and any(one.single is None for one in alike):
            others = [one.name for one, is_odd in zip(found, odd, strict=True) if is_odd]
            raise UserError(
                f"{listed(one.name for one in alike)}: all rows sum to 1 as probabilities do, but"
                f" {listed(others)} has logits; write logits in all files, or probabilities in all"
            )
        if alike:
            warnings.append(
                f"{listed(one.name for one in alike)}: all rows sum to 1 as probabilities do, but"
                " --kind logits was passed"
            )
        return Logits([_of_scores(one) for one in found], LOGITS), warnings
    for one in found:
        _check_probabilities(one, kind)
    proba = [_both(one) for one in found]
    num_values = sum(one.size for one in proba)
    above = [one[one > 0] for one in proba]
    least = min((float(one.min()) for one in above if one.size), default=1.0)
    num_zeros = sum(int((one <= 0).sum()) for one in proba)
    floor = max(least / 2, LEAST_FLOOR) if num_zeros else None
    num_raised = 0
    if floor is not None:
        num_raised = sum(int((one < floor).sum()) for one in proba)
        proba = [np.maximum(one, floor) for one in proba]
    tables = [np.log(one).astype(np.float32) for one in proba]
    return Logits(tables, PROBABILITIES, num_raised, floor, num_values), warnings


def _of_scores(found: PredictionTable) -> np.ndarray:
    # The logit of one of two classes is that against 0 for the other one, as it is stored.
    return found.values_NC.astype(np.float32)


def _both(found: PredictionTable) -> np.ndarray:
    """Return probabilities of all classes, N x C."""
    if found.single is None:
        return found.values_NC
    own_N = found.values_NC[:, found.single]
    both_NC = np.stack([1 - own_N, own_N], axis=1)
    return np.clip(both_NC if found.single == 1 else both_NC[:, ::-1], 0, 1)
