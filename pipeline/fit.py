"""Training of one fold: a fixed number of epochs, then the last or the averaged weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from folds.errors import UserError
from pipeline.backends import timm
from pipeline.config import TrainConfig
from pipeline.device import Compute
from pipeline.optim import build_optimizer, build_scheduler
from pipeline.preprocess import Preprocess
from pipeline.seeding import derive_rng

__all__ = ["Epoch", "train_epochs"]


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch did; `model` is the one that would be scored now (the EMA where there is one)."""

    index: int
    train_loss: float
    lr: float
    seconds: float
    images: int
    model: torch.nn.Module


def train_epochs(
    model: torch.nn.Module,
    loader: Any,
    config: TrainConfig,
    preprocess: Preprocess,
    compute: Compute,
    *,
    augment: Callable[[torch.Tensor, np.random.Generator], torch.Tensor] | None = None,
    seed_parts: tuple[int, ...] = (),
    progress: Callable[..., Any] = tqdm,
) -> Iterator[Epoch]:
    """Train the model in place and yield after every epoch.

    The number of epochs is fixed beforehand: no row that is scored has a say in when to stop.
    `augment` works on batches on the device, drawn by `seed_parts`, epoch and step.
    """
    assert config.epochs is not None
    optimizer = build_optimizer(model, config, fused=compute.is_cuda)
    scheduler = build_scheduler(optimizer, config, steps_per_epoch=len(loader))
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=config.smoothing)
    scaler = compute.scaler()
    ema = timm.utils.ModelEmaV3(model, decay=config.model_ema_decay, use_warmup=True) if config.model_ema else None
    # Shares the weights; the model itself stays as it is for inference, whose batches vary in size.
    forward = torch.compile(model) if compute.compile else model
    for epoch in range(config.epochs):
        model.train()
        start, images_seen = time.perf_counter(), 0
        losses = torch.zeros((), device=compute.device)  # summed there: reading it out would stall the GPU
        lr = optimizer.param_groups[0]["lr"]
        bar = progress(loader, desc=f"epoch {epoch + 1}/{config.epochs}", leave=False, disable=None)
        for step, (images, labels) in enumerate(compute.feed(bar)):
            pixels = images.permute(0, 3, 1, 2).float()
            if augment is not None:
                pixels = augment(pixels, derive_rng("augment", *seed_parts, epoch, step))
            pixels = preprocess.standardise(pixels).contiguous(memory_format=compute.memory_format)
            with compute.autocast():
                loss = criterion(forward(pixels), labels)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            if config.clip_grad is not None:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad)
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            if ema is not None:
                ema.update(model, step=scheduler.last_epoch)  # counted from 1: the decay warms up
            losses += loss.detach() * len(images)
            images_seen += len(images)
        mean_loss = float(losses) / images_seen
        if not math.isfinite(mean_loss):
            raise UserError(
                f"--lr {config.lr:g}: the loss of epoch {epoch + 1} is not finite; lower it or pass --clip-grad 1"
            )
        seconds = time.perf_counter() - start
        scored = model if ema is None else ema.module
        yield Epoch(epoch, mean_loss, lr, seconds, images_seen, scored)
