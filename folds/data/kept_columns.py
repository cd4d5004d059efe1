"""Columns of a user's table that run folders keep, so that blends may learn from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from foldblend.errors import UserError
from foldblend.image_columns import Columns, as_kind, kept_columns
from foldblend.runs.image_columns import TEST, TRAIN, columns_table
from foldblend.tables import cell_text
from foldblend.words import tidy
from folds.data.image_table import ImageTable

__all__ = ["still_there", "table_of_columns"]


def _texts(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    return {str(name): [cell_text(cell) for cell in cells] for name, cells in columns.items()}


def _of_test(texts: Mapping[str, Sequence[str]], kept: Columns, num: int) -> Columns:
    """Return the columns of the test images; those that are absent or of another kind are empty."""
    known = {tidy(name): cells for name, cells in texts.items()}
    found = Columns.empty(kept.kinds, num)
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
        of_test = _of_test(_texts(found.test_columns), kept, num_test)
        tables.append(columns_table(TEST, ids, of_test))
    table = pd.concat(tables, ignore_index=True)
    return table.sort_values(["part", "image_id"], ignore_index=True)


def still_there(table: pd.DataFrame, ids: Mapping[str, Iterable[str]]) -> pd.DataFrame:
    """Return the rows of the images that a data set still has, by part."""
    parts = [
        table[(table["part"] == part) & table["image_id"].isin({*names})]
        for part, names in ids.items()
    ]
    return pd.concat(parts, ignore_index=True)
