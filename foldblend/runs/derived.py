"""Runs made from other runs' logits: the same contract on disk as a cross-validated one. No torch here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.errors import UserError
from foldblend.files import check_writable, write_bytes
from foldblend.runs.environment import describe_environment
from foldblend.runs.folder import (
    FORMAT,
    PICTURES,
    clear_folder,
    is_empty,
    logit_columns,
    sweep,
    with_logits,
    write_json,
    write_section,
    write_table,
)
from foldblend.runs.rows import mean_over_folds, write_submission
from foldblend.runs.run import Run

__all__ = ["open_derived", "write_derived"]

KINDS = {"cv": "a cross-validated run", "blend": "a blend", "tta": "a run with further views"}


def open_derived(folder: Path, kind: str, run_key: Mapping[str, str], *, overwrite: bool, look: bool = False) -> None:
    """Make the folder of a derived run fit, or raise UserError: nothing is overwritten unasked.

    With `look` nothing is cleared yet: errors come before the work that they would undo.
    """
    if look:
        check_writable(folder)
    if not (folder / "run.json").is_file():
        if folder.exists() and not is_empty(folder):
            raise UserError(f"{folder}: exists and is no run; pass another --name")
        return
    info = Run(folder).info
    if info["kind"] != kind:
        raise UserError(f"{folder}: is {KINDS.get(info['kind'], 'of another kind')}; pass another --name")
    if info["run_key"] == run_key:
        return
    if not overwrite:
        raise UserError(f"{folder}: was made of other runs or settings; pass another --name, or --overwrite")
    if not look:
        clear_folder(folder)


def write_derived(
    folder: Path,
    like: Run,
    info: Mapping[str, Any],
    rows: pd.DataFrame,
    logits_NC: np.ndarray,
    tests: Sequence[pd.DataFrame],
    sections: Mapping[str, Mapping[str, Any]],
    *,
    pictures: Path | None,
    texts: Mapping[str, str] | None = None,
    of_shares: bool = False,
) -> Run:
    """Write a run folder, all but its report, and return it: `rows` are the columns of oof.parquet before the logits.

    What `info` does not say is taken from `like`, a run of the same data. `tests` are the test tables of each
    fold's models, whose mean is of logits or `of_shares` (see `mean_over_folds`), `texts` further files by name. The
    same run made again keeps its times.
    """
    sweep(folder)
    before: Mapping[str, Any] = Run(folder).info if (folder / "run.json").is_file() else {}
    record = {
        **{name: like.info[name] for name in ("data", "classes", "answers", "attributes", "metric")},
        "format": FORMAT,
        "name": folder.name,
        "num_folds": int(rows["fold"].nunique()),
        "num_repeats": int(rows["repeat"].nunique()),
        "num_test_folds": len(tests),
        "has_test": bool(tests),
        "started": before.get("started", round(time.time())),
        **info,
    }
    write_json(folder / "run.json", record | {"status": "running"})  # first: by it the folder is known as a run
    write_json(folder / "env.json", describe_environment())
    if pictures is not None:
        write_bytes(folder / PICTURES, pictures.read_bytes())
    write_table(folder / "folds.csv", rows[["image_id", "group", "label", "repeat", "fold"]])
    write_table(folder / "oof.parquet", with_logits(rows, logits_NC))
    for fold, test in enumerate(tests):
        write_table(folder / f"test_fold_{fold}.parquet", test)
    if tests:
        mean = mean_over_folds(tests, logit_columns(len(like.classes)), of_shares=of_shares)
        write_table(folder / "test.parquet", mean)
        write_submission(folder, mean, like.info["answers"])
    for name, one in sections.items():
        write_section(folder, name, one)
    for name, text in (texts or {}).items():
        write_bytes(folder / name, text)
    finished = before.get("finished", round(time.time()))
    write_json(folder / "run.json", record | {"status": "done", "finished": finished})
    return Run(folder)
