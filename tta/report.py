"""What a report says of test-time augmentation: every view, what was decided, and what all that
gains and costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from foldblend.runs.folder import read_table, rows_like
from foldblend.runs.rows import oof_arrays
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS, Metric, softmax
from reports.blocks import comparison_block, lines_block, section, table_block, text_block
from reports.run.summary import compare
from tta.choose import Search
from tta.crossfit import CrossFit, Part, cross_fit_path
from tta.evaluate import effects
from tta.merge import MERGES
from tta.policy import IDENTITY, Policy, SavedViews
from tta.views.names import is_device_view

__all__ = [
    "cost_block",
    "effect_rows",
    "harm_blocks",
    "harm_report",
    "pictures_per_second",
    "simple_policies",
    "view_section",
]

THIS = "this run"
MOST_STEPS = 16  # of a curve
TAIL = 0.025  # of an interval


def simple_policies(names: Sequence[str]) -> dict[str, Policy]:
    """Return what needs no choosing, by name: each view alone and with the plain image, and all
    together.
    """
    policies = {"identity": IDENTITY}
    for name in names:
        if name != "identity":
            policies |= {name: Policy((name,)), f"identity + {name}": Policy(("identity", name))}
    if len(names) > 2:
        policies |= {
            f"all {len(names)} views ({merge})": Policy(tuple(names), merge) for merge in MERGES
        }
    return policies


def pictures_per_second(policy: Policy, seconds_of_view: Mapping[str, float]) -> float | None:
    """Return how many images a policy gets through in a second, or None where that was never
    measured.

    A view on the device that was seen in training, where nothing is timed, costs what the others
    there do.
    """
    on_device = [seconds for name, seconds in seconds_of_view.items() if is_device_view(name)]
    known = {
        name: float(np.mean(on_device))
        for name in policy.views
        if on_device and is_device_view(name)
    }
    known |= seconds_of_view
    return (
        1 / sum(known[name] for name in policy.views) if known.keys() >= set(policy.views) else None
    )


def effect_rows(found: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each policy and each class, or value of an attribute, of `effects`."""
    for one in found:
        for what, values in [("class", one["classes"]), *one["attributes"].items()]:
            for row in values:
                yield {"policy": one["name"], "passes": one["passes"], "of": what, **row}


def _extreme(one: Mapping[str, Any], sign: int) -> str:
    """Return the class whose F1 rises (sign 1) or falls (-1) most, with the difference; nothing
    where none does.
    """
    row = max(one["classes"], key=lambda row: sign * row["difference"])
    return f"{row['name']} {row['difference']:+.3f}" if sign * row["difference"] > 0 else ""


def _is_harmful(difference: Mapping[str, float | None] | None, metric: Metric) -> bool:
    sign = metric.sign
    ends = [] if difference is None else [difference["low"], difference["high"]]
    return bool(ends) and all(end is not None and sign * end < 0 for end in ends)


def harm_blocks(
    found: Sequence[Mapping[str, Any]],
    *,
    metric: Metric,
    speed_of: Mapping[str, float | None],
    detail: str,
) -> list[dict[str, Any]]:
    """Return `effects` as blocks: what harms, all policies with paired differences, their cost, one
    policy's classes.

    `speed_of` are images a second by policy.
    """
    harmful = [one["name"] for one in found if _is_harmful(one["comparison"]["difference"], metric)]
    blocks = []
    num_compared = len(found) - 1
    if harmful:
        luck = (
            f"{num_compared} are compared, of which luck alone puts about {num_compared * TAIL:.2g}"
            " here"
        )
        blocks.append(
            text_block(
                f"HARMFUL, the whole interval on the wrong side of zero: {', '.join(harmful)}"
                f" ({luck})."
            )
        )
    cells = []
    for one in found:
        speed = speed_of[one["name"]]
        shown = "" if speed is None else f"{speed:.3g}"
        cells.append(
            [one["name"], str(one["passes"]), shown, f"{one['fixed']:g}", f"{one['broken']:g}"]
        )
        cells[-1] += ["", ""] if one is found[0] else [_extreme(one, 1), _extreme(one, -1)]
    header = [
        "",
        "passes",
        "images/s",
        "fixed",
        "broken",
        "class whose F1 rises most",
        "falls most",
    ]
    blocks += [comparison_block([one["comparison"] for one in found]), table_block(header, cells)]
    (chosen,) = [one for one in found if one["name"] == detail]
    for what, rows in [("class", chosen["classes"]), *chosen["attributes"].items()]:
        lines = [
            [row["name"], str(row["support"]), f"{row['f1']:.3f}", f"{row['difference']:+.3f}"]
            for row in rows
        ]
        blocks.append(table_block([f"{what}, {detail}", "images", "F1", "difference"], lines))
    return blocks


