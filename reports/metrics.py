"""Scores by name, over scikit-learn's, on one fixed label set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["METRICS", "Counts", "Metric", "log_softmax", "mean_score", "row_log_loss", "rows_by_repeat", "softmax"]


def log_softmax(logits_NC: np.ndarray) -> np.ndarray:
    """Return log-probabilities, N x C float64; finite for any finite logits."""
    shifted = logits_NC.astype(np.float64) - logits_NC.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(logits_NC: np.ndarray) -> np.ndarray:
    """Return probabilities, N x C float64."""
    return np.exp(log_softmax(logits_NC))


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums over rows, any leading shape: per class (x C) right ones, true ones, predicted ones; and two over all."""

    right: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    loss: np.ndarray
    """Of each row's log loss."""
    distance: np.ndarray
    """Of the squared distances of true and predicted label."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A score of labels N and probabilities N x C."""

    title: str
    score: Callable[[np.ndarray, np.ndarray], float]
    greater_is_better: bool = True
    of_counts: Callable[[Counts], np.ndarray] | None = None
    """The same score from sums over rows, for many resamples at once."""
    of_weights: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None
    """The same from labels N, probabilities N x C and how often each row counts, R x N, where no sums will do."""


def rows_by_repeat(repeat_N: np.ndarray | None, num_rows: int) -> list[np.ndarray]:
    """Return the row numbers of each repeat of a cross-validation; None says there is but one."""
    if repeat_N is None:
        return [np.arange(num_rows)]
    return [np.flatnonzero(repeat_N == repeat) for repeat in np.unique(repeat_N)]


def mean_score(metric: Metric, label_N: np.ndarray, proba_NC: np.ndarray, repeat_N: np.ndarray | None = None) -> float:
    """Return the mean over repeats of the score of each repeat's rows."""
    scores = [metric.score(label_N[rows], proba_NC[rows]) for rows in rows_by_repeat(repeat_N, len(label_N))]
    return float(np.mean(scores))


def _f1_macro(label_N: np.ndarray, proba_NC: np.ndarray) -> float:
    """Macro F1 over the classes that occur in the truth.

    scikit-learn's default averages true and predicted labels together, so that one stray
    prediction adds a class of F1 zero.
    """
    from sklearn.metrics import f1_score

    return float(f1_score(label_N, proba_NC.argmax(1), labels=np.unique(label_N), average="macro", zero_division=0))


def _f1_macro_of_counts(counts: Counts) -> np.ndarray:
    occurs = counts.truth > 0
    f1 = 2 * counts.right / np.maximum(counts.truth + counts.predicted, 1)
    return (f1 * occurs).sum(-1) / occurs.sum(-1)


def _accuracy(label_N: np.ndarray, proba_NC: np.ndarray) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(label_N, proba_NC.argmax(1)))


def _accuracy_of_counts(counts: Counts) -> np.ndarray:
    return counts.right.sum(-1) / counts.truth.sum(-1)


def _balanced_accuracy(label_N: np.ndarray, proba_NC: np.ndarray) -> float:
    from sklearn.metrics import recall_score

    return float(recall_score(label_N, proba_NC.argmax(1), labels=np.unique(label_N), average="macro", zero_division=0))


def _balanced_accuracy_of_counts(counts: Counts) -> np.ndarray:
    occurs = counts.truth > 0
    recall = counts.right / np.maximum(counts.truth, 1)
    return (recall * occurs).sum(-1) / occurs.sum(-1)


def _roc_auc_ovr(label_N: np.ndarray, proba_NC: np.ndarray) -> float:
    """One against the rest, averaged over the classes that occur; NaN where only one does.

    From the ranks of all classes at once (Mann and Whitney 1947): scikit-learn's value, class by
    class, at a fraction of the time that a bootstrap would take with it.
    """
    from scipy.stats import rankdata

    present, positives = np.unique(label_N, return_counts=True)
    if len(present) < 2:
        return float("nan")
    rank_NC = rankdata(proba_NC[:, present], axis=0)
    rank_sum = (rank_NC * (label_N[:, None] == present)).sum(axis=0)
    auc = (rank_sum - positives * (positives + 1) / 2) / (positives * (len(label_N) - positives))
    return float(auc.mean())


