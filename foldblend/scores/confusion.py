"""Which classes were taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["confusion_counts", "most_confused", "worst_mistakes"]


def confusion_counts(label_N: np.ndarray, predicted_N: np.ndarray, num_classes: int) -> np.ndarray:
    """Return counts C x C, true classes down, predicted ones across."""
    return np.bincount(label_N * num_classes + predicted_N, minlength=num_classes**2).reshape(
        num_classes, num_classes
    )


def most_confused(counts_CC: np.ndarray, names: Sequence[str], num: int) -> list[dict[str, Any]]:
    """Return the `num` most frequent confusions: names, rows, and their share of the true class's
    rows.
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
    """Return the rows of at most `num` wrong predictions, the surest first; ties stay in the order
    of rows.
    """
    predicted_N = proba_NC.argmax(axis=1)
    wrong = np.flatnonzero(predicted_N != label_N)
    return wrong[np.argsort(-proba_NC[wrong, predicted_N[wrong]], kind="stable")[:num]]
