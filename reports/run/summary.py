"""The numbers of a report as plain data, for text, JSON and page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foldblend.attributes import Attribute, attribute_view
from foldblend.scores.by_group import GROUP, IMAGE, pooled
from foldblend.scores.calibration import Calibration, summarise_calibration
from foldblend.scores.confusion import confusion_counts, most_confused
from foldblend.scores.group_scores import record_of_both
from foldblend.scores.metrics import METRICS, Metric, as_metric, mean_score, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import Scored, score_interval, score_prediction

__all__ = [
    "MOST_NAMED",
    "compare",
    "scores_of_classes",
    "summarise",
    "summarise_test",
    "with_differences",
]

SCHEMA = 2  # see docs/report.schema.json
# With more values only the most frequent confusions are recorded, not the matrix.
MOST_NAMED = 40
MOST_CONFUSIONS = 10


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def scores_of_classes(
    rows: Rows, predicted_N: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return precision, recall and F1 of each class that occurs, pooled over repeats.

    The support counts images, and `groups` counts groups, each once for all repeats.
    """
    label_N = rows.label_N
    # Denominators of 0 are replaced by 1: a class that is never predicted has precision 0.
    counts_CC = confusion_counts(label_N, predicted_N, len(names))
    right_C = counts_CC.diagonal()
    support_C = counts_CC.sum(axis=1)
    predicted_C = counts_CC.sum(axis=0)
    present = np.flatnonzero(support_C)
    columns = [
        (right_C / np.maximum(predicted_C, 1))[present],
        (right_C / np.maximum(support_C, 1))[present],
        (2 * right_C / np.maximum(support_C + predicted_C, 1))[present],
        support_C[present],
        _groups_of_class(rows, len(names))[present],
    ]
    return [
        {
            "class": int(label),
            "name": names[label],
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "support": int(support) // rows.num_repeats,
            "groups": int(groups),
        }
        for label, precision, recall, f1, support, groups in zip(present, *columns, strict=True)
    ]


