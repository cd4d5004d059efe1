"""Out-of-fold rows of a run as arrays, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from foldblend.runs.ids import codes_of
from foldblend.runs.run import Run
from foldblend.scores.metrics import softmax
from foldblend.scores.rows import Rows

__all__ = ["OofArrays", "coded_rows", "oof_arrays", "oof_rows", "rows_of"]


@dataclass(frozen=True, slots=True)
class OofArrays:
    """Out-of-fold predictions as arrays: rows, logits (N x C) and probabilities (N x C)."""

    rows: Rows
    logits_NC: np.ndarray
    proba_NC: np.ndarray


def oof_rows(run: Run) -> Rows:
    """Return the labels, groups, repeats and folds of a run's out-of-fold rows."""
    return rows_of(run.oof, run.group_name)


def rows_of(table: pd.DataFrame, group_name: str) -> Rows:
    """Return the labels, groups (by name), repeats and folds of a table."""
    label_N, repeat_N, fold_N = _numbers(table)
    return Rows(label_N, table["group"].to_numpy(), repeat_N, fold_N, group_name)


def coded_rows(table: pd.DataFrame, group_name: str) -> Rows:
    """Return the same with groups as numbers, in the order of their names.

    Names of millions of rows would take long to sort, and much memory, as Python's texts.
    """
    label_N, repeat_N, fold_N = _numbers(table)
    return Rows(label_N, codes_of(table["group"])[0], repeat_N, fold_N, group_name)


def _numbers(table: pd.DataFrame) -> Iterator[np.ndarray]:
    """Yield labels, repeats and folds as int64: files may have int8, whose products overflow."""
    return (table[name].to_numpy(np.int64) for name in ("label", "repeat", "fold"))


def oof_arrays(run: Run, *, coded: bool = False) -> OofArrays:
    """Return the out-of-fold predictions of a run as arrays; raise BrokenRun for damaged ones.

    Groups are names, or numbers in the order of these (`coded`).
    """
    logits = run.logits(run.oof)
    rows = coded_rows(run.oof, run.group_name) if coded else oof_rows(run)
    return OofArrays(rows, logits, softmax(logits))
