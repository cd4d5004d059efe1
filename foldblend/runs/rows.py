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
from foldblend.runs.run import TEST_LABELS, Run
from foldblend.runs.submission import IDS_FILE, SubmissionForm, submission_table
from foldblend.scores.metrics import softmax
from foldblend.scores.rows import Rows

__all__ = [
    "OofArrays",
    "group_name_of",
    "mean_over_folds",
    "oof_arrays",
    "oof_rows",
    "order_of",
    "write_submission",
    "write_test_labels",
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


def write_submission(
    folder: Path,
    test: pd.DataFrame,
    answers: Sequence[Any],
    form: SubmissionForm | None = None,
) -> None:
    """Write submission.csv (see `submission_table`), and submission_ids.csv where ids are given."""
    write_table(folder / "submission.csv", submission_table(test, answers, form))
    ids = None if form is None else form.ids_table()
    if ids is None:
        (folder / IDS_FILE).unlink(missing_ok=True)
    else:
        write_table(folder / IDS_FILE, ids)


def write_test_labels(folder: Path, test: pd.DataFrame | None, classes: Sequence[str]) -> None:
    """Write test_labels.csv, from which reports score the test set, or remove it without labels.

    Parameters
    ----------
    folder
        The run folder.
    test
        Test images with `label`, where it is known, and maybe `group`.
    classes
        Names of the classes.
    """
    file = folder / TEST_LABELS
    if test is None or "label" not in test or not (test["label"] >= 0).any():
        file.unlink(missing_ok=True)
        return
    known = test[test["label"] >= 0]
    table = known[["image_id", "label"]].assign(
        **{"class": [classes[label] for label in known["label"]]}
    )
    write_table(file, table if "group" not in known else table.assign(group=known["group"]))


@dataclass(frozen=True, slots=True)
class OofArrays:
    """Out-of-fold predictions as arrays: rows, logits (N x C) and probabilities (N x C)."""

    rows: Rows
    logits_NC: np.ndarray
    proba_NC: np.ndarray


def group_name_of(runs: Sequence[Run]) -> str:
    """Return what a group is, from the first run that records it, or "group"."""
    return next((run.group_name for run in runs if "group_name" in run.info["data"]), "group")


def order_of(runs: Sequence[Run]) -> bool:
    """Return whether the classes of runs on one data set have an order.

    One run that says so is enough; runs of earlier versions do not say.
    """
    known = [run.ordered for run in runs if "ordered" in run.info]
    return any(known) or not known


def oof_rows(run: Run) -> Rows:
    """Return the labels, groups, repeats and folds of a run's out-of-fold rows."""
    label_N, group_N, repeat_N, fold_N = (
        run.oof[name].to_numpy() for name in ("label", "group", "repeat", "fold")
    )
    return Rows(label_N, group_N, repeat_N, fold_N, run.group_name)


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
