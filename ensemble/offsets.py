"""The decision after blending: offsets a class, added to log-probabilities before the largest is
taken.

The most probable class is the best answer for accuracy, not for macro F1, in which a rare class
counts as much as a common one (Lipton et al. 2014, "Optimal thresholding of classifiers to maximize
F1 measure"). With 100 rows of one class to each of another, a model that is right about its own
doubts names the rare class too seldom.

Offsets are fitted by coordinate ascent: one class at a time, over every threshold there is. What
was found on some rows flatters itself there, so offsets count only where they help groups that had
no say in them. On fresh rows of 200 drawn worlds at 1:100 (tests/test_decide.py) macro F1 rose by
0.032, with a standard deviation of 0.031 over worlds; of 200 worlds with classes alike in size, 193
got no offsets.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from foldblend.scores.held_out import group_parts
from foldblend.scores.metrics import METRICS, log_softmax, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import gain, score_of

__all__ = ["FITS", "fit_offsets"]

NUM_PARTS = 5
FEWEST_GROUPS = 10  # below, a standard error over groups says nothing
STRENGTHS = (0.25, 0.5, 0.75, 1.0)  # of what was fitted; 0 is tried too
# standard errors that a gain must exceed; where classes are alike in size
ERRORS = 1.0
ERRORS_ALIKE = 2.5
ALIKE = 3  # so many times the rows of the rarest class, at most, in the most common one

START = 0.25  # of the log-prior correction, most of which goes too far for F1
NUM_SWEEPS = 3
NEARLY = 5e-3  # of one class's F1: a change that gains less is not made
REACH = 1.0  # farthest beyond a row that a threshold comes to lie, in log-probability
TIE = 1e-9  # margins nearer than this are one


def _f1(right: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return 2 * right / np.maximum(truth + predicted, 1)


def _line(
    label: int, log_CN: np.ndarray, label_N: np.ndarray, offset_C: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return every threshold of one class: edges N + 2 of its offset, and the sum of all F1 N + 1
    between them.

    A row goes to the class if its offset exceeds the row's margin, which is what the best of the
    others is ahead. From one margin to the next, one row leaves its second choice for this class,
    and two F1 change.
    """
    num_classes, num_rows = log_CN.shape
    rival_CN = log_CN + offset_C[:, None]
    rival_CN[label] = -np.inf
    rival_N = rival_CN.argmax(axis=0)
    margin_N = rival_CN[rival_N, np.arange(num_rows)] - log_CN[label]
    order = np.argsort(margin_N)
    label_n = label_N[order]
    rival_n = rival_N[order]
    own_n = _f1(np.cumsum(label_n == label), (label_N == label).sum(), np.arange(1, num_rows + 1))

    # The rows each rival loses, in turn; 16 bits are sorted in no time.
    by_rival = np.argsort(rival_n.astype(np.uint16), kind="stable")
    loser_n = rival_n[by_rival]
    right_n = (label_n == rival_n)[by_rival]
    truth_C, predicted_C = (
        np.bincount(each_N, minlength=num_classes) for each_N in (label_N, rival_N)
    )
    end_C = np.cumsum(predicted_C)
    seen_n = np.r_[0, np.cumsum(right_n)]
    left_n = end_C[loser_n] - np.arange(1, num_rows + 1)  # rows that remain with the loser
    still_n = seen_n[end_C[loser_n]] - seen_n[1:]  # and those of them that it is right about
    truth_n = truth_C[loser_n]
    change_n = np.empty(num_rows)
    change_n[by_rival] = _f1(still_n, truth_n, left_n) - _f1(still_n + right_n, truth_n, left_n + 1)

    before = _f1(
        np.bincount(rival_N[label_N == rival_N], minlength=num_classes), truth_C, predicted_C
    ).sum()
    return np.r_[-np.inf, margin_N[order], np.inf], before + np.r_[0, np.cumsum(change_n) + own_n]


def _best_offset(
    label: int, log_CN: np.ndarray, label_N: np.ndarray, offset_C: np.ndarray
) -> float:
    """Return the class's offset of (nearly) the greatest macro F1 that is nearest to the present
    one.

    It lies in the middle between two margins, where rows that are not here are least likely to
    change sides.
    """
    edges, f1_sums = _line(label, log_CN, label_N, offset_C)
    low = edges[:-1]
    high = edges[1:]
    present = float(offset_C[label])
    f1_sums = np.where(high - low > TIE, f1_sums, -np.inf)
    good = np.flatnonzero(f1_sums >= f1_sums.max() - NEARLY)
    away = np.maximum(low[good] - present, present - high[good])
    nearest = good[away.argmin()]
    if away.min() <= 0:
        return present
    inward = min(float(high[nearest] - low[nearest]) / 2, REACH)
    return float(low[nearest] + inward if low[nearest] > present else high[nearest] - inward)


