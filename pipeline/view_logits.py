"""Further views of a finished run: its saved models see its own held-out and test pictures again.

Logits stay per view and fold in the run folder's tta/, so that merging and choosing cost no forward pass.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import safetensors.torch
import torch

from folds.errors import UserError, listed
from folds.fold_file import read_fold_file
from folds.load import Say
from folds.split import SPLITTERS
from pipeline.augment import Augment, albu_augmentation, build_augmentation
from pipeline.cv import job_of
from pipeline.fold import FoldJob, view_tables
from pipeline.infer import predict
from pipeline.prepare import prepare
from pipeline.progress import Progress
from pipeline.settings import read_config_file, replace
from pipeline.store import Run, file_hash, lock_folder, read_json, read_table, write_json, write_table
from tta.views import check_views, draw_of, is_device_view, view_of

__all__ = ["add_views", "kept_views", "view_seconds"]

TIMES, PIPELINES = "tta/times.json", "tta/pipelines.json"


def _checked(folder: Path) -> Run:
    """Return a run whose models are all there, as they were written. Raises UserError."""
    if not (folder / "run.json").is_file():
        raise UserError(f"{folder}: no run; name the folder of a finished one")
    run = Run(folder)
    if run.info["kind"] != "cv":
        raise UserError(f"{folder}: is a {run.info['kind']}, which has no models of its own; name its members")
    for index in range(run.info["num_folds"] * run.info["num_repeats"]):
        done = folder / f"fold_{index}" / "done.json"
        if not done.is_file():
            raise UserError(f"{folder}: fold {index} is not finished; run the same run_cv.py command again")
        name = f"fold_{index}/best.safetensors"
        if not (folder / name).is_file():
            raise UserError(f"{folder}/{name}: no such checkpoint; run the same run_cv.py command again")
        if file_hash(folder / name) != read_json(done)["files"].get(name):
            raise UserError(f"{folder}/{name}: is not what the fold wrote; run the same run_cv.py command again")
    if run.info.get("status") != "done":
        raise UserError(f"{folder}: not finished; run the same run_cv.py command again")
    return run


def _tables(run: Run, index: int) -> dict[str, Path]:
    """Return where the logits of a fold's views are kept."""
    parts = ("oof", "test") if run.info["has_test"] else ("oof",)
    return {part: run.path / "tta" / f"{part}_fold_{index}.parquet" for part in parts}


def _kept(run: Run, index: int) -> dict[str, pd.DataFrame]:
    """Return a fold's rows of every view, by part; what a run of one view wrote in training are the plain pictures'."""
    plain_file = {"oof": run.path / f"fold_{index}" / "oof.parquet", "test": run.path / f"test_fold_{index}.parquet"}
    kept = {}
    for part, file in _tables(run, index).items():
        plain = read_table(plain_file[part])
        plain = plain[["image_id", *(name for name in plain if str(name).startswith("logit_"))]]
        plain.insert(1, "view", "identity")
        if len(run.info["views"]) > 1:  # these are a merge; the views' own were written with it
            kept[part] = read_table(file) if file.is_file() else plain[:0]
            continue
        kept[part] = read_table(file) if file.is_file() else plain
        if not kept[part][kept[part]["view"] == "identity"].reset_index(drop=True).equals(plain):
            kept[part] = plain  # the fold was trained again since
    return kept


def kept_views(run: Run) -> tuple[str, ...]:
    """Return the views whose logits every fold has, in the order of the first fold's file."""
    num_models = run.info["num_folds"] * run.info["num_repeats"]
    tables = [table for index in range(num_models) for table in _kept(run, index).values()]
    views = [dict.fromkeys(table["view"]) for table in tables]
    return tuple(name for name in views[0] if all(name in one for one in views))


def _job(run: Run, say: Say, machine: dict[str, Any]) -> FoldJob:
    """Return a job on the run's own data, preprocessing and folds. Raises UserError where the data has changed."""
    folder = run.path
    config = replace(
        read_config_file(folder / "config.yaml"), pretrained="none", weights=None, compile="off", **machine
    )
    prepared = prepare(config, say)
    for what in ("data", "corrected labels", "crop"):
        if prepared.run_key.get(what) != run.info["run_key"].get(what):
            raise UserError(f"{folder}: its {what} is not what it was when the run was made; put it back")
    if json.loads(json.dumps(prepared.preprocess.to_dict())) != run.info["preprocess"]:
        raise UserError(f"{folder}: pictures would be prepared otherwise than in training; make the run again")
    leaks = SPLITTERS[config.split.split].leaks
    fold_RN = read_fold_file(folder / "folds.csv", prepared.manifest.train, leaks=leaks)
    environment: dict[str, Any] = {}
    return job_of(
        prepared, folder, fold_RN, run_key={}, environment=environment, say=say, progress=Progress(len(fold_RN))
    )


def _augmentation(job: FoldJob, name: str) -> tuple[Augment | None, int]:
    """Return what draws a view from a stored picture, and which draw it is."""
    draw = draw_of(name)
    if draw.file is not None:
        width, height = job.preprocess.stored_size
        return albu_augmentation(draw.file, width=width, height=height), draw.index
    return build_augmentation(job.config.augment.augment), draw.index


