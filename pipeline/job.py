"""Inputs shared by all folds of a run: the prepared run and the jobs of its folds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foldblend.cli import Say
from foldblend.errors import UserError
from foldblend.plugins import is_custom
from foldblend.progress import duration, shows_bars
from foldblend.runs.info import RatesInfo
from foldblend.runs.refit import model_name
from foldblend.scores.metrics import METRICS
from folds.data.manifest import Manifest
from pipeline.config.resolved import ResolvedConfig
from pipeline.data.feeding import Feeder
from pipeline.data.images import DEVICE_SHARE, open_images
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute, compute_of, free_memory
from pipeline.engines.forward import Forward
from pipeline.engines.spec import Spec, graphs_in, spec_of
from pipeline.fold_memory import FoldMemory
from pipeline.labels.given import Labels
from pipeline.memory import Limits
from pipeline.models.attribute_head import AttributeJoin
from pipeline.models.backbones import build_model, freeze
from pipeline.models.pretrained import Weights
from pipeline.training.team import Team
from pipeline.watch.progress import Progress

__all__ = ["Chosen", "FoldJob", "NotFiniteLogitsError", "Prepared", "TrainingJob", "job_of"]


class NotFiniteLogitsError(UserError):
    """Error for a model whose logits are not finite."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Record of the search that chose the settings of a run on the folds that score it."""

    record: Mapping[str, Any]
    """The key `search` of run.json (see `foldblend.runs.info.SearchInfo`)."""
    section: Mapping[str, Any]
    """A section of the report."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run with all settings decided and all inputs checked."""

    config: ResolvedConfig
    manifest: Manifest
    views: tuple[str, ...]
    preprocess: Preprocess
    model_kwargs: dict[str, Any]
    weights: Weights | None
    join: AttributeJoin | None
    fold_RN: np.ndarray
    """R x N: for each repeat, the fold in which each training row is held out."""
    run_key: dict[str, str]
    """Hashes of settings, data and weights; an existing run is continued only if they are equal."""
    rates: RatesInfo = field(default_factory=RatesInfo)
    """What auto decided of the learning rate, for run.json."""
    engine_is_new: bool = False
    """Whether the engine of --infer-engine auto was decided in this process."""
    sources: dict[str, dict[str, str]] = field(default_factory=dict)
    """Hashes of the source of each of the user's own parts, by module."""
    labels: Labels | None = None
    """Labels of the models of another run, which its folds learn."""
    chosen: Chosen | None = None
    """How the settings were chosen, if that was on the folds of this run."""

    def new_model(self, *, pretrained: bool = True) -> torch.nn.Module:
        """Return a new model on the CPU, with the layers frozen that --finetune excludes.

        New layers are initialised from torch's global generator; without `pretrained` all are.
        """
        model = build_model(
            self.config.model.backbone,
            num_classes=self.manifest.num_classes,
            kwargs=self.model_kwargs,
            weights=self.weights if pretrained else None,
            join=self.join,
        )
        freeze(model, self.config.train.tuned)
        return model

    def spec_for(self, engine: str) -> Spec | None:
        """Return what an engine would run of this run's models, None for torch."""
        config = self.config
        machine = config.machine
        return spec_of(
            engine,
            backbone=config.model.backbone,
            kwargs=self.model_kwargs,
            num_classes=self.manifest.num_classes,
            attributes=self.manifest.attributes if self.join is not None else (),
            ordinal=config.model.ordinal,
            frozen=config.train.frozen,
            preprocess=self.preprocess,
            batch_size=config.infer.validation_batch_size,
            threads=machine.threads,
            folder=graphs_in(machine.cache, machine.cache_dir),
        )

    @property
    def num_repeats(self) -> int:
        """Number of repetitions of the whole cross-validation."""
        return len(self.fold_RN)

    @property
    def num_folds(self) -> int:
        return int(self.fold_RN.max()) + 1

    @property
    def num_models(self) -> int:
        """Number of models: one per fold and repeat."""
        return self.num_folds * len(self.fold_RN)

    def place(self, index: int) -> tuple[int, int]:
        """Return (repeat, fold) of a model, which are numbered consecutively over the repeats."""
        return divmod(index, self.num_folds)

    def is_held_out(self, index: int) -> np.ndarray:
        """Return which rows of the manifest's `train` are held out of the model of a fold."""
        repeat, fold = self.place(index)
        return np.asarray(self.fold_RN[repeat] == fold)

    def name_of(self, index: int) -> str:
        """Return the name of a model in file names; numbers after the folds' are refits."""
        return model_name(index, self.num_models)

    def title_of(self, index: int) -> str:
        """Return the name of a model in the log, such as "fold 0"."""
        if index >= self.num_models:
            return self.name_of(index).replace("_", " ")
        repeat, fold = self.place(index)
        return f"fold {fold}" if self.num_repeats == 1 else f"repeat {repeat} fold {fold}"

    @property
    def origin(self) -> dict[str, str]:
        """Source and licence of the initial weights."""
        if self.weights is None and is_custom(self.config.model.backbone):
            return {"source": self.config.model.backbone, "licence": "unknown"}
        return self.weights.origin if self.weights else {"source": "random", "licence": "none"}


