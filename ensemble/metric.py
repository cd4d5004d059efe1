"""The metric of a blend: that of its members, of --metric, or the mean cost of --costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ensemble.config import BlendConfig, read_members
from foldblend.errors import listed
from foldblend.runs.rows import group_name_of, order_of
from foldblend.runs.run import Run
from foldblend.scores.by_group import GROUP, IMAGE, MEAN, chosen_pool, metric_by_group
from foldblend.scores.error_costs import ErrorCosts, read_error_costs
from foldblend.scores.metrics import MEAN_COST, METRICS, Metric, check_order
from foldblend.scores.run_metric import common_metric, costs_among
from reports.blocks import section, table_block, text_block

__all__ = ["Decided", "costs_section", "decide_metric"]

MOST_SHOWN = 8  # classes in the table of a report


@dataclass(frozen=True, slots=True)
class Decided:
    """Settings whose metric is decided, and what it needs."""

    config: BlendConfig
    metric: Metric
    costs: ErrorCosts | None = None
    """Costs of errors in the order of the classes, if their mean is the metric."""
    notes: Sequence[str] = ()
    """What a reader of the score must know."""


def _costs(config: BlendConfig, runs: Sequence[Run]) -> ErrorCosts:
    """Return the costs of errors: those of --costs, of the blend.yaml, or of members."""
    classes = runs[0].classes
    if config.costs is not None:
        return read_error_costs(config.costs).of(classes, place=f"--costs {config.costs}")
    if config.config is not None:
        kept = read_members(config.config).get("costs")
        return ErrorCosts.from_dict(kept, place=config.config).of(classes, place=config.config)
    return costs_among([run.info for run in runs])


def decide_metric(config: BlendConfig, runs: Sequence[Run]) -> Decided:
    """Return the settings with the metric decided; members that differ in it get macro F1.

    It is by group if all members' are, or as --score-by says.

    Raises UserError for a metric that needs an order of the classes or costs of errors where there
    are none, and for costs that do not fit.
    """
    decided = _by_image(config, runs)
    infos = [run.info for run in runs]
    pool = chosen_pool(infos, config.score_by, config.group_pool)
    if not pool:
        # The pool has no effect, so it does not make another blend.
        settings = dataclasses.replace(decided.config, score_by=IMAGE, group_pool=MEAN)
        return dataclasses.replace(decided, config=settings)
    settings = dataclasses.replace(decided.config, score_by=GROUP, group_pool=pool)
    metric = metric_by_group(decided.metric, pool, group_name_of(runs))
    own = sorted({str(info.get("group_pool", MEAN)) for info in infos if "score_by" in info})
    notes = [*decided.notes]
    if config.group_pool is None and len(own) > 1:
        notes.append(
            f"members pool the images of a {group_name_of(runs)} differently ({listed(own)}), so"
            f" the {pool} is used; choose another with --group-pool"
        )
    return Decided(settings, metric, decided.costs, notes)


def _by_image(config: BlendConfig, runs: Sequence[Run]) -> Decided:
    """Return the settings with the metric decided, as a metric by image."""
    common = common_metric([run.info for run in runs])
    name = config.metric or (common.name if common is not None else None)
    if config.costs is not None or name == MEAN_COST:
        costs = _costs(config, runs)
        return Decided(dataclasses.replace(config, metric=MEAN_COST), costs.metric, costs)
    if config.metric is not None:
        cure = "pass another --metric, or make the runs with --class-order a,b,c"
        check_order(config.metric, ordered=order_of(runs), cure=cure)
        return Decided(config, METRICS[config.metric])
    if name is not None:
        return Decided(dataclasses.replace(config, metric=name), METRICS[name])
    own = sorted({str(run.info["metric"]) for run in runs})
    differ = f"metrics ({listed(own)})" if len(own) > 1 else "costs of errors"
    note = f"members have different {differ}, so macro F1 is used; choose another with --metric"
    return Decided(
        dataclasses.replace(config, metric="f1_macro"), METRICS["f1_macro"], notes=[note]
    )


def costs_section(costs: ErrorCosts, label_N: np.ndarray) -> dict[str, Any]:
    """Return the report section on the costs, with what a blend must beat.

    `label_N` are the true classes of the rows that are scored.
    """
    cost_CC = np.array(costs.rows)
    constant_C = cost_CC[label_N].mean(axis=0)
    cheapest = int(constant_C.argmin())
    table = table_block(
        ["true \\ predicted", *costs.classes],
        [
            [name, *(f"{one:g}" for one in row)]
            for name, row in zip(costs.classes, costs.rows, strict=True)
        ],
    )
    return section(
        "Costs of errors",
        *([table] if len(costs.classes) <= MOST_SHOWN else []),
        text_block(
            "The mean cost per image is the metric. Always predicting"
            f" {costs.classes[cheapest]}, the cheapest single class, would cost"
            f" {constant_C[cheapest]:.4g} per image."
        ),
    )