def _see(
    job: FoldJob, model: torch.nn.Module, table: pd.DataFrame, names: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return logits N x C of each view, and its seconds; device views share a pass over the pictures, and its time."""
    device = [name for name in names if is_device_view(name)]
    found: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    if device:
        start, loader = time.perf_counter(), job.feeder.rows(table)
        logits_VNC = predict(model, loader, job.preprocess, job.compute, [view_of(name) for name in device])
        found |= dict(zip(device, logits_VNC, strict=True))
        seconds |= dict.fromkeys(device, (time.perf_counter() - start) / len(device))
    for name in [name for name in names if not is_device_view(name)]:
        augment, index = _augmentation(job, name)
        start = time.perf_counter()
        loader = job.feeder.drawn(table, augment, seed_parts=("view", job.config.train.seed, index))
        found[name] = predict(model, loader, job.preprocess, job.compute, [view_of("identity")])[0]
        seconds[name] = time.perf_counter() - start
    return found, seconds


def view_seconds(run: Run) -> dict[str, float]:
    """Return what a picture took in each view, in seconds, where that was measured: not in training."""
    file = run.path / TIMES
    return {name: one["seconds"] / one["pictures"] for name, one in read_json(file).items()} if file.is_file() else {}


def _check_pipelines(run: Run, names: Sequence[str]) -> None:
    """Note what albumentations files held. Raises UserError for one that has changed since views of it were saved."""
    record = run.path / PIPELINES
    before = read_json(record) if record.is_file() else {}
    files = {draw_of(name).file for name in names if not is_device_view(name)} - {None}
    now = {file: file_hash(Path(file)) for file in sorted(map(str, files)) if Path(file).is_file()}
    changed = [file for file, digest in now.items() if before.get(file, digest) != digest]
    if changed:
        raise UserError(f"--views albu:{changed[0]}: has changed since its views were saved; give it another name")
    if now.keys() - before:
        write_json(record, before | now)


def _note_times(run: Run, seconds: dict[str, float], num_pictures: int) -> None:
    file = run.path / TIMES
    kept = read_json(file) if file.is_file() else {}
    for name, one in seconds.items():
        before = kept.get(name, {"pictures": 0, "seconds": 0.0})
        kept[name] = {"pictures": before["pictures"] + num_pictures, "seconds": before["seconds"] + one}
    write_json(file, kept)


def _load(job: FoldJob, index: int) -> torch.nn.Module:
    model, file = job.new_model(), job.folder / f"fold_{index}" / "best.safetensors"
    try:
        model.load_state_dict(safetensors.torch.load_file(file))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{file}: does not fit the run's backbone ({str(error).splitlines()[0]}); run it again"
        ) from None
    return model


def add_views(
    folder: Path, names: Sequence[str], *, if_possible: bool = False, say: Say, **machine: Any
) -> tuple[str, ...]:
    """Have a run's models see its pictures in further views, and return those that it has then.

    A fold's model sees that fold's held-out pictures and the test set. What a fold has is not computed again,
    so a stopped call goes on where it was. `machine` are settings such as device or workers. Raises UserError
    for a run without its models, for changed data, for a view that does nothing to pictures of its size, and for heads
    on a frozen backbone, which saw features of some views (with `if_possible` they are left as they are).
    """
    run = _checked(folder)
    _check_pipelines(run, names)
    have = kept_views(run)
    missing = [name for name in names if name not in have]
    if not missing:
        return have
    if read_config_file(folder / "config.yaml").train.finetune == "head":
        if if_possible:
            return have
        raise UserError(
            f"{folder}: heads on a frozen backbone; it has features of {listed(have, most=20)}; for more, run it again "
            "with --tta and another --name"
        )
    size = run.info["preprocess"]
    check_views(missing, width=size["width"], height=size["height"], flag="--views")
    with lock_folder(folder):
        job = _job(run, say, machine)
        num_models = run.info["num_folds"] * run.info["num_repeats"]
        for index in range(num_models):
            kept = _kept(run, index)
            todo = [name for name in names if any(name not in set(one["view"]) for one in kept.values())]
            if not todo:
                continue
            repeat, fold = job.place(index)
            model = _load(job, index)
            tables = {"oof": job.manifest.train[job.fold_RN[repeat] == fold], "test": job.manifest.test}
            for part, file in _tables(run, index).items():
                table = tables[part]
                assert table is not None
                seen, seconds = _see(job, model, table.reset_index(drop=True), todo)
                fresh = [view_tables(table["image_id"], {name: seen[name]}) for name in todo]
                old = kept[part][~kept[part]["view"].isin(todo)]
                file.parent.mkdir(exist_ok=True)
                write_table(file, pd.concat([old, *fresh], ignore_index=True))
                _note_times(run, seconds, len(table))
            say(f"{job.title(index)}: {listed(todo, most=30)}")
    return kept_views(run)
