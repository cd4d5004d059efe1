"""Differences between the data of an earlier run and the data at hand, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.errors import UserError, counted, listed
from foldblend.runs.tables import TableReader
from foldblend.tables import read_text_table
from foldblend.words import plural
from folds.data.manifest import Manifest

__all__ = ["changed_data", "changed_rows"]

# Counts of the data record in run.json that are shown if they differ.
COUNTS = {"num_test": "test images", "num_images": "training images", "num_groups": "{groups}"}


def _changes(
    titles: Mapping[str, str], old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[str]:
    return [
        f"{title}: {old[key]} -> {new[key]}"
        for key, title in titles.items()
        if key in old and key in new and old[key] != new[key]
    ]


def changed_data(
    folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], data: Manifest
) -> str:
    """Return what differs between the data of a run in a folder and the data at hand.

    Parameters
    ----------
    folder
        The run folder; files that it lacks are not compared.
    old, new
        Its run.json, and the new one.
    data
        The data at hand.
    """
    groups = plural(new["data"].get("group_name", "group"))
    titles = {key: title.format(groups=groups) for key, title in COUNTS.items()}
    parts = _changes(titles, old.get("data", {}), new["data"])
    parts += _changed_classes(old.get("classes", []), data.classes)
    rows = _read(folder / "folds.csv", lambda file: read_text_table(file).cells)
    if rows is not None and {"image_id", "group", "label", "repeat"} <= {*rows}:
        rows = rows[rows["repeat"].astype(int) == 0]
        names = dict(enumerate(map(str, old.get("classes", []))))
        rows = rows.assign(label=rows["label"].astype(int).map(names))
        here = data.labelled.assign(label=[data.classes[one] for one in data.labelled["label"]])
        parts += changed_rows(rows, here, "training image")
        parts += _changed_cells(rows, here, "label", classes={*names.values()} & {*data.classes})
        parts += _changed_cells(rows, here, "group")
    images = _read(folder, lambda folder: TableReader(folder, old, {}).read("pictures"))
    for part, table in (("train", data.train), ("test", data.test)):
        if images is None or table is None:
            continue
        rows = images[images["part"] == part]
        if part == "test":
            parts += changed_rows(rows, table, "test image")
        parts += _changed_boxes(rows, table, part)
        parts += _changed_files(rows, table, part)
    # The name alone does not make different data, so it is shown in addition.
    parts = parts or ["labels or image files changed" if rows is None else "image files changed"]
    return ", ".join([*parts, *_changes({"name": "name"}, old.get("data", {}), new["data"])])


def _read(file: Path, read: Callable[[Path], pd.DataFrame]) -> pd.DataFrame | None:
    """Return a table of a run folder, or None if it is absent or broken."""
    try:
        return read(file)
    except UserError:
        return None


def _changed_classes(old: Iterable[str], new: Iterable[str]) -> list[str]:
    """Return sentences on classes.

    Examples
    --------
    >>> _changed_classes(["cat", "dog"], ["cat", "owl"])
    ["new classes: 'owl'", "classes gone: 'dog'"]
    >>> _changed_classes(["cat", "dog"], ["dog", "cat"])
    ['another order of the classes']
    """
    before = [*old]
    after = [*new]
    if not before:  # a run.json without classes
        return []
    added = [repr(name) for name in after if name not in before]
    gone = [repr(name) for name in before if name not in after]
    parts = [f"new classes: {listed(added)}"] if added else []
    parts += [f"classes gone: {listed(gone)}"] if gone else []
    return parts or (["another order of the classes"] if before != after else [])


def changed_rows(old: pd.DataFrame, new: pd.DataFrame, noun: str) -> list[str]:
    """Return sentences on images that one of two tables lacks, or that are in another order.

    Examples
    --------
    >>> old = pd.DataFrame({"image_id": ["a", "b"]})
    >>> changed_rows(old, pd.DataFrame({"image_id": ["b", "c"]}), "test image")
    ['1 new test image: c', '1 test image gone: a']
    """
    before = pd.Index(old["image_id"])
    after = pd.Index(new["image_id"])
    added = after[~after.isin(before)]
    gone = before[~before.isin(after)]
    parts = [f"{counted(len(added), f'new {noun}')}: {listed(added)}"] if len(added) else []
    parts += [f"{counted(len(gone), noun)} gone: {listed(gone)}"] if len(gone) else []
    if not parts and list(before) != list(after) and noun == "test image":
        parts = ["another order of the test images"]
    return parts


def _pairs(old: pd.DataFrame, new: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a column of the images of two tables as `before` and `after`, by image_id."""
    if column not in old or column not in new:
        return pd.DataFrame(columns=["before", "after"])
    before = old.set_index("image_id")[column].rename("before")
    return pd.concat(
        [before, new.set_index("image_id")[column].rename("after")], axis=1, join="inner"
    )


def _changed_cells(
    old: pd.DataFrame, new: pd.DataFrame, column: str, classes: Iterable[str] | None = None
) -> list[str]:
    """Return a sentence on changed values; of labels only where both classes are in `classes`."""
    pairs = _pairs(old, new, column)
    changed = pairs[pairs["before"].astype(str) != pairs["after"].astype(str)]
    if classes is not None:
        changed = changed[changed[["before", "after"]].isin([*classes]).all(axis=1)]
    if changed.empty:
        return []
    name = changed.index[0]
    first = f"{changed['before'].iloc[0]!r} -> {changed['after'].iloc[0]!r}"
    return [f"{counted(len(changed), column)} changed, first of {name}: {first}"]


def _changed_boxes(old: pd.DataFrame, new: pd.DataFrame, part: str) -> list[str]:
    if ("box" in old) != ("box" in new):
        return [f"{'boxes are new' if 'box' in new else 'boxes are gone'} ({part})"]
    pairs = _pairs(old, new, "box")
    changed = [
        name
        for name, before, after in pairs.itertuples()
        if not np.array_equal(np.asarray(before, float), np.asarray(after, float))
    ]
    boxes = "1 box" if len(changed) == 1 else f"{len(changed):,} boxes"
    return [f"{boxes} changed: {listed(changed)}"] if changed else []


def _changed_files(old: pd.DataFrame, new: pd.DataFrame, part: str) -> list[str]:
    pairs = _pairs(old, new, "content")
    changed = pairs.index[pairs["before"] != pairs["after"]]
    what = "training image file" if part == "train" else "test image file"
    return [f"{counted(len(changed), what)} changed: {listed(changed)}"] if len(changed) else []
