"""Further views of a finished run, predicted by its saved models.

The logits of each view and fold are stored in the run folder's tta/, so that views can be merged
and chosen without further forward passes.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from foldblend.cli import Say
from foldblend.errors import UserError, counted, listed
from foldblend.plugins import parse_parts
from foldblend.runs.broken import BrokenRun
from foldblend.runs.folder import file_hash, lock_folder
from foldblend.runs.run import Run
from foldblend.runs.schema import read_done
from pipeline.config.run import RunConfig
from pipeline.config.settings import read_config_file, replace
from pipeline.config.trust import Trust, is_known, own_parts, trusted_config
from pipeline.data.augment import Augment, albu_augmentation, build_augmentation
from pipeline.engines.registry import TORCH
from pipeline.fold_files import view_tables
from pipeline.frozen.further_views import add_frozen_views
from pipeline.infer import Model, predict
from pipeline.job import FoldJob, job_of
from pipeline.memory import Chunks
from pipeline.predict.weights import FolderWeights
from pipeline.prepare import prepare
from tta.saved_views import (
    add_rows,
    can_see,
    check_pipelines,
    kept_views,
    models_of,
    name_of,
    note_pipelines,
    note_seconds,
    open_models,
    parts_of,
    saved_rows,
)
from tta.views.names import check_views, draw_of, is_device_view, view_of

__all__ = ["add_views"]


def _trusted(run: Run, names: Sequence[str], trust: Trust) -> RunConfig:
    """Return the settings of a run, after a check of the own parts that its views need.

    Losses and schedules are not needed, and an augmentation only by views that draw from it.
    """
    draws = any(not is_device_view(name) and draw_of(name).file is None for name in names)
    needed = ("dataset", "backbone", *(["augment"] if draws else []))
    file = run.path / "config.yaml"
    config = trusted_config(file, trust, needed)
    run.check_unchanged(file.name)
    # The hash of the data says whether they are read as they were.
    for setting, name in own_parts(config, needed[1:]):
        if is_known(file, name) is False:
            raise UserError(
                f"{run.path}: the source of --{setting} {name} changed since the run was made;"
                " restore the earlier state"
            )
    return config


def _job(
    run: Run, names: Sequence[str], trust: Trust, say: Say, machine: dict[str, Any]
) -> FoldJob:
    """Return a job with the run's data, preprocessing and folds; raise UserError if changed."""
    folder = run.path
    folds = folder / "folds.csv"
    if file_hash(folds) != run.hashes.get(folds.name, file_hash(folds)):
        raise BrokenRun(
            f"{folds}: has changed since the run was made; restore the file, or make the run again",
            folder,
        )
    # The models and folds of the run exist, so settings that would make them are left out.
    trusted = _trusted(run, names, trust)
    # Nobody has asked for a cache now, so that the command goes without where none can be written.
    cache = "auto" if trusted.machine.cache == "disk" else trusted.machine.cache
    config = replace(
        trusted,
        **{
            "cache": cache,
            "pretrained": "none",
            "weights": None,
            "compile": "off",
            "wandb": False,
        },
        fold_file=str(folder / "folds.csv"),
        **machine,
    )
    prepared = prepare(config, say, is_made=True)
    same = ["data", "corrected labels", "images for training only", "pixel values", "crop"]
    if own_parts(config) == own_parts(read_config_file(folder / "config.yaml")):
        # The hash is of all parts together.
        same.append("own modules")
    for what in same:
        if prepared.run_key.get(what) != run.info["run_key"].get(what):
            raise UserError(
                f"{folder}: the {what} changed since the run was made; restore the earlier state"
            )
    # Runs of earlier versions recorded the settings only, and not what follows from them.
    settings = json.loads(json.dumps(prepared.preprocess.to_dict()))
    if any(run.info["preprocess"].get(key) != value for key, value in settings.items()):
        raise UserError(
            f"{folder}: this version would preprocess images differently from training; make the"
            " run again"
        )
    return job_of(prepared, folder, say=say)


@dataclass(frozen=True, slots=True)
class _Draw:
    """A view by random augmentation of stored images."""

    augment: Augment | None
    index: int
    """Number of the draw, which seeds it."""
    random_crop: bool


def _draw(job: FoldJob, name: str) -> _Draw:
    """Return the draw of a view; raise UserError if it cannot change an image."""
    draw = draw_of(name)
    width, height = job.run.preprocess.stored_size
    if draw.file is not None:
        # Cropped to the centre like the unaugmented image, so that only the pipeline differs.
        return _Draw(
            albu_augmentation(draw.file, width=width, height=height), draw.index, random_crop=False
        )
    augment = build_augmentation(job.run.config.augment.augment)
    if augment is None and (width, height) == (job.run.preprocess.width, job.run.preprocess.height):
        raise UserError(
            f"--views {name}: the run was trained without augmentation, so the view would not"
            " differ; leave it out"
        )
    return _Draw(augment, draw.index, random_crop=True)


