"""Section of a report on the labels that a run has from the models of another run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foldblend.errors import UserError, counted
from foldblend.runs.costs import num_passes, picture_seconds
from foldblend.runs.folder import rows_like
from foldblend.runs.oof import oof_rows
from foldblend.runs.run import Run
from foldblend.scores.metrics import Metric, softmax
from foldblend.scores.run_metric import metric_of
from foldblend.words import plural
from pipeline.job import Prepared
from pipeline.labels.given import Labels
from pipeline.labels.kept import TRAIN, Kept, kept
from pipeline.labels.rows import further_rows
from pipeline.labels.without import remarks_on
from reports.blocks import comparison_block, section, table_block, text_block
from reports.run.summary import compare
from reports.text import signed

__all__ = ["labels_section"]

# Classes of which a table of pseudo-labels has counts; those with most of them.
MOST_CLASSES = 40


def _percent(part: float, whole: float) -> str:
    return "-" if not whole else f"{100 * part / whole:.0f} %"


def _teacher_text(labels: Labels, group_name: str) -> str:
    rest = ""
    if labels.share < 1:
        rest = f", and the true label has the other {100 * (1 - labels.share):g} %"
    further = ""
    if labels.num_unlabelled:
        further = (
            " An image without a label teaches their probabilities alone; it is left out where an"
            f" image that it equals, or whose {group_name} it shares, is held out."
        )
    return (
        f"Each fold learned from the models of {labels.name} that never saw that fold. What a"
        f" labelled image teaches is {100 * labels.share:g} % their probabilities (logits divided"
        f" by {labels.temperature:g}){rest}.{further}"
    )


def _pseudo_text(labels: Labels, found: Sequence[Kept], group_name: str) -> str:
    sure = sum(one.info["num_sure"] for one in found)
    right = sum(one.info["num_right"] for one in found)
    expected = (
        f"Of the out-of-fold rows of the other folds that are so sure, {_percent(right, sure)} are"
        " right, and about that share of these labels can be expected to be"
        if sure
        else "No out-of-fold row of the other folds is so sure, so nothing is known of how many of"
        " these labels are right"
    )
    return (
        f"Each fold also learned images without labels, as the models of {labels.name} that never"
        f" saw that fold label them. A label is used from a probability of {labels.threshold:g} on,"
        " after a calibration on the other folds (temperature)."
        f" {expected}. An image is left out where an image that it equals, or whose {group_name} it"
        " shares, is held out."
    )


def _fold_table(run: Prepared, found: Sequence[Kept], extra_N: Sequence[int]) -> dict[str, Any]:
    """Return the table of what each fold has learned."""
    labels = run.labels
    assert labels is not None
    names = [_fold_name(run, index) for index in range(len(found))]
    left = [f"{one.info['num_left_out']:,}" for one in found]
    more = [f"{num:,}" for num in extra_N]
    if labels.is_teacher:
        own = [f"{(one.table['part'] == TRAIN).sum():,}" for one in found]
        if not labels.num_unlabelled:
            return table_block(["fold", "labelled images"], [*zip(names, own, strict=True)])
        header = ["fold", "labelled images", "images without labels", "left out"]
        return table_block(header, [*zip(names, own, more, left, strict=True)])
    asked = [f"{len(one.table):,}" for one in found]
    scales = [f"{one.info['temperature']:.2f}" for one in found]
    right = [_percent(one.info["num_right"], one.info["num_sure"]) for one in found]
    header = ["fold", "images", "used", "left out", "temperature", "expected to be right"]
    return table_block(header, [*zip(names, asked, more, left, scales, right, strict=True)])


def _fold_name(run: Prepared, index: int) -> str:
    repeat, fold = run.place(index)
    return str(fold) if run.num_repeats == 1 else f"{repeat}.{fold}"


def _class_table(run: Prepared, count_KC: np.ndarray, *, what: str) -> list[dict[str, Any]]:
    """Return the table of how many further images of each class the folds have learned."""
    order_C = np.argsort(-count_KC.sum(axis=0), kind="stable")[:MOST_CLASSES]
    shown = sorted(order_C.tolist())
    header = [what, *(f"fold {_fold_name(run, index)}" for index in range(len(count_KC)))]
    classes = run.manifest.classes
    rows = [[classes[c], *(f"{num:,}" for num in count_KC[:, c])] for c in shown]
    left = len(classes) - len(shown)
    blocks = [table_block(header, rows)]
    if left:
        blocks.append(text_block(f"{counted(left, 'class')} with the fewest are not shown."))
    return blocks


def _kept_score(metric: Metric, mine: float, theirs: float) -> str:
    """Return what share of another score is kept, for metrics of which more is better."""
    if not metric.greater_is_better or not theirs > 0:
        return f"has {metric.title} {mine:.4f}, and {theirs:.4f}"
    return f"keeps {_percent(mine, theirs)} of the {metric.title}"


def _cost_text(made: Run, source: Run, rows: Sequence[dict[str, Any]], metric: Metric) -> str:
    theirs, mine = (row["headline"]["value"] for row in rows)
    passes = (num_passes(made), num_passes(source))
    seconds = (picture_seconds(made), picture_seconds(source))
    times = ""
    if seconds[0] and seconds[1]:
        times = (
            f"; {1000 * seconds[0]:.1f} ms instead of {1000 * seconds[1]:.1f} ms per image, as"
            " measured where each was made"
        )
    return (
        f"{made.name} {_kept_score(metric, mine, theirs)} of {source.name} with"
        f" {_percent(passes[0], passes[1])} of its forward passes ({passes[0]:,} of"
        f" {passes[1]:,}{times})."
    )


def labels_section(run: Prepared, folder: Path) -> dict[str, Any] | None:
    """Return the section on the labels of a finished run's folds, or None if some are gone.

    Parameters
    ----------
    run
        The run, with `labels`.
    folder
        Its folder, with its out-of-fold rows.
    """
    labels = run.labels
    assert labels is not None
    every = [kept(folder, index, run) for index in range(run.num_models)]
    found = [one for one in every if one is not None]
    if len(found) < len(every):
        return None
    group_name = run.manifest.group_name
    extras = [further_rows(run, one)[0] for one in found]
    count_KC = np.stack(
        [np.bincount(one["label"], minlength=run.manifest.num_classes) for one in extras]
    )
    text = (
        _teacher_text(labels, group_name)
        if labels.is_teacher
        else _pseudo_text(labels, found, group_name)
    )
    blocks = [text_block(text), _fold_table(run, found, [len(one) for one in extras])]
    if count_KC.any():
        blocks += _class_table(
            run, count_KC, what="most likely class" if labels.is_teacher else "class"
        )
    made = Run(folder)
    screen = []
    try:
        source = Run(labels.source)
        told = [text_block(f"{line}.") for line in remarks_on(source)]
        metric = metric_of(made.info)
        rows = compare(
            rows=oof_rows(made),
            proba_of={
                labels.name: softmax(source.logits(rows_like(source.oof, made.oof))),
                made.name: softmax(made.logits(made.oof)),
            },
            against=labels.name,
            attributes=made.attributes,
            metric=metric,
        )
    except (UserError, KeyError):
        # The run that gave the labels is gone or has other rows now.
        return section(_title(labels), *blocks)
    difference = (
        f"{made.name} minus {labels.name}: {signed(rows[-1]['difference'])} {metric.title}, paired"
        f" over {plural(group_name)} on the same held-out images."
    )
    screen.append(text_block(difference))
    blocks += [*told, comparison_block(rows)]
    if labels.is_teacher:
        blocks.append(text_block(_cost_text(made, source, rows, metric)))
        screen.append(blocks[-1])
    return section(_title(labels), *blocks, screen=screen)


def _title(labels: Labels) -> str:
    return f"Student of {labels.name}" if labels.is_teacher else f"Pseudo-labels of {labels.name}"
