"""Score of a run on the labels of test images, which no training and no choice has used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from foldblend.runs.run import Run
from foldblend.scores.metrics import TITLES, Metric, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import score_interval, score_of
from reports.text import num, span

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
    grouped = "group" in labels
    name = run.group_name if grouped else "image"
    group_N = pd.factorize(joined["group" if grouped else "image_id"])[0]
    rows = Rows.of(joined["label"].to_numpy(), group_N, group_name=name)
    return rows, softmax(run.logits(joined)), grouped


def value_on_test(run: Run, metric: Metric) -> float | None:
    """Return the score of a run's mean test logits, or None without labels of test images."""
    found = _labelled(run)
    if found is None:
        return None
    rows, proba_NC, _ = found
    score = score_of(metric, rows, proba_NC, resampled=False)
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
    return {
        "metric": metric.name,
        "score": score_interval(metric, rows, proba_NC).as_dict(),
        "num_images": len(rows),
        "num_groups": rows.num_groups if grouped else None,
        "interval": f"95 % jackknife over {rows.groups}",
    }


def score_sentence(one: Mapping[str, Any], groups: str) -> str:
    """Return the test score of report.json in words; `groups` is what groups are, in the plural."""
    of = "" if one["num_groups"] is None else f" of {one['num_groups']:,} {groups}"
    return (
        f"{TITLES[one['metric']]} {num(one['score']['value'])} {span(one['score'])} of the"
        f" mean test predictions, which the submission holds, on the {one['num_images']:,} labelled"
        f" test images{of} ({one['interval']}). These labels were used for nothing else."
    )
