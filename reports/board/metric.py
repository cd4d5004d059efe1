"""Choice of the metric by which runs are ranked."""

from __future__ import annotations

from collections.abc import Sequence

from foldblend.errors import listed, require
from foldblend.runs.rows import group_name_of
from foldblend.runs.run import Run
from foldblend.scores.by_group import chosen_pool, metric_by_group
from foldblend.scores.metrics import MEAN_COST, METRICS, Metric, check_metric, check_order
from foldblend.scores.run_metric import common_metric, costs_among

__all__ = ["metric_to_rank_by"]


def metric_to_rank_by(
    runs: Sequence[Run], name: str | None, score_by: str | None, group_pool: str | None
) -> Metric:
    """Return the metric to rank by, by group if asked or if all runs are scored so.

    Raises UserError if runs cannot be scored by the metric.
    """
    metric = _by_image(runs, name)
    pool = chosen_pool([run.info for run in runs], score_by, group_pool)
    return metric_by_group(metric, pool, group_name_of(runs)) if pool else metric


def _by_image(runs: Sequence[Run], name: str | None) -> Metric:
    """Return the metric by image: that of a name, or of all runs, or macro F1 if they differ."""
    infos = [run.info for run in runs]
    if name is None:
        return common_metric(infos) or METRICS["f1_macro"]
    if name != MEAN_COST:
        check_metric(name)
        cure = "pass another --metric, or make the runs with --class-order a,b,c"
        check_order(name, ordered=all(run.ordered for run in runs), cure=cure)
        return METRICS[name]
    costs = costs_among(infos)
    odd = [run.name for run in runs if run.classes != costs.classes]
    require(
        not odd,
        f"--metric {name}: {listed(odd)} has other classes than the costs of errors; compare it"
        " alone",
    )
    return costs.metric
