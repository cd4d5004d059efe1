"""Confident learning (Northcutt, Jiang and Chuang 2021) on images, groups and pairs.

The judgements are those of cleanlab, to which tests compare them. It is not used itself, because
it imports scikit-learn and much more, which takes longer than a whole report of 18,900 rows.

There are N images, U units (images, groups or pairs of images) and E values, all of which occur.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = [
    "NEARLY_ALL",
    "Judged",
    "RowsByCode",
    "extreme_pairs",
    "judge_pairs",
    "judge_units",
    "sums_by_code",
]

NEARLY_ALL = 0.9
# The highest share of wrong labels that is plausible: the highest of ten well-known data sets
# (QuickDraw has 10.1 %, the mean is 3.3 %; Northcutt, Athalye and Mueller 2021).
MOST_WRONG = 0.1
# The tolerance and the lowest threshold of cleanlab.
SLACK = 1e-6
LEAST_THRESHOLD = 2e-6


@dataclass(frozen=True)
class Judged:
    """Judgement of U units: the best value, and whether the label looks wrong."""

    best: np.ndarray
    """The value that is most probable."""
    flagged: np.ndarray
    """Whether the label looks wrong."""
    detectable: np.ndarray
    """Whether the unit would be flagged if its label were another one."""

    @property
    def is_credible(self) -> bool:
        """Return whether wrong labels can explain the number of labels that look wrong.

        If a share w of the labels is wrong, w * detectable are flagged. If more are flagged than
        the highest plausible w explains, right labels are among them, and it is unknown which.
        """
        return bool(self.flagged.mean() <= MOST_WRONG * self.detectable.mean())


class RowsByCode:
    """The rows of each code of many, each found without a search through all rows.

    Examples
    --------
    >>> RowsByCode(np.array([2, 0, 2]))[2].tolist()
    [0, 2]
    """

    def __init__(self, code_N: np.ndarray) -> None:
        """Sort the rows by their code, a number from 0 on."""
        self._order = np.argsort(code_N, kind="stable")
        self._ends = np.cumsum(np.bincount(code_N))

    def __getitem__(self, code: int) -> np.ndarray:
        """Return the numbers of the rows with a code, ascending."""
        start = self._ends[code - 1] if code else 0
        return np.asarray(self._order[start : self._ends[code]])


def sums_by_code(values_N: np.ndarray, code_N: np.ndarray) -> np.ndarray:
    """Return the sum of the rows of each code; all codes from 0 upwards occur."""
    if len(code_N) == code_N[-1] + 1 and (np.diff(code_N) == 1).all():
        return values_N  # each row is the only one of its code
    order = np.argsort(code_N, kind="stable")
    starts = np.searchsorted(code_N[order], np.arange(code_N.max() + 1))
    return np.asarray(np.add.reduceat(values_N[order], starts, axis=0))


def _thresholds(given_U: np.ndarray, proba_UE: np.ndarray) -> np.ndarray:
    """Return the mean probability of each value over the units that have it as their label, E."""
    means = [one_U[given_U == value].mean() for value, one_U in enumerate(proba_UE.T)]
    return np.maximum(means, LEAST_THRESHOLD)


def _judge(given_U: np.ndarray, proba_UE: np.ndarray, agree_U: np.ndarray) -> Judged:
    """Return which labels look wrong, and which would if they were another one.

    A label looks wrong where another value is the most probable, is at least as probable as on
    average where that value is the label (the threshold of confident learning), and nearly all
    images agree. A wrong label would be found where all this holds for the present label, with
    its probability left out of that average. This is exact, because out-of-fold probabilities
    do not depend on the label.
    """
    rows = np.arange(len(given_U))
    best_U = proba_UE.argmax(axis=1)
    agreed_U = agree_U >= NEARLY_ALL
    threshold_E = _thresholds(given_U, proba_UE)
    own_U = proba_UE[rows, given_U]
    # A label that is nearly as probable as the best value is not contradicted.
    proba_UE[rows, given_U] += SLACK
    other_U = proba_UE.argmax(axis=1) != given_U
    proba_UE[rows, given_U] = own_U
    sure_U = proba_UE[rows, best_U] >= threshold_E[best_U] - SLACK
    # A number above a mean is also above the mean of the other numbers, if there are any.
    detectable_U = (
        (best_U == given_U)
        & (own_U >= threshold_E[given_U] - SLACK)
        & (np.bincount(given_U)[given_U] > 1)
    )
    return Judged(best_U, other_U & sure_U & agreed_U, detectable_U & agreed_U)


def judge_units(value_N: np.ndarray, proba_NE: np.ndarray, unit_N: np.ndarray) -> Judged:
    """Return the judgement of units, by the product of the (positive) probabilities of images."""
    # Logarithms, because a product over many images underflows.
    proba_UE = sums_by_code(np.log(proba_NE), unit_N)
    # In place: of millions of images, each copy takes gigabytes.
    proba_UE -= proba_UE.max(axis=1, keepdims=True)
    np.exp(proba_UE, out=proba_UE)
    proba_UE /= proba_UE.sum(axis=1, keepdims=True)
    given_U = np.zeros(len(proba_UE), np.int64)
    given_U[unit_N] = value_N
    agrees_N = proba_NE.argmax(axis=1) == proba_UE.argmax(axis=1)[unit_N]
    return _judge(given_U, proba_UE, np.bincount(unit_N, agrees_N) / np.bincount(unit_N))


def judge_pairs(gain_U: np.ndarray) -> Judged:
    """Return whether pairs have each other's label (best is 1), from gains of `extreme_pairs`."""
    exchanged_U = 1 / (1 + np.exp(-gain_U))
    proba_U2 = np.column_stack([1 - exchanged_U, exchanged_U])
    # Each pair is included in both orders, so that both values occur equally often.
    given = np.repeat([0, 1], len(gain_U))
    proba = np.concatenate([proba_U2, proba_U2[:, ::-1]])
    both = _judge(given, proba, np.ones(len(given)))
    first = slice(len(gain_U))
    return Judged(both.best[first], both.flagged[first], both.detectable[first])


