"""The logits of a source for each fold, kept in labels/ of the run folder.

Each fold has a table and, written after it, a record with the table's hash. A table without such a
record is made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from foldblend.errors import UserError
from foldblend.files import is_file, is_link, remove
from foldblend.runs.folder import (
    check_there,
    file_hash,
    logit_columns,
    with_logits,
    write_json,
    write_table,
)
from foldblend.runs.info import FoldLabelsInfo
from foldblend.runs.schema import read_checked
from foldblend.runs.tables import TableReader
from pipeline.job import Prepared

__all__ = ["LABELS", "TRAIN", "UNLABELLED", "Kept", "keep", "kept"]

LABELS = "labels"
TRAIN = "train"
UNLABELLED = "unlabelled"
NEEDED = (*FoldLabelsInfo.__required_keys__,)
# Of pseudo-labels.
CALIBRATED = ("temperature", "num_sure", "num_right")


@dataclass(frozen=True)
class Kept:
    """Logits of images by what never saw a fold, for the training of that fold."""

    table: pd.DataFrame
    """image_id and part: "train" for labelled images, "unlabelled" for others."""
    logits_NC: np.ndarray
    """Float32, without offsets per class."""
    info: FoldLabelsInfo

    def part(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return image ids and logits N x C of a part."""
        rows = (self.table["part"] == name).to_numpy()
        return self.table.loc[rows, "image_id"].to_numpy(), self.logits_NC[rows]


def _names(index: int) -> tuple[str, str]:
    return f"{LABELS}/fold_{index}.parquet", f"{LABELS}/fold_{index}.json"


def keep(
    folder: Path,
    index: int,
    table: pd.DataFrame,
    logits_NC: np.ndarray,
    info: Mapping[str, object],
) -> None:
    """Write the table of a fold (image_id, part and logits), and then its record."""
    data, record = _names(index)
    check_there(folder)
    place = folder / LABELS
    if is_link(place) or not place.is_dir():
        # Nothing is written where a link leads.
        remove(place)
        # Several processes may make the labels of a run.
        place.mkdir(exist_ok=True)
    (folder / record).unlink(missing_ok=True)
    write_table(folder / data, with_logits(table, logits_NC))
    write_json(folder / record, {**info, "file": file_hash(folder / data)})


def kept(folder: Path, index: int, run: Prepared) -> Kept | None:
    """Return the logits of a fold, or None if they are absent, damaged or of another run."""
    data, record = _names(index)
    if not (is_file(folder / record) and is_file(folder / data)):
        return None
    about = {
        "classes": [*run.manifest.classes],
        "num_folds": run.num_folds,
        "num_repeats": run.num_repeats,
    }
    assert run.labels is not None
    needed = NEEDED if run.labels.is_teacher else (*NEEDED, *CALIBRATED)
    try:
        info: FoldLabelsInfo = read_checked(
            folder / record, FoldLabelsInfo, needed=needed, cure="remove it"
        )
        if info["key"] != run.labels.key:
            return None
        reader = TableReader(folder, about, {data: info["file"]})
        found = reader.read(data.removesuffix(".parquet"))
    except UserError:
        return None
    columns = logit_columns(run.manifest.num_classes)
    return Kept(found[["image_id", "part"]], found[columns].to_numpy(np.float32), info)
