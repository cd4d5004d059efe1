"""Choice of a run's loaders: worker processes that read images, or images on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from foldblend.cli import Say
from foldblend.streams import print_aside
from pipeline.config.resolved import ResolvedConfig
from pipeline.data.augment import Augment, build_augmentation
from pipeline.data.dataset import (
    ImageDataset,
    ResidentLoader,
    TrainLoader,
    eval_loader,
    resident_pixels,
    resident_train_loader,
    train_loader,
)
from pipeline.data.device_augment import DeviceAugmentation, device_augmentation
from pipeline.data.images import ImageSource
from pipeline.data.parts import WHOLE, Part
from pipeline.data.prefetch import free_shared_memory, plan_ahead
from pipeline.data.sampling import row_odds
from pipeline.device import Compute

__all__ = ["Feeder"]


class Feeder:
    """Maker of the loaders of a run, shared by all its folds."""

    def __init__(
        self,
        config: ResolvedConfig,
        source: ImageSource,
        compute: Compute,
        *,
        pixels: torch.Tensor | None = None,
    ) -> None:
        """Take the images from `source`, or from `pixels` if they are on the device already."""
        self.config = config
        self.source = source
        self.compute = compute
        self._is_said = False
        self._pixels = pixels

    def __getstate__(self) -> dict[str, Any]:
        # The device memory of this process is not usable in another one.
        return self.__dict__ | {"_pixels": None}

    @property
    def device_augmentation(self) -> DeviceAugmentation | None:
        """Augmentation that the training step applies to batches; None if the workers augment."""
        if self.config.machine.augment_on != "device":
            return None
        return device_augmentation(
            self.config.augment.augment, self.source.preprocess, self.compute.memory_format
        )

    def _resident(self) -> torch.Tensor:
        if self._pixels is None:
            self._pixels = resident_pixels(self.source, self.compute.device)
        return self._pixels

    def train(
        self,
        table: pd.DataFrame,
        *,
        seed_parts: tuple[int, ...],
        share_NC: np.ndarray | None = None,
        say: Say = print_aside,
        part: Part = WHOLE,
    ) -> TrainLoader:
        """Return training batches, with a new order and new augmentation in each epoch.

        A batch has the images of one step (several forward passes with --grad-accum-steps). Images
        are whole, at the stored size, if the device augments them. `share_NC` are the shares of
        classes that the rows learn, None where each learns its label. Of each batch, the `part`
        of this process is loaded.
        """
        train = self.config.train
        shape: Any = {
            "batch_size": train.batch_size * train.grad_accum_steps,
            "odds_N": row_odds(table, self.config.loss),
            "share_NC": share_NC,
            "part": part,
            "split": train.batch_size,
        }
        on_device = self.device_augmentation is not None
        if on_device and self.source.mode == "device":
            return resident_train_loader(
                table, self.source, self._resident(), seed_parts=seed_parts, **shape
            )
        dataset = ImageDataset(
            table,
            self.source,
            augment=None if on_device else build_augmentation(self.config.augment.augment),
            seed_parts=seed_parts,
            random_crop=not on_device,
            whole=on_device,
        )
        return train_loader(
            dataset, table, **self._ahead(dataset, shape["batch_size"], say), **shape
        )

    def rows(self, table: pd.DataFrame, *, say: Say = print_aside, part: Part = WHOLE) -> Any:
        """Return batches of all images of a table, in its order, as centre crops.

        They are the whole batches of a `part`, if this process has one of the table.
        """
        size = self.config.infer.validation_batch_size
        if self.source.mode == "device":
            return ResidentLoader(table, self.source, self._resident(), batch_size=size, part=part)
        dataset = ImageDataset(table, self.source)
        return eval_loader(dataset, batch_size=size, part=part, **self._ahead(dataset, size, say))

    def copies(
        self,
        table: pd.DataFrame,
        *,
        seed_parts: tuple[int | str, ...],
        say: Say = print_aside,
    ) -> Any:
        """Return batches of augmented copies of a table's images, in its order.

        The workers augment them, also where the device would augment training batches.
        """
        augment = build_augmentation(self.config.augment.augment)
        return self.augmented(table, augment, seed_parts=seed_parts, random_crop=True, say=say)

    def augmented(
        self,
        table: pd.DataFrame,
        augment: Augment | None,
        *,
        seed_parts: tuple[int | str, ...],
        random_crop: bool,
        say: Say = print_aside,
    ) -> Any:
        """Return batches of a table's images, augmented by the workers, in the table's order."""
        size = self.config.infer.validation_batch_size
        dataset = ImageDataset(
            table, self.source, augment=augment, seed_parts=seed_parts, random_crop=random_crop
        )
        return eval_loader(dataset, batch_size=size, **self._ahead(dataset, size, say))

    def _ahead(self, dataset: ImageDataset, size: int, say: Say) -> dict[str, Any]:
        """Return how many processes load how many batches of `size` images ahead."""
        machine = self.config.machine
        ahead = plan_ahead(
            machine.workers,
            batch_bytes=min(size, len(dataset)) * dataset.image_bytes,
            free=free_shared_memory(),
            sharing=int(machine.parallel_folds) if machine.parallel_folds.isdecimal() else 1,
        )
        if ahead.note is not None and not self._is_said:
            say(ahead.note)
            self._is_said = True
        return {
            "workers": ahead.workers,
            "prefetch": ahead.batches,
            "pin": self.compute.is_cuda,
        }
