"""Reader of a CSV of labelled images with any classes and groups."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from foldblend.attributes import Attribute
from foldblend.errors import UserError, counted, did_you_mean, listed
from foldblend.images import Box
from foldblend.tables import read_csv_text
from folds.data.manifest import ImageTable, Manifest, build_manifest

__all__ = ["read_csv_manifest"]


def _read_columns(file: Path, columns: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Return a CSV as text and check that it has `columns` (flag, column name) without blanks."""
    table = read_csv_text(file)
    for flag, column in columns:
        if column not in table.columns:
            near = did_you_mean(column, table.columns)
            raise UserError(
                f"{file}: no column {column!r} ({flag}); it has"
                f" {listed(table.columns, most=9)}{near}"
            )
        blank = table.index[table[column].str.strip() == ""]
        if len(blank):
            rows = listed(blank + 2)
            raise UserError(
                f"{file}: column {column!r} ({flag}) is blank in line {rows}; fill or remove the"
                " lines"
            )
    return table


def _class_order(words: pd.Series, *, where: str) -> list[str]:
    """Return the distinct labels, ordered by value if all are numbers, else alphabetically."""
    distinct = sorted(words.unique())
    try:
        value = {word: float(word) for word in distinct}
    except ValueError:
        return distinct
    if not all(math.isfinite(number) for number in value.values()):
        return distinct
    ordered = sorted(distinct, key=value.__getitem__)
    for word, following in itertools.pairwise(ordered):
        if value[word] == value[following]:
            raise UserError(
                f"{where}: labels {word!r} and {following!r} are the same number; write it one way"
            )
    return ordered


def _attribute(
    table: pd.DataFrame, words: pd.Series, classes: Sequence[str], column: str, file: Path
) -> Attribute:
    """Return the attribute in a column, after a check that each class has a single value."""
    where = f"{file}: column {column!r} (--attribute-cols)"
    cells = table[column].str.strip()
    values = _class_order(cells, where=where)
    if len(values) < 2:
        raise UserError(f"{where} has only {len(values)} value; leave it out")
    of_class = []
    for name in classes:
        rows = cells[words == name]
        other = rows[rows != rows.iloc[0]]
        if len(other):
            raise UserError(
                f"{where} has several values for one class: of class {name!r}, line"
                f" {rows.index[0] + 2} has {rows.iloc[0]!r} and line {other.index[0] + 2} has"
                f" {other.iloc[0]!r}; correct the lines or leave the column out"
            )
        of_class.append(values.index(rows.iloc[0]))
    return Attribute(name=column, values=tuple(values), of_class=tuple(of_class))


def _box_flags(box_cols: Sequence[str]) -> list[tuple[str, str]]:
    return [("--box-cols", column) for column in box_cols]


def _box_column(table: pd.DataFrame, box_cols: Sequence[str], file: Path) -> dict[str, list[Box]]:
    """Return {"box": one tuple of pixels per row}, or {} without box columns."""
    if not box_cols:
        return {}
    numbers = table[list(box_cols)].apply(pd.to_numeric, errors="coerce")
    x1, y1, x2, y2 = (numbers[column] for column in box_cols)
    bad = table.index[~(np.isfinite(numbers).all(axis=1) & (x1 < x2) & (y1 < y2))]
    if len(bad):
        raise UserError(
            f"{file}: no box in line {listed(bad + 2)} (--box-cols {','.join(box_cols)}): "
            "write four numbers of pixels with x1 < x2 and y1 < y2"
        )
    return {"box": list(zip(*(numbers[column].astype(float) for column in box_cols), strict=True))}


def read_csv_manifest(
    csv: Path,
    *,
    image_col: str = "image",
    label_col: str = "label",
    group_col: str | None = None,
    image_root: Path | None = None,
    test_csv: Path | None = None,
    attribute_cols: Sequence[str] = (),
    box_cols: Sequence[str] = (),
    skip_missing: bool = False,
) -> Manifest:
    """Read labelled images from `csv` and, if given, test images from `test_csv`.

    Parameters
    ----------
    csv
        CSV with one row per labelled image.
    image_col, label_col
        Columns of the image's path and of its class, as words or numbers.
    group_col
        Column of the group; without it every image is a separate group.
    image_root
        Folder that the paths are relative to, by default the folder of the CSV.
    test_csv
        CSV of the test images, with their paths in `image_col`.
    attribute_cols
        Columns of properties that the class implies.
    box_cols
        Four columns of a box in pixels, x1, y1, x2, y2, or none.
    skip_missing
        Skip labelled images whose file is missing, with a warning.

    Returns
    -------
    Manifest
        The checked data set.

    Raises
    ------
    UserError
        With file, column and line, for anything that cannot be used.
    """
    if len(box_cols) not in (0, 4):
        raise UserError(f"--box-cols {','.join(box_cols)}: pass four columns, as x1,y1,x2,y2")
    columns = [("--image-col", image_col), ("--label-col", label_col)]
    columns += [("--group-col", group_col)] if group_col is not None else []
    columns += [("--attribute-cols", column) for column in attribute_cols]
    table = _read_columns(csv, columns + _box_flags(box_cols))
    folder = image_root if image_root is not None else csv.parent
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; check --image-root")
    warnings = []
    if group_col is None:
        warnings.append(
            "no --group-col: every image counts as a separate group, so images of one person or"
            " object may leak between folds, and confidence intervals treat images as independent"
        )
    if skip_missing:
        there = table[image_col].map(lambda name: (folder / name).is_file())
        if not there.all():
            gone = table.loc[~there, image_col]
            warnings.append(
                f"{csv}: {counted(len(gone), 'image')} missing: {listed(gone)}; skipped"
            )
            table = table[there]
    if table.empty:
        raise UserError(f"{csv}: has no row with an image; add rows or check --image-root")
    words = table[label_col].str.strip()
    classes = _class_order(words, where=f"{csv}: column {label_col!r}")
    if len(classes) < 2:
        raise UserError(f"{csv}: column {label_col!r} has 1 class; a classifier needs at least two")
    code = {word: index for index, word in enumerate(classes)}
    test = None
    test_extra = {}
    if test_csv is not None:
        test_table = _read_columns(test_csv, [("--image-col", image_col), *_box_flags(box_cols)])
        test = [(name, folder / name) for name in test_table[image_col]]
        test_extra = _box_column(test_table, box_cols, test_csv)
    found = ImageTable(
        name=csv.stem,
        root=csv,
        image_id=table[image_col].tolist(),
        path=[folder / name for name in table[image_col]],
        group=table[group_col if group_col is not None else image_col].str.strip().tolist(),
        label=[code[word] for word in words],
        test=test,
        classes=classes,
        answers=classes,
        attributes=[_attribute(table, words, classes, column, csv) for column in attribute_cols],
        warnings=warnings,
        extra=_box_column(table, box_cols, csv),
        test_extra=test_extra,
    )
    return build_manifest(found)
