"""Columns of the images of a blend (--meta-cols), read from the run folders of its members."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ensemble.align import Aligned
from foldblend.errors import UserError, counted, did_you_mean, listed
from foldblend.image_columns import ImageColumns, is_empty
from foldblend.runs.image_columns import TEST, TRAIN, RunColumns, read_columns
from foldblend.runs.run import Run

__all__ = ["BlendColumns", "determined_by", "read_for"]

NOT_KEPT = "dates, free text and identifiers are not kept"
AGAIN = "run the same run_cv.py command again, which adds them without training"


@dataclass(frozen=True, slots=True)
class BlendColumns:
    """Columns of the out-of-fold rows and of the test images of a blend."""

    rows: ImageColumns
    """Of the out-of-fold rows, in their order."""
    test: ImageColumns | None
    """Of the test images; None without a test set."""
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """A hash of all cells, for the run key."""
        found = hashlib.blake2b(digest_size=16)
        for part in (self.rows, self.test):
            for name, values_N in sorted({} if part is None else part.values.items()):
                found.update(f"{name}\n{values_N.tolist()}\n".encode())
        return found.hexdigest()


def _members_with(
    runs: Sequence[Run], names: Sequence[str]
) -> dict[str, list[tuple[Run, RunColumns]]]:
    """Return the runs that have each column, with their columns.

    Raises UserError for a column that no run has.
    """
    read = [(run, found) for run in runs if (found := read_columns(run)) is not None]
    if not read:
        raise UserError(
            f"--meta-cols {','.join(names)}: {listed(run.name for run in runs)} have no columns of"
            f" their images, as runs of earlier versions and of data without a table; {AGAIN}"
        )
    known = dict.fromkeys(name for _, found in read for name in found.columns[TRAIN].values)
    absent = [name for name in names if name not in known]
    if absent:
        near = did_you_mean(absent[0], known)
        raise UserError(
            f"--meta-cols {absent[0]}: no run has this column{near}; there are"
            f" {listed(known, most=9)} ({NOT_KEPT})"
        )
    return {
        name: [(run, found) for run, found in read if name in found.columns[TRAIN].values]
        for name in names
    }


def _check_equal(
    name: str, part: str, ids: pd.Series, members: Sequence[tuple[Run, RunColumns]]
) -> np.ndarray:
    """Return a column of these images; raise UserError if runs differ in it."""
    (first, found), *others = members
    values_N = found.of(part, ids, (name,)).values[name]
    for run, other in others:
        other_N = other.of(part, ids, (name,)).values[name]
        # NaN is an empty cell, and equal to itself here.
        pairs = zip(values_N, other_N, strict=True)
        same_N = np.array([a == b or (a != a and b != b) for a, b in pairs], bool)
        if not same_N.all():
            place = int(np.flatnonzero(~same_N)[0])
            raise UserError(
                f"{first.path} and {run.path}: {counted(int((~same_N).sum()), 'image')} differ in"
                f" column {name}; the first is {ids.iloc[place]} ({values_N[place]} and"
                f" {other_N[place]}); run the older one's command again, which trains nothing"
            )
    return values_N


def read_for(aligned: Aligned, names: Sequence[str]) -> BlendColumns:
    """Return the columns of a blend's rows and test images.

    Raises
    ------
    UserError
        For a column that no member has, that members differ in, that is constant, or that the
        test set lacks.
    """
    members = _members_with(aligned.runs, names)
    ids = aligned.rows["image_id"]
    rows = {name: _check_equal(name, TRAIN, ids, members[name]) for name in names}
    label_N = aligned.rows["label"].to_numpy()
    group_N = aligned.rows["group"].to_numpy()
    notes = []
    for name, values_N in rows.items():
        empty_N = is_empty(values_N)
        num_values = len(np.unique(values_N[~empty_N]))
        if num_values < 2 and not (num_values and empty_N.any()):
            what = "all images have the same value" if num_values else "no image has a value"
            raise UserError(f"--meta-cols {name}: {what} in this column; leave it out")
        if determined_by(values_N, label_N, group_N):
            notes.append(
                f"column {name} determines the class: each of its {num_values} values has images of"
                " one class only; leave it out unless it is known of new images before their class"
                " is"
            )
    if aligned.test_ids is None:
        return BlendColumns(ImageColumns(rows), None, tuple(notes))
    test = {name: _check_equal(name, TEST, aligned.test_ids, members[name]) for name in names}
    for name, values_N in test.items():
        if is_empty(values_N).all():
            raise UserError(
                f"--meta-cols {name}: no image of the test set has a value in this column; add it"
                f" to the table of test images and {AGAIN}"
            )
    return BlendColumns(ImageColumns(rows), ImageColumns(test), tuple(notes))


def determined_by(values_N: np.ndarray, label_N: np.ndarray, group_N: np.ndarray) -> bool:
    """Return whether each value of a column has one class, with fewer values than half the groups.

    Examples
    --------
    >>> group_N = np.arange(6)
    >>> determined_by(np.array([1.0, 1, 1, 2, 2, 2]), np.array([0, 0, 0, 1, 1, 1]), group_N)
    True
    """
    known_N = ~is_empty(values_N)
    table = pd.DataFrame({"value": values_N[known_N], "label": label_N[known_N]})
    of_value = table.groupby("value")["label"].nunique()
    if len(of_value) < 2 or table["label"].nunique() < 2:
        return False
    return bool((of_value == 1).all() and len(of_value) < len(np.unique(group_N)) / 2)
