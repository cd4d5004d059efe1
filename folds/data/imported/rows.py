"""Comparison of imported rows with the images of the data, and their folds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from foldblend.errors import UserError, counted, listed
from folds.config import DataConfig
from folds.data.imported.known import KnownData
from folds.data.imported.tables import FOLD, PredictionTable
from folds.data.labelled import spelt
from folds.fold_file import ids_as_in_data, read_fold_file
from folds.split import split_groups

__all__ = ["check_labels", "folds_of", "in_fold_order", "order_of_rows"]


def order_of_rows(found: PredictionTable, wanted: Sequence[str], what: str) -> np.ndarray:
    """Return the row number of each wanted image in each repeat, R x N.

    Parameters
    ----------
    found
        The predictions.
    wanted
        Ids of all images, each once.
    what
        What has these images, for messages.

    Raises
    ------
    UserError
        With the lines of rows that occur twice or are of other images, or with images that have no
        row.
    """
    ids = ids_as_in_data(found.ids, wanted).to_numpy()
    place_N = pd.Index(wanted).get_indexer(pd.Index(ids))
    unknown_N = place_N < 0
    if unknown_N.any():
        first = listed(dict.fromkeys(ids[unknown_N]))
        raise UserError(
            f"{found.name}: {found.at(unknown_N)}: {counted(int(unknown_N.sum()), 'row')} of images"
            f" that are not in {what} ({first}); remove them, or correct column {found.column!r}"
        )
    num_repeats = int(found.repeat_N.max()) + 1
    order_RN = np.full((num_repeats, len(wanted)), -1)
    keys = found.repeat_N * len(wanted) + place_N
    twice_N = pd.Series(keys).duplicated(keep=False).to_numpy()
    if twice_N.any():
        first_N = twice_N & (keys == keys[twice_N.argmax()])
        within = f" in repeat {found.repeat_N[first_N][0]}" if num_repeats > 1 else ""
        num = len(np.unique(keys[twice_N]))
        more = f" ({num - 1:,} more images like it)" if num > 1 else ""
        raise UserError(
            f"{found.name}: image {ids[first_N][0]!r} occurs more than once{within}, in"
            f" {found.at(first_N)}{more}; keep one row per image"
        )
    order_RN.ravel()[keys] = np.arange(len(ids))
    absent_RN = order_RN < 0
    if absent_RN.any():
        repeat = int(absent_RN.any(axis=1).argmax())
        names = [wanted[place] for place in np.flatnonzero(absent_RN[repeat]).tolist()]
        within = f" in repeat {repeat}" if num_repeats > 1 else ""
        raise UserError(
            f"{found.name}: no row for {counted(len(names), 'image')} of {what}{within}"
            f" ({listed(names)}); add their predictions"
        )
    return order_RN


def check_labels(
    found: PredictionTable, known: KnownData, order_RN: np.ndarray, config: DataConfig
) -> list[str]:
    """Return a warning on a column of labels that cannot be compared with those of the data.

    Raises UserError with the line if it has another class than the data, which shows rows that were
    shuffled.
    """
    column = config.label_col
    cells = found.table.cells
    if column not in cells or column in (found.column, FOLD, *known.classes):
        return []
    words_N = np.array(spelt(cells[column].tolist(), known.classes, config), dtype=object)
    if not {*words_N} & {*known.classes}:
        return [
            f"{found.name}: column {column!r} has no class of the data, so it was not compared with"
            " their labels"
        ]
    names = np.array(known.classes, dtype=object)[known.train["label_raw"]]
    for order_N in order_RN:
        odd = np.flatnonzero(words_N[order_N] != names)
        if len(odd):
            line = found.table.at(found.ids.index[[order_N[odd[0]]]])
            raise UserError(
                f"{found.name}: {line}: column {column!r} is {words_N[order_N[odd[0]]]!r}, but"
                f" {known.source} has {names[odd[0]]!r} for {known.train['image_id'][odd[0]]}"
                f" ({counted(len(odd), 'row')} differ); correct the order of the rows"
            )
    return []


def folds_of(
    found: PredictionTable, known: KnownData, order_RN: np.ndarray, file: str | None
) -> np.ndarray:
    """Return the fold of each image of the data in each repeat, R x N.

    It is that of --folds, else of the column `fold`, else of the run that is the data.

    Raises
    ------
    UserError
        If there are none, they do not fit, they differ, or a group is in two folds.
    """
    num_repeats = len(order_RN)
    own = None if found.fold is None else _of_column(found, known, order_RN)
    if file is not None:
        given = read_fold_file(
            file, known.train, flag="--folds", leaks=known.leaks, group_name=known.group_name
        )
        where = f"{file} (--folds)"
    elif own is not None:
        return own
    elif known.fold_RN is not None:
        given = known.fold_RN
        where = f"{known.source} (--labels)"
    else:
        raise UserError(
            f"{found.name}: has no column {FOLD!r}; add the fold in which each image was held out,"
            " or pass --folds with a table of image_id and fold, or a run's folder"
        )
    if len(given) != num_repeats:
        cure = "" if "repeat" in found.table.cells else ", in a column repeat"
        raise UserError(
            f"{found.name}: has {counted(num_repeats, 'repeat')}, but {where} has {len(given)};"
            f" give a row per image and repeat{cure}"
        )
    if own is not None and (own != given).any():
        repeat, place = np.argwhere(own != given)[0]
        line = found.table.at(found.ids.index[[order_RN[repeat, place]]])
        raise UserError(
            f"{found.name}: {line}: fold {found.fold.iloc[order_RN[repeat, place]]} of"  # type: ignore[union-attr]
            f" {known.train['image_id'][place]} is another one in {where}; leave one of the two out"
        )
    return given


def _of_column(found: PredictionTable, known: KnownData, order_RN: np.ndarray) -> np.ndarray:
    """Return the folds in the column of the predictions, numbered from 0 on."""
    fold_RN = np.unique(found.table.whole_numbers(FOLD), return_inverse=True)[1][order_RN]
    num_folds = int(fold_RN.max()) + 1
    if num_folds < 2:
        raise UserError(
            f"{found.name}: column {FOLD!r} has only one fold; cross-validation needs at least 2"
        )
    for repeat, fold_N in enumerate(fold_RN):
        within = f" in repeat {repeat}" if len(fold_RN) > 1 else ""
        if len(np.unique(fold_N)) < num_folds:
            raise UserError(
                f"{found.name}: has {len(np.unique(fold_N))} of {num_folds} folds{within}; give all"
                " repeats the same number"
            )
        split = [] if known.leaks else split_groups(fold_N, known.groups)
        if split:
            rows_N = order_RN[repeat][known.groups.astype(str) == split[0]]
            lines = found.table.at(found.ids.index[np.sort(rows_N)])
            raise UserError(
                f"{found.name}: {known.group_name} {listed(split)} is in more than one fold{within}"
                f" ({lines}); models must not be trained on other images of a"
                f" {known.group_name} that they predict"
            )
    return fold_RN


def in_fold_order(files: Sequence[str]) -> list[int]:
    """Return the order of files by the number in their names that is that of their fold.

    It is the only number in which the names differ, or the paths where the names are equal. Files
    without such a number keep their order.

    Examples
    --------
    >>> in_fold_order(["test_fold_0.csv", "test_fold_10.csv", "test_fold_2.csv"])
    [0, 2, 1]
    >>> in_fold_order(["fold_0/test.csv", "fold_10/test.csv", "fold_2/test.csv"])
    [0, 2, 1]
    """
    places = [*range(len(files))]
    names = [Path(one).name for one in files]
    parts = [re.split(r"(\d+)", one) for one in (files if len({*names}) == 1 else names)]
    # Words stand at even places, numbers at odd ones.
    if len({tuple(one[::2]) for one in parts}) != 1:
        return places
    numbers = zip(*(one[1::2] for one in parts), strict=True)
    differ = [column for column in numbers if len({*column}) > 1]
    if len(differ) != 1 or len({*map(int, differ[0])}) < len(files):
        return places
    return sorted(places, key=lambda place: int(differ[0][place]))
