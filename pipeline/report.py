"""A run folder's report, drawn from the folder alone: page, text, JSON, a CSV of predictions. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from folds.files import write_bytes
from folds.manifest import Attribute
from pipeline.reporting import OofArrays, oof_arrays
from pipeline.store import Run, read_json, read_table, rows_like, write_json, write_table
from pipeline.thumbnails import pictures_of
from reports.baselines import attribute_only_band, attribute_only_difference
from reports.blocks import comparison_block, section
from reports.bootstrap import score_interval
from reports.gallery import Predictions, rows_by_interest
from reports.metrics import METRICS, softmax
from reports.page import report_page
from reports.report_text import render_text
from reports.summary import compare, summarise, summarise_test

__all__ = ["view_section", "write_report", "write_section"]

SECTIONS = "sections"


def write_section(folder: Path, name: str, one: Mapping[str, Any]) -> None:
    """Add a section (see reports.blocks) to every report of a run folder, or replace the one of that name.

    Sections stand in the order of their names.
    """
    write_json(folder / SECTIONS / f"{name}.json", dict(one))


def view_section(run: Run) -> dict[str, Any]:
    """Return each view of test-time augmentation alone and their merge, against the picture itself."""
    num_folds, arrays = run.info["num_folds"], oof_arrays(run)
    files = [run.path / "tta" / f"oof_fold_{index}.parquet" for index in range(run.info["num_repeats"] * num_folds)]
    views = pd.concat([read_table(file).assign(repeat=index // num_folds) for index, file in enumerate(files)])
    proba_of = {
        str(name): softmax(run.logits(rows_like(table, run.oof))) for name, table in views.groupby("view", sort=False)
    }
    rows = compare(
        label_N=arrays.label_N,
        group_N=arrays.group_N,
        repeat_N=arrays.repeat_N,
        proba_of=proba_of | {"merged": arrays.proba_NC},
        against="identity",
        attributes=run.attributes,
        metric=run.info["metric"],
    )
    return section("Test-time augmentation, out of fold", comparison_block(rows))


def _baseline(arrays: OofArrays, attribute: Attribute) -> dict[str, Any]:
    """Return what knowing one attribute alone would score, and by how much the run beats it."""
    value_of_class = np.asarray(attribute.of_class)
    once = arrays.repeat_N == arrays.repeat_N[0]
    low, mean, high = attribute_only_band(arrays.label_N[once], arrays.group_N[once], value_of_class)
    beaten_by = attribute_only_difference(
        arrays.label_N, arrays.proba_NC, arrays.group_N, value_of_class, repeat_N=arrays.repeat_N
    )
    return {
        "attribute": attribute.name,
        "low": low,
        "mean": mean,
        "high": high,
        "difference": {"value": beaten_by.value, "low": beaten_by.low, "high": beaten_by.high},
    }


def _raw_score(run: Run, arrays: OofArrays, metric: str) -> dict[str, float] | None:
    """Return the score on the labels before corrections, or None where they are the same."""
    raw_N = run.oof["label_raw"].to_numpy()
    if (raw_N == arrays.label_N).all():
        return None
    raw = score_interval(METRICS[metric], raw_N, arrays.proba_NC, arrays.group_N, repeat_N=arrays.repeat_N)
    return {"value": raw.value, "low": raw.low, "high": raw.high}


def _test(run: Run) -> dict[str, Any] | None:
    if run.test is None:
        return None
    ids = run.test["image_id"]
    models = [run.test_fold(index).set_index("image_id").loc[ids] for index in range(run.info["num_test_folds"])]
    return summarise_test(run.logits(run.test), [run.logits(model) for model in models])


def _curves(run: Run) -> list[dict[str, Any]]:
    """Return what each fold's log says of its epochs; heads on a frozen backbone have none."""
    num_folds = run.info["num_folds"]
    curves: list[dict[str, Any]] = []
    for index in range(num_folds * run.info["num_repeats"]):
        file = run.path / f"fold_{index}" / "log.csv"
        log = read_table(file) if file.is_file() else pd.DataFrame()
        if "epoch" in log:
            columns = {str(name): [None if pd.isna(value) else float(value) for value in log[name]] for name in log}
            repeat, fold = divmod(index, num_folds)
            curves.append({"repeat": repeat, "fold": fold, **columns, "epoch": log["epoch"].astype(int).tolist()})
    return curves


