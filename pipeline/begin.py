"""First files of a run folder: run.json, config.yaml, folds.csv and the paths of the images."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.cli import Say
from foldblend.errors import UserError, counted
from foldblend.runs.environment import describe_environment
from foldblend.runs.folder import FORMAT, PICTURES, file_hash, write_json, write_table
from foldblend.runs.schema import read_info
from foldblend.scores.metrics import is_ordered
from folds.data.manifest import Manifest
from folds.fold_file import read_fold_file
from folds.split import SPLITTERS
from pipeline.data.preprocess import region_of
from pipeline.job import Prepared
from pipeline.open_folder import write_config

__all__ = ["begin_run", "first_record", "with_folds"]


def first_record(run: Prepared, folder: Path) -> dict[str, Any]:
    """Return the content of run.json before the first fold."""
    manifest = run.manifest
    model = run.config.model
    region = region_of(model.crop, model.crop_share, has_boxes="box" in manifest.train)
    return {
        "format": FORMAT,
        "kind": "cv",
        "status": "running",
        "name": folder.name,
        "run_key": run.run_key,
        **({"sources": run.sources} if run.sources else {}),
        "data": {
            "name": manifest.name,
            "hash": run.run_key["data"],
            "train_ids_hash": manifest.ids_hash(),
            "num_images": len(manifest.train),
            "num_groups": int(manifest.train["group"].nunique()),
            "group_name": manifest.group_name,
            "num_test": 0 if manifest.test is None else len(manifest.test),
            "is_demo": manifest.is_demo,
        },
        "classes": list(manifest.classes),
        "answers": list(manifest.answers),
        "ordered": is_ordered(manifest.classes, manifest.ordered),
        **({} if manifest.submission is None else {"submission": manifest.submission.record()}),
        "attributes": [dataclasses.asdict(attribute) for attribute in manifest.attributes],
        "num_folds": run.num_folds,
        "num_repeats": run.num_repeats,
        "has_test": manifest.test is not None,
        "num_test_folds": 0 if manifest.test is None else run.num_models,
        "leaks": SPLITTERS[run.config.split.split].leaks,
        "optimistic": run.config.train.select == "best",
        "views": list(run.views),
        "preprocess": run.preprocess.record(region),
        "metric": run.config.output.metric,
    }


def _folds(folder: Path, run: Prepared) -> np.ndarray:
    """Return the R x N folds of the training rows, from folds.csv or written there."""
    train = run.manifest.train
    file = folder / "folds.csv"
    if file.is_file():
        fold_RN = read_fold_file(
            file,
            train,
            leaks=SPLITTERS[run.config.split.split].leaks,
            group_name=run.manifest.group_name,
        )
        if fold_RN.shape != run.fold_RN.shape or fold_RN.max() != run.fold_RN.max():
            raise UserError(
                f"{file}: has a different number of folds or repeats; remove it to write it again"
            )
        return fold_RN
    rows = [
        train[["image_id", "group", "label"]].assign(repeat=repeat, fold=fold_N)
        for repeat, fold_N in enumerate(run.fold_RN)
    ]
    write_table(file, pd.concat(rows))
    return run.fold_RN


def with_folds(run: Prepared, folder: Path, info: dict[str, Any]) -> Prepared:
    """Return the run with the folds of its folder; `info` receives the hash of folds.csv.

    Raises UserError if folds.csv has other folds than the run.
    """
    run = dataclasses.replace(run, fold_RN=_folds(folder, run))
    info["folds_hash"] = file_hash(folder / "folds.csv")
    # A resumed run keeps the environment of its start; each fold records its own as well.
    if not (folder / "env.json").is_file():
        write_json(folder / "env.json", describe_environment(weights=run.origin))
    return run


def _write_image_paths(folder: Path, manifest: Manifest) -> None:
    """Write the paths of all images, with which reports show images; no result depends on it."""
    tables = [manifest.train.assign(part="train")]
    if manifest.test is not None:
        tables.append(manifest.test.assign(part="test"))
    table = pd.concat(tables, ignore_index=True)
    table["path"] = [str(Path(path).resolve()) for path in table["path"]]
    write_table(
        folder / PICTURES,
        table[[name for name in ("part", "image_id", "path", "box", "content") if name in table]],
    )


def begin_run(run: Prepared, folder: Path, info: dict[str, Any], say: Say) -> dict[str, Any]:
    """Write the first files of the run folder and return its previous run.json.

    A new run gets the time of its start instead.
    """
    machine = run.config.machine
    data = info["data"]
    say(
        f"{folder}: {counted(data['num_images'], 'image')} of"
        f" {counted(data['num_groups'], data['group_name'])},"
        f" {run.manifest.num_classes} classes, {data['num_test']:,} test images;"
        f" {machine.device}, {machine.amp_dtype if machine.amp else 'float32'},"
        f" {counted(machine.threads, 'thread')}, {counted(machine.workers, 'worker')}"
    )
    before = (
        read_info(folder) if (folder / "run.json").is_file() else {"started": round(time.time())}
    )
    # A resumed run keeps its first start. Runs of earlier versions have none.
    if "started" in before:
        info["started"] = before["started"]
    # A run of an earlier version goes on with short last batches, so that its folds are alike.
    info["padded"] = bool(before.get("padded", "run_key" not in before))
    # So does the record of the pixels, which has the version of OpenCV.
    if "preprocess" in before:
        info["preprocess"] = before["preprocess"]
    # run.json comes first, because it marks the folder as a run.
    write_json(folder / "run.json", info)
    write_config(folder, run.config)
    _write_image_paths(folder, run.manifest)
    return dict(before)
