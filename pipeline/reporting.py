"""From a run folder to its report: report.json, report.txt, submission.csv. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from folds.errors import UserError, did_you_mean, listed
from folds.files import write_bytes
from folds.manifest import Attribute
from pipeline.store import Run, read_table, rows_like, with_logits, write_json, write_table
from reports.baselines import attribute_only_band, attribute_only_difference
from reports.bootstrap import score_interval
from reports.metrics import METRICS, softmax
from reports.summary import compare, summarise
from reports.text import render_text

__all__ = [
    "OofArrays",
    "check_metric",
    "check_rows_once",
    "mean_over_folds",
    "oof_arrays",
    "write_report",
    "write_submission",
]


def check_metric(name: str) -> None:
    """Raise UserError, with near names, for an unknown --metric."""
    if name not in METRICS:
        raise UserError(f"--metric {name}: unknown{did_you_mean(name, METRICS)}; there are {', '.join(METRICS)}")


def check_rows_once(found: pd.Series, wanted: pd.Series, what: str) -> None:
    """Raise UserError unless `found` holds each id of `wanted` exactly once and no other."""
    twice = found[found.duplicated()].unique()
    absent = wanted[~wanted.isin(found)]
    foreign = found[~found.isin(wanted)]
    if len(twice) or len(absent) or len(foreign):
        raise UserError(
            f"{what}: every row must be written exactly once, but {len(absent)} are missing ({listed(absent)}), "
            f"{len(twice)} doubled ({listed(twice)}), {len(foreign)} unknown ({listed(foreign)}); run it afresh"
        )


def mean_over_folds(tables: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """Return the mean logits of the folds' test tables, joined on image_id, in the first one's order."""
    ids = tables[0]["image_id"]
    stack = [table.set_index("image_id").loc[ids, list(columns)].to_numpy(np.float64) for table in tables]
    return with_logits(ids.to_frame(), np.mean(stack, axis=0))


def write_submission(folder: Path, test: pd.DataFrame, answers: Sequence[Any]) -> None:
    """Write submission.csv (ImageID, ans) from the test table's logits."""
    chosen = test.drop(columns="image_id").to_numpy().argmax(axis=1)
    table = pd.DataFrame({"ImageID": test["image_id"], "ans": [answers[index] for index in chosen]})
    write_table(folder / "submission.csv", table)


class OofArrays(NamedTuple):
    """Out-of-fold rows as arrays: labels N, probabilities N x C, groups N, folds N, repeats N."""

    label_N: np.ndarray
    proba_NC: np.ndarray
    group_N: np.ndarray
    fold_N: np.ndarray
    repeat_N: np.ndarray


def oof_arrays(run: Run) -> OofArrays:
    """Return the arrays of a run's out-of-fold rows. Raises UserError for logits that are not finite."""
    logits = run.logits(run.oof)
    bad = run.oof.loc[~np.isfinite(logits).all(axis=1), "image_id"]
    if len(bad):
        raise UserError(f"{run.path}: logits of {listed(bad)} are not finite; train with a lower --lr")
    label_N, group_N, fold_N, repeat_N = (run.oof[name].to_numpy() for name in ("label", "group", "fold", "repeat"))
    return OofArrays(label_N, softmax(logits), group_N, fold_N, repeat_N)


def _view_comparison(run: Run, arrays: OofArrays, metric: str) -> list[dict[str, Any]]:
    """Return each view alone and the merge, against the picture itself."""
    num_folds = run.info["num_folds"]
    files = [run.path / "tta" / f"oof_fold_{index}.parquet" for index in range(run.info["num_repeats"] * num_folds)]
    views = pd.concat([read_table(file).assign(repeat=index // num_folds) for index, file in enumerate(files)])
    proba_of = {}
    for name, table in views.groupby("view", sort=False):
        proba_of[str(name)] = softmax(run.logits(rows_like(table, run.oof)))
    proba_of["merged"] = arrays.proba_NC
    return compare(
        label_N=arrays.label_N,
        group_N=arrays.group_N,
        repeat_N=arrays.repeat_N,
        proba_of=proba_of,
        against="identity",
        attributes=run.attributes,
        metric=metric,
    )


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


def write_report(
    run: Run,
    *,
    metric: str,
    about: str,
    notes: Sequence[str] = (),
    comparisons: Mapping[str, list[dict[str, Any]]] | None = None,
) -> str:
    """Compute a run's report, write report.json and report.txt, and return the text."""
    arrays = oof_arrays(run)
    report: dict[str, Any] = {"name": run.name, "about": about, "notes": list(notes)}
    report |= summarise(**arrays._asdict(), classes=run.classes, attributes=run.attributes, metric=metric)
    raw_N = run.oof["label_raw"].to_numpy()
    if (raw_N != arrays.label_N).any():
        raw = score_interval(METRICS[metric], raw_N, arrays.proba_NC, arrays.group_N, repeat_N=arrays.repeat_N)
        report["raw"] = {"value": raw.value, "low": raw.low, "high": raw.high}
    report["comparisons"] = dict(comparisons or {})
    if run.info["kind"] == "cv" and len(run.info["views"]) > 1:
        report["comparisons"]["test-time augmentation, out of fold"] = _view_comparison(run, arrays, metric)
    report["baselines"] = [_baseline(arrays, attribute) for attribute in run.attributes[:1]]  # the plainest one
    text = render_text(report)
    write_json(run.path / "report.json", report)
    write_bytes(run.path / "report.txt", text)
    return text
