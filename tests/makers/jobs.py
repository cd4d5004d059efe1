"""Training jobs without data or models, for tests of how folds are assigned to processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from folds.data.manifest import Manifest
from pipeline.config.resolved import resolved
from pipeline.config.settings import make_config
from pipeline.data.feeding import Feeder
from pipeline.data.images import ImageSource
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.job import Prepared, TrainingJob
from pipeline.watch.progress import Progress
from tests.makers.constants import RATES

# As of a manifest with one image in each fold.
ONE_EACH = SimpleNamespace(num_training_rows=lambda num_folds: num_folds - 1)


def fake_job(
    folder: Path,
    say: Callable[[str], None],
    *,
    manifest: Manifest | None = None,
    num_folds: int = 6,
    **settings: Any,
) -> TrainingJob:
    """Return a job with folds of one image each, six by default."""
    decided = {
        "img_size": "32x32",
        "epochs": 1,
        "batch_size": 2,
        "validation_batch_size": 64,
        "name": folder.name,
    }
    decided |= {"folds": num_folds, "repeats": 1, "threads": 1, "workers": 0}
    machine: dict[str, Any] = {"device": "cpu", "amp": False}
    config = resolved(make_config(**RATES | machine | decided | settings))
    preprocess = Preprocess(width=32, height=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    compute = Compute(torch.device("cpu"), None, torch.channels_last)
    run = Prepared(
        config=config,
        manifest=manifest or ONE_EACH,  # type: ignore[arg-type]
        views=("identity",),
        preprocess=preprocess,
        model_kwargs={},
        weights=None,
        join=None,
        fold_RN=np.arange(num_folds)[None],
        run_key={},
    )
    return TrainingJob(
        folder=folder,
        run=run,
        compute=compute,
        feeder=Feeder(config, ImageSource(preprocess, "off"), compute),
        say=say,
        fold_key={},
        environment={},
        progress=Progress(1),
    )
