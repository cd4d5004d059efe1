"""Figures of the audit's page: distributions of the data, with titles that say what they show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from foldblend.errors import counted
from foldblend.words import plural
from folds.audit.exploration import Exploration
from folds.audit.statistics import STATISTICS
from folds.data.manifest import Manifest, extra_columns
from folds.evenness import class_counts
from reports.figures import bars, dots, histograms

__all__ = ["distribution_figures", "facts", "fold_figure"]

MOST_ROWS = 24
MOST_SIZES = 8
# More folds than this have no markers that can be told apart.
MOST_FOLDS = 5

Figure = dict[str, Any]


def _extremes(names: Sequence[str], counts: Sequence[int], what: str) -> str:
    """Return a title on the rarest and the most frequent value.

    Examples
    --------
    >>> _extremes(["cat", "dog"], [30, 90], "")
    'From 30 images (cat) to 90 (dog)'
    >>> _extremes(["cat", "dog"], [3, 3], "Kind: ")
    'Kind: 3 images of each'
    """
    least = int(np.argmin(counts))
    most = int(np.argmax(counts))
    if len(counts) == 1:
        text = f"all images are {names[0]}"
    elif counts[least] == counts[most]:
        text = f"{counted(counts[0], 'image')} of each"
    else:
        few = counted(counts[least], "image")
        text = f"from {few} ({names[least]}) to {counts[most]:,} ({names[most]})"
    return f"{what}{text}" if what else f"{text[:1].upper()}{text[1:]}"


def _count_figure(
    value_N: np.ndarray, names: Sequence[str], group_N: np.ndarray, what: str, groups: str
) -> Figure:
    """Return dots of the images and groups (by their plural) of each value that occurs."""
    occurs, images = np.unique(value_N, return_counts=True)
    num_groups = pd.Series(group_N).groupby(value_N).nunique().loc[occurs].to_numpy()
    shown = np.arange(len(occurs))
    left_out = ""
    if len(occurs) > MOST_ROWS:
        shown = np.argsort(-images, kind="stable")[:MOST_ROWS]
        left_out = f"; the {MOST_ROWS} most frequent of {len(occurs)}"
    series = {"images": images[shown].tolist()}
    if len(set(group_N)) < len(group_N):
        series[groups] = num_groups[shown].tolist()
    numbers = " and ".join(series)
    shown_names = [names[occurs[index]] for index in shown]
    title = _extremes([names[code] for code in occurs], images.tolist(), f"{what}: ")
    caption = (
        f"Number of {numbers} of each value of {what.lower()} (n = {len(value_N):,} images of"
        f" {len(set(group_N)):,} {groups}{left_out})."
    )
    svg = dots(shown_names, series, xlabel=f"number of {numbers}")
    return {"svg": svg, "title": title, "caption": caption}


def fold_figure(manifest: Manifest, fold_N: np.ndarray) -> Figure | None:
    """Return dots of the images of each class in each fold; None if they could not be told apart.

    `fold_N` has the fold of each training row.
    """
    label_N = manifest.train["label_raw"].to_numpy()
    count_KC = class_counts(label_N, fold_N, manifest.num_classes)
    occurs = np.flatnonzero(count_KC.sum(axis=0))
    if len(count_KC) > MOST_FOLDS or len(occurs) > MOST_ROWS:
        return None
    share_C = count_KC[:, occurs].mean(axis=0)
    off = float(np.abs(count_KC[:, occurs] - share_C).max())
    series = {f"fold {fold}": one[occurs].tolist() for fold, one in enumerate(count_KC)}
    # Equal shares are whole numbers only if the number of images is a multiple of the folds.
    title = (
        "Every fold has its even share of each class, to within an image"
        if off < 1
        else f"Folds are up to {off:.1f} images off the even share of a class"
    )
    caption = f"Images of each class in each fold (n = {counted(len(fold_N), 'image')})."
    svg = dots([manifest.classes[code] for code in occurs], series, xlabel="images")
    return {"svg": svg, "title": title, "caption": caption}


def _per_group(seen: Exploration) -> pd.Series:
    """Return how many groups have each number of images, by that number."""
    sizes = seen.manifest.train["group"].value_counts()
    return sizes.value_counts().sort_index()


def _sizes(seen: Exploration) -> pd.Series:
    """Return the size of each image in words."""
    side_N2 = seen.statistic_NS[:, :2].astype(int)
    return pd.Series([f"{width}x{height}" for width, height in side_N2.tolist()])


def facts(seen: Exploration) -> list[str]:
    """Return sentences on what is the same for all groups or images, and so needs no figure."""
    group = seen.manifest.group_name
    found = []
    per_group = _per_group(seen)
    # Data without groups have a group for every image.
    if len(per_group) == 1 and per_group.index[0] > 1:
        found.append(f"Every {group} has {counted(int(per_group.index[0]), 'image')}.")
    sizes = _sizes(seen).unique()
    if len(sizes) == 1:
        found.append(f"Every image has {sizes[0]} pixels.")
    return found


def _group_size_figure(seen: Exploration) -> Figure | None:
    per_group = _per_group(seen)
    if len(per_group) == 1:
        return None
    group = seen.manifest.group_name
    groups = plural(group)
    common = int(per_group.to_numpy().argmax())
    most = int(per_group.index[common])
    shown = per_group.iloc[:MOST_ROWS]
    left_out = (
        f"; the {MOST_ROWS} smallest of {len(per_group)}" if len(per_group) > MOST_ROWS else ""
    )
    names = [counted(int(size), "image") for size in shown.index]
    return {
        "svg": bars(names, {groups: shown.tolist()}, xlabel=groups),
        "title": (
            f"{per_group.iloc[common]:,} of {counted(int(per_group.sum()), group)} have"
            f" {counted(most, 'image')}"
        ),
        "caption": f"Images per {group} (n = {per_group.sum():,} {groups}{left_out}).",
    }


def _size_figure(seen: Exploration) -> Figure | None:
    sizes = _sizes(seen)
    counts = sizes.value_counts()
    if len(counts) == 1:
        return None
    common = counts.index[:MOST_SIZES]
    words = sizes.where(sizes.isin(common), "other")
    names = [*common, *(["other"] if (words == "other").any() else [])]
    parts = seen.images["part"]
    series = {
        part: [int((words[parts == part] == name).sum()) for name in names]
        for part in parts.unique()
    }
    return {
        "svg": bars(names, series, xlabel="images"),
        "title": f"{counts.iloc[0] / len(sizes):.0%} of the images have {counts.index[0]} pixels",
        "caption": f"Width x height in pixels (n = {counted(len(sizes), 'image')}).",
    }


def _brightness_figure(seen: Exploration) -> Figure:
    part_N = seen.images["part"].to_numpy()
    brightness_N = seen.statistic_NS[:, STATISTICS.index("brightness")]
    values_of = {part: brightness_N[part_N == part] for part in np.unique(part_N)[::-1]}
    medians = ", ".join(f"{np.median(one):.0f} in {part}" for part, one in values_of.items())
    return {
        "svg": histograms(values_of, xlabel="mean grey, 0 to 255"),
        "title": f"Median brightness: {medians}",
        "caption": f"Brightness (n = {counted(len(part_N), 'image')}).",
    }


def _number_figures(manifest: Manifest) -> list[Figure]:
    """Return histograms of the numeric columns of the table of images, such as age."""
    train = manifest.train
    group = manifest.group_name
    groups = plural(group)
    figures = []
    for name in [one for one in extra_columns(train) if is_numeric_dtype(train[one])]:
        value_G = train.groupby("group")[name].first().dropna().to_numpy(float)
        if not len(value_G):
            continue
        what = f"{name[:1].upper()}{name[1:]}"
        low, middle, high = np.quantile(value_G, (0, 0.5, 1))
        figures.append(
            {
                "svg": histograms({"train": value_G}, xlabel=name, of=groups),
                "title": f"{what}: {low:g} to {high:g}, median {middle:g}",
                "caption": f"{what}, one value per {group} (n = {len(value_G):,} {groups}).",
            }
        )
    return figures


def distribution_figures(seen: Exploration) -> list[Figure]:
    """Return the figures of the page, that of the classes first.

    The others are on attributes, numeric columns, sizes of groups and images, and brightness.
    """
    manifest = seen.manifest
    label_N = manifest.train["label"].to_numpy()
    group_N = manifest.train["group"].to_numpy()
    groups = plural(manifest.group_name)
    counts = [("Class", label_N, manifest.classes)]
    for one in manifest.attributes:
        what = f"{one.name[:1].upper()}{one.name[1:]}"
        counts.append((what, np.asarray(one.of_class)[label_N], one.values))
    several = [_group_size_figure(seen), _size_figure(seen)]
    return [
        *(_count_figure(value_N, names, group_N, what, groups) for what, value_N, names in counts),
        *_number_figures(manifest),
        *(figure for figure in several if figure is not None),
        _brightness_figure(seen),
    ]
