"""The content of report.json, computed from a run folder only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from foldblend.ahead import ahead, threads_for
from foldblend.attributes import Attribute
from foldblend.errors import UserError
from foldblend.runs.calibrated import (
    Calibration,
    calibration_of,
    has_plain,
    plain_oof,
    plain_test,
)
from foldblend.runs.oof import OofArrays, oof_arrays
from foldblend.runs.refit import num_refits, refit_share
from foldblend.runs.report_info import ReportInfo
from foldblend.runs.rows import in_order_of
from foldblend.runs.run import Run
from foldblend.runs.schema import read_checked
from foldblend.runs.tables import read_log
from foldblend.scores.averaged import over_repeats
from foldblend.scores.baselines import (
    attribute_only_band,
    attribute_only_difference,
    chance_score,
)
from foldblend.scores.by_group import suited
from foldblend.scores.metrics import Metric, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.run_metric import metric_of
from foldblend.scores.score import score_interval
from reports.blocks import comparison_block, section
from reports.run.card import use_section
from reports.run.scored_test import score_on_test
from reports.run.summary import summarise, summarise_test
from reports.run.suspects import find_suspects
from reports.run.text import is_leak_note, is_optimistic_note
from reports.sections_file import read_sections
from reports.text import groups_of

__all__ = ["compute_report", "report_before"]

# Columns of log.csv that are of use while a run is running only.
NOT_SHOWN = ("seconds",)


def _baseline(arrays: OofArrays, attribute: Attribute) -> dict[str, Any]:
    """Return the score of guessing with one attribute given, and the run's difference to it."""
    value_of_class = np.asarray(attribute.of_class)
    rows = arrays.rows
    once = rows.take(rows.repeat_N == rows.repeat_N[0])
    low, mean, high = attribute_only_band(once.label_N, once.group_N, value_of_class)
    beaten_by = attribute_only_difference(rows, arrays.proba_NC, value_of_class)
    return {
        "attribute": attribute.name,
        "low": low,
        "mean": mean,
        "high": high,
        "difference": beaten_by.as_dict(),
    }


def _raw_score(run: Run, arrays: OofArrays, metric: Metric) -> dict[str, float | None] | None:
    """Return the score on the original labels, or None if no label was corrected."""
    raw_N = run.oof["label_raw"].to_numpy()
    if (raw_N == arrays.rows.label_N).all():
        return None
    rows = dataclasses.replace(arrays.rows, label_N=raw_N)
    return score_interval(suited(metric, rows), rows, arrays.proba_NC).as_dict()


def _averaged(run: Run, arrays: OofArrays, metric: Metric) -> dict[str, Any] | None:
    """Return the score of the mean of the repeats' models.

    None for a single repeat, and for a blend with a member that has fewer repeats than others.
    """
    if run.info.get("fewest_repeats", run.info["num_repeats"]) < run.info["num_repeats"]:
        return None
    # Logits of a hard vote are logs of vote shares, whose mean only makes sense as probabilities.
    # Logarithms of imported probabilities are as far from 0 as zeros were raised.
    is_of_proba = run.info.get("imported", {}).get("values") == "probabilities"
    of_shares = run.info["kind"] == "blend" or is_of_proba
    values_NC = arrays.proba_NC if of_shares else arrays.logits_NC
    found = over_repeats(arrays.rows, values_NC, run.oof["image_id"].to_numpy())
    if found is None:
        return None
    rows, mean_NC = found
    score = score_interval(metric, rows, mean_NC if of_shares else softmax(mean_NC))
    return {"num_models": arrays.rows.num_repeats, "score": score.as_dict()}


def _test(run: Run, calibration: Calibration) -> dict[str, Any] | None:
    plain = plain_test(run)
    if run.test is None or plain is None:
        return None
    # The models may have their rows in another order.
    ids = run.test["image_id"]
    replaced = refit_share(run.info) == 1
    # Where refits replace the models of the folds, the tables of these are all alike.
    folds = range(1 if replaced else run.num_test_folds)
    models = ahead(lambda fold: run.logits(in_order_of(ids, run.test_fold(fold))), folds)
    found = summarise_test(
        run.logits(run.test),
        [*models],
        calibration.proba(run.logits(plain)),
    )
    refits = num_refits(run.info)
    return found | ({"num_refits": refits, "refit_share": refit_share(run.info)} if refits else {})


def _curves(run: Run) -> list[dict[str, Any]]:
    """Return the columns of each fold's log; heads on a frozen backbone have none."""
    num_folds = run.info["num_folds"]
    curves: list[dict[str, Any]] = []
    for index in range(num_folds * run.info["num_repeats"]):
        file = run.path / f"fold_{index}" / "log.csv"
        log = read_log(file) if file.is_file() else pd.DataFrame()
        if "epoch" in log:
            columns = {
                str(name): [float(value) if np.isfinite(value) else None for value in log[name]]
                for name in log
                if name not in NOT_SHOWN
            }
            repeat, fold = divmod(index, num_folds)
            curves.append(
                {
                    "repeat": repeat,
                    "fold": fold,
                    **columns,
                    "epoch": log["epoch"].astype(int).tolist(),
                }
            )
    return curves


