"""Pictures as uint8 tensors, in an order derived from seed, fold and epoch."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from folds.images import boxes_of
from pipeline.augment import Augmentation
from pipeline.preprocess import Preprocess
from pipeline.seeding import derive_rng, derive_seed

__all__ = ["ImageDataset", "eval_loader", "train_loader"]

Key = tuple[int, int]


class ImageDataset(Dataset[tuple[torch.Tensor, int]]):
    """Items by (epoch, index): a height x width x 3 uint8 tensor and its label (-1 where unknown).

    `table` is one of a manifest's: image_id, path, perhaps label and box.
    The epoch travels with the index so that workers, which outlive an epoch, need no shared state.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        preprocess: Preprocess,
        *,
        augment: Augmentation | None = None,
        seed_parts: tuple[int, ...] = (),
    ) -> None:
        self.image_ids = table["image_id"].tolist()
        self.paths = table["path"].tolist()
        self.boxes = boxes_of(table)
        self.labels = table["label"].to_numpy() if "label" in table else np.full(len(table), -1)
        self.preprocess = preprocess
        self.augment = augment
        self.seed_parts = seed_parts

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: Key) -> tuple[torch.Tensor, int]:
        epoch, index = key
        image = self.preprocess.load(self.paths[index], self.boxes[index])
        if self.augment is not None:
            image = self.augment(image, derive_seed("augment", *self.seed_parts, epoch, self.image_ids[index]))
        return torch.from_numpy(np.ascontiguousarray(image)), int(self.labels[index])


class _EpochSampler(Sampler[Key]):
    """(epoch, index) pairs: shuffled anew each epoch, or in order where there is no seed."""

    def __init__(self, num_rows: int, seed_parts: tuple[int, ...] | None) -> None:
        self.num_rows = num_rows
        self.seed_parts = seed_parts
        self.epoch = -1

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[Key]:
        self.epoch += 1
        order = np.arange(self.num_rows)
        if self.seed_parts is not None:
            order = derive_rng("order", *self.seed_parts, self.epoch).permutation(self.num_rows)
        return iter([(self.epoch, int(index)) for index in order])


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle


def _loader(
    dataset: ImageDataset, sampler: _EpochSampler, *, batch_size: int, drop_last: bool, workers: int, pin: bool
) -> Any:
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=workers > 0,
        worker_init_fn=_start_worker,
        # Else the loader draws a seed from torch's own generator, more or less often by the number of
        # workers, and dropout would differ with it.
        generator=torch.Generator(),
    )


def train_loader(dataset: ImageDataset, *, batch_size: int, workers: int, pin: bool = False) -> Any:
    """Return a loader that gives every iteration another epoch's order; a short last batch is left out."""
    sampler = _EpochSampler(len(dataset), dataset.seed_parts)
    return _loader(
        dataset, sampler, batch_size=batch_size, drop_last=len(dataset) > batch_size, workers=workers, pin=pin
    )


def eval_loader(dataset: ImageDataset, *, batch_size: int, workers: int, pin: bool = False) -> Any:
    """Return a loader over all rows in their order."""
    return _loader(
        dataset, _EpochSampler(len(dataset), None), batch_size=batch_size, drop_last=False, workers=workers, pin=pin
    )
