"""Reading of tables that users write: CSV, TSV, JSON lines and Parquet, every cell as text."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.delimited import check_size, parse_delimited, read_text
from foldblend.errors import UserError, did_you_mean, listed, shown
from foldblend.files import exists, home
from foldblend.reading import is_deeper
from foldblend.words import tidy

__all__ = [
    "SUFFIXES",
    "Categories",
    "TextTable",
    "cell_text",
    "is_table",
    "read_text_table",
]


# Longer binary cells are images, which are not text.
MOST_BYTES = 200
# Cells of JSON may be nested; deeper ones are no labels or paths.
MOST_DEPTH = 20
IMAGE_NAME = re.compile(r"\.(jpe?g|png|tiff?|webp|bmp|gif)$", re.IGNORECASE)


@dataclass(frozen=True)
class Categories:
    """Values that a file declares for a column, in their order."""

    names: tuple[str, ...]
    is_order: bool
    """Whether the order has a meaning, such as that of grades."""


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A table of a user with every cell as text; empty cells are ""."""

    file: Path
    cells: pd.DataFrame
    """Columns of text; the index is the number of each row's line in the file."""
    unit: str = "line"
    """What the index counts: lines of a text file, or rows of a Parquet file."""
    categories: Mapping[str, Categories] = field(default_factory=dict)
    """Columns whose values the file declares."""
    images: frozenset[str] = frozenset()
    """Columns that hold images, whose cells are the images' paths."""
    twice: frozenset[str] = frozenset()
    """Names that several columns have."""

    def at(self, lines: Iterable[object]) -> str:
        """Return the place of rows, such as "line 3, 7"."""
        return f"{self.unit} {listed(lines)}"

    def check_columns(self, columns: Sequence[tuple[str, str]]) -> None:
        """Raise UserError unless each column of (flag, name) occurs once and has no blank cell.

        A missing column is reported together with all other missing ones. The flag may be "".
        """
        absent = [
            f"{name!r}{_in_brackets(flag)}{did_you_mean(name, self.cells.columns)}"
            for flag, name in columns
            if name not in self.cells.columns
        ]
        if absent:
            named = [one for one in self.cells.columns if IMAGE_NAME.search(one)]
            cure = "; it seems to have no header line" if named else ""
            raise UserError(
                f"{self.file}: no column {', '.join(absent)}; it has"
                f" {listed(self.cells.columns, most=9)}{cure}"
            )
        for flag, name in columns:
            if name in self.twice:
                raise UserError(
                    f"{self.file}: two columns are named {name!r}{_in_brackets(flag)}; rename one"
                )
            blank = self.cells.index[self.cells[name].map(tidy) == ""]
            # Images in the table itself need no name.
            if len(blank) and name not in self.images:
                raise UserError(
                    f"{self.file}: column {name!r}{_in_brackets(flag)} is blank in"
                    f" {self.at(blank)}; fill or remove the {self.unit}s"
                )

    def filled(self, names: Sequence[str]) -> pd.DataFrame:
        """Return the cells, after a check that the columns exist; their cells may be blank.

        Raises UserError for missing or repeated columns.
        """
        absent = [name for name in names if name not in self.cells.columns]
        if absent:
            raise UserError(
                f"{self.file}: no column {listed(sorted(absent))}; it has"
                f" {listed(self.cells.columns, most=9)}"
            )
        for name in names:
            if name in self.twice:
                raise UserError(f"{self.file}: two columns are named {name!r}; rename one")
        return self.cells

    def whole_numbers(self, name: str, *, also: Mapping[int, str] | None = None) -> np.ndarray:
        """Return a column of whole numbers from 0 on, which other tools also write as 1.0.

        `also` has further numbers with their meanings. Raises UserError with the line for anything
        else.
        """
        further = also or {}
        words = self.cells[name].str.strip()
        plain = words.str.replace(r"\.0*$", "", regex=True)
        # At most 9 digits, so that no number overflows.
        fits = plain.str.fullmatch(r"\d{1,9}") | plain.isin([*map(str, further)])
        bad = self.cells.index[~fits]
        if len(bad):
            first = shown(str(words[~fits].iloc[0]), most=40)
            others = "".join(f", or {number} for {what}" for number, what in further.items())
            raise UserError(
                f"{self.file}: column {name!r} is {first!r} in {self.at(bad)}; write a whole number"
                f" of 0 or more{others}"
            )
        return plain.astype(np.int64).to_numpy()


def _in_brackets(flag: str) -> str:
    return f" ({flag})" if flag else ""


