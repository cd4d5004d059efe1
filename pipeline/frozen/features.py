"""Features of a frozen backbone.

Each image passes through the backbone once per view. All folds, heads and later runs reuse the
features, which are cached on disk.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch

from foldblend.errors import UserError
from foldblend.progress import Task
from foldblend.runs.folder import read_json, write_json
from pipeline.data.augment import describe_augmentation
from pipeline.data.cache import MEMORY_ONLY, Store
from pipeline.data.kept import kept_or_made
from pipeline.engines.forward import Forward, usable_engine
from pipeline.engines.registry import TORCH
from pipeline.fetch import fetched, mark, seconds_between
from pipeline.frozen.feature_cache import fingerprint_of, keys_of, policy_of, store_of
from pipeline.infer import features_of, filled
from pipeline.job import FoldJob
from pipeline.memory import Chunks
from pipeline.models.backbones import build_model
from pipeline.seeding import derive_seed
from tta.views.names import view_of

__all__ = ["Backbone", "Features"]

# File with the measured speed, in the folder of the cached features. Their policy includes the
# device and everything else that the speed depends on.
SPEED = "speed.json"


class Backbone:
    """A model without its linear head, which maps images to features."""

    def __init__(self, job: FoldJob) -> None:
        """Load the backbone; raise UserError if its head is not a single linear layer."""
        name = job.run.config.model.backbone
        # With --pretrained none the weights are random.
        torch.manual_seed(derive_seed("torch", job.run.config.train.seed, 0))
        model: Any = build_model(
            name,
            num_classes=job.run.manifest.num_classes,
            kwargs=job.run.model_kwargs,
            weights=job.run.weights,
        )
        head = model.get_classifier()
        if not isinstance(head, torch.nn.Linear):
            raise UserError(
                f"--finetune head: {name} does not end in one linear layer; pass --finetune full"
            )
        self.head_name = next(path for path, module in model.named_modules() if module is head)
        self.num_features = head.in_features
        model.reset_classifier(0)
        self.model: torch.nn.Module = model.to(
            device=job.compute.device, memory_format=job.compute.memory_format
        ).eval()

    @functools.cached_property
    def state(self) -> dict[str, torch.Tensor]:
        """Weights and buffers, on the CPU."""
        return {
            name: value.detach().cpu().contiguous()
            for name, value in self.model.state_dict().items()
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the weights."""
        return fingerprint_of(self.state)


