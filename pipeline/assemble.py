"""Final files of a cross-validated run: the tables of all folds, and the finished run.json."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from foldblend.runs.check import check_rows_once
from foldblend.runs.folder import file_hash, logit_columns, read_table, write_json, write_table
from foldblend.runs.rows import mean_over_folds, write_submission, write_test_labels
from folds.data.manifest import Manifest
from pipeline.config.about import describe_run
from pipeline.job import Prepared

__all__ = ["assemble", "finish_record"]


def assemble(folder: Path, manifest: Manifest, num_models: int) -> None:
    """Combine the tables of all folds into oof.parquet, test.parquet and submission.csv."""
    columns = logit_columns(manifest.num_classes)
    oof = pd.concat(
        [read_table(folder / f"fold_{index}" / "oof.parquet") for index in range(num_models)]
    )
    for repeat, rows in oof.groupby("repeat"):
        check_rows_once(
            rows["image_id"], manifest.train["image_id"], f"{folder}/oof.parquet, repeat {repeat}"
        )
    write_table(folder / "oof.parquet", oof.sort_values(["repeat", "image_id"], ignore_index=True))
    if manifest.test is None:
        return
    tables = [read_table(folder / f"test_fold_{index}.parquet") for index in range(num_models)]
    for fold, table in enumerate(tables):
        check_rows_once(
            table["image_id"], manifest.test["image_id"], f"{folder}/test_fold_{fold}.parquet"
        )
    test = mean_over_folds(tables, columns)
    write_table(folder / "test.parquet", test)
    write_submission(folder, test, manifest.answers, manifest.submission)
    write_test_labels(folder, manifest.test, manifest.classes)


def finish_record(
    run: Prepared, folder: Path, info: dict[str, Any], before: Mapping[str, Any]
) -> None:
    """Write the final run.json; a run that was already finished keeps its time."""
    files = ["oof.parquet", *(["test.parquet", "submission.csv"] if info["has_test"] else [])]
    info["files"] = {name: file_hash(folder / name) for name in files}
    unchanged = before.get("folds") == info["folds"]
    info |= {"status": "done", "finished": before["finished"] if unchanged else round(time.time())}
    info["seconds"] = round(sum(fold["seconds"] for fold in info["folds"]), 1)
    info["about"], info["notes"] = describe_run(
        run.config, run.manifest, origin=run.origin["source"], views=run.views, folds=info["folds"]
    )
    write_json(folder / "run.json", info)