def _groups_of_class(rows: Rows, num_classes: int) -> np.ndarray:
    """Return the number of groups with an image of each class, C."""
    names, code_N = np.unique(rows.group_N, return_inverse=True)
    pairs = np.unique(rows.label_N * len(names) + code_N)
    return np.bincount(pairs // len(names), minlength=num_classes)


def _confusion(
    label_N: np.ndarray, predicted_N: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """Return the confusion matrix (rows are true values) and the most frequent confusions."""
    counts_CC = confusion_counts(label_N, predicted_N, len(names))
    return {
        "counts": counts_CC.tolist() if len(names) <= MOST_NAMED else None,
        "most": most_confused(counts_CC, names, MOST_CONFUSIONS),
    }


def _attribute(attribute: Attribute, rows: Rows, proba_NC: np.ndarray) -> dict[str, Any]:
    truth_N, as_proba = attribute_view(attribute, rows.label_N, proba_NC)
    seen = dataclasses.replace(rows, label_N=truth_N)
    f1_macro = score_interval(METRICS["f1_macro"], seen, as_proba)
    return {
        "name": attribute.name,
        "value_names": list(attribute.values),
        "f1_macro": f1_macro.as_dict(),
        "accuracy": METRICS["accuracy"].score(truth_N, as_proba),
        "values": scores_of_classes(seen, as_proba.argmax(1), attribute.values),
        "confusion": _confusion(truth_N, as_proba.argmax(1), attribute.values),
    }


def _fold_scores(rows: Rows, proba_NC: np.ndarray, metric: Metric) -> list[dict[str, Any]]:
    """Return the scores of each fold, over the classes that occur in it."""
    folds = []
    # One number for each pair is sorted much faster than pairs.
    most = int(rows.fold_N.max(initial=0)) + 1
    places = np.unique(rows.repeat_N * most + rows.fold_N).tolist()
    for repeat, fold in (divmod(place, most) for place in places):
        held_N = (rows.repeat_N == repeat) & (rows.fold_N == fold)
        held = rows.take(held_N)
        scored, proba = pooled(metric, held, proba_NC[held_N])
        folds.append(
            {
                "repeat": int(repeat),
                "fold": int(fold),
                "score": _number(metric.score(scored.label_N, proba)),
                "f1_macro": METRICS["f1_macro"].score(held.label_N, proba_NC[held_N]),
                "num_images": len(held),
                "num_groups": held.num_groups,
            }
        )
    return folds


def summarise(
    rows: Rows,
    logits_NC: np.ndarray,
    *,
    classes: Sequence[str],
    attributes: Sequence[Attribute],
    metric: str | Metric,
    ordered: bool = True,
    proba_NC: np.ndarray | None = None,
    plain_NC: np.ndarray | None = None,
    calibration: Calibration | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the numbers of an out-of-fold report.

    Parameters
    ----------
    rows
        Labels, groups, repeats and folds of N rows.
    logits_NC
        Out-of-fold logits.
    classes, attributes
        Names of the C classes, and the properties that they imply.
    metric
        The main score, or its name.
    ordered
        Whether the classes have an order; scores that need one are left out otherwise.
    proba_NC
        Their probabilities, if these are known.
    plain_NC
        Logits without offsets per class, of which the calibration is; None if there are no offsets.
    calibration
        What `calibrate` returns for these logits, if it is known.
    seed
        Seed of the signs with which the calibration error by chance is found.

    Returns
    -------
    dict
        Part of report.json. The main score is over all rows of a repeat, then averaged over
        repeats.
    """
    chosen = as_metric(metric)
    if proba_NC is None:
        proba_NC = softmax(logits_NC)
    num_repeats = rows.num_repeats
    folds = _fold_scores(rows, proba_NC, chosen)
    # A fold without a score makes the mean NaN, which is reported as null.
    scores = np.array([np.nan if fold["score"] is None else fold["score"] for fold in folds], float)
    means = {
        name: mean_score(one, rows.label_N, proba_NC, rows.repeat_N)
        for name, one in {**METRICS, chosen.name: chosen.by_image}.items()
        if ordered or not one.needs_order or name == chosen.name
    }
    headline = score_interval(chosen, rows, proba_NC).as_dict()
    f1_macro = METRICS["f1_macro"]
    return {
        "schema": SCHEMA,
        "num_images": len(rows) // num_repeats,
        "num_groups": rows.num_groups,
        "group_name": rows.group_name,
        "num_folds": len(folds) // num_repeats,
        "num_repeats": num_repeats,
        "num_classes": len(classes),
        "class_names": list(classes),
        "num_classes_occurring": len(np.unique(rows.label_N)),
        "metric": chosen.name,
        "score_by": GROUP if chosen.pool else IMAGE,
        "headline": headline,
        "f1_macro": (
            dict(headline)
            if chosen.name == f1_macro.name and not chosen.pool
            else score_interval(f1_macro, rows, proba_NC).as_dict()
        ),
        "interval": f"95 % jackknife over {rows.groups}",
        "scores": {name: _number(value) for name, value in means.items()},
        "folds": folds,
        "folds_mean": _number(scores.mean()),
        "folds_std": _number(scores.std(ddof=1)) if len(scores) > 1 else None,
        "per_class": scores_of_classes(rows, proba_NC.argmax(1), classes),
        "confusion": _confusion(rows.label_N, proba_NC.argmax(1), classes),
        "attributes": [_attribute(one, rows, proba_NC) for one in attributes],
        "by_group": record_of_both(rows, proba_NC, attributes=attributes, metric=chosen),
        "calibration": {
            **summarise_calibration(
                logits_NC if plain_NC is None else plain_NC, rows, found=calibration, seed=seed
            ),
            "without_offsets": plain_NC is not None,
        },
    }


def summarise_test(
    mean_NC: np.ndarray, logits_of_models: Sequence[np.ndarray], proba_NC: np.ndarray
) -> dict[str, Any]:
    """Return counts, confidence and agreement of the predictions for the test set.

    Parameters
    ----------
    mean_NC
        Logits from which the submission is made.
    logits_of_models
        Logits N x C of each fold's model.
    proba_NC
        Calibrated probabilities.
    """
    # As in the submission: the class of the mean logits, not a vote of the models.
    predicted_N = mean_NC.argmax(axis=1)
    votes_KN = np.stack([logits_NC.argmax(axis=1) for logits_NC in logits_of_models])
    return {
        "num_images": len(mean_NC),
        "predicted": np.bincount(predicted_N, minlength=mean_NC.shape[1]).tolist(),
        "confidence": float(proba_NC[np.arange(len(mean_NC)), predicted_N].mean()),
        "num_models": len(votes_KN),
        "agreement": float((votes_KN == votes_KN[0]).all(axis=0).mean()),
    }


def _row(one: Scored, best: Scored) -> dict[str, Any]:
    """Return the row of a prediction, with its paired difference to the best."""
    difference = None if one is best else one.score.minus(best.score).interval().as_dict()
    return {
        "name": one.name,
        "headline": one.score.interval().as_dict(),
        "accuracy": one.accuracy,
        "attributes": dict(one.attributes),
        "against": best.name,
        "difference": difference,
    }


def with_differences(found: Sequence[Scored], against: int) -> list[dict[str, Any]]:
    """Return a row per prediction, with its paired difference to that at index `against`."""
    return [_row(one, found[against]) for one in found]


def compare(
    *,
    rows: Rows,
    proba_of: Mapping[str, np.ndarray],
    against: str,
    attributes: Sequence[Attribute],
    metric: str | Metric,
) -> list[dict[str, Any]]:
    """Return a row per prediction: scores with intervals, and the difference to `against`.

    Differences are paired: both scores are compared on the same groups.

    Parameters
    ----------
    rows
        Labels, groups, repeats and folds of N rows.
    proba_of
        Probabilities N x C by name.
    against
        Name of the prediction that others are compared with.
    attributes
        Properties that the classes imply; each is scored too.
    metric
        The main score, or its name.
    """
    found = [
        score_prediction(name, rows, proba_NC, attributes=attributes, metric=metric)
        for name, proba_NC in proba_of.items()
    ]
    return with_differences(found, list(proba_of).index(against))
