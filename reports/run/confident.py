"""Confident learning (Northcutt, Jiang and Chuang 2021) of single images, of groups and of pairs,
by cleanlab.

Values are numbered 0..V-1 and all of them occur; P are images, U groups or images, M pairs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

__all__ = ["NEARLY_ALL", "Judged", "extreme_pairs", "judge_pairs", "judge_units", "sums_by_code"]

NEARLY_ALL = 0.9
# The most wrong labels that are believed: the most of ten well-known data sets (QuickDraw, 10.1 %;
# the mean is 3.3 %; Northcutt, Athalye and Mueller 2021).
MOST_WRONG = 0.1
SLACK = 1e-6  # cleanlab's own


@dataclass(frozen=True)
class Judged:
    """The likeliest value, whether the label is named as wrong, and whether any other one would
    have been.
    """

    best: np.ndarray
    named: np.ndarray
    would: np.ndarray

    @property
    def is_credible(self) -> bool:
        """Whether wrong labels can explain what is named.

        Of labels of which a share w is wrong, w * would is named rightly. Where more is named than
        the largest w that is believed explains, right labels are named too, and nobody knows which.
        """
        return bool(self.named.mean() <= MOST_WRONG * self.would.mean())


def sums_by_code(values_N: np.ndarray, code_N: np.ndarray) -> np.ndarray:
    """Return the sums of rows of equal code; all codes from 0 up occur."""
    order = np.argsort(code_N, kind="stable")
    starts = np.searchsorted(code_N[order], np.arange(code_N.max() + 1))
    return np.asarray(np.add.reduceat(values_N[order], starts, axis=0))


def _judge(given_U: np.ndarray, proba_UV: np.ndarray, agree_U: np.ndarray) -> Judged:
    """Return which labels confident learning names, and where it would name any other label.

    A label is named where another value is the likeliest, is at least as likely as where that value
    is the label on average (the threshold of confident learning), and nearly all images agree.
    Another label would be named, with the present one suggested, where all this is so of the
    present one, its own probability left out of that average. As out-of-fold probabilities do not
    depend on the label, that is exact.
    """
    from cleanlab.count import get_confident_thresholds
    from cleanlab.filter import find_label_issues

    rows = np.arange(len(given_U))
    best_U = proba_UV.argmax(axis=1)
    agreed_U = agree_U >= NEARLY_ALL
    issue_U = np.asarray(
        find_label_issues(given_U, proba_UV, filter_by="confident_learning", n_jobs=1)
    )
    threshold_V = get_confident_thresholds(given_U, proba_UV)
    own_U = proba_UV[rows, given_U]
    sure_U = proba_UV[rows, best_U] >= threshold_V[best_U] - SLACK
    # A number above the mean is above that of the others too, where there are any.
    would_U = (
        (best_U == given_U)
        & (own_U >= threshold_V[given_U] - SLACK)
        & (np.bincount(given_U)[given_U] > 1)
    )
    return Judged(best_U, issue_U & sure_U & agreed_U, would_U & agreed_U)


def judge_units(value_P: np.ndarray, proba_PV: np.ndarray, unit_P: np.ndarray) -> Judged:
    """Return the judgement of units 0..U-1, by the product of their images' probabilities (none
    may be 0).
    """
    log_UV = sums_by_code(np.log(proba_PV), unit_P)
    proba_UV = np.exp(log_UV - log_UV.max(axis=1, keepdims=True))
    proba_UV /= proba_UV.sum(axis=1, keepdims=True)
    given_U = np.zeros(len(proba_UV), np.int64)
    given_U[unit_P] = value_P
    agrees_P = proba_PV.argmax(axis=1) == proba_UV.argmax(axis=1)[unit_P]
    return _judge(given_U, proba_UV, np.bincount(unit_P, agrees_P) / np.bincount(unit_P))


def judge_pairs(gain_M: np.ndarray) -> Judged:
    """Return whether pairs of images have each other's label (best is 1), by gains from
    `extreme_pairs`.
    """
    exchanged_M = 1 / (1 + np.exp(-gain_M))
    proba_M2 = np.column_stack([1 - exchanged_M, exchanged_M])
    # Each pair is there in both orders, so that both values of "the order" occur, equally often.
    given = np.repeat([0, 1], len(gain_M))
    proba = np.concatenate([proba_M2, proba_M2[:, ::-1]])
    both = _judge(given, proba, np.ones(len(given)))
    first = slice(len(gain_M))
    return Judged(both.best[first], both.named[first], both.would[first])


def extreme_pairs(
    value_P: np.ndarray, proba_PV: np.ndarray, within_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of rows M x 2: for each two values within a group the two likeliest to have each
    other's.

    Also by how much likelier that is, as a difference of log-likelihoods, M. It is a sum over the
    two images, so each is found by itself.
    """
    log_PV = np.log(proba_PV)
    order = np.lexsort((value_P, within_P))
    pairs: list[tuple[int, int]] = []
    gains: list[float] = []
    for rows in np.split(order, np.flatnonzero(np.diff(within_P[order])) + 1):
        if value_P[rows[0]] == value_P[rows[-1]]:
            continue
        parts = np.split(rows, np.flatnonzero(np.diff(value_P[rows])) + 1)
        for ones, others in itertools.combinations(parts, 2):
            one = value_P[ones[0]]
            other = value_P[others[0]]
            gain_I = log_PV[ones, other] - log_PV[ones, one]
            gain_J = log_PV[others, one] - log_PV[others, other]
            pairs.append((int(ones[gain_I.argmax()]), int(others[gain_J.argmax()])))
            gains.append(float(gain_I.max() + gain_J.max()))
    return np.array(pairs, np.int64).reshape(-1, 2), np.array(gains)