def _roc_auc_of_weights(label_N: np.ndarray, proba_NC: np.ndarray, weight_RN: np.ndarray) -> np.ndarray:
    """Return the score of each of R weightings of the rows; a class that has no weight is left out."""
    auc_sum_R, num_R = np.zeros(len(weight_RN)), np.zeros(len(weight_RN))
    for label in np.unique(label_N):
        order = np.argsort(proba_NC[:, label], kind="stable")
        ordered_N, is_true_N = proba_NC[order, label], label_N[order] == label
        starts = np.flatnonzero(np.r_[True, ordered_N[1:] != ordered_N[:-1]])  # of rows that tie
        weight_RT = np.add.reduceat(weight_RN[:, order], starts, axis=1)
        true_RT = np.add.reduceat(weight_RN[:, order] * is_true_N, starts, axis=1)
        other_RT = weight_RT - true_RT
        below_RT = np.cumsum(other_RT, axis=1) - other_RT / 2
        pairs_R = true_RT.sum(axis=1) * other_RT.sum(axis=1)
        auc_sum_R += (true_RT * below_RT).sum(axis=1) / np.maximum(pairs_R, 1)
        num_R += pairs_R > 0
    return np.where(num_R > 0, auc_sum_R / np.maximum(num_R, 1), np.nan)


def _log_loss(label_N: np.ndarray, proba_NC: np.ndarray) -> float:
    from sklearn.metrics import log_loss

    return float(log_loss(label_N, proba_NC, labels=np.arange(proba_NC.shape[1])))


def row_log_loss(label_N: np.ndarray, proba_NC: np.ndarray) -> np.ndarray:
    """Return each row's log loss, bounded as scikit-learn bounds it."""
    tiny = np.finfo(proba_NC.dtype).eps
    return -np.log(np.clip(proba_NC[np.arange(len(label_N)), label_N], tiny, 1 - tiny))


def _log_loss_of_counts(counts: Counts) -> np.ndarray:
    return counts.loss / counts.truth.sum(-1)


def _kappa_quadratic(label_N: np.ndarray, proba_NC: np.ndarray) -> float:
    from sklearn.metrics import cohen_kappa_score

    labels = np.arange(proba_NC.shape[1])
    return float(cohen_kappa_score(label_N, proba_NC.argmax(1), labels=labels, weights="quadratic"))


def _kappa_quadratic_of_counts(counts: Counts) -> np.ndarray:
    """Return 1 - observed / expected squared distance, the latter if true and predicted labels were independent."""
    place_C = np.arange(counts.truth.shape[-1])
    num, square_C = counts.truth.sum(-1), place_C**2
    both = (counts.truth * square_C).sum(-1) + (counts.predicted * square_C).sum(-1)
    expected = both - 2 * (counts.truth * place_C).sum(-1) * (counts.predicted * place_C).sum(-1) / num
    return np.where(expected > 0, 1 - counts.distance / np.where(expected > 0, expected, 1), np.nan)


METRICS: dict[str, Metric] = {
    "f1_macro": Metric("macro F1", _f1_macro, of_counts=_f1_macro_of_counts),
    "accuracy": Metric("accuracy", _accuracy, of_counts=_accuracy_of_counts),
    "balanced_accuracy": Metric("balanced accuracy", _balanced_accuracy, of_counts=_balanced_accuracy_of_counts),
    "roc_auc_ovr": Metric("ROC AUC (ovr)", _roc_auc_ovr, of_weights=_roc_auc_of_weights),
    "log_loss": Metric("log loss", _log_loss, greater_is_better=False, of_counts=_log_loss_of_counts),
    "kappa_quadratic": Metric("quadratic kappa", _kappa_quadratic, of_counts=_kappa_quadratic_of_counts),
}