def extreme_pairs(
    value_N: np.ndarray, proba_NE: np.ndarray, within_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of rows that most likely have each other's value, U x 2, and their gains.

    There is one pair for each two values that occur within a group. The gain is a difference of
    log-likelihoods; as it is a sum over the two images, the best of each can be found separately.
    """
    # Sorted by group, and within a group by value: a cell is the rows of a group with one value.
    order = np.lexsort((value_N, within_N))
    ends = (np.diff(within_N[order]) != 0) | (np.diff(value_N[order]) != 0)
    start_X = np.concatenate([[0], np.flatnonzero(ends) + 1])
    size_X = np.diff(np.append(start_X, len(order)))
    group_X = within_N[order[start_X]]
    value_X = value_N[order[start_X]]
    # Each cell is paired with the cells after it in its group.
    number_X = np.arange(len(start_X))
    num_after_X = np.searchsorted(group_X, group_X, side="right") - number_X - 1
    one_U = np.repeat(number_X, num_after_X)
    other_U = one_U + 1 + _places_within(num_after_X)

    def best_of(cell_U: np.ndarray, rival_U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the row of each cell that gains most by the rival's value, and its gain."""
        sizes = size_X[cell_U]
        rows = order[np.repeat(start_X[cell_U], sizes) + _places_within(sizes)]
        now, then = (np.repeat(value_X[cells], sizes) for cells in (rival_U, cell_U))
        gains = np.log(proba_NE[rows, now]) - np.log(proba_NE[rows, then])
        starts = np.cumsum(sizes) - sizes
        gain_U = np.maximum.reduceat(gains, starts)
        best = np.flatnonzero(gains == np.repeat(gain_U, sizes))
        # The first of equal ones.
        return rows[best[np.searchsorted(best, starts)]], gain_U

    if not len(one_U):
        return np.empty((0, 2), np.int64), np.empty(0)
    row_of_one, gain_of_one = best_of(one_U, other_U)
    row_of_other, gain_of_other = best_of(other_U, one_U)
    return np.column_stack([row_of_one, row_of_other]), gain_of_one + gain_of_other


def _places_within(sizes: np.ndarray) -> np.ndarray:
    """Return 0, 1, ... size - 1 for each size, one after the other."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
