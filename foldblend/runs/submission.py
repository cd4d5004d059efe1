"""Form of a submission: its columns, its rows and their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["SubmissionForm"]


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
    """For probabilities, the index of the class of each column of values. One column is enough
    for two classes.
    """
    ids: tuple[tuple[str, str], ...] | None = None
    """(image_id, text of the id) of each row, in order; None for the image ids of all test
    images, in the order of the test table.
    """
