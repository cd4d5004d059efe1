"""Checks that a folder is a finished run and that its rows are complete.

Every stage that reads runs uses these checks.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from foldblend.errors import UserError, listed
from foldblend.files import is_file
from foldblend.runs.info import RunInfo
from foldblend.runs.run import Run

__all__ = [
    "NEEDED",
    "ROW_COLUMNS",
    "check_rows",
    "check_rows_once",
    "finished_run",
    "load",
    "why_unfinished",
]

# Keys of run.json that every reader of a run needs.
NEEDED = tuple(sorted(RunInfo.__required_keys__))
ROW_NUMBERS = ("label", "label_raw", "repeat", "fold")
ROW_COLUMNS = ("image_id", "group", *ROW_NUMBERS)
NOT_A_RUN = "not a run folder"


def why_unfinished(folder: Path, *, needed: Sequence[str] = NEEDED) -> str | None:
    """Return why a folder is not a finished run, with the cure, or None if it is one.

    Parameters
    ----------
    folder
        The run folder.
    needed
        Keys that run.json must have.
    """
    try:
        if not (folder / "run.json").is_file():
            return NOT_A_RUN
    except OSError as error:  # for example, the name is too long
        return f"cannot be read ({error.strerror})"
    run = Run(folder)
    try:
        info = run.info
    except UserError as error:
        return f"not a run folder of foldblend ({error})"
    if info.get("status") != "done":
        return "not finished; run the same command again"
    absent = [name for name in needed if name not in info]
    if absent:
        return f"run.json lacks {listed(absent)}, as in runs of earlier versions; run it again"
    try:
        run.attributes  # noqa: B018 - raises if run.json has invalid attributes
        counts = (int(info["num_folds"]), int(info["num_repeats"]))
        info["data"]["name"]
    except (AssertionError, LookupError, TypeError, ValueError) as error:
        return f"run.json is broken ({type(error).__name__}); run it again"
    return None if min(counts) >= 1 else "run.json is broken (no folds); run it again"


def finished_run(folder: str | Path, *, needed: Sequence[str] = NEEDED) -> Run:
    """Return the finished run of a folder.

    Raises UserError, with the cure, if the folder is not a finished run.
    """
    path = Path(folder)
    why = why_unfinished(path, needed=needed)
    if why is not None:
        cure = "; pass the folder of a finished run" if why == NOT_A_RUN else ""
        raise UserError(f"{path}: {why}{cure}")
    return Run(path)


def load(folder: str | Path) -> Run:
    """Load a finished run, TTA'd run or blend from its folder, or from an exported file.

    Parameters
    ----------
    folder
        Folder of the run, such as ``outputs/RUN``, or a file of `export_model`.

    Returns
    -------
    Run
        The run, with ``.oof``, ``.test``, ``.report``, ``.classes``, ``.predict`` and more. Tables
        are read on first access; an exported file has none.

    Raises
    ------
    UserError
        If the folder is not a finished run, or the file is damaged.

    Examples
    --------
    >>> run = fb.load(outputs / "alpha")
    >>> run.oof[["image_id", "group", "label", "fold"]].shape
    (84, 4)
    """
    if is_file(Path(folder)):
        # What reads models is in a higher layer, so it is looked up by its name.
        found: Run = importlib.import_module("foldblend").load_export(folder)
        return found
    return finished_run(folder)


def check_rows_once(found: pd.Series, wanted: pd.Series, what: str) -> None:
    """Raise UserError unless `found` has each id of `wanted` exactly once and no others.

    `what` names the file in the message.
    """
    twice = found[found.duplicated()].unique()
    absent = wanted[~wanted.isin(found)]
    foreign = found[~found.isin(wanted)]
    if len(twice) or len(absent) or len(foreign):
        raise UserError(
            f"{what}: each image must have exactly one row, but {len(absent)} are missing"
            f" ({listed(absent)}), {len(twice)} doubled ({listed(twice)}), {len(foreign)} unknown"
            f" ({listed(foreign)}); run it again from the start"
        )


def check_rows(run: Run, rows: pd.DataFrame) -> None:
    """Raise UserError unless the rows of a run's oof.parquet are complete and valid.

    Each repeat must have each image exactly once, and each label must be one of the classes.
    `rows` has at least the columns before the logits.
    """
    path = run.path / "oof.parquet"
    absent = [name for name in ROW_COLUMNS if name not in rows]
    if absent:
        raise UserError(f"{path}: lacks {listed(absent)}; run it again")
    odd = [name for name in ROW_NUMBERS if not pd.api.types.is_integer_dtype(rows[name])]
    if odd:
        raise UserError(f"{path}: {listed(odd)} must be whole numbers in all rows; run it again")
    if not np.array_equal(np.unique(rows["repeat"]), np.arange(run.info["num_repeats"])):
        raise UserError(
            f"{path}: repeats are not numbered 0 to {run.info['num_repeats'] - 1}; run it again"
        )
    for name in ("image_id", "group"):
        if rows[name].isna().any():
            raise UserError(
                f"{path}: {int(rows[name].isna().sum())} rows have no {name}; run it again"
            )
    ids = rows["image_id"].drop_duplicates()
    for repeat, one in rows.groupby("repeat"):
        # This test is fast; only if it fails, the slower check lists the rows for the message.
        if len(one) != len(ids) or not one["image_id"].is_unique:
            check_rows_once(one["image_id"], ids, f"{path}, repeat {repeat}")
    for name in ("label", "label_raw"):
        if not rows[name].isin(range(len(run.classes))).all():
            raise UserError(
                f"{path}: {name} has values outside the {len(run.classes)} classes; run it again"
            )
