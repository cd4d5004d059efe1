"""Out-of-fold rows of a run as arrays, mean test logits and the submission, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.errors import UserError, listed
from foldblend.runs.folder import with_logits, write_table
from foldblend.runs.run import Run
from foldblend.scores.metrics import softmax
from foldblend.scores.rows import Rows

__all__ = [
    "OofArrays",
    "mean_over_folds",
    "oof_arrays",
    "oof_rows",
    "write_submission",
]


def mean_over_folds(
    tables: Sequence[pd.DataFrame], columns: Sequence[str], *, of_shares: bool = False
) -> pd.DataFrame:
    """Return the mean logits of the folds' test tables.

    Parameters
    ----------
    tables
        One table per fold, with image_id and logit columns; rows may be in any order.
    columns
        Names of the logit columns.
    of_shares
        Average the softmax probabilities instead, and return the log of the mean.

    Returns
    -------
    pd.DataFrame
        image_id and logits, in the row order of the first table.
    """
    ids = tables[0]["image_id"]
    stack = [
        table.set_index("image_id").loc[ids, list(columns)].to_numpy(np.float64) for table in tables
    ]
    mean = np.mean([softmax(one) for one in stack] if of_shares else stack, axis=0)
    return with_logits(
        ids.to_frame(), np.log(np.maximum(mean, np.finfo(np.float64).tiny)) if of_shares else mean
    )


def write_submission(folder: Path, test: pd.DataFrame, answers: Sequence[Any]) -> None:
    """Write submission.csv with the columns ImageID and ans.

    ans is the entry of `answers` for the class with the greatest logit.
    """
    chosen = test.drop(columns="image_id").to_numpy().argmax(axis=1)
    table = pd.DataFrame({"ImageID": test["image_id"], "ans": [answers[index] for index in chosen]})
    write_table(folder / "submission.csv", table)


@dataclass(frozen=True, slots=True)
class OofArrays:
    """Out-of-fold predictions as arrays: rows, logits (N x C) and probabilities (N x C)."""

    rows: Rows
    logits_NC: np.ndarray
    proba_NC: np.ndarray


def oof_rows(run: Run) -> Rows:
    """Return the labels, groups, repeats and folds of a run's out-of-fold rows."""
    return Rows(*(run.oof[name].to_numpy() for name in ("label", "group", "repeat", "fold")))


def oof_arrays(run: Run) -> OofArrays:
    """Return the out-of-fold predictions of a run as arrays.

    Raises UserError if any logit is not finite.
    """
    logits = run.logits(run.oof)
    bad = run.oof.loc[~np.isfinite(logits).all(axis=1), "image_id"]
    if len(bad):
        raise UserError(
            f"{run.path}: logits of {listed(bad)} are not finite; train with a lower --lr"
        )
    return OofArrays(oof_rows(run), logits, softmax(logits))
