"""Effects of policies on out-of-fold predictions, compared with the unaugmented image."""

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
    """Return the F1 of each value; NaN for values that do not occur."""
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
    """Return the F1 of each value that occurs, pooled over repeats, and its change."""
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
) -> list[dict[str, Any]]:
    """Return the effects of each policy, compared with the policy `against`.

    Parameters
    ----------
    logits_of
        Logits N x C of each policy, by name. Pass cross-fitted logits of policies that were chosen
        or fitted: the score of a policy on the rows it was chosen on is too optimistic.
    passes_of
        Forward passes per image of each policy.
    rows
        Labels, groups and repeats of the N rows.
    classes, attributes
        Names of the classes, and what they imply.
    metric
        Name of the metric.

    Returns
    -------
    list of dict
        For each policy: `passes`; `comparison`, its row of `reports.run.summary.compare`; `fixed`
        and `broken`, the numbers of images that only this policy and only `against` classifies
        correctly (mean over repeats); `classes` and `attributes`, the F1 of each and its change.
    """
    compared = compare(
        rows=rows,
        proba_of={name: softmax(logits_NC) for name, logits_NC in logits_of.items()},
        against=against,
        attributes=attributes,
        metric=metric,
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
