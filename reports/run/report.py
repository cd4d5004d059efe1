"""The report of a run, from its folder only: page, text, JSON and a CSV of predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.errors import UserError
from foldblend.files import write_bytes
from foldblend.reading import MOST_TEXT, read_bounded
from foldblend.runs.calibrated import (
    Calibration,
    calibration_of,
)
from foldblend.runs.check import finished_run
from foldblend.runs.folder import check_there, write_blocks, write_json, write_table
from foldblend.runs.oof import oof_arrays
from foldblend.runs.run import Run
from foldblend.spreadsheets import for_spreadsheets, safe_csv
from reports.block_kinds import image_ids
from reports.run.compute import compute_report, report_before
from reports.run.explained import explanations_of
from reports.run.first_screen import worst_classes
from reports.run.gallery import MOST_ROWS, Predictions, rows_by_interest
from reports.run.next_steps import next_steps
from reports.run.page import report_page
from reports.run.predictions import prediction_blocks, predictions_by_group
from reports.run.text import render_text
from reports.run.thumbnails import gallery_images_of

__all__ = ["suspects_csv", "write_report"]


def _write_by_group(run: Run, calibration: Calibration) -> None:
    """Write predictions_by_group.csv, or remove it if no prediction can be made of a group."""
    file = run.path / "predictions_by_group.csv"
    table = predictions_by_group(run, calibration)
    if table is None:
        file.unlink(missing_ok=True)
    else:
        write_table(file, for_spreadsheets(table))


def suspects_csv(report: Mapping[str, Any]) -> str | None:
    """Return the findings as a CSV for --corrections, or None if there are none."""
    columns = {"target": "target", "field": "field", "value": "value", "why": "text"}
    findings = (report.get("suspects") or {}).get("findings", ())
    rows = [{name: one[key] for name, key in columns.items()} for one in findings]
    return for_spreadsheets(pd.DataFrame(rows)).to_csv(index=False) if rows else None


def _write_suspects(run: Run, report: Mapping[str, Any]) -> None:
    """Write or remove suspects.csv, unless it was edited since it was written."""
    file = run.path / "suspects.csv"
    if file.is_file():
        try:
            there = read_bounded(file, most=MOST_TEXT)
        except UserError:
            return
        # An edited file differs from the one that the previous report implies.
        before = report_before(run)
        written = set()
        for on in (False, True):
            with safe_csv(on):
                written.add((suspects_csv(before) or "").encode())
        if there not in written:
            return
    text = suspects_csv(report)
    if text is None:
        file.unlink(missing_ok=True)
    else:
        write_bytes(file, text)


def _page(run: Run, report: Mapping[str, Any]) -> str:
    arrays = oof_arrays(run, coded=True)
    ids = run.oof["image_id"]
    findings = report["suspects"].get("findings", ())
    shown = Predictions(ids.to_numpy(), arrays.rows, arrays.proba_NC)
    worst = worst_classes(report, shown)
    of_worst = [row for one in worst for row in one.rows]
    # Suspected labels are judged by eye, so their images get thumbnails before other mistakes.
    names = [name for one in findings for name in one["image_ids"]]
    # NumPy would compare each of these names with all images.
    named_N = np.flatnonzero(ids.isin([*names, *image_ids(report["sections"])]))
    order = rows_by_interest(arrays.rows.label_N, arrays.proba_NC, [*of_worst, *named_N])
    images = gallery_images_of(run, shown.image_id_N[order[:MOST_ROWS]])
    if len(order) > MOST_ROWS:
        more = f" The gallery has {MOST_ROWS:,} of {len(order):,} predictions, mistakes first."
        images = dataclasses.replace(images, note=images.note + more)
    kept_N = np.sort(order[:MOST_ROWS])
    place_of = {row: place for place, row in enumerate(kept_N.tolist())}
    rows = dataclasses.replace(
        arrays.rows.take(kept_N), group_N=run.oof["group"].iloc[kept_N].to_numpy()
    )
    explained = explanations_of(run, images.thumbnails)
    return report_page(
        report,
        Predictions(shown.image_id_N[kept_N], rows, arrays.proba_NC[kept_N]),
        images,
        worst=[one.at(place_of) for one in worst],
        attributes=run.attributes,
        steps=next_steps(report, run.path),
        explained=None if explained is None else explained.at(place_of),
    )


def write_report(run: str | Path | Run, *, page: bool = True) -> str:
    """Write the report of a finished run and return its text.

    Parameters
    ----------
    run
        A run or its folder; nothing else is read.
    page
        Write report.html too.

    Returns
    -------
    str
        The content of report.txt. predictions.csv, predictions_by_group.csv (if groups have
        several images), suspects.csv (if labels are suspected) and report.json are written as well.

    Raises
    ------
    UserError
        For a run that is not finished, or whose files do not fit together.
    """
    run = run if isinstance(run, Run) else finished_run(run)
    calibration = calibration_of(run)
    report = compute_report(run, calibration)
    text = render_text(report)
    html = _page(run, report) if page else None
    page_file = run.path / "report.html"
    check_there(run.path)
    # A kill on the way must not leave a page with outdated numbers.
    page_file.unlink(missing_ok=True)
    write_blocks(
        run.path / "predictions.csv",
        lambda: map(for_spreadsheets, prediction_blocks(run, calibration)),
    )
    _write_by_group(run, calibration)
    _write_suspects(run, report)
    write_bytes(run.path / "report.txt", text)
    if html is not None:
        write_bytes(page_file, html)
    # Last, because other commands read it: new numbers imply that all files are new.
    write_json(run.path / "report.json", report)
    return text