def _of_first_schema(run: Run) -> dict[str, Any]:
    """Return report.json of the first schema, which has entries that moved to run.json, or {}."""
    report = {} if "about" in run.info else report_before(run)
    return report if report.get("schema") == 1 else {}


def report_before(run: Run) -> dict[str, Any]:
    """Return the report.json that is there, or {}; a broken one is written anew like others."""
    try:
        return dict(read_checked(run.path / "report.json", ReportInfo, cure=""))
    except UserError:
        return {}


def _notes(run: Run, before: Mapping[str, Any], raw: object) -> list[str]:
    """Return the notes on a score: those of the run, then those on why it may be too high."""
    notes = [*run.info.get("notes", before.get("notes", ()))]
    if run.info.get("optimistic") and not any(map(is_optimistic_note, notes)):
        notes.append("OPTIMISTIC: epochs were chosen on the rows that are scored")
    if run.info["leaks"] and not any(map(is_leak_note, notes)):
        notes.append(f"{run.groups} leak between folds, so this score is probably too high")
    if raw is not None:
        notes.append(
            "scored on corrected labels; if a model suggested the corrections, the score of similar"
            " models is optimistic, so compare them on the original labels"
        )
    return notes


def _without_width(summary: Mapping[str, Any]) -> list[str]:
    """Return a note if the interval has no width, which says nothing about the true score."""
    headline = summary["headline"]
    num_groups = summary["num_groups"]
    low = headline["low"]
    high = headline["high"]
    if low is None or high is None or low < high:
        return []
    if num_groups == 1:
        return [f"the interval has no width, because there is only one {summary['group_name']}"]
    return [
        f"the interval has no width, because the score is the same without any one of the"
        f" {num_groups:,} {groups_of(summary)}"
    ]


def _sections(run: Run, before: Mapping[str, Any]) -> list[dict[str, Any]]:
    old = [
        section(title, comparison_block(rows))
        for title, rows in before.get("comparisons", {}).items()
    ]
    return [*old, *read_sections(run.path)]


def _are_split(rows: Rows) -> bool:
    """Return whether images of a group are in several folds of a repeat; groups are numbers."""
    # Cheaper than counting the folds of each group.
    spread = pd.DataFrame({"group": rows.group_N, "repeat": rows.repeat_N, "fold": rows.fold_N})
    folds = spread.groupby(["repeat", "group"])["fold"]
    return bool((folds.max() > folds.min()).any())


def _suspects(run: Run, arrays: OofArrays) -> dict[str, Any]:
    """Return the suspected labels, unless models were trained on other images of the groups."""
    rows = arrays.rows
    if run.info["leaks"] or _are_split(rows):
        why = (
            f"{run.groups} are split between folds, so models were trained on these labels; split"
            f" by {run.group_name}"
        )
        return {"skipped": f"not checked: {why}"}
    return find_suspects(
        rows,
        arrays.proba_NC,
        groups=run.oof["group"],
        image_ids=run.oof["image_id"],
        classes=run.classes,
        attributes=run.attributes,
        metric=metric_of(run.info),
    )


def compute_report(run: Run, calibration: Calibration | None = None) -> dict[str, Any]:
    """Return the content of report.json (see docs/report.schema.json).

    `calibration` is what `calibration_of` returns for the run, if it is known.
    """
    arrays = oof_arrays(run, coded=True)
    calibration = calibration_of(run) if calibration is None else calibration
    metric = metric_of(run.info)
    raw = _raw_score(run, arrays, metric)
    before = _of_first_schema(run)
    plain_NC = plain_oof(run) if has_plain(run) else None

    def summary() -> dict[str, Any]:
        return summarise(
            arrays.rows,
            arrays.logits_NC,
            proba_NC=arrays.proba_NC,
            classes=run.classes,
            attributes=run.attributes,
            metric=metric,
            ordered=run.ordered,
            plain_NC=plain_NC,
            calibration=calibration,
        )

    def baselines() -> list[dict[str, Any]]:
        # One is enough to compare with, so only the first attribute has one.
        return [_baseline(arrays, attribute) for attribute in run.attributes[:1]]

    # These take most of the time, and do not depend on each other.
    parts: list[Callable[[], Any]] = [summary, lambda: _suspects(run, arrays), baselines]
    num_threads = threads_for(arrays.proba_NC.nbytes)
    numbers, suspects, beaten = ahead(lambda part: part(), parts, num_threads=num_threads)
    report: dict[str, Any] = {
        "name": run.name,
        "kind": run.info["kind"],
        "about": (
            run.info.get("about") or before.get("about") or "how it was made is not recorded"
        ),
        "notes": [*_notes(run, before, raw), *_without_width(numbers)],
        **numbers,
        "raw": raw,
        "averaged": _averaged(run, arrays, metric),
        "test": _test(run, calibration),
        "test_score": score_on_test(run, metric),
        "curves": _curves(run),
        "suspects": suspects,
        "sections": _sections(run, before),
        "baselines": beaten,
        "chance": chance_score(metric, arrays.rows, arrays.proba_NC),
    }
    if "search" in run.info:
        report["search"] = run.info["search"]
    report["sections"].append(use_section(run, report))
    return report
