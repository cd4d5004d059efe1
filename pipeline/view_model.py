"""Prediction of further views by one of a run's models."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from foldblend.errors import UserError, counted
from foldblend.runs.run import Run
from foldblend.runs.schema import read_done
from pipeline.data.augment import Augment, albu_augmentation, build_augmentation
from pipeline.engines.registry import TORCH
from pipeline.fold_files import view_tables
from pipeline.infer import Model, predict
from pipeline.job import FoldJob
from pipeline.memory import Chunks
from pipeline.predict.weights import FolderWeights
from tta.saved_views import name_of
from tta.views.names import draw_of, is_device_view, view_of

__all__ = ["Seen", "draws_of", "see_model"]


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


def draws_of(job: FoldJob, names: Sequence[str]) -> dict[str, _Draw]:
    """Return the draws of the views that the device cannot compute."""
    return {name: _draw(job, name) for name in names if not is_device_view(name)}


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


@dataclass(frozen=True, slots=True)
class Seen:
    """Predictions of a model in further views."""

    tables: Mapping[str, pd.DataFrame]
    """image_id, view and logits, for "oof" and "test"."""
    times: Mapping[str, tuple[int, float]]
    """Number of images and seconds of each view."""
    line: str
    """What was done, for the log."""


def see_model(
    run: Run,
    job: FoldJob,
    index: int,
    todo: Mapping[str, Sequence[str]],
    draws: Mapping[str, _Draw],
) -> Seen:
    """Return what a model predicts; `todo` has the views of each part."""
    model = _load(job, index)
    by_engine = read_done(run.path, name_of(run, index)).get("engine", TORCH) != TORCH
    forward = job.forward(index, model, engine=by_engine)
    tables = {"test": job.run.manifest.test}
    if "oof" in todo:
        tables["oof"] = job.run.manifest.train[job.run.is_held_out(index)]
    found: dict[str, pd.DataFrame] = {}
    times: dict[str, tuple[int, float]] = {}
    for part, views in [(part, views) for part, views in todo.items() if views]:
        table = tables[part]
        assert table is not None
        pad_to = _pad_to(run, job, index)
        seen, seconds = _see(
            job, forward, table.reset_index(drop=True), views, draws, pad_to=pad_to
        )
        for name in views:
            job.check_finite(index, seen[name])
        found[part] = view_tables(table["image_id"], {name: seen[name] for name in views})
        for name, one in seconds.items():
            num, before = times.get(name, (0, 0.0))
            times[name] = num + len(table), before + one
    num_views = len({*itertools.chain(*todo.values())})
    return Seen(found, times, f"{job.title(index)}: predicted {counted(num_views, 'view')}")
