"""Form of a submission: its columns, its rows and their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from foldblend.files import is_file
from foldblend.runs.tables import TableReader
from foldblend.scores.metrics import softmax

__all__ = ["IDS_FILE", "SubmissionForm", "read_form", "submission_table"]

IDS_FILE = "submission_ids.csv"


@dataclass(frozen=True, kw_only=True)
class SubmissionForm:
    """The columns, rows and order of submission.csv, as the data set asks for them."""

    id_column: str
    """Name of the column of ids."""
    columns: tuple[str, ...]
    """Names of the columns of values."""
    kind: Literal["labels", "probabilities"]
    """Whether the values are labels (see `Manifest.answers`) or probabilities of classes."""
    classes: tuple[int, ...] = ()
    """For probabilities, the index of the class of each column of values.

    For two classes, one column is enough.
    """
    ids: tuple[tuple[str, str], ...] | None = None
    """(image_id, text of the id) of each row, in order.

    None: the image ids of all test images, in the order of the test table.
    """

    def record(self) -> dict[str, Any]:
        """Return the entry of run.json, which has all but the ids."""
        return {
            "id_column": self.id_column,
            "columns": list(self.columns),
            "kind": self.kind,
            "classes": list(self.classes),
        }

    def ids_table(self) -> pd.DataFrame | None:
        """Return the content of submission_ids.csv, or None without ids."""
        if self.ids is None:
            return None
        return pd.DataFrame(list(self.ids), columns=["image_id", "id"], dtype=object)


# Of runs that record no form: those of earlier versions, and data sets without a form.
DEFAULT = SubmissionForm(id_column="ImageID", columns=("ans",), kind="labels")


def read_form(record: Mapping[str, Any], tables: TableReader) -> SubmissionForm:
    """Return the form of a run's submission from its record in run.json.

    Raises BrokenRun for a broken submission_ids.csv.
    """
    ids = None
    # One that run.json records but that is gone is an error.
    if IDS_FILE in tables.hashes or is_file(tables.folder / IDS_FILE):
        table = tables.text_table(IDS_FILE, ["image_id", "id"])
        ids = tuple(zip(table["image_id"], table["id"], strict=True))
    return SubmissionForm(
        id_column=record["id_column"],
        columns=tuple(record["columns"]),
        kind=record["kind"],
        classes=tuple(record["classes"]),
        ids=ids,
    )


def submission_table(
    test: pd.DataFrame,
    answers: Sequence[Any],
    form: SubmissionForm | None = None,
    *,
    proba_NC: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return the content of submission.csv.

    Parameters
    ----------
    test
        image_id and the mean logits of each test image.
    answers
        Value of each class, for labels.
    form
        Columns and rows; None for ImageID and ans.
    proba_NC
        Probabilities of the test images (default: the softmax of the logits).

    Returns
    -------
    pd.DataFrame
        Labels are those of the greatest logit. Test images that the form does not list are left
        out, and so are ids without a prediction, which only a blend of runs with different test
        sets has.

    Examples
    --------
    >>> test = pd.DataFrame({"image_id": ["a", "b"], "logit_0": [0.0, 3.0], "logit_1": [1.0, 2.0]})
    >>> submission_table(test, ["cat", "dog"]).to_dict("list")
    {'ImageID': ['a', 'b'], 'ans': ['dog', 'cat']}
    """
    form = DEFAULT if form is None else form
    logits_NC = test.drop(columns="image_id").to_numpy()
    row_of = {name: row for row, name in enumerate(test["image_id"])}
    ids = [(name, name) for name in row_of] if form.ids is None else form.ids
    kept = [(row_of[name], text) for name, text in ids if name in row_of]
    rows = np.array([row for row, _ in kept], dtype=np.int64)
    columns: dict[str, Any] = {form.id_column: [text for _, text in kept]}
    if form.kind == "labels":
        chosen_N = logits_NC[rows].argmax(axis=1)
        columns |= {name: [answers[index] for index in chosen_N] for name in form.columns}
    else:
        of_test_NC = softmax(logits_NC) if proba_NC is None else proba_NC
        for name, index in zip(form.columns, form.classes, strict=True):
            columns[name] = of_test_NC[rows, index]
    return pd.DataFrame(columns)