def _sections(run: Run) -> list[dict[str, Any]]:
    return [read_json(file) for file in sorted((run.path / SECTIONS).glob("*.json"))]


def predictions(run: Run) -> pd.DataFrame:
    """Return every prediction as a row: out-of-fold ones, then those for the test set (part, without truth)."""
    names = np.array(run.classes, dtype=object)
    parts = []
    for part, table in (("oof", run.oof), ("test", run.test)):
        if table is None:
            continue
        proba_NC = softmax(run.logits(table))
        columns = table[[name for name in ("image_id", "group", "repeat", "fold") if name in table]].assign(part=part)
        if part == "oof":
            columns["true"] = names[table["label"]]
        columns["predicted"], columns["confidence"] = names[proba_NC.argmax(axis=1)], proba_NC.max(axis=1)
        proba = pd.DataFrame(proba_NC, columns=[f"proba_{index}" for index in range(len(names))])
        parts.append(pd.concat([columns.reset_index(drop=True), proba], axis=1))
    table = pd.concat(parts, ignore_index=True)
    order = ["part", "image_id", "group", "repeat", "fold", "true", "predicted", "confidence"]
    table = table.astype({"repeat": "Int64", "fold": "Int64"})
    return table[[*order, *(name for name in table if name not in order)]]


def compute_report(run: Run) -> dict[str, Any]:
    """Return what report.json holds; docs/report.schema.json describes it."""
    arrays, metric = oof_arrays(run), run.info["metric"]
    return {
        "name": run.name,
        "kind": run.info["kind"],
        "about": run.info.get("about", ""),  # runs of before it was kept
        "notes": run.info.get("notes", []),
        **summarise(
            label_N=arrays.label_N,
            logits_NC=arrays.logits_NC,
            group_N=arrays.group_N,
            fold_N=arrays.fold_N,
            repeat_N=arrays.repeat_N,
            classes=run.classes,
            attributes=run.attributes,
            metric=metric,
        ),
        "raw": _raw_score(run, arrays, metric),
        "test": _test(run),
        "curves": _curves(run),
        "suspects": None,
        "sections": _sections(run),
        "baselines": [_baseline(arrays, attribute) for attribute in run.attributes[:1]],  # the plainest one
    }


def _page(run: Run, report: Mapping[str, Any]) -> str:
    arrays = oof_arrays(run)
    ids_N = run.oof["image_id"].to_numpy()
    findings = (report["suspects"] or {}).get("findings", ())
    suspected_N = np.flatnonzero(np.isin(ids_N, [name for one in findings for name in one["image_ids"]]))
    order = rows_by_interest(arrays.label_N, arrays.proba_NC, suspected_N)
    rows = Predictions(ids_N, arrays.group_N, arrays.repeat_N, arrays.fold_N, arrays.label_N, arrays.proba_NC)
    return report_page(report, rows, pictures_of(run, ids_N[order]), attributes=run.attributes)


def write_report(run: Run, *, page: bool = True) -> str:
    """Draw a finished run's report from its folder alone, and return it as text.

    Writes report.json, report.txt, predictions.csv and, unless told otherwise, report.html.
    """
    report = compute_report(run)
    text = render_text(report)
    write_table(run.path / "predictions.csv", predictions(run))
    write_json(run.path / "report.json", report)
    write_bytes(run.path / "report.txt", text)
    if page:
        write_bytes(run.path / "report.html", _page(run, report))
    else:
        (run.path / "report.html").unlink(missing_ok=True)  # of other numbers, perhaps
    return text
