"""Scores by group beside scores by image, of the class and of attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foldblend.attributes import Attribute, attribute_view
from foldblend.scores.by_group import MEAN, attribute_proba, by_group, metric_by_group, mixed_group
from foldblend.scores.intervals import Interval
from foldblend.scores.metrics import METRICS, Metric
from foldblend.scores.rows import Rows
from foldblend.scores.score import score_interval

__all__ = ["BothScores", "both_scores", "has_several_images", "record_of_both"]


@dataclass(frozen=True, slots=True)
class BothScores:
    """The score of the class, or of an attribute, by image and by group."""

    attribute: str | None
    """Name of the attribute, or None for the class."""
    metric: str
    """Name of the metric: that of the run for the class, f1_macro for an attribute."""
    by_image: Interval
    by_group: Interval | None
    """None where images of a group differ in their class or value."""
    mixed: str | None
    """A group whose images differ, or None."""

    def as_dict(self) -> dict[str, Any]:
        """Return the scores as plain data, for report.json."""
        return {
            "attribute": self.attribute,
            "metric": self.metric,
            "by_image": self.by_image.as_dict(),
            "by_group": None if self.by_group is None else self.by_group.as_dict(),
            "mixed": self.mixed,
        }


def has_several_images(rows: Rows) -> bool:
    """Return whether some group has more than one image, so that both scores may differ."""
    return rows.num_groups < rows.num_images


def _pooled_attribute(
    attribute: Attribute, rows: Rows, proba_NC: np.ndarray, pool: str
) -> tuple[Rows, np.ndarray] | None:
    """Return the rows of groups, labelled by an attribute's value, and the values' probabilities.

    Parameters
    ----------
    attribute
        The attribute; the probability of a value is the sum over its classes.
    rows
        Labels (classes), groups and repeats of N images.
    proba_NC
        Class probabilities of the images.
    pool
        A key of `by_group.POOLS`.

    Returns
    -------
    tuple[Rows, np.ndarray] or None
        G rows, and probabilities G x values; None where images of a group differ in their value.
    """
    seen = rows.labelled(np.asarray(attribute.of_class)[rows.label_N])
    if mixed_group(seen) is not None:
        return None
    return by_group(seen, attribute_proba(attribute, proba_NC), pool)


def _of_attribute(attribute: Attribute, rows: Rows, proba_NC: np.ndarray, pool: str) -> BothScores:
    f1_macro = METRICS["f1_macro"]
    truth_N, as_proba = attribute_view(attribute, rows.label_N, proba_NC)
    seen = rows.labelled(truth_N)
    of_groups = _pooled_attribute(attribute, rows, proba_NC, pool)
    return BothScores(
        attribute.name,
        f1_macro.name,
        score_interval(f1_macro, seen, as_proba),
        None if of_groups is None else score_interval(f1_macro, *of_groups),
        mixed_group(seen),
    )


def both_scores(
    rows: Rows,
    proba_NC: np.ndarray,
    *,
    attributes: Sequence[Attribute],
    metric: Metric,
) -> list[BothScores]:
    """Return the scores by image and by group of the class, and then of each attribute.

    Parameters
    ----------
    rows
        Labels, groups and repeats of N images.
    proba_NC
        Class probabilities of the images.
    attributes
        Properties that the classes imply; their metric is macro F1.
    metric
        The metric of the class, by image or by group. Groups are pooled as it says, else by the
        mean.

    Returns
    -------
    list[BothScores]
        Empty if every group has one image, since both scores are the same then.

    Examples
    --------
    >>> rows = Rows.of(np.array([0, 0, 1, 1]), np.array(["a", "a", "b", "b"]))
    >>> proba_NC = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.1, 0.9]])
    >>> [one] = both_scores(rows, proba_NC, attributes=(), metric=METRICS["accuracy"])
    >>> one.by_image.value, one.by_group.value
    (0.75, 1.0)
    """
    if not has_several_images(rows):
        return []
    pool = metric.pool or MEAN
    by_image = metric.by_image
    mixed = mixed_group(rows)
    of_groups = metric_by_group(by_image, pool, rows.group_name)
    of_class = BothScores(
        None,
        metric.name,
        score_interval(by_image, rows, proba_NC),
        None if mixed is not None else score_interval(of_groups, rows, proba_NC),
        mixed,
    )
    return [of_class, *(_of_attribute(one, rows, proba_NC, pool) for one in attributes)]


def record_of_both(
    rows: Rows, proba_NC: np.ndarray, *, attributes: Sequence[Attribute], metric: Metric
) -> dict[str, Any] | None:
    """Return `both_scores` with the pool, for report.json; None if each group has one image."""
    found = both_scores(rows, proba_NC, attributes=attributes, metric=metric)
    pool = metric.pool or MEAN
    return {"pool": pool, "scores": [one.as_dict() for one in found]} if found else None
