"""What the folds of a run have in common: the run prepared, and the job that each fold is
handed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foldblend.cli import Say
from foldblend.errors import UserError
from foldblend.plugins import is_custom
from folds.data.manifest import Manifest
from pipeline.config.resolved import ResolvedConfig
from pipeline.data.feeding import Feeder
from pipeline.data.pictures import open_pictures
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute, compute_of, free_memory
from pipeline.models.attribute_head import AttributeJoin
from pipeline.models.backbones import build_model, freeze
from pipeline.models.pretrained import Weights
from pipeline.watch.progress import Progress

__all__ = ["FoldJob", "Prepared", "TrainingJob", "job_of"]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run whose every setting is decided and whose inputs are known to be usable."""

    config: ResolvedConfig
    manifest: Manifest
    views: tuple[str, ...]
    preprocess: Preprocess
    model_kwargs: dict[str, Any]
    weights: Weights | None
    join: AttributeJoin | None
    fold_RN: np.ndarray
    """The fold in which each training row is held out, one line a repeat."""
    run_key: dict[str, str]
    """Hashes that decide whether a run of the same name is this run."""

    @property
    def num_repeats(self) -> int:
        """How often the whole cross-validation is done."""
        return len(self.fold_RN)

    @property
    def num_folds(self) -> int:
        return int(self.fold_RN.max()) + 1

    @property
    def num_models(self) -> int:
        """One a fold and repeat."""
        return self.num_folds * len(self.fold_RN)

    @property
    def origin(self) -> dict[str, str]:
        """Where the weights come from, and their licence."""
        if self.weights is None and is_custom(self.config.model.backbone):
            return {"source": self.config.model.backbone, "licence": "unknown"}
        return self.weights.origin if self.weights else {"source": "random", "licence": "none"}


@dataclass(frozen=True, kw_only=True)
class FoldJob:
    """All that a fold's model needs to see images; the same object serves every fold of a run."""

    folder: Path
    run: Prepared
    compute: Compute
    feeder: Feeder
    say: Say

    def place(self, index: int) -> tuple[int, int]:
        """Return (repeat, fold) of the model of that number; models are numbered through the
        repeats.
        """
        return divmod(index, self.run.num_folds)

    def title(self, index: int) -> str:
        """Return what the log calls the model of that number."""
        repeat, fold = self.place(index)
        return f"fold {fold}" if self.run.num_repeats == 1 else f"repeat {repeat} fold {fold}"

    def new_model(self) -> torch.nn.Module:
        """Return an untrained model on its device, frozen as --finetune says; new layers draw from
        torch.
        """
        model = build_model(
            self.run.config.model.backbone,
            num_classes=self.run.manifest.num_classes,
            kwargs=self.run.model_kwargs,
            weights=self.run.weights,
            join=self.run.join,
        )
        freeze(model, self.run.config.train.tuned)
        return model.to(device=self.compute.device, memory_format=self.compute.memory_format)  # type: ignore[call-overload]

    def check_finite(self, index: int, logits_VNC: np.ndarray) -> None:
        """Raise UserError for logits of a fold that are not finite."""
        if not np.isfinite(logits_VNC).all():
            raise UserError(
                f"{self.title(index)}: the logits are not finite; lower --lr or pass --clip-grad 1"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingJob(FoldJob):
    """A job whose folds are trained and kept."""

    fold_key: dict[str, str]
    """Hashes that a finished fold must share to be kept: those of the run, and of its folds."""
    environment: dict[str, Any]
    """What it runs on, kept with each fold: a run may be finished elsewhere."""
    progress: Progress


def _reads(run: Prepared) -> int:
    """Return how often each image is read."""
    train = run.config.train
    if train.frozen:
        return len(run.views) + train.feature_views
    return train.epochs * run.num_models


def job_of(run: Prepared, folder: Path, *, say: Say) -> FoldJob:
    """Return what the folds need, their images decoded."""
    config = run.config
    manifest = run.manifest
    compute = compute_of(config.machine)
    source = open_pictures(
        (manifest.train, manifest.test),
        run.preprocess,
        cache=config.machine.cache,
        cache_dir=config.machine.cache_dir,
        passes=_reads(run),
        device_room=free_memory(compute.device) if config.machine.augment_on == "device" else None,
        say=say,
    )
    return FoldJob(
        folder=folder, run=run, compute=compute, feeder=Feeder(config, source, compute), say=say
    )
