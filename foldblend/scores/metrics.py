"""Metrics by name, with scikit-learn's values, on the classes that occur in the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from foldblend.errors import UserError, did_you_mean
from foldblend.scores.roc_auc import roc_auc_left_out, roc_auc_of_weights, roc_auc_ovr

__all__ = [
    "KAPPA",
    "LOG_LOSS",
    "MEAN_COST",
    "METRICS",
    "TITLES",
    "Counts",
    "Metric",
    "as_metric",
    "check_metric",
    "check_order",
    "f1_macro_of",
    "is_ordered",
    "log_loss_of",
    "log_softmax",
    "mean_score",
    "row_log_loss",
    "rows_by_repeat",
    "softmax",
]


def log_softmax(logits_NC: np.ndarray) -> np.ndarray:
    """Return log-probabilities, N x C float64, which are finite for any finite logits."""
    shifted = logits_NC.astype(np.float64)
    shifted -= logits_NC.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def softmax(logits_NC: np.ndarray) -> np.ndarray:
    """Return probabilities, N x C float64.

    Examples
    --------
    >>> softmax(np.log([[3.0, 1.0]])).round(4).tolist()
    [[0.75, 0.25]]
    """
    # In place, because memory for each step would take longer than the step.
    proba_NC = logits_NC.astype(np.float64)
    proba_NC -= logits_NC.max(axis=1, keepdims=True)
    np.exp(proba_NC, out=proba_NC)
    proba_NC /= proba_NC.sum(axis=1, keepdims=True)
    return proba_NC


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums over rows from which most metrics are computed, with any leading axes."""

    right: np.ndarray
    """Number of correct predictions per class, ... x C."""
    truth: np.ndarray
    """Number of rows per true class, ... x C."""
    predicted: np.ndarray
    """Number of rows per predicted class, ... x C."""
    loss: np.ndarray
    """Sum of the log losses of all rows."""
    distance: np.ndarray
    """Sum of `Metric.distance` over all rows."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of labels and class probabilities."""

    title: str
    """Name of the metric in reports."""
    score: Callable[[np.ndarray, np.ndarray], float]
    """Function of labels N and probabilities N x C."""
    greater_is_better: bool = True
    needs_order: bool = False
    """Whether the score depends on the order of the classes."""
    of_counts: Callable[[Counts], np.ndarray] | None = None
    """The same score from sums over rows, for many bootstrap resamples at once."""
    of_weights: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None
    """The same score from labels N, probabilities N x C and row weights B x N, for a metric that
    cannot be computed from sums.
    """
    of_left_out: Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray] | None = None
    """The score without each group, G, from labels N, probabilities N x C, groups N as numbers and
    their number, for a metric of which that is faster than `of_weights`.
    """
    name: str = ""
    """Name of the metric in settings and files."""
    cost_CC: np.ndarray | None = field(default=None, compare=False)
    """Cost of each predicted class (column) for each true class (row), where errors have costs."""
    pool: str = ""
    """How predictions for a group's images are pooled before the group is scored (a key of
    `by_group.POOLS`); "" for a metric by image.
    """

    def __post_init__(self) -> None:
        # The bootstrap needs one of them; without, it would fail far from here.
        if self.of_counts is None and self.of_weights is None:
            raise ValueError(f"{self.title}: a metric needs of_counts or of_weights")

    @property
    def sign(self) -> int:
        """1, or -1 if less is better; multiplied by it, greater scores are better."""
        return 1 if self.greater_is_better else -1

    @property
    def by_image(self) -> Metric:
        """The same metric computed over images."""
        return replace(self, pool="", title=TITLES[self.name]) if self.pool else self

    def distance(self, label_N: np.ndarray, predicted_N: np.ndarray) -> np.ndarray:
        """Return how far each prediction is from its label: its cost, or the squared difference."""
        if self.cost_CC is not None:
            return np.asarray(self.cost_CC[label_N, predicted_N])
        return np.asarray((label_N - predicted_N) ** 2)


