"""Columns of a user's table that run folders keep, so that blends may learn from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd

from foldblend.errors import UserError, listed
from foldblend.image_columns import ImageColumns, as_kind, kept_columns
from foldblend.runs.image_columns import TEST, TRAIN, columns_table
from foldblend.tables import cell_text
from foldblend.words import tidy
from folds.data.image_table import Cells, ImageTable

__all__ = ["names_in", "still_there", "table_of_columns"]


def _texts(columns: Mapping[str, Cells]) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the cells of each column; tables may have thousands of columns."""
    for name, cells in columns.items():
        yield str(name), [cell_text(cell) for cell in cells]


def _of_test(columns: Mapping[str, Cells], kept: ImageColumns, num: int) -> ImageColumns:
    """Return the columns of the test images; those that are absent or of another kind are empty."""
    used = {name: cells for name, cells in columns.items() if tidy(str(name)) in kept.values}
    known = {tidy(name): texts for name, texts in _texts(used)}
    found = ImageColumns.empty(kept.kinds, num)
    for name, kind in kept.kinds.items():
        if name in known:
            try:
                found.values[name][:] = as_kind(known[name], kind, where=name)
            except UserError:
                continue
    return found


def table_of_columns(found: ImageTable) -> pd.DataFrame | None:
    """Return the content of columns.parquet for a data set, or None if no column can be kept.

    Raises UserError for a column of another length than the images have.
    """
    num_test = len(found.test or ())
    for columns, num in ((found.columns, len(found.image_id)), (found.test_columns, num_test)):
        odd = next((name for name, cells in columns.items() if len(cells) != num), None)
        if odd is not None:
            raise UserError(
                f"{found.root}: column {odd!r} has {len(columns[odd])} values for {num} images;"
                " pass one per image"
            )
    kept = kept_columns(_texts(found.columns))
    if not kept.values:
        return None
    tables = [columns_table(TRAIN, np.asarray(found.image_id, object), kept)]
    if found.test:
        ids = np.array([image_id for image_id, _ in found.test], object)
        of_test = _of_test(found.test_columns, kept, num_test)
        tables.append(columns_table(TEST, ids, of_test))
    table = pd.concat(tables, ignore_index=True)
    return table.sort_values(["part", "image_id"], ignore_index=True)


def names_in(table: pd.DataFrame) -> str:
    """Return the names of the columns in a table of them, for a sentence."""
    return listed((full.partition(":")[2] for full in table.columns[2:]), most=9)


def still_there(table: pd.DataFrame, ids: Mapping[str, Iterable[str]]) -> pd.DataFrame:
    """Return the rows of the images that a data set still has, by part."""
    parts = [
        table[(table["part"] == part) & table["image_id"].isin({*names})]
        for part, names in ids.items()
    ]
    return pd.concat(parts, ignore_index=True)
