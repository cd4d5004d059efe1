"""Folds made elsewhere: another run's folds.csv, or any CSV that names images and folds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from foldblend.errors import UserError, listed
from foldblend.tables import read_csv_text
from folds.split import split_groups

__all__ = ["read_fold_file"]


def _codes(words: pd.Series, file: Path, column: str) -> np.ndarray:
    """Return whole numbers of any start as 0.. without gaps."""
    bad = words[~words.str.strip().str.fullmatch(r"\d{1,9}")]
    if len(bad):
        lines = listed(bad.index + 2)
        raise UserError(
            f"{file}: column {column!r} is no whole number, 0 or more, in line {lines}; mend the"
            " lines"
        )
    return np.unique(words.str.strip().astype(int), return_inverse=True)[1]


def _arrange(
    table: pd.DataFrame, train: pd.DataFrame, *, source: str, leaks: bool = False
) -> np.ndarray:
    """Return the fold of each training row, repeats x N, from rows of image_id, repeat and fold
    (0..).

    Raises UserError, naming rows, where the table lacks images, has others or some twice, where
    repeats differ in their number of folds, or (unless `leaks`) where a group stands in two folds.
    """
    rows = []
    folds = {}
    for repeat, part in table.groupby("repeat"):
        ids = part["image_id"]
        where = f"{source}: repeat {repeat}: " if table["repeat"].max() else f"{source}: "
        for what, odd in (
            ("names images twice", ids[ids.duplicated()]),
            ("lacks images", train.loc[~train["image_id"].isin(ids), "image_id"]),
            ("has images that the data have not", ids[~ids.isin(train["image_id"])]),
        ):
            if len(odd):
                raise UserError(
                    f"{where}{what} ({len(odd)}: {listed(odd)}); pass the folds of these very data"
                )
        fold_N = part.set_index("image_id").loc[train["image_id"], "fold"].to_numpy(np.int64)
        torn = [] if leaks else split_groups(fold_N, train["group"].to_numpy())
        if torn:
            raise UserError(
                f"{where}group {listed(torn)} stands in more than one fold; put each into one"
            )
        rows.append(fold_N)
        folds[repeat] = set(fold_N.tolist())
    if any(one != folds[0] or one != set(range(len(one))) for one in folds.values()):
        raise UserError(
            f"{source}: repeats differ in their folds; give every repeat the same number"
        )
    if len(folds[0]) < 2:
        raise UserError(f"{source}: has one fold only; cross-validation needs at least 2")
    return np.stack(rows)


def read_fold_file(
    path: str | Path, train: pd.DataFrame, *, flag: str = "", leaks: bool = False
) -> np.ndarray:
    """Return the folds that a CSV (image_id, fold, perhaps repeat) or a run folder gives, repeats x
    N.

    Numbers may start anywhere; `flag` is the one that named the file, if one did. Raises UserError,
    naming rows, for folds that do not fit the training rows, or for what is no such file.
    """
    file = Path(path) / "folds.csv" if Path(path).is_dir() else Path(path)
    source = f"{file} ({flag})" if flag else str(file)
    table = read_csv_text(file)
    absent = {"image_id", "fold"} - set(table.columns)
    if absent:
        raise UserError(
            f"{source}: no column {listed(sorted(absent))}; it has {listed(table.columns, most=9)}"
        )
    if table.empty:
        raise UserError(f"{source}: has no rows; fill it or leave the flag out")
    repeat = _codes(table["repeat"], file, "repeat") if "repeat" in table else 0
    coded = table[["image_id"]].assign(fold=_codes(table["fold"], file, "fold"), repeat=repeat)
    return _arrange(coded, train, source=source, leaks=leaks)
