"""Final files of a cross-validated run: the tables of all folds, and the finished run.json."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.cli import Say
from foldblend.files import is_file
from foldblend.runs.folder import (
    check_there,
    file_hash,
    logit_columns,
    table_hashes,
    with_logits,
    write_json,
    write_table,
)
from foldblend.runs.refit import num_refits, refit_note, refit_share, with_refits
from foldblend.runs.rows import (
    in_order_of,
    mean_over_folds,
    write_submission,
    write_test_groups,
    write_test_labels,
)
from foldblend.runs.search import search_note
from foldblend.runs.tables import ROW_COLUMNS, TableReader, check_rows_once
from foldblend.scores.metrics import METRICS
from folds.data.manifest import Manifest
from pipeline.config.about import describe_run
from pipeline.job import Prepared

__all__ = ["assemble", "finish_record", "results_are_intact"]


def results_are_intact(folder: Path, info: Mapping[str, Any], say: Say) -> bool:
    """Return whether a finished run has all files as its run.json records them.

    `say` gets a line on each that is missing or has changed. Runs of earlier versions record none.
    """
    files: Mapping[str, str] = info.get("files", {})
    now = {name: file_hash(folder / name) if is_file(folder / name) else None for name in files}
    for name in files:
        if now[name] != files[name]:
            why = "is missing" if now[name] is None else "has changed since the run was made"
            say(f"{folder}/{name}: {why}; the results are put together again from the folds")
    return bool(files) and now == files


def assemble(
    folder: Path,
    manifest: Manifest,
    num_models: int,
    tables: TableReader,
    info: Mapping[str, Any],
) -> None:
    """Combine the tables of all folds into oof.parquet, test.parquet and submission.csv.

    Refits, which `info` (the run.json) lists, have their share in test.parquet.
    """
    columns = logit_columns(manifest.num_classes)
    _write_oof(folder, manifest, num_models, tables)
    if manifest.test is None:
        return
    refits = [tables.read(f"test_refit_{index}") for index in range(num_refits(info))]

    def tests() -> Iterator[pd.DataFrame]:
        assert manifest.test is not None
        for fold in range(num_models):
            table = tables.read(f"test_fold_{fold}")
            where = f"{folder}/test_fold_{fold}.parquet"
            check_rows_once(table["image_id"], manifest.test["image_id"], where)
            yield _mixed(table, refits, columns, info)

    test = mean_over_folds(tests(), columns)
    check_there(folder)
    write_table(folder / "test.parquet", test)
    write_submission(folder, test, manifest.answers, manifest.submission)
    write_test_labels(folder, manifest.test, manifest.classes)
    write_test_groups(folder, manifest.test)


def _write_oof(folder: Path, manifest: Manifest, num_models: int, tables: TableReader) -> None:
    """Write oof.parquet from the tables of the folds, with all logits in memory once."""
    names = [f"fold_{index}/oof" for index in range(num_models)]
    rows = pd.concat([tables.read(name, ROW_COLUMNS) for name in names], ignore_index=True)
    for repeat, part in rows.groupby("repeat"):
        check_rows_once(
            part["image_id"], manifest.train["image_id"], f"{folder}/oof.parquet, repeat {repeat}"
        )
    rows = rows.sort_values(["repeat", "image_id"])
    place_N = np.empty(len(rows), np.int64)
    place_N[rows.index] = np.arange(len(rows))
    logits_NC = np.empty((len(rows), manifest.num_classes), np.float32)
    start = 0
    for name in names:
        part_NC = tables.read_logits(name, [])[1]
        logits_NC[place_N[start : start + len(part_NC)]] = part_NC
        start += len(part_NC)
    check_there(folder)
    write_table(folder / "oof.parquet", rows.reset_index(drop=True), logits_NC)


def _mixed(
    table: pd.DataFrame,
    refits: Sequence[pd.DataFrame],
    columns: Sequence[str],
    info: Mapping[str, Any],
) -> pd.DataFrame:
    """Return the test table of a fold with the share of the refits."""
    if not refits:
        return table
    ids = table["image_id"]
    logits = [in_order_of(ids, one)[columns].to_numpy(np.float32) for one in refits]
    own_NC = table[columns].to_numpy(np.float32)
    return with_logits(ids.to_frame(), with_refits(own_NC, logits, refit_share(info)))


def finish_record(
    run: Prepared, folder: Path, info: dict[str, Any], before: Mapping[str, Any]
) -> None:
    """Write the final run.json; a run that was already finished keeps its time."""
    # The test tables of the folds are in each done.json.
    info["files"] = table_hashes(folder, folds=False)
    now = round(time.time())
    unchanged = all(before.get(name) == info.get(name) for name in ("folds", "refit"))
    info |= {"status": "done", "finished": before.get("finished", now) if unchanged else now}
    refits = info.get("refit", {}).get("models", ())
    info["seconds"] = round(sum(one["seconds"] for one in (*info["folds"], *refits)), 1)
    info["about"], info["notes"] = describe_run(
        run.config,
        run.manifest,
        origin=run.origin["source"],
        views=run.views,
        folds=info["folds"],
        rates=run.rates,
    )
    note = refit_note(info, run.num_models)
    if note is not None:
        info["notes"].append(note)
    if run.labels is not None:
        info["notes"] += run.labels.notes
    if "search" in info:
        info["notes"].append(search_note(info["search"], METRICS[info["metric"]].title))
    check_there(folder)
    write_json(folder / "run.json", info)