class Features:
    """Features of a run's images, by view, from the cache or computed."""

    def __init__(self, job: FoldJob, backbone: Backbone) -> None:
        self.job = job
        self.backbone = backbone
        self.num_computed = 0
        self.chunks = Chunks(job.say)
        self.batch_size = job.run.config.infer.validation_batch_size
        machine = job.run.config.machine
        self.engine = usable_engine(job.spec, job.compute.device, job.say)
        self.store = None
        if machine.cache not in MEMORY_ONLY:
            policy = policy_of(
                backbone=job.run.config.model.backbone,
                kwargs=job.run.model_kwargs,
                weights=backbone.fingerprint,
                preprocess=job.run.preprocess.of_pixels(needs_levels=job.run.manifest.needs_levels),
                batch_size=self.batch_size,
                compute=job.compute,
                threads=machine.threads,
                channels_last=machine.channels_last,
                engine=self.engine,
                deterministic=machine.deterministic,
            )
            self.store = store_of(machine.cache_dir, backbone.num_features, policy)
        self.is_warm = False
        # Number and time of images since the speed was last written to the cache.
        self.num_timed = 0
        self.seconds = 0.0

    @functools.cached_property
    def forward(self) -> Forward:
        """The backbone in its engine, which is made when the first features are computed.

        Raises UserError if the engine cannot run it: the cache would have torch's features under
        the engine's name.
        """
        spec = self.job.spec if self.engine != TORCH else None
        made = Forward(self.backbone.model, self.job.run.preprocess, self.job.compute, spec)
        self._check(made)
        return made

    def _check(self, forward: Forward) -> None:
        if forward.problem is not None:
            raise UserError(
                f"--infer-engine {self.engine}: {forward.problem}; pass --infer-engine torch"
                " --no-resume, or another --name"
            )

    @property
    def images_per_s(self) -> float | None:
        """Images per second and view in the backbone, without reading; None if unknown.

        It is measured when features are computed, and stored with them for later runs.
        """
        timed = self._timed()
        return timed["pictures"] / timed["seconds"] if timed["seconds"] else None

    def _timed(self) -> dict[str, float]:
        """Return the number of all images timed so far and their total time in seconds."""
        own = {"pictures": self.num_timed, "seconds": self.seconds}
        if self.store is None:
            return own
        try:
            kept = read_json(self.store.folder / SPEED)
            return {name: value + float(kept[name]) for name, value in own.items()}
        except (LookupError, TypeError, ValueError):
            # The file is missing, damaged or from an earlier version.
            return own

    def _note_speed(self, store: Store) -> None:
        # A failed write loses the speed, but no features.
        with contextlib.suppress(OSError):
            write_json(store.folder / SPEED, self._timed())
            self.num_timed = 0
            self.seconds = 0.0

    def of(self, table: pd.DataFrame, view: str, *, copy: int | None = None) -> np.ndarray:
        """Return N x D float32 features of a table's images.

        Parameters
        ----------
        table
            Rows of the manifest, one per image.
        view
            Name of the view, such as "hflip".
        copy
            Number of an augmented copy, of which features are returned instead; None for the image
            itself.
        """
        if self.store is None:
            return np.concatenate([*self._compute(table, view, copy)])
        config = self.job.run.config
        what = view
        if copy is not None:
            what = (
                f"augment {describe_augmentation(config.augment.augment)} {config.train.seed}"
                f" {copy}"
            )
        keys = keys_of(table, what, named=copy is not None)

        def make(todo: list[int]) -> Iterator[np.ndarray]:
            return self._compute(table.iloc[todo], view, copy)

        def wait() -> None:
            self.job.say("features: waiting for another process that computes them")

        if config.machine.cache == "disk":
            # What was asked for is not left out.
            self.store.fill(keys, make, wait=wait)
        features_ND, is_kept = kept_or_made(self.store, keys, make, say=self.job.say, wait=wait)
        if not is_kept:
            self.store = None
        elif self.num_timed:
            self._note_speed(self.store)
        return features_ND

    @torch.inference_mode()
    def _compute(self, table: pd.DataFrame, view: str, copy: int | None) -> Iterator[np.ndarray]:
        """Yield features batch by batch.

        A short last batch is filled up, because the batch size may change the last bits of the
        features: those of an image must not depend on the other images of the table.
        """
        job = self.job
        compute = self.job.compute
        train = job.run.config.train
        see = view_of(view)

        def forward(images: torch.Tensor) -> torch.Tensor:
            found = features_of(self.forward, images, job.run.preprocess, compute, see)
            self._check(self.forward)
            return found

        loader = (
            job.feeder.rows(table, say=job.say)
            if copy is None
            else job.feeder.copies(table, seed_parts=(train.seed, copy), say=job.say)
        )
        what = f"features, {view}" if copy is None else f"features, augmented copy {copy + 1}"
        passes: deque[tuple[int, int, Any, Any]] = deque()

        def computed() -> Iterator[torch.Tensor]:
            for images, _ in compute.feed(loader):
                num = len(images)
                images = filled(self.forward, images, self.batch_size)
                start = mark(compute)
                features = torch.cat(self.chunks.map(images, forward))[:num]
                passes.append((num, len(images), start, mark(compute)))
                yield features

        with Task(what, len(table), unit="images") as task:
            for features_ND in fetched(compute, computed()):
                num, num_passed, start, end = passes.popleft()
                # The first batch is not timed, since it also prepares the device.
                if self.is_warm:
                    self.num_timed += num_passed
                    self.seconds += seconds_between(start, end)
                self.is_warm = True
                self.num_computed += num
                task.add(num)
                yield features_ND
