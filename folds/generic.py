"""Reader of any CSV of grouped, labelled pictures: patients, products, plants."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pandas as pd

from folds.errors import UserError, did_you_mean, listed
from folds.manifest import Manifest, build_manifest
from folds.tables import read_csv_text

__all__ = ["read_csv_manifest"]


def _read_columns(file: Path, columns: dict[str, str]) -> pd.DataFrame:
    """Read `columns` (flag -> column name) of a CSV as text, checked for absence and blanks."""
    table = read_csv_text(file)
    for flag, column in columns.items():
        if column not in table.columns:
            near = did_you_mean(column, table.columns)
            raise UserError(f"{file}: no column {column!r} ({flag}); it has {listed(table.columns, most=9)}{near}")
        blank = table.index[table[column].str.strip() == ""]
        if len(blank):
            rows = listed(blank + 2)
            raise UserError(f"{file}: column {column!r} ({flag}) is blank in line {rows}; fill or remove the lines")
    return table


def _class_order(words: pd.Series, *, where: str) -> list[str]:
    """Return the distinct labels: by value if all are numbers, else alphabetically."""
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
            raise UserError(f"{where}: labels {word!r} and {following!r} are the same number; write it one way")
    return ordered


def read_csv_manifest(
    csv: Path,
    *,
    image_col: str = "image",
    label_col: str = "label",
    group_col: str | None = None,
    image_root: Path | None = None,
    test_csv: Path | None = None,
    skip_missing: bool = False,
) -> Manifest:
    """Read labelled pictures from `csv` and, where given, test pictures from `test_csv`.

    Labels are words or numbers, any number of classes from two up. Image paths are taken from
    `image_root`, by default the CSV's folder. Without `group_col` every picture is its own group.
    Raises UserError naming the file, column and line.
    """
    columns = {"--image-col": image_col, "--label-col": label_col}
    if group_col is not None:
        columns["--group-col"] = group_col
    table = _read_columns(csv, columns)
    folder = image_root if image_root is not None else csv.parent
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; check --image-root")
    warnings = []
    if group_col is None:
        warnings.append(
            "no --group-col: every picture is a group of its own, so two of one person may leak between folds, "
            "and intervals are over pictures"
        )
    if skip_missing:
        there = table[image_col].map(lambda name: (folder / name).is_file())
        if not there.all():
            gone = table.loc[~there, image_col]
            warnings.append(f"{csv}: {len(gone)} pictures are missing: {listed(gone)}; skipped")
            table = table[there]
    words = table[label_col].str.strip()
    classes = _class_order(words, where=f"{csv}: column {label_col!r}")
    if len(classes) < 2:
        raise UserError(f"{csv}: column {label_col!r} has {len(classes)} class; a classifier needs two or more")
    code = {word: index for index, word in enumerate(classes)}
    test = None
    if test_csv is not None:
        names = _read_columns(test_csv, {"--image-col": image_col})[image_col]
        test = [(name, folder / name) for name in names]
    return build_manifest(
        name=csv.stem,
        root=csv,
        image_id=table[image_col].tolist(),
        path=[folder / name for name in table[image_col]],
        group=table[group_col if group_col is not None else image_col].str.strip().tolist(),
        label=[code[word] for word in words],
        test=test,
        classes=classes,
        answers=classes,
        warnings=warnings,
    )
