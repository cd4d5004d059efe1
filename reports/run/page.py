"""The report as a page: one HTML file with all numbers, figures and many images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foldblend.attributes import Attribute
from foldblend.errors import counted
from foldblend.scores.by_group import GROUP
from foldblend.scores.metrics import TITLES
from reports.block_kinds import section_html
from reports.html import json_data, render_page
from reports.run.by_group import by_group_section, other_score
from reports.run.explained import Explanations
from reports.run.figures import curve_figures, folds_finding, reliability_figure, test_figure
from reports.run.first_screen import WorstClass, ladder
from reports.run.gallery import GalleryImages, Predictions, gallery_data
from reports.run.matrix import class_matrix, matrices
from reports.run.scored_test import TITLE, score_sentence
from reports.run.text import (
    calibration_sentences,
    is_alarm,
    single_model_note,
)
from reports.text import groups_of, num, signed, span, title_of

__all__ = ["report_page"]

Report = Mapping[str, Any]


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


def _worst(
    one: WorstClass, shown: Predictions, images: GalleryImages, classes: Sequence[str]
) -> dict[str, Any]:
    """Return a class of the first screen, with its images and what they are taken for."""
    label_N = shown.rows.label_N
    predicted_N = shown.proba_NC.argmax(axis=1)
    tiles = []
    for row in one.rows:
        name = str(shown.image_id_N[row])
        taken = predicted_N[row]
        text = (
            f"as {classes[taken]}" if label_N[row] == one.label else f"is {classes[label_N[row]]}"
        )
        tiles.append({"row": row, "name": name, "src": images.thumbnails.get(name), "text": text})
    return {"name": one.name, "f1": one.f1, "support": one.support, "tiles": tiles}


def _sections(
    sections: Sequence[Mapping[str, Any]], images: GalleryImages, kind: str
) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{kind}-{index + 1}",
            "title": one["title"],
            "short": one["title"].split(",")[0],
            "html": section_html(one, images.thumbnails),
        }
        for index, one in enumerate(sections)
    ]


def _verdicts(report: Report) -> list[str]:
    """Return the sentences that stages have for the first screen, such as what a blend gained."""
    blocks = [block for one in report["sections"] for block in one.get("screen", ())]
    return [block["text"] for block in blocks if block["kind"] == "text"]


def report_page(
    report: Report,
    shown: Predictions,
    images: GalleryImages,
    *,
    worst: Sequence[WorstClass] = (),
    attributes: Sequence[Attribute] = (),
    steps: Sequence[str] = (),
    explained: Explanations | None = None,
) -> str:
    """Return the page of a report (report.json) as HTML, with every name escaped."""
    groups = groups_of(report)
    scored = report.get("test_score")
    by_group = by_group_section(report)
    # What a stage made of other runs starts with what it gained; the last section is on use.
    gains = report["sections"][:-1] if report["kind"] in ("blend", "tta") else []
    others = [*([] if by_group is None else [by_group]), *report["sections"][len(gains) :]]
    return render_page(
        "report.html",
        scripts=("glossary.js", "report.js"),
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
        ladder=ladder(report),
        small=class_matrix(report),
        worst=[_worst(one, shown, images, report["class_names"]) for one in worst],
        folds_finding=folds_finding(report),
        matrices=matrices(report),
        calibration=calibration_sentences(report["calibration"]),
        reliability=reliability_figure(report),
        curves=curve_figures(report),
        test_figure=test_figure(report),
        suspects=_suspects(report, images.thumbnails),
        gains=_sections(gains, images, "gain"),
        sections=_sections(others, images, "section"),
        verdicts=_verdicts(report),
        other=other_score(report),
        unit=" by image" if report.get("score_by") == GROUP else "",
        images=images,
        explained="" if explained is None else explained.note,
        gallery=json_data(
            gallery_data(
                shown,
                images,
                classes=report["class_names"],
                attributes=attributes,
                explained=None if explained is None else explained.data,
            )
        ),
        num=num,
        span=span,
        signed=signed,
    )
