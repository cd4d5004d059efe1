"""First files of a run folder: run.json, config.yaml, folds.csv and the paths of the images."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.cli import Say
from foldblend.errors import UserError, counted
from foldblend.files import is_file, write_bytes
from foldblend.runs.environment import describe_environment
from foldblend.runs.folder import (
    COLUMNS,
    FORMAT,
    PICTURES,
    csv_bytes,
    file_hash,
    write_json,
    write_table,
)
from foldblend.runs.image_columns import TEST, TRAIN
from foldblend.runs.schema import read_done, read_info
from foldblend.scores.by_group import IMAGE, scored_by_group
from foldblend.scores.metrics import is_ordered
from folds.data.kept_columns import still_there
from folds.data.manifest import Manifest
from folds.data.training_only import PART
from folds.fold_file import TRAINING_ONLY, read_fold_file
from folds.split import SPLITTERS
from pipeline.data.preprocess import region_of
from pipeline.job import Prepared
from pipeline.open_folder import write_config

__all__ = [
    "Folds",
    "begin_run",
    "first_record",
    "folds_of",
    "record_before",
    "say_start",
    "words_of_training_only",
    "write_inputs",
]

FOLDS = "folds.csv"


@dataclass(frozen=True, kw_only=True)
class Folds:
    """Hold the folds of a run, and what folds.csv is to contain."""

    fold_RN: np.ndarray
    """For each repeat, the fold of each training row."""
    digest: str
    """Hash of folds.csv, which is in the key of each fold."""
    content: bytes | None
    """Content to write; None: the file stays as it is."""


def first_record(run: Prepared, folder: Path) -> dict[str, Any]:
    """Return the content of run.json before the first fold."""
    manifest = run.manifest
    model = run.config.model
    output = run.config.output
    labels = run.labels
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
            **(
                {}
                if manifest.train_only is None
                else {"num_training_only": len(manifest.train_only)}
            ),
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
        "leaks": SPLITTERS[run.config.split.split].leaks or (labels is not None and labels.leaks),
        "optimistic": (
            run.config.train.select == "best" or (labels is not None and labels.optimistic)
        ),
        "views": list(run.views),
        "preprocess": run.preprocess.record(region),
        **({"rates": run.rates} if run.rates else {}),
        "metric": output.metric,
        **({} if output.score_by == IMAGE else scored_by_group(output.group_pool)),
        **({} if labels is None else {"labels": labels.record()}),
        **({"searches": dict(labels.searches)} if labels is not None and labels.searches else {}),
        **(
            {"test_learned_by": [*labels.test_learned_by]}
            if labels is not None and labels.test_learned_by
            else {}
        ),
        **({} if run.chosen is None else {"search": dict(run.chosen.record)}),
    }


def _recorded_hash(folder: Path, before: Mapping[str, Any], run: Prepared) -> str | None:
    """Return the hash of the folds.csv that a run was made with, or None if nothing records it.

    A run of an earlier version that is not finished has it in its folds only.
    """
    known: str | None = before.get("folds_hash")
    for index in range(run.num_models):
        if known is None and is_file(folder / f"fold_{index}" / "done.json"):
            known = read_done(folder, index)["run_key"].get("folds")
    return known


def _content(run: Prepared, fold_RN: np.ndarray) -> tuple[bytes, str]:
    """Return the content of folds.csv for these folds, and its hash.

    Images for training only have fold -1, as in scikit-learn's PredefinedSplit.
    """
    columns = ["image_id", "group", "label"]
    rows = []
    for repeat, fold_N in enumerate(fold_RN):
        rows.append(run.manifest.train[columns].assign(repeat=repeat, fold=fold_N))
        if run.manifest.train_only is not None:
            alone = run.manifest.train_only[columns]
            rows.append(alone.assign(repeat=repeat, fold=TRAINING_ONLY))
    data = csv_bytes(pd.concat(rows))
    return data, hashlib.blake2b(data, digest_size=16).hexdigest()


def folds_of(run: Prepared, folder: Path, before: Mapping[str, Any], say: Say) -> Folds:
    """Return the folds of a run, from folds.csv in its folder if it is there; write nothing.

    A folds.csv that was saved in another form, as a spreadsheet does, but has the folds of the run
    is to be written again as it was: the folds in training depend on its hash.

    Parameters
    ----------
    run
        The prepared run.
    folder
        The run folder.
    before
        The run.json that is there; empty for a new run.
    say
        Gets a line if the file is to be written again.

    Raises
    ------
    UserError
        If folds.csv has other folds than the run.
    """
    file = folder / FOLDS
    recorded = _recorded_hash(folder, before, run)
    planned, digest = _content(run, run.fold_RN)
    is_planned = recorded in (None, digest)
    start_again = "pass --no-resume to start the run again, or another --name"
    if not is_file(file):
        if not is_planned:
            raise UserError(
                f"{file}: is missing, and these settings or this version make other folds; restore"
                f" it, or {start_again}"
            )
        return Folds(fold_RN=run.fold_RN, digest=digest, content=planned)
    found = file_hash(file)
    cure = (
        "remove it to write it again as it was" if is_planned else f"restore it, or {start_again}"
    )
    try:
        fold_RN = read_fold_file(
            file,
            run.manifest.train,
            leaks=SPLITTERS[run.config.split.split].leaks,
            group_name=run.manifest.group_name,
        )
    except UserError as error:
        if recorded in (None, found):
            raise
        why = str(error).removeprefix(f"{file}: ").partition(";")[0]
        raise UserError(f"{file}: has changed since the run was made ({why}); {cure}") from None
    if fold_RN.shape != run.fold_RN.shape or fold_RN.max() != run.fold_RN.max():
        raise UserError(f"{file}: has a different number of folds or repeats; {cure}")
    if recorded in (None, found):
        return Folds(fold_RN=fold_RN, digest=found, content=None)
    content, digest = _content(run, fold_RN)
    if digest != recorded:
        raise UserError(f"{file}: has other folds than the run was made with; {cure}")
    say(f"{file}: was saved in another form, with the same folds; it is written again as it was")
    return Folds(fold_RN=fold_RN, digest=digest, content=content)


def record_before(folder: Path, info: dict[str, Any]) -> dict[str, Any]:
    """Return the run.json that is in the folder, or {}; `info` receives what a resumed run keeps.

    A new run gets the time of its start.
    """
    before = dict(read_info(folder)) if is_file(folder / "run.json") else {}
    # A resumed run keeps its first start. Runs of earlier versions have none.
    if "started" in before or not before:
        info["started"] = before.get("started", round(time.time()))
    # A run of an earlier version goes on with short last batches, so that its folds are alike.
    info["padded"] = bool(before.get("padded", "run_key" not in before))
    # So does the record of the pixels, which has the version of OpenCV.
    if "preprocess" in before:
        info["preprocess"] = before["preprocess"]
    # And how its settings were chosen.
    if "search" in before:
        info.setdefault("search", before["search"])
    return before


def _without_links(paths: Iterable[str]) -> list[str]:
    """Return absolute paths without links; each folder is looked up once."""
    real = functools.cache(os.path.realpath)

    def found(path: str) -> str:
        if os.path.islink(path):  # noqa: PTH114
            return os.path.realpath(path)
        folder, name = os.path.split(path)
        return os.path.join(real(folder), name)  # noqa: PTH118

    return [found(path) for path in paths]


def _write_image_paths(folder: Path, manifest: Manifest) -> None:
    """Write the paths of all images, with which reports show images; no result depends on it."""
    tables = [manifest.train.assign(part="train")]
    if manifest.test is not None:
        tables.append(manifest.test.assign(part="test"))
    if manifest.train_only is not None:
        tables.append(manifest.train_only.assign(part=PART))
    table = pd.concat(tables, ignore_index=True)
    table["path"] = _without_links(table["path"])
    write_table(
        folder / PICTURES,
        table[[name for name in ("part", "image_id", "path", "box", "content") if name in table]],
    )


def _write_columns(folder: Path, manifest: Manifest) -> None:
    """Write the columns of the images that a blend may learn from; nothing else reads them."""
    if manifest.columns is None:
        (folder / COLUMNS).unlink(missing_ok=True)
        return
    ids = {TRAIN: manifest.train["image_id"]}
    if manifest.test is not None:
        ids[TEST] = manifest.test["image_id"]
    write_table(folder / COLUMNS, still_there(manifest.columns, ids))


def begin_run(
    run: Prepared, folder: Path, info: Mapping[str, Any], folds: Folds, *, is_done: bool
) -> None:
    """Write the first files of the run folder.

    Parameters
    ----------
    run
        The prepared run.
    folder
        The run folder, locked by the caller.
    info
        The run.json of a run that is not finished.
    folds
        The folds of the run.
    is_done
        Whether all folds of a finished run are kept. Its run.json then stays as it is, and so do
        the files whose hashes it has (see `write_inputs`).
    """
    # run.json comes first, because it marks the folder as a run.
    if not is_done:
        write_json(folder / "run.json", info)
        write_inputs(run, folder)
    if folds.content is not None:
        write_bytes(folder / FOLDS, folds.content)
    # A resumed run keeps the environment of its start; each fold records its own as well.
    if not (folder / "env.json").is_file():
        write_json(folder / "env.json", describe_environment(weights=run.origin))


def write_inputs(run: Prepared, folder: Path) -> None:
    """Write the settings of the run, and the paths and columns of its images.

    Their hashes are in run.json. Of a finished run they are written together with run.json, so that
    a command that stops before leaves all of them as they were.
    """
    write_config(folder, run.config)
    _write_image_paths(folder, run.manifest)
    _write_columns(folder, run.manifest)


def words_of_training_only(data: Mapping[str, Any]) -> str:
    """Return how many images of run.json's data are for training only, for a sentence."""
    num = data.get("num_training_only", 0)
    return f" {num:,} for training only," if num else ""


def say_start(run: Prepared, folder: Path, info: Mapping[str, Any], say: Say) -> None:
    """Say what the run is of, and on what it runs."""
    machine = run.config.machine
    data = info["data"]
    say(
        f"{folder}: {counted(data['num_images'], 'image')} of"
        f" {counted(data['num_groups'], data['group_name'])},{words_of_training_only(data)}"
        f" {run.manifest.num_classes} classes, {data['num_test']:,} test images;"
        f" {machine.device}, {machine.amp_dtype if machine.amp else 'float32'},"
        f" {counted(machine.threads, 'thread')}, {counted(machine.workers, 'worker')}"
    )
