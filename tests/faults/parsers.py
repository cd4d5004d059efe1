"""Everything that reads what users write, as functions of bytes: a value, or UserError."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.config import read_blend_file, read_members
from foldblend.errors import UserError
from foldblend.image_bytes import (
    JPEG,
    PNG,
    is_simple,
    png_damage,
    quiet,
    read_tiff,
)
from foldblend.image_natures import nature_of
from foldblend.images import read_image, upright_size
from foldblend.runs.folder import read_json
from foldblend.tables import read_text_table
from folds.config import DataConfig
from folds.data.imported.known import KnownData
from folds.data.imported.rows import check_labels, folds_of, order_of_rows
from folds.data.imported.tables import read_predictions
from folds.data.imported.values import logits_of
from folds.fold_file import read_fold_file
from pipeline.config.settings import read_config_file
from tests.faults.judge import bad_message

__all__ = ["CORPUS", "PARSERS", "parse"]

CORPUS = Path(__file__).with_name("corpus")
TRAIN = pd.DataFrame({"image_id": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"], "group": [*"wxyz"]})


def _image_header(file: Path) -> None:
    """Read the parts of an image's bytes that OpenCV does not report."""
    data = file.read_bytes()
    quiet(data)
    nature_of(data)
    read_tiff(data)
    if data.startswith(PNG):
        if png_damage(data) is None:
            is_simple(data)
    elif data.startswith(JPEG):
        upright_size(file)


def _folds(file: Path) -> None:
    read_fold_file(file, TRAIN, leaks=True)


def _oof(file: Path) -> None:
    """Read imported predictions and compare them with four images."""
    train = TRAIN.assign(label=[0, 0, 1, 1], label_raw=[0, 0, 1, 1])
    record = {"data": {"group_name": "group"}}
    known = KnownData(source="data", train=train, classes=("cat", "dog"), record=record)
    found = read_predictions(file, "--oof", known, DataConfig())
    order_RN = order_of_rows(found, train["image_id"].tolist(), "data")
    check_labels(found, known, order_RN, DataConfig())
    folds_of(found, known, order_RN, None)
    logits, _ = logits_of([found], "auto")
    assert np.isfinite(logits.tables[0]).all()


# Name of the parser, by which its part of the corpus is named; the suffix of its files; the parser.
PARSERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "csv": (".csv", read_text_table),
    "tsv": (".tsv", read_text_table),
    "jsonl": (".jsonl", read_text_table),
    "parquet": (".parquet", read_text_table),
    "folds": (".csv", _folds),
    "oof": (".csv", _oof),
    "config": (".yaml", read_config_file),
    "members": (".yaml", read_members),
    "blend": (".yaml", read_blend_file),
    "json": (".json", read_json),
    "header": (".img", _image_header),
    "image": (".img", read_image),
    "png": (".png", read_image),
}


def parse(name: str, data: bytes, folder: Path) -> str | None:
    """Parse bytes as a file; return the message of a UserError, or None if they were accepted.

    Raises
    ------
    AssertionError
        If the message is not one line that names the file.
    """
    suffix, read = PARSERS[name]
    file = folder / f"parsed{suffix}"
    file.write_bytes(data)
    try:
        read(file)
    except UserError as error:
        message = str(error)
    else:
        return None
    wrong = bad_message(f"error: {message}\n", ("parsed",))
    assert wrong is None, f"{wrong}: {message}"
    return message


def scratch() -> Path:
    """Return a folder in memory where there is one, for many small files."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="parsed-", dir=where))


def main() -> None:
    """Parse files in a process of its own, which damaged ones may abort: PARSER FILES ..."""
    folder = scratch()
    try:
        for file in sys.argv[2:]:
            print(Path(file).name, flush=True)
            parse(sys.argv[1], Path(file).read_bytes(), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
