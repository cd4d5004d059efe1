"""Table columns.parquet of a run folder: columns of the images that a blend may learn from.

A column is called number:age or category:site in the file, so that a column of the user may have
any name. Empty cells are absent values. Test images of which a column is not known have none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from foldblend.image_columns import CATEGORY, NUMBER, ImageColumns, is_empty
from foldblend.runs.folder import COLUMNS
from foldblend.runs.run import Run

__all__ = ["TEST", "TRAIN", "RunColumns", "columns_table", "read_columns"]

TRAIN = "train"
TEST = "test"


def columns_table(part: str, ids: np.ndarray, columns: ImageColumns) -> pd.DataFrame:
    """Return the rows of columns.parquet of one part: train or test."""
    table = pd.DataFrame({"part": np.full(len(ids), part, object), "image_id": ids})
    for name, kind in columns.kinds.items():
        values_N = columns.values[name]
        if kind == CATEGORY:
            values_N = values_N.copy()
            values_N[is_empty(values_N)] = None
        table[f"{kind}:{name}"] = values_N
    return table


@dataclass(frozen=True, slots=True)
class RunColumns:
    """The columns of a run's images, by part."""

    ids: dict[str, pd.Index]
    """Names of the images of each part."""
    columns: dict[str, ImageColumns]

    def of(self, part: str, ids: pd.Series, names: tuple[str, ...]) -> ImageColumns:
        """Return columns of these images of a part, in their order; unknown images have none."""
        known = self.columns[part]
        kinds = {name: known.kinds[name] for name in names}
        place_N = self.ids[part].get_indexer(pd.Index(ids))
        found = ImageColumns.empty(kinds, len(ids))
        at = place_N >= 0
        for name in names:
            found.values[name][at] = known.values[name][place_N[at]]
        return found


def read_columns(run: Run) -> RunColumns | None:
    """Return the columns of a run's images, or None for a run that has kept none.

    Raises BrokenRun if the file has changed or is no such table.
    """
    if not run.has(COLUMNS):
        return None
    table = run.tables.read("columns")
    values: dict[str, np.ndarray] = {}
    for full in table.columns[2:]:
        kind, _, name = full.partition(":")
        if name in values:
            raise run.tables.broken(COLUMNS, f"has {name} as a number and as words; run it again")
        if kind == NUMBER:
            values[name] = table[full].to_numpy(np.float64, na_value=np.nan)
            if np.isinf(values[name]).any():
                raise run.tables.broken(COLUMNS, f"{full} is not finite; run it again")
        else:
            filled = table[full].astype(object)
            values[name] = filled.where(filled.notna(), "").to_numpy(object)
    parts = table["part"].to_numpy()
    ids = {}
    columns = {}
    for part in (TRAIN, TEST):
        rows = np.flatnonzero(parts == part)
        ids[part] = pd.Index(table["image_id"].to_numpy(object)[rows])
        columns[part] = ImageColumns(values).take(rows)
    return RunColumns(ids, columns)