@dataclass(frozen=True, kw_only=True)
class FoldJob:
    """Everything needed to run models on images; one object serves all folds of a run."""

    folder: Path
    run: Prepared
    compute: Compute
    feeder: Feeder
    say: Say
    spec: Spec | None = None
    """What the engine of inference runs; None for torch."""

    def title(self, index: int) -> str:
        """Return the name of a model in the log, such as "fold 0"."""
        return self.run.title_of(index)

    def new_model(self) -> torch.nn.Module:
        """Return a new model on its device, with the layers frozen that --finetune excludes.

        New layers are initialised from torch's global generator.
        """
        model = self.run.new_model()
        return model.to(device=self.compute.device, memory_format=self.compute.memory_format)  # type: ignore[call-overload]

    def forward(self, index: int, model: torch.nn.Module, *, engine: bool = True) -> Forward:
        """Return the forward pass of a fold's model by the run's engine, or by torch."""

        def say(line: str) -> None:
            self.say(f"{self.title(index)}: {line}")

        spec = self.spec if engine else None
        return Forward(model.eval(), self.run.preprocess, self.compute, spec, say=say)

    def check_finite(self, index: int, logits_VNC: np.ndarray) -> None:
        """Raise UserError if logits of a fold are not finite."""
        if not np.isfinite(logits_VNC).all():
            raise NotFiniteLogitsError(
                f"{self.title(index)}: the logits are not finite; {self.compute.cure_of_infinity}"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingJob(FoldJob):
    """A job that trains folds and writes them to the run folder."""

    fold_key: dict[str, str]
    """Hashes of the run and its folds; a finished fold is kept only if its hashes are equal."""
    environment: dict[str, Any]
    """Hardware and package versions, recorded per fold: folds may be trained on different ones."""
    progress: Progress
    padded: bool = True
    """Whether short batches are filled up for logits that are kept (see `pipeline.infer`)."""
    memory: FoldMemory | None = None
    """GPU memory of a fold; None where it is not known or not needed."""
    limits: Limits = field(default_factory=Limits)
    """Limits of a fold on the device of this process."""
    epoch_lines: Say | None = None
    """Receives the line of each epoch; None: `say`, unless a terminal shows progress bars."""
    team: Team | None = None
    """The processes that train each fold together; None: this process alone."""

    @property
    def writes(self) -> bool:
        """Return whether this process writes to the run folder; of a team, the leader does."""
        return self.team is None or self.team.leads

    def say_epoch(self, line: str) -> None:
        """Print the line of an epoch; on a terminal, a progress bar replaces it."""
        if self.epoch_lines is not None:
            self.epoch_lines(line)
        elif not shows_bars():
            self.say(line)

    def say_done(self, index: int, done: Mapping[str, Any]) -> None:
        """Print score and time of a finished fold, `done` being its done.json."""
        left = self.progress.left()
        then = f"; {left}" if left else ""
        if index >= self.run.num_models:
            self.say(f"{self.title(index)}: {duration(done['seconds'])}{then}")
            return
        title = METRICS[self.run.config.output.metric].title
        score = "undefined" if done["score"] is None else f"{done['score']:.4f}"
        chosen = ""
        if "epoch" in done:
            chosen = f" (epoch {done['epoch'] + 1})"
        if "l2" in done:
            chosen = f" (L2 penalty {done['l2']:g})"
        self.say(
            f"{self.title(index)}: held-out {title} {score}{chosen}, {duration(done['seconds'])}"
            f"{then}"
        )


def _reads(run: Prepared) -> int:
    """Return how many times each image is read during the run."""
    train = run.config.train
    if train.frozen:
        return len(run.views) + train.feature_views
    return train.epochs * run.num_models


def job_of(run: Prepared, folder: Path, *, say: Say, device_room: int | None = None) -> FoldJob:
    """Return the job of a prepared run; decodes the images that are cached.

    `device_room` are the bytes of GPU memory that images may take; None: a share of what is free.
    """
    config = run.config
    manifest = run.manifest
    compute = compute_of(config.machine)
    # What is asked for is checked, also where only inference uses it.
    machine = config.machine
    is_on_device = "device" in (machine.augment_on, machine.cache)
    if device_room is None and is_on_device:
        free = free_memory(compute.device)
        device_room = None if free is None else int(DEVICE_SHARE * free)
    source = open_images(
        manifest.tables,
        run.preprocess,
        cache=config.machine.cache,
        cache_dir=config.machine.cache_dir,
        passes=_reads(run),
        device_room=device_room if is_on_device else None,
        say=say,
        needs_levels=manifest.needs_levels,
    )
    return FoldJob(
        folder=folder,
        run=run,
        compute=compute,
        feeder=Feeder(config, source, compute),
        say=say,
        spec=run.spec_for(config.infer.infer_engine),
    )
