"""Confusion matrix, most frequent confusions and worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["confusion_counts", "most_confused", "worst_mistakes"]


def confusion_counts(label_N: np.ndarray, predicted_N: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the confusion matrix C x C: rows are true classes, columns predicted ones.

    Examples
    --------
    >>> confusion_counts(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    return np.bincount(label_N * num_classes + predicted_N, minlength=num_classes**2).reshape(
        num_classes, num_classes
    )


def most_confused(counts_CC: np.ndarray, names: Sequence[str], num: int) -> list[dict[str, Any]]:
    """Return the `num` most frequent confusions of two classes.

    Each has the names of the true and the predicted class, the number of rows and their share of
    the rows of the true class.
    """
    wrong_CC = counts_CC * ~np.eye(len(counts_CC), dtype=bool)
    order = np.argsort(-wrong_CC, axis=None, kind="stable")[:num]
    pairs = [divmod(int(index), len(counts_CC)) for index in order if wrong_CC.flat[index]]
    return [
        {
            "true": names[true],
            "predicted": names[predicted],
            "rows": int(counts_CC[true, predicted]),
            "share": float(counts_CC[true, predicted] / counts_CC[true].sum()),
        }
        for true, predicted in pairs
    ]


def worst_mistakes(label_N: np.ndarray, proba_NC: np.ndarray, num: int | None = None) -> np.ndarray:
    """Return the row numbers of the `num` most confident wrong predictions (default: all).

    The most confident is first; ties keep the order of the rows.
    """
    predicted_N = proba_NC.argmax(axis=1)
    wrong = np.flatnonzero(predicted_N != label_N)
    return wrong[np.argsort(-proba_NC[wrong, predicted_N[wrong]], kind="stable")[:num]]
