"""Data sets and loaders: batches of uint8 images, ordered by seed, fold and epoch."""

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
from pipeline.data.images import ImageSource
from pipeline.data.parts import WHOLE, Part, PartBatches
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

# Images N x H x W x 3 uint8, and labels N, which are -1 where unknown.
Batch = tuple[torch.Tensor, torch.Tensor]


def _labels(table: pd.DataFrame) -> np.ndarray:
    return table["label"].to_numpy(copy=True) if "label" in table else np.full(len(table), -1)


class ImageDataset(Dataset[Batch]):
    """Images of a table, in batches: a list of (epoch, index, draw) gives images and labels.

    The epoch is a part of the index, so that workers, which live longer than an epoch, need no
    shared state.

    Parameters
    ----------
    table
        Table of a manifest: image_id, path, and optionally label, box and content.
    source
        The run's images.
    augment
        Augmentation of single images, None for none.
    seed_parts
        What the seeds of augmentation and random crops are derived from.
    random_crop
        Crop at a random place instead of the centre.
    whole
        Do not crop, since the device does it.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Let foldblend rebuild the copy, so that a new worker process finds our packages first."""
        return rebuild, (f"{__name__}:{type(self).__name__}", vars(self))

    def __init__(
        self,
        table: pd.DataFrame,
        source: ImageSource,
        *,
        augment: Augment | None = None,
        seed_parts: tuple[int | str, ...] = (),
        random_crop: bool = False,
        whole: bool = False,
    ) -> None:
        self.image_ids = table["image_id"].tolist()
        self.images = source.of(table)
        self.labels = _labels(table)
        self.preprocess = source.preprocess
        self.augment = augment
        self.seed_parts = seed_parts
        self.random_crop = random_crop
        self.whole = whole

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def _size(self) -> tuple[int, int]:
        """Width and height of the images."""
        preprocess = self.preprocess
        return preprocess.stored_size if self.whole else (preprocess.width, preprocess.height)

    @property
    def image_bytes(self) -> int:
        """Bytes of an image in a batch."""
        width, height = self._size
        return width * height * 3

    def image(self, epoch: int, index: int, draw: int = 0) -> np.ndarray:
        """Return one image at the training size, or at the stored size with `whole`.

        `draw` is how often the epoch has shown the image before.
        """
        image = self.images[index]
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
        """Return a batch, whose images are written directly into one array."""
        width, height = self._size
        images = np.empty((len(keys), height, width, 3), np.uint8)
        for row, key in enumerate(keys):
            images[row] = self.image(*key)
        return torch.from_numpy(images), torch.from_numpy(
            self.labels[[index for _, index, _ in keys]]
        )


def _start_worker(_: int) -> None:
    # There are several worker processes, so each works with a single thread.
    cv2.setNumThreads(0)
    # The parent process handles Ctrl-C and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _identity(batch: Any) -> Any:
    """Return the batch unchanged, since `ImageDataset` has collated it."""
    return batch


def _loader(
    dataset: ImageDataset,
    sampler: EpochSampler,
    *,
    batch_size: int,
    drop_last: bool,
    workers: int,
    prefetch: int | None,
    pin: bool,
    part: Part = WHOLE,
    split: int | None = None,
) -> Any:
    order: dict[str, Any] = {
        "batch_size": batch_size,
        "sampler": sampler,
        "drop_last": drop_last,
    }
    if part.size > 1:
        batches = PartBatches(sampler, batch_size, part, drop_last=drop_last, split=split)
        order = {"batch_sampler": batches}
    return DataLoader(
        dataset,
        **order,
        num_workers=workers,
        prefetch_factor=prefetch,
        pin_memory=pin,
        persistent_workers=workers > 0,
        worker_init_fn=_start_worker,
        collate_fn=_identity,
        # Without a generator, the loader draws seeds from torch's global one. The number of draws
        # depends on the number of workers, and so would dropout.
        generator=torch.Generator(),
    )


