"""The numbers of a report as plain data: what text, JSON and pages show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foldblend.attributes import Attribute, attribute_view
from foldblend.scores.bootstrap import bootstrap_scores, percentile_interval, score_interval
from foldblend.scores.calibration import summarise_calibration
from foldblend.scores.confusion import confusion_counts, most_confused
from foldblend.scores.metrics import METRICS, mean_score, softmax

__all__ = [
    "MOST_NAMED",
    "compare",
    "compare_row",
    "summarise",
    "summarise_test",
    "with_differences",
]

SCHEMA = 2  # see docs/report.schema.json
MOST_NAMED = 40  # values, up to which a confusion matrix is kept whole
MOST_CONFUSIONS = 10


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _per_class(
    label_N: np.ndarray, predicted_N: np.ndarray, names: Sequence[str], num_repeats: int
) -> list[dict[str, Any]]:
    """Return precision, recall and F1 pooled over repeats; the support counts a picture once."""
    counts_CC = confusion_counts(label_N, predicted_N, len(names))
    right_C, support_C, predicted_C = counts_CC.diagonal(), counts_CC.sum(axis=1), counts_CC.sum(axis=0)
    present = np.flatnonzero(support_C)
    columns = [
        (right_C / np.maximum(predicted_C, 1))[present],
        (right_C / np.maximum(support_C, 1))[present],
        (2 * right_C / np.maximum(support_C + predicted_C, 1))[present],
        support_C[present],
    ]
    return [
        {
            "class": int(label),
            "name": names[label],
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "support": int(support) // num_repeats,
        }
        for label, precision, recall, f1, support in zip(present, *columns, strict=True)
    ]


def _confusion(label_N: np.ndarray, predicted_N: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Return the confusion matrix, true values down, with its most frequent confusions; rows of all repeats."""
    counts_CC = confusion_counts(label_N, predicted_N, len(names))
    return {
        "counts": counts_CC.tolist() if len(names) <= MOST_NAMED else None,
        "most": most_confused(counts_CC, names, MOST_CONFUSIONS),
    }


