"""What each policy does to out-of-fold predictions, beside the plain image: plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foldblend.attributes import Attribute
from foldblend.scores.metrics import softmax
from foldblend.scores.rows import Rows
from reports.run.summary import compare

__all__ = ["effects"]


def _f1_of_values(truth_N: np.ndarray, predicted_N: np.ndarray, num_values: int) -> np.ndarray:
    """Return F1 of each value, NaN of those that do not occur."""
    right, truth, predicted = (
        np.bincount(values, minlength=num_values)
        for values in (truth_N[truth_N == predicted_N], truth_N, predicted_N)
    )
    return np.where(truth > 0, 2 * right / np.maximum(truth + predicted, 1), np.nan)


def _differences(
    names: Sequence[str],
    truth_N: np.ndarray,
    predicted_N: np.ndarray,
    before_N: np.ndarray,
    num_repeats: int,
) -> list[dict[str, Any]]:
    """Return F1 of each value that occurs, pooled over repeats, and how it differs from before."""
    f1, before = (_f1_of_values(truth_N, one, len(names)) for one in (predicted_N, before_N))
    support = np.bincount(truth_N, minlength=len(names)) // num_repeats
    return [
        {
            "name": names[value],
            "support": int(support[value]),
            "f1": float(f1[value]),
            "difference": float(f1[value] - before[value]),
        }
        for value in map(int, np.flatnonzero(support))
    ]


def effects(
    logits_of: Mapping[str, np.ndarray],
    passes_of: Mapping[str, int],
    *,
    rows: Rows,
    classes: Sequence[str],
    attributes: Sequence[Attribute],
    metric: str,
    against: str = "identity",
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return, for each named logits N x C, its passes, its row of reports.run.summary.compare
    against the plain image, how many images it fixed and broke (mean over repeats), and how F1
    differs per class and attribute.

    A policy that was fitted belongs here cross-fitted; one that was chosen on these rows is
    flattered.
    """
    compared = compare(
        rows=rows,
        proba_of={name: softmax(logits_NC) for name, logits_NC in logits_of.items()},
        against=against,
        attributes=attributes,
        metric=metric,
        seed=seed,
    )
    label_N = rows.label_N
    num_repeats = rows.num_repeats
    before_N = logits_of[against].argmax(axis=1)
    found = []
    for name, row in zip(logits_of, compared, strict=True):
        predicted_N = logits_of[name].argmax(axis=1)
        was_right_N = before_N == label_N
        is_right_N = predicted_N == label_N
        of_attributes = {}
        for one in attributes:
            value_of_class = np.asarray(one.of_class)
            truth_N, seen_N, plain_N = (
                value_of_class[labels] for labels in (label_N, predicted_N, before_N)
            )
            of_attributes[one.name] = _differences(
                one.values, truth_N, seen_N, plain_N, num_repeats
            )
        found.append(
            {
                "name": name,
                "passes": passes_of[name],
                "comparison": row,
                "fixed": float((is_right_N & ~was_right_N).sum() / num_repeats),
                "broken": float((was_right_N & ~is_right_N).sum() / num_repeats),
                "classes": _differences(classes, label_N, predicted_N, before_N, num_repeats),
                "attributes": of_attributes,
            }
        )
    return found