class TrainLoader:
    """Training batches that can start at any step, and whose rows are known in advance."""

    def __init__(
        self,
        batches: Iterable[Batch],
        sampler: EpochSampler,
        table: pd.DataFrame,
        batch_size: int,
        share_NC: np.ndarray | None = None,
    ) -> None:
        """Take batches of a table's rows; `share_NC` are shares of classes to learn, if not one."""
        self.batches = batches
        self.sampler = sampler
        self.image_ids = table["image_id"].to_numpy()
        self.label_N = _labels(table)
        self.batch_size = batch_size
        self.share_NC = share_NC

    def __len__(self) -> int:
        # The last batch is left out if it is short.
        return max(1, len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def enter(self, epoch: int, step: int) -> None:
        """Start the next iteration in this epoch, at this step of it."""
        self.sampler.enter(epoch, step * self.batch_size)

    def rows(self, epoch: int, step: int) -> np.ndarray:
        """Return the rows of the table in a batch."""
        return self.sampler.order(epoch)[step * self.batch_size : (step + 1) * self.batch_size]

    def labels(self, epoch: int, step: int) -> np.ndarray:
        """Return the labels of a batch."""
        return self.label_N[self.rows(epoch, step)]

    def shares(self, epoch: int, step: int) -> np.ndarray | None:
        """Return the shares of classes of a batch, N x C; None where rows have one class each."""
        return None if self.share_NC is None else self.share_NC[self.rows(epoch, step)]

    def names(self, epoch: int, step: int) -> list[str]:
        """Return the image ids of a batch."""
        return [str(name) for name in self.image_ids[self.rows(epoch, step)]]


def train_loader(
    dataset: ImageDataset,
    table: pd.DataFrame,
    *,
    batch_size: int,
    workers: int,
    prefetch: int | None = None,
    pin: bool = False,
    odds_N: np.ndarray | None = None,
    share_NC: np.ndarray | None = None,
    part: Part = WHOLE,
    split: int | None = None,
) -> TrainLoader:
    """Return a loader whose every iteration is an epoch; a short last batch is left out.

    Each of the `workers` loads `prefetch` batches ahead (None: as many as torch chooses). `odds_N`
    are the probabilities of the rows (see `pipeline.data.sampling.row_odds`), and `share_NC` the
    shares of classes that they learn, if that is not one class. Of each forward pass of `split`
    images (None: a batch), the `part` of this process is loaded.
    """
    sampler = EpochSampler(len(dataset), dataset.seed_parts, odds_N=odds_N)
    drop_last = len(dataset) > batch_size
    batches = _loader(
        dataset,
        sampler,
        batch_size=batch_size,
        drop_last=drop_last,
        workers=workers,
        prefetch=prefetch,
        pin=pin,
        part=part,
        split=split or batch_size,
    )
    return TrainLoader(batches, sampler, table, batch_size, share_NC)


def eval_loader(
    dataset: ImageDataset,
    *,
    batch_size: int,
    workers: int,
    prefetch: int | None = None,
    pin: bool = False,
    part: Part = WHOLE,
) -> Any:
    """Return a loader over all rows in the table's order, or over the whole batches of a part."""
    return _loader(
        dataset,
        EpochSampler(len(dataset), None),
        batch_size=batch_size,
        drop_last=False,
        workers=workers,
        prefetch=prefetch,
        pin=pin,
        part=part,
    )


def resident_pixels(source: ImageSource, device: torch.device) -> torch.Tensor:
    """Return all images of a run on the device, in the order of `source.rows`.

    They are copied in parts, so that no second copy of all images is needed in RAM.
    """
    assert source.records is not None
    records = source.records
    pixels = torch.empty((len(records), *records.shape), dtype=torch.uint8, device=device)
    for start in range(0, len(records), 512):
        rows = slice(start, start + 512)
        pixels[rows].copy_(torch.from_numpy(records.take(rows)))
    return pixels


class ResidentLoader:
    """Batches gathered from images that are already on the device, in a sampler's order."""

    def __init__(
        self,
        table: pd.DataFrame,
        source: ImageSource,
        pixels: torch.Tensor,
        *,
        batch_size: int,
        sampler: EpochSampler | None = None,
        part: Part = WHOLE,
        split: int | None = None,
    ) -> None:
        """Take training rows and whole images with a `sampler`, else all rows and centre crops.

        `part` and `split` are those of `train_loader` and `eval_loader`.
        """
        self.pixels = pixels
        self.preprocess = source.preprocess
        self.rows = torch.from_numpy(source.rows(table)).to(pixels.device)
        self.labels = torch.from_numpy(_labels(table)).to(pixels.device)
        self.batch_size = batch_size
        self.train = sampler is not None
        self.sampler = sampler or EpochSampler(len(table))
        self.part = part
        self.split = split or batch_size

    def __len__(self) -> int:
        num = -(-len(self.rows) // self.batch_size)
        return num if self.train else len(range(self.part.rank, num, self.part.size))

    def __iter__(self) -> Iterator[Batch]:
        order = torch.from_numpy(self.sampler.rest()[1]).to(self.rows.device)
        drop_last = self.train and len(self.rows) > self.batch_size
        for number, start in enumerate(range(0, len(order), self.batch_size)):
            chosen = order[start : start + self.batch_size]
            if drop_last and len(chosen) < self.batch_size:
                return
            if self.part.size > 1 and self.train:
                own_N = self.part.rows(len(chosen), self.split)
                chosen = chosen[torch.from_numpy(own_N).to(chosen.device)]
            elif number % self.part.size != self.part.rank:
                continue
            images = self.pixels[self.rows[chosen]]
            yield (images if self.train else self.preprocess.crop(images)), self.labels[chosen]


def resident_train_loader(
    table: pd.DataFrame,
    source: ImageSource,
    pixels: torch.Tensor,
    *,
    batch_size: int,
    seed_parts: tuple[int, ...],
    odds_N: np.ndarray | None = None,
    share_NC: np.ndarray | None = None,
    part: Part = WHOLE,
    split: int | None = None,
) -> TrainLoader:
    """Return a loader with the rows and order of `train_loader`, for images on the device."""
    sampler = EpochSampler(len(table), seed_parts, odds_N=odds_N)
    batches = ResidentLoader(
        table, source, pixels, batch_size=batch_size, sampler=sampler, part=part, split=split
    )
    return TrainLoader(batches, sampler, table, batch_size, share_NC)
