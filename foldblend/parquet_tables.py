"""Reading of a user's Parquet table, every cell as text, within bounds that its metadata tell."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from foldblend.delimited import check_size
from foldblend.errors import UserError, listed
from foldblend.reading import MOST_TEXT, open_regular
from foldblend.tables import Categories, TextTable, cell_text
from foldblend.words import tidy

__all__ = ["read_parquet_table"]

# Rows of a file of images that are read at once.
AT_ONCE = 4096


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Return the class names that Hugging Face's datasets write for columns of class numbers."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: [str(one) for one in about["names"]]
            for name, about in features.items()
            if isinstance(about, dict) and isinstance(about.get("names"), list)
        }
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _image_columns(schema: Any) -> frozenset[str]:
    """Return the columns that hold images, as structs of bytes and path."""
    return frozenset(
        one.name
        for one in schema
        if pyarrow.types.is_struct(one.type)
        and {"bytes", "path"} <= {part.name for part in one.type}
    )


def _check(file: Path, source: Any, *, has_images: bool, max_rows: int | None) -> None:
    """Raise UserError if the table is too large, or two of its columns have one name."""
    names = source.schema_arrow.names
    twice = {name for name, count in Counter(names).items() if count > 1}
    if twice:
        raise UserError(
            f"{file}: several columns are named {listed(sorted(twice))}; rename all but one"
        )
    about = source.metadata
    check_size(file, rows=about.num_rows, columns=len(names), max_rows=max_rows)
    # Sizes of single columns are not asked for: pyarrow aborts the process if their statistics are
    # damaged. Images stay in the file, so that the size of all columns says nothing.
    if not has_images:
        _check_bytes(
            file, sum(about.row_group(one).total_byte_size for one in range(about.num_row_groups))
        )


def _check_bytes(file: Path, size: int) -> None:
    if size > MOST_TEXT:
        raise UserError(
            f"{file}: has {size:,} bytes of cells, and at most {MOST_TEXT:,} are read; leave out"
            " columns"
        )


def _compact(column: Any) -> Any:
    """Return a column whose dictionary has only the texts of its own rows.

    Each part of a file is read with the whole dictionary. The order of ordered ones is data.
    """
    if not pyarrow.types.is_dictionary(column.type) or column.type.ordered:
        return column
    used = column.indices.unique().drop_null()
    codes = pyarrow.compute.index_in(column.indices, used)
    return pyarrow.DictionaryArray.from_arrays(codes, column.dictionary.take(used))


def _paths_and_cells(file: Path, source: Any, columns: Sequence[str]) -> Any:
    """Return columns of a file of images, read in parts so that their size is seen in time."""
    parts = []
    size = 0
    for part in source.iter_batches(batch_size=AT_ONCE, columns=list(columns)):
        compact = pyarrow.RecordBatch.from_arrays(
            [_compact(one) for one in part.columns], names=part.schema.names
        )
        size += compact.nbytes
        _check_bytes(file, size)
        parts.append(compact)
    return pyarrow.Table.from_batches(parts) if parts else source.read(list(columns))


def _read(opened: BinaryIO, file: Path, max_rows: int | None) -> tuple[Any, Any]:
    """Return the schema and the table."""
    with pyarrow.parquet.ParquetFile(opened) as source:
        schema = source.schema_arrow
        images = _image_columns(schema)
        _check(file, source, has_images=bool(images), max_rows=max_rows)
        # A text that many rows have is stored once, and so it must be here: the rows of a small
        # file could fill any memory.
        texts = [
            one.name
            for one in schema
            if pyarrow.types.is_string(one.type) or pyarrow.types.is_binary(one.type)
        ]
        about = source.metadata
        opened.seek(0)
        again = pyarrow.parquet.ParquetFile(opened, metadata=about, read_dictionary=texts)
        # Of images, only the paths are read.
        wanted = [f"{name}.path" if name in images else name for name in schema.names]
        if images:
            return schema, _paths_and_cells(file, again, wanted)
        return schema, again.read(wanted)


def _words(column: Any) -> list[str]:
    """Return the cells of a column as text."""
    words: list[str] = []
    for chunk in column.chunks:
        if not pyarrow.types.is_dictionary(chunk.type):
            words += [cell_text(value) for value in chunk.to_pylist()]
            continue
        known = [cell_text(value) for value in chunk.dictionary.to_pylist()]
        words += ["" if code is None else known[code] for code in chunk.indices.to_pylist()]
    return words


def _of_classes(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the names of class numbers; -1, which stands for an unknown class, is blank."""
    valid = {str(code): one for code, one in enumerate(names)}
    return [valid.get(word, "" if word == "-1" else word) for word in words]


def _converted(file: Path, schema: Any, table: Any) -> TextTable:
    kinds = dict(zip(schema.names, schema.types, strict=True))
    images = _image_columns(schema)
    codes = _class_names(schema)
    categories: dict[str, Categories] = {}
    columns = {}
    for name in schema.names:
        words = _words(table[name])
        if pyarrow.types.is_dictionary(kinds[name]) and kinds[name].ordered:
            chunks = table[name].unify_dictionaries().chunks
            declared = chunks[0].dictionary.to_pylist() if chunks else []
            categories[tidy(name)] = Categories(
                tuple(tidy(cell_text(one)) for one in declared), True
            )
        if name in codes and pyarrow.types.is_integer(kinds[name]):
            words = _of_classes(words, codes[name])
            categories[tidy(name)] = Categories(tuple(map(tidy, codes[name])), False)
        # The images are read later, by the name that the file has.
        columns[name if name in images else tidy(name)] = words
    cells = pd.DataFrame(columns, index=range(1, len(table) + 1), dtype=object)
    return TextTable(file=file, cells=cells, unit="row", categories=categories, images=images)


def read_parquet_table(file: Path, *, max_rows: int | None = None) -> TextTable:
    """Read a Parquet file with every cell as text.

    Parameters
    ----------
    file
        The table.
    max_rows
        Most rows (see `foldblend.delimited.check_size`).

    Raises
    ------
    UserError
        If it cannot be read, or is too large by its metadata, which are read first.
    """
    try:
        with open_regular(file) as opened:
            return _converted(file, *_read(opened, file, max_rows))
    except UserError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise UserError(f"{file}: {error.strerror}; check the path") from None
        raise UserError(f"{file}: cannot be read as Parquet; write it again") from None
    except (pyarrow.ArrowException, ValueError, LookupError, OverflowError, RecursionError):
        raise UserError(f"{file}: cannot be read as Parquet; write it again") from None
