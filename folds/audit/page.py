"""The audit's page: findings, folds, distributions and images of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from foldblend.errors import counted
from foldblend.images import Levels, boxes_of, read_image
from foldblend.words import plural
from folds.audit.checks import NO_PROBLEMS
from folds.audit.exploration import Exploration
from folds.audit.findings import Finding
from folds.audit.statistics import STATISTICS
from folds.data.manifest import Manifest, extra_columns
from folds.data.training_only import PART
from folds.evenness import balance_lines, class_counts
from reports.figures import bars, histograms
from reports.html import render_page, thumbnail

__all__ = ["audit_page"]

MOST_PAIRS = 40
MOST_BARS = 40
MOST_TILES = 400
TILES_A_CLASS = 10


def _tile(images: pd.DataFrame, row: int, classes: Sequence[str], levels: Levels) -> dict[str, str]:
    about = images.iloc[row]
    box = boxes_of(images.iloc[[row]])[0]
    image = read_image(about["path"], box, checked=True, levels=levels)
    label = "test" if about["label"] < 0 else classes[int(about["label"])]
    return {"src": thumbnail(image), "name": str(about["image_id"]), "label": label}


def _finding(
    finding: Finding, images: pd.DataFrame, classes: Sequence[str], levels: Levels
) -> dict[str, Any]:
    shown = [
        {
            "left": _tile(images, left, classes, levels),
            "right": _tile(images, right, classes, levels),
            "text": text,
        }
        for (left, right), text in list(zip(finding.pairs, finding.texts, strict=True))[:MOST_PAIRS]
    ]
    return {
        "title": finding.title,
        "cure": finding.cure,
        "count": len(finding.pairs),
        "pairs": shown,
    }


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
            "",
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


def _count_figure(
    value_N: np.ndarray, names: Sequence[str], group_N: np.ndarray, what: str, groups: str
) -> dict[str, Any]:
    """Return a bar chart of the images and groups (by their plural) of each value that occurs."""
    occurs = np.unique(value_N)
    images = [int((value_N == value).sum()) for value in occurs]
    num_groups = [len(set(group_N[value_N == value])) for value in occurs]
    shown = (
        np.argsort(-np.array(images), kind="stable")[:MOST_BARS]
        if len(occurs) > MOST_BARS
        else range(len(occurs))
    )
    left_out = (
        f"; the {MOST_BARS} most frequent of {len(occurs)}" if len(occurs) > MOST_BARS else ""
    )
    svg = bars(
        [names[occurs[index]] for index in shown],
        {
            "images": [images[index] for index in shown],
            groups: [num_groups[index] for index in shown],
        },
        xlabel="number",
    )
    caption = f"{what} (n = {len(value_N):,} images of {len(set(group_N)):,} {groups}{left_out})"
    return {"svg": svg, "caption": caption}


def _size_figure(seen: Exploration) -> dict[str, Any]:
    sizes = pd.DataFrame(seen.statistic_NS[:, :2].astype(int), columns=["width", "height"])
    words = sizes["width"].astype(str) + " x " + sizes["height"].astype(str)
    common = words.value_counts().index[:8]
    words = words.where(words.isin(common), "other")
    names = [*common, *(["other"] if (words == "other").any() else [])]
    parts = seen.images["part"]
    counts = {
        part: [int((words[parts == part] == name).sum()) for name in names]
        for part in parts.unique()
    }
    return {
        "svg": bars(names, counts, xlabel="images"),
        "caption": f"Size in pixels (n = {len(words):,} images)",
    }


def _figures(seen: Exploration) -> list[dict[str, Any]]:
    train = seen.manifest.train
    manifest = seen.manifest
    label_N = train["label"].to_numpy()
    group_N = train["group"].to_numpy()
    group = manifest.group_name
    groups = plural(group)
    figures = [_count_figure(label_N, manifest.classes, group_N, "Classes", groups)]
    for one in manifest.attributes:
        figures.append(
            _count_figure(
                np.asarray(one.of_class)[label_N],
                one.values,
                group_N,
                one.name.capitalize(),
                groups,
            )
        )
    for name in [one for one in extra_columns(train) if is_numeric_dtype(train[one])]:
        values = train.groupby("group")[name].first().dropna().to_numpy(float)
        svg = histograms({"train": values}, xlabel=name, of=groups)
        figures.append(
            {
                "svg": svg,
                "caption": (
                    f"{name.capitalize()}, one value per {group} (n = {len(values):,} {groups})"
                ),
            }
        )
    per_group = pd.Series(group_N).value_counts().value_counts().sort_index()
    names = [f"{size}" for size in per_group.index[:MOST_BARS]]
    svg = bars(names, {groups: per_group.tolist()[:MOST_BARS]}, xlabel=groups)
    figures.append(
        {"svg": svg, "caption": f"Images per {group} (n = {len(set(group_N)):,} {groups})"}
    )
    figures.append(_size_figure(seen))
    parts = seen.images["part"].to_numpy()
    brightness = seen.statistic_NS[:, STATISTICS.index("brightness")]
    svg = histograms(
        {part: brightness[parts == part] for part in np.unique(parts)[::-1]},
        xlabel="mean grey, 0 to 255",
    )
    figures.append({"svg": svg, "caption": f"Brightness (n = {len(parts):,} images)"})
    return figures


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


def audit_page(
    seen: Exploration, fold_RN: np.ndarray, *, leaks: bool, warnings: Sequence[str]
) -> str:
    """Return the page as HTML; `fold_RN` has the fold of each training row in each repeat."""
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
        "warnings": manifest.warnings,
        "unreadable": seen.unreadable,
        "findings": [
            _finding(one, seen.images, manifest.classes, manifest.levels) for one in seen.findings
        ],
        "file_notes": seen.notes,
        "no_problems": NO_PROBLEMS,
        "checks": seen.check_lines(),
        "fold_tables": [_fold_table(manifest, fold_N, leaks=leaks) for fold_N in fold_RN],
        "fold_warnings": list(warnings),
        "sizes": sizes.to_dict(),
        "figures": _figures(seen),
        "adversarial_lines": [line.strip() for line in seen.adversarial_lines()],
        "adversarial_rows": _adversarial_rows(seen),
        "num_draws": 0 if seen.adversarial is None else len(seen.adversarial.chance_T),
        "corrected": bool((train["label"] != train["label_raw"]).any()),
        "sheets": sheets,
        "hidden_classes": hidden_classes,
    }
    return render_page("audit.html", **context)
