"""Scores by group beside scores by image, as a section of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldblend.scores.by_group import GROUP, MEAN
from foldblend.scores.metrics import TITLES
from reports.blocks import section, table_block, text_block
from reports.text import num, span

__all__ = ["by_group_section", "other_score", "values_by_group"]

Report = Mapping[str, Any]

POOLED = {
    MEAN: "the logits of all images of the {group} are averaged",
    "max": "the image with the least probability of the first class decides on that class",
    "noisy-or": "any image may show a class other than the first, independently of the others",
}


def _score(one: Mapping[str, Any] | None) -> str:
    return "-" if one is None else f"{num(one['value'])} {span(one)}"


def _rows(scores: Any) -> list[list[str]]:
    return [
        [
            f"{one['attribute'] or 'class'}, {TITLES[one['metric']]}",
            _score(one["by_image"]),
            _score(one["by_group"]),
        ]
        for one in scores
    ]


def by_group_section(report: Report) -> dict[str, Any] | None:
    """Return a section of scores by image and by group, or None if each group has one image.

    Parameters
    ----------
    report
        Content of report.json. Reports of earlier versions have no scores by group.
    """
    found = report.get("by_group")
    if found is None:
        return None
    group = report["group_name"]
    on_test = (report.get("test_score") or {}).get("by_group")
    header = ["", "by image", f"by {group}"]
    blocks = [table_block(header, _rows(found["scores"]))]
    if on_test is not None:
        header = ["labelled test images", *header[1:]]
        blocks.append(table_block(header, _rows(on_test["scores"])))
    pooled = POOLED.get(found["pool"], found["pool"]).format(group=group)
    text = f"By {group}: {pooled}. In brackets: {report['interval']}."
    mixed = [one for one in found["scores"] if one["mixed"] is not None]
    if mixed:
        first = mixed[0]
        text += (
            f" There is no score by {group} where images of one {group} differ, such as those of"
            f" {group} '{first['mixed']}' in their {first['attribute'] or 'class'}."
        )
    return section(f"Scores by {group} and by image", *blocks, text_block(text))


def other_score(report: Report) -> tuple[str, Mapping[str, Any]] | None:
    """Return the name and value of the main score in the other unit: by group, or by image.

    Returns None where both are equal or there is no score by group.
    """
    found = report.get("by_group")
    scores = [] if found is None else [one for one in found["scores"] if one["attribute"] is None]
    if not scores or scores[0]["by_group"] is None:
        return None
    title = TITLES[report["metric"]]
    if report.get("score_by") == GROUP:
        return f"{title} by image", scores[0]["by_image"]
    return f"{title} by {report['group_name']}", scores[0]["by_group"]


def values_by_group(report: Report) -> dict[str, float | None]:
    """Return the scores by group of the attributes that have one, by name."""
    found = report.get("by_group")
    return {
        one["attribute"]: one["by_group"]["value"]
        for one in ([] if found is None else found["scores"])
        if one["attribute"] is not None and one["by_group"] is not None
    }
