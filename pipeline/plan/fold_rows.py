"""Held-out predictions of the first folds of a run that may not be finished."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from foldblend.errors import UserError
from foldblend.runs.folder import logit_columns, rows_like
from foldblend.runs.info import RunInfo
from foldblend.runs.run import Run
from foldblend.runs.schema import read_done, read_info
from foldblend.runs.tables import TableReader
from foldblend.scores.metrics import Metric, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.run_metric import metric_of

__all__ = ["FoldRows", "fold_rows", "oof_of"]


@dataclass(frozen=True, slots=True)
class FoldRows:
    """Held-out rows of the first folds of a run, and the metric of the run."""

    table: pd.DataFrame
    """image_id, group, label, repeat, fold and logits, sorted by repeat and image."""
    metric: Metric
    group_name: str

    @property
    def rows(self) -> Rows:
        table = self.table
        return Rows(
            table["label"].to_numpy(),
            table["group"].to_numpy(),
            table["repeat"].to_numpy(),
            table["fold"].to_numpy(),
            self.group_name,
        )

    def like(self, other: FoldRows) -> np.ndarray:
        """Return the class probabilities N x C in the order of another run's rows."""
        try:
            table = rows_like(self.table, other.table)
        except KeyError:
            raise UserError(
                "two runs of the plan have different images or folds; remove one of them"
            ) from None
        logits = [name for name in self.table if str(name).startswith("logit_")]
        return softmax(table[logits].to_numpy(np.float64))


def fold_rows(folder: Path, num: int) -> FoldRows:
    """Return the held-out rows of the first models of a run, numbered over all repeats.

    Parameters
    ----------
    folder
        The run folder.
    num
        Number of models, which are finished.

    Raises
    ------
    UserError
        If a file is missing or damaged.
    """
    info = read_info(folder)
    hashes: dict[str, str] = {}
    for index in range(num):
        hashes |= read_done(folder, index)["files"]
    reader = TableReader(folder, info, hashes)
    return _of(pd.concat([reader.read(f"fold_{index}/oof") for index in range(num)]), info)


def oof_of(folder: Path) -> FoldRows:
    """Return the out-of-fold rows of a finished run, also of one with views."""
    run = Run(folder)
    return _of(run.oof, run.info)


def _of(table: pd.DataFrame, info: RunInfo) -> FoldRows:
    kept = ["image_id", "group", "label", "repeat", "fold", *logit_columns(len(info["classes"]))]
    table = table[kept].sort_values(["repeat", "image_id"], ignore_index=True)
    return FoldRows(table, metric_of(info), info["data"].get("group_name", "group"))
