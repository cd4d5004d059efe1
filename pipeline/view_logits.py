"""Further views of a finished run: its saved models see its own held-out and test images again.

Logits stay per view and fold in the run folder's tta/, so that merging and choosing cost no forward
pass.
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
import safetensors
import safetensors.torch
import torch

from foldblend.cli import Say
from foldblend.errors import UserError, listed
from foldblend.runs.costs import num_models
from foldblend.runs.folder import lock_folder
from foldblend.runs.run import Run
from pipeline.config.settings import read_config_file, replace
from pipeline.data.augment import Augment, albu_augmentation, build_augmentation
from pipeline.fold_files import view_tables
from pipeline.infer import predict
from pipeline.job import FoldJob, job_of
from pipeline.prepare import prepare
from tta.saved_views import (
    add_rows,
    can_see,
    check_pipelines,
    kept_views,
    note_pipelines,
    note_seconds,
    open_models,
    parts_of,
    saved_rows,
)
from tta.views.names import check_views, draw_of, is_device_view, view_of

__all__ = ["add_views"]


def _job(run: Run, say: Say, machine: dict[str, Any]) -> FoldJob:
    """Return a job on the run's own data, preprocessing and folds. Raises UserError where the data
    has changed.
    """
    folder = run.path
    config = replace(
        read_config_file(folder / "config.yaml"),
        **{
            "pretrained": "none",
            "weights": None,
            "compile": "off",
            "wandb": False,
        },  # the models are there
        fold_file=str(folder / "folds.csv"),  # whatever made the folds
        **machine,
    )
    prepared = prepare(config, say)
    for what in ("data", "corrected labels", "crop", "own modules"):
        if prepared.run_key.get(what) != run.info["run_key"].get(what):
            raise UserError(
                f"{folder}: its {what} is not what it was when the run was made; put it back"
            )
    if json.loads(json.dumps(prepared.preprocess.to_dict())) != run.info["preprocess"]:
        raise UserError(
            f"{folder}: images would be prepared otherwise than in training; make the run again"
        )
    return job_of(prepared, folder, say=say)


@dataclass(frozen=True, slots=True)
class _Draw:
    """What a view is drawn by from a stored image, and which draw it is."""

    augment: Augment | None
    index: int
    random_crop: bool


def _draw(job: FoldJob, name: str) -> _Draw:
    """Raise UserError for a pipeline that cannot be read, and for draws that would all be the plain
    image.
    """
    draw = draw_of(name)
    width, height = job.run.preprocess.stored_size
    if draw.file is not None:
        # Cropped to the centre as the plain image is: what differs is the pipeline's doing alone.
        return _Draw(
            albu_augmentation(draw.file, width=width, height=height), draw.index, random_crop=False
        )
    augment = build_augmentation(job.run.config.augment.augment)
    if augment is None and (width, height) == (job.run.preprocess.width, job.run.preprocess.height):
        raise UserError(
            f"--views {name}: the run was trained without augmentation, so this changes nothing"
        )
    return _Draw(augment, draw.index, random_crop=True)


def _see(
    job: FoldJob,
    model: torch.nn.Module,
    table: pd.DataFrame,
    names: Sequence[str],
    draws: Mapping[str, _Draw],
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return logits N x C of each view, and its seconds; device views share a pass over the
    images, and its time.
    """
    device = [name for name in names if is_device_view(name)]
    found: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    if device:
        start = time.perf_counter()
        loader = job.feeder.rows(table)
        logits_VNC = predict(
            model, loader, job.run.preprocess, job.compute, [view_of(name) for name in device]
        )
        found |= dict(zip(device, logits_VNC, strict=True))
        seconds |= dict.fromkeys(device, (time.perf_counter() - start) / len(device))
    for name in [name for name in names if not is_device_view(name)]:
        draw = draws[name]
        start = time.perf_counter()
        seed_parts = ("view", job.run.config.train.seed, draw.index)
        loader = job.feeder.drawn(
            table, draw.augment, seed_parts=seed_parts, random_crop=draw.random_crop
        )
        found[name] = predict(
            model, loader, job.run.preprocess, job.compute, [view_of("identity")]
        )[0]
        seconds[name] = time.perf_counter() - start
    return found, seconds


def _load(job: FoldJob, index: int) -> torch.nn.Module:
    model = job.new_model()
    file = job.folder / f"fold_{index}" / "best.safetensors"
    try:
        model.load_state_dict(safetensors.torch.load_file(file))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{file}: does not fit the run's backbone ({str(error).splitlines()[0]}); run it again"
        ) from None
    return model


def add_views(folder: Path, names: Sequence[str], *, say: Say, **machine: Any) -> tuple[str, ...]:
    """Have a run's models see its images in further views, and return those that it has then.

    A fold's model sees that fold's held-out images and the test set. What a fold has is not
    computed again, so a stopped call goes on where it was. `machine` are settings such as device or
    workers. Raises UserError for a run without its models, for changed data, for a view that does
    nothing to images of its size, and for heads on a frozen backbone, which saw features of some
    views.
    """
    run = open_models(folder)
    check_pipelines(run, names)
    have = kept_views(run)
    missing = [name for name in names if name not in have]
    if not missing:
        return have
    if not can_see(run):
        raise UserError(
            f"{folder}: heads on a frozen backbone; it has features of {listed(have, most=20)}; for"
            " more, run it again with --tta and another --name"
        )
    size = run.info["preprocess"]
    check_views(missing, width=size["width"], height=size["height"], flag="--views")
    with lock_folder(folder):
        job = _job(run, say, machine)
        draws = {name: _draw(job, name) for name in missing if not is_device_view(name)}
        note_pipelines(run, missing)
        times: dict[str, tuple[int, float]] = {}
        for index in range(num_models(run)):
            todo = {part: _missing(saved_rows(run, index, part), names) for part in parts_of(run)}
            if not any(todo.values()):
                continue
            repeat, fold = job.place(index)
            model = _load(job, index)
            tables = {
                "oof": job.run.manifest.train[job.run.fold_RN[repeat] == fold],
                "test": job.run.manifest.test,
            }
            for part, views in [(part, views) for part, views in todo.items() if views]:
                table = tables[part]
                assert table is not None
                seen, seconds = _see(job, model, table.reset_index(drop=True), views, draws)
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
            say(
                f"{job.title(index)}:"
                f" {listed(dict.fromkeys(itertools.chain(*todo.values())), most=30)}"
            )
    return kept_views(run)


def _missing(rows: pd.DataFrame, names: Sequence[str]) -> list[str]:
    have = set(rows["view"])
    return [name for name in names if name not in have]