def _prior_correction(log_NC: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Return offsets C that make classes as likely as if they were alike in size: best for balanced
    accuracy.
    """
    present, num_rows = np.unique(label_N, return_counts=True)
    return _of_all_classes(-np.log(num_rows), present, log_NC.shape[1])


def _ascend(log_NC: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Return offsets C of great macro F1 over the classes that occur, by line searches from near
    the prior's.
    """
    present, code_N = np.unique(label_N, return_inverse=True)
    if len(present) < 2:
        return np.zeros(log_NC.shape[1])
    log_KN = np.ascontiguousarray(log_NC[:, present].T)
    offset_K = START * _prior_correction(log_NC, label_N)[present]
    for _ in range(NUM_SWEEPS):
        before_K = offset_K.copy()
        for code in range(len(present)):
            offset_K[code] = _best_offset(code, log_KN, code_N, offset_K)
        if (offset_K == before_K).all():
            break
    return _of_all_classes(offset_K, present, log_NC.shape[1])


def _of_all_classes(offset_K: np.ndarray, present: np.ndarray, num_classes: int) -> np.ndarray:
    """Return offsets C with mean 0 over the classes that occur; others have the least, so that they
    win nothing.
    """
    centred_K = offset_K - offset_K.mean()
    offset_C = np.full(num_classes, centred_K.min())
    offset_C[present] = centred_K
    return offset_C


FITS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "f1_macro": _ascend,
    "balanced_accuracy": _prior_correction,
}
"""(log-probabilities N x C, labels N) -> offsets C, for the metrics that gain by other decisions
than argmax.
"""


def _strength(metric: str, log_NC: np.ndarray, held_NC: np.ndarray, rows: Rows) -> float:
    """Return how much of the offsets to take, judged by each row's offsets N x C from other groups;
    0 for none.
    """
    score = METRICS[metric]
    strengths = (0.0, *STRENGTHS)
    scores = [
        score_of(score, rows, softmax(log_NC + each * held_NC), resampled=False).value
        for each in strengths
    ]
    best = strengths[int(np.argmax(scores))]
    if best == 0:
        return 0.0
    plain, moved = (score_of(score, rows, softmax(log_NC + each * held_NC)) for each in (0.0, best))
    num_rows = np.unique(rows.label_N, return_counts=True)[1]
    errors = ERRORS_ALIKE if num_rows.max() < ALIKE * num_rows.min() else ERRORS
    return best if gain(moved, plain).exceeds(errors) else 0.0


def fit_offsets(logits_NC: np.ndarray, rows: Rows, *, metric: str = "f1_macro") -> np.ndarray:
    """Return offsets C, to be added to log_softmax(logits) before argmax; all 0 where they earn
    nothing.

    Logits N x C are out of fold. Groups are dealt to parts, and each part gets what the others
    fitted, at strengths of 0 to 1. The best strength is taken, of offsets fitted on all rows, if
    its gain exceeds the gain's standard error by bootstrap over groups. Where the classes are alike
    in size, argmax is about right already, and 2.5 standard errors are asked.

    For macro F1 by coordinate ascent; for balanced accuracy the correction of the log-prior, which
    is the best decision of a calibrated model; 0 for the other metrics: argmax suits accuracy,
    quadratic kappa asks for the order of classes, and log loss and ROC AUC make no decision. A
    class without rows never gains by the offsets.
    """
    assert metric in METRICS, metric
    nothing_C = np.zeros(logits_NC.shape[1])
    label_N = rows.label_N
    if metric not in FITS or rows.num_groups < FEWEST_GROUPS or len(np.unique(label_N)) < 2:
        return nothing_C
    fit = FITS[metric]
    log_NC = log_softmax(logits_NC)
    part_N = group_parts(label_N, rows.group_N, num_parts=NUM_PARTS)
    held_NC = np.empty_like(log_NC)
    for part in range(NUM_PARTS):
        apart_N = part_N == part
        held_NC[apart_N] = fit(log_NC[~apart_N], label_N[~apart_N])
    strength = _strength(metric, log_NC, held_NC, rows)
    return strength * fit(log_NC, label_N) if strength > 0 else nothing_C
