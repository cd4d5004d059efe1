"""Report sections of test-time augmentation: the choice, and the effects of each view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from foldblend.runs.folder import rows_like
from foldblend.runs.oof import oof_arrays
from foldblend.runs.run import Run
from foldblend.scores.metrics import Metric, softmax
from foldblend.scores.run_metric import metric_of
from reports.blocks import comparison_block, lines_block, section, table_block, text_block
from reports.run.summary import compare
from reports.text import signed
from tta.choose import Search
from tta.crossfit import CrossFit, Part, cross_fit_path
from tta.evaluate import effects
from tta.merge import MERGES
from tta.policy import IDENTITY, Policy, SavedViews
from tta.saved_views import saved_rows
from tta.views.names import is_device_view

__all__ = [
    "cost_block",
    "effect_rows",
    "harm_blocks",
    "harm_report",
    "images_per_second",
    "simple_policies",
    "view_section",
]

THIS = "this run"
MOST_STEPS = 16  # points of the curve of score against cost
TAIL = 0.025  # chance that a 95 % interval lies entirely below the truth


def simple_policies(names: Sequence[str]) -> dict[str, Policy]:
    """Return the policies that need no choice, by name.

    They are each view by itself, each view merged with the unaugmented image, and all views under
    each merge.
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


def images_per_second(policy: Policy, seconds_of_view: Mapping[str, float]) -> float | None:
    """Return the speed of a policy, or None if it was not measured.

    Views computed in training are not timed. If they are made on the device, they are assumed to
    take the mean time of the other views made there.
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
    """Yield a table row for each policy and each class or attribute value in `effects`."""
    for one in found:
        for what, values in [("class", one["classes"]), *one["attributes"].items()]:
            for row in values:
                yield {"policy": one["name"], "passes": one["passes"], "of": what, **row}


def _extreme(one: Mapping[str, Any], sign: int) -> str:
    """Return the class whose F1 rises (sign 1) or falls (-1) most, or an empty text."""
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
    """Return report blocks of `effects`.

    They list harmful policies, the scores and paired differences of all policies, their costs, and
    the F1 of each class and attribute under one policy.

    Parameters
    ----------
    found
        What `effects` returned; its first entry is the one the others are compared with.
    metric
        The run's metric.
    speed_of
        Images per second by policy; None if not measured.
    detail
        Name of the policy whose classes are shown.
    """
    harmful = [one["name"] for one in found if _is_harmful(one["comparison"]["difference"], metric)]
    blocks = []
    num_compared = len(found) - 1
    if harmful:
        blocks.append(
            text_block(
                "HARMFUL (the whole 95 % interval of the difference is on the wrong side of zero):"
                f" {', '.join(harmful)}. Of {num_compared} policies compared, about"
                f" {num_compared * TAIL:.2g} would be listed by chance alone."
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
        "largest F1 gain",
        "largest F1 loss",
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
    """Return the curve of the score against forward passes per image, with its interval.

    Parameters
    ----------
    found
        Rows of `reports.run.summary.compare` for 1, 2, .. passes.
    metric
        The run's metric.
    seconds_of_view
        Seconds per image of each view that was timed.
    how
        How the views of each point were chosen, for the caption.
    """
    ends = {end: [one["headline"][end] for one in found] for end in ("value", "low", "high")}
    speed = images_per_second(IDENTITY, seconds_of_view)
    cost = "" if speed is None else f"; one pass takes {1000 / speed:.3g} ms per image"
    return lines_block(
        range(1, len(found) + 1),
        {metric.title: ends["value"], "95 % interval, low": ends["low"], "high": ends["high"]},
        xlabel="forward passes per image",
        ylabel=metric.title,
        caption=f"{metric.title} against cost: {how}{cost}",
    )


def _part_line(part: Part, what: str) -> str:
    return f"Repeat {part.repeat}, {what} {part.part}, decided on the other {what}s. {part.choice}"


def _steps(saved: SavedViews, search: Search | None, merge: str) -> tuple[str, list[np.ndarray]]:
    """Return how views are added one by one, and the logits of 1, 2, .. passes."""
    if search is not None:
        steps = cross_fit_path(saved, search.path, search.budget)
        return "views are added greedily, each fold's by a search on the other folds", steps
    merge = merge if merge in MERGES else "mean"
    num = min(len(saved.names), MOST_STEPS)
    steps = [MERGES[merge](saved.logits_VNC[:place]) for place in range(1, num + 1)]
    return f"views are added in the order given, merged by {merge}", steps


def harm_report(
    run: Run,
    saved: SavedViews,
    found: CrossFit,
    *,
    metric: Metric,
    search: Search | None,
    merge: str,
    seconds_of_view: Mapping[str, float],
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return a report section, and a table of the F1 of each class under each policy.

    Parameters
    ----------
    run
        The run whose models saw more views.
    saved
        Its out-of-fold logits of all views.
    found
        What was decided.
    search
        The search that chose, or None if the views were given.
    metric
        The score that decided.
    merge
        How given views are merged.
    seconds_of_view
        Seconds per image of each view that was timed.
    """
    shared: dict[str, Any] = {
        "rows": saved.rows,
        "attributes": run.attributes,
        "metric": metric,
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
    speed_of = {name: images_per_second(one, seconds_of_view) for name, one in policies.items()}
    # Folds that split groups are not used for choosing; rows are dealt to parts of whole groups.
    what = "part" if run.info["leaks"] else "fold"
    blocks: Sequence[dict[str, Any]] = [
        text_block(f"Test set, decided on all rows. {found.final}"),
        *(text_block(_part_line(part, what)) for part in found.parts),
        text_block(
            "Fixed and broken are numbers of images that are classified correctly only with, or"
            " only without, the augmentation. Differences are paired: both scores are"
            f" compared on the same {run.groups}."
        ),
        *harm_blocks(rows, metric=metric, speed_of=speed_of, detail=THIS),
        cost_block(curve, metric=metric, seconds_of_view=seconds_of_view, how=how),
    ]
    title = "Test-time augmentation, out of fold, compared with no augmentation (identity)"
    screen = [text_block(_verdict(rows, metric))]
    return section(title, *blocks, screen=screen), pd.DataFrame(effect_rows(rows))


def _verdict(rows: Sequence[Mapping[str, Any]], metric: Metric) -> str:
    """Return how much the chosen augmentation changes the score, as a sentence."""
    (chosen,) = [one for one in rows if one["name"] == THIS]
    difference = chosen["comparison"]["difference"]
    if difference is None or difference["value"] == 0:
        return "The predictions are those without augmentation."
    if None in difference.values():
        return f"{metric.title} is not defined on these rows, so augmentation cannot be judged."
    better = metric.sign * difference["value"] > 0
    is_clear = difference["low"] * difference["high"] > 0
    passes = chosen["passes"]
    verb = ("improves" if better else "lowers") if is_clear else "does not measurably change"
    if metric.sign < 0 and is_clear:
        verb = "improves" if better else "worsens"
    return (
        f"Augmentation {verb} {metric.title}: {signed(difference)} against no augmentation, at"
        f" {passes} pass{'es' * (passes != 1)} per image (out of fold, paired)."
    )


def view_section(run: Run) -> dict[str, Any]:
    """Return a section on each view and their merge, compared with the unaugmented image."""
    num_folds = run.info["num_folds"]
    arrays = oof_arrays(run)
    views = pd.concat(
        [
            saved_rows(run, index, "oof").assign(repeat=index // num_folds)
            for index in range(run.info["num_repeats"] * num_folds)
        ]
    )
    views = views[views["view"].isin(run.info["views"])]
    proba_of = {
        str(name): softmax(run.logits(rows_like(table, run.oof)))
        for name, table in views.groupby("view", sort=False)
    }
    rows = compare(
        rows=arrays.rows,
        proba_of=proba_of | {"merged": arrays.proba_NC},
        against="identity",
        attributes=run.attributes,
        metric=metric_of(run.info),
    )
    return section("Test-time augmentation, out of fold", comparison_block(rows))
