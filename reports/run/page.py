"""The report as a page: one HTML file with all numbers, figures and many images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from foldblend.attributes import Attribute
from foldblend.errors import counted
from foldblend.scores.by_group import GROUP
from foldblend.scores.metrics import TITLES
from reports.blocks import section_html
from reports.figures import bars, lines, reliability
from reports.html import json_data, render_page
from reports.run.by_group import by_group_section, other_score
from reports.run.gallery import GalleryImages, Predictions, gallery_data
from reports.run.scored_test import TITLE, score_sentence
from reports.run.text import (
    calibration_sentences,
    is_alarm,
    single_model_note,
)
from reports.text import groups_of, num, signed, span, title_of

__all__ = ["report_page"]

Report = Mapping[str, Any]

CURVE_TITLES = {"train_loss": "training loss", "lr": "learning rate"}
NOT_CURVES = ("repeat", "fold", "epoch", "images_per_s")


def _matrix(confusion: Mapping[str, Any], names: Sequence[str], what: str) -> dict[str, Any] | None:
    """Return a confusion matrix for the template, without values that never occur."""
    if confusion["counts"] is None:
        return None
    counts_CC = np.array(confusion["counts"])
    shown = np.flatnonzero(counts_CC.sum(axis=0) + counts_CC.sum(axis=1))
    sizes_C = counts_CC.sum(axis=1)
    rows = []
    # Values that occur in neither labels nor predictions would be empty rows and columns.
    for true in shown.tolist():
        cells = [
            {
                "predicted": predicted,
                "count": int(counts_CC[true, predicted]),
                "share": counts_CC[true, predicted] / max(sizes_C[true], 1),
                "title": f"true {names[true]}, predicted {names[predicted]}",
            }
            for predicted in shown.tolist()
        ]
        rows.append({"true": true, "name": names[true], "size": int(sizes_C[true]), "cells": cells})
    return {
        "what": what,
        "rows": rows,
        "columns": shown.tolist(),
        "names": list(names),
        "total": int(sizes_C.sum()),
    }


def _matrices(report: Report) -> list[dict[str, Any]]:
    """Return the confusion matrices of attributes and, last, of classes.

    "which" is the number of the attribute, or -1 for classes; the script needs it.
    """
    wanted = [(one["confusion"], one["value_names"], one["name"]) for one in report["attributes"]]
    found = [
        _matrix(*one) for one in [*wanted, (report["confusion"], report["class_names"], "class")]
    ]
    which = [*range(len(wanted)), -1]
    return [
        one | {"which": index} for one, index in zip(found, which, strict=True) if one is not None
    ]


def _series(report: Report, column: str) -> dict[str, list[float | None]]:
    """Return a column of the logs of all folds, padded with None to the longest."""
    repeated = report["num_repeats"] > 1
    longest = max(len(one["epoch"]) for one in report["curves"])
    series = {}
    for one in report["curves"]:
        name = f"fold {one['repeat']}.{one['fold']}" if repeated else f"fold {one['fold']}"
        values = one.get(column, [None] * len(one["epoch"]))
        series[name] = [*values, *[None] * (longest - len(values))]
    return series


def _curve_figures(report: Report) -> list[dict[str, Any]]:
    if not report["curves"]:
        return []
    # The longest log counts, because an interrupted or old run may have shorter ones.
    num_epochs = max(len(one["epoch"]) for one in report["curves"])
    count = f"n = {len(report['curves'])} folds, {num_epochs} epochs"
    figures = []
    columns = [name for name in report["curves"][0] if name not in NOT_CURVES]
    for column in columns:
        kind, _, metric = column.partition("_")
        title = CURVE_TITLES.get(column) or f"{TITLES.get(metric, metric)}, " + (
            "held out" if kind == "val" else f"on the rows of --select {kind}"
        )
        svg = lines(range(1, num_epochs + 1), _series(report, column), xlabel="epoch", ylabel=title)
        figures.append({"svg": svg, "caption": f"{title[:1].upper()}{title[1:]} ({count})"})
    return figures


def _test_figure(report: Report) -> Markup | None:
    """Return bars of how often each class occurs and is predicted, or None without a test set."""
    test = report["test"]
    counts = report["confusion"]["counts"]
    if test is None or counts is None:
        return None
    counts_CC = np.array(counts)
    test_C = np.array(test["predicted"])
    shown = np.flatnonzero(counts_CC.sum(axis=0) + counts_CC.sum(axis=1) + test_C)
    shares = {
        "true, training set": counts_CC.sum(axis=1) / counts_CC.sum() * 100,
        "predicted, out of fold": counts_CC.sum(axis=0) / counts_CC.sum() * 100,
        "predicted, test set": test_C / test_C.sum() * 100,
    }
    names = [report["class_names"][index] for index in shown]
    series = {name: share[shown].tolist() for name, share in shares.items()}
    return bars(names, series, xlabel="% of images", number="{:.1f}")


def _suspects(report: Report, thumbnails: Mapping[str, str]) -> dict[str, Any]:
    one: dict[str, Any] = report["suspects"]
    if "skipped" in one:
        return one
    findings = [
        finding
        | {"tiles": [{"name": name, "src": thumbnails.get(name)} for name in finding["image_ids"]]}
        for finding in one["findings"]
    ]
    return {**one, "findings": findings}


def report_page(
    report: Report,
    shown: Predictions,
    images: GalleryImages,
    *,
    attributes: Sequence[Attribute] = (),
    steps: Sequence[str] = (),
) -> str:
    """Return the page of a report (report.json) as HTML, with every name escaped."""
    groups = groups_of(report)
    scored = report.get("test_score")
    first = by_group_section(report)
    sections = [*([] if first is None else [first]), *report["sections"]]
    return render_page(
        "report.html",
        scripts=("report.js",),
        title=f"OOF F1 report: {report['name']}",
        report=report,
        size=(
            f"{counted(report['num_images'], 'image')} of"
            f" {counted(report['num_groups'], report['group_name'])}"
        ),
        group=report["group_name"],
        groups=groups,
        test_score_title=TITLE,
        test_score=None if scored is None else score_sentence(report),
        metric=title_of(report),
        metric_titles=TITLES,
        single_model_note=single_model_note(report),
        alarms=list(filter(is_alarm, report["notes"])),
        steps=steps,
        matrices=_matrices(report),
        calibration=calibration_sentences(report["calibration"]),
        reliability=reliability({"out of fold": report["calibration"]["bins"]}),
        curves=_curve_figures(report),
        test_figure=_test_figure(report),
        suspects=_suspects(report, images.thumbnails),
        sections=[{"title": one["title"], "html": section_html(one)} for one in sections],
        other=other_score(report),
        unit=" by image" if report.get("score_by") == GROUP else "",
        images=images,
        gallery=json_data(
            gallery_data(shown, images, classes=report["class_names"], attributes=attributes)
        ),
        num=num,
        span=span,
        signed=signed,
    )
