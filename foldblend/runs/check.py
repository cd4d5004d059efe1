"""Is this a finished run, and are its rows what they must be? Every stage that reads runs asks
here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from foldblend.errors import UserError, listed
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

# Of run.json: what every reader of a run asks for.
NEEDED = tuple(sorted(RunInfo.__required_keys__))
ROW_NUMBERS = ("label", "label_raw", "repeat", "fold")
ROW_COLUMNS = ("image_id", "group", *ROW_NUMBERS)


def why_unfinished(folder: Path, *, needed: Sequence[str] = NEEDED) -> str | None:
    """Return why a folder is no finished run, with the cure, or None where it is one.

    `needed` are the keys that run.json must have.
    """
    try:
        if not (folder / "run.json").is_file():
            return "no run"
    except OSError as error:  # such as of a name too long
        return f"cannot be read ({error.strerror})"
    run = Run(folder)
    try:
        info = run.info
    except UserError as error:
        return f"no run of ours ({error})"
    if info.get("status") != "done":
        return "not finished; run the same command again"
    absent = [name for name in needed if name not in info]
    if absent:
        return f"run.json lacks {listed(absent)}, perhaps of an earlier version; run it again"
    try:
        run.attributes  # noqa: B018 - raises where it is not what it should be
        counts = (int(info["num_folds"]), int(info["num_repeats"]))
        info["data"]["name"]
    except (AssertionError, LookupError, TypeError, ValueError) as error:
        return f"run.json is broken ({type(error).__name__}); run it again"
    return None if min(counts) >= 1 else "run.json is broken (no folds); run it again"


def finished_run(folder: str | Path, *, needed: Sequence[str] = NEEDED) -> Run:
    """Return the finished run of a folder. Raises UserError where it is none, naming the cure."""
    path = Path(folder)
    why = why_unfinished(path, needed=needed)
    if why is not None:
        raise UserError(
            f"{path}: {why}; name the folder of a finished one"
            if why == "no run"
            else f"{path}: {why}"
        )
    return Run(path)


def load(folder: str | Path) -> Run:
    """Load a finished run, TTA'd run or blend from its folder.

    Parameters
    ----------
    folder
        Such as ``outputs/RUN``.

    Returns
    -------
    Run
        With ``.oof``, ``.test``, ``.report``, ``.classes`` and more; tables are read when they are
        first asked for.

    Raises
    ------
    UserError
        Where the folder holds no finished run.

    Examples
    --------
    >>> run = fb.load(outputs / "alpha")
    >>> run.oof[["image_id", "group", "label", "fold"]].shape
    (84, 4)
    """
    return finished_run(folder)


def check_rows_once(found: pd.Series, wanted: pd.Series, what: str) -> None:
    """Raise UserError unless `found` holds each id of `wanted` exactly once and no other."""
    twice = found[found.duplicated()].unique()
    absent = wanted[~wanted.isin(found)]
    foreign = found[~found.isin(wanted)]
    if len(twice) or len(absent) or len(foreign):
        raise UserError(
            f"{what}: every row must be written exactly once, but {len(absent)} are missing"
            f" ({listed(absent)}), {len(twice)} doubled ({listed(twice)}), {len(foreign)} unknown"
            f" ({listed(foreign)}); run it afresh"
        )


def check_rows(run: Run, rows: pd.DataFrame) -> None:
    """Raise UserError unless rows of a run's oof.parquet are whole: each image once a repeat,
    labels that are classes.

    `rows` has at least the columns before the logits.
    """
    path = run.path / "oof.parquet"
    absent = [name for name in ROW_COLUMNS if name not in rows]
    if absent:
        raise UserError(f"{path}: lacks {listed(absent)}; run it again")
    odd = [name for name in ROW_NUMBERS if not pd.api.types.is_integer_dtype(rows[name])]
    if odd:
        raise UserError(f"{path}: {listed(odd)} must be whole numbers, none missing; run it again")
    if not np.array_equal(np.unique(rows["repeat"]), np.arange(run.info["num_repeats"])):
        raise UserError(
            f"{path}: its repeats are not 0 to {run.info['num_repeats'] - 1}; run it again"
        )
    for name in ("image_id", "group"):
        if rows[name].isna().any():
            raise UserError(
                f"{path}: {int(rows[name].isna().sum())} rows have no {name}; run it again"
            )
    ids = rows["image_id"].drop_duplicates()
    for repeat, one in rows.groupby("repeat"):
        if len(one) != len(ids) or not one["image_id"].is_unique:
            check_rows_once(
                one["image_id"], ids, f"{path}, repeat {repeat}"
            )  # says which, and takes longer
    for name in ("label", "label_raw"):
        if not rows[name].isin(range(len(run.classes))).all():
            raise UserError(
                f"{path}: {name} is not always one of the {len(run.classes)} classes; run it again"
            )
