"""Costs of errors: a matrix of what each predicted class costs for each true class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foldblend.errors import UserError, did_you_mean, listed, require
from foldblend.scores.metrics import MEAN_COST, TITLES, Counts, Metric

__all__ = [
    "ErrorCosts",
    "mean_cost",
    "read_error_costs",
]


MOST = 1e50  # sums of squares of larger costs overflow


@dataclass(frozen=True, slots=True)
class ErrorCosts:
    """Costs of errors with the names of their classes."""

    classes: tuple[str, ...]
    rows: tuple[tuple[float, ...], ...]
    """For each true class, the costs of predicting each class."""

    def of(self, classes: Sequence[str], *, place: str) -> ErrorCosts:
        """Return the costs in the order of a run's classes.

        Raises UserError, with the `place` of the costs, if their classes are others.
        """
        absent = [name for name in classes if name not in self.classes]
        unknown = [name for name in self.classes if name not in classes]
        if unknown:
            near = did_you_mean(unknown[0], absent) or (
                f"; the classes of the runs are {listed(classes, most=9)}"
            )
            raise UserError(f"{place}: no class {listed(map(repr, unknown))}{near}")
        require(
            not absent,
            f"{place}: no costs of {listed(map(repr, absent))}; write a row and a column for each"
            f" of the {len(classes)} classes",
        )
        order = [self.classes.index(name) for name in classes]
        rows = tuple(tuple(self.rows[row][column] for column in order) for row in order)
        return ErrorCosts(tuple(classes), rows)

    @property
    def metric(self) -> Metric:
        """The mean cost as a metric, for labels that are numbered in the order of the classes."""
        return mean_cost(np.array(self.rows))

    def as_dict(self) -> dict[str, Any]:
        """Return classes and rows as plain lists, for blend.yaml."""
        return {"classes": list(self.classes), "rows": [list(row) for row in self.rows]}

    @classmethod
    def from_dict(cls, given: Any, *, place: str) -> ErrorCosts:
        """Return the costs that `as_dict` returned. Raises UserError for anything else."""
        try:
            classes = tuple(map(str, given["classes"]))
            rows = tuple(tuple(map(float, row)) for row in given["rows"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError(
                f"{place}: costs: not what blend.py writes there; pass them with --costs"
            ) from None
        return _checked(classes, rows, place=f"{place}: costs")


def _checked(classes: Sequence[str], rows: Sequence[Sequence[float]], *, place: str) -> ErrorCosts:
    """Return costs after a check of their size and numbers. Raises UserError."""
    require(
        len(set(classes)) == len(classes) == len(rows) > 1
        and all(len(row) == len(classes) for row in rows),
        f"{place}: not a square table; write a row and a column for each class, 2 or more",
    )
    require(
        bool(np.isfinite(np.array(rows)).all()),
        f"{place}: costs must be finite; write numbers such as 0, 1 or 2.5",
    )
    require(
        bool((np.abs(np.array(rows)) <= MOST).all()),
        f"{place}: costs must be at most {MOST:g}; write them in another unit",
    )
    require(
        any(len(set(row)) > 1 for row in rows),
        f"{place}: every prediction costs the same, so no decision is better than another; write"
        " higher costs for worse errors",
    )
    return ErrorCosts(tuple(classes), tuple(map(tuple, rows)))


def read_error_costs(file: str | Path) -> ErrorCosts:
    """Read the costs of errors from a table of a user.

    The header and the first column are the names of the classes, in any order. A cell is the cost
    of predicting the column's class when the row's class is true.

    Raises
    ------
    UserError
        In one line, if the file is missing or not such a table.
    """
    # This imports pandas, which takes a while.
    from foldblend.tables import read_text_table
    from foldblend.words import tidy

    place = f"--costs {file}"
    require(bool(str(file).strip()), "--costs: pass the name of a file")
    try:
        table = read_text_table(file)
    except UserError as error:
        # Names of classes often contain commas, and blend.py has no --sep.
        what, _, cure = str(error).partition("; ")
        if "--sep" in cure or "fields" in what:
            cure = "put names that contain the separator in double quotes"
        raise UserError(f"--costs {what}; {cure}") from None
    names, *columns = table.cells.columns
    true = [tidy(one) for one in table.cells[names]]
    require(
        names not in table.twice,
        f"{place}: the first cell of the header is the name {names!r} of another column; leave it"
        " blank",
    )
    twice = sorted({*table.twice, *(one for one in true if true.count(one) > 1)})
    require(
        not twice,
        f"{place}: class {listed(map(repr, twice))} occurs twice; write each class once in the"
        " header and once in the first column",
    )
    wanted = [tidy(one) for one in columns]
    odd = [one for one in true if one not in wanted] + [one for one in wanted if one not in true]
    require(
        not odd,
        f"{place}: {listed(map(repr, odd))} is only in the header or only in the first column;"
        " write a row and a column for each class",
    )
    rows = []
    for line, cells in zip(table.cells.index, table.cells[columns].to_numpy(), strict=True):
        odd = [cell for cell in cells if not _is_finite(cell)]
        if odd:
            raise UserError(
                f"{place}: {table.at([line])}: {odd[0]!r} is not a finite number; write costs such"
                " as 0, 1 or 2.5"
            )
        rows.append([float(cell) for cell in cells])
    in_order = [rows[true.index(name)] for name in wanted]
    return _checked(wanted, in_order, place=place)


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def mean_cost(cost_CC: np.ndarray) -> Metric:
    """Return the metric of the mean cost per image, of which less is better.

    Parameters
    ----------
    cost_CC
        Cost of each predicted class (column) for each true class (row).

    Examples
    --------
    >>> metric = mean_cost(np.array([[0.0, 1.0], [5.0, 0.0]]))
    >>> metric.score(np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]))
    1.6666666666666667
    """

    def score(label_N: np.ndarray, proba_NC: np.ndarray) -> float:
        return float(cost_CC[label_N, proba_NC.argmax(axis=1)].mean())

    def of_counts(counts: Counts) -> np.ndarray:
        return np.asarray(counts.distance / counts.truth.sum(-1))

    return Metric(
        TITLES[MEAN_COST],
        score,
        greater_is_better=False,
        of_counts=of_counts,
        name=MEAN_COST,
        cost_CC=cost_CC,
    )
