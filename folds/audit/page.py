"""The audit's page: findings, folds, distributions and images of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from foldblend.errors import counted
from foldblend.images import Levels, boxes_of, read_image
from foldblend.words import plural
from folds.audit.checks import Check, Outcome
from folds.audit.exploration import Exploration
from folds.audit.figures import distribution_figures, facts, fold_figure
from folds.audit.findings import Finding, Severity
from folds.audit.overview import Overview
from folds.audit.statistics import STATISTICS
from folds.data.manifest import Manifest
from folds.data.training_only import PART
from folds.evenness import balance_lines, class_counts
from reports.html import render_page, thumbnail
from reports.strips import Strip, axis_html, scale_over, strip_html

__all__ = ["audit_page"]

MOST_PAIRS = 40
MOST_TILES = 400
TILES_A_CLASS = 10
_MEANING = {
    Severity.SERIOUS: "training stops, or labels or scores are wrong, until it is mended",
    Severity.MINOR: "worth a look",
}


def _tile(images: pd.DataFrame, row: int, classes: Sequence[str], levels: Levels) -> dict[str, str]:
    about = images.iloc[row]
    box = boxes_of(images.iloc[[row]])[0]
    image = read_image(about["path"], box, checked=True, levels=levels)
    label = "test" if about["label"] < 0 else classes[int(about["label"])]
    return {"src": thumbnail(image), "name": str(about["image_id"]), "label": label}


def _finding(
    finding: Finding, images: pd.DataFrame, classes: Sequence[str], levels: Levels
) -> dict[str, Any]:
    pairs = [
        {
            "left": _tile(images, left, classes, levels),
            "right": _tile(images, right, classes, levels),
            "text": text,
        }
        for (left, right), text in list(zip(finding.pairs, finding.texts, strict=False))[
            :MOST_PAIRS
        ]
    ]
    return {
        "title": finding.title,
        "severity": finding.severity.value,
        "cure": finding.cure,
        "count": len(finding.texts),
        "pairs": pairs,
        "texts": [] if pairs else finding.texts[:MOST_PAIRS],
        "shown": min(len(finding.texts), MOST_PAIRS),
    }


def _check(check: Check) -> dict[str, str]:
    return {"what": check.what[:1].upper() + check.what[1:], "text": check.text}


def _fold_table(manifest: Manifest, fold_N: np.ndarray, *, leaks: bool) -> dict[str, Any]:
    """Return the counts of groups, images and each class, with one column per fold."""
    train = manifest.train
    classes = manifest.classes
    groups = plural(manifest.group_name)
    label_N = train["label_raw"].to_numpy()
    group_N = train["group"].to_numpy()
    count_KC = class_counts(label_N, fold_N, len(classes))
    num_folds = len(count_KC)
    # Folds are made from the original labels, so the table counts those.
    groups_K = [len(set(group_N[fold_N == fold])) for fold in range(num_folds)]
    groups_C = [len(set(group_N[label_N == label])) for label in range(len(classes))]
    num_groups = f"{len(set(group_N)):,}"
    lines: list[tuple[str, Sequence[int], str]] = [
        (groups, groups_K, num_groups),
        ("images", count_KC.sum(axis=1).tolist(), num_groups),
        *(
            (classes[label], count_KC[:, label].tolist(), f"{groups_C[label]:,}")
            for label in map(int, np.flatnonzero(count_KC.sum(axis=0)))
        ),
    ]
    return {
        "header": [
            "number of",
            *[f"fold {fold}" for fold in range(num_folds)],
            "even share",
            f"{groups} in total",
        ],
        "rows": [
            [name, *[f"{count:,}" for count in counts], f"{np.mean(counts):,.1f}", of]
            for name, counts, of in lines
        ],
        "lines": balance_lines(label_N, group_N, fold_N, classes=classes, leaks=leaks),
    }


def _sheets(seen: Exploration) -> tuple[list[dict[str, Any]], int]:
    """Return images of each class, and the number of classes that are not shown.

    If there are too many classes, the most frequent ones are left out.
    """
    train = seen.manifest.train
    classes = seen.manifest.classes
    counts = train["label"].value_counts()
    shown = sorted(counts.index[::-1][:MOST_TILES])
    each = int(np.clip(MOST_TILES // len(shown), 1, TILES_A_CLASS))
    drawn = train.sample(frac=1, random_state=0)
    drawn = drawn.assign(turn=drawn.groupby(["label", "group"]).cumcount()).sort_values(
        "turn", kind="stable"
    )
    group_name = seen.manifest.group_name
    sheets = []
    for label in shown:
        rows = drawn.index[drawn["label"] == label][:each]
        num_groups = train.loc[train["label"] == label, "group"].nunique()
        sheets.append(
            {
                "name": classes[label],
                "text": f"{counts[label]:,} images of {counted(num_groups, group_name)}",
                "tiles": [
                    _tile(seen.images, int(row), classes, seen.manifest.levels) for row in rows
                ],
            }
        )
    return sheets, len(counts) - len(shown)


def _adversarial_rows(seen: Exploration) -> list[list[str]]:
    if seen.adversarial is None:
        return []
    part_N = seen.images["part"].to_numpy()
    of_train = seen.statistic_NS[part_N == "train"].mean(axis=0)
    of_test = seen.statistic_NS[part_N == "test"].mean(axis=0)
    return [
        [
            STATISTICS[index],
            f"{seen.adversarial.single_S[index]:.3f}",
            f"{seen.adversarial.lost_S[index]:+.3f}",
            f"{of_train[index]:.4g}",
            f"{of_test[index]:.4g}",
        ]
        for index in np.argsort(-seen.adversarial.lost_S)
    ]


def _auc_strip(seen: Exploration) -> dict[str, Any] | None:
    """Return the AUC of train against test as a strip, above what chance gives."""
    result = seen.adversarial
    if result is None:
        return None
    low = float(result.chance_T.min())
    high = float(result.chance_T.max())
    found = Strip(f"AUC {result.auc:.3f}", result.auc, is_main=True)
    chance = Strip(f"by chance {low:.3f} to {high:.3f}", low=low, high=high)
    scale = scale_over([result.auc, low, high], include=(0.5, 1.0))
    rows = [
        {"name": name, "strip": strip_html(strip, scale), "text": text, "is_main": strip.is_main}
        for name, strip, text in (
            ("train against test", found, f"{result.auc:.3f}"),
            (f"{len(result.chance_T)} random draws", chance, f"{low:.3f} to {high:.3f}"),
        )
    ]
    return {"rows": rows, "axis": axis_html(scale), "is_cut": scale.is_cut}


def audit_page(seen: Exploration, fold_RN: np.ndarray, overview: Overview, *, leaks: bool) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    seen
        Results of the exploration.
    fold_RN
        Fold of each training row in each repeat.
    overview
        The checks, and the findings by severity.
    leaks
        Whether the split puts images of one group into several folds.
    """
    manifest = seen.manifest
    train = manifest.train
    sizes = seen.images["part"].value_counts()
    groups = plural(manifest.group_name)
    sheets, hidden_classes = _sheets(seen)
    context: Mapping[str, Any] = {
        "title": f"Audit of {manifest.name}",
        "about": (
            f"{len(train):,} training images of {train['group'].nunique():,} {groups};"
            f" {train['label'].nunique()} of {manifest.num_classes} classes occur;"
            f" {sizes.get('test', 0):,} test images"
            + (f"; {sizes[PART]:,} images for training only" if PART in sizes else "")
        ),
        "groups": groups,
        "notes": manifest.notes,
        "headline": overview.headline(),
        "sentence": overview.sentence(),
        "severities": [(one.value, _MEANING[one]) for one in Severity],
        "findings": [
            _finding(one, seen.images, manifest.classes, manifest.levels)
            for one in overview.findings
        ],
        "fine": [_check(one) for one in overview.with_outcome(Outcome.FINE)],
        "sensitivity": [one.line for one in overview.with_outcome(Outcome.FOUND) if one.line],
        "open": [_check(one) for one in overview.with_outcome(Outcome.UNABLE, Outcome.NOT_MADE)],
        "fold_tables": [
            _fold_table(manifest, fold_N, leaks=leaks) | {"figure": fold_figure(manifest, fold_N)}
            for fold_N in fold_RN
        ],
        "sizes": sizes.to_dict(),
        "facts": facts(seen),
        "figures": distribution_figures(seen),
        "adversarial_lines": [line.strip() for line in seen.adversarial_lines()],
        "adversarial_rows": _adversarial_rows(seen),
        "auc": _auc_strip(seen),
        "num_draws": 0 if seen.adversarial is None else len(seen.adversarial.chance_T),
        "corrected": bool((train["label"] != train["label_raw"]).any()),
        "sheets": sheets,
        "hidden_classes": hidden_classes,
    }
    return render_page("audit.html", **context)
