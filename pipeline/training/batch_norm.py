"""Statistics of batch norm: computed anew, or of the images of several processes."""

from __future__ import annotations

import pandas as pd
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.job import TrainingJob
from pipeline.memory import Chunks
from pipeline.models.backbones import start_training
from pipeline.models.timm_import import timm
from pipeline.training.batch_pixels import BatchPixels

__all__ = ["renew_batch_norm", "with_synced_norm"]


def with_synced_norm(model: torch.nn.Module) -> torch.nn.Module:
    """Return a model whose batch norm has the statistics of all processes of the group.

    It has the parameters of `model` under the same names. Only CUDA can train it.
    """
    converted: torch.nn.Module = timm.layers.convert_sync_batchnorm(model)
    return converted


@torch.no_grad()
def renew_batch_norm(
    model: torch.nn.Module, job: TrainingJob, table: pd.DataFrame, seed_parts: tuple[int, ...]
) -> None:
    """Compute the statistics of batch norm anew, in one pass over training images.

    A mean of weights has other activations than the models it is the mean of, so their statistics
    do not fit it (Izmailov et al. 2018: Averaging Weights Leads to Wider Optima and Better
    Generalization). Layers that are not trained keep theirs.

    Parameters
    ----------
    model
        The model, which is changed and left in evaluation mode.
    job
        The job, with the images and their augmentation.
    table
        The training rows.
    seed_parts
        What the order and the augmentation of the images are derived from.
    """
    start_training(model)
    layers = [one for one in model.modules() if isinstance(one, _BatchNorm) and one.training]
    model.eval()
    layers = [one for one in layers if one.running_mean is not None]
    if not layers:
        return
    momenta = [one.momentum for one in layers]
    for layer in layers:
        layer.train()
        layer.reset_running_stats()
        # None is the mean over all batches.
        layer.momentum = None
    loader = job.feeder.train(table, seed_parts=seed_parts, say=job.say)
    loader.enter(0, 0)
    pixels = BatchPixels(job.run.preprocess, job.feeder.device_augmentation, None, 0.0)
    chunks = Chunks(job.say, most=job.limits.chunk)

    def forward(images: torch.Tensor) -> torch.Tensor:
        with job.compute.autocast():
            found: torch.Tensor = model(images.contiguous(memory_format=job.compute.memory_format))
        return found

    for step, (images, labels) in enumerate(job.compute.feed(loader)):
        batch, _ = pixels(images, labels, None, (*seed_parts, 0, step))
        chunks.map(batch, forward)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()
