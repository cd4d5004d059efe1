"""Out-of-fold rows of a run as arrays, without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foldblend.runs.run import Run
from foldblend.scores.metrics import softmax
from foldblend.scores.rows import Rows

__all__ = ["OofArrays", "oof_arrays", "oof_rows"]


@dataclass(frozen=True, slots=True)
class OofArrays:
    """Out-of-fold predictions as arrays: rows, logits (N x C) and probabilities (N x C)."""

    rows: Rows
    logits_NC: np.ndarray
    proba_NC: np.ndarray


def oof_rows(run: Run) -> Rows:
    """Return the labels, groups, repeats and folds of a run's out-of-fold rows."""
    label_N, group_N, repeat_N, fold_N = (
        run.oof[name].to_numpy() for name in ("label", "group", "repeat", "fold")
    )
    return Rows(label_N, group_N, repeat_N, fold_N, run.group_name)


def oof_arrays(run: Run) -> OofArrays:
    """Return the out-of-fold predictions of a run as arrays; raise BrokenRun for damaged ones."""
    logits = run.logits(run.oof)
    return OofArrays(oof_rows(run), logits, softmax(logits))