def rows_by_repeat(repeat_N: np.ndarray | None, num_rows: int) -> Sequence[slice | np.ndarray]:
    """Return the rows of each repeat of a cross-validation (None: one repeat)."""
    if repeat_N is None or (num_rows and (repeat_N == repeat_N[0]).all()):
        # A slice takes no copy of the rows.
        return [slice(num_rows)]
    return [np.flatnonzero(repeat_N == repeat) for repeat in np.unique(repeat_N)]


def mean_score(
    metric: Metric, label_N: np.ndarray, proba_NC: np.ndarray, repeat_N: np.ndarray | None = None
) -> float:
    """Return the mean over repeats of a metric.

    Examples
    --------
    >>> label_N = np.array([0, 1, 0, 1])
    >>> mean_score(METRICS["accuracy"], label_N, np.eye(2)[[0, 1, 1, 1]], np.array([0, 0, 1, 1]))
    0.75
    """
    scores = [
        metric.score(label_N[rows], proba_NC[rows])
        for rows in rows_by_repeat(repeat_N, len(label_N))
    ]
    return float(np.mean(scores))


def _f1_macro(label_N: np.ndarray, proba_NC: np.ndarray) -> float:
    """Return macro F1 over the classes that occur in the labels.

    scikit-learn's default also averages over classes that are only predicted, so that a single
    stray prediction adds a class with an F1 of zero.
    """
    return f1_macro_of(label_N, proba_NC.argmax(axis=1), proba_NC.shape[1])


def f1_macro_of(label_N: np.ndarray, predicted_N: np.ndarray, num_classes: int) -> float:
    """Return macro F1 of predicted classes over the classes that occur in the labels."""
    return float(_f1_macro_of_counts(_counted(label_N, predicted_N, num_classes)))


def _counted(label_N: np.ndarray, predicted_N: np.ndarray, num_classes: int) -> Counts:
    """Return the counts of the classes that occur, in scikit-learn's order.

    Sums over them then equal scikit-learn's to the last bit.
    """
    counted = (label_N[label_N == predicted_N], label_N, predicted_N)
    right_C, truth_C, predicted_C = (np.bincount(one, minlength=num_classes) for one in counted)
    occurs_C = truth_C > 0
    unused = np.zeros(())
    return Counts(right_C[occurs_C], truth_C[occurs_C], predicted_C[occurs_C], unused, unused)


def _f1_macro_of_counts(counts: Counts) -> np.ndarray:
    occurs = counts.truth > 0
    f1 = 2 * counts.right / np.maximum(counts.truth + counts.predicted, 1)
    return (f1 * occurs).sum(-1) / occurs.sum(-1)


def _accuracy(label_N: np.ndarray, proba_NC: np.ndarray) -> float:
    return float((label_N == proba_NC.argmax(1)).mean())


def _accuracy_of_counts(counts: Counts) -> np.ndarray:
    return counts.right.sum(-1) / counts.truth.sum(-1)


def _balanced_accuracy(label_N: np.ndarray, proba_NC: np.ndarray) -> float:
    counts = _counted(label_N, proba_NC.argmax(axis=1), proba_NC.shape[1])
    return float(_balanced_accuracy_of_counts(counts))


def _balanced_accuracy_of_counts(counts: Counts) -> np.ndarray:
    occurs = counts.truth > 0
    recall = counts.right / np.maximum(counts.truth, 1)
    return (recall * occurs).sum(-1) / occurs.sum(-1)


def _log_loss(label_N: np.ndarray, proba_NC: np.ndarray) -> float:
    return float(row_log_loss(label_N, proba_NC).mean())


def row_log_loss(label_N: np.ndarray, proba_NC: np.ndarray) -> np.ndarray:
    """Return the log loss of each row, with probabilities clipped as in scikit-learn."""
    return log_loss_of(proba_NC[np.arange(len(label_N)), label_N])


def log_loss_of(own_N: np.ndarray) -> np.ndarray:
    """Return the log loss of each row from the probability of its true class."""
    tiny = np.finfo(own_N.dtype).eps
    return -np.log(np.clip(own_N, tiny, 1 - tiny))


def _log_loss_of_counts(counts: Counts) -> np.ndarray:
    return counts.loss / counts.truth.sum(-1)


