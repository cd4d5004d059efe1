"""Batches of uint8 images, in an order derived from seed, fold and epoch."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from foldblend.siblings import rebuild
from pipeline.data.augment import Augment
from pipeline.data.pictures import PictureSource
from pipeline.data.sampling import EpochSampler, Key
from pipeline.seeding import derive_rng, derive_seed

__all__ = [
    "ImageDataset",
    "ResidentLoader",
    "TrainLoader",
    "eval_loader",
    "resident_pixels",
    "resident_train_loader",
    "train_loader",
]

Batch = tuple[torch.Tensor, torch.Tensor]  # N x H x W x 3 uint8, N labels (-1 where unknown)


def _labels(table: pd.DataFrame) -> np.ndarray:
    return table["label"].to_numpy(copy=True) if "label" in table else np.full(len(table), -1)


class ImageDataset(Dataset[Batch]):
    """Batches by a list of (epoch, index, draw): N x H x W x 3 uint8 images and their labels.

    `table` is one of a manifest's: image_id, path, perhaps label, box and content.
    The epoch travels with the index so that workers, which outlive an epoch, need no shared state.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Be rebuilt by foldblend, so that a worker which is started afresh finds our packages
        first.
        """
        return rebuild, (f"{__name__}:{type(self).__name__}", vars(self))

    def __init__(
        self,
        table: pd.DataFrame,
        source: PictureSource,
        *,
        augment: Augment | None = None,
        seed_parts: tuple[int | str, ...] = (),
        random_crop: bool = False,
        whole: bool = False,
    ) -> None:
        self.image_ids = table["image_id"].tolist()
        self.pictures = source.of(table)
        self.labels = _labels(table)
        self.preprocess = source.preprocess
        self.augment = augment
        self.seed_parts = seed_parts
        self.random_crop = random_crop
        self.whole = whole
        """Leave the cropping to the device."""

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, epoch: int, index: int, draw: int = 0) -> np.ndarray:
        """Return one image at the training size (at the stored size where `whole`).

        `draw` is how often it came before in that epoch.
        """
        image = self.pictures[index]
        parts = (*self.seed_parts, epoch, self.image_ids[index], *([draw] if draw else []))
        if self.augment is not None:
            image = self.augment(image, derive_seed("augment", *parts))
        if self.whole:
            return image
        return np.asarray(
            self.preprocess.crop(image, derive_rng("crop", *parts) if self.random_crop else None)
        )

    def __getitem__(self, key: Key) -> Batch:
        return self.__getitems__([key])

    def __getitems__(self, keys: list[Key]) -> Batch:
        """Return a whole batch, written image by image into one array."""
        width, height = (
            self.preprocess.stored_size
            if self.whole
            else (self.preprocess.width, self.preprocess.height)
        )
        images = np.empty((len(keys), height, width, 3), np.uint8)
        for row, key in enumerate(keys):
            images[row] = self.picture(*key)
        return torch.from_numpy(images), torch.from_numpy(
            self.labels[[index for _, index, _ in keys]]
        )


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle


def _as_it_is(batch: Any) -> Any:
    return batch  # the data set makes whole batches


def _loader(
    dataset: ImageDataset,
    sampler: EpochSampler,
    *,
    batch_size: int,
    drop_last: bool,
    workers: int,
    pin: bool,
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
        collate_fn=_as_it_is,
        # Else the loader draws a seed from torch's own generator, more or less often by the number
        # of workers, and dropout would differ with it.
        generator=torch.Generator(),
    )


class TrainLoader:
    """Training batches, which can be entered at any step, and whose rows are known beforehand."""

    def __init__(
        self, batches: Iterable[Batch], sampler: EpochSampler, table: pd.DataFrame, batch_size: int
    ) -> None:
        self.batches = batches
        self.sampler = sampler
        self.image_ids = table["image_id"].to_numpy()
        self.label_N = _labels(table)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return max(1, len(self.sampler) // self.batch_size)  # a short last batch is left out

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def enter(self, epoch: int, step: int) -> None:
        """Have the next iteration show an epoch, from one of its steps on."""
        self.sampler.enter(epoch, step * self.batch_size)

    def rows(self, epoch: int, step: int) -> np.ndarray:
        """Return the rows of the table that make a batch."""
        return self.sampler.order(epoch)[step * self.batch_size : (step + 1) * self.batch_size]

    def labels(self, epoch: int, step: int) -> np.ndarray:
        """Return the labels of a batch."""
        return self.label_N[self.rows(epoch, step)]

    def names(self, epoch: int, step: int) -> list[str]:
        """Return the image ids of a batch."""
        return [str(name) for name in self.image_ids[self.rows(epoch, step)]]


def train_loader(
    dataset: ImageDataset,
    table: pd.DataFrame,
    *,
    batch_size: int,
    workers: int,
    pin: bool = False,
    odds_N: np.ndarray | None = None,
) -> TrainLoader:
    """Return a loader that gives every iteration another epoch's order; a short last batch is left
    out.
    """
    sampler = EpochSampler(len(dataset), dataset.seed_parts, odds_N=odds_N)
    drop_last = len(dataset) > batch_size
    batches = _loader(
        dataset, sampler, batch_size=batch_size, drop_last=drop_last, workers=workers, pin=pin
    )
    return TrainLoader(batches, sampler, table, batch_size)


def eval_loader(dataset: ImageDataset, *, batch_size: int, workers: int, pin: bool = False) -> Any:
    """Return a loader over all rows in their order."""
    return _loader(
        dataset,
        EpochSampler(len(dataset), None),
        batch_size=batch_size,
        drop_last=False,
        workers=workers,
        pin=pin,
    )


def resident_pixels(source: PictureSource, device: torch.device) -> torch.Tensor:
    """Return all images of a run on the device, in the order of `source.rows`."""
    assert source.records is not None
    records = source.records
    pixels = torch.empty((len(records), *records.shape), dtype=torch.uint8, device=device)
    for start in range(0, len(records), 512):
        rows = slice(start, start + 512)
        pixels[rows].copy_(torch.from_numpy(records.take(rows)))
    return pixels


class ResidentLoader:
    """Batches gathered from images that lie on the device already, in a sampler's order."""

    def __init__(
        self,
        table: pd.DataFrame,
        source: PictureSource,
        pixels: torch.Tensor,
        *,
        batch_size: int,
        sampler: EpochSampler | None = None,
    ) -> None:
        """With a `sampler` for training: whole images; else all in order, cropped to the
        centre.
        """
        self.pixels = pixels
        self.preprocess = source.preprocess
        self.rows = torch.from_numpy(source.rows(table)).to(pixels.device)
        self.labels = torch.from_numpy(_labels(table)).to(pixels.device)
        self.batch_size = batch_size
        self.train = sampler is not None
        self.sampler = sampler or EpochSampler(len(table))

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order = torch.from_numpy(self.sampler.rest()[1]).to(self.rows.device)
        drop_last = self.train and len(self.rows) > self.batch_size
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            if drop_last and len(chosen) < self.batch_size:
                return
            images = self.pixels[self.rows[chosen]]
            yield (images if self.train else self.preprocess.crop(images)), self.labels[chosen]


def resident_train_loader(
    table: pd.DataFrame,
    source: PictureSource,
    pixels: torch.Tensor,
    *,
    batch_size: int,
    seed_parts: tuple[int, ...],
    odds_N: np.ndarray | None = None,
) -> TrainLoader:
    """Return `train_loader`'s counterpart for images that lie on the device: the same rows in the
    same order.
    """
    sampler = EpochSampler(len(table), seed_parts, odds_N=odds_N)
    batches = ResidentLoader(table, source, pixels, batch_size=batch_size, sampler=sampler)
    return TrainLoader(batches, sampler, table, batch_size)
