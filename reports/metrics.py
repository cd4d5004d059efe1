"""Scores by name, over scikit-learn's, on one fixed label set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["METRICS", "Counts", "Metric", "log_softmax", "mean_score", "rows_by_repeat", "softmax"]


def log_softmax(logits_NC: np.ndarray) -> np.ndarray:
    """Return log-probabilities, N x C float64; finite for any finite logits."""
    shifted = logits_NC.astype(np.float64) - logits_NC.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(logits_NC: np.ndarray) -> np.ndarray:
    """Return probabilities, N x C float64."""
    return np.exp(log_softmax(logits_NC))


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows per class, any leading shape x C: right ones, true ones, predicted ones."""

    right: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True, slots=True)
class Metric:
    """A score of labels N and probabilities N x C."""

    title: str
    score: Callable[[np.ndarray, np.ndarray], float]
    greater_is_better: bool = True
    of_counts: Callable[[Counts], np.ndarray] | None = None
    """The same score from counts per class, for many resamples at once; None where rows are needed."""


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


def _log_loss(label_N: np.ndarray, proba_NC: np.ndarray) -> float:
    from sklearn.metrics import log_loss

    return float(log_loss(label_N, proba_NC, labels=np.arange(proba_NC.shape[1])))


def _kappa_quadratic(label_N: np.ndarray, proba_NC: np.ndarray) -> float:
    from sklearn.metrics import cohen_kappa_score

    labels = np.arange(proba_NC.shape[1])
    return float(cohen_kappa_score(label_N, proba_NC.argmax(1), labels=labels, weights="quadratic"))


METRICS: dict[str, Metric] = {
    "f1_macro": Metric("macro F1", _f1_macro, of_counts=_f1_macro_of_counts),
    "accuracy": Metric("accuracy", _accuracy, of_counts=_accuracy_of_counts),
    "balanced_accuracy": Metric("balanced accuracy", _balanced_accuracy, of_counts=_balanced_accuracy_of_counts),
    "roc_auc_ovr": Metric("ROC AUC (ovr)", _roc_auc_ovr),
    "log_loss": Metric("log loss", _log_loss, greater_is_better=False),
    "kappa_quadratic": Metric("quadratic kappa", _kappa_quadratic),
}
