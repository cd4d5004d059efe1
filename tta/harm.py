"""The harm report: what each view, and what was decided, does to out-of-fold predictions; as blocks and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from foldblend.scores.metrics import Metric
from reports.blocks import comparison_block, lines_block, table_block, text_block
from tta.merge import MERGES
from tta.policy import IDENTITY, Policy
from tta.views.names import is_device_view

__all__ = ["cost_block", "effect_rows", "harm_blocks", "pictures_per_second", "simple_policies"]

TAIL = 0.025  # of an interval


def simple_policies(names: Sequence[str]) -> dict[str, Policy]:
    """Return what needs no choosing, by name: each view alone and with the plain picture, and all together."""
    policies = {"identity": IDENTITY}
    for name in names:
        if name != "identity":
            policies |= {name: Policy((name,)), f"identity + {name}": Policy(("identity", name))}
    if len(names) > 2:
        policies |= {f"all {len(names)} views ({merge})": Policy(tuple(names), merge) for merge in MERGES}
    return policies


def pictures_per_second(policy: Policy, seconds_of_view: Mapping[str, float]) -> float | None:
    """Return how many pictures a policy gets through in a second, or None where that was never measured.

    A view on the device that was seen in training, where nothing is timed, costs what the others there do.
    """
    on_device = [seconds for name, seconds in seconds_of_view.items() if is_device_view(name)]
    known = {name: float(np.mean(on_device)) for name in policy.views if on_device and is_device_view(name)}
    known |= seconds_of_view
    return 1 / sum(known[name] for name in policy.views) if known.keys() >= set(policy.views) else None


def effect_rows(found: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each policy and each class, or value of an attribute, of `effects`."""
    for one in found:
        for what, values in [("class", one["classes"]), *one["attributes"].items()]:
            for row in values:
                yield {"policy": one["name"], "passes": one["passes"], "of": what, **row}


def _extreme(one: Mapping[str, Any], sign: int) -> str:
    """Return the class whose F1 rises (sign 1) or falls (-1) most, with the difference; nothing where none does."""
    row = max(one["classes"], key=lambda row: sign * row["difference"])
    return f"{row['name']} {row['difference']:+.3f}" if sign * row["difference"] > 0 else ""


def _is_harmful(difference: Mapping[str, float | None] | None, metric: Metric) -> bool:
    sign = metric.sign
    ends = [] if difference is None else [difference["low"], difference["high"]]
    return bool(ends) and all(end is not None and sign * end < 0 for end in ends)


def harm_blocks(
    found: Sequence[Mapping[str, Any]], *, metric: Metric, speed_of: Mapping[str, float | None], detail: str
) -> list[dict[str, Any]]:
    """Return `effects` as blocks: what harms, all policies with paired differences, their cost, one policy's classes.

    `speed_of` are pictures a second by policy.
    """
    harmful = [one["name"] for one in found if _is_harmful(one["comparison"]["difference"], metric)]
    blocks, num_compared = [], len(found) - 1
    if harmful:
        luck = f"{num_compared} are compared, of which luck alone puts about {num_compared * TAIL:.2g} here"
        blocks.append(
            text_block(f"HARMFUL, the whole interval on the wrong side of zero: {', '.join(harmful)} ({luck}).")
        )
    cells = []
    for one in found:
        speed = speed_of[one["name"]]
        shown = "" if speed is None else f"{speed:.3g}"
        cells.append([one["name"], str(one["passes"]), shown, f"{one['fixed']:g}", f"{one['broken']:g}"])
        cells[-1] += ["", ""] if one is found[0] else [_extreme(one, 1), _extreme(one, -1)]
    header = ["", "passes", "images/s", "fixed", "broken", "class whose F1 rises most", "falls most"]
    blocks += [comparison_block([one["comparison"] for one in found]), table_block(header, cells)]
    (chosen,) = [one for one in found if one["name"] == detail]
    for what, rows in [("class", chosen["classes"]), *chosen["attributes"].items()]:
        lines = [[row["name"], str(row["support"]), f"{row['f1']:.3f}", f"{row['difference']:+.3f}"] for row in rows]
        blocks.append(table_block([f"{what}, {detail}", "pictures", "F1", "difference"], lines))
    return blocks


def cost_block(
    found: Sequence[Mapping[str, Any]], *, metric: Metric, seconds_of_view: Mapping[str, float], how: str
) -> dict[str, Any]:
    """Return the score against forward passes a picture, with its interval.

    `found` are rows of reports.run.summary.compare for 1, 2, .. passes.
    """
    ends = {end: [one["headline"][end] for one in found] for end in ("value", "low", "high")}
    speed = pictures_per_second(IDENTITY, seconds_of_view)
    cost = "" if speed is None else f"; one pass is {1000 / speed:.3g} ms a picture"
    return lines_block(
        range(1, len(found) + 1),
        {metric.title: ends["value"], "95 % interval, low": ends["low"], "high": ends["high"]},
        xlabel="forward passes a picture",
        ylabel=metric.title,
        caption=f"{metric.title} against cost: {how}{cost}",
    )
