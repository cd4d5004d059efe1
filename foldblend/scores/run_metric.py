"""The metric and the costs of errors of a run, from the content of its run.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foldblend.errors import UserError, listed, require
from foldblend.scores.by_group import IMAGE, MEAN, POOLS, metric_by_group
from foldblend.scores.error_costs import ErrorCosts
from foldblend.scores.metrics import MEAN_COST, METRICS, Metric

__all__ = ["common_metric", "costs_among", "metric_of", "scored_by"]


def metric_of(info: Mapping[str, Any]) -> Metric:
    """Return the metric of a run, by image or by group, from the content of its run.json.

    Raises UserError if it cannot be computed.

    Examples
    --------
    >>> metric_of({"metric": "accuracy"}).title
    'accuracy'
    """
    name = info["metric"]
    if name not in METRICS and name != MEAN_COST:
        raise UserError(
            f"{_place(info)}: metric {name!r} is unknown; use the version that wrote it"
        )
    metric = _costs_of(info).metric if name == MEAN_COST else METRICS[name]
    return scored_by(metric, info)


def scored_by(metric: Metric, info: Mapping[str, Any]) -> Metric:
    """Return a metric by image or by group, as run.json says that the run is scored.

    Examples
    --------
    >>> scored_by(METRICS["accuracy"], {"score_by": "group", "data": {}}).title
    'accuracy by group'
    """
    if info.get("score_by", IMAGE) == IMAGE:
        return metric
    pool = info.get("group_pool", MEAN)
    if pool not in POOLS:
        raise UserError(
            f"{_place(info)}: group_pool {pool!r} is unknown; use the version that wrote it"
        )
    return metric_by_group(metric, pool, info["data"].get("group_name", "group"))


def _place(info: Mapping[str, Any]) -> str:
    return f"run.json of {info.get('name', 'a run')}"


def _costs_of(info: Mapping[str, Any]) -> ErrorCosts:
    """Return the costs of a run whose metric is their mean."""
    given = {"classes": info["classes"], "rows": info.get("costs")}
    return ErrorCosts.from_dict(given, place=_place(info))


def common_metric(infos: Sequence[Mapping[str, Any]]) -> Metric | None:
    """Return the metric that all runs have, by image, or None if they differ."""
    found = {
        _costs_of(info) if info["metric"] == MEAN_COST else info["metric"]: metric_of(info)
        for info in infos
    }
    return found.popitem()[1].by_image if len(found) == 1 else None


def costs_among(infos: Sequence[Mapping[str, Any]]) -> ErrorCosts:
    """Return the costs of errors of those runs that have some, from their run.json.

    Raises UserError if no run has any, or if they differ.
    """
    found = {_costs_of(info): info.get("name") for info in infos if info["metric"] == MEAN_COST}
    require(
        bool(found),
        f"--metric {MEAN_COST}: no run has costs of errors; pass them to blend.py --costs",
    )
    require(
        len(found) == 1,
        f"--metric {MEAN_COST}: the costs of errors of {listed(found.values())} differ; leave all"
        " but one out",
    )
    return found.popitem()[0]
