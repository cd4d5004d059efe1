"""The first screen of a page: the score on a scale, a small matrix and the worst classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from foldblend.scores.confusion import worst_mistakes
from foldblend.scores.metrics import MEAN_COST, METRICS
from reports.glossary import term
from reports.run.gallery import Predictions
from reports.strips import Strip, axis_html, scale_over, strip_html
from reports.text import num, span

__all__ = ["WorstClass", "compared_with", "ladder", "worst_classes"]

WORST_CLASSES = 3
IMAGES_A_CLASS = 3
WIDE_TICKS = 6  # names of ticks that fit below the wide strips here

Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class WorstClass:
    """A class with a low F1, and the row numbers of its most confident mistakes."""

    label: int
    name: str
    f1: float
    support: int
    rows: tuple[int, ...]

    def at(self, place_of: Mapping[int, int]) -> WorstClass:
        """Return the class with the places of its rows among those of a gallery."""
        return dataclasses.replace(self, rows=tuple(place_of[row] for row in self.rows))


def worst_classes(report: Report, shown: Predictions) -> list[WorstClass]:
    """Return the three classes with the lowest F1, each with up to three images.

    Its images are those that are taken for another class with the most confidence; if there are
    none, images of other classes that are taken for it. A class is listed only if it has mistakes.
    """
    label_N = shown.rows.label_N
    wrong = worst_mistakes(label_N, shown.proba_NC)
    predicted_N = shown.proba_NC.argmax(axis=1)
    lowest = sorted(report["per_class"], key=lambda row: row["f1"])[:WORST_CLASSES]
    found = []
    for row in lowest:
        label = row["class"]
        missed = wrong[label_N[wrong] == label]
        taken = wrong[predicted_N[wrong] == label]
        chosen = missed if len(missed) else taken
        # An image with several repeats is shown once.
        _, first = np.unique(shown.image_id_N[chosen], return_index=True)
        rows = chosen[np.sort(first)][:IMAGES_A_CLASS]
        if len(rows):
            places = tuple(rows.tolist())
            found.append(WorstClass(label, row["name"], row["f1"], row["support"], places))
    return found


def compared_with(report: Report) -> Mapping[str, Any] | None:
    """Return what a blend or a derived run is compared with, a row of its first comparison.

    That is the best single run for a blend, and the plain image for test-time augmentation. None
    if nothing was compared.
    """
    blocks = [block for one in report["sections"] for block in one["blocks"]]
    rows = next((block["rows"] for block in blocks if block["kind"] == "comparison"), ())
    return next((row for row in rows if row["name"] == row["against"]), None)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the ladder: a name, a strip and the same in figures."""

    name: str | Markup
    strip: Strip
    text: str


def _interval_row(
    name: str, interval: Mapping[str, float | None], *, is_main: bool = False
) -> _Row:
    text = f"{num(interval['value'])} {span(interval)}"
    strip = Strip(text, interval["value"], interval["low"], interval["high"], is_main=is_main)
    return _Row(name, strip, text)


def _references(report: Report) -> list[_Row]:
    """Return what a simple guess scores: with an attribute known, and by chance."""
    found = []
    # This baseline is a macro F1 by image.
    if report["metric"] == "f1_macro" and report.get("score_by") != "group":
        for one in report["baselines"]:
            strip = Strip(num(one["mean"]), one["mean"])
            name = Markup("{}, {} known").format(term("baseline"), one["attribute"])
            found.append(_Row(name, strip, num(one["mean"])))
    chance = report.get("chance")
    if chance is not None:
        found.append(_Row(term("by chance"), Strip(num(chance), chance), num(chance)))
    return found


def _is_loss(report: Report) -> bool:
    """Return whether a lower score is better."""
    name = report["metric"]
    return name == MEAN_COST or not METRICS[name].greater_is_better


def ladder(report: Report) -> dict[str, Any]:
    """Return the score beside what it is to be compared with, as strips on one scale.

    Rows: the run, its folds, the best member (blends and derived runs), the baseline and chance.
    """
    name = "this blend" if report["kind"] == "blend" else "this run"
    rows = [_interval_row(name, report["headline"], is_main=True)]
    folds = [row["score"] for row in report["folds"] if row["score"] is not None]
    if len(folds) > 1:
        name = f"{len(folds)} folds"
        text = f"{num(min(folds))} to {num(max(folds))}"
        rows.append(_Row(name, Strip(f"{name}, {text}", points=tuple(folds)), text))
    best = compared_with(report)
    # A blend of one member has the same score.
    if best is not None and best["name"] != report["name"]:
        rows.append(_interval_row(best["name"], best["headline"]))
    rows += _references(report)
    scale = scale_over(
        value
        for row in rows
        for value in (row.strip.low, row.strip.high, row.strip.value, *row.strip.points)
    )
    shown = [
        {
            "name": row.name,
            "strip": strip_html(row.strip, scale),
            "text": row.text,
            "is_main": row.strip.is_main,
        }
        for row in rows
    ]
    return {
        "rows": shown,
        "axis": axis_html(scale, most=WIDE_TICKS),
        "is_cut": scale.is_cut,
        "is_loss": _is_loss(report),
    }
