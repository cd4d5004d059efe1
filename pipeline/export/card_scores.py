"""Part of a model card on scores: by class and attribute, with intervals, and calibration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from foldblend.runs.oof import OofArrays, oof_arrays
from foldblend.scores.metrics import METRICS
from foldblend.scores.score import score_interval
from pipeline.export.prepare import Prepared
from pipeline.predict.open import Predictor
from pipeline.predict.tree import Blend
from reports.text import groups_of, num, span, title_of

__all__ = ["MOST_CLASSES", "calibration_lines", "cell", "score_lines"]

MOST_CLASSES = 100


def cell(value: object) -> str:
    """Return a text that stays in one cell of a Markdown table and is no markup there."""
    text = " ".join(str(value).split())
    return re.sub(r"([\\`*_<>#|~])", r"\\\1", text)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [header, ["---"] * len(header), *([cell(one) for one in row] for row in rows)]
    return ["", *(f"| {' | '.join(line)} |" for line in lines), ""]


def _accuracy(arrays: OofArrays, chosen_N: np.ndarray, right_N: np.ndarray) -> str:
    """Return the share of right predictions among rows with its interval, as text."""
    rows = arrays.rows.take(chosen_N)
    # As classes 1 (right) and 0, of which 1 is always the truth.
    is_right = right_N[chosen_N].astype(int)
    rows = type(rows)(
        np.ones(len(rows), int), rows.group_N, rows.repeat_N, rows.fold_N, rows.group_name
    )
    found = score_interval(METRICS["accuracy"], rows, np.eye(2)[is_right])
    return f"{num(found.value)} {span(found.as_dict())}"


def score_lines(predictor: Predictor, prepared: Prepared, report: Mapping[str, Any]) -> list[str]:
    """Return the scores of a run by class and attribute with their intervals, as lines.

    `prepared` says which models the file has; `report` is report.json of the run.
    """
    run = predictor.run
    assert run is not None
    arrays = oof_arrays(run)
    label_N = arrays.rows.label_N
    predicted_N = arrays.logits_NC.argmax(axis=1)
    groups = groups_of(report)
    metric = title_of(report)
    lines = [
        f"**{metric} {num(report['headline']['value'])}** {span(report['headline'])}"
        f" ({report['interval']}), accuracy {num(report['scores']['accuracy'])}.",
        "",
        f"All scores are out of fold: each image is predicted by models that were trained on other"
        f" {groups}.",
    ]
    if run.info["kind"] == "blend":
        lines.append(
            "What the blend has fitted was fitted on the other folds for each of them. The notes"
            " below say how optimistic the choice among methods may be, where that is known."
        )
    if prepared.models and any(
        len(kept) < leaf.num_models
        for leaf, kept in zip(predictor.leaves.values(), prepared.models.values(), strict=True)
    ):
        lines.append(
            "The file has some of the run's models only, so on new images it may do a little"
            " worse than all of them."
        )
    lines += [f"- {cell(note)}" for note in ["", *report["notes"]] if note]
    if report.get("test_score") is not None:
        test = report["test_score"]
        lines.append("")
        lines.append(f"On the labelled test images: {cell(_test_sentence(test, metric))}")
    shown = sorted(report["per_class"], key=lambda one: one["recall"])[:MOST_CLASSES]
    shown.sort(key=lambda one: one["class"])
    rows = []
    for one in shown:
        of_class = label_N == one["class"]
        recall = _accuracy(arrays, of_class, predicted_N == label_N)
        rows.append((one["name"], one["support"], one["groups"], recall, num(one["f1"])))
    lines += _table(("class", "images", groups, "recall, 95 % interval", "F1"), rows)
    if len(shown) < len(report["per_class"]):
        lines.append(f"These are the {MOST_CLASSES} classes with the lowest recall.")
    for attribute in run.attributes:
        value_of_class = np.asarray(attribute.of_class)
        rows = []
        for value, name in enumerate(attribute.values):
            chosen_N = value_of_class[label_N] == value
            if not chosen_N.any():
                rows.append((name, 0, 0, "none", "none"))
                continue
            right = value_of_class[predicted_N] == value_of_class[label_N]
            rows.append(
                (
                    name,
                    int(chosen_N.sum()) // arrays.rows.num_repeats,
                    len(np.unique(arrays.rows.group_N[chosen_N])),
                    _accuracy(arrays, chosen_N, right),
                    _accuracy(arrays, chosen_N, predicted_N == label_N),
                )
            )
        header = (cell(attribute.name), "images", groups)
        lines += _table((*header, f"{cell(attribute.name)} is right", "class is right"), rows)
    return lines


def _test_sentence(test: Mapping[str, Any], metric: str) -> str:
    score = test.get("score") or test.get("headline") or {}
    number = test.get("num_images", "?")
    return f"{metric} {num(score.get('value'))} {span(score)} on {number} images."


def calibration_lines(predictor: Predictor, groups: str) -> list[str]:
    """Return what was done to probabilities; `groups` is what groups are, in the plural."""
    found = predictor.calibration
    if found.why_not is None:
        lines = [
            f"Probabilities are those of logits divided by {found.temperature:.3g}. On held-out"
            f" {groups}, this changes the log loss from {found.log_loss:.4f} to"
            f" {num(found.log_loss_after)} and the expected calibration error from"
            f" {found.ece:.4f} to {num(found.ece_after)}."
        ]
    else:
        lines = [
            f"Probabilities are not corrected, since {found.why_not}. Log loss"
            f" {found.log_loss:.4f}, expected calibration error {found.ece:.4f}, out of fold."
        ]
    root = predictor.root
    if isinstance(root, Blend) and root.has_offsets:
        lines.append(
            "The class is decided with offsets, which are no part of the probabilities, so the"
            " class need not be the most probable one."
        )
    return lines
