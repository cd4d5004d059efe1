"""CSV files without formulas: texts that a spreadsheet would run get an apostrophe in front."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import pandas as pd

__all__ = ["for_spreadsheets", "safe_csv", "without_formulas"]

# First letters of a cell that spreadsheets take for a formula.
STARTS = ("=", "+", "-", "@", "\t", "\r")

_is_safe: ContextVar[bool] = ContextVar("safe_csv", default=False)


@contextlib.contextmanager
def safe_csv(on: bool) -> Iterator[None]:
    """Write CSVs for spreadsheets in this block without formulas, if `on` (--safe-csv)."""
    before = _is_safe.set(on)
    try:
        yield
    finally:
        _is_safe.reset(before)


def _quoted(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(STARTS) else value


def without_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose texts and names of columns start no formula.

    Examples
    --------
    >>> without_formulas(pd.DataFrame({"image": ["=1+1", "a.jpg"], "p": [-1.0, 1.0]}))
       image    p
    0  '=1+1 -1.0
    1  a.jpg  1.0
    """
    safe = table.rename(columns=_quoted)
    for place in range(table.shape[1]):
        column = table.iloc[:, place]
        if not pd.api.types.is_numeric_dtype(column.dtype):
            safe.isetitem(place, [*map(_quoted, column)])
    return safe


def for_spreadsheets(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table for a CSV that people open, without formulas within `safe_csv(True)`."""
    return without_formulas(table) if _is_safe.get() else table
