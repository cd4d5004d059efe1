"""Types of those parts of report.json that are read back; docs/report.schema.json has all."""

# `from __future__ import annotations` would hide Required from __required_keys__.
from typing import Annotated, Any, Literal, Required, TypedDict

from foldblend.runs.checked import between
from foldblend.scores.metrics import TITLES

__all__ = ["NEEDED", "IntervalInfo", "ReportInfo"]

Count = Annotated[int, between(0, 10**12)]
# Keys without which a score cannot be told.
NEEDED = ("headline", "metric", "num_groups", "num_images")


class IntervalInfo(TypedDict):
    """A score with its interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


class _ClassInfo(TypedDict, total=False):
    """Scores of a class; it has further keys."""

    name: Required[str]
    recall: float
    precision: float
    f1: float
    support: Count
    groups: Count


class _TestInfo(TypedDict, total=False):
    """Score on the labels of test images."""

    metric: Required[str]
    score: Required[IntervalInfo]
    num_images: Required[Count]
    num_groups: Count | None
    interval: str


class _FindingInfo(TypedDict, total=False):
    """A label that looks wrong; it has further keys."""

    target: Required[str]
    field: Required[str]
    value: Required[str]
    text: Required[str]


class _SuspectsInfo(TypedDict, total=False):
    """Labels that look wrong, or why they were not searched."""

    findings: list[_FindingInfo]
    skipped: str


class ReportInfo(TypedDict, total=False):
    """Content of report.json, as far as it is read back."""

    schema: int
    name: str
    about: str
    notes: list[str]
    metric: Literal[tuple(TITLES)]  # type: ignore[valid-type]
    headline: IntervalInfo
    interval: str
    num_images: Count
    num_groups: Count
    group_name: str
    scores: dict[str, float | None]
    per_class: list[_ClassInfo]
    test_score: _TestInfo | None
    suspects: _SuspectsInfo
    comparisons: dict[str, list[dict[str, Any]]]
