"""Decision of the engine of a new run, on its own first images and initial weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foldblend.cli import Say
from foldblend.images import boxes_of
from foldblend.runs.run import Run
from pipeline.config.identity import identity_hash
from pipeline.config.resolved import ResolvedConfig, resolved
from pipeline.device import compute_of
from pipeline.engines.choose import Work, choose_engine
from pipeline.engines.registry import ROWS, TORCH
from pipeline.job import Prepared

__all__ = ["as_begun", "decide_engine"]

# Images on which engines are measured, and their outputs compared, unless more threads need more.
NUM_IMAGES = 16


def decide_engine(run: Prepared, model: Any, say: Say) -> ResolvedConfig:
    """Return the settings of a new run with its engine decided, and say why.

    Parameters
    ----------
    run
        The run, whose --infer-engine may be "auto".
    model
        A model with the initial weights; it loses its head if only heads are trained.
    say
        Function that prints one line of the log.
    """
    config = run.config
    asked = config.infer.infer_engine
    if asked == TORCH:
        return config
    if asked == "auto" and torch.device(config.machine.device).type == "cuda":
        return resolved(config, infer_engine=TORCH)
    compute = compute_of(config.machine)
    if config.train.frozen and hasattr(model, "reset_classifier"):
        model.reset_classifier(0)
    model = model.to(device=compute.device, memory_format=compute.memory_format).eval()
    images = torch.from_numpy(_first_images(run)).to(compute.device)
    # As many as keep all threads busy, but not more than a batch of the run has.
    at_once = min(ROWS * config.machine.threads, config.infer.validation_batch_size)
    images = images.repeat(-(-max(at_once, NUM_IMAGES) // len(images)), 1, 1, 1)
    pixels = images[: max(at_once, NUM_IMAGES)].permute(0, 3, 1, 2).float().contiguous()
    # A random state that is drawn from would give the folds other weights.
    with torch.random.fork_rng(devices=[]):
        engine = choose_engine(
            asked, model, pixels, run.preprocess, compute, run.spec_for, _work(run), say
        )
    return resolved(config, infer_engine=engine)


def as_begun(run: Prepared, folder: Path) -> Prepared:
    """Return a run with the engine that another process has begun it with in the meantime.

    Where "auto" is asked, two processes that start at once may measure otherwise. The caller holds
    the lock of the folder.
    """
    written = Run(folder).settings if run.engine_is_new else {}
    engine = written.get("infer_engine", TORCH) if written else None
    if engine is None or engine == run.config.infer.infer_engine:
        return run
    config = resolved(run.config, infer_engine=engine)
    run_key = run.run_key | {"configuration": identity_hash(config)}
    return dataclasses.replace(run, config=config, run_key=run_key)


def _first_images(run: Prepared) -> np.ndarray:
    """Return the first training images N x H x W x 3, cropped for the model."""
    table = run.manifest.train.head(NUM_IMAGES)
    load = run.preprocess.load
    stored = [load(path, box) for path, box in zip(table["path"], boxes_of(table), strict=True)]
    return np.ascontiguousarray(run.preprocess.crop(np.stack(stored)))


def _work(run: Prepared) -> Work:
    """Return the forward passes of a run at inference, without the scores of epochs."""
    num_train = len(run.manifest.train)
    num_test = 0 if run.manifest.test is None else len(run.manifest.test)
    views = len(run.views)
    if run.config.train.frozen:
        num_train = len(run.manifest.labelled)
        copies = run.config.train.feature_views * num_train
        return Work(num_images=(num_train + num_test) * views + copies, num_models=1)
    passes = num_train * run.num_repeats + num_test * run.num_models
    return Work(num_images=passes * views, num_models=run.num_models)
