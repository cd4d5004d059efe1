"""Reader of existing folds: the folds.csv of another run, or any CSV of images and folds.

Rows of fold -1 are for training only, as in scikit-learn's PredefinedSplit: they are never held
out.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from foldblend.errors import UserError, listed
from foldblend.files import exists, home, is_file
from foldblend.runs.folder import file_hash
from foldblend.runs.schema import read_info
from foldblend.tables import read_text_table
from foldblend.words import tidy
from folds.split import split_groups

__all__ = ["TRAINING_ONLY", "ids_as_in_data", "read_fold_file", "training_only_rows"]

TRAINING_ONLY = -1
"""Number of the fold of rows that are for training only."""


def _codes(numbers: np.ndarray) -> np.ndarray:
    """Return numbers as codes 0, 1, ... without gaps; TRAINING_ONLY stays as it is."""
    known = np.unique(numbers[numbers != TRAINING_ONLY])
    code_N = np.searchsorted(known, numbers)
    return np.where(numbers == TRAINING_ONLY, TRAINING_ONLY, code_N)


def ids_as_in_data(ids: pd.Series, known: Collection[str]) -> pd.Series:
    """Return ids as the data have them, where they differ in blanks, Unicode form or slashes."""

    def key(name: str) -> str:
        return tidy(name).replace("\\", "/").removeprefix("./")

    exact = {*known}
    if exact >= {*ids}:
        return ids
    meant = {key(name): name for name in known}
    return ids.map(lambda name: name if name in exact else meant.get(key(name), name))


def _arrange(
    table: pd.DataFrame,
    train: pd.DataFrame,
    *,
    source: str,
    leaks: bool = False,
    group_name: str = "group",
) -> np.ndarray:
    """Return the fold of each training row, R x N, from a table of image_id, repeat and fold.

    Raises UserError with the rows if the table lacks images, has unknown images or lists images
    twice, if repeats differ in their number of folds, or if a group is in two folds (unless
    `leaks`).
    """
    rows = []
    folds = {}
    for repeat, part in table.groupby("repeat"):
        ids = part["image_id"]
        where = f"{source}: repeat {repeat}: " if table["repeat"].max() else f"{source}: "
        for what, odd in (
            ("lists images twice", ids[ids.duplicated()]),
            ("lacks images of the data", train.loc[~train["image_id"].isin(ids), "image_id"]),
            ("has images that are not in the data", ids[~ids.isin(train["image_id"])]),
        ):
            if len(odd):
                raise UserError(
                    f"{where}{what} ({len(odd)}: {listed(odd)}); pass folds of the same data"
                )
        fold_N = part.set_index("image_id").loc[train["image_id"], "fold"].to_numpy(np.int64)
        leaking = [] if leaks else split_groups(fold_N, train["group"].to_numpy())
        if leaking:
            raise UserError(
                f"{where}{group_name} {listed(leaking)} is in more than one fold; put each"
                f" {group_name} in one"
            )
        rows.append(fold_N)
        folds[repeat] = set(fold_N.tolist())
    if any(one != folds[0] or one != set(range(len(one))) for one in folds.values()):
        raise UserError(
            f"{source}: repeats differ in their number of folds; give all repeats the same number"
        )
    if len(folds[0]) < 2:
        raise UserError(f"{source}: has only one fold; cross-validation needs at least 2")
    return np.stack(rows)


def _check_unchanged(folder: Path, file: Path, source: str) -> None:
    """Raise UserError if the folds.csv of a run is not the one that the run was made with."""
    if is_file(file) and is_file(folder / "run.json"):
        known = read_info(folder).get("folds_hash")
        if known not in (None, file_hash(file)):
            raise UserError(
                f"{source}: has changed since the run was made; restore it, or pass the file"
                " instead of the folder to use its folds as they are"
            )


def read_fold_file(
    path: str | Path,
    train: pd.DataFrame,
    *,
    flag: str = "",
    leaks: bool = False,
    group_name: str = "group",
) -> np.ndarray:
    """Read the folds of the training rows from a CSV file or a run folder.

    Parameters
    ----------
    path
        CSV with the columns image_id, fold and optionally repeat, or a run folder with a folds.csv.
        Fold numbers may start at any number and have gaps. Rows of fold -1 are for images that
        `train` does not have (see `training_only_rows`).
    train
        Rows to hold out, with the columns image_id and group.
    flag
        Command-line flag that gave the path; it is shown in error messages.
    leaks
        Accept groups that are in several folds.
    group_name
        What a group is, in the singular, for messages.

    Returns
    -------
    np.ndarray
        Fold 0, 1, ... of each training row in each repeat, R x N.

    Raises
    ------
    UserError
        For folds that do not fit the training rows, or a file that is not a CSV of folds.
    """
    table, source = _read(path, flag)
    table["image_id"] = ids_as_in_data(table["image_id"], train["image_id"].tolist())
    alone = _check_training_only(table, source)
    odd = train.loc[train["image_id"].isin(alone), "image_id"]
    if len(odd):
        raise UserError(
            f"{source}: {listed(odd)} has fold -1 (training only), but is to be scored here;"
            " give it a fold, or leave it out of the data"
        )
    table = table[table["fold"] != TRAINING_ONLY]
    return _arrange(table, train, source=source, leaks=leaks, group_name=group_name)


def training_only_rows(path: str | Path, ids: pd.Series, *, flag: str = "") -> pd.Series:
    """Return the images of fold -1 of a file of folds, as `ids` name them where they have them.

    Parameters
    ----------
    path
        As of `read_fold_file`.
    ids
        Images of the data.
    flag
        Command-line flag that gave the path; it is shown in error messages.

    Raises
    ------
    UserError
        If all rows have fold -1, or an image has it in some repeats only.
    """
    table, source = _read(path, flag)
    table["image_id"] = ids_as_in_data(table["image_id"], ids.tolist())
    return pd.Series(sorted(_check_training_only(table, source)), dtype=object)


def _check_training_only(table: pd.DataFrame, source: str) -> set[str]:
    """Return the images of fold -1; raise UserError where there is no other, or by repeat."""
    alone = table["fold"] == TRAINING_ONLY
    if alone.all():
        raise UserError(
            f"{source}: all rows have fold -1 (training only), so none would be scored; give at"
            " least two groups a fold of 0 or more"
        )
    ids = {*table.loc[alone, "image_id"]}
    twice = table.loc[alone & table.duplicated(["image_id", "repeat"]), "image_id"]
    if len(twice):
        raise UserError(f"{source}: lists images twice ({listed(twice)}); keep one row per image")
    num_repeats = table["repeat"].nunique()
    times = table.loc[alone].groupby("image_id")["repeat"].nunique()
    odd = [name for name, num in times.items() if num < num_repeats]
    odd += sorted(ids & {*table.loc[~alone, "image_id"]} - {*odd})
    if odd:
        raise UserError(
            f"{source}: {listed(odd)} has fold -1 (training only) in some rows or repeats, but not"
            " in all; give it -1 in every repeat or in none"
        )
    return ids


def _read(path: str | Path, flag: str) -> tuple[pd.DataFrame, str]:
    """Return the image_id, fold and repeat of each row of a file of folds, and its name."""
    place = home(path)
    file = place / "folds.csv" if exists(place) and place.is_dir() else place
    source = f"{file} ({flag})" if flag else str(file)
    if file != place:
        _check_unchanged(place, file, source)
    try:
        table = read_text_table(file)
        cells = table.filled(["fold", "image_id"])
    except UserError as error:
        raise UserError(str(error).replace(str(file), source, 1)) from None
    if cells.empty:
        raise UserError(f"{source}: has no rows; pass a file with rows or leave the flag out")
    repeat = _codes(table.whole_numbers("repeat")) if "repeat" in cells else 0
    fold = _codes(table.whole_numbers("fold", also={TRAINING_ONLY: "training only"}))
    return cells[["image_id"]].assign(fold=fold, repeat=repeat), source