def _kappa_quadratic(label_N: np.ndarray, proba_NC: np.ndarray) -> float:
    """Return quadratic kappa, 1 - observed / expected squared distance.

    It is summed in scikit-learn's order, and NaN if all labels and predictions are one class.
    """
    num_classes = proba_NC.shape[1]
    pair_N = label_N * num_classes + proba_NC.argmax(axis=1)
    counts_CC = (
        np.bincount(pair_N, minlength=num_classes**2)
        .reshape(num_classes, num_classes)
        .astype(np.float64)
    )
    distance_CC = (np.arange(num_classes)[:, None] - np.arange(num_classes)) ** 2.0
    expected_CC = np.outer(counts_CC.sum(axis=0), counts_CC.sum(axis=1)) / counts_CC.sum()
    expected = (distance_CC * expected_CC).sum()
    return float(1 - (distance_CC * counts_CC).sum() / expected) if expected > 0 else float("nan")


def _kappa_quadratic_of_counts(counts: Counts) -> np.ndarray:
    """Return quadratic kappa from sums, expecting independent true and predicted labels."""
    place_C = np.arange(counts.truth.shape[-1])
    num = counts.truth.sum(-1)
    square_C = place_C**2
    both = (counts.truth * square_C).sum(-1) + (counts.predicted * square_C).sum(-1)
    expected = (
        both - 2 * (counts.truth * place_C).sum(-1) * (counts.predicted * place_C).sum(-1) / num
    )
    return np.where(expected > 0, 1 - counts.distance / np.where(expected > 0, expected, 1), np.nan)


LOG_LOSS = "log_loss"
KAPPA = "kappa_quadratic"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("macro F1", _f1_macro, name="f1_macro", of_counts=_f1_macro_of_counts),
        Metric("accuracy", _accuracy, name="accuracy", of_counts=_accuracy_of_counts),
        Metric(
            "balanced accuracy",
            _balanced_accuracy,
            name="balanced_accuracy",
            of_counts=_balanced_accuracy_of_counts,
        ),
        Metric(
            "ROC AUC (ovr)",
            roc_auc_ovr,
            name="roc_auc_ovr",
            of_weights=roc_auc_of_weights,
            of_left_out=roc_auc_left_out,
        ),
        Metric(
            "log loss",
            _log_loss,
            name=LOG_LOSS,
            greater_is_better=False,
            of_counts=_log_loss_of_counts,
        ),
        Metric(
            "quadratic kappa",
            _kappa_quadratic,
            name=KAPPA,
            needs_order=True,
            of_counts=_kappa_quadratic_of_counts,
        ),
    )
}

MEAN_COST = "mean_cost"
"""Name of the mean cost of errors, a metric of runs with costs (see `error_costs`)."""

TITLES = {name: metric.title for name, metric in METRICS.items()} | {MEAN_COST: "mean cost"}
"""Names of metrics in reports, by their names in files."""


def as_metric(metric: str | Metric) -> Metric:
    """Return a metric that is given by its name, a key of METRICS, or as itself.

    Examples
    --------
    >>> as_metric("accuracy").title
    'accuracy'
    """
    return METRICS[metric] if isinstance(metric, str) else metric


def check_metric(name: str) -> None:
    """Raise UserError for an unknown --metric and suggest similar names."""
    if name == MEAN_COST:
        raise UserError(f"--metric {name}: needs costs of errors; pass them to blend.py --costs")
    if name not in METRICS:
        near = did_you_mean(name, METRICS)
        raise UserError(f"--metric {name}: unknown{near}; choose from {', '.join(METRICS)}")


def is_ordered(names: Sequence[str], declared: bool) -> bool:
    """Return whether classes or values have an order: declared, of numbers, or only two.

    Examples
    --------
    >>> is_ordered(["cat", "dog", "owl"], False), is_ordered(["0", "1", "2.5"], False)
    (False, True)
    """
    return declared or len(names) < 3 or all(map(_is_number, names))


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def check_order(name: str, *, ordered: bool, cure: str = "pass --class-order a,b,c") -> None:
    """Raise UserError for a --metric that needs an order of the classes where there is none."""
    if METRICS[name].needs_order and not ordered:
        raise UserError(f"--metric {name}: the classes are words without an order; {cure}")
