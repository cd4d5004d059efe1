"""Features of a frozen backbone: each image passes through it once, for all folds, heads and
later runs.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from foldblend.errors import UserError
from foldblend.images import boxes_of, picture_key
from foldblend.runs.environment import processor
from foldblend.runs.folder import read_json, write_json
from pipeline.data.augment import albumentations, describe_augmentation
from pipeline.data.cache import MEMORY_ONLY, Store, cache_root
from pipeline.data.pictures import PICTURES_VERSION
from pipeline.job import FoldJob
from pipeline.models.backbones import build_model
from pipeline.models.timm_import import timm
from pipeline.seeding import derive_seed
from tta.views.names import VIEWS_VERSION, view_of

__all__ = ["Backbone", "Features"]

SPEED = (  # beside the records: their policy names the device and all else that speed depends on
    "speed.json"
)


class Backbone:
    """A model without its linear head: images -> features."""

    def __init__(self, job: FoldJob) -> None:
        """Raises UserError for an architecture whose head is not one linear layer."""
        name = job.run.config.model.backbone
        torch.manual_seed(
            derive_seed("torch", job.run.config.train.seed, 0)
        )  # for --pretrained none
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
        digest = hashlib.blake2b(digest_size=16)
        for name, value in sorted(self.state.items()):
            digest.update(name.encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


class Features:
    """Features of a run's images, by view; computed where they are not kept from before."""

    def __init__(self, job: FoldJob, backbone: Backbone) -> None:
        self.job = job
        self.backbone = backbone
        self.num_computed = 0
        self.batch_size = job.run.config.infer.validation_batch_size
        machine = job.run.config.machine
        self.store = None
        if machine.cache not in MEMORY_ONLY:
            # All that may change a feature in its last bit.
            policy = {
                "backbone": job.run.config.model.backbone,
                "kwargs": {key: str(value) for key, value in job.run.model_kwargs.items()},
                "weights": backbone.fingerprint,
                "pictures": PICTURES_VERSION,
                "preprocess": job.run.preprocess.to_dict(),
                "batch_size": self.batch_size,
                "device": (
                    torch.cuda.get_device_name(job.compute.device)
                    if job.compute.is_cuda
                    else processor()
                ),
                "amp_dtype": str(job.compute.amp_dtype),
                "threads": machine.threads,
                "channels_last": machine.channels_last,
                "views": VIEWS_VERSION,
                "versions": [one.__version__ for one in (torch, timm, cv2, np, albumentations)],
            }
            self.store = Store.at(
                cache_root(machine.cache_dir) / "features",
                (backbone.num_features,),
                "float32",
                policy,
            )
        self.is_warm = False
        # not yet noted beside the records
        self.num_timed = 0
        self.seconds = 0.0

    @property
    def images_per_s(self) -> float | None:
        """Images in a view that pass through the backbone in a second, reading left out; None
        where not known.

        It is measured when features are computed, and kept beside them for runs that find them
        there.
        """
        timed = self._timed()
        return timed["pictures"] / timed["seconds"] if timed["seconds"] else None

    def _timed(self) -> dict[str, float]:
        """Return how many images were ever timed, and their seconds."""
        own = {"pictures": self.num_timed, "seconds": self.seconds}
        if self.store is None:
            return own
        try:
            kept = read_json(self.store.folder / SPEED)
            return {name: value + float(kept[name]) for name, value in own.items()}
        except (LookupError, TypeError, ValueError):  # of an earlier version, or broken
            return own

    def _note_speed(self, store: Store) -> None:
        with contextlib.suppress(OSError):  # no feature is lost with it
            write_json(store.folder / SPEED, self._timed())
            self.num_timed = 0
            self.seconds = 0.0

    def of(self, table: pd.DataFrame, view: str, *, copy: int | None = None) -> np.ndarray:
        """Return N x D float32 features of a table's images seen in a view, or of their augmented
        `copy`.
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
        keys = []
        for image, content, box in zip(
            table["image_id"], table["content"], boxes_of(table), strict=True
        ):
            own = f"{what} {image}" if copy is not None else what  # augmentation is drawn by name
            keys.append(
                hashlib.blake2b(picture_key(content, box) + own.encode(), digest_size=16).digest()
            )
        self.store.fill(
            keys,
            lambda todo: self._compute(table.iloc[todo], view, copy),
            wait=lambda: self.job.say(
                "features: another process is computing the same; waiting for it"
            ),
        )
        if self.num_timed:
            self._note_speed(self.store)
        return self.store.records(keys).take(slice(None))

    @torch.inference_mode()
    def _compute(self, table: pd.DataFrame, view: str, copy: int | None) -> Iterator[np.ndarray]:
        """Yield features batch by batch; a short last batch is filled up, so that an image's
        company is no matter.
        """
        job = self.job
        compute = self.job.compute
        train = job.run.config.train
        see = view_of(view)
        loader = (
            job.feeder.rows(table)
            if copy is None
            else job.feeder.copies(table, seed_parts=(train.seed, copy))
        )
        desc = f"features, {view}" if copy is None else f"features, augmented copy {copy + 1}"
        with tqdm(total=len(table), desc=desc, unit="image", disable=None, leave=False) as bar:
            for images, _ in compute.feed(loader):
                start = time.perf_counter()
                num = len(images)
                if num < self.batch_size:
                    images = torch.cat(
                        [images, images[-1:].expand(self.batch_size - num, -1, -1, -1)]
                    )
                seen = see(
                    images.permute(0, 3, 1, 2).float()
                )  # views are of raw pixels, as in predict
                pixels = job.run.preprocess.standardise(seen).contiguous(
                    memory_format=compute.memory_format
                )
                with compute.autocast():
                    features = self.backbone.model(pixels).float()
                found = features[:num].cpu().numpy()
                if self.is_warm:  # the first batch also prepares the device
                    self.num_timed += len(images)
                    self.seconds += time.perf_counter() - start
                self.is_warm = True
                self.num_computed += num
                bar.update(num)
                yield found
