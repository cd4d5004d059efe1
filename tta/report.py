"""What a report says of test-time augmentation: every view, what was decided, and what all that gains and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from foldblend.runs.folder import read_table, rows_like
from foldblend.runs.rows import oof_arrays
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS, softmax
from reports.blocks import comparison_block, section, text_block
from reports.run.summary import compare
from tta.choose import Search
from tta.crossfit import CrossFit, Part, cross_fit_path
from tta.evaluate import effects
from tta.harm import cost_block, effect_rows, harm_blocks, pictures_per_second, simple_policies
from tta.merge import MERGES
from tta.policy import SavedViews

__all__ = ["harm_report", "view_section"]

THIS = "this run"
MOST_STEPS = 16  # of a curve


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
        proba_of={str(place): softmax(logits_NC) for place, logits_NC in enumerate(steps, 1)}, against="1", **shared
    )
    speed_of = {name: pictures_per_second(one, seconds_of_view) for name, one in policies.items()}
    what = "part" if run.info["leaks"] else "fold"  # folds that tear people apart are none to choose on
    blocks: Sequence[dict[str, Any]] = [
        text_block(f"For the test set, decided on all rows: {found.final}."),
        *(text_block(_part_line(part, what)) for part in found.parts),
        *harm_blocks(rows, metric=metric, speed_of=speed_of, detail=THIS),
        cost_block(curve, metric=metric, seconds_of_view=seconds_of_view, how=how),
    ]
    title = "Test-time augmentation, out of fold; differences to the plain picture"
    return section(title, *blocks), pd.DataFrame(effect_rows(rows))


def view_section(run: Run) -> dict[str, Any]:
    """Return each view of test-time augmentation alone and their merge, against the picture itself."""
    num_folds, arrays = run.info["num_folds"], oof_arrays(run)
    files = [run.path / "tta" / f"oof_fold_{index}.parquet" for index in range(run.info["num_repeats"] * num_folds)]
    views = pd.concat([read_table(file).assign(repeat=index // num_folds) for index, file in enumerate(files)])
    proba_of = {
        str(name): softmax(run.logits(rows_like(table, run.oof))) for name, table in views.groupby("view", sort=False)
    }
    rows = compare(
        rows=arrays.rows,
        proba_of=proba_of | {"merged": arrays.proba_NC},
        against="identity",
        attributes=run.attributes,
        metric=run.info["metric"],
    )
    return section("Test-time augmentation, out of fold", comparison_block(rows))
