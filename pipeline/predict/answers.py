"""Tables of predictions: from logits to classes, probabilities and marks of each image."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from foldblend.files import write_with
from foldblend.scores.calibration import Calibration
from foldblend.spreadsheets import for_spreadsheets

__all__ = ["Answers", "write_answers"]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Columns of a table of predictions, made from logits."""

    classes: tuple[str, ...]
    calibration: Calibration
    unsure: float | None = None
    """Probability of an error above which an image is marked."""

    def table(
        self,
        ids: Sequence[str],
        logits_NC: np.ndarray,
        plain_NC: np.ndarray,
        *,
        groups: Sequence[str] | None = None,
        inside_NC: np.ndarray | None = None,
        odd_N: np.ndarray | None = None,
    ) -> pd.DataFrame:
        """Return one row per image.

        Parameters
        ----------
        ids
            Names of the images.
        logits_NC
            Logits with the decision rule: the class is that of the greatest.
        plain_NC
            Logits without offsets, of which the probabilities are made.
        groups
            Group of each image.
        inside_NC
            Whether each class is in the set of the image.
        odd_N
            Percentile of each image's distance to the training images, 0 to 100.
        """
        names = np.array(self.classes, dtype=object)
        class_N = logits_NC.argmax(axis=1)
        proba_NC = self.calibration.proba(plain_NC)
        columns: dict[str, object] = {"image_id": list(ids)}
        if groups is not None:
            columns["group"] = list(groups)
        columns["class"] = names[class_N]
        # The class need not be the most probable one: offsets move the decision.
        proba_N = proba_NC[np.arange(len(proba_NC)), class_N]
        columns["proba"] = proba_N
        if self.unsure is not None:
            columns["unsure"] = 1 - proba_N > self.unsure
        if inside_NC is not None:
            columns["classes"] = ["|".join(names[one]) for one in inside_NC]
        if odd_N is not None:
            columns["odd"] = odd_N.astype(np.float64)
        for index, name in enumerate(self.classes):
            columns[f"proba_{name}"] = proba_NC[:, index]
        return pd.DataFrame(columns)


def _csv(draft: Path, tables: Iterable[pd.DataFrame]) -> None:
    with draft.open("w", encoding="utf-8", newline="") as file:
        for place, table in enumerate(tables):
            table = for_spreadsheets(table)
            # The csv module leaves a carriage return unquoted, where readers end a row.
            has_return = any("\r" in str(name) for name in table.iloc[:, 0])
            quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if has_return else csv.QUOTE_MINIMAL
            table.to_csv(file, index=False, header=place == 0, quoting=quoting)


def _parquet(draft: Path, tables: Iterable[pd.DataFrame]) -> None:
    writer = None
    # pyarrow takes no path that is no UTF-8.
    with draft.open("wb") as file:
        try:
            for table in tables:
                rows = pyarrow.Table.from_pandas(table, preserve_index=False)
                writer = writer or pyarrow.parquet.ParquetWriter(file, rows.schema)
                writer.write_table(rows)
        finally:
            if writer is not None:
                writer.close()


def _jsonl(draft: Path, tables: Iterable[pd.DataFrame]) -> None:
    with draft.open("w", encoding="utf-8") as file:
        for table in tables:
            for row in table.to_dict("records"):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


WRITERS: dict[str, Callable[[Path, Iterable[pd.DataFrame]], None]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".jsonl": _jsonl,
}


def write_answers(path: Path, tables: Iterator[pd.DataFrame]) -> None:
    """Write tables one after the other into one file, whole or not at all."""
    write = WRITERS[path.suffix.lower()]
    write_with(path, lambda draft: write(draft, tables))