def cost_block(
    found: Sequence[Mapping[str, Any]],
    *,
    metric: Metric,
    seconds_of_view: Mapping[str, float],
    how: str,
) -> dict[str, Any]:
    """Return the score against forward passes an image, with its interval.

    `found` are rows of reports.run.summary.compare for 1, 2, .. passes.
    """
    ends = {end: [one["headline"][end] for one in found] for end in ("value", "low", "high")}
    speed = pictures_per_second(IDENTITY, seconds_of_view)
    cost = "" if speed is None else f"; one pass is {1000 / speed:.3g} ms an image"
    return lines_block(
        range(1, len(found) + 1),
        {metric.title: ends["value"], "95 % interval, low": ends["low"], "high": ends["high"]},
        xlabel="forward passes an image",
        ylabel=metric.title,
        caption=f"{metric.title} against cost: {how}{cost}",
    )


def _part_line(part: Part, what: str) -> str:
    return f"repeat {part.repeat} {what} {part.part}: {part.choice}"


def _steps(saved: SavedViews, search: Search | None, merge: str) -> tuple[str, list[np.ndarray]]:
    """Return how views are added one by one, and the logits of 1, 2, .. passes."""
    if search is not None:
        steps = cross_fit_path(saved, search.path, search.budget)
        return "the greedy best so many views, found on other people", steps
    merge = merge if merge in MERGES else "mean"
    num = min(len(saved.names), MOST_STEPS)
    steps = [MERGES[merge](saved.logits_VNC[:place]) for place in range(1, num + 1)]
    return f"views in the order given, merged by {merge}", steps


def harm_report(
    run: Run,
    saved: SavedViews,
    found: CrossFit,
    *,
    search: Search | None,
    merge: str,
    seconds_of_view: Mapping[str, float],
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return a section, and a table of F1 of every class and attribute under every policy.

    `search` is what chose, or None where views were given, to be merged by `merge`.
    """
    metric = METRICS[run.info["metric"]]
    shared: dict[str, Any] = {
        "rows": saved.rows,
        "attributes": run.attributes,
        "metric": run.info["metric"],
    }
    policies = simple_policies(saved.names)
    logits_of = {name: one.apply(saved.logits_VNC, saved.names) for name, one in policies.items()}
    policies[THIS] = found.final.policy
    logits_of[THIS] = found.logits_NC
    passes_of = {name: one.passes for name, one in policies.items()}
    rows = effects(logits_of, passes_of, classes=run.classes, **shared)
    how, steps = _steps(saved, search, merge)
    curve = compare(
        proba_of={str(place): softmax(logits_NC) for place, logits_NC in enumerate(steps, 1)},
        against="1",
        **shared,
    )
    speed_of = {name: pictures_per_second(one, seconds_of_view) for name, one in policies.items()}
    what = (
        "part" if run.info["leaks"] else "fold"
    )  # folds that tear people apart are none to choose on
    blocks: Sequence[dict[str, Any]] = [
        text_block(f"For the test set, decided on all rows: {found.final}."),
        *(text_block(_part_line(part, what)) for part in found.parts),
        *harm_blocks(rows, metric=metric, speed_of=speed_of, detail=THIS),
        cost_block(curve, metric=metric, seconds_of_view=seconds_of_view, how=how),
    ]
    title = "Test-time augmentation, out of fold; differences to the plain image"
    return section(title, *blocks), pd.DataFrame(effect_rows(rows))


def view_section(run: Run) -> dict[str, Any]:
    """Return each view of test-time augmentation alone and their merge, against the image
    itself.
    """
    num_folds = run.info["num_folds"]
    arrays = oof_arrays(run)
    files = [
        run.path / "tta" / f"oof_fold_{index}.parquet"
        for index in range(run.info["num_repeats"] * num_folds)
    ]
    views = pd.concat(
        [read_table(file).assign(repeat=index // num_folds) for index, file in enumerate(files)]
    )
    proba_of = {
        str(name): softmax(run.logits(rows_like(table, run.oof)))
        for name, table in views.groupby("view", sort=False)
    }
    rows = compare(
        rows=arrays.rows,
        proba_of=proba_of | {"merged": arrays.proba_NC},
        against="identity",
        attributes=run.attributes,
        metric=run.info["metric"],
    )
    return section("Test-time augmentation, out of fold", comparison_block(rows))
