"""Mean test logits, the submission and the labels of test images, without torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.blocks import in_blocks
from foldblend.runs.calibrated import calibration_of, plain_test
from foldblend.runs.folder import with_logits, write_table
from foldblend.runs.run import TEST_GROUPS, TEST_LABELS, Run
from foldblend.runs.submission import IDS_FILE, SubmissionForm, submission_table
from foldblend.scores.metrics import softmax
from foldblend.spreadsheets import for_spreadsheets

__all__ = [
    "group_name_of",
    "in_order_of",
    "labels_of_test",
    "mean_logits",
    "mean_over_folds",
    "order_of",
    "write_submission",
    "write_test_groups",
    "write_test_labels",
]


def mean_over_folds(
    tables: Iterable[pd.DataFrame], columns: Sequence[str], *, of_shares: bool = False
) -> pd.DataFrame:
    """Return the mean logits of the folds' test tables.

    Parameters
    ----------
    tables
        One table per fold, with image_id and logit columns; rows may be in any order. They are
        taken one after the other, so that memory does not grow with their number.
    columns
        Names of the logit columns.
    of_shares
        Average the softmax probabilities instead, and return the log of the mean.

    Returns
    -------
    pd.DataFrame
        image_id and logits, in the row order of the first table.
    """
    rest = iter(tables)
    first = next(rest)
    ids = first["image_id"]
    logits = (
        in_order_of(ids, table)[list(columns)].to_numpy()
        for table in itertools.chain([first], rest)
    )
    return with_logits(ids.to_frame(), mean_logits(logits, of_shares=of_shares))


def in_order_of(ids: pd.Series, table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a table of images in the order of these ids, each of which it has once."""
    # Nearly always they are in this order, and an index of names takes long to build.
    return table if table["image_id"].equals(ids) else table.set_index("image_id").loc[ids]


def mean_logits(logits_KNC: Iterable[np.ndarray], *, of_shares: bool = False) -> np.ndarray:
    """Return the mean logits N x C float32 of K models.

    With `of_shares` it is the log of the mean of their probabilities.
    """

    def values(logits_NC: np.ndarray) -> np.ndarray:
        # The mean is taken in float64 whatever the logits are.
        exact_NC = logits_NC.astype(np.float64)
        return softmax(exact_NC) if of_shares else exact_NC

    total_NC: np.ndarray | None = None
    num = 0
    for logits_NC in logits_KNC:
        num += 1
        if total_NC is None:
            total_NC = in_blocks(values, logits_NC)
        else:
            in_blocks(lambda sum_NC, one: sum_NC + values(one), total_NC, logits_NC, out=total_NC)
    assert total_NC is not None

    def mean(total_NC: np.ndarray) -> np.ndarray:
        mean_NC = total_NC / num
        if of_shares:
            mean_NC = np.log(np.maximum(mean_NC, np.finfo(np.float64).tiny))
        return np.asarray(mean_NC, np.float32, order="C")

    return in_blocks(mean, total_NC)


def write_submission(
    folder: Path,
    test: pd.DataFrame,
    answers: Sequence[Any],
    form: SubmissionForm | None = None,
) -> None:
    """Write submission.csv (see `submission_table`), and submission_ids.csv where ids are given.

    Probabilities are those of `foldblend.runs.calibrated`, so run.json and the out-of-fold rows
    must be in the folder already.
    """
    proba_NC = None
    if form is not None and form.kind == "probabilities":
        run = Run(folder)
        plain = plain_test(run)
        proba_NC = calibration_of(run).proba(run.logits(test if plain is None else plain))
    table = submission_table(test, answers, form, proba_NC=proba_NC)
    write_table(folder / "submission.csv", for_spreadsheets(table))
    ids = None if form is None else form.ids_table()
    if ids is None:
        (folder / IDS_FILE).unlink(missing_ok=True)
    else:
        write_table(folder / IDS_FILE, ids)


def labels_of_test(test: pd.DataFrame | None, classes: Sequence[str]) -> pd.DataFrame | None:
    """Return the content of test_labels.csv, or None without labels.

    Parameters
    ----------
    test
        Test images with `label`, where it is known, and maybe `group`.
    classes
        Names of the classes.
    """
    if test is None or "label" not in test or not (test["label"] >= 0).any():
        return None
    known = test[test["label"] >= 0]
    table = known[["image_id", "label"]].assign(
        **{"class": [classes[label] for label in known["label"]]}
    )
    return table if "group" not in known else table.assign(group=known["group"])


def write_test_labels(folder: Path, test: pd.DataFrame | None, classes: Sequence[str]) -> None:
    """Write test_labels.csv, from which reports score the test set, or remove it without labels.

    See `labels_of_test` for the parameters.
    """
    file = folder / TEST_LABELS
    table = labels_of_test(test, classes)
    if table is None:
        file.unlink(missing_ok=True)
    else:
        write_table(file, table)


def write_test_groups(folder: Path, test: pd.DataFrame | None) -> None:
    """Write test_groups.csv, for predictions by group, or remove it where no group is known."""
    file = folder / TEST_GROUPS
    if test is None or "group" not in test:
        file.unlink(missing_ok=True)
        return
    write_table(file, test[["image_id", "group"]])


def group_name_of(runs: Sequence[Run]) -> str:
    """Return what a group is, from the first run that records it, or "group"."""
    return next((run.group_name for run in runs if "group_name" in run.info["data"]), "group")


def order_of(runs: Sequence[Run]) -> bool:
    """Return whether the classes of runs on one data set have an order.

    One run that says so is enough; runs of earlier versions do not say.
    """
    known = [run.ordered for run in runs if "ordered" in run.info]
    return any(known) or not known
