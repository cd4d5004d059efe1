"""Columns of images beside their pixels, such as age or site: numbers, and words of a few kinds.

Cells come as text. What is no number and no category, such as dates, free text and names that
differ in every row, is not kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foldblend.errors import UserError, listed, shown
from foldblend.words import tidy

__all__ = [
    "CATEGORY",
    "KINDS",
    "NUMBER",
    "ImageColumns",
    "as_kind",
    "is_empty",
    "kept_columns",
    "kind_of",
    "names_of",
    "numbers_in",
]

NUMBER = "number"
CATEGORY = "category"
KINDS = (NUMBER, CATEGORY)
# A category has at most so many words, and on average two rows or more a word.
MOST_WORDS = 50
LEAST_ROWS = 2
# Tables with thousands of columns of measurements would make run folders large.
MOST_COLUMNS = 200
# Words that tools write into columns of numbers for an empty cell, in small letters.
EMPTY = frozenset(("", "-", "na", "n/a", "nan", "nat", "null", "none", "<na>"))
PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
COMMA = re.compile(r"[+-]?\d*,\d+", re.ASCII)
# 1,234 may be a number with a decimal comma or one of thousands.
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)
DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([ T].*)?|\d{1,2}[-/.]\d{1,2}[-/.](\d{2}|\d{4})([ T].*)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class ImageColumns:
    """Columns of N images: numbers with NaN for an empty cell, and words with "" for one.

    Examples
    --------
    >>> site_N = np.array(["a", ""], object)
    >>> columns = ImageColumns({"age": np.array([40.0, np.nan]), "site": site_N})
    >>> len(columns), columns.kinds, columns.take(np.array([1])).values["site"].tolist()
    (2, {'age': 'number', 'site': 'category'}, [''])
    """

    values: Mapping[str, np.ndarray]
    """Floats or objects N, by the name of the column."""

    def __len__(self) -> int:
        return len(next(iter(self.values.values()), ()))

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each column: number or category."""
        return {name: kind_of(one) for name, one in self.values.items()}

    def take(self, rows: np.ndarray | slice | Sequence[int]) -> ImageColumns:
        """Return a selection of the rows, by row numbers or a boolean mask."""
        return ImageColumns({name: one[rows] for name, one in self.values.items()})

    @classmethod
    def empty(cls, kinds: Mapping[str, str], num: int) -> ImageColumns:
        """Return columns of these kinds in which all cells are empty."""
        return cls(
            {
                name: np.full(num, np.nan) if kind == NUMBER else np.full(num, "", object)
                for name, kind in kinds.items()
            }
        )


def kind_of(values_N: np.ndarray) -> str:
    """Return the kind of a column of `ImageColumns`."""
    return NUMBER if values_N.dtype.kind == "f" else CATEGORY


def is_empty(values_N: np.ndarray) -> np.ndarray:
    """Return which cells of a column of `ImageColumns` are empty."""
    if values_N.dtype.kind == "f":
        return np.isnan(values_N)
    return np.array([not one for one in values_N], bool)


def names_of(text: str) -> tuple[str, ...]:
    """Return the names in the text of --meta-cols, sorted; raise UserError for one given twice.

    Examples
    --------
    >>> names_of("site, age")
    ('age', 'site')
    """
    names = [tidy(one) for one in text.split(",")]
    if not all(names):
        raise UserError(
            f"--meta-cols {shown(text)}: a name is empty; pass names of columns, as age,site"
        )
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise UserError(f"--meta-cols {shown(text)}: {listed(twice)} is given twice; name it once")
    return tuple(sorted(names))


def numbers_in(cells: Sequence[str]) -> np.ndarray | None:
    """Return the numbers of a column, NaN for empty cells, or None if a cell is no number.

    Numbers may have a decimal comma, unless all of these could be thousands as well.

    Examples
    --------
    >>> numbers_in(["1.5", "", "NA", "2,25"]).tolist()
    [1.5, nan, nan, 2.25]
    >>> numbers_in(["1,250", "2"]), numbers_in(["ten"])
    (None, None)
    """
    found: dict[str, float] = {}
    commas = []
    for cell in dict.fromkeys(cells):
        word = cell.strip()
        if word.lower() in EMPTY:
            found[cell] = np.nan
            continue
        if COMMA.fullmatch(word):
            commas.append(word)
            word = word.replace(",", ".")
        if not PLAIN.fullmatch(word):
            return None
        found[cell] = float(word)
        if np.isinf(found[cell]):
            return None
    if commas and all(map(THOUSANDS.fullmatch, commas)):
        return None
    return np.array([found[cell] for cell in cells], float)


def _is_row_number(values_N: np.ndarray) -> bool:
    """Return whether numbers are those of the rows, from any number on."""
    if np.isnan(values_N).any() or len(values_N) < LEAST_ROWS:
        return False
    steps = np.diff(np.sort(values_N))
    return bool((steps == 1).all())


def _kept(cells: Sequence[str]) -> np.ndarray | None:
    """Return a column as numbers or words, or None if it is of no use to a model."""
    values_N = numbers_in(cells)
    if values_N is not None:
        return None if _is_row_number(values_N) else values_N
    words = [tidy(cell) for cell in cells]
    distinct = {*words} - {""}
    too_many = len(distinct) > min(MOST_WORDS, len(words) / LEAST_ROWS)
    if too_many or all(map(DATE.fullmatch, distinct)):
        return None
    return np.array(words, object)


def kept_columns(cells: Iterable[tuple[str, Sequence[str]]]) -> ImageColumns:
    """Return the columns that a model could use, by their tidy names, at most 200 of them.

    Parameters
    ----------
    cells
        Name and texts of each column, one text per image; not all may be read.

    Examples
    --------
    >>> cells = {"age": ["40", ""], "site": ["a", "a"], "seen": ["2020-01-31", "2020-02-01"]}
    >>> kept_columns(cells.items()).kinds
    {'age': 'number', 'site': 'category'}
    """
    found: dict[str, np.ndarray] = {}
    for name, texts in cells:
        if len(found) == MOST_COLUMNS:
            break
        # A comma separates names in --meta-cols.
        known = tidy(name)
        values_N = None if not known or "," in known or known in found else _kept(texts)
        if values_N is not None:
            found[known] = values_N
    return ImageColumns(found)


def as_kind(cells: Sequence[str], kind: str, *, where: str) -> np.ndarray:
    """Return the cells of a column as numbers or words; raise UserError for another kind.

    `where` is the file and the column, for the message.
    """
    if kind == CATEGORY:
        return np.array([tidy(cell) for cell in cells], object)
    values_N = numbers_in(cells)
    if values_N is None:
        odd = next((one for one in cells if numbers_in([one]) is None), "")
        raise UserError(f"{where}: {shown(odd)!r} is no number; write it as 1.5, or leave it empty")
    return values_N
