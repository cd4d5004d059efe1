"""Reading of tables that users write: CSV, TSV, JSON lines and Parquet, every cell as text."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from foldblend.delimited import parse_delimited, read_text
from foldblend.errors import UserError, did_you_mean, listed
from foldblend.files import exists, home
from foldblend.words import tidy

__all__ = ["SUFFIXES", "Categories", "TextTable", "is_table", "read_text_table"]


# Longer binary cells are images, which are not text.
MOST_BYTES = 200
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


def _in_brackets(flag: str) -> str:
    return f" ({flag})" if flag else ""


def _unique(names: Sequence[str]) -> tuple[list[str], frozenset[str]]:
    """Return names that are all different, and those that occurred more than once."""
    unique: list[str] = []
    for name in names:
        spelt = name
        number = 0
        while spelt in unique or (number and spelt in names):
            number += 1
            spelt = f"{name}.{number}"
        unique.append(spelt)
    return unique, frozenset(name for name, count in Counter(names).items() if count > 1)


def _read_delimited(file: Path, *, sep: str | None, encoding: str | None, cure: str) -> TextTable:
    found = parse_delimited(read_text(file, encoding, cure=cure), file, sep=sep)
    header, twice = _unique(found.header)
    cells = pd.DataFrame(found.rows, columns=header, index=found.lines, dtype=object)
    return TextTable(file=file, cells=cells, twice=twice)


def _text(value: Any) -> str:
    """Return a cell of JSON or Parquet as text; None and NaN are blank."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, dict) and "path" in value:
        return _text(value["path"])
    if isinstance(value, bytes):
        return value[:MOST_BYTES].decode("utf-8", errors="replace")
    return str(value)


def _read_json_lines(file: Path, *, sep: str | None, encoding: str | None, cure: str) -> TextTable:
    rows = []
    lines = []
    for number, line in enumerate(read_text(file, encoding, cure=cure).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            # Numbers stay as they are written.
            row = json.loads(line, parse_int=str, parse_float=str)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(
                f"{file}: line {number} is not a JSON object; write one {{...}} per line"
            )
        rows.append({tidy(str(key)): _text(value) for key, value in row.items()})
        lines.append(number)
    if not rows:
        raise UserError(f"{file}: the file is empty; write one JSON object per line")
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[row.get(name, "") for name in names] for row in rows]
    return TextTable(file=file, cells=pd.DataFrame(cells, columns=names, index=lines, dtype=object))


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Return the class names that Hugging Face's datasets write for columns of class numbers."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: [str(one) for one in about["names"]]
            for name, about in features.items()
            if isinstance(about, dict) and isinstance(about.get("names"), list)
        }
    except (KeyError, TypeError, ValueError):
        return {}


def _read_parquet(file: Path, *, sep: str | None, encoding: str | None, cure: str) -> TextTable:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as source:
            schema = source.schema_arrow
            kinds = dict(zip(schema.names, schema.types, strict=True))
            images = {
                name
                for name, kind in kinds.items()
                if pyarrow.types.is_struct(kind) and {"bytes", "path"} <= {one.name for one in kind}
            }
            # The images stay in the file: only their paths are read here.
            wanted = [f"{name}.path" if name in images else name for name in schema.names]
            twice = {name for name, count in Counter(schema.names).items() if count > 1}
            if twice:
                raise UserError(
                    f"{file}: several columns are named {listed(sorted(twice))}; rename all but one"
                )
            table = source.read(wanted)
    except OSError as error:
        if error.errno is not None:
            raise UserError(f"{file}: {error.strerror}; check the path") from None
        raise UserError(f"{file}: cannot be read as Parquet; write it again") from None
    except UserError:
        raise
    except (pyarrow.ArrowException, ValueError):
        raise UserError(f"{file}: cannot be read as Parquet; write it again") from None
    codes = _class_names(schema)
    categories: dict[str, Categories] = {}
    columns = {}
    for name in schema.names:
        column = table[name]
        words = [_text(value) for value in column.to_pylist()]
        if pyarrow.types.is_dictionary(kinds[name]) and kinds[name].ordered:
            chunks = column.unify_dictionaries().chunks
            declared = chunks[0].dictionary.to_pylist() if chunks else []
            categories[tidy(name)] = Categories(tuple(tidy(_text(one)) for one in declared), True)
        if name in codes and pyarrow.types.is_integer(kinds[name]):
            names = codes[name]
            valid = {str(code): one for code, one in enumerate(names)}
            # -1 stands for an unknown class there.
            words = [valid.get(word, "" if word == "-1" else word) for word in words]
            categories[tidy(name)] = Categories(tuple(tidy(one) for one in names), False)
        # The images are read later, by the name that the file has.
        columns[name if name in images else tidy(name)] = words
    cells = pd.DataFrame(columns, index=range(1, len(table) + 1), dtype=object)
    return TextTable(
        file=file, cells=cells, unit="row", categories=categories, images=frozenset(images)
    )


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

    Raises
    ------
    UserError
        In one line with the file and, if possible, the line.
    """
    path = home(file)
    if exists(path) and path.is_dir():
        raise UserError(f"{file}: is a folder, not a table; pass a file in it")
    reader = READERS.get(path.suffix.lower(), _read_delimited)
    return reader(path, sep=sep, encoding=encoding, cure=cure)