def _unique(names: Sequence[str]) -> tuple[list[str], frozenset[str]]:
    """Return names that are all different, and those that occurred more than once."""
    counts = Counter(names)
    unique: dict[str, None] = {}
    numbers: Counter[str] = Counter()
    for name in names:
        spelt = name
        while spelt in unique or (spelt != name and spelt in counts):
            numbers[name] += 1
            spelt = f"{name}.{numbers[name]}"
        unique[spelt] = None
    return [*unique], frozenset(name for name, count in counts.items() if count > 1)


def _read_delimited(
    file: Path, *, sep: str | None, encoding: str | None, cure: str, max_rows: int | None
) -> TextTable:
    text = read_text(file, encoding, cure=cure)
    found = parse_delimited(text, file, sep=sep, max_rows=max_rows)
    header, twice = _unique(found.header)
    cells = pd.DataFrame(found.rows, columns=header, index=found.lines, dtype=object)
    return TextTable(file=file, cells=cells, twice=twice)


def cell_text(value: Any) -> str:
    """Return a cell of JSON or Parquet as text; None and NaN are blank."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, dict) and "path" in value:
        return cell_text(value["path"])
    if isinstance(value, bytes):
        return value[:MOST_BYTES].decode("utf-8", errors="replace")
    return str(value)


def _json_row(line: str) -> dict[str, str] | None:
    """Return the cells of a line of JSON by column, or None if it is no object of such."""
    try:
        # Numbers stay as they are written.
        row = json.loads(line, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or is_deeper(row, MOST_DEPTH):
        return None
    return {tidy(str(key)): cell_text(value) for key, value in row.items()}


def _is_unicode(row: Mapping[str, str]) -> bool:
    """Return whether texts can be written as UTF-8; JSON can hold halves of surrogate pairs."""
    try:
        "".join([*row, *row.values()]).encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_json_lines(
    file: Path, *, sep: str | None, encoding: str | None, cure: str, max_rows: int | None
) -> TextTable:
    rows: list[dict[str, str]] = []
    lines = []
    names: dict[str, None] = {}
    for number, line in enumerate(read_text(file, encoding, cure=cure).split("\n"), start=1):
        if not line.strip():
            continue
        row = _json_row(line)
        if row is None:
            raise UserError(
                f"{file}: line {number} is not a JSON object; write one {{...}} per line"
            )
        if not _is_unicode(row):
            raise UserError(
                f"{file}: line {number} has half of a surrogate pair, no letter; correct it"
            )
        names |= dict.fromkeys(row)
        rows.append(row)
        lines.append(number)
        check_size(file, rows=len(rows), columns=len(names), max_rows=max_rows)
    if not rows:
        raise UserError(f"{file}: the file is empty; write one JSON object per line")
    cells = [[row.get(name, "") for name in names] for row in rows]
    return TextTable(
        file=file, cells=pd.DataFrame(cells, columns=[*names], index=lines, dtype=object)
    )


def _read_parquet(
    file: Path, *, sep: str | None, encoding: str | None, cure: str, max_rows: int | None
) -> TextTable:
    # Importing pyarrow takes a while.
    from foldblend.parquet_tables import read_parquet_table

    return read_parquet_table(file, max_rows=max_rows)


READERS: dict[str, Callable[..., TextTable]] = {
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".txt": _read_delimited,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
    ".pq": _read_parquet,
}
SUFFIXES = tuple(READERS)
"""Suffixes of the files that `read_text_table` reads by their format."""


def is_table(path: str | Path) -> bool:
    """Return whether a path has the suffix of a table."""
    return Path(path).suffix.lower() in READERS


def read_text_table(
    file: str | Path,
    *,
    sep: str | None = None,
    encoding: str | None = None,
    cure: str = "save it as UTF-8",
    max_rows: int | None = None,
) -> TextTable:
    """Read a table of a user, with every cell as text.

    Parameters
    ----------
    file
        CSV, TSV, JSON lines or Parquet, by its suffix; other suffixes are read as CSV.
    sep
        Separator of a CSV; default: recognised.
    encoding
        Encoding of a text file; default: UTF-8, or as its byte-order mark says.
    cure
        Advice in the error for a file in another encoding.
    max_rows
        Most rows (--max-rows); default: `foldblend.limits.MAX_ROWS`.

    Raises
    ------
    UserError
        In one line with the file and, if possible, the line.
    """
    path = home(file)
    if exists(path) and path.is_dir():
        raise UserError(f"{file}: is a folder, not a table; pass a file in it")
    reader = READERS.get(path.suffix.lower(), _read_delimited)
    return reader(path, sep=sep, encoding=encoding, cure=cure, max_rows=max_rows)
