"""Comparison of an imported run with the runs beside it, with which it may be blended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from foldblend.errors import UserError, counted, listed
from foldblend.runs.check import why_unfinished
from foldblend.runs.run import Run
from foldblend.runs.tables import ROW_COLUMNS
from folds.data.imported.known import KnownData

__all__ = ["differences"]

# A folder may hold thousands of runs; more than these tell nothing new.
MOST_RUNS = 50


def _runs(folder: Path, name: str) -> Iterator[Run]:
    """Yield the finished runs and imported runs in a folder, but for that of this name."""
    if not folder.is_dir():
        return
    found = 0
    for path in sorted(folder.iterdir()):
        if path.name == name or found >= MOST_RUNS or why_unfinished(path) is not None:
            continue
        run = Run(path)
        if run.info["kind"] in ("cv", "import"):
            found += 1
            yield run


def _same_cells(mine: pd.DataFrame, theirs: pd.DataFrame, column: str) -> np.ndarray:
    """Return which images have equal values in a column, in the order of their ids."""
    left = mine.sort_values("image_id")[column].to_numpy()
    right = theirs.sort_values("image_id")[column].to_numpy()
    return np.asarray(left == right)


def _differs(run: Run, known: KnownData, fold_RN: np.ndarray) -> str | None:
    """Return what a run of the same images has that differs, or None."""
    if set(run.classes) != set(known.classes):
        return None
    if run.classes != known.classes:
        return (
            "the classes in another order and cannot be blended with this run; pass --class-order"
            " as it was passed there"
        )
    rows = run.table("oof", ROW_COLUMNS)
    first = rows[rows["repeat"] == 0]
    for column, what, cure in (
        ("label_raw", "labels", "use the same table of labels"),
        ("group", f"{known.group_name} names", "pass the same --group-col"),
    ):
        same_N = _same_cells(known.train, first, column)
        if not same_N.all():
            return (
                f"other {what} for {counted(int((~same_N).sum()), 'image')} and cannot be blended"
                f" with this run; {cure}"
            )
    own_N = known.train.assign(fold=fold_RN[0])
    # Folds are compared by their numbers, as a blend does.
    if not _same_cells(own_N, first, "fold").all():
        return (
            "other folds and can only be combined with this run by votes; train both on the same"
            f" folds: --folds {run.path}"
        )
    return None


def differences(folder: Path, name: str, known: KnownData, fold_RN: np.ndarray) -> list[str]:
    """Return warnings on runs beside an imported run that are of the same images but differ.

    Parameters
    ----------
    folder
        Folder of the runs.
    name
        Name of the imported run.
    known
        Its data.
    fold_RN
        Its folds.
    """
    reasons: dict[str, list[Path]] = {}
    for run in _runs(folder, name):
        try:
            if run.ids_hash != known.record["data"]["train_ids_hash"]:
                continue
            why = _differs(run, known, fold_RN)
        except UserError:
            # A damaged run is no run to blend with.
            continue
        if why is not None:
            reasons.setdefault(why, []).append(run.path)
    return [
        f"{listed(paths)} {'has' if len(paths) == 1 else 'have'} {why}"
        for why, paths in reasons.items()
    ]