def _attribute(
    attribute: Attribute,
    label_N: np.ndarray,
    proba_NC: np.ndarray,
    group_N: np.ndarray,
    repeat_N: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    truth_N, as_proba = attribute_view(attribute, label_N, proba_NC)
    f1_macro = score_interval(METRICS["f1_macro"], truth_N, as_proba, group_N, repeat_N=repeat_N, seed=seed)
    return {
        "name": attribute.name,
        "value_names": list(attribute.values),
        "f1_macro": f1_macro.as_dict(),
        "accuracy": METRICS["accuracy"].score(truth_N, as_proba),
        "values": _per_class(truth_N, as_proba.argmax(1), attribute.values, len(np.unique(repeat_N))),
        "confusion": _confusion(truth_N, as_proba.argmax(1), attribute.values),
    }


def summarise(
    *,
    label_N: np.ndarray,
    logits_NC: np.ndarray,
    group_N: np.ndarray,
    fold_N: np.ndarray,
    repeat_N: np.ndarray,
    classes: Sequence[str],
    attributes: Sequence[Attribute],
    metric: str,
    seed: int = 0,
) -> dict[str, Any]:
    """Return every number of an out-of-fold report; labels, groups, folds and repeats N, logits N x C.

    The headline is pooled over all rows of a repeat, then the mean over repeats; fold scores are
    over the classes that occur in the fold.
    """
    chosen, folds, proba_NC = METRICS[metric], [], softmax(logits_NC)
    for repeat, fold in np.unique(np.stack([repeat_N, fold_N]), axis=1).T:
        rows = (repeat_N == repeat) & (fold_N == fold)
        folds.append(
            {
                "repeat": int(repeat),
                "fold": int(fold),
                "score": _number(chosen.score(label_N[rows], proba_NC[rows])),
                "f1_macro": METRICS["f1_macro"].score(label_N[rows], proba_NC[rows]),
                "num_images": int(rows.sum()),
                "num_groups": len(np.unique(group_N[rows])),
            }
        )
    num_repeats = len(np.unique(repeat_N))
    scores = np.array([np.nan if fold["score"] is None else fold["score"] for fold in folds], float)
    return {
        "schema": SCHEMA,
        "num_images": len(label_N) // num_repeats,
        "num_groups": len(np.unique(group_N)),
        "num_folds": len(folds) // num_repeats,
        "num_repeats": num_repeats,
        "num_classes": len(classes),
        "class_names": list(classes),
        "num_classes_occurring": len(np.unique(label_N)),
        "metric": metric,
        "headline": score_interval(chosen, label_N, proba_NC, group_N, repeat_N=repeat_N, seed=seed).as_dict(),
        "f1_macro": score_interval(
            METRICS["f1_macro"], label_N, proba_NC, group_N, repeat_N=repeat_N, seed=seed
        ).as_dict(),
        "interval": "95 % percentile bootstrap over groups",
        "scores": {name: _number(mean_score(one, label_N, proba_NC, repeat_N)) for name, one in METRICS.items()},
        "folds": folds,
        "folds_mean": _number(scores.mean()),
        "folds_std": _number(scores.std(ddof=1)) if len(scores) > 1 else None,
        "per_class": _per_class(label_N, proba_NC.argmax(1), classes, num_repeats),
        "confusion": _confusion(label_N, proba_NC.argmax(1), classes),
        "attributes": [_attribute(one, label_N, proba_NC, group_N, repeat_N, seed) for one in attributes],
        "calibration": summarise_calibration(logits_NC, label_N, group_N, fold_N, repeat_N, seed=seed),
    }


def summarise_test(mean_NC: np.ndarray, logits_of_models: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return how often each class is predicted for the test set, how surely, and whether the folds' models agree.

    `mean_NC` are the logits that the submission is made from, each of `logits_of_models` those of one model.
    """
    proba_NC, predicted_N = softmax(mean_NC), mean_NC.argmax(axis=1)
    votes_KN = np.stack([logits_NC.argmax(axis=1) for logits_NC in logits_of_models])
    return {
        "num_images": len(mean_NC),
        "predicted": np.bincount(predicted_N, minlength=mean_NC.shape[1]).tolist(),
        "confidence": float(proba_NC.max(axis=1).mean()),
        "num_models": len(votes_KN),
        "agreement": float((votes_KN == votes_KN[0]).all(axis=0).mean()),
    }


def compare_row(
    *,
    name: str,
    label_N: np.ndarray,
    group_N: np.ndarray,
    repeat_N: np.ndarray | None = None,
    proba_NC: np.ndarray,
    attributes: Sequence[Attribute],
    metric: str,
    seed: int = 0,
) -> tuple[dict[str, Any], np.ndarray]:
    """Return a named prediction's score with interval, and its attributes', beside the score of each resample."""
    value = mean_score(METRICS[metric], label_N, proba_NC, repeat_N)
    # Equal seeds draw equal groups, which is what pairs the differences.
    resamples_R = bootstrap_scores(METRICS[metric], label_N, proba_NC, group_N, repeat_N=repeat_N, seed=seed)
    of_attributes = {}
    for attribute in attributes:
        truth_N, as_proba = attribute_view(attribute, label_N, proba_NC)
        of_attributes[attribute.name] = mean_score(METRICS["f1_macro"], truth_N, as_proba, repeat_N)
    row = {
        "name": name,
        "headline": percentile_interval(value, resamples_R).as_dict(),
        "accuracy": METRICS["accuracy"].score(label_N, proba_NC),
        "attributes": of_attributes,
    }
    return row, resamples_R


def with_differences(found: Sequence[tuple[dict[str, Any], np.ndarray]], against: int) -> list[dict[str, Any]]:
    """Return the rows of `compare_row`, each with its paired difference to the one at the place `against`."""
    best, best_R = found[against]

    def difference(row: Mapping[str, Any], resamples_R: np.ndarray) -> dict[str, float | None]:
        values = [np.nan if one["headline"]["value"] is None else one["headline"]["value"] for one in (row, best)]
        return percentile_interval(values[0] - values[1], resamples_R - best_R).as_dict()

    return [
        {**row, "against": best["name"], "difference": None if place == against else difference(row, resamples_R)}
        for place, (row, resamples_R) in enumerate(found)
    ]


def compare(*, proba_of: Mapping[str, np.ndarray], against: str, **shared: Any) -> list[dict[str, Any]]:
    """Return a row for each named prediction: score with interval, per attribute, and the paired
    difference to the one named `against`; what else is given is as for `compare_row`."""
    found = [compare_row(name=name, proba_NC=proba_NC, **shared) for name, proba_NC in proba_of.items()]
    return with_differences(found, list(proba_of).index(against))