def _see(
    job: FoldJob,
    model: Model,
    table: pd.DataFrame,
    names: Sequence[str],
    draws: Mapping[str, _Draw],
    *,
    pad_to: int | None,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return the N x C logits and the seconds of each view.

    Views that are computed on the device share one pass over the images, and its time.
    """
    device = [name for name in names if is_device_view(name)]
    found: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    chunks = Chunks(job.say)
    if device:
        start = time.perf_counter()
        loader = job.feeder.rows(table)
        logits_VNC = predict(
            model,
            loader,
            job.run.preprocess,
            job.compute,
            [view_of(name) for name in device],
            chunks=chunks,
            pad_to=pad_to,
        )
        found |= dict(zip(device, logits_VNC, strict=True))
        seconds |= dict.fromkeys(device, (time.perf_counter() - start) / len(device))
    for name in [name for name in names if not is_device_view(name)]:
        draw = draws[name]
        start = time.perf_counter()
        seed_parts = ("view", job.run.config.train.seed, draw.index)
        loader = job.feeder.augmented(
            table, draw.augment, seed_parts=seed_parts, random_crop=draw.random_crop
        )
        found[name] = predict(
            model,
            loader,
            job.run.preprocess,
            job.compute,
            [view_of("identity")],
            chunks=chunks,
            pad_to=pad_to,
        )[0]
        seconds[name] = time.perf_counter() - start
    return found, seconds


def _pad_to(run: Run, job: FoldJob, index: int) -> int | None:
    """Return the size of full batches where the fold was predicted in such, else None."""
    done = read_done(run.path, name_of(run, index))
    return job.run.config.infer.validation_batch_size if done.get("padded") else None


def _load(job: FoldJob, index: int) -> torch.nn.Module:
    model = job.new_model()
    file = job.folder / job.run.name_of(index) / "best.safetensors"
    try:
        model.load_state_dict(FolderWeights(job.folder).read(index))
    except RuntimeError as error:
        raise UserError(
            f"{file}: does not fit the run's backbone ({str(error).splitlines()[0]}); make the run"
            " again"
        ) from None
    return model


def add_views(
    folder: Path,
    names: Sequence[str],
    *,
    say: Say,
    parts: str | None = None,
    trust_parts: bool = False,
    **machine: Any,
) -> tuple[str, ...]:
    """Predict a run's images in further views, and return all views that the run has then.

    Each fold's model predicts the held-out images of that fold and the test set. Views that a fold
    has already are not computed again, so an interrupted call can be continued.

    Parameters
    ----------
    folder
        Folder of a finished cross-validated run.
    names
        Names of the views.
    say
        Function that prints one line of the log.
    parts, trust_parts
        Own parts that may be imported (see `tta.config.TtaConfig`).
    machine
        Settings such as ``device`` or ``workers``.

    Returns
    -------
    tuple
        Names of all views whose logits are stored for every fold.

    Raises
    ------
    UserError
        If the models are missing, the data changed, or a view does not change images of this size.
    """
    run = open_models(folder)
    check_pipelines(run, names)
    have = kept_views(run)
    missing = [name for name in names if name not in have]
    if not missing:
        return have
    if not can_see(run):
        raise UserError(
            f"{folder}: without config.yaml only the views {listed(have, most=20)} can be used;"
            " leave the others out"
        )
    size = run.info["preprocess"]
    trust = Trust(parse_parts(parts), trust_parts)
    check_views(missing, width=size["width"], height=size["height"], flag="--views")
    with lock_folder(folder, flags=(None, None)):
        job = _job(run, missing, trust, say, machine)
        draws = {name: _draw(job, name) for name in missing if not is_device_view(name)}
        note_pipelines(run, missing)
        if run.frozen:
            add_frozen_views(run, job, missing, trust)
            return kept_views(run)
        times: dict[str, tuple[int, float]] = {}
        for index in models_of(run):
            parts_here = parts_of(run, index)
            todo = {part: _missing(saved_rows(run, index, part), names) for part in parts_here}
            if not any(todo.values()):
                continue
            model = _load(job, index)
            by_engine = read_done(run.path, name_of(run, index)).get("engine", TORCH) != TORCH
            forward = job.forward(index, model, engine=by_engine)
            tables = {"test": job.run.manifest.test}
            if "oof" in todo:
                tables["oof"] = job.run.manifest.train[job.run.is_held_out(index)]
            for part, views in [(part, views) for part, views in todo.items() if views]:
                table = tables[part]
                assert table is not None
                pad_to = _pad_to(run, job, index)
                seen, seconds = _see(
                    job, forward, table.reset_index(drop=True), views, draws, pad_to=pad_to
                )
                for name in views:
                    job.check_finite(index, seen[name])
                add_rows(
                    run,
                    index,
                    part,
                    view_tables(table["image_id"], {name: seen[name] for name in views}),
                )
                for name, one in seconds.items():
                    num, before = times.get(name, (0, 0.0))
                    times[name] = num + len(table), before + one
            note_seconds(run, times)
            predicted = {*itertools.chain(*todo.values())}
            say(f"{job.title(index)}: predicted {counted(len(predicted), 'view')}")
    return kept_views(run)


def _missing(rows: pd.DataFrame, names: Sequence[str]) -> list[str]:
    have = set(rows["view"])
    return [name for name in names if name not in have]
