"""Score of a run on the labels of test images, which no training and no choice has used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from foldblend.runs.run import Run
from foldblend.scores.by_group import GROUP, IMAGE, suited
from foldblend.scores.group_scores import record_of_both
from foldblend.scores.metrics import Metric, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import score_interval, score_of
from reports.text import groups_of, num, span, title_of

__all__ = ["TITLE", "score_on_test", "score_sentence", "value_on_test"]

TITLE = "Score on the test set"


def _labelled(run: Run) -> tuple[Rows, np.ndarray, bool] | None:
    """Return labels and probabilities of the labelled test images, and whether they have groups.

    Without groups every image is its own. Returns None if no test image is labelled.
    """
    labels = run.test_labels
    if labels is None or run.test is None:
        return None
    # A blend may lack test images that only some of its members have.
    joined = labels.merge(run.test, on="image_id", validate="one_to_one")
    if joined.empty:
        return None
    if "group" not in labels and run.test_groups is not None:
        joined = joined.merge(run.test_groups, on="image_id", how="left")
        joined["group"] = joined["group"].fillna(joined["image_id"])
    grouped = "group" in joined
    name = run.group_name if grouped else "image"
    group_N = pd.factorize(joined["group" if grouped else "image_id"])[0]
    rows = Rows.of(joined["label"].to_numpy(), group_N, group_name=name)
    return rows, softmax(run.logits(joined)), grouped


def _fitting(metric: Metric, rows: Rows, grouped: bool) -> Metric:
    """Return the metric, or the one by image where the groups of test images are of no use."""
    return suited(metric, rows) if grouped else metric.by_image


def value_on_test(run: Run, metric: Metric) -> float | None:
    """Return the score of a run's mean test logits, or None without labels of test images."""
    found = _labelled(run)
    if found is None:
        return None
    rows, proba_NC, grouped = found
    score = score_of(_fitting(metric, rows, grouped), rows, proba_NC, resampled=False)
    value = score.sign * score.value
    return value if np.isfinite(value) else None


def score_on_test(run: Run, metric: Metric) -> dict[str, Any] | None:
    """Return the entry `test_score` of report.json, or None without labels of test images.

    The score is that of the mean test logits, from which the submission is made. Macro F1 is over
    the classes that occur in the test labels.
    """
    found = _labelled(run)
    if found is None:
        return None
    rows, proba_NC, grouped = found
    metric = _fitting(metric, rows, grouped)
    return {
        "metric": metric.name,
        "score_by": GROUP if metric.pool else IMAGE,
        "by_group": record_of_both(rows, proba_NC, attributes=run.attributes, metric=metric),
        "score": score_interval(metric, rows, proba_NC).as_dict(),
        "num_images": len(rows),
        "num_groups": rows.num_groups if grouped else None,
        "interval": f"95 % jackknife over {rows.groups}",
    }


def score_sentence(report: Mapping[str, Any]) -> str:
    """Return the test score of report.json in words."""
    one = report["test_score"]
    of = "" if one["num_groups"] is None else f" of {one['num_groups']:,} {groups_of(report)}"
    title = title_of({"score_by": IMAGE, **one, "group_name": report["group_name"]})
    return (
        f"{title} {num(one['score']['value'])} {span(one['score'])} of the"
        f" mean test predictions, which the submission holds, on the {one['num_images']:,} labelled"
        f" test images{of} ({one['interval']}). These labels were used for nothing else."
    )
